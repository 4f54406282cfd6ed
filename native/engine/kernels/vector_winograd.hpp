// Winograd convolutions for instruction sets of 128 and 256 bits, F(2x2, 3x3) and F(2, 3) in integers, by the tiles of
// vector_conv.hpp: inputs and weights are transformed, products of the same positions summed over channels, sums transformed
// back. Ranges are proven by the writer (dyadiq/engine/winograd.py); what 128 and the lowest code add to sums is known from
// the weights. Vectors are those of the compiler, g++ or clang.
//
// Source: Lavin and Gray 2016, Fast algorithms for convolutional neural networks, section 4.1.
#pragma once

#include "engine/kernels/vector_conv.hpp"

namespace dyadiq::engine {
namespace {

constexpr std::int64_t kVectorBytes = 32;
using Bytes = std::uint8_t __attribute__((vector_size(kVectorBytes)));
using Ints = std::uint32_t __attribute__((vector_size(kVectorBytes)));  // that wrap

template <typename Vector>
[[gnu::always_inline]] inline void load_vector(const void* from, Vector& to) {
    std::memcpy(&to, from, sizeof to);
}

template <typename Vector>
[[gnu::always_inline]] inline void store_vector(const Vector& from, void* to) {
    std::memcpy(to, &from, sizeof from);
}

// The transforms of one line: inputs, weights (twice those of the source), sums.
[[gnu::always_inline]] inline void transform_inputs(const Bytes (&d)[4], Bytes (&to)[4]) {
    to[0] = d[0] - d[2], to[1] = d[1] + d[2], to[2] = d[2] - d[1], to[3] = d[1] - d[3];
}
[[gnu::always_inline]] inline void transform_weights(const Bytes (&w)[3], Bytes (&to)[4]) {
    const Bytes ends = w[0] + w[2];
    to[0] = w[0] + w[0], to[1] = ends + w[1], to[2] = ends - w[1], to[3] = w[2] + w[2];
}
template <typename Sums>
[[gnu::always_inline]] inline void transform_sums(const Sums (&m)[4], Sums (&to)[2]) {
    to[0] = m[0] + m[1] + m[2], to[1] = m[1] - m[2] - m[3];
}

// Signed bytes of quad i of a group.
template <int kBits, int i>
[[gnu::always_inline]] inline void unpack_bytes(const std::int8_t* group, Bytes& to) {
    Bytes all;
    load_vector(group, all);
    if constexpr (kBits == 8) {
        to = all;
        return;
    }
    constexpr std::uint8_t kMask = (1 << kBits) - 1, kSign = 1 << (kBits - 1);
    const Bytes code = (all >> static_cast<std::uint8_t>(kBits * i)) & kMask;
    to = kBits == 1 ? code + code - 1 : (code ^ kSign) - kSign;  // one bit: -1 and 1
}

// One share of a convolution. A line is the outputs that one line of tiles makes: of one row, or of two where rows are
// transformed. Rows of the kernel that are not are taps of the tiles.
template <typename Isa, bool kBothAxes>
struct VectorWinograd {
    static constexpr int kPlaces = kBothAxes ? 16 : 4, kTimes = kBothAxes ? 2 : 1, kOutputs = kBothAxes ? 4 : 2;
    static constexpr int kCentre = kBothAxes ? 5 : 1, kMostTaps = 3;
    static constexpr std::int64_t kPanelBytes = (kBothAxes ? 16 : 4 * kMostTaps) * std::int64_t{kMaxWinogradChannels} * kBlock;
    static constexpr std::int64_t kNear = 224 << 10, kWorthFilling = 256;  // bytes of inputs, and tiles, of a chunk
    using Small = std::conditional_t<std::is_void_v<typename Isa::Small>, Isa, typename Isa::Small>;

    const Conv& s;
    std::uint8_t* const arena;
    const bool is_column;                                    // the kernel
    const std::int64_t high, wide;                           // of the outputs of a tile
    const std::int64_t columns, quads, vector_bytes, n_taps;  // tiles of a line; of one position of a tile
    std::int64_t first, last;                                // lines
    std::uint8_t* inputs;                                    // transformed, of a chunk: [position][line][tile][channels]
    std::int64_t position_step = 0;
    Tap taps[kMostTaps];
    alignas(64) std::int8_t panel[kPanelBytes];                      // transformed weights of a block
    alignas(64) std::int32_t sums[kPlaces][Isa::kPixels * kBlock];
    alignas(64) std::uint32_t more[kOutputs][kBlock];                // what sums transformed back lack

    // Shares are of two rows of outputs: these have room for four of inputs, the last two of which are the next share's too.
    VectorWinograd(const Conv& step, Share share, std::uint8_t* memory)
        : s(step), arena(memory), is_column(!kBothAxes && s.kernel_w == 1), high(kBothAxes || is_column ? 2 : 1),
          wide(is_column ? 1 : 2), columns((s.out.buffer.width + wide - 1) / wide), quads((s.in.channels + kQuad - 1) / kQuad),
          vector_bytes(winograd_bytes(s.in.channels) / kPositions), n_taps(high == 1 ? s.kernel_h : 1) {
        const WinogradTiles tiles(s.out.buffer);
        first = share.first(tiles.rows), last = share.last(tiles.rows);
        inputs = memory + s.winograd.scratch.offset + first * tiles.columns * winograd_bytes(s.in.channels);
        if (high == 1) {
            first *= 2, last = std::min<std::int64_t>(2 * last, s.out.buffer.height);
        }
        for (std::int64_t tap = 0; tap < n_taps; ++tap) {
            taps[tap] = {tap * columns * vector_bytes, tap * quads * kBlock * kQuad, Skipped::kNone};
        }
    }

    std::int64_t position_bytes() const { return n_taps * quads * kBlock * kQuad; }  // of the panel

    void run() {
        const std::int64_t near = kNear / (kPlaces * columns * vector_bytes), worth = (kWorthFilling + columns - 1) / columns;
        const std::int64_t in_chunk = std::max<std::int64_t>(near, worth), blocks = (s.out.channels + kBlock - 1) / kBlock;
        for (std::int64_t line = first; line < last; line += in_chunk) {
            const std::int64_t n = std::min(in_chunk, last - line);
            read_inputs(line, n);
            for (std::int64_t block = 0; block < blocks; ++block) {
                switch (s.weight_bits) {
                    case 1: fill<1>(block); break;
                    case 2: fill<2>(block); break;
                    case 4: fill<4>(block); break;
                    default: fill<8>(block); break;
                }
                find_more();
                multiply(block, line, n);
            }
        }
    }

    void read_inputs(std::int64_t from_line, std::int64_t n) {
        position_step = (n + n_taps - 1) * columns * vector_bytes;
        const std::int64_t pixel = s.in.at(0, 1) - s.in.at(0, 0), row = s.in.at(1, 0) - s.in.at(0, 0);
        const std::int64_t n_bytes = quads * kQuad;
        const Buffer& out = s.out.buffer;
        std::uint8_t* to = inputs;
        for (std::int64_t line = from_line; line < from_line + n + n_taps - 1; ++line) {
            for (std::int64_t column = 0; column < columns; ++column, to += vector_bytes) {
                const std::int64_t y = line * high, x = column * wide;
                const std::uint8_t* const from = arena + s.in.at(y - s.pad_h, x - s.pad_w);
                // The last input is of the second output alone: where there is none, another stands for it.
                const std::int64_t last_row = y + 1 < out.height ? 3 : 2, last_column = x + 1 < out.width ? 3 : 2;
                const std::int64_t rows[4] = {0, row, 2 * row, last_row * row};
                const std::int64_t along[4] = {0, pixel, 2 * pixel, last_column * pixel};
                for (std::int64_t c = 0; c < n_bytes; c += kVectorBytes) {
                    read_tile(from + c, rows, is_column ? rows : along, to + c);
                }
            }
        }
    }

    // B' d B, or d B of one line, of one vector of channels.
    [[gnu::always_inline]] void read_tile(const std::uint8_t* from, const std::int64_t (&rows)[4], const std::int64_t (&along)[4],
                                          std::uint8_t* to) const {
        constexpr int kLines = kBothAxes ? 4 : 1;
        Bytes v[4][4];
        for (int y = 0; y < kLines; ++y) {
            Bytes d[4];
            for (int x = 0; x < 4; ++x) {
                load_vector(from + (kBothAxes ? rows[y] : 0) + along[x], d[x]);
            }
            transform_inputs(d, v[y]);
        }
        for (int x = 0; kBothAxes && x < 4; ++x) {
            const Bytes d[4] = {v[0][x], v[1][x], v[2][x], v[3][x]};
            Bytes moved[4];
            transform_inputs(d, moved);
            v[0][x] = moved[0], v[1][x] = moved[1], v[2][x] = moved[2], v[3][x] = moved[3];
        }
        const auto lowest = static_cast<std::uint8_t>(-(1 << kTimes) * s.winograd.low);  // taken away from the centre
        for (int place = 0; place < kPlaces; ++place) {
            const std::uint8_t more_of_code = place == kCentre ? lowest : 128;
            const Bytes moved = v[place / 4][place % 4] + more_of_code;
            store_vector(moved, to + place * position_step);
        }
    }

    // (2G) g (2G)', or g (2G)' of every row, of a block.
    template <int kBits>
    void fill(std::int64_t block) {
        constexpr int kGroup = 8 / kBits, kLines = kBothAxes ? 3 : 1;
        constexpr std::int64_t kQuadBytes = kBlock * kQuad;
        const std::int64_t tap_bytes = quads / kGroup * kQuadBytes, step = position_bytes();
        const auto* from = static_cast<const std::int8_t*>(s.weights) + block * s.kernel_h * s.kernel_w * tap_bytes;
        std::int8_t* to = panel;
        for (std::int64_t tap = 0; tap < n_taps; ++tap, from += 3 * kLines * tap_bytes) {
            for (const std::int8_t* group = from; group < from + tap_bytes; group += kQuadBytes) {
                unrolled<kGroup>([&](auto i) {
                    fill_quad<kBits, i>(group, tap_bytes, to, step);
                    fill_quad<kBits, i>(group + kVectorBytes, tap_bytes, to + kVectorBytes, step);
                    to += kQuadBytes;
                });
            }
        }
    }

    // Half of a quad, which is a vector.
    template <int kBits, int i>
    [[gnu::always_inline]] static void fill_quad(const std::int8_t* group, std::int64_t tap_bytes, std::int8_t* to, std::int64_t step) {
        constexpr int kLines = kBothAxes ? 3 : 1;
        Bytes u[4][4];
        for (int y = 0; y < kLines; ++y) {
            Bytes w[3];
            for (int x = 0; x < 3; ++x) {
                unpack_bytes<kBits, i>(group + (3 * y + x) * tap_bytes, w[x]);
            }
            transform_weights(w, u[y]);
        }
        for (int x = 0; kBothAxes && x < 4; ++x) {
            const Bytes w[3] = {u[0][x], u[1][x], u[2][x]};
            Bytes moved[4];
            transform_weights(w, moved);
            u[0][x] = moved[0], u[1][x] = moved[1], u[2][x] = moved[2], u[3][x] = moved[3];
        }
        for (int place = 0; place < kPlaces; ++place) {
            store_vector(u[place / 4][place % 4], to + place * step);
        }
    }

    // From what weights of each position sum up to: 128 too much but in the centre, kCodesLess too little in all. The
    // weights of the centre are the sums of kernels, which codes counted from the lowest have missed as often as that.
    void find_more() {
        constexpr std::uint8_t kOne = Isa::kCodesLess + 1, kOnes[kQuad] = {kOne, kOne, kOne, kOne};
        std::uint32_t known[kPlaces][kBlock];
        for (int place = 0; place < kPlaces; ++place) {
            typename Isa::Sums all{};
            const std::int8_t* const weights = panel + place * position_bytes();
            for (std::int64_t at = 0; at < position_bytes(); at += kBlock * kQuad) {
                Isa::dot(all, Isa::template weights<8, 0>(weights + at), kOnes);
            }
            alignas(64) std::int32_t of_place[kBlock];
            Isa::template store<8>(all, of_place);
            std::copy(of_place, of_place + kBlock, known[place]);
        }
        for (int o = 0; o < kBlock; ++o) {
            std::uint32_t lacks[4][4];
            for (int place = 0; place < kPlaces; ++place) {
                const std::uint32_t more_of_code = place == kCentre ? 0 : 128;
                lacks[place / 4][place % 4] = known[place][o] * (static_cast<std::uint32_t>(Isa::kCodesLess) - more_of_code);
            }
            std::uint32_t outputs[kOutputs];
            transform_back(lacks, outputs);
            const std::uint32_t lowest = known[kCentre][o] * static_cast<std::uint32_t>(s.winograd.low) << kTimes;
            for (int i = 0; i < kOutputs; ++i) {
                more[i][o] = outputs[i] + lowest;
            }
        }
    }

    // A' M A, or M A.
    template <typename Sums>
    [[gnu::always_inline]] static void transform_back(const Sums (&m)[4][4], Sums (&to)[kOutputs]) {
        if constexpr (kBothAxes) {
            Sums both[2][4];
            for (int x = 0; x < 4; ++x) {
                const Sums column[4] = {m[0][x], m[1][x], m[2][x], m[3][x]};
                Sums y[2];
                transform_sums(column, y);
                both[0][x] = y[0], both[1][x] = y[1];
            }
            for (int y = 0; y < 2; ++y) {
                Sums x[2];
                transform_sums(both[y], x);
                to[2 * y] = x[0], to[2 * y + 1] = x[1];
            }
        } else {
            transform_sums(m[0], to);
        }
    }

    void multiply(std::int64_t block, std::int64_t from_line, std::int64_t n) {
        const VectorTile* tiles = kTiles<Isa, 8>.data();
        if constexpr (!std::is_void_v<typename Isa::Small>) {
            tiles = Isa::is_small(panel, kPlaces * position_bytes()) ? kTiles<Small, 8>.data() : tiles;
        }
        const std::int64_t channel = block * kBlock, all = n * columns;
        const VectorEpilogue<typename Isa::Lanes> epilogue(s, channel, channel, s.out.channels - channel);
        TileCall call{vector_bytes, quads, n_taps, taps, nullptr};
        for (std::int64_t tile = 0; tile < all; tile += Isa::kPixels) {
            const std::int64_t count = std::min<std::int64_t>(Isa::kPixels, all - tile);
            for (int place = 0; place < kPlaces; ++place) {
                call.weights = panel + place * position_bytes();
                tiles[count - 1](call, inputs + place * position_step + tile * vector_bytes, sums[place]);
            }
            for (std::int64_t p = 0; p < count; ++p) {
                finish(epilogue, p, from_line + (tile + p) / columns, (tile + p) % columns);
            }
        }
    }

    void finish(const VectorEpilogue<typename Isa::Lanes>& epilogue, std::int64_t p, std::int64_t line, std::int64_t column) const {
        alignas(64) std::int32_t outputs[kOutputs][kBlock];
        for (int half = 0; half < kBlock; half += kBlock / 2) {
            Ints m[4][4], y[kOutputs];
            for (int place = 0; place < kPlaces; ++place) {
                load_vector(sums[place] + p * kBlock + half, m[place / 4][place % 4]);
            }
            transform_back(m, y);
            for (int i = 0; i < kOutputs; ++i) {
                Ints lacking;
                load_vector(more[i] + half, lacking);
                store_vector(y[i] + lacking, outputs[i] + half);
            }
        }
        for (int i = 0; i < kOutputs; ++i) {
            const std::int64_t y = line * high + (kBothAxes ? i / 2 : is_column ? i : 0);
            const std::int64_t x = column * wide + (kBothAxes ? i % 2 : is_column ? 0 : i);
            if (y < s.out.buffer.height && x < s.out.buffer.width) {
                for (std::int32_t& sum : outputs[i]) {
                    sum >>= kTimes;
                }
                epilogue(outputs[i], s.has_residual ? arena + s.residual.x.at(y, x) : arena, arena + s.out.at(y, x));
            }
        }
    }
};

template <typename Isa>
void conv_winograd(const Conv& s, Share share, std::uint8_t* arena) {
    constexpr std::int64_t kLeastTiles = 24;  // of 2 by 2 outputs in a share, for which weights are worth transforming
    if (WinogradTiles(s.out.buffer).n() < kLeastTiles * share.count) {
        conv_packed<Isa>(s, share, arena);
        return;
    }
    const RoundingToNearest rounding;
    if (s.kind == ConvKind::kWinograd1d) {
        VectorWinograd<Isa, false>(s, share, arena).run();
    } else {
        VectorWinograd<Isa, true>(s, share, arena).run();
    }
}

}  // namespace
}  // namespace dyadiq::engine
