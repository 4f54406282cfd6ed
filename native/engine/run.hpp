// Runs a checked plan on one sample. No heap, no lock, no exception; all memory is the caller's, and so are threads. One
// thread makes no system call (but for the clock, when steps are timed); several sleep in the kernel where they wait for
// each other for long. Every step is cut into a share for each thread; the integers do not depend on how many there are.
//
// Weights, as dyadiq.engine.layout writes them:
//   packed      int8, int4, int2 or bipolar [group][block of 16 outputs][tap][group of quads of 4 inputs][16][4][quad];
//               bias and dyadics in the same order
//   sparse      int8 [quad][16][4], and which quads of each block they are
//   depthwise   int8 [tap][channel]
//   generic     int32 [output][tap][input of the group]
//   codebook    uint4 [block of 16 outputs][pair of quads, of all taps][16][4][quad], and int8 [16]
//   binary      int32 [block of 16 outputs][tap][word of 32 inputs][16]; bias and dyadics in the same order
#pragma once

#include <cstdint>
#include <span>

#include "engine/kernels.hpp"
#include "engine/plan.hpp"
#include "engine/threads.hpp"

namespace dyadiq::engine {

// Is told of every step when all of it is done, in the thread of the caller of `run`.
struct Observer {
    void (*call)(void* context, std::size_t step, std::int64_t nanoseconds);
    void* context;
    std::int32_t times = 1;  // that every step runs and is told of: what it reads is near from the second time on
};

// Run all steps. `arena` is aligned to 64 bytes and has `plan.arena_bytes`; outputs are int32 [C, H, W].
// Returns false, with nothing meaningful in the outputs, where an input is NaN or infinite. `pool`: null
// runs in the caller's thread alone. `observer`: null for none.
bool run(const Plan& plan, const Kernels& kernels, std::uint8_t* arena, std::span<const Input> inputs,
         std::span<std::int32_t* const> outputs, ThreadPool* pool = nullptr, const Observer* observer = nullptr);

// The tensor that a step writes; null: it writes margins only.
const Tensor* written(const Step& step);
std::int64_t n_codes(const Step& step);  // of that tensor
// Copy them out of the arena, [C, H, W]; right behind the step, since later ones use the same memory.
void read_codes(const Step& step, const std::uint8_t* arena, std::int32_t* codes);

// (code - zero point) * scale of one sample; false: there is no scale.
bool real_values(const Output& output, const std::int32_t* codes, float* values);

// Products of a step, as the program has them: no padding of channels (but of bits to words), but that of planes.
std::int64_t macs(const Step& step);

}  // namespace dyadiq::engine
