// Kernels for x86-64 with AVX2 and FMA (Haswell, Zen and later).
//
// vpmaddubsw saturates: two products of a byte and a signed byte may exceed 16 bits. So bytes become 16 bits first, and
// vpmaddwd adds pairs of products in 32; weights so small that no pair saturates take the short way all the same.
#include <immintrin.h>

#include "engine/kernels/avx2_bits.hpp"
#include "engine/kernels/avx2_lanes.hpp"
#include "engine/kernels/vector_conv.hpp"
#include "engine/kernels/vector_planes.hpp"
#include "engine/kernels/vector_sparse4.hpp"
#include "engine/kernels/vector_winograd.hpp"

namespace dyadiq::engine {
namespace {

constexpr int kVectors = 2;  // of sixteen outputs

__m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

struct Total {
    __m256i v[kVectors];
};

// Signed bytes of quad i of a group.
template <int kBits, int i>
[[gnu::always_inline]] inline __m256i unpacked(const std::int8_t* at) {
    const __m256i all = load(at);
    if constexpr (kBits == 8) {
        return all;
    }
    constexpr int kShift = kBits * i, kMask = (1 << kBits) - 1, kSign = 1 << (kBits - 1);
    const __m256i code = _mm256_and_si256(_mm256_srli_epi32(all, kShift), _mm256_set1_epi8(static_cast<char>(kMask)));
    if constexpr (kBits == 1) {  // 0: -1, 1: 1
        return _mm256_sub_epi8(_mm256_add_epi8(code, code), _mm256_set1_epi8(1));
    }
    return _mm256_sub_epi8(_mm256_xor_si256(code, _mm256_set1_epi8(static_cast<char>(kSign))), _mm256_set1_epi8(static_cast<char>(kSign)));
}

[[gnu::always_inline]] inline __m256i quad_of(const std::uint8_t* at) {
    std::int32_t codes;
    std::memcpy(&codes, at, sizeof codes);
    return _mm256_set1_epi32(codes);
}

// Weights of which no two neighbours, times 255, leave 16 bits.
struct SmallWeights {
    using Lanes = Avx2Lanes;
    static constexpr int kPixels = 4, kCodesLess = 0;
    using Small = void;
    using Sums = Total;
    using Weights = Total;

    template <int kBits, int i>
    static Weights weights(const std::int8_t* at) {
        return {{unpacked<kBits, i>(at), unpacked<kBits, i>(at + 32)}};
    }
    [[gnu::always_inline]] static void dot(Sums& sums, const Weights& w, const std::uint8_t* codes) {
        const __m256i x = quad_of(codes), one = _mm256_set1_epi16(1);
        for (int v = 0; v < kVectors; ++v) {
            sums.v[v] = _mm256_add_epi32(sums.v[v], _mm256_madd_epi16(_mm256_maddubs_epi16(x, w.v[v]), one));
        }
    }
    template <int kBits>
    static void store(const Sums& sums, std::int32_t* to) {
        for (int v = 0; v < kVectors; ++v) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8 * v), sums.v[v]);
        }
    }
};

struct Avx2 {
    using Lanes = Avx2Lanes;
    static constexpr int kPixels = 4, kCodesLess = 0;
    using Small = SmallWeights;
    using Sums = Total;
    struct Weights {
        __m256i even[kVectors], odd[kVectors];  // of 16 bits
    };

    template <int kBits, int i>
    static Weights weights(const std::int8_t* at) {
        Weights w;
        for (int v = 0; v < kVectors; ++v) {
            const __m256i bytes = unpacked<kBits, i>(at + 32 * v);
            w.even[v] = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), w.odd[v] = _mm256_srai_epi16(bytes, 8);
        }
        return w;
    }
    [[gnu::always_inline]] static void dot(Sums& sums, const Weights& w, const std::uint8_t* codes) {
        const __m256i x = quad_of(codes);
        const __m256i even = _mm256_and_si256(x, _mm256_set1_epi16(0xFF)), odd = _mm256_srli_epi16(x, 8);
        for (int v = 0; v < kVectors; ++v) {
            const __m256i pairs = _mm256_add_epi32(_mm256_madd_epi16(even, w.even[v]), _mm256_madd_epi16(odd, w.odd[v]));
            sums.v[v] = _mm256_add_epi32(sums.v[v], pairs);
        }
    }
    struct Spread {
        __m256i even, odd;
    };
    [[gnu::always_inline]] static Spread all_lanes(const std::int8_t* quad) {
        const __m256i bytes = quad_of(reinterpret_cast<const std::uint8_t*>(quad));
        return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
    }
    [[gnu::always_inline]] static void dot_quads(Sums& sums, const Spread& w, const std::uint8_t* codes) {
        for (int v = 0; v < kVectors; ++v) {
            const __m256i x = load(codes + 32 * v);
            const __m256i even = _mm256_and_si256(x, _mm256_set1_epi16(0xFF)), odd = _mm256_srli_epi16(x, 8);
            const __m256i pairs = _mm256_add_epi32(_mm256_madd_epi16(even, w.even), _mm256_madd_epi16(odd, w.odd));
            sums.v[v] = _mm256_add_epi32(sums.v[v], pairs);
        }
    }
    template <int kBits>
    static void store(const Sums& sums, std::int32_t* to) {
        SmallWeights::store<kBits>(sums, to);
    }

    // Positive parts of two neighbours add up to 128 at most, and negative ones too.
    static bool is_small(const std::int8_t* weights, std::int64_t n) {
        const __m256i none = _mm256_setzero_si256(), one = _mm256_set1_epi8(1);
        __m256i most = none;
        for (std::int64_t at = 0; at < n; at += 32) {
            const __m256i w = load(weights + at);
            const __m256i up = _mm256_max_epi8(w, none), down = _mm256_sub_epi8(none, _mm256_min_epi8(w, none));
            most = _mm256_max_epi16(most, _mm256_max_epi16(_mm256_maddubs_epi16(up, one), _mm256_maddubs_epi16(down, one)));
        }
        return _mm256_testz_si256(_mm256_cmpgt_epi16(most, _mm256_set1_epi16(128)), _mm256_set1_epi32(-1)) != 0;
    }
};

bool supported() { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0; }

}  // namespace

constinit const Kernels kAvx2 = only_built(
    {"avx2", supported, [] { return 0.0; }, conv_packed<Avx2>, conv_sparse<Avx2>, conv_sparse4<Avx2>, portable::pack_quads, conv_winograd<Avx2>,
     conv_depthwise<Avx2>, conv_binary<Avx2Bits>, pack_bits<Avx2Bits>, look_up, quantize<Avx2>, portable::join, max_pool<Avx2>, sum_pool<Avx2>});

}  // namespace dyadiq::engine
