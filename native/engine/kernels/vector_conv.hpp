// Convolutions for instruction sets of 128 and 256 bits: what they have in common. Each is a class `Isa` with
//
//   kPixels                      of a tile at most, as registers allow
//   Sums                         of sixteen outputs of one pixel, as its instructions leave them; Sums{} is zero
//   weights<bits, i>(group)      quad i of a group of 8 / bits quads, times factor(bits)
//   dot(sums, weights, quad)     adds the products of a quad of codes, less kCodesLess each
//   store<bits>(sums, to)        what they sum up to, without the factor
//   Lanes                        sixteen int32 (avx2_lanes.hpp)
//   Small, is_small(weights, n)  void, or another such class that is faster and right for small weights only: those of
//                                at most 4 bits, and those of `n` bytes where `is_small` says so
//
// Channels of a depthwise convolution are lanes of plain loops, which compilers turn into vectors.
#pragma once

#include <array>
#include <type_traits>
#include <utility>

#include "engine/kernels/geometry.hpp"
#include "engine/kernels/vector_epilogue.hpp"

namespace dyadiq::engine {
namespace {

template <int kN, typename Visit>
[[gnu::always_inline]] inline void unrolled(Visit visit) {
    [&]<int... i>(std::integer_sequence<int, i...>) {
        (visit(std::integral_constant<int, i>{}), ...);
    }(std::make_integer_sequence<int, kN>{});
}

struct TileCall {
    std::int64_t pixel_step, quads, n_taps;
    const Tap* taps;
    const std::int8_t* weights;
};

using VectorTile = void (*)(const TileCall&, const std::uint8_t* in, std::int32_t* sums);

template <typename Isa, int kBits, int kPixels>
void tile(const TileCall& call, const std::uint8_t* in, std::int32_t* sums) {
    constexpr int kGroup = 8 / kBits;  // quads
    typename Isa::Sums all[kPixels] = {};
    for (std::int64_t t = 0; t < call.n_taps; ++t) {
        const std::uint8_t* x = in + call.taps[t].in;
        const std::int8_t* w = call.weights + call.taps[t].weights;
        for (std::int64_t quad = 0; quad < call.quads; quad += kGroup, w += kBlock * kQuad) {
            unrolled<kGroup>([&](auto i) {
                const auto weights = Isa::template weights<kBits, i>(w);
                unrolled<kPixels>([&](auto p) { Isa::dot(all[p], weights, x + p * call.pixel_step); });
                x += kQuad;
            });
        }
    }
    unrolled<kPixels>([&](auto p) { Isa::template store<kBits>(all[p], sums + p * kBlock); });
}

template <typename Isa, int kBits, int... p>
constexpr std::array<VectorTile, sizeof...(p)> make_tiles(std::integer_sequence<int, p...>) {
    return {tile<Isa, kBits, p + 1>...};
}

template <typename Isa, int kBits>  // of one pixel and more
inline constexpr auto kTiles = make_tiles<Isa, kBits>(std::make_integer_sequence<int, Isa::kPixels>{});

template <typename Isa>
const VectorTile* tiles_of(const Conv& s, const std::int8_t* weights, std::int64_t n_bytes, std::int64_t n_pixels) {
    using Small = std::conditional_t<std::is_void_v<typename Isa::Small>, Isa, typename Isa::Small>;
    switch (s.weight_bits) {
        case 1: return kTiles<Small, 1>.data();
        case 2: return kTiles<Small, 2>.data();
        case 4: return kTiles<Small, 4>.data();
        default: break;
    }
    if constexpr (!std::is_void_v<typename Isa::Small>) {
        constexpr std::int64_t kWorthLooking = 16;  // pixels
        if (n_pixels >= kWorthLooking && Isa::is_small(weights, n_bytes)) {
            return kTiles<Small, 8>.data();
        }
    }
    return kTiles<Isa, 8>.data();
}

// What codes lack that count kCodesLess less each.
template <typename Isa, int kBits>
void sum_weights(const TileCall& call, std::int32_t* sums) {
    constexpr std::uint8_t kOne = Isa::kCodesLess + 1, kOnes[kQuad] = {kOne, kOne, kOne, kOne};
    typename Isa::Sums all{};
    for (std::int64_t t = 0; t < call.n_taps; ++t) {
        const std::int8_t* w = call.weights + call.taps[t].weights;
        for (std::int64_t quad = 0; quad < call.quads; quad += 8 / kBits, w += kBlock * kQuad) {
            unrolled<8 / kBits>([&](auto i) { Isa::dot(all, Isa::template weights<kBits, i>(w), kOnes); });
        }
    }
    Isa::template store<kBits>(all, sums);
    for (int i = 0; i < kBlock; ++i) {
        sums[i] = multiply_add(0, sums[i], Isa::kCodesLess);
    }
}

template <typename Isa>
void sum_weights(std::int32_t bits, const TileCall& call, std::int32_t* sums) {
    switch (bits) {
        case 1: sum_weights<Isa, 1>(call, sums); break;
        case 2: sum_weights<Isa, 2>(call, sums); break;
        case 4: sum_weights<Isa, 4>(call, sums); break;
        default: sum_weights<Isa, 8>(call, sums); break;
    }
}

template <typename Isa>
void conv_packed(const Conv& s, Share share, std::uint8_t* arena) {
    const Geometry geometry(s, false, s.weight_bits);
    if (!geometry.fits()) {
        kPortable.conv_packed(s, share, arena);
        return;
    }
    const RoundingToNearest rounding;
    const auto one = [](std::int64_t) { return 1; };
    const auto most = [](int) { return Isa::kPixels; };
    geometry.each_run(share, one, most, [&](const Run& run) {
        const std::int64_t block_bytes = geometry.block_bytes(s.weight_bits), n_pixels = (run.last - run.first) * Isa::kPixels;
        const auto* weights = static_cast<const std::int8_t*>(s.weights) + run.at * block_bytes;
        const VectorTile* tiles = tiles_of<Isa>(s, weights, block_bytes, n_pixels);
        const std::int64_t in_group = run.block * kBlock;
        const VectorEpilogue<typename Isa::Lanes> epilogue(s, run.at * kBlock, run.group * geometry.n_out + in_group, geometry.n_out - in_group);
        TileCall call{geometry.pixel_step(), geometry.quads, 0, nullptr, weights};
        const std::int64_t out_step = bytes_of_pixel(s.out);
        const std::int64_t residual_step = s.has_residual ? bytes_of_pixel(s.residual.x) : 0;
        alignas(64) std::int32_t sums[Isa::kPixels * kBlock], less[kBlock] = {};
        geometry.each_tile(run, [&](std::int64_t y, std::int64_t x, std::int64_t count, const Tap* taps, const Window& seen) {
            const std::int64_t n_taps = geometry.n_taps(seen);
            if (Isa::kCodesLess != 0 && (call.taps != taps || call.n_taps != n_taps)) {
                sum_weights<Isa>(s.weight_bits, TileCall{0, call.quads, n_taps, taps, weights}, less);
            }
            call.taps = taps, call.n_taps = n_taps;
            tiles[count - 1](call, arena + geometry.input(y, run.group) + x * call.pixel_step, sums);
            std::uint8_t* out = arena + s.out.at(y, x);
            const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, x) : arena;
            for (std::int64_t p = 0; p < count; ++p, out += out_step, residual += residual_step) {
                for (int i = 0; Isa::kCodesLess != 0 && i < kBlock; ++i) {
                    sums[p * kBlock + i] = add(sums[p * kBlock + i], less[i]);
                }
                epilogue(sums + p * kBlock, residual, out);
            }
        });
    });
}

template <typename Isa, int kPixels>
void sparse_tile(const std::int32_t* places, std::int32_t n, const std::int8_t* w, std::int64_t pixel_step,
                 const std::uint8_t* in, std::int32_t* sums) {
    typename Isa::Sums all[kPixels] = {};
    for (std::int32_t i = 0; i < n; ++i, w += kBlock * kQuad) {
        const auto weights = Isa::template weights<8, 0>(w);
        const std::uint8_t* x = in + places[i];
        unrolled<kPixels>([&](auto p) { Isa::dot(all[p], weights, x + p * pixel_step); });
    }
    unrolled<kPixels>([&](auto p) { Isa::template store<8>(all[p], sums + p * kBlock); });
}

template <typename Isa, int... p>
constexpr auto make_sparse_tiles(std::integer_sequence<int, p...>) {
    return std::array{sparse_tile<Isa, p + 1>...};
}

template <typename Isa>
void conv_sparse(const Conv& s, Share share, std::uint8_t* arena) {
    constexpr auto kSparseTiles = make_sparse_tiles<Isa>(std::make_integer_sequence<int, Isa::kPixels>{});
    const Geometry geometry(s, false, 8);
    if (!geometry.fits_places()) {
        kPortable.conv_sparse(s, share, arena);
        return;
    }
    const RoundingToNearest rounding;
    const std::int64_t pixel_step = geometry.pixel_step();
    Places places;
    geometry.each_run_of_rows(share, Isa::kPixels, [&](const Run& run) {
        places.find(geometry, run.block);
        const auto* weights = static_cast<const std::int8_t*>(s.weights) + std::int64_t{s.starts[run.block]} * kBlock * kQuad;
        const std::int64_t first = run.block * kBlock;
        const VectorEpilogue<typename Isa::Lanes> epilogue(s, first, first, geometry.n_out - first);
        alignas(64) std::int32_t sums[Isa::kPixels * kBlock], less[kBlock] = {};
        std::int32_t known_from = -1, known_to = -1;  // quads whose weights `less` is of
        geometry.each_tile(run, [&](std::int64_t y, std::int64_t x, std::int64_t count, const Tap*, const Window& seen) {
            const std::int32_t from = places.rows[seen.first], to = places.rows[seen.last];
            const std::int8_t* w = weights + std::int64_t{from} * kBlock * kQuad;
            if (Isa::kCodesLess != 0 && (from != known_from || to != known_to)) {
                const Tap all{0, 0, Skipped::kNone};
                sum_weights<Isa, 8>(TileCall{0, to - from, to > from ? 1 : 0, &all, w}, less);
                known_from = from, known_to = to;
            }
            kSparseTiles[count - 1](places.in + from, to - from, w, pixel_step,
                                    arena + geometry.input(y, 0) + x * pixel_step, sums);
            for (std::int64_t p = 0; p < count; ++p) {
                for (int i = 0; Isa::kCodesLess != 0 && i < kBlock; ++i) {
                    sums[p * kBlock + i] = add(sums[p * kBlock + i], less[i]);
                }
                const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, x + p) : arena;
                epilogue(sums + p * kBlock, residual, arena + s.out.at(y, x + p));
            }
        });
    });
}

}  // namespace
}  // namespace dyadiq::engine
