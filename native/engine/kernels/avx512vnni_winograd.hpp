// What Winograd convolutions of one axis and of two have in common: blocks of weights, transformed into a panel that stays
// near; inputs, transformed in chunks that do; products of both by the tiles of avx512vnni_tiles.S, position by position;
// and what becomes of four sums, which a transform back leaves 2 or 4 times too large.
//
// In a namespace without a name, as geometry.hpp.
#pragma once

#include "engine/kernels/avx512vnni.hpp"
#include "engine/kernels/avx512vnni_epilogue.hpp"

namespace dyadiq::engine::avx512vnni {

void conv_winograd1d(const Conv& step, Share share, std::uint8_t* arena);

namespace {

constexpr std::int64_t kApart = 64;  // bytes more from position to position: multiples of 4096 share few lines of a cache
constexpr std::int64_t kNear = 224 << 10;  // bytes of transformed inputs that stay near until all weights have met them
constexpr std::int64_t kBlocks = 2, kTiles = kMaxPixels2;  // of one product of matrices; with one block kMaxPixels1 tiles
constexpr std::int64_t kMostBlocks = 8;                    // in the panel

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

// Call `visit` with the bits of weights as a constant.
template <typename Visit>
auto with_bits(int bits, Visit visit) {
    switch (bits) {
        case 1: return visit(std::integral_constant<int, 1>{});
        case 2: return visit(std::integral_constant<int, 2>{});
        case 4: return visit(std::integral_constant<int, 4>{});
        default: return visit(std::integral_constant<int, 8>{});
    }
}

// One row of 2G times three lines.
[[gnu::always_inline]] inline void transform_weights(__m512i a, __m512i b, __m512i c, __m512i (&to)[4]) {
    const __m512i ends = _mm512_add_epi8(a, c);
    to[0] = _mm512_add_epi8(a, a), to[1] = _mm512_add_epi8(ends, b);
    to[2] = _mm512_sub_epi8(ends, b), to[3] = _mm512_add_epi8(c, c);
}

struct TapSums {  // of weights, over channels
    __m512i of[9];
};

// Four outputs of a block, where they lie; those that are not there have the residual of another.
struct Four {
    std::uint8_t* out[4];
    const std::uint8_t* residual[4];
    bool there[4];
};

// What becomes of the sums of one block, which are 2^kTimes times too large.
template <int kTimes>
struct Finisher {
    Epilogue epilogue;
    Ending ending = Ending::kSums;  // kSums: as the epilogue says
    __m512 scale;                   // of sums as they are
    __m512i magic, before, low, high;

    Finisher() = default;
    Finisher(const Conv& s, std::int64_t channel) : epilogue(s, channel, channel, s.out.channels - channel) {
        if (!epilogue.is_single || epilogue.mask != 0xFFFF || s.out.buffer.wide) {
            return;
        }
        scale = _mm512_mul_ps(epilogue.scale, _mm512_set1_ps(1.0F / (1 << kTimes)));
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

    // Of the weights that tiles get, whatever the ending.
    __m512i bias(const Conv& s) const {
        return _mm512_loadu_si512((ending == Ending::kSums ? s.bias : s.single.bias) + epilogue.channel);
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

    template <Ending kEnding>
    [[gnu::always_inline]] inline void finish(const __m512i (&y)[4], const Four& at) const {
        if constexpr (kEnding == Ending::kSums) {
            for (int i = 0; i < 4; ++i) {
                if (at.there[i]) {
                    epilogue(_mm512_srai_epi32(y[i], kTimes), at.residual[i], at.out[i]);
                }
            }
        } else {
            const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            const std::int64_t channel = epilogue.channel, other = kEnding == Ending::kCodesAndWide ? 4 * channel : channel;
            const __m512i y0 = code<kEnding>(y[0], at.residual[0] + other), y1 = code<kEnding>(y[1], at.residual[1] + other);
            const __m512i y2 = code<kEnding>(y[2], at.residual[2] + other), y3 = code<kEnding>(y[3], at.residual[3] + other);
            __m512i codes = _mm512_packus_epi16(_mm512_packs_epi32(y0, y1), _mm512_packs_epi32(y2, y3));
            codes = _mm512_min_epu8(_mm512_max_epu8(codes, low), high);
            codes = _mm512_permutexvar_epi32(order, codes);
            store<0>(codes, at, channel), store<1>(codes, at, channel), store<2>(codes, at, channel), store<3>(codes, at, channel);
        }
    }

    // Call `visit` with the ending as a constant.
    template <typename Visit>
    void with_ending(Visit visit) const {
        switch (ending) {
            case Ending::kCodes: visit(std::integral_constant<Ending, Ending::kCodes>{}); break;
            case Ending::kCodesAndBytes: visit(std::integral_constant<Ending, Ending::kCodesAndBytes>{}); break;
            case Ending::kCodesAndWide: visit(std::integral_constant<Ending, Ending::kCodesAndWide>{}); break;
            default: visit(std::integral_constant<Ending, Ending::kSums>{}); break;
        }
    }

   private:
    template <int i>
    [[gnu::always_inline]] static inline void store(__m512i codes, const Four& at, std::int64_t channel) {
        if (at.there[i]) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(at.out[i] + channel), _mm512_extracti32x4_epi32(codes, i));
        }
    }
};

// What works on one share of a convolution. `Transform` is a class that derives from it and says, of its axes,
//
//   kPositions, kTimes, kPanelBytes  of a tile; as of a Finisher; of transformed weights
//   n_steps()                        quads of one position of a block
//   first, last, in_chunk()          its share of tiles or lines, and how many stay near
//   fill<bits>(from, to, step)       transformed weights of a block, and what they sum up to
//   read_chunk(first, n)             transformed inputs
//   find_starts(bias, weights, b, starts)  what sums of a position start from
//   taps, n_taps                     where tiles read transformed inputs and weights
//   each_band(visit)                 calls visit(first, count, inputs, bytes to the next position's) for tiles
//   finish<ending>(finisher, m, step, first, count)  what becomes of their sums
template <typename Transform, int kTimes>
struct WinogradWorker {
    const Conv& s;
    std::uint8_t* const arena;
    const std::int64_t quads, blocks, vector_bytes;  // of one position of a tile
    std::int32_t* const sums;                        // [position][kTiles][kBlocks][16]
    Finisher<kTimes> finishers[kBlocks];
    std::int64_t most_tiles = kTiles;                // of one product of matrices
    const std::int8_t *ahead = nullptr, *ahead_end = nullptr;  // weights in the file that filling the panel comes to next

    WinogradWorker(const Conv& step, std::uint8_t* memory, std::int32_t* m)
        : s(step), arena(memory), quads((s.in.channels + kQuad - 1) / kQuad),
          blocks((s.out.channels + kBlock - 1) / kBlock), vector_bytes(winograd_bytes(s.in.channels) / kPositions), sums(m) {}

    Transform& self() { return static_cast<Transform&>(*this); }

    // Bytes from one position of n blocks of weights side by side to the next one.
    std::int64_t panel_step(std::int64_t n) { return n * self().n_steps() * kBytes + kApart; }

    // All tiles of the chunk with one or two blocks of weights.
    void multiply(const std::int8_t* panel, std::int64_t block, int n, const TapSums* weights) {
        __m512i starts[Transform::kPositions][kBlocks] = {};
        for (int b = 0; b < n; ++b) {
            finishers[b] = Finisher<kTimes>(s, (block + b) * kBlock);
            self().find_starts(finishers[b].bias(s), weights[b], b, starts);
        }
        Call call{};
        call.pixel_step = vector_bytes;
        call.quads = quads, call.block_bytes = self().n_steps() * kBytes;
        call.taps = self().taps, call.n_taps = self().n_taps;
        self().each_band([&](std::int64_t first, std::int64_t count, const std::uint8_t* from, std::int64_t position_step) {
            const Tile tile = n == 1 ? dyadiq_avx512vnni_tiles.one[count - 1] : dyadiq_avx512vnni_tiles.two[count - 1];
            for (int position = 0; position < Transform::kPositions; ++position) {
                call.weights = panel + position * panel_step(n);
                call.bias = reinterpret_cast<const std::int32_t*>(starts[position]);
                call.sums = sums + position * kTiles * kBlocks * kBlock;
                call.ahead = ahead < ahead_end ? ahead : call.weights;
                ahead += call.block_bytes;
                tile(&call, from + position * position_step, arena, arena);
            }
            for (int b = 0; b < n; ++b) {
                finishers[b].with_ending([&](auto ending) {
                    self().template finish<decltype(ending)::value>(finishers[b], sums + b * kBlock, n * kBlock, first, count);
                });
            }
        });
    }

    void run(std::int8_t* panel) {
        TapSums weights[kMostBlocks];
        const auto* const file = static_cast<const std::int8_t*>(s.weights);
        const std::int64_t block_bytes = Transform::kPositions * self().n_steps() * kBytes;
        const std::int64_t file_bytes = std::int64_t{s.kernel_h} * s.kernel_w * quads * kBytes * s.weight_bits / 8;
        std::int64_t in_panel = std::min({Transform::kPanelBytes / block_bytes, blocks, kMostBlocks});
        in_panel = in_panel > kBlocks ? in_panel / kBlocks * kBlocks : in_panel;
        most_tiles = in_panel == 1 ? kMaxPixels1 : kTiles;
        const std::int64_t first = self().first, last = self().last, all = last - first;
        const std::int64_t most = in_panel >= blocks ? std::min(std::max<std::int64_t>(self().in_chunk(), 1), all) : all;
        for (std::int64_t block = 0; block < blocks; block += in_panel) {
            const std::int64_t n = std::min(in_panel, blocks - block);
            for (std::int64_t b = 0; b < n; ++b) {  // pairs of blocks side by side
                const std::int64_t pair = b / kBlocks, of_pair = std::min(kBlocks, n - pair * kBlocks);
                std::int8_t* const to = panel + pair * Transform::kPositions * panel_step(kBlocks) + b % kBlocks * self().n_steps() * kBytes;
                const std::int8_t* const from = file + (block + b) * file_bytes;
                with_bits(s.weight_bits, [&](auto bits) {
                    weights[b] = self().template fill<decltype(bits)::value>(from, to, panel_step(of_pair));
                });
            }
            ahead = file + (block + n) * file_bytes;
            const std::int64_t n_next = std::min(in_panel, blocks - block - n);
            ahead_end = ahead + (n_next > 0 ? n_next * file_bytes : kNextSteps);
            for (std::int64_t chunk = first; chunk < last; chunk += most) {
                if (block == 0) {
                    self().read_chunk(chunk, std::min(most, last - chunk));
                }
                for (std::int64_t b = 0; b < n; b += kBlocks) {
                    const auto of_pair = static_cast<int>(std::min<std::int64_t>(kBlocks, n - b));
                    multiply(panel + b / kBlocks * Transform::kPositions * panel_step(kBlocks), block + b, of_pair, weights + b);
                }
            }
        }
    }
};

// Run the share of a convolution.
template <typename Transform>
void run_winograd(const Conv& s, Share share, std::uint8_t* arena) {
    alignas(64) std::int32_t sums[Transform::kPositions * kTiles * kBlocks * kBlock];
    alignas(64) std::int8_t panel[Transform::kPanelBytes + kMostBlocks * Transform::kPositions * kApart];
    Transform transform(s, share, arena, sums);
    if (transform.first < transform.last) {
        transform.run(panel);
    }
}

}  // namespace
}  // namespace dyadiq::engine::avx512vnni
