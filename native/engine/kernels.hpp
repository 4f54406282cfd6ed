// Which kernels a machine runs: one table an instruction set, all with the integers of the portable one.
//
// How to add an instruction set: (1) one file kernels/<isa>.cpp, compiled with its own flags (engine/CMakeLists.txt), that
// defines a `Kernels`; (2) one line in `all_kernels` (dispatch.cpp), the best last; (3) the tests run over the list.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "engine/operators.hpp"
#include "engine/plan.hpp"

namespace dyadiq::engine {

// Real values of an input: float32 or float64, [C, H, W].
struct Input {
    const float* f32 = nullptr;
    const double* f64 = nullptr;
};

// One of `count` shares of a step; shares run in any order or at once, each in a thread. What they are shares of, the
// kernel says: together they do all of it, no two the same, and none uses what another writes (wide loads may take
// bytes behind a tensor along).
struct Share {
    std::int32_t index = 0, count = 1;

    // Where this share of n things starts, and where it ends: the start of the next one.
    std::int64_t first(std::int64_t n) const { return n * index / count; }
    std::int64_t last(std::int64_t n) const { return n * (index + 1) / count; }
};

struct Kernels {
    std::string_view name;
    bool (*supported)();       // by this machine
    double (*measure_peak)();  // products a second in one thread, of registers alone; 0 where that says nothing
    void (*conv_packed)(const Conv& step, Share share, std::uint8_t* arena);
    void (*conv_sparse)(const Conv& step, Share share, std::uint8_t* arena);
    void (*conv_sparse4)(const Conv& step, Share share, std::uint8_t* arena);
    void (*pack_quads)(const Quads& step, Share share, std::uint8_t* arena);
    void (*conv_winograd)(const Conv& step, Share share, std::uint8_t* arena);  // of both kinds; conv_packed where that is as fast
    void (*conv_depthwise)(const Conv& step, Share share, std::uint8_t* arena);
    void (*conv_binary)(const Conv& step, Share share, std::uint8_t* arena);
    void (*pack_bits)(const Bits& step, Share share, std::uint8_t* arena);
    // Weights of `n` pairs of quads: places in the lower halves of 64 bytes, then those in the upper ones.
    void (*look_up)(const std::uint8_t* places, std::int64_t n, const std::int8_t* table, std::int8_t* weights);
    // False: NaN or infinity in this share.
    bool (*quantize)(const Quantize& step, const Input& input, Share share, std::uint8_t* arena);
    void (*join)(const Join& step, Share share, std::uint8_t* arena);
    void (*max_pool)(const MaxPool& step, Share share, std::uint8_t* arena);
    void (*sum_pool)(const SumPool& step, Share share, std::uint8_t* arena);
};

// Kernels without those of operators that the library was built without: nothing refers to them, so linkers leave them out.
// A kernel stays too for others that fall back to it.
constexpr Kernels only_built(Kernels kernels) {
    const auto keep = [](auto& kernel, auto... names) { kernel = (is_built(names) || ...) ? kernel : nullptr; };
    keep(kernels.conv_packed, "direct", "winograd", "winograd1d", "codebook");
    keep(kernels.conv_sparse, "sparse");
    keep(kernels.conv_sparse4, "sparse4x4");
    keep(kernels.pack_quads, "quads");
    keep(kernels.conv_winograd, "winograd", "winograd1d");
    keep(kernels.conv_depthwise, "depthwise");
    keep(kernels.conv_binary, "binary");
    keep(kernels.pack_bits, "bits");
    keep(kernels.look_up, "codebook");
    keep(kernels.quantize, "quantize");
    keep(kernels.join, "join");
    keep(kernels.max_pool, "max_pool");
    keep(kernels.sum_pool, "sum_pool");
    return kernels;
}

extern const Kernels kPortable;
#ifdef DYADIQ_X86
extern const Kernels kAvx2, kAvxVnni, kAvx512Vnni256, kAvx512Vnni;
#endif
#ifdef DYADIQ_AARCH64
extern const Kernels kNeon, kNeonDot;
#endif

std::span<const Kernels* const> all_kernels();  // that were built; the best last

// The best that this machine supports, or the one named by the environment variable DYADIQ_ISA; null where that is
// unknown or not supported.
const Kernels* choose_kernels();
const Kernels* find_kernels(std::string_view name);

}  // namespace dyadiq::engine
