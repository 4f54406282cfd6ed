// Convolutions of bits: words of 32 inputs meet words of weights, and what is counted are ones. Each instruction set has a
// class `Set` with
//
//   kPixels            of a tile at most, as registers allow
//   kWords             after which counts are added to sums, before they overflow
//   Weights, load(at)  the words of sixteen outputs
//   Counts             of sixteen outputs of one pixel; Counts{} is zero
//   count<kBoth>(counts, weights, word)   adds the ones of `word & weights`, or of `word ^ weights`
//   Sums, add(sums, counts), store(sums, to)   int32, in order
//   Ending             of one block, made of a step, its first parameter and channel, and how many there are;
//                      ending(sums, residual, out): what sums without bias become
#pragma once

#include "engine/kernels/vector_conv.hpp"

namespace dyadiq::engine {
namespace {

template <typename Set, bool kBoth, int kPixels>
void binary_tile(const TileCall& call, const std::uint8_t* in, std::int32_t* sums) {
    typename Set::Sums all[kPixels] = {};
    for (std::int64_t t = 0; t < call.n_taps; ++t) {
        const std::uint8_t* x = in + call.taps[t].in;
        const std::int8_t* w = call.weights + call.taps[t].weights;
        for (std::int64_t word = 0; word < call.quads;) {
            const std::int64_t end = std::min<std::int64_t>(call.quads, word + Set::kWords);
            typename Set::Counts counts[kPixels] = {};
            for (; word < end; ++word, x += kQuad, w += kBlock * kQuad) {
                const auto weights = Set::load(w);
                unrolled<kPixels>([&](auto p) { Set::template count<kBoth>(counts[p], weights, x + p * call.pixel_step); });
            }
            unrolled<kPixels>([&](auto p) { Set::add(all[p], counts[p]); });
        }
    }
    unrolled<kPixels>([&](auto p) { Set::store(all[p], sums + p * kBlock); });
}

template <typename Set, bool kBoth, int... p>
constexpr std::array<VectorTile, sizeof...(p)> make_binary_tiles(std::integer_sequence<int, p...>) {
    return {binary_tile<Set, kBoth, p + 1>...};
}

template <typename Set, bool kBoth>  // of one pixel and more
inline constexpr auto kBinaryTiles = make_binary_tiles<Set, kBoth>(std::make_integer_sequence<int, Set::kPixels>{});

template <typename Set>
void conv_binary(const Conv& s, Share share, std::uint8_t* arena) {
    const Geometry geometry(s, false, 8);
    if (!geometry.fits()) {
        kPortable.conv_binary(s, share, arena);
        return;
    }
    const RoundingToNearest rounding;
    const VectorTile* tiles = s.binary.both ? kBinaryTiles<Set, true>.data() : kBinaryTiles<Set, false>.data();
    const std::int64_t block_bytes = geometry.block_bytes(8), out_step = bytes_of_pixel(s.out);
    const std::int64_t residual_step = s.has_residual ? bytes_of_pixel(s.residual.x) : 0;
    const auto one = [](std::int64_t) { return 1; };
    const auto most = [](int) { return Set::kPixels; };
    geometry.each_run(share, one, most, [&](const Run& run) {
        const std::int64_t first = run.block * kBlock;
        const typename Set::Ending ending(s, first, first, geometry.n_out - first);
        TileCall call{geometry.pixel_step(), geometry.quads, 0, nullptr,
                      static_cast<const std::int8_t*>(s.weights) + run.block * block_bytes};
        alignas(64) std::int32_t sums[Set::kPixels * kBlock];
        geometry.each_tile(run, [&](std::int64_t y, std::int64_t x, std::int64_t count, const Tap* taps, const Window& seen) {
            call.taps = taps, call.n_taps = geometry.n_taps(seen);
            tiles[count - 1](call, arena + geometry.input(y, 0) + x * call.pixel_step, sums);
            for (std::int64_t i = 0; i < count * kBlock; ++i) {
                sums[i] = multiply_add(0, sums[i], s.binary.factor);
            }
            std::uint8_t* out = arena + s.out.at(y, x);
            const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, x) : arena;
            for (std::int64_t p = 0; p < count; ++p, out += out_step, residual += residual_step) {
                ending(sums + p * kBlock, residual, out);
            }
        });
    });
}

// Whether up to eight bytes are not `low`, the first in the lowest bit.
inline std::uint8_t bits_of(const std::uint8_t* from, std::int64_t n, std::uint8_t low) {
    constexpr std::uint64_t kOnes = 0x0101010101010101, kRest = 0x7F * kOnes;
    std::uint64_t bytes = low * kOnes;
    std::memcpy(&bytes, from, static_cast<std::size_t>(std::min<std::int64_t>(n, 8)));
    bytes ^= low * kOnes;
    const std::uint64_t tops = (((bytes & kRest) + kRest) | bytes) & ~kRest;  // of bytes that are not 0
    return static_cast<std::uint8_t>((tops >> 7) * 0x0102040810204080 >> 56);
}

// `Wide::bytes` channels at once while there are as many, as `Wide::bits(from, low, to)` stores them; then eight.
template <typename Wide>
void pack_bits(const Bits& s, Share share, std::uint8_t* arena) {
    const std::int64_t channels = s.in.channels, out_bytes = s.out.channels;
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const std::uint8_t* in = arena + s.in.at(y - s.pad_h, x - s.pad_w);
        std::uint8_t* out = arena + s.out.at(y, x);
        std::int64_t c = 0;
        for (; c + Wide::kBytes <= channels; c += Wide::kBytes) {
            Wide::bits(in + c, s.low, out + c / 8);
        }
        for (; c < 8 * out_bytes; c += 8) {
            out[c / 8] = c < channels ? bits_of(in + c, channels - c, s.low) : std::uint8_t{0};
        }
    });
}

}  // namespace
}  // namespace dyadiq::engine
