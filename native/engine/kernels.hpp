// Which kernels a machine runs: one table an instruction set, all with the integers of the portable one.
//
// How to add an instruction set: (1) one file kernels/<isa>.cpp, compiled with its own flags (CMakeLists.txt), that
// defines a `Kernels`; (2) one line in `all_kernels` (dispatch.cpp), the best last; (3) the tests run over the list.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "engine/plan.hpp"

namespace dyadiq::engine {

// Real values of an input: float32 or float64, [C, H, W].
struct Input {
    const float* f32 = nullptr;
    const double* f64 = nullptr;
};

struct Kernels {
    std::string_view name;
    bool (*supported)();       // by this machine
    double (*measure_peak)();  // products a second in one thread, of registers alone; 0 where that says nothing
    void (*conv_packed)(const Conv& step, std::uint8_t* arena);
    void (*conv_depthwise)(const Conv& step, std::uint8_t* arena);
    bool (*quantize)(const Quantize& step, const Input& input, std::uint8_t* arena);  // false: NaN or infinity
    void (*join)(const Join& step, std::uint8_t* arena);
    void (*max_pool)(const MaxPool& step, std::uint8_t* arena);
    void (*sum_pool)(const SumPool& step, std::uint8_t* arena);
};

extern const Kernels kPortable;
#ifdef DYADIQ_X86
extern const Kernels kAvx512Vnni;
#endif

std::span<const Kernels* const> all_kernels();

// The best that this machine supports, or the one named by the environment variable DYADIQ_ISA; null where that is
// unknown or not supported.
const Kernels* choose_kernels();
const Kernels* find_kernels(std::string_view name);

}  // namespace dyadiq::engine
