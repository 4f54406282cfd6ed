// Runs a checked plan on one sample. No heap, no lock, no system call, no exception; all memory is the caller's.
//
// Weights, as dyadiq.engine.layout writes them:
//   packed      int8 [group][block of 16 outputs][tap][quad of 4 inputs][16][4]; bias and dyadics in the same order
//   depthwise   int8 [tap][channel]
//   generic     int32 [output][tap][input of the group]
#pragma once

#include <cstdint>
#include <span>

#include "engine/kernels.hpp"
#include "engine/plan.hpp"

namespace dyadiq::engine {

// Run all steps. `arena` is aligned to 64 bytes and has `plan.arena_bytes`; outputs are int32 [C, H, W].
// Returns false, with nothing meaningful in the outputs, where an input is NaN or infinite. Where `step_ns` is not empty,
// it gets the nanoseconds that each step took.
bool run(const Plan& plan, const Kernels& kernels, std::uint8_t* arena, std::span<const Input> inputs,
         std::span<std::int32_t* const> outputs, std::span<std::int64_t> step_ns = {});

// Products of a step, as the program has them: no padding of channels, but that of planes.
std::int64_t macs(const Step& step);

}  // namespace dyadiq::engine
