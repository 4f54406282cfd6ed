// The kernels of avxvnni.cpp in the encoding of AVX-512: what tests run of them on machines without AVX-VNNI.
#include "engine/kernels/vnni256.hpp"

namespace dyadiq::engine {
namespace {

struct Dot {
    [[gnu::always_inline]] static __m256i add(__m256i sum, __m256i codes, __m256i weights) {
        return _mm256_dpbusd_epi32(sum, codes, weights);
    }
};
using Isa = Vnni256<Dot>;

bool supported() {
    return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 &&
           __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
}

}  // namespace

constinit const Kernels kAvx512Vnni256 = only_built(
    {"avx512vnni256", supported, [] { return 0.0; }, conv_packed<Isa>, conv_sparse<Isa>, conv_sparse4<Isa>, portable::pack_quads, conv_winograd<Isa>,
     conv_depthwise<Isa>, conv_binary<Avx2Bits>, pack_bits<Avx2Bits>, look_up, quantize<Isa>, portable::join, max_pool<Isa>, sum_pool<Isa>});

}  // namespace dyadiq::engine
