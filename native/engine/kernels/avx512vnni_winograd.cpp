// Winograd convolutions, F(2x2, 3x3) in integers: 16 products for 4 outputs of a channel, where others take 36.
//
// d is a tile of 4 x 4 inputs less the lowest code, g a kernel of 3 x 3: with B' d B and (2G) g (2G)', products of the same
// positions summed over channels are M, and A' M A is 4 times the outputs. What the writer proves is that (2G) g (2G)'
// fits int8 and B' d B, 128 added in all positions but (1, 1), uint8; so 16 products of matrices, by the tiles of
// avx512vnni_tiles.S, give the integers of the convolution itself. Each corner of M is part of one output alone: there
// sums start from the bias, less what 128 adds to all positions.
//
// Source: Lavin and Gray 2016, section 4.1; integers and their ranges: dyadiq/engine/winograd.py.
#include "engine/kernels/avx512vnni.hpp"
#include "engine/kernels/avx512vnni_epilogue.hpp"

namespace dyadiq::engine::avx512vnni {
namespace {

constexpr std::int64_t kPanelBytes = kPositions * std::int64_t{kMaxWinogradChannels} * kBlock;  // transformed weights
constexpr std::int64_t kApart = 64;  // bytes more from position to position: multiples of 4096 share few lines of a cache
constexpr std::int64_t kNear = 224 << 10;  // bytes of transformed inputs that stay near until all weights have met them
constexpr std::int64_t kBlocks = 2, kTiles = kMaxPixels2;  // of one product of matrices
constexpr int kCentre = 5, kTaps = 9;             // position (1, 1); weights of a kernel

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

// Signed bytes of quad i of a group.
template <int kBits>
[[gnu::always_inline]] inline __m512i unpacked(__m512i group, int i) {
    if constexpr (kBits == 8) {
        return group;
    }
    const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << kBits) - 1));
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(1 << (kBits - 1)));
    const __m512i code = _mm512_and_si512(_mm512_srli_epi32(group, static_cast<unsigned>(kBits * i)), mask);
    if constexpr (kBits == 1) {  // 0: -1, 1: 1
        return _mm512_sub_epi8(_mm512_add_epi8(code, code), sign);
    }
    return _mm512_sub_epi8(_mm512_xor_si512(code, sign), sign);
}

// One row of 2G times three lines.
[[gnu::always_inline]] inline void transform_weights(__m512i a, __m512i b, __m512i c, __m512i (&to)[4]) {
    const __m512i ends = _mm512_add_epi8(a, c);
    to[0] = _mm512_add_epi8(a, a), to[1] = _mm512_add_epi8(ends, b);
    to[2] = _mm512_sub_epi8(ends, b), to[3] = _mm512_add_epi8(c, c);
}

struct TapSums {  // of weights, over channels
    __m512i of[kTaps];
};

// (2G) g (2G)' of a block, `step` bytes from one position's quads to the next one's.
template <int kBits>
TapSums fill_panel(const std::int8_t* from, std::int64_t quads, std::int8_t* to, std::int64_t step) {
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

TapSums fill_panel(int bits, const std::int8_t* from, std::int64_t quads, std::int8_t* to, std::int64_t step) {
    switch (bits) {
        case 1: return fill_panel<1>(from, quads, to, step);
        case 2: return fill_panel<2>(from, quads, to, step);
        case 4: return fill_panel<4>(from, quads, to, step);
        default: return fill_panel<8>(from, quads, to, step);
    }
}

// What becomes of the sums of one block of a tile.
struct Finisher {
    Epilogue epilogue;
    Ending ending = Ending::kSums;  // kSums: as the epilogue says
    __m512 scale;                   // of four times the outputs
    __m512i magic, before, low, high;

    Finisher() = default;
    Finisher(const Conv& s, std::int64_t channel) : epilogue(s, channel, channel, s.out.channels - channel) {
        if (!epilogue.is_single || epilogue.mask != 0xFFFF || s.out.buffer.wide) {
            return;
        }
        scale = _mm512_mul_ps(epilogue.scale, _mm512_set1_ps(0.25F));
        low = _mm512_set1_epi8(static_cast<char>(add(s.finish.low, s.out.code_offset)));
        high = _mm512_set1_epi8(static_cast<char>(add(s.finish.high, s.out.code_offset)));
        std::uint32_t taken = kMagic;
        if (!s.has_residual) {
            ending = Ending::kCodes;
        } else if (s.residual.x.buffer.wide) {
            ending = Ending::kCodesAndWide;
            taken -= static_cast<std::uint32_t>(s.residual.before);
        } else {
            ending = Ending::kCodesAndBytes;
            taken += kMagic;
            before = _mm512_set1_epi32(add(s.residual.before, -s.residual.x.code_offset));
        }
        magic = _mm512_set1_epi32(static_cast<std::int32_t>(taken));
    }

    // What sums start from, in the corners: for output (y, x) in [2 y + x].
    void find_starts(const Conv& s, const TapSums& weights, __m512i (&starts)[4]) const {
        const std::int64_t channel = epilogue.channel;
        const __m512i bias = _mm512_loadu_si512((ending == Ending::kSums ? s.bias : s.single.bias) + channel);
        const __m512i(&w)[kTaps] = weights.of;
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
        const __m512i more = _mm512_add_epi32(bias, _mm512_mullo_epi32(all, _mm512_set1_epi32(32 + s.winograd.low)));
        for (int i = 0; i < 4; ++i) {
            const __m512i(&row)[3] = rows[i / 2];
            const __m512i all_128 = i % 2 == 0 ? first(row[0], row[2]) : second(row[1], row[2]);
            starts[i] = twice(twice(_mm512_sub_epi32(more, _mm512_slli_epi32(all_128, 5))));
        }
    }

    template <Ending kEnding>
    [[gnu::always_inline]] inline __m512i code(__m512i sum, const std::uint8_t* residual) const {
        __m512i y = _mm512_sub_epi32(Epilogue::bits<_MM_FROUND_TO_NEG_INF>(sum, scale, epilogue.offset), magic);
        if constexpr (kEnding == Ending::kCodesAndBytes) {
            const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(residual)));
            const __m512i x = _mm512_add_epi32(codes, before);
            y = _mm512_add_epi32(y, Epilogue::bits<_MM_FROUND_TO_NEAREST_INT>(x, epilogue.residual_scale, epilogue.residual_offset));
        } else if constexpr (kEnding == Ending::kCodesAndWide) {
            y = _mm512_add_epi32(y, _mm512_loadu_si512(residual));
        }
        return y;
    }
};

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

struct Worker {
    const Conv& s;
    std::uint8_t* const arena;
    const WinogradTiles tiles;
    const std::int64_t quads, blocks, vector_bytes;  // of one position of a tile
    std::int64_t first_of_chunk = 0, n_of_chunk = 0;
    std::uint8_t* inputs;  // transformed, of the chunk: [band][position][tile][channels]
    std::int32_t* sums;    // [position][kTiles][kBlocks][16]
    Finisher finishers[kBlocks];
    const std::int8_t *ahead = nullptr, *ahead_end = nullptr;  // weights in the file that filling the panel comes to next

    Worker(const Conv& step, std::uint8_t* memory, std::int64_t first, std::int32_t* m)
        : s(step), arena(memory), tiles(s.out.buffer), quads((s.in.channels + kQuad - 1) / kQuad),
          blocks((s.out.channels + kBlock - 1) / kBlock), vector_bytes(winograd_bytes(s.in.channels) / kPositions),
          inputs(memory + s.winograd.scratch.offset + first * winograd_bytes(s.in.channels)), sums(m) {}

    // Bytes from one position of n blocks of weights side by side to the next one.
    std::int64_t panel_step(std::int64_t n) const { return n * quads * kBytes + kApart; }

    Place place(std::int64_t tile) const {
        const std::int64_t y = tile / tiles.columns * 2, x = tile % tiles.columns * 2;
        return {y, x, y + 1 < s.out.buffer.height, x + 1 < s.out.buffer.width};
    }

    // Call `visit(first, count, inputs)` for the tiles that products take at once, and where they lie transformed.
    template <typename Visit>
    void each_band(Visit visit) const {
        const std::int64_t bands = (n_of_chunk + kTiles - 1) / kTiles;
        for (std::int64_t band = 0, first = 0; band < bands; ++band) {
            const std::int64_t end = n_of_chunk * (band + 1) / bands;
            visit(first_of_chunk + first, end - first, inputs + first * kPositions * vector_bytes);
            first = end;
        }
    }

    void read_chunk(std::int64_t first_tile, std::int64_t n) {
        first_of_chunk = first_tile, n_of_chunk = n;
        const std::int64_t pixel = bytes_of_pixel(s.in), row = bytes_of_row(s.in);
        const __m512i centre = _mm512_set1_epi8(static_cast<char>(-4 * s.winograd.low));
        each_band([&](std::int64_t first, std::int64_t count, std::uint8_t* to) {
            Place at = place(first);
            for (std::int64_t t = 0; t < count; ++t, to += vector_bytes) {
                const std::uint8_t* const d = arena + s.in.at(at.y - s.pad_h, at.x - s.pad_w);
                // The last line is of the second outputs alone: where there are none, another stands for it.
                const std::uint8_t* const rows[4] = {d, d + row, d + 2 * row, d + (at.has_row ? 3 : 2) * row};
                const std::int64_t columns[4] = {0, pixel, 2 * pixel, (at.has_column ? 3 : 2) * pixel};
                for (std::int64_t c = 0; c < vector_bytes; c += kBytes) {
                    const std::uint8_t* const from[4] = {rows[0] + c, rows[1] + c, rows[2] + c, rows[3] + c};
                    transform_inputs(from, columns, centre, to + c, count * vector_bytes);
                }
                at = next(at);
            }
        });
    }

    // All tiles of the chunk with one or two blocks of weights.
    void multiply(const std::int8_t* panel, std::int64_t block, int n, const TapSums* weights) {
        __m512i starts[kPositions][kBlocks] = {};
        for (int b = 0; b < n; ++b) {
            finishers[b] = Finisher(s, (block + b) * kBlock);
            __m512i of_outputs[4];
            finishers[b].find_starts(s, weights[b], of_outputs);
            const __m512i zero = _mm512_setzero_si512();
            starts[0][b] = of_outputs[0], starts[3][b] = _mm512_sub_epi32(zero, of_outputs[1]);
            starts[12][b] = _mm512_sub_epi32(zero, of_outputs[2]), starts[15][b] = of_outputs[3];
        }
        const Tap all{0, 0, Skipped::kNone};
        Call call{};
        call.pixel_step = vector_bytes;
        call.quads = quads, call.block_bytes = quads * kBytes;
        call.taps = &all, call.n_taps = 1;
        each_band([&](std::int64_t first, std::int64_t count, const std::uint8_t* from) {
            const Tile tile = n == 1 ? dyadiq_avx512vnni_tiles.one[count - 1] : dyadiq_avx512vnni_tiles.two[count - 1];
            for (int position = 0; position < kPositions; ++position) {
                call.weights = panel + position * panel_step(n);
                call.bias = reinterpret_cast<const std::int32_t*>(starts[position]);
                call.sums = sums + position * kTiles * kBlocks * kBlock;
                call.ahead = ahead < ahead_end ? ahead : call.weights;
                ahead += quads * kBytes;
                tile(&call, from + position * count * vector_bytes, arena, arena);
            }
            for (int b = 0; b < n; ++b) {
                finish(finishers[b], sums + b * kBlock, n * kBlock, first, count);
            }
        });
    }

    void finish(const Finisher& finisher, const std::int32_t* m, std::int64_t tile_step, std::int64_t first,
                std::int64_t count) const {
        switch (finisher.ending) {
            case Ending::kCodes: finish<Ending::kCodes>(finisher, m, tile_step, first, count); break;
            case Ending::kCodesAndBytes: finish<Ending::kCodesAndBytes>(finisher, m, tile_step, first, count); break;
            case Ending::kCodesAndWide: finish<Ending::kCodesAndWide>(finisher, m, tile_step, first, count); break;
            default: finish<Ending::kSums>(finisher, m, tile_step, first, count); break;
        }
    }

    template <Ending kEnding>
    void finish(const Finisher& finisher, const std::int32_t* m, std::int64_t tile_step, std::int64_t first,
                std::int64_t count) const {
        constexpr std::int64_t kStep = kTiles * kBlocks * kBlock;
        const std::int64_t channel = finisher.epilogue.channel;
        const std::int64_t pixel = bytes_of_pixel(s.out), row = bytes_of_row(s.out);
        const std::int64_t other_pixel = s.has_residual ? bytes_of_pixel(s.residual.x) : 0;
        const std::int64_t other_row = s.has_residual ? bytes_of_row(s.residual.x) : 0;
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        Place at = place(first);
        for (std::int64_t t = 0; t < count; ++t, m += tile_step) {
            __m512i y[4];
            transform_outputs(m, kStep, y);
            std::uint8_t* out = arena + s.out.at(at.y, at.x);
            const std::uint8_t* other = s.has_residual ? arena + s.residual.x.at(at.y, at.x) : arena;
            if constexpr (kEnding == Ending::kSums) {
                for (int i = 0; i < 4; ++i) {
                    if ((i / 2 == 0 || at.has_row) && (i % 2 == 0 || at.has_column)) {
                        finisher.epilogue(_mm512_srai_epi32(y[i], 2), other + i / 2 * other_row + i % 2 * other_pixel,
                                          out + i / 2 * row + i % 2 * pixel);
                    }
                }
            } else {
                other += kEnding == Ending::kCodesAndWide ? 4 * channel : channel;
                const std::int64_t down = at.has_row ? other_row : 0, right = at.has_column ? other_pixel : 0;
                const __m512i y0 = finisher.code<kEnding>(y[0], other), y1 = finisher.code<kEnding>(y[1], other + right);
                const __m512i y2 = finisher.code<kEnding>(y[2], other + down);
                const __m512i y3 = finisher.code<kEnding>(y[3], other + down + right);
                __m512i codes = _mm512_packus_epi16(_mm512_packs_epi32(y0, y1), _mm512_packs_epi32(y2, y3));
                codes = _mm512_min_epu8(_mm512_max_epu8(codes, finisher.low), finisher.high);
                codes = _mm512_permutexvar_epi32(order, codes);
                out += channel;
                const auto store = [](std::uint8_t* to, __m128i bytes) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes); };
                store(out, _mm512_castsi512_si128(codes));
                if (at.has_column) {
                    store(out + pixel, _mm512_extracti32x4_epi32(codes, 1));
                }
                if (at.has_row) {
                    store(out + row, _mm512_extracti32x4_epi32(codes, 2));
                }
                if (at.has_row && at.has_column) {
                    store(out + row + pixel, _mm512_extracti32x4_epi32(codes, 3));
                }
            }
            at = next(at);
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
    if (s.kind == ConvKind::kWinograd1d || (s.finish.sign && s.finished)) {
        conv_packed(s, share, arena);
        return;
    }
    constexpr std::int64_t kMostBlocks = 8;  // in the panel
    alignas(64) std::int8_t panel[kPanelBytes + kMostBlocks * kPositions * kApart];
    alignas(64) std::int32_t sums[kPositions * kTiles * kBlocks * kBlock];
    TapSums weights[kMostBlocks];
    const std::int64_t n_tiles = WinogradTiles(s.out.buffer).n(), first = share.first(n_tiles), last = share.last(n_tiles);
    if (first == last) {
        return;
    }
    Worker worker(s, arena, first, sums);
    const auto* const file = static_cast<const std::int8_t*>(s.weights);
    const std::int64_t block_bytes = kPositions * worker.quads * kBytes;
    const std::int64_t file_bytes = kTaps * worker.quads * kBytes * s.weight_bits / 8;
    std::int64_t in_panel = std::min({kPanelBytes / block_bytes, worker.blocks, kMostBlocks});
    in_panel = in_panel > kBlocks ? in_panel / kBlocks * kBlocks : in_panel;
    const std::int64_t all = last - first, in_chunk = kNear / winograd_bytes(s.in.channels) / kTiles * kTiles;
    const std::int64_t most = in_panel >= worker.blocks ? std::min(std::max<std::int64_t>(in_chunk, kTiles), all) : all;
    for (std::int64_t block = 0; block < worker.blocks; block += in_panel) {
        const std::int64_t n = std::min(in_panel, worker.blocks - block);
        for (std::int64_t b = 0; b < n; ++b) {  // pairs of blocks side by side
            const std::int64_t pair = b / kBlocks, of_pair = std::min(kBlocks, n - pair * kBlocks);
            std::int8_t* const to = panel + pair * kPositions * worker.panel_step(kBlocks) + b % kBlocks * worker.quads * kBytes;
            weights[b] = fill_panel(s.weight_bits, file + (block + b) * file_bytes, worker.quads, to, worker.panel_step(of_pair));
        }
        worker.ahead = file + (block + n) * file_bytes;
        const std::int64_t n_next = std::min(in_panel, worker.blocks - block - n);
        worker.ahead_end = worker.ahead + (n_next > 0 ? n_next * file_bytes : kNextSteps);
        for (std::int64_t chunk = first; chunk < last; chunk += most) {
            if (block == 0) {
                worker.read_chunk(chunk, std::min(most, last - chunk));
            }
            for (std::int64_t b = 0; b < n; b += kBlocks) {
                const auto of_pair = static_cast<int>(std::min<std::int64_t>(kBlocks, n - b));
                worker.multiply(panel + b / kBlocks * kPositions * worker.panel_step(kBlocks), block + b, of_pair, weights + b);
            }
        }
    }
}

}  // namespace dyadiq::engine::avx512vnni
