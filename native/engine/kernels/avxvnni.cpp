// Kernels for x86-64 with AVX-VNNI, that is vpdpbusd without AVX-512 (Alder Lake, Zen 5 and later).
#include <cpuid.h>

#include "engine/kernels/vnni256.hpp"

namespace dyadiq::engine {
namespace {

struct Dot {
    [[gnu::always_inline]] static __m256i add(__m256i sum, __m256i codes, __m256i weights) {
        return _mm256_dpbusd_avx_epi32(sum, codes, weights);
    }
};
using Isa = Vnni256<Dot>;

// Asked of the processor itself: compilers of 2022 do not know the name. That the system keeps 256-bit registers is
// part of the answer for avx2.
bool has_avx_vnni() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1u << 4)) != 0;
}

bool supported() {
    return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 && has_avx_vnni();
}

}  // namespace

constinit const Kernels kAvxVnni = only_built(
    {"avxvnni", supported, [] { return 0.0; }, conv_packed<Isa>, conv_sparse<Isa>, conv_sparse4<Isa>, portable::pack_quads, conv_winograd<Isa>,
     conv_depthwise<Isa>, conv_binary<Avx2Bits>, pack_bits<Avx2Bits>, look_up, quantize<Isa>, portable::join, max_pool<Isa>, sum_pool<Isa>});

}  // namespace dyadiq::engine
