// vpdpbusd on 256 bits: adds four products of unsigned and signed bytes to an int32 without saturating.
//
// Two encodings of the same instruction: that of AVX-VNNI (`Dot` of avxvnni.cpp) and that of AVX-512 (avx512vnni256.cpp).
// Packed weights come out of registers 16 or 64 times as large: a shift and a mask put them into the top bits of bytes.
#pragma once

#include <immintrin.h>

#include "engine/kernels/avx2_bits.hpp"
#include "engine/kernels/avx2_lanes.hpp"
#include "engine/kernels/vector_conv.hpp"
#include "engine/kernels/vector_planes.hpp"
#include "engine/kernels/vector_sparse4.hpp"
#include "engine/kernels/vector_winograd.hpp"

namespace dyadiq::engine {
namespace {

template <typename Dot>
struct Vnni256 {
    using Lanes = Avx2Lanes;
    static constexpr int kPixels = 6, kCodesLess = 0, kVectors = 2;
    using Small = void;
    struct Sums {
        __m256i v[kVectors];
    };
    using Weights = Sums;

    template <int kBits, int i>
    [[gnu::always_inline]] static __m256i unpacked(const std::int8_t* at) {
        const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
        if constexpr (kBits == 8) {
            return all;
        }
        constexpr int kMask = (0xFF00 >> kBits) & 0xFF;
        const __m256i top =
            _mm256_and_si256(_mm256_slli_epi32(all, 8 - kBits * (i + 1)), _mm256_set1_epi8(static_cast<char>(kMask)));
        return kBits == 1 ? _mm256_xor_si256(top, _mm256_set1_epi8(static_cast<char>(0xC0))) : top;  // -64 and 64
    }
    template <int kBits, int i>
    [[gnu::always_inline]] static Weights weights(const std::int8_t* at) {
        return {{unpacked<kBits, i>(at), unpacked<kBits, i>(at + 32)}};
    }
    [[gnu::always_inline]] static void dot(Sums& sums, const Weights& w, const std::uint8_t* codes) {
        std::int32_t quad;
        std::memcpy(&quad, codes, sizeof quad);
        const __m256i x = _mm256_set1_epi32(quad);
        for (int v = 0; v < kVectors; ++v) {
            sums.v[v] = Dot::add(sums.v[v], x, w.v[v]);
        }
    }
    [[gnu::always_inline]] static __m256i all_lanes(const std::int8_t* quad) {
        std::int32_t four;
        std::memcpy(&four, quad, sizeof four);
        return _mm256_set1_epi32(four);
    }
    [[gnu::always_inline]] static void dot_quads(Sums& sums, __m256i w, const std::uint8_t* codes) {
        for (int v = 0; v < kVectors; ++v) {
            sums.v[v] = Dot::add(sums.v[v], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32 * v)), w);
        }
    }
    template <int kBits>
    [[gnu::always_inline]] static void store(const Sums& sums, std::int32_t* to) {
        for (int v = 0; v < kVectors; ++v) {
            const __m256i unscaled = _mm256_srai_epi32(sums.v[v], weight_shift(kBits));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8 * v), unscaled);
        }
    }
};

}  // namespace
}  // namespace dyadiq::engine
