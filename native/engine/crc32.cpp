// 256 or 64 bytes a step where the machine multiplies polynomials (Gopal et al. 2009, "Fast CRC computation for generic
// polynomials using PCLMULQDQ"), else eight from eight tables (Kounavis and Berry 2005, "slicing by 8").
#include "engine/crc32.hpp"

#include <array>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#define DYADIQ_CRC_FOLDS
#include <immintrin.h>
#endif

namespace dyadiq::engine {
namespace {

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
    Tables tables{};
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t value = i;
        for (int bit = 0; bit < 8; ++bit) {
            value = (value >> 1) ^ ((value & 1) ? 0xEDB88320U : 0U);
        }
        tables[0][i] = value;
    }
    for (std::size_t t = 1; t < 8; ++t) {
        for (std::size_t i = 0; i < 256; ++i) {
            const std::uint32_t before = tables[t - 1][i];
            tables[t][i] = (before >> 8) ^ tables[0][before & 0xFF];
        }
    }
    return tables;
}

constexpr Tables kTables = make_tables();

std::uint32_t little_endian(const std::uint8_t* at) {
    return static_cast<std::uint32_t>(at[0]) | static_cast<std::uint32_t>(at[1]) << 8 |
           static_cast<std::uint32_t>(at[2]) << 16 | static_cast<std::uint32_t>(at[3]) << 24;
}

// The remainder, neither inverted before nor behind.
std::uint32_t by_tables(std::uint32_t crc, const std::uint8_t* data, std::size_t size) {
    for (; size >= 8; size -= 8, data += 8) {
        const std::uint32_t a = crc ^ little_endian(data);
        const std::uint32_t b = little_endian(data + 4);
        crc = kTables[7][a & 0xFF] ^ kTables[6][a >> 8 & 0xFF] ^ kTables[5][a >> 16 & 0xFF] ^ kTables[4][a >> 24] ^
              kTables[3][b & 0xFF] ^ kTables[2][b >> 8 & 0xFF] ^ kTables[1][b >> 16 & 0xFF] ^ kTables[0][b >> 24];
    }
    for (; size > 0; --size, ++data) {
        crc = (crc >> 8) ^ kTables[0][(crc ^ *data) & 0xFF];
    }
    return crc;
}

#ifdef DYADIQ_CRC_FOLDS

#define DYADIQ_FOLDS [[gnu::target("pclmul,sse4.1")]]

DYADIQ_FOLDS inline __m128i load(const std::uint8_t* at) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

// Sixteen bytes, moved past those that lie behind them: `by` holds the powers of x for that distance.
DYADIQ_FOLDS inline __m128i folded(__m128i x, __m128i by, __m128i next) {
    const __m128i low = _mm_clmulepi64_si128(x, by, 0x00), high = _mm_clmulepi64_si128(x, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// At least 64 bytes.
DYADIQ_FOLDS std::uint32_t by_folding(std::uint32_t crc, const std::uint8_t* data, std::size_t size) {
    const __m128i by_64 = _mm_set_epi64x(0x01C6E41596, 0x0154442BD4);  // x^480, x^544 modulo the polynomial, reflected
    const __m128i by_16 = _mm_set_epi64x(0x00CCAA009E, 0x01751997D0);  // x^96, x^160
    __m128i x0 = _mm_xor_si128(load(data), _mm_cvtsi32_si128(static_cast<int>(crc)));
    __m128i x1 = load(data + 16), x2 = load(data + 32), x3 = load(data + 48);
    for (data += 64, size -= 64; size >= 64; data += 64, size -= 64) {
        x0 = folded(x0, by_64, load(data));
        x1 = folded(x1, by_64, load(data + 16));
        x2 = folded(x2, by_64, load(data + 32));
        x3 = folded(x3, by_64, load(data + 48));
    }
    x0 = folded(folded(folded(x0, by_16, x1), by_16, x2), by_16, x3);
    for (; size >= 16; data += 16, size -= 16) {
        x0 = folded(x0, by_16, load(data));
    }
    std::uint8_t left[16];  // as long as it has the same remainder as all that came before
    _mm_storeu_si128(reinterpret_cast<__m128i*>(left), x0);
    return by_tables(by_tables(0, left, sizeof left), data, size);
}

#define DYADIQ_FOLDS_WIDE [[gnu::target("avx512f,vpclmulqdq,pclmul,sse4.1")]]

DYADIQ_FOLDS_WIDE inline __m512i folded(__m512i x, __m512i by, const std::uint8_t* next) {
    const __m512i low = _mm512_clmulepi64_epi128(x, by, 0x00), high = _mm512_clmulepi64_epi128(x, by, 0x11);
    return _mm512_ternarylogic_epi64(low, high, _mm512_loadu_si512(next), 0x96);  // the exclusive or of all three
}

// At least 256 bytes, of which it takes whole 256; what is left has the remainder of 64 bytes that it writes.
DYADIQ_FOLDS_WIDE std::size_t fold_wide(std::uint32_t crc, const std::uint8_t* data, std::size_t size, std::uint8_t* left) {
    const __m512i by_256 = _mm512_set4_epi64(0x01322D1430, 0x011542778A, 0x01322D1430, 0x011542778A);  // x^2016, x^2080
    const __m512i by_64 = _mm512_set4_epi64(0x01C6E41596, 0x0154442BD4, 0x01C6E41596, 0x0154442BD4);
    __m512i x[4];
    for (int i = 0; i < 4; ++i) {
        x[i] = _mm512_loadu_si512(data + 64 * i);
    }
    x[0] = _mm512_xor_si512(x[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(crc))));
    std::size_t at = 256;
    for (; size - at >= 256; at += 256) {
        for (int i = 0; i < 4; ++i) {
            x[i] = folded(x[i], by_256, data + at + 64 * i);
        }
    }
    for (int i = 0; i < 3; ++i) {
        _mm512_storeu_si512(left, x[i + 1]);
        x[i + 1] = folded(x[i], by_64, left);
    }
    _mm512_storeu_si512(left, x[3]);
    return at;
}

#endif

}  // namespace

std::uint32_t crc32(const std::uint8_t* data, std::size_t size, std::uint32_t start) {
#ifdef DYADIQ_CRC_FOLDS
    static const bool folds = __builtin_cpu_supports("pclmul") != 0 && __builtin_cpu_supports("sse4.1") != 0;
    static const bool folds_wide = folds && __builtin_cpu_supports("avx512f") != 0 &&
                                   __builtin_cpu_supports("vpclmulqdq") != 0;
    std::uint32_t crc = ~start;
    if (folds_wide && size >= 256) {
        std::uint8_t left[64];
        const std::size_t taken = fold_wide(crc, data, size, left);
        crc = by_folding(0, left, sizeof left);
        data += taken, size -= taken;
    }
    if (folds && size >= 64) {
        return ~by_folding(crc, data, size);
    }
    return ~by_tables(crc, data, size);
#else
    return ~by_tables(~start, data, size);
#endif
}

}  // namespace dyadiq::engine
