// Winograd convolutions along one axis, F(2, 3) in integers: 4 products for 2 outputs of a channel, where others take 6.
//
// Along rows: with d B and g (2G)' of every row of inputs and kernel, products of the same positions summed over channels
// and rows of the kernel are M, and M A is twice the outputs. A row is transformed once for all rows of the kernel, which
// are taps of the tiles of avx512vnni_tiles.S; tiles of outputs lie one behind the other over the ends of rows. Kernels of
// one column are transformed along that: then a line is two rows of outputs. What the writer proves is that g (2G)' fits
// int8 and d B, 128 added in all positions but 1, uint8. The ends of M are part of one output alone: there sums start
// from the bias, less what 128 adds to all positions.
//
// Source: Lavin and Gray 2016, section 4.1; integers and their ranges: dyadiq/engine/winograd.py.
#include "engine/kernels/avx512vnni_winograd.hpp"

namespace dyadiq::engine::avx512vnni {
namespace {

struct OneAxis : WinogradWorker<OneAxis, 1> {
    static constexpr int kPositions = 4, kMostTaps = 3;
    static constexpr std::int64_t kPanelBytes = kBlocks * kPositions * kMostTaps * kMaxWinogradChannels * kBlock;

    const bool is_column;                // the kernel
    const std::int64_t columns, n_taps;  // tiles of a line; rows of the kernel that are not transformed
    std::int64_t first, last;            // lines
    std::uint8_t* inputs;                // transformed, of the chunk: [position][line][tile][channels]
    std::int64_t first_of_chunk = 0, n_of_chunk = 0;
    Tap taps[kMostTaps];

    // Shares are of two rows of outputs: these have room for four of inputs, the last two of which are the next share's too.
    OneAxis(const Conv& step, Share share, std::uint8_t* memory, std::int32_t* m)
        : WinogradWorker(step, memory, m), is_column(s.kernel_w == 1),
          columns(is_column ? s.out.buffer.width : WinogradTiles(s.out.buffer).columns), n_taps(is_column ? 1 : s.kernel_h) {
        const WinogradTiles tiles(s.out.buffer);
        first = share.first(tiles.rows), last = share.last(tiles.rows);
        inputs = memory + s.winograd.scratch.offset + first * tiles.columns * winograd_bytes(s.in.channels);
        if (!is_column) {
            first *= 2, last = std::min<std::int64_t>(2 * last, s.out.buffer.height);
        }
        for (std::int64_t tap = 0; tap < n_taps; ++tap) {
            taps[tap] = {tap * columns * vector_bytes, tap * quads * kBytes, Skipped::kNone};
        }
    }

    std::int64_t n_steps() const { return n_taps * quads; }

    std::int64_t in_chunk() const {
        const std::int64_t near = std::max<std::int64_t>(kNear / (kPositions * columns * vector_bytes) - n_taps + 1, 1);
        const std::int64_t chunks = (last - first + near - 1) / near;
        return (last - first + chunks - 1) / chunks;
    }

    // g (2G)' of a block, `step` bytes from one position's quads to the next one's.
    template <int kBits>
    TapSums fill(const std::int8_t* from, std::int8_t* to, std::int64_t step) {
        constexpr int kGroup = 8 / kBits;
        const __m512i one = _mm512_set1_epi8(1);
        const std::int64_t tap_bytes = quads / kGroup * kBytes;
        TapSums sums{};
        for (std::int64_t tap = 0; tap < n_taps; ++tap, from += 2 * tap_bytes) {
            for (std::int64_t quad = 0; quad < quads; from += kBytes) {
                const __m512i groups[3] = {_mm512_loadu_si512(from), _mm512_loadu_si512(from + tap_bytes),
                                           _mm512_loadu_si512(from + 2 * tap_bytes)};
                for (int i = 0; i < kGroup; ++i, ++quad, to += kBytes) {
                    __m512i w[3], u[kPositions];
#pragma GCC unroll 3
                    for (int x = 0; x < 3; ++x) {
                        w[x] = unpacked<kBits>(groups[x], i);
                        sums.of[x] = _mm512_dpbusd_epi32(sums.of[x], one, w[x]);
                    }
                    transform_weights(w[0], w[1], w[2], u);
#pragma GCC unroll 4
                    for (int position = 0; position < kPositions; ++position) {
                        _mm512_store_si512(to + position * step, u[position]);
                    }
                }
            }
        }
        return sums;
    }

    void find_starts(__m512i bias, const TapSums& weights, int b, __m512i (&starts)[kPositions][kBlocks]) const {
        const __m512i(&w)[9] = weights.of;
        const auto twice = [](__m512i x) { return _mm512_slli_epi32(x, 1); };
        const __m512i ends = _mm512_add_epi32(w[0], w[2]), second = _mm512_sub_epi32(ends, w[1]);
        const __m512i lowest = _mm512_mullo_epi32(_mm512_add_epi32(ends, w[1]), _mm512_set1_epi32(s.winograd.low));
        const __m512i whole = twice(_mm512_add_epi32(bias, lowest));
        const auto times_128 = [&](__m512i end) { return _mm512_slli_epi32(_mm512_add_epi32(twice(end), second), 7); };
        starts[0][b] = _mm512_sub_epi32(whole, times_128(w[0]));
        starts[3][b] = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_add_epi32(whole, times_128(w[2])));
    }

    bool has_second(std::int64_t line, std::int64_t column) const {
        return is_column ? 2 * line + 1 < s.out.buffer.height : 2 * column + 1 < s.out.buffer.width;
    }

    void read_chunk(std::int64_t from_line, std::int64_t n) {
        first_of_chunk = from_line, n_of_chunk = n;
        const std::int64_t step = is_column ? bytes_of_row(s.in) : bytes_of_pixel(s.in), position_step = bytes_of_position();
        const __m512i other = _mm512_set1_epi8(static_cast<char>(0x80));
        const __m512i middle = _mm512_set1_epi8(static_cast<char>(-2 * s.winograd.low));
        std::uint8_t* to = inputs;
        for (std::int64_t line = from_line; line < from_line + n + n_taps - 1; ++line) {
            for (std::int64_t column = 0; column < columns; ++column) {
                const std::int64_t y = is_column ? 2 * line : line, x = is_column ? column : 2 * column;
                const std::uint8_t* from = arena + s.in.at(y - s.pad_h, x - s.pad_w);
                // The last input is of the second output alone: where there is none, another stands for it.
                const std::int64_t last_step = has_second(line, column) ? 3 * step : 2 * step;
                for (std::int64_t c = 0; c < vector_bytes; c += kBytes, from += kBytes, to += kBytes) {
                    const __m512i d0 = _mm512_loadu_si512(from), d1 = _mm512_loadu_si512(from + step);
                    const __m512i d2 = _mm512_loadu_si512(from + 2 * step), d3 = _mm512_loadu_si512(from + last_step);
                    _mm512_store_si512(to, _mm512_add_epi8(_mm512_sub_epi8(d0, d2), other));
                    _mm512_store_si512(to + position_step, _mm512_add_epi8(_mm512_add_epi8(d1, d2), middle));
                    _mm512_store_si512(to + 2 * position_step, _mm512_add_epi8(_mm512_sub_epi8(d2, d1), other));
                    _mm512_store_si512(to + 3 * position_step, _mm512_add_epi8(_mm512_sub_epi8(d1, d3), other));
                }
            }
        }
    }

    std::int64_t bytes_of_position() const { return (n_of_chunk + n_taps - 1) * columns * vector_bytes; }

    template <typename Visit>
    void each_band(Visit visit) const {
        const std::int64_t all = n_of_chunk * columns, bands = (all + most_tiles - 1) / most_tiles;
        for (std::int64_t band = 0, from = 0; band < bands; ++band) {
            const std::int64_t end = all * (band + 1) / bands;
            visit(from, end - from, inputs + from * vector_bytes, bytes_of_position());
            from = end;
        }
    }

    template <Ending kEnding>
    void finish(const Finisher<1>& finisher, const std::int32_t* m, std::int64_t tile_step, std::int64_t of_band, std::int64_t count) const {
        constexpr std::int64_t kStep = kTiles * kBlocks * kBlock;
        const auto along = [&](const Tensor& t) { return is_column ? bytes_of_row(t) : bytes_of_pixel(t); };
        const std::int64_t step = along(s.out), other_step = s.has_residual ? along(s.residual.x) : 0;
        const std::int64_t high = is_column ? 2 : 1, wide = 3 - high;  // of a tile of outputs
        std::int64_t line = first_of_chunk + of_band / columns, column = of_band % columns;
        std::uint8_t* out = arena + s.out.at(high * line, wide * column);
        const std::uint8_t* other = s.has_residual ? arena + s.residual.x.at(high * line, wide * column) : arena;
        const auto turn = [&](const Tensor& t) { return high * bytes_of_row(t) - columns * wide * bytes_of_pixel(t); };
        const std::int64_t next = wide * bytes_of_pixel(s.out), out_turn = turn(s.out);
        const std::int64_t other_next = s.has_residual ? wide * bytes_of_pixel(s.residual.x) : 0;
        const std::int64_t other_turn = s.has_residual ? turn(s.residual.x) : 0;
        const std::int64_t all_lines = (s.out.buffer.height + high - 1) / high;
        // The last line, or the last column, of an odd number has first outputs alone.
        const std::int64_t single_line = is_column && s.out.buffer.height % 2 != 0 ? all_lines - 1 : all_lines;
        const std::int64_t single_column = !is_column && s.out.buffer.width % 2 != 0 ? columns - 1 : columns;
        for (std::int64_t t = 0; t < count; t += 2) {  // two tiles of two outputs each
            __m512i y[4];
            Four places{};
            for (int i = 0; i < 4; i += 2) {
                if (t + i / 2 == count) {
                    y[2] = y[0], y[3] = y[1];
                    places.residual[2] = places.residual[0], places.residual[3] = places.residual[1];
                    break;
                }
                const __m512i m0 = _mm512_load_si512(m), m1 = _mm512_load_si512(m + kStep);
                const __m512i m2 = _mm512_load_si512(m + 2 * kStep), m3 = _mm512_load_si512(m + 3 * kStep);
                y[i] = _mm512_add_epi32(_mm512_add_epi32(m0, m1), m2);
                y[i + 1] = _mm512_sub_epi32(_mm512_sub_epi32(m1, m2), m3);
                const bool both = line != single_line && column != single_column;
                places.out[i] = out, places.out[i + 1] = out + step;
                places.there[i] = true, places.there[i + 1] = both;
                places.residual[i] = other, places.residual[i + 1] = other + (both ? other_step : 0);
                m += tile_step, out += next, other += other_next;
                if (++column == columns) {
                    column = 0, ++line, out += out_turn, other += other_turn;
                }
            }
            finisher.finish<kEnding>(y, places);
        }
    }
};

}  // namespace

void conv_winograd1d(const Conv& s, Share share, std::uint8_t* arena) { run_winograd<OneAxis>(s, share, arena); }

}  // namespace dyadiq::engine::avx512vnni
