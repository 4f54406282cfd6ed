// Sparse convolutions in blocks of 4 outputs by 4 inputs, and the order of inputs that they read: lanes are positions side by
// side, over whole rows of quads. What lies between the end of one row of outputs and the next is computed along, and goes
// to a place that nobody reads. Sums come from avx512vnni_sparse4.S, from planes of few outputs from here.
#include <algorithm>

#include "engine/kernels/avx512vnni.hpp"
#include "engine/kernels/avx512vnni_epilogue.hpp"
#include "engine/kernels/portable.hpp"

namespace dyadiq::engine::avx512vnni {
namespace {

constexpr int kVectors = 6;                    // of a tile at most
constexpr int kPositions4 = kVectors * kBlock;  // of them
constexpr int kRows = kBlock / kQuad;          // of blocks, in one of 16 outputs
constexpr std::int64_t kFewPositions = 4;      // of which each is done alone

using Sparse4Tile = void (*)(const std::int32_t* places, std::int64_t n, const std::int8_t* weights, const std::uint8_t* in,
                             std::int32_t* sums, const std::int32_t* first);
extern "C" const Sparse4Tile dyadiq_avx512vnni_sparse4_tiles[2][kVectors];  // with a half vector at the end, or not

// Row i of a matrix of 16 by 16 becomes column i.
[[gnu::always_inline]] inline void transpose(__m512i (&m)[kBlock]) {
    __m512i pairs[kBlock], fours[kBlock];
#pragma GCC unroll 8
    for (int i = 0; i < kBlock; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(m[i], m[i + 1]), pairs[i + 1] = _mm512_unpackhi_epi32(m[i], m[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kBlock; i += 4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]), fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512i a = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0x88), b = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0x88);
        const __m512i c = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0xDD), d = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0xDD);
        m[i] = _mm512_shuffle_i32x4(a, b, 0x88), m[8 + i] = _mm512_shuffle_i32x4(a, b, 0xDD);
        m[4 + i] = _mm512_shuffle_i32x4(c, d, 0x88), m[12 + i] = _mm512_shuffle_i32x4(c, d, 0xDD);
    }
}

// In every quarter, row i of a matrix of 4 by 4 becomes column i.
[[gnu::always_inline]] inline void transpose(__m512i (&m)[kRows]) {
    const __m512i a = _mm512_unpacklo_epi32(m[0], m[1]), b = _mm512_unpackhi_epi32(m[0], m[1]);
    const __m512i c = _mm512_unpacklo_epi32(m[2], m[3]), d = _mm512_unpackhi_epi32(m[2], m[3]);
    m[0] = _mm512_unpacklo_epi64(a, c), m[1] = _mm512_unpackhi_epi64(a, c);
    m[2] = _mm512_unpacklo_epi64(b, d), m[3] = _mm512_unpackhi_epi64(b, d);
}

// Where the outputs and residuals of a tile's positions lie; those that are none have a place that nobody reads.
struct Lanes {
    alignas(64) std::uint8_t nowhere[kBlock] = {};
    std::uint8_t* out[kPositions4];
    const std::uint8_t* residual[kPositions4];
    std::int64_t exists[kPositions4];  // all ones or none

    void find(const Conv& s, std::int64_t first, std::int64_t n, std::uint8_t* arena) {
        const std::int64_t columns = s.columns_of_phase(), width = s.out.buffer.width;
        const Tensor& other = s.has_residual ? s.residual.x : s.out;
        const std::int64_t step = s.out.at(0, 1) - s.out.at(0, 0), other_step = other.at(0, 1) - other.at(0, 0);
        for (std::int64_t p = 0, y = first / columns, x = first % columns; p < n; x = 0, ++y) {
            const std::int64_t inside = y < s.out.buffer.height ? width : 0, end = std::min(p + columns - x, n);
            std::uint8_t* at = arena + s.out.at(y, x);
            const std::uint8_t* other_at = arena + other.at(y, x);
            for (; p < end; ++p, ++x, at += step, other_at += other_step) {
                exists[p] = x < inside ? -1 : 0;
                out[p] = x < inside ? at : nowhere;
                residual[p] = x < inside ? other_at : nowhere;
            }
        }
    }
};

// Sixteen outputs as codes in bytes, of which nothing but a residual in bytes is part.
struct Codes {
    const Conv& s;
    std::int64_t channel;
    __m512i low, high;

    static bool fits(const Conv& s, const Epilogue& epilogue, std::int64_t n_outputs) {
        return n_outputs >= kBlock && epilogue.is_single && !s.out.buffer.wide && !(s.has_residual && s.residual.x.buffer.wide);
    }
    Codes(const Conv& step, std::int64_t first) : s(step), channel(first) {
        low = _mm512_set1_epi8(static_cast<char>(add(s.finish.low, s.out.code_offset)));
        high = _mm512_set1_epi8(static_cast<char>(add(s.finish.high, s.out.code_offset)));
    }

    // Of one vector of positions, `step` sums from output to output.
    template <bool kResidual>
    [[gnu::noinline]] void store(const std::int32_t* sums, std::int64_t step, const Lanes& lanes, std::int64_t first) const {
        const auto place = [&](int quarter, int i) { return first + 4 * quarter + i; };
        const auto offset = [&](std::int64_t p) { return channel & lanes.exists[p]; };
        [[maybe_unused]] __m512i other[kRows];
        if constexpr (kResidual) {
#pragma GCC unroll 4
            for (int i = 0; i < kRows; ++i) {
                const auto at = [&](int quarter) {
                    const std::int64_t p = place(quarter, i);
                    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(lanes.residual[p] + offset(p)));
                };
                const __m256i left = _mm256_inserti128_si256(_mm256_castsi128_si256(at(0)), at(1), 1);
                const __m256i right = _mm256_inserti128_si256(_mm256_castsi128_si256(at(2)), at(3), 1);
                other[i] = _mm512_inserti64x4(_mm512_castsi256_si512(left), right, 1);
            }
            transpose(other);
        }
        const __m512i by_position = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
        [[maybe_unused]] const __m512i before = _mm512_set1_epi32(add(s.residual.before, -s.residual.x.code_offset));
        __m512i codes[kRows];
#pragma GCC unroll 4
        for (int row = 0; row < kRows; ++row) {
            __m512i y[kQuad];
#pragma GCC unroll 4
            for (int o = 0; o < kQuad; ++o) {
                const std::int64_t at = channel + row * kQuad + o;
                const __m512i sum = _mm512_loadu_si512(sums + (row * kQuad + o) * step);
                y[o] = Epilogue::floored(sum, _mm512_set1_ps(s.single.scale[at]), _mm512_set1_ps(s.single.offset[at]));
                if constexpr (kResidual) {
                    const __m512i byte = _mm512_and_si512(_mm512_srli_epi32(other[row], static_cast<unsigned>(8 * o)), _mm512_set1_epi32(0xFF));
                    const __m512 factor = _mm512_set1_ps(s.single.residual_scale[at]), summand = _mm512_set1_ps(s.single.residual_offset[at]);
                    y[o] = _mm512_add_epi32(y[o], Epilogue::nearest(_mm512_add_epi32(byte, before), factor, summand));
                }
            }
            const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(y[0], y[1]), _mm512_packs_epi32(y[2], y[3]));
            codes[row] = _mm512_min_epu8(_mm512_max_epu8(_mm512_shuffle_epi8(bytes, by_position), low), high);
        }
        transpose(codes);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
            const auto to = [&](int quarter) {
                const std::int64_t p = place(quarter, i);
                return reinterpret_cast<__m128i*>(lanes.out[p] + offset(p));
            };
            _mm_storeu_si128(to(0), _mm512_castsi512_si128(codes[i]));
            _mm_storeu_si128(to(1), _mm512_extracti32x4_epi32(codes[i], 1));
            _mm_storeu_si128(to(2), _mm512_extracti32x4_epi32(codes[i], 2));
            _mm_storeu_si128(to(3), _mm512_extracti32x4_epi32(codes[i], 3));
        }
    }
};

// Sums of 4 outputs of one position: four blocks at once, one in each quarter.
__m128i sums_of_position(const std::int32_t* places, std::int64_t n, const std::int8_t* w, const std::uint8_t* in) {
    const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    __m512i sums = _mm512_setzero_si512();
    const auto quad = [&](std::int64_t i) {
        std::int32_t found;
        std::memcpy(&found, in + std::int64_t{places[i]} * kQuad, sizeof found);
        return found;
    };
    std::int64_t i = 0;
    for (; i + 4 <= n; i += 4, w += kBytes) {
        const __m128i x = _mm_setr_epi32(quad(i), quad(i + 1), quad(i + 2), quad(i + 3));
        sums = _mm512_dpbusd_epi32(sums, _mm512_permutexvar_epi32(spread, _mm512_castsi128_si512(x)), _mm512_loadu_si512(w));
    }
    __m128i all = _mm_add_epi32(_mm_add_epi32(_mm512_castsi512_si128(sums), _mm512_extracti32x4_epi32(sums, 1)),
                                _mm_add_epi32(_mm512_extracti32x4_epi32(sums, 2), _mm512_extracti32x4_epi32(sums, 3)));
    for (; i < n; ++i, w += kQuad * kQuad) {
        all = _mm_dpbusd_epi32(all, _mm_set1_epi32(quad(i)), _mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
    }
    return all;
}

void few_positions(const Conv& s, Share share, std::uint8_t* arena) {
    const std::int64_t blocks = (s.out.channels + kBlock - 1) / kBlock;
    const auto* weights = static_cast<const std::int8_t*>(s.weights);
    for (std::int64_t block = share.first(blocks); block < share.last(blocks); ++block) {
        const std::int32_t* starts = s.starts + block * kRows;
        const std::int64_t first = block * kBlock;
        const Epilogue epilogue(s, first, first, s.out.channels - first);
        for (std::int64_t y = 0; y < s.out.buffer.height; ++y) {
            for (std::int64_t x = 0; x < s.out.buffer.width; ++x) {
                const std::uint8_t* in = arena + s.in.buffer.offset + (y * s.columns_of_phase() + x) * kQuad;
                alignas(64) std::int32_t sums[kBlock];
                for (int row = 0; row < kRows; ++row) {
                    const std::int64_t from = starts[row];
                    const __m128i found = sums_of_position(s.places + from, starts[row + 1] - from, weights + from * kQuad * kQuad, in);
                    _mm_store_si128(reinterpret_cast<__m128i*>(sums + row * kQuad), found);
                }
                const __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums), _mm512_loadu_si512(s.bias + first));
                epilogue(sum, s.has_residual ? arena + s.residual.x.at(y, x) : arena, arena + s.out.at(y, x));
            }
        }
    }
}

}  // namespace

void conv_sparse4(const Conv& s, Share share, std::uint8_t* arena) {
    if (s.finish.sign && s.finished) {
        portable::conv_sparse4(s, share, arena);
        return;
    }
    const std::int64_t positions = (std::int64_t{s.out.buffer.height} - 1) * s.columns_of_phase() + s.out.buffer.width;
    if (positions <= kFewPositions) {
        few_positions(s, share, arena);
        return;
    }
    const std::int64_t vectors = (positions + kBlock - 1) / kBlock, tiles = (vectors + kVectors - 1) / kVectors;
    const std::int64_t blocks = (s.out.channels + kBlock - 1) / kBlock, last = share.last(tiles * blocks);
    const auto* weights = static_cast<const std::int8_t*>(s.weights);
    alignas(64) std::int32_t sums[kBlock * kPositions4];
    Lanes lanes;
    std::int64_t known = -1;  // the tile of `lanes`
    for (std::int64_t item = share.first(tiles * blocks); item < last; ++item) {
        const std::int64_t tile = item / blocks, first = item % blocks * kBlock;
        const std::int64_t position = vectors * tile / tiles * kBlock, end = vectors * (tile + 1) / tiles * kBlock;
        if (tile != known) {
            lanes.find(s, position, end - position, arena);
            known = tile;
        }
        const bool ends_half = end >= positions + kBlock / 2;
        const Epilogue epilogue(s, first, first, s.out.channels - first);
        const bool in_bytes = Codes::fits(s, epilogue, s.out.channels - first);
        const std::int32_t* bias = (in_bytes ? s.single.bias : s.bias) + first;
        for (std::int64_t row = 0; row < kRows; ++row) {
            const std::int32_t from = s.starts[first / kQuad + row], to = s.starts[first / kQuad + row + 1];
            dyadiq_avx512vnni_sparse4_tiles[ends_half ? 1 : 0][(end - position) / kBlock - 1](
                s.places + from, to - from, weights + std::int64_t{from} * kQuad * kQuad,
                arena + s.in.buffer.offset + position * kQuad, sums + row * kQuad * (end - position), bias + row * kQuad);
        }
        const Codes codes(s, first);
        for (std::int64_t p = 0; p < end - position; p += kBlock) {
            if (in_bytes) {
                s.has_residual ? codes.store<true>(sums + p, end - position, lanes, p)
                               : codes.store<false>(sums + p, end - position, lanes, p);
                continue;
            }
            __m512i m[kBlock];
#pragma GCC unroll 16
            for (int o = 0; o < kBlock; ++o) {
                m[o] = _mm512_loadu_si512(sums + o * (end - position) + p);
            }
            transpose(m);
            for (int i = 0; i < kBlock; ++i) {
                if (lanes.exists[p + i] != 0) {
                    epilogue(m[i], lanes.residual[p + i], lanes.out[p + i]);
                }
            }
        }
    }
}

void pack_quads(const Quads& s, Share share, std::uint8_t* arena) {
    const Buffer &in = s.in.buffer, &out = s.out.buffer;
    const std::int64_t columns = out.width / s.stride_w, pixel_step = (s.in.at(0, 1) - s.in.at(0, 0)) * s.stride_w;
    const __m512i fill = _mm512_set1_epi8(static_cast<char>(in.fill));
    for (std::int64_t y = share.first(out.height); y < share.last(out.height); ++y) {
        const bool exists = y - s.pad_h < std::int64_t{in.height} + in.bottom;
        for (std::int64_t phase = 0; phase < s.stride_w; ++phase) {
            const std::int64_t x = phase - s.pad_w, end = std::int64_t{in.width} + in.right;
            const std::int64_t inside = !exists || x >= end ? 0 : std::min((end - x + s.stride_w - 1) / s.stride_w, columns);
            const std::uint8_t* const from = arena + s.in.at(exists ? y - s.pad_h : 0, exists ? x : 0);
            std::uint8_t* const to = arena + out.offset + s.at(y, phase);
            for (std::int64_t quad = 0; quad < s.n(); quad += kBlock) {
                const std::int64_t n_quads = std::min<std::int64_t>(s.n() - quad, kBlock);
                const __mmask16 quads = first_lanes(n_quads);
                for (std::int64_t column = 0; column < columns; column += kBlock) {
                    __m512i m[kBlock];
                    const std::uint8_t* at = from + column * pixel_step + quad * kQuad;
#pragma GCC unroll 16
                    for (int i = 0; i < kBlock; ++i) {
                        m[i] = _mm512_mask_loadu_epi32(fill, column + i < inside ? quads : __mmask16{0}, at + i * pixel_step);
                    }
                    transpose(m);
                    const __mmask16 pixels = first_lanes(columns - column);
                    std::uint8_t* quad_at = to + quad * s.step() + column * kQuad;
#pragma GCC unroll 16
                    for (int i = 0; i < kBlock; ++i) {
                        if (i < n_quads) {
                            _mm512_mask_storeu_epi32(quad_at + i * s.step(), pixels, m[i]);
                        }
                    }
                }
            }
        }
    }
}

}  // namespace dyadiq::engine::avx512vnni
