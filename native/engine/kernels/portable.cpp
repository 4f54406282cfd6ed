// Kernels in plain C++: slow, obvious, the meaning of the others.
#include <bit>

#include "engine/kernels.hpp"
#include "engine/kernels/finish.hpp"
#include "engine/kernels/portable.hpp"
#include "engine/pixels.hpp"

namespace dyadiq::engine {
namespace {

void conv_packed(const Conv& s, Share share, std::uint8_t* arena) {
    const std::int32_t n_in = s.in.channels / s.groups, n_out = s.out.channels / s.groups;
    const std::int64_t quads = s.quads_of_tap(), blocks = (n_out + kBlock - 1) / kBlock;
    const std::int32_t columns = s.tap_columns(), taps = s.kernel_h * columns;
    const auto* weights = static_cast<const std::int8_t*>(s.weights);
    const std::int64_t all_blocks = std::int64_t{s.groups} * blocks, width = s.out.buffer.width;
    const std::int64_t n_items = s.out.buffer.height * width * all_blocks;
    for (std::int64_t item = share.first(n_items); item < share.last(n_items); ++item) {
        const std::int64_t group_block = item % all_blocks, y = item / all_blocks / width, x = item / all_blocks % width;
        const std::int64_t group = group_block / blocks, block = group_block % blocks;
        std::int32_t sums[kBlock] = {};
        const std::int8_t* of_block = weights + group_block * taps * quads * kBlock * kQuad * s.weight_bits / 8;
        for (std::int32_t tap = 0; tap < taps; ++tap) {
            const std::uint8_t* in = arena +
                                     s.in.at(y * s.stride_h - s.pad_h + tap / columns * s.dilation_h,
                                             x * s.stride_w - s.pad_w + tap % columns * s.dilation_w) +
                                     group * n_in;
            for (std::int64_t quad = 0; quad < quads; ++quad) {
                for (int o = 0; o < kBlock; ++o) {
                    for (int i = 0; i < kQuad; ++i) {
                        const std::int64_t at = ((tap * quads + quad) * kBlock + o) * kQuad + i;
                        const std::int32_t w = packed_weight(of_block, s.weight_bits, at);
                        sums[o] = multiply_add(sums[o], in[quad * kQuad + i], w);
                    }
                }
            }
        }
        const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, x) : nullptr;
        const std::int64_t n = std::min<std::int64_t>(kBlock, n_out - block * kBlock);
        for (std::int64_t o = 0; o < n; ++o) {
            const std::int64_t parameter = group_block * kBlock + o, channel = group * n_out + block * kBlock + o;
            finish_accumulator(s, sums[o], parameter, channel, residual, arena + s.out.at(y, x));
        }
    }
}

void conv_sparse(const Conv& s, Share share, std::uint8_t* arena) {
    const std::int64_t quads = (s.in.channels + kQuad - 1) / kQuad, blocks = (s.out.channels + kBlock - 1) / kBlock;
    const auto* weights = static_cast<const std::int8_t*>(s.weights);
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, x) : nullptr;
        for (std::int64_t block = 0; block < blocks; ++block) {
            std::int32_t sums[kBlock] = {};
            for (std::int64_t i = s.starts[block]; i < s.starts[block + 1]; ++i) {
                const std::int64_t tap = s.places[i] / quads, quad = s.places[i] % quads;
                const std::uint8_t* in = arena +
                                         s.in.at(std::int64_t{y} * s.stride_h - s.pad_h + tap / s.kernel_w * s.dilation_h,
                                                 std::int64_t{x} * s.stride_w - s.pad_w + tap % s.kernel_w * s.dilation_w);
                for (int k = 0; k < kBlock * kQuad; ++k) {
                    std::int32_t& sum = sums[k / kQuad];
                    sum = multiply_add(sum, in[quad * kQuad + k % kQuad], weights[i * kBlock * kQuad + k]);
                }
            }
            const std::int64_t first = block * kBlock, n = std::min<std::int64_t>(kBlock, s.out.channels - first);
            for (std::int64_t o = 0; o < n; ++o) {
                finish_accumulator(s, sums[o], first + o, first + o, residual, arena + s.out.at(y, x));
            }
        }
    });
}

void conv_depthwise(const Conv& s, Share share, std::uint8_t* arena) {
    const auto* weights = static_cast<const std::int8_t*>(s.weights);
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, x) : nullptr;
        std::uint8_t* out = arena + s.out.at(y, x);
        for (std::int32_t c = 0; c < s.out.channels; ++c) {
            std::int32_t sum = 0;
            for (std::int32_t a = 0; a < s.kernel_h; ++a) {
                for (std::int32_t b = 0; b < s.kernel_w; ++b) {
                    const std::int64_t at = s.in.at(y * s.stride_h - s.pad_h + a * s.dilation_h,
                                                    x * s.stride_w - s.pad_w + b * s.dilation_w);
                    const std::int64_t w = (std::int64_t{a} * s.kernel_w + b) * s.out.channels + c;
                    sum = multiply_add(sum, arena[at + c], weights[w]);
                }
            }
            finish_accumulator(s, sum, c, c, residual, out);
        }
    });
}

void conv_binary(const Conv& s, Share share, std::uint8_t* arena) {
    const std::int64_t words = s.in.channels / kQuad, blocks = (s.out.channels + kBlock - 1) / kBlock;
    const auto* all = static_cast<const std::uint32_t*>(s.weights);
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, x) : nullptr;
        const std::uint32_t* w = all;
        for (std::int64_t block = 0; block < blocks; ++block) {
            std::int32_t counts[kBlock] = {};
            for (std::int32_t tap = 0; tap < s.kernel_h * s.kernel_w; ++tap) {
                const std::uint8_t* in = arena + s.in.at(std::int64_t{y} * s.stride_h + tap / s.kernel_w * s.dilation_h,
                                                         std::int64_t{x} * s.stride_w + tap % s.kernel_w * s.dilation_w);
                for (std::int64_t i = 0; i < words; ++i, w += kBlock) {
                    std::uint32_t bits;
                    std::memcpy(&bits, in + i * kQuad, sizeof bits);
                    for (int o = 0; o < kBlock; ++o) {
                        counts[o] += std::popcount(s.binary.both ? bits & w[o] : bits ^ w[o]);
                    }
                }
            }
            const std::int64_t first = block * kBlock, n = std::min<std::int64_t>(kBlock, s.out.channels - first);
            for (std::int64_t o = 0; o < n; ++o) {
                const std::int32_t sum = multiply_add(0, counts[o], s.binary.factor);
                finish_accumulator(s, sum, first + o, first + o, residual, arena + s.out.at(y, x));
            }
        }
    });
}

void pack_bits(const Bits& s, Share share, std::uint8_t* arena) {
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const std::uint8_t* in = arena + s.in.at(y - s.pad_h, x - s.pad_w);
        std::uint8_t* out = arena + s.out.at(y, x);
        std::memset(out, 0, static_cast<std::size_t>(s.out.channels));
        for (std::int32_t c = 0; c < s.in.channels; ++c) {
            out[c / 8] = static_cast<std::uint8_t>(out[c / 8] | (in[c] != s.low) << c % 8);
        }
    });
}

void look_up(const std::uint8_t* places, std::int64_t n, const std::int8_t* table, std::int8_t* weights) {
    constexpr std::int64_t kBytes = kBlock * kQuad;
    for (std::int64_t i = 0; i < n * kBytes; ++i) {
        std::int8_t* to = weights + i / kBytes * 2 * kBytes + i % kBytes;
        to[0] = table[places[i] & 15], to[kBytes] = table[places[i] >> 4];
    }
}

}  // namespace

constinit const Kernels kPortable = only_built(
    {"portable", [] { return true; }, [] { return 0.0; }, conv_packed, conv_sparse, portable::conv_sparse4, portable::pack_quads, conv_packed, conv_depthwise,
     conv_binary, pack_bits, look_up,     portable::quantize, portable::join, portable::max_pool, portable::sum_pool});

}  // namespace dyadiq::engine
