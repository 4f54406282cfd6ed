// Winograd convolutions, F(2x2, 3x3) in integers: 16 products for 4 outputs of a channel, where others take 36.
//
// d is a tile of 4 x 4 inputs less the lowest code, g a kernel of 3 x 3: with B' d B and (2G) g (2G)', products of the same
// positions summed over channels are M, and A' M A is 4 times the outputs. What the writer proves is that (2G) g (2G)'
// fits int8 and B' d B, 128 added in all positions but (1, 1), uint8; so 16 products of matrices, by the tiles of
// avx512vnni_tiles.S, give the integers of the convolution itself. Each corner of M is part of one output alone: there
// sums start from the bias, less what 128 adds to all positions.
//
// Source: Lavin and Gray 2016, section 4.1; integers and their ranges: dyadiq/engine/winograd.py.
#include "engine/kernels/avx512vnni_winograd.hpp"

namespace dyadiq::engine::avx512vnni {
namespace {

constexpr int kCentre = 5, kTaps = 9;            // position (1, 1); weights of a kernel

// B' d B of 64 channels.
[[gnu::always_inline]] inline void transform_inputs(const std::uint8_t* const (&rows)[4], const std::int64_t (&columns)[4],
                                                    __m512i centre, std::uint8_t* to, std::int64_t step) {
    const __m512i other = _mm512_set1_epi8(static_cast<char>(0x80));
    __m512i t[4][4];
#pragma GCC unroll 4
    for (int x = 0; x < 4; ++x) {
        const __m512i d0 = _mm512_loadu_si512(rows[0] + columns[x]), d1 = _mm512_loadu_si512(rows[1] + columns[x]);
        const __m512i d2 = _mm512_loadu_si512(rows[2] + columns[x]), d3 = _mm512_loadu_si512(rows[3] + columns[x]);
        t[0][x] = _mm512_sub_epi8(d0, d2), t[1][x] = _mm512_add_epi8(d1, d2);
        t[2][x] = _mm512_sub_epi8(d2, d1), t[3][x] = _mm512_sub_epi8(d1, d3);
    }
#pragma GCC unroll 4
    for (int y = 0; y < 4; ++y) {
        const __m512i v[4] = {_mm512_sub_epi8(t[y][0], t[y][2]), _mm512_add_epi8(t[y][1], t[y][2]),
                              _mm512_sub_epi8(t[y][2], t[y][1]), _mm512_sub_epi8(t[y][1], t[y][3])};
#pragma GCC unroll 4
        for (int x = 0; x < 4; ++x) {
            const int position = 4 * y + x;
            _mm512_store_si512(to + position * step, _mm512_add_epi8(v[x], position == kCentre ? centre : other));
        }
    }
}

// Where the four outputs of a tile lie, from the first one; those outside are null.
struct Place {
    std::int64_t y, x;
    bool has_row, has_column;
};

// A' M A, four times the outputs: of rows y and columns x in [2 y + x].
[[gnu::always_inline]] inline void transform_outputs(const std::int32_t* m, std::int64_t step, __m512i (&to)[4]) {
    __m512i upper[4], lower[4];
#pragma GCC unroll 4
    for (int x = 0; x < 4; ++x) {
        const __m512i m0 = _mm512_load_si512(m + x * step), m1 = _mm512_load_si512(m + (4 + x) * step);
        const __m512i m2 = _mm512_load_si512(m + (8 + x) * step), m3 = _mm512_load_si512(m + (12 + x) * step);
        upper[x] = _mm512_add_epi32(_mm512_add_epi32(m0, m1), m2);
        lower[x] = _mm512_sub_epi32(_mm512_sub_epi32(m1, m2), m3);
    }
    to[0] = _mm512_add_epi32(_mm512_add_epi32(upper[0], upper[1]), upper[2]);
    to[1] = _mm512_sub_epi32(_mm512_sub_epi32(upper[1], upper[2]), upper[3]);
    to[2] = _mm512_add_epi32(_mm512_add_epi32(lower[0], lower[1]), lower[2]);
    to[3] = _mm512_sub_epi32(_mm512_sub_epi32(lower[1], lower[2]), lower[3]);
}

struct BothAxes : WinogradWorker<BothAxes, 2> {
    static constexpr int kPositions = engine::kPositions;
    static constexpr std::int64_t kPanelBytes = kPositions * std::int64_t{kMaxWinogradChannels} * kBlock;
    static constexpr Tap taps[] = {{0, 0, Skipped::kNone}};
    static constexpr std::int64_t n_taps = 1;

    const WinogradTiles tiles;
    const std::int64_t first, last;  // tiles
    std::uint8_t* const inputs;      // transformed, of the chunk: [band][position][tile][channels]
    std::int64_t first_of_chunk = 0, n_of_chunk = 0;

    BothAxes(const Conv& step, Share share, std::uint8_t* memory, std::int32_t* m)
        : WinogradWorker(step, memory, m), tiles(s.out.buffer), first(share.first(tiles.n())), last(share.last(tiles.n())),
          inputs(memory + s.winograd.scratch.offset + first * winograd_bytes(s.in.channels)) {}

    std::int64_t n_steps() const { return quads; }
    std::int64_t in_chunk() const { return std::max(kNear / winograd_bytes(s.in.channels) / most_tiles, std::int64_t{1}) * most_tiles; }

    // (2G) g (2G)' of a block, `step` bytes from one position's quads to the next one's.
    template <int kBits>
    TapSums fill(const std::int8_t* from, std::int8_t* to, std::int64_t step) {
        constexpr int kGroup = 8 / kBits;
        const __m512i one = _mm512_set1_epi8(1);
        const std::int64_t tap_bytes = quads / kGroup * kBytes;
        TapSums sums{};
        for (std::int64_t quad = 0; quad < quads; from += kBytes) {
            for (int i = 0; i < kGroup; ++i, ++quad, to += kBytes) {
                __m512i w[kTaps], columns[3][4];
    #pragma GCC unroll 9
                for (int tap = 0; tap < kTaps; ++tap) {
                    w[tap] = unpacked<kBits>(_mm512_loadu_si512(from + tap * tap_bytes), i);
                    sums.of[tap] = _mm512_dpbusd_epi32(sums.of[tap], one, w[tap]);
                }
    #pragma GCC unroll 3
                for (int x = 0; x < 3; ++x) {
                    transform_weights(w[x], w[3 + x], w[6 + x], columns[x]);
                }
    #pragma GCC unroll 4
                for (int y = 0; y < 4; ++y) {
                    __m512i u[4];
                    transform_weights(columns[0][y], columns[1][y], columns[2][y], u);
    #pragma GCC unroll 4
                    for (int x = 0; x < 4; ++x) {
                        _mm512_store_si512(to + (4 * y + x) * step, u[x]);
                    }
                }
            }
        }
        return sums;
    }

    void find_starts(__m512i bias, const TapSums& weights, int b, __m512i (&starts)[kPositions][kBlocks]) const {
        __m512i of_outputs[4];
        in_corners(s, bias, weights, of_outputs);
        const __m512i zero = _mm512_setzero_si512();
        starts[0][b] = of_outputs[0], starts[3][b] = _mm512_sub_epi32(zero, of_outputs[1]);
        starts[12][b] = _mm512_sub_epi32(zero, of_outputs[2]), starts[15][b] = of_outputs[3];
    }

    // What sums start from, in the corners: for output (y, x) in [2 y + x].
    static void in_corners(const Conv& s, __m512i bias, const TapSums& weights, __m512i (&starts)[4]) {
        const __m512i(&w)[9] = weights.of;
        const auto twice = [](__m512i x) { return _mm512_slli_epi32(x, 1); };
        // A' (2G) is {4, 0, 2} and {0, 2, -2}.
        const auto first = [&](__m512i a, __m512i c) { return twice(_mm512_add_epi32(twice(a), c)); };
        const auto second = [&](__m512i b, __m512i c) { return twice(_mm512_sub_epi32(b, c)); };
        __m512i rows[2][3], all = _mm512_setzero_si512();
        for (int x = 0; x < 3; ++x) {
            rows[0][x] = first(w[x], w[6 + x]), rows[1][x] = second(w[3 + x], w[6 + x]);
            all = _mm512_add_epi32(all, _mm512_add_epi32(_mm512_add_epi32(w[x], w[3 + x]), w[6 + x]));
        }
        // The middle position has no 128, and inputs are counted from the lowest code.
        const __m512i lowest = _mm512_mullo_epi32(all, _mm512_set1_epi32(32 + s.winograd.low));
        const __m512i more = _mm512_add_epi32(bias, lowest);
        for (int i = 0; i < 4; ++i) {
            const __m512i(&row)[3] = rows[i / 2];
            const __m512i all_128 = i % 2 == 0 ? first(row[0], row[2]) : second(row[1], row[2]);
            starts[i] = twice(twice(_mm512_sub_epi32(more, _mm512_slli_epi32(all_128, 5))));
        }
    }

    Place place(std::int64_t tile) const {
        const std::int64_t y = tile / tiles.columns * 2, x = tile % tiles.columns * 2;
        return {y, x, y + 1 < s.out.buffer.height, x + 1 < s.out.buffer.width};
    }

    // The tiles that products take at once, and where they lie transformed.
    template <typename Visit>
    void each_band(Visit visit) const {
        const std::int64_t bands = (n_of_chunk + most_tiles - 1) / most_tiles;
        for (std::int64_t band = 0, from = 0; band < bands; ++band) {
            const std::int64_t end = n_of_chunk * (band + 1) / bands, count = end - from;
            visit(first_of_chunk + from, count, inputs + from * kPositions * vector_bytes, count * vector_bytes);
            from = end;
        }
    }

    void read_chunk(std::int64_t from_tile, std::int64_t n) {
        first_of_chunk = from_tile, n_of_chunk = n;
        const std::int64_t pixel = bytes_of_pixel(s.in), row = bytes_of_row(s.in);
        const __m512i centre = _mm512_set1_epi8(static_cast<char>(-4 * s.winograd.low));
        each_band([&](std::int64_t of_band, std::int64_t count, std::uint8_t* to, std::int64_t position_step) {
            Place at = place(of_band);
            for (std::int64_t t = 0; t < count; ++t, to += vector_bytes) {
                const std::uint8_t* const d = arena + s.in.at(at.y - s.pad_h, at.x - s.pad_w);
                // The last line is of the second outputs alone: where there are none, another stands for it.
                const std::uint8_t* const rows[4] = {d, d + row, d + 2 * row, d + (at.has_row ? 3 : 2) * row};
                const std::int64_t columns[4] = {0, pixel, 2 * pixel, (at.has_column ? 3 : 2) * pixel};
                for (std::int64_t c = 0; c < vector_bytes; c += kBytes) {
                    const std::uint8_t* const from[4] = {rows[0] + c, rows[1] + c, rows[2] + c, rows[3] + c};
                    transform_inputs(from, columns, centre, to + c, position_step);
                }
                at = next(at);
            }
        });
    }

    template <Ending kEnding>
    void finish(const Finisher<2>& finisher, const std::int32_t* m, std::int64_t tile_step, std::int64_t of_band, std::int64_t count) const {
        constexpr std::int64_t kStep = kTiles * kBlocks * kBlock;
        const std::int64_t pixel = bytes_of_pixel(s.out), row = bytes_of_row(s.out);
        const std::int64_t other_pixel = s.has_residual ? bytes_of_pixel(s.residual.x) : 0;
        const std::int64_t other_row = s.has_residual ? bytes_of_row(s.residual.x) : 0;
        Place at = place(of_band);
        std::uint8_t* out = arena + s.out.at(at.y, at.x);
        const std::uint8_t* other = s.has_residual ? arena + s.residual.x.at(at.y, at.x) : arena;
        const std::int64_t out_turn = 2 * row - 2 * tiles.columns * pixel, other_turn = 2 * other_row - 2 * tiles.columns * other_pixel;
        const std::int64_t width = s.out.buffer.width, height = s.out.buffer.height;
        for (std::int64_t t = 0; t < count; ++t, m += tile_step) {
            __m512i y[4];
            transform_outputs(m, kStep, y);
            const std::int64_t down = at.has_row ? other_row : 0, right = at.has_column ? other_pixel : 0;
            const Four places{{out, out + pixel, out + row, out + row + pixel},
                              {other, other + right, other + down, other + down + right},
                              {true, at.has_column, at.has_row, at.has_row && at.has_column}};
            finisher.finish<kEnding>(y, places);
            at.x += 2, out += 2 * pixel, other += 2 * other_pixel;
            if (at.x >= width) {
                at.x = 0, at.y += 2, out += out_turn, other += other_turn;
                at.has_row = at.y + 1 < height;
            }
            at.has_column = at.x + 1 < width;
        }
    }

    Place next(Place at) const {
        at.x += 2;
        if (at.x >= s.out.buffer.width) {
            at.x = 0, at.y += 2;
            at.has_row = at.y + 1 < s.out.buffer.height;
        }
        at.has_column = at.x + 1 < s.out.buffer.width;
        return at;
    }
};

}  // namespace

void conv_winograd(const Conv& s, Share share, std::uint8_t* arena) {
    if (s.finish.sign && s.finished) {
        conv_packed(s, share, arena);
    } else if (s.kind == ConvKind::kWinograd1d) {
        conv_winograd1d(s, share, arena);
    } else {
        run_winograd<BothAxes>(s, share, arena);
    }
}

}  // namespace dyadiq::engine::avx512vnni
