// Sixteen int32 in two registers of AVX2: what becomes of the sums of a block.
#pragma once

#include <immintrin.h>

#include "engine/kernels/vector_epilogue.hpp"

namespace dyadiq::engine {
namespace {

struct Avx2Lanes {
    __m256i v[2];

    template <typename T>
    static Avx2Lanes load(const T* from) {
        const auto* at = reinterpret_cast<const __m256i*>(from);
        return {{_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)}};
    }
    static Avx2Lanes load_bytes(const std::uint8_t* from) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return {{_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes))}};
    }
    static Avx2Lanes all(std::int32_t x) { return {{_mm256_set1_epi32(x), _mm256_set1_epi32(x)}}; }
    Avx2Lanes plus(const Avx2Lanes& other) const {
        return {{_mm256_add_epi32(v[0], other.v[0]), _mm256_add_epi32(v[1], other.v[1])}};
    }
    Avx2Lanes nearest(const float* scale, const float* offset) const { return rescaled<false>(scale, offset); }
    Avx2Lanes floored(const float* scale, const float* offset) const { return rescaled<true>(scale, offset); }
    Avx2Lanes clipped(std::int32_t low, std::int32_t high) const {
        const __m256i l = _mm256_set1_epi32(low), h = _mm256_set1_epi32(high);
        return {{_mm256_min_epi32(_mm256_max_epi32(v[0], l), h), _mm256_min_epi32(_mm256_max_epi32(v[1], l), h)}};
    }
    void store(std::uint8_t* to) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v[0]);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to) + 1, v[1]);
    }
    void store_bytes(std::uint8_t* to) const {  // of lanes that are bytes
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(v[0], v[1]), 0xD8);
        const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    }

   private:
    template <bool kDown>
    Avx2Lanes rescaled(const float* scale, const float* offset) const {
        const auto single = [&](int i) {
            const __m256 x = _mm256_cvtepi32_ps(v[i]), a = _mm256_loadu_ps(scale + 8 * i), b = _mm256_loadu_ps(offset + 8 * i);
            const __m256 real = _mm256_fmadd_ps(x, a, b);
            const __m256i y = _mm256_sub_epi32(_mm256_castps_si256(real), _mm256_set1_epi32(kMagicBits));
            if constexpr (!kDown) {
                return y;
            }
            // What rounding took away, whose sign is exact; less one where it added.
            const __m256 rest = _mm256_fmadd_ps(x, a, _mm256_sub_ps(b, real));
            return _mm256_add_epi32(y, _mm256_castps_si256(_mm256_cmp_ps(rest, _mm256_setzero_ps(), _CMP_LT_OQ)));
        };
        return {{single(0), single(1)}};
    }
};

}  // namespace
}  // namespace dyadiq::engine
