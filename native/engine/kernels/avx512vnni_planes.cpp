// Quantizers, joins and pools.
#include <cmath>

#include "engine/kernels/avx512vnni.hpp"
#include "engine/kernels/avx512vnni_epilogue.hpp"
#include "engine/kernels/geometry.hpp"
#include "engine/kernels/portable.hpp"

namespace dyadiq::engine::avx512vnni {
namespace {

// Sixteen codes in single precision, where that is sure to be right; lanes for which it is not are in `doubtful`.
struct Quantizer {
    __m512 inverse, low, high;  // before the zero point
    __m512i add;
    bool is_narrow;

    explicit Quantizer(const Quantize& s) {
        const std::int64_t lowest = std::int64_t{s.low} - s.zero_point, highest = std::int64_t{s.high} - s.zero_point;
        is_narrow = lowest >= -kMaxCode && highest <= kMaxCode && s.scale > kLeastScale && s.scale < 1 / kLeastScale;
        inverse = _mm512_set1_ps(static_cast<float>(1 / s.scale));
        low = _mm512_set1_ps(static_cast<float>(lowest)), high = _mm512_set1_ps(static_cast<float>(highest));
        add = _mm512_set1_epi32(engine::add(s.zero_point, s.out.code_offset));
    }

    // The error of x * inverse + 1/2 is below 2^-23 times its magnitude, so its floor is right unless it is that near to
    // an integer. What lies well beyond the limits is clipped, whatever it is.
    __m512i operator()(__m512 x, __mmask16& doubtful) const {
        const __m512 margin = _mm512_set1_ps(1);
        __m512 y = _mm512_fmadd_ps(x, inverse, _mm512_set1_ps(0.5F));
        y = _mm512_min_ps(_mm512_max_ps(y, _mm512_sub_ps(low, margin)), _mm512_add_ps(high, _mm512_set1_ps(2)));
        const __m512 distance = _mm512_sub_ps(y, _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        const __mmask16 near = _mm512_cmp_ps_mask(_mm512_abs_ps(distance), _mm512_set1_ps(kDoubt), _CMP_LT_OQ);
        doubtful = near & _mm512_cmp_ps_mask(y, low, _CMP_GE_OQ) &
                   _mm512_cmp_ps_mask(y, _mm512_add_ps(high, margin), _CMP_LE_OQ);
        y = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        return _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(y, low), high)), add);
    }

    static constexpr std::int64_t kMaxCode = 510;
    static constexpr double kLeastScale = 1e-30;  // its inverse is a float
    static constexpr float kDoubt = 0x1p-13F;
};

// Pixels of four bytes, of which only the first n are kept.
struct Denser {
    __m512i in_lanes, lanes;

    explicit Denser(std::int32_t n) {
        alignas(64) std::int8_t from[kBytes];
        alignas(64) std::int32_t words[kBlock] = {};
        for (std::int32_t i = 0; i < kBlock; ++i) {
            from[i] = static_cast<std::int8_t>(i < kQuad * n ? i / n * kQuad + i % n : -1);
            words[i] = i < kQuad * n ? i / n * kQuad + i % n : 0;  // n of four words in each lane
        }
        in_lanes = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
        lanes = _mm512_load_si512(words);
    }

    __m512i operator()(__m512i pixels) const {
        return _mm512_permutexvar_epi32(lanes, _mm512_shuffle_epi8(pixels, in_lanes));
    }
};

}  // namespace

// Pixels of at most four channels, as images have them, sixteen at a time: their bytes are one int32, or as dense as may be.
bool quantize(const Quantize& s, const Input& input, Share share, std::uint8_t* arena) {
    const Quantizer quantizer(s);
    const bool dense = s.out.buffer.pixel_stride < kQuad && s.out.channels == s.out.buffer.pixel_stride;
    if (s.sign || s.grid != nullptr || input.f32 == nullptr || s.out.buffer.wide || !quantizer.is_narrow ||
        !(dense || s.out.buffer.pixel_stride == kQuad)) {
        return portable::quantize(s, input, share, arena);
    }
    const std::int32_t width = s.out.buffer.width, n_channels = s.out.channels, first = s.out.first_channel;
    const std::uint32_t bytes = (n_channels == kQuad ? ~0U : (1U << 8 * n_channels) - 1) << 8 * first;
    const __m512i own = _mm512_set1_epi32(static_cast<std::int32_t>(bytes));
    const Denser denser(n_channels);
    __mmask16 strange = 0;
    for (std::int64_t y = share.first(s.out.buffer.height); y < share.last(s.out.buffer.height); ++y) {
        std::uint8_t* const row = arena + s.out.at(y, 0) - first;
        for (std::int32_t x = 0; x < width; x += kBlock) {
            const __mmask16 mask = first_lanes(width - x);
            __m512i codes = _mm512_setzero_si512();
            for (std::int32_t c = 0; c < n_channels; ++c) {
                const float* const in = input.f32 + planar(s.out, c, y, x);
                const __m512 values = _mm512_maskz_loadu_ps(mask, in);
                constexpr int kNanOrInfinity = 0x99;
                strange |= _mm512_fpclass_ps_mask(values, kNanOrInfinity);
                __mmask16 doubtful;
                __m512i code = quantizer(values, doubtful);
                doubtful &= mask;
                if (doubtful != 0) {
                    alignas(64) std::int32_t lanes[kBlock];
                    _mm512_store_si512(lanes, code);
                    for (unsigned left = doubtful; left != 0; left &= left - 1) {
                        const int lane = __builtin_ctz(left);
                        lanes[lane] = engine::add(portable::quantized(s, in[lane], c), s.out.code_offset);
                    }
                    code = _mm512_load_si512(lanes);
                }
                codes = _mm512_or_si512(codes, _mm512_sll_epi32(code, _mm_cvtsi32_si128(8 * (c + first))));
            }
            if (dense) {
                const std::int64_t n_bytes = std::int64_t{n_channels} * std::min(kBlock, width - x);
                store_bytes(row + std::int64_t{x} * n_channels, denser(codes), n_bytes);
                continue;
            }
            const __m512i old = _mm512_maskz_loadu_epi32(mask, row + std::int64_t{x} * kQuad);
            codes = _mm512_or_si512(_mm512_and_si512(codes, own), _mm512_andnot_si512(own, old));
            _mm512_mask_storeu_epi32(row + std::int64_t{x} * kQuad, mask, codes);
        }
    }
    return strange == 0;
}

void join(const Join& s, Share share, std::uint8_t* arena) {
    if (s.finish.sign) {
        portable::join(s, share, arena);
        return;
    }
    for (std::int64_t c = 0; c < s.out.channels; c += kBlock) {
        const __mmask16 mask = first_lanes(s.out.channels - c);
        const __m512i zero_point = _mm512_set1_epi64(s.finish.zero_point);
        pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
            Halves sum{zero_point, zero_point};
            for (const Branch& b : s.branches) {
                const __m512i before = _mm512_set1_epi32(b.before);
                const __m512i codes = _mm512_add_epi32(load_codes(b.x, arena + b.x.at(y, x), c, mask), before);
                Halves value = Halves::extended(codes);
                if (b.dyadic.multiplier != nullptr) {
                    const Rescale rescale(b.dyadic, c, mask);
                    value = Halves{rescale(value.even, 0), rescale(value.odd, 1)};
                }
                value.clip(b.low, b.high);
                sum.add(value.even, value.odd);
            }
            sum.clip(s.finish.low, s.finish.high);
            store_codes(s.out, arena + s.out.at(y, x), c, mask, sum.lanes());
        });
    }
}

void max_pool(const MaxPool& s, Share share, std::uint8_t* arena) {
    if (s.in.buffer.wide) {
        portable::max_pool(s, share, arena);
        return;
    }
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const PoolWindow<MaxPool> window(s, y, x, arena);
        std::uint8_t* const out = arena + s.out.at(y, x);
        for (std::int64_t c = 0; c < s.out.channels; c += kBytes) {
            __m512i most = _mm512_setzero_si512();  // bytes are at least 0
            window.each([&](const std::uint8_t* pixel) { most = _mm512_max_epu8(most, _mm512_loadu_si512(pixel + c)); });
            store_bytes(out + c, most, s.out.channels - c);
        }
    });
}

void sum_pool(const SumPool& s, Share share, std::uint8_t* arena) {
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const PoolWindow<SumPool> window(s, y, x, arena);
        const std::int32_t factor = factor_at(s, y, x), start = multiply_add(s.bias, window.n_outside(), s.pad_value);
        std::uint8_t* const out = arena + s.out.at(y, x);
        for (std::int64_t c = 0; c < s.out.channels; c += kBlock) {
            const __mmask16 mask = first_lanes(s.out.channels - c);
            __m512i sum = _mm512_set1_epi32(start);
            window.each([&](const std::uint8_t* pixel) { sum = _mm512_add_epi32(sum, load_codes(s.in, pixel, c, mask)); });
            sum = _mm512_mullo_epi32(sum, _mm512_set1_epi32(factor));
            _mm512_mask_storeu_epi32(out + 4 * c, mask, sum);
        }
    });
}

}  // namespace dyadiq::engine::avx512vnni
