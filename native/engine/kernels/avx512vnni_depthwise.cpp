// Depthwise convolutions, 64 channels at a time.
//
// A column of up to four rows is interleaved by channel, so that one vpdpbusd adds four taps of 16 channels; eight
// shuffles make four such vectors of a column, which the windows of neighbouring outputs share where the stride is 1.
// Interleaving works within 128 bits: vector q holds channels 16 l + 4 q to 16 l + 4 q + 3 in lane l, and packing puts
// them in order again.
#include "engine/kernels/avx512vnni.hpp"
#include "engine/kernels/avx512vnni_epilogue.hpp"

namespace dyadiq::engine::avx512vnni {
namespace {

constexpr std::int32_t kChannels = 64, kVectors = 4, kRows = 4;
constexpr std::int32_t kMaxWidth = 8, kMaxGroups = 2;  // of kernels: columns, and groups of four rows

struct Quads {
    __m512i v[kVectors];
};

// Inlined by force: as calls they would pass their vectors through memory.
#define DYADIQ_INLINE [[gnu::always_inline]] inline

DYADIQ_INLINE Quads interleaved(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b);
    const __m512i next_low = _mm512_unpacklo_epi8(c, d), next_high = _mm512_unpackhi_epi8(c, d);
    return {{_mm512_unpacklo_epi16(low, next_low), _mm512_unpackhi_epi16(low, next_low),
             _mm512_unpacklo_epi16(high, next_high), _mm512_unpackhi_epi16(high, next_high)}};
}

// Up to four rows of a column.
template <int kCount>
DYADIQ_INLINE Quads column(const std::uint8_t* at, std::int64_t row_step) {
    const __m512i none = _mm512_setzero_si512();
    return interleaved(_mm512_loadu_si512(at), kCount > 1 ? _mm512_loadu_si512(at + row_step) : none,
                       kCount > 2 ? _mm512_loadu_si512(at + 2 * row_step) : none,
                       kCount > 3 ? _mm512_loadu_si512(at + 3 * row_step) : none);
}

Quads column(const std::uint8_t* at, std::int64_t row_step, std::int32_t count) {
    switch (count) {
        case 1: return column<1>(at, row_step);
        case 2: return column<2>(at, row_step);
        case 3: return column<3>(at, row_step);
        default: return column<4>(at, row_step);
    }
}

DYADIQ_INLINE void add(Quads& sums, const Quads& codes, const Quads& factors) {
    for (std::int32_t q = 0; q < kVectors; ++q) {
        sums.v[q] = _mm512_dpbusd_epi32(sums.v[q], codes.v[q], factors.v[q]);
    }
}

// 64 channels of int32 or float32, in the order of `Quads`; zeros behind the first n.
template <typename Number>
Quads in_order(const Number* from, std::int64_t n) {
    Quads found;
    for (std::int32_t q = 0; q < kVectors; ++q) {
        alignas(64) Number lanes[kBlock];
        for (std::int32_t i = 0; i < kBlock; ++i) {
            const std::int32_t channel = i / 4 * 16 + q * 4 + i % 4;
            lanes[i] = channel < n ? from[channel] : Number{0};
        }
        found.v[q] = _mm512_load_si512(lanes);
    }
    return found;
}

// 64 channels of a convolution.
struct Chunk {
    const Conv& s;
    std::uint8_t* arena;
    std::int64_t first, n;  // channels
    std::int64_t row_step, column_step;
    std::int32_t groups;
    Quads weights[kMaxWidth][kMaxGroups];
    Quads bias, scale, offset;
    __m512i low, high;
    Epilogue epilogues[kVectors];
    bool is_single = true;

    Chunk(const Conv& step, std::uint8_t* memory, std::int64_t first_channel)
        : s(step), arena(memory), first(first_channel), n(std::min<std::int64_t>(kChannels, s.out.channels - first)) {
        row_step = (s.in.at(1, 0) - s.in.at(0, 0)) * s.dilation_h;
        column_step = (s.in.at(0, 1) - s.in.at(0, 0)) * s.dilation_w;
        groups = (s.kernel_h + kRows - 1) / kRows;
        const __mmask64 exists = first_bytes(n);
        const auto* all = static_cast<const std::int8_t*>(s.weights) + first;
        for (std::int32_t b = 0; b < s.kernel_w; ++b) {
            for (std::int32_t g = 0; g < groups; ++g) {
                const auto row = [&](std::int32_t i) {
                    const std::int32_t a = g * kRows + i;
                    const std::int64_t tap = std::int64_t{a} * s.kernel_w + b;
                    return a < s.kernel_h ? _mm512_maskz_loadu_epi8(exists, all + tap * s.out.channels)
                                          : _mm512_setzero_si512();
                };
                weights[b][g] = interleaved(row(0), row(1), row(2), row(3));
            }
        }
        for (std::int32_t q = 0; q < kVectors; ++q) {
            const std::int64_t at = q * kBlock;
            epilogues[q] = at < n ? Epilogue(s, first + at, first + at, n - at) : Epilogue();
            is_single = is_single && (at >= n || epilogues[q].is_single);
        }
        is_single = is_single && !s.has_residual && !s.out.buffer.wide;
        bias = in_order((is_single ? s.single.bias : s.bias) + first, n);
        if (is_single) {
            scale = in_order(s.single.scale + first, n), offset = in_order(s.single.offset + first, n);
            low = _mm512_set1_epi8(static_cast<char>(dyadiq::engine::add(s.finish.low, s.out.code_offset)));
            high = _mm512_set1_epi8(static_cast<char>(dyadiq::engine::add(s.finish.high, s.out.code_offset)));
        }
    }

    DYADIQ_INLINE void finish(const Quads& sums, std::int32_t y, std::int32_t x, std::uint8_t* out) const {
        if (!is_single) {
            finish_blocks(sums, y, x);
            return;
        }
        __m512i v[kVectors];
        for (std::int32_t q = 0; q < kVectors; ++q) {
            v[q] = Epilogue::floored(sums.v[q], _mm512_castsi512_ps(scale.v[q]), _mm512_castsi512_ps(offset.v[q]));
        }
        const __m512i halves[2] = {_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3])};
        const __m512i bytes = _mm512_packus_epi16(halves[0], halves[1]);
        store_bytes(out, _mm512_min_epu8(_mm512_max_epu8(bytes, low), high), n);
    }

    void finish_blocks(const Quads& sums, std::int32_t y, std::int32_t x) const {
        alignas(64) std::int32_t lanes[kVectors][kBlock];
        for (std::int32_t q = 0; q < kVectors; ++q) {
            for (std::int32_t l = 0; l < kVectors; ++l) {
                const __m512i lane = _mm512_maskz_compress_epi32(static_cast<__mmask16>(0xF << 4 * l), sums.v[q]);
                _mm_store_si128(reinterpret_cast<__m128i*>(&lanes[l][4 * q]), _mm512_castsi512_si128(lane));
            }
        }
        const std::uint8_t* const residual = s.has_residual ? arena + s.residual.x.at(y, x) : arena;
        for (std::int32_t l = 0; l < kVectors && l * kBlock < n; ++l) {
            epilogues[l](_mm512_load_si512(lanes[l]), residual, arena + s.out.at(y, x));
        }
    }

    const std::uint8_t* input(std::int32_t y, std::int32_t x) const {
        return arena + first +
               s.in.at(std::int64_t{y} * s.stride_h - s.pad_h, std::int64_t{x} * s.stride_w - s.pad_w);
    }

    void run(std::int32_t first_row, std::int32_t last_row) const {
        for (std::int32_t y = first_row; y < last_row; ++y) {
            for (std::int32_t x = 0; x < s.out.buffer.width; ++x) {
                const std::uint8_t* const in = input(y, x);
                Quads sums = bias;
                for (std::int32_t b = 0; b < s.kernel_w; ++b) {
                    for (std::int32_t g = 0; g < groups; ++g) {
                        const std::uint8_t* const at = in + b * column_step + g * kRows * row_step;
                        add(sums, column(at, row_step, s.kernel_h - g * kRows), weights[b][g]);
                    }
                }
                finish(sums, y, x, arena + s.out.at(y, x) + first);
            }
        }
    }

    // 3 x 3, every column or every second one.
    void run_three(std::int32_t first_row, std::int32_t last_row, bool slides) const {
        const Quads w[3] = {weights[0][0], weights[1][0], weights[2][0]};
        const std::int64_t out_step = s.out.at(0, 1) - s.out.at(0, 0), stride = s.stride_w * column_step;
        const std::int32_t width = s.out.buffer.width;
        for (std::int32_t y = first_row; y < last_row; ++y) {
            const std::uint8_t* in = input(y, 0);
            std::uint8_t* out = arena + s.out.at(y, 0) + first;
            Quads left = column<3>(in, row_step), middle = column<3>(in + column_step, row_step);
            for (std::int32_t x = 0; x < width; ++x, in += stride, out += out_step) {
                const Quads right = column<3>(in + 2 * column_step, row_step);
                Quads sums = bias;
                add(sums, left, w[0]);
                add(sums, middle, w[1]);
                add(sums, right, w[2]);
                finish(sums, y, x, out);
                if (slides) {
                    left = middle, middle = right;
                } else if (x + 1 < width) {
                    left = right, middle = column<3>(in + 3 * column_step, row_step);
                }
            }
        }
    }
};

}  // namespace

void conv_depthwise(const Conv& s, Share share, std::uint8_t* arena) {
    if ((s.finish.sign && s.finished) || s.kernel_w > kMaxWidth || s.kernel_h > kMaxGroups * kRows) {
        kPortable.conv_depthwise(s, share, arena);
        return;
    }
    const std::int64_t height = s.out.buffer.height, n_rows = (s.out.channels + kChannels - 1) / kChannels * height;
    const std::int64_t last = share.last(n_rows);
    for (std::int64_t row = share.first(n_rows); row < last;) {
        const std::int64_t chunk_row = row % height, rows = std::min(height - chunk_row, last - row);
        const auto from = static_cast<std::int32_t>(chunk_row), to = static_cast<std::int32_t>(chunk_row + rows);
        const Chunk chunk(s, arena, row / height * kChannels);
        if (s.kernel_w == 3 && s.kernel_h == 3 && s.stride_w <= 2 && s.dilation_w == 1) {
            chunk.run_three(from, to, s.stride_w == 1);
        } else {
            chunk.run(from, to);
        }
        row += rows;
    }
}

}  // namespace dyadiq::engine::avx512vnni
