// Sparse convolutions in blocks of 4 outputs by 4 inputs, for instruction sets of 128 and 256 bits: lanes are sixteen
// positions side by side, over whole rows of quads; what lies between the end of one row of outputs and the next is
// computed along and left out. An `Isa` as in vector_conv.hpp has also
//
//   all_lanes(quad)                   weights of one quad, for every lane
//   dot_quads(sums, weights, codes)   as dot, of sixteen quads of codes
#pragma once

#include "engine/kernels/vector_conv.hpp"

namespace dyadiq::engine {
namespace {

// Sixteen positions of 4 outputs: from the first position's input on.
template <typename Isa>
void sparse4_tile(const std::int32_t* places, std::int64_t n, const std::int8_t* w, const std::uint8_t* in, std::int32_t* sums) {
    typename Isa::Sums all[kQuad] = {};
    for (std::int64_t i = 0; i < n; ++i, w += kQuad * kQuad) {
        const std::uint8_t* codes = in + std::int64_t{places[i]} * kQuad;
        unrolled<kQuad>([&](auto o) { Isa::dot_quads(all[o], Isa::all_lanes(w + o * kQuad), codes); });
    }
    unrolled<kQuad>([&](auto o) { Isa::template store<8>(all[o], sums + o * kBlock); });
}

template <typename Isa>
void conv_sparse4(const Conv& s, Share share, std::uint8_t* arena) {
    constexpr std::int64_t kRows = kBlock / kQuad;  // of blocks, in one of 16 outputs
    const RoundingToNearest rounding;
    const std::int64_t columns = s.columns_of_phase(), n_out = s.out.channels, blocks = (n_out + kBlock - 1) / kBlock;
    const std::int64_t positions = (std::int64_t{s.out.buffer.height} - 1) * columns + s.out.buffer.width;
    const std::int64_t vectors = (positions + kBlock - 1) / kBlock, last = share.last(blocks * vectors);
    const auto* weights = static_cast<const std::int8_t*>(s.weights);
    for (std::int64_t item = share.first(blocks * vectors); item < last;) {
        const std::int64_t block = item / vectors, first = block * kBlock, end = std::min(last, (block + 1) * vectors);
        const std::int32_t* starts = s.starts + block * kRows;
        const VectorEpilogue<typename Isa::Lanes> epilogue(s, first, first, n_out - first);
        std::int32_t less[kBlock] = {};  // what codes lack
        for (std::int64_t i = starts[0]; Isa::kCodesLess != 0 && i < starts[kRows]; ++i) {
            const std::int64_t row = std::upper_bound(starts, starts + kRows, i) - starts - 1;
            for (std::int64_t k = 0; k < kQuad * kQuad; ++k) {
                std::int32_t& of_output = less[row * kQuad + k / kQuad];
                of_output = multiply_add(of_output, weights[i * kQuad * kQuad + k], Isa::kCodesLess);
            }
        }
        for (; item < end; ++item) {
            const std::int64_t position = item % vectors * kBlock;
            alignas(64) std::int32_t sums[kBlock * kBlock];
            for (std::int64_t row = 0; row < kRows; ++row) {
                const std::int64_t from = starts[row];
                sparse4_tile<Isa>(s.places + from, starts[row + 1] - from, weights + from * kQuad * kQuad,
                                  arena + s.in.buffer.offset + position * kQuad, sums + row * kQuad * kBlock);
            }
            for (std::int64_t p = 0; p < std::min<std::int64_t>(kBlock, positions - position); ++p) {
                const std::int64_t y = (position + p) / columns, x = (position + p) % columns;
                if (x < s.out.buffer.width) {
                    alignas(64) std::int32_t of_pixel[kBlock];
                    for (std::int64_t o = 0; o < kBlock; ++o) {
                        of_pixel[o] = add(sums[o * kBlock + p], less[o]);
                    }
                    const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, x) : arena;
                    epilogue(of_pixel, residual, arena + s.out.at(y, x));
                }
            }
        }
    }
}

}  // namespace
}  // namespace dyadiq::engine
