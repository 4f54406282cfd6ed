// Convolutions of bits, by the instructions that count ones: VPOPCNTDQ, of Ice Lake, Zen 4 and later. And look-ups.
#include "engine/kernels/avx512vnni.hpp"
#include "engine/kernels/avx512vnni_epilogue.hpp"
#include "engine/kernels/vector_binary.hpp"

namespace dyadiq::engine::avx512vnni {
namespace {

// What sums without bias become.
struct WideEnding {
    Epilogue epilogue;
    const Conv& s;
    std::int64_t first, n;
    __m512i bias;
    bool is_sign;

    WideEnding(const Conv& step, std::int64_t parameter, std::int64_t channel, std::int64_t n_outputs)
        : epilogue(step, parameter, channel, n_outputs), s(step), first(channel), n(std::min<std::int64_t>(n_outputs, kBlock)),
          bias(_mm512_loadu_si512(step.bias + parameter)), is_sign(step.finished && step.finish.sign) {}

    void operator()(const std::int32_t* sums, const std::uint8_t* residual, std::uint8_t* out) const {
        if (!is_sign) {
            epilogue(_mm512_add_epi32(_mm512_load_si512(sums), bias), residual, out);
            return;
        }
        for (std::int64_t i = 0; i < n; ++i) {
            finish_accumulator(s, sums[i], first + i, first + i, residual, out);
        }
    }
};

struct WideBits {
    using Ending = WideEnding;
    static constexpr int kPixels = 10;
    static constexpr std::int64_t kWords = std::int64_t{1} << 40;  // counts in int32
    using Weights = __m512i;
    struct Counts {
        __m512i v;
    };
    using Sums = Counts;

    [[gnu::always_inline]] static Weights load(const std::int8_t* at) { return _mm512_loadu_si512(at); }
    template <bool kBoth>
    [[gnu::always_inline]] static void count(Counts& counts, Weights w, const std::uint8_t* word) {
        std::int32_t bits;
        std::memcpy(&bits, word, sizeof bits);
        const __m512i x = _mm512_set1_epi32(bits);
        const __m512i met = kBoth ? _mm512_and_si512(x, w) : _mm512_xor_si512(x, w);
        counts.v = _mm512_add_epi32(counts.v, _mm512_popcnt_epi32(met));
    }
    [[gnu::always_inline]] static void add(Sums& sums, const Counts& counts) { sums.v = _mm512_add_epi32(sums.v, counts.v); }
    [[gnu::always_inline]] static void store(const Sums& sums, std::int32_t* to) { _mm512_store_si512(to, sums.v); }
};

}  // namespace

void conv_binary(const Conv& s, Share share, std::uint8_t* arena) {
    engine::conv_binary<WideBits>(s, share, arena);
}

void pack_bits(const Bits& s, Share share, std::uint8_t* arena) {
    const __m512i low = _mm512_set1_epi8(static_cast<char>(s.low));
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const std::uint8_t* in = arena + s.in.at(y - s.pad_h, x - s.pad_w);
        std::uint8_t* out = arena + s.out.at(y, x);
        std::int64_t left = s.out.channels;
        for (std::int64_t c = 0; left > 0; c += kBytes, left -= 8, out += 8) {
            const __mmask64 exist = first_bytes(s.in.channels - c);
            const __mmask64 differ = _mm512_mask_cmpneq_epu8_mask(exist, _mm512_maskz_loadu_epi8(exist, in + c), low);
            std::memcpy(out, &differ, left >= 8 ? 8 : 4);
        }
    });
}

void look_up(const std::uint8_t* places, std::int64_t n, const std::int8_t* table, std::int8_t* weights) {
    const __m512i values = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    const __m512i nibble = _mm512_set1_epi8(15);
    for (std::int64_t i = 0; i < n; ++i, places += kBytes, weights += 2 * kBytes) {
        const __m512i both = _mm512_loadu_si512(places);
        _mm512_storeu_si512(weights, _mm512_shuffle_epi8(values, _mm512_and_si512(both, nibble)));
        _mm512_storeu_si512(weights + kBytes, _mm512_shuffle_epi8(values, _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble)));
    }
}

}  // namespace dyadiq::engine::avx512vnni
