#include "engine/codebook.hpp"

#include <algorithm>

namespace dyadiq::engine {
namespace {

// The same convolution of some of its outputs, by packed weights of 8 bits that lie elsewhere.
Conv part_of(const Conv& s, std::int64_t block, std::int64_t n_blocks, const std::int8_t* weights) {
    Conv part = s;
    const std::int64_t first = block * kBlock;
    const auto few = [&](Tensor& t) {
        t.first_channel += static_cast<std::int32_t>(first);
        t.channels = static_cast<std::int32_t>(std::min<std::int64_t>(n_blocks * kBlock, s.out.channels - first));
    };
    const auto move = [&](auto&... all) { ((all = all == nullptr ? nullptr : all + first), ...); };
    part.kind = ConvKind::kPacked;
    part.weight_bits = 8;
    part.weights = weights;
    few(part.out), few(part.residual.x);
    move(part.bias, part.dyadic.multiplier, part.dyadic.shift, part.residual.dyadic.multiplier, part.residual.dyadic.shift);
    move(part.single.bias, part.single.scale, part.single.offset, part.single.residual_scale, part.single.residual_offset);
    return part;
}

}  // namespace

void conv_codebook(const Kernels& kernels, const Conv& s, Share share, std::uint8_t* arena) {
    alignas(64) std::int8_t panel[kCodebookPanel];
    const std::int64_t pairs = s.pairs_of_block(), block_bytes = 2 * pairs * kBlock * kQuad;
    const std::int64_t blocks = (s.out.channels + kBlock - 1) / kBlock, at_once = kCodebookPanel / block_bytes;
    const auto* places = static_cast<const std::uint8_t*>(s.weights);
    for (std::int64_t block = 0; block < blocks; block += at_once) {
        const std::int64_t n = std::min(at_once, blocks - block);
        // Weights of the next block begin where those of this one end, without the quad that only fills it up.
        const std::int64_t quads = std::int64_t{s.kernel_h} * s.tap_columns() * s.quads_of_tap();
        for (std::int64_t b = 0; b < n; ++b) {
            kernels.look_up(places + (block + b) * pairs * kBlock * kQuad, pairs, s.table, panel + b * quads * kBlock * kQuad);
        }
        kernels.conv_packed(part_of(s, block, n, panel), share, arena);
    }
}

}  // namespace dyadiq::engine
