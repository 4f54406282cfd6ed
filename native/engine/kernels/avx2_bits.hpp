// Bits in registers of AVX2, which has no instruction that counts them: two look-ups of four bits each. And other look-ups.
#pragma once

#include "engine/kernels/avx2_lanes.hpp"
#include "engine/kernels/vector_binary.hpp"

namespace dyadiq::engine {
namespace {

inline void look_up(const std::uint8_t* places, std::int64_t n, const std::int8_t* table, std::int8_t* weights) {
    const __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    const __m256i nibble = _mm256_set1_epi8(15);
    for (std::int64_t i = 0; i < 2 * n; ++i, places += 32) {  // halves of 64 bytes
        const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(places));
        auto* to = reinterpret_cast<__m256i*>(weights + i / 2 * 128 + i % 2 * 32);
        _mm256_storeu_si256(to, _mm256_shuffle_epi8(values, _mm256_and_si256(both, nibble)));
        _mm256_storeu_si256(to + 2, _mm256_shuffle_epi8(values, _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble)));
    }
}

struct Avx2Bits {
    using Ending = VectorEpilogue<Avx2Lanes>;
    static constexpr int kPixels = 4;
    static constexpr std::int64_t kWords = 31, kBytes = 32;  // counts of at most 8 in bytes; channels packed at once
    struct Vectors {
        __m256i v[2];  // of sixteen outputs
    };
    using Weights = Vectors;
    using Counts = Vectors;
    using Sums = Vectors;

    [[gnu::always_inline]] static Weights load(const std::int8_t* at) {
        const auto* from = reinterpret_cast<const __m256i*>(at);
        return {{_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)}};
    }
    template <bool kBoth>
    [[gnu::always_inline]] static void count(Counts& counts, const Weights& w, const std::uint8_t* word) {
        const __m256i ones = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2,
                                              3, 2, 3, 3, 4);
        const __m256i nibble = _mm256_set1_epi8(15);
        std::int32_t bits;
        std::memcpy(&bits, word, sizeof bits);
        const __m256i x = _mm256_set1_epi32(bits);
        for (int v = 0; v < 2; ++v) {
            const __m256i met = kBoth ? _mm256_and_si256(x, w.v[v]) : _mm256_xor_si256(x, w.v[v]);
            const __m256i low = _mm256_shuffle_epi8(ones, _mm256_and_si256(met, nibble));
            const __m256i high = _mm256_shuffle_epi8(ones, _mm256_and_si256(_mm256_srli_epi32(met, 4), nibble));
            counts.v[v] = _mm256_add_epi8(counts.v[v], _mm256_add_epi8(low, high));
        }
    }
    [[gnu::always_inline]] static void add(Sums& sums, const Counts& counts) {
        for (int v = 0; v < 2; ++v) {
            const __m256i pairs = _mm256_maddubs_epi16(counts.v[v], _mm256_set1_epi8(1));
            sums.v[v] = _mm256_add_epi32(sums.v[v], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
    }
    static void store(const Sums& sums, std::int32_t* to) {
        for (int v = 0; v < 2; ++v) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8 * v), sums.v[v]);
        }
    }

    static void bits(const std::uint8_t* from, std::uint8_t low, std::uint8_t* to) {
        const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        const __m256i same = _mm256_cmpeq_epi8(codes, _mm256_set1_epi8(static_cast<char>(low)));
        const auto differ = ~static_cast<std::uint32_t>(_mm256_movemask_epi8(same));
        std::memcpy(to, &differ, sizeof differ);
    }
};

}  // namespace
}  // namespace dyadiq::engine
