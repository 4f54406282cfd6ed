// Kernels for x86-64 with AVX-512 and its VNNI instructions (Cascade Lake, Zen 4 and later).
//
// vpdpbusd adds four products of unsigned and signed bytes to an int32 without saturating, which is exact.
#include "engine/kernels/avx512vnni.hpp"

#include <immintrin.h>

#include <chrono>

#include "engine/kernels/avx2_bits.hpp"

namespace dyadiq::engine {
namespace {

bool supported() {
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
           __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
           __builtin_cpu_supports("avx512vnni") != 0 && __builtin_cpu_supports("fma") != 0;
}

// Where no instruction counts ones, as AVX2 does it.
void conv_bits(const Conv& s, Share share, std::uint8_t* arena) {
    const bool counts = __builtin_cpu_supports("avx512vpopcntdq") != 0;
    (counts ? avx512vnni::conv_binary : engine::conv_binary<Avx2Bits>)(s, share, arena);
}

double measure_peak() {
    constexpr int kRounds = 20, kLoops = 4000, kChains = 16;
    double best = 0;
    for (int round = 0; round < kRounds; ++round) {
        const auto start = std::chrono::steady_clock::now();
        std::int64_t left = kLoops;
        asm volatile(
            "1:\n"
            "vpdpbusd %%zmm16, %%zmm16, %%zmm0\n vpdpbusd %%zmm16, %%zmm16, %%zmm1\n"
            "vpdpbusd %%zmm16, %%zmm16, %%zmm2\n vpdpbusd %%zmm16, %%zmm16, %%zmm3\n"
            "vpdpbusd %%zmm16, %%zmm16, %%zmm4\n vpdpbusd %%zmm16, %%zmm16, %%zmm5\n"
            "vpdpbusd %%zmm16, %%zmm16, %%zmm6\n vpdpbusd %%zmm16, %%zmm16, %%zmm7\n"
            "vpdpbusd %%zmm16, %%zmm16, %%zmm8\n vpdpbusd %%zmm16, %%zmm16, %%zmm9\n"
            "vpdpbusd %%zmm16, %%zmm16, %%zmm10\n vpdpbusd %%zmm16, %%zmm16, %%zmm11\n"
            "vpdpbusd %%zmm16, %%zmm16, %%zmm12\n vpdpbusd %%zmm16, %%zmm16, %%zmm13\n"
            "vpdpbusd %%zmm16, %%zmm16, %%zmm14\n vpdpbusd %%zmm16, %%zmm16, %%zmm15\n"
            "dec %0\n jnz 1b\n"
            : "+r"(left)
            :
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
              "xmm13", "xmm14", "xmm15", "xmm16", "cc");
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        const double macs = 1.0 * kLoops * kChains * kBlock * kQuad / seconds.count();
        best = macs > best ? macs : best;
    }
    return best;
}

}  // namespace

constinit const Kernels kAvx512Vnni = only_built(
    {"avx512vnni", supported, measure_peak, avx512vnni::conv_packed, avx512vnni::conv_sparse,
     avx512vnni::conv_sparse4, avx512vnni::pack_quads,
     avx512vnni::conv_winograd, avx512vnni::conv_depthwise, conv_bits, avx512vnni::pack_bits, avx512vnni::look_up, avx512vnni::quantize, avx512vnni::join,
     avx512vnni::max_pool, avx512vnni::sum_pool});

}  // namespace dyadiq::engine
