// What turns sixteen accumulators into codes, in 64 bits like the specification, or in proven single precision.
#pragma once

#include <immintrin.h>

#include "engine/kernels/avx512vnni_tiles.hpp"
#include "engine/kernels/finish.hpp"

namespace dyadiq::engine {

// A rescaling of 16 channels, in halves: channels with even and with odd numbers.
struct Rescale {
    __m512i multiplier[2], shift[2], rounding[2];

    Rescale() = default;
    Rescale(const Dyadic& d, std::int64_t parameter, __mmask16 mask = 0xFFFF) {
        const __m512i m = _mm512_maskz_loadu_epi32(mask, d.multiplier + parameter);
        const __m512i e = _mm512_maskz_loadu_epi32(mask, d.shift + parameter);
        const __m512i one = _mm512_set1_epi64(1), low_half = _mm512_set1_epi64(0xFFFFFFFF);
        multiplier[0] = m, multiplier[1] = _mm512_srli_epi64(m, 32);
        shift[0] = _mm512_and_si512(e, low_half), shift[1] = _mm512_srli_epi64(e, 32);
        for (int half = 0; half < 2; ++half) {  // 2^(shift-1), and 0 for shift 0
            rounding[half] = _mm512_srli_epi64(_mm512_sllv_epi64(one, shift[half]), 1);
        }
    }

    __m512i operator()(__m512i x, int half) const {
        const __m512i product = _mm512_mul_epi32(x, multiplier[half]);
        return _mm512_srav_epi64(_mm512_add_epi64(product, rounding[half]), shift[half]);
    }
};

inline __mmask16 first_lanes(std::int64_t n) { return static_cast<__mmask16>(n >= kBlock ? 0xFFFF : (1 << n) - 1); }

inline constexpr std::int32_t kBytes = 64;  // of a vector
inline __mmask64 first_bytes(std::int64_t n) { return n >= kBytes ? ~__mmask64{0} : (__mmask64{1} << n) - 1; }

// The first `n` bytes of a vector; masked stores of bytes are slow, and most tensors have multiples of 16 channels.
[[gnu::always_inline]] inline void store_bytes(std::uint8_t* to, __m512i bytes, std::int64_t n) {
    if (n >= kBytes) {
        _mm512_storeu_si512(to, bytes);
    } else if (n % kBlock != 0) {
        _mm512_mask_storeu_epi8(to, first_bytes(n), bytes);
    } else {
        for (std::int64_t i = 0; i < n; i += kBlock) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm512_castsi512_si128(bytes));
            bytes = _mm512_alignr_epi64(bytes, bytes, 2);
        }
    }
}

// int64 of even and odd lanes.
struct Halves {
    __m512i even, odd;

    void clip(std::int64_t low, std::int64_t high) {
        const __m512i l = _mm512_set1_epi64(low), h = _mm512_set1_epi64(high);
        even = _mm512_min_epi64(_mm512_max_epi64(even, l), h);
        odd = _mm512_min_epi64(_mm512_max_epi64(odd, l), h);
    }
    void add(__m512i a, __m512i b) { even = _mm512_add_epi64(even, a), odd = _mm512_add_epi64(odd, b); }
    // int32 as they are.
    static Halves extended(__m512i x) {
        return {_mm512_srai_epi64(_mm512_slli_epi64(x, 32), 32), _mm512_srai_epi64(x, 32)};
    }
    __m512i lanes() const { return _mm512_mask_mov_epi32(even, 0xAAAA, _mm512_slli_epi64(odd, 32)); }
};

// Codes of `n` channels of a pixel, from the channel on.
inline __m512i load_codes(const Tensor& t, const std::uint8_t* at, std::int64_t channel, __mmask16 mask) {
    if (t.buffer.wide) {
        return _mm512_maskz_loadu_epi32(mask, at + 4 * channel);
    }
    const __m512i codes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, at + channel));
    return _mm512_sub_epi32(codes, _mm512_set1_epi32(t.code_offset));
}

inline void store_codes(const Tensor& t, std::uint8_t* at, std::int64_t channel, __mmask16 mask, __m512i codes) {
    if (t.buffer.wide) {
        _mm512_mask_storeu_epi32(at + 4 * channel, mask, codes);
        return;
    }
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(codes, _mm512_set1_epi32(t.code_offset)));
    if (mask == 0xFFFF) {  // masked stores of bytes are slow
        _mm_storeu_si128(reinterpret_cast<__m128i*>(at + channel), bytes);
    } else {
        _mm_mask_storeu_epi8(at + channel, mask, bytes);
    }
}

// What turns the accumulators of one block into codes; the bias is in them already. Finishes that are no signs.
struct Epilogue {
    const Conv* step;
    std::int64_t channel;  // of the output
    __mmask16 mask;        // channels that exist
    bool is_single = false;
    Rescale main, residual;
    __m512 scale, offset, residual_scale, residual_offset;
    __m512i other_bias;  // what single precision adds to the bias

    Epilogue() = default;
    Epilogue(const Conv& s, std::int64_t parameter, std::int64_t first, std::int64_t n)
        : step(&s), channel(first), mask(first_lanes(n)) {
        if (s.single.scale != nullptr) {
            scale = _mm512_maskz_loadu_ps(mask, s.single.scale + parameter);
            is_single = _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_GE_OQ) == 0xFFFF;
        }
        if (is_single) {
            offset = _mm512_maskz_loadu_ps(mask, s.single.offset + parameter);
            other_bias = _mm512_sub_epi32(_mm512_maskz_loadu_epi32(mask, s.single.bias + parameter),
                                          _mm512_maskz_loadu_epi32(mask, s.bias + parameter));
            if (s.single.residual_scale != nullptr) {
                residual_scale = _mm512_maskz_loadu_ps(mask, s.single.residual_scale + parameter);
                residual_offset = _mm512_maskz_loadu_ps(mask, s.single.residual_offset + parameter);
            }
        } else if (s.finished) {
            main = Rescale(s.dyadic, parameter, mask);
            if (s.has_residual && s.residual.dyadic.multiplier != nullptr) {
                residual = Rescale(s.residual.dyadic, parameter, mask);
            }
        }
    }

    void operator()(__m512i sum, const std::uint8_t* residual_at, std::uint8_t* out_at) const {
        if (!step->finished) {
            _mm512_mask_storeu_epi32(out_at + 4 * channel, mask, sum);
        } else if (is_single) {
            store(rescaled(_mm512_add_epi32(sum, other_bias), residual_at), out_at);
        } else {
            store_codes(step->out, out_at, channel, mask, exact(sum, residual_at));
        }
    }

    // Bits of a single: x * factor + summand, rounded to an integer.
    template <int kRounding>
    [[gnu::always_inline]] static inline __m512i bits(__m512i x, __m512 factor, __m512 summand) {
        const __m512 real = _mm512_cvt_roundepi32_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        return _mm512_castps_si512(_mm512_fmadd_round_ps(real, factor, summand, kRounding | _MM_FROUND_NO_EXC));
    }

    // As accumulators are rescaled.
    [[gnu::always_inline]] static inline __m512i floored(__m512i x, __m512 factor, __m512 summand) {
        return _mm512_sub_epi32(bits<_MM_FROUND_TO_NEG_INF>(x, factor, summand), _mm512_set1_epi32(kMagic));
    }

    // As what is added to them is.
    [[gnu::always_inline]] static inline __m512i nearest(__m512i x, __m512 factor, __m512 summand) {
        return _mm512_sub_epi32(bits<_MM_FROUND_TO_NEAREST_INT>(x, factor, summand), _mm512_set1_epi32(kMagic));
    }

   private:
    __m512i rescaled(__m512i sum, const std::uint8_t* residual_at) const {
        __m512i y = floored(sum, scale, offset);
        if (step->has_residual) {
            const Branch& b = step->residual;
            const __m512i x = _mm512_add_epi32(load_codes(b.x, residual_at, channel, mask), _mm512_set1_epi32(b.before));
            y = _mm512_add_epi32(y, b.x.buffer.wide ? x : nearest(x, residual_scale, residual_offset));
        }
        return y;
    }

    void store(__m512i y, std::uint8_t* out_at) const {
        const __m512i low = _mm512_set1_epi32(add(step->finish.low, step->out.code_offset));
        const __m512i high = _mm512_set1_epi32(add(step->finish.high, step->out.code_offset));
        y = _mm512_min_epi32(_mm512_max_epi32(y, low), high);
        store_codes(step->out, out_at, channel, mask, _mm512_sub_epi32(y, _mm512_set1_epi32(step->out.code_offset)));
    }

    __m512i exact(__m512i sum, const std::uint8_t* residual_at) const {
        Halves y{main(sum, 0), main(_mm512_srli_epi64(sum, 32), 1)};
        if (step->has_residual) {
            const Branch& b = step->residual;
            const __m512i x = _mm512_add_epi32(load_codes(b.x, residual_at, channel, mask), _mm512_set1_epi32(b.before));
            Halves other = Halves::extended(x);
            if (b.dyadic.multiplier != nullptr) {
                other = Halves{residual(other.even, 0), residual(other.odd, 1)};
            }
            other.clip(b.low, b.high);
            y.add(other.even, other.odd);
        }
        const __m512i zero_point = _mm512_set1_epi64(step->finish.zero_point);
        y.add(zero_point, zero_point);
        y.clip(step->finish.low, step->finish.high);
        return y.lanes();
    }
};

}  // namespace dyadiq::engine
