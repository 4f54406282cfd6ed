// Depthwise convolutions, pools and quantizers as loops over lanes, which compilers turn into vectors of any length.
//
// A template over the instruction set only so that each has code of its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/kernels.hpp"
#include "engine/kernels/portable.hpp"
#include "engine/kernels/vector_epilogue.hpp"
#include "engine/pixels.hpp"

namespace dyadiq::engine {
namespace {

template <typename Isa>
void conv_depthwise(const Conv& s, Share share, std::uint8_t* arena) {
    constexpr std::int32_t kMaxTaps = 64;
    const std::int32_t n_taps = s.kernel_h * s.kernel_w;
    if (std::int64_t{s.kernel_h} * s.kernel_w > kMaxTaps) {
        kPortable.conv_depthwise(s, share, arena);
        return;
    }
    const RoundingToNearest rounding;
    const std::int64_t channels = s.out.channels, height = s.out.buffer.height;
    const std::int64_t n_rows = (channels + kBlock - 1) / kBlock * height, last = share.last(n_rows);
    const auto* all = static_cast<const std::int8_t*>(s.weights);
    alignas(64) std::int16_t weights[kMaxTaps][kBlock];
    std::int64_t taps[kMaxTaps];
    for (std::int32_t t = 0; t < n_taps; ++t) {
        taps[t] = s.in.at(t / s.kernel_w * s.dilation_h, t % s.kernel_w * s.dilation_w) - s.in.at(0, 0);
    }
    for (std::int64_t row = share.first(n_rows); row < last;) {
        const std::int64_t first = row / height * kBlock, n = std::min<std::int64_t>(kBlock, channels - first);
        for (std::int32_t t = 0; t < n_taps; ++t) {
            for (std::int64_t i = 0; i < kBlock; ++i) {
                weights[t][i] = i < n ? all[t * channels + first + i] : std::int16_t{0};
            }
        }
        const VectorEpilogue<typename Isa::Lanes> epilogue(s, first, first, n);
        const std::int64_t last_row = std::min(height, row % height + last - row);
        for (std::int64_t y = row % height; y < last_row; ++y, ++row) {
            for (std::int32_t x = 0; x < s.out.buffer.width; ++x) {
                const std::uint8_t* in =
                    arena + first + s.in.at(y * s.stride_h - s.pad_h, std::int64_t{x} * s.stride_w - s.pad_w);
                alignas(64) std::int32_t sums[kBlock] = {};
                for (std::int32_t t = 0; t < n_taps; ++t) {
                    std::uint8_t codes[kBlock];
                    std::memcpy(codes, in + taps[t], sizeof codes);
                    for (int i = 0; i < kBlock; ++i) {  // products of a byte and a signed byte fit 16 bits
                        sums[i] += static_cast<std::int16_t>(codes[i] * weights[t][i]);
                    }
                }
                const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, x) : arena;
                epilogue(sums, residual, arena + s.out.at(y, x));
            }
        }
    }
}

template <typename Isa>
void max_pool(const MaxPool& s, Share share, std::uint8_t* arena) {
    if (s.in.buffer.wide) {
        portable::max_pool(s, share, arena);
        return;
    }
    constexpr std::int64_t kBytes = 32;  // the arena has room behind what is read
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const PoolWindow<MaxPool> window(s, y, x, arena);
        std::uint8_t* const out = arena + s.out.at(y, x);
        for (std::int64_t c = 0; c < s.out.channels; c += kBytes) {
            std::uint8_t most[kBytes] = {}, codes[kBytes];  // bytes are at least 0
            window.each([&](const std::uint8_t* pixel) {
                std::memcpy(codes, pixel + c, sizeof codes);
                for (std::int64_t i = 0; i < kBytes; ++i) {
                    most[i] = std::max(most[i], codes[i]);
                }
            });
            if (c + kBytes <= s.out.channels) {
                std::memcpy(out + c, most, sizeof most);
            } else {
                std::memcpy(out + c, most, static_cast<std::size_t>(s.out.channels - c));
            }
        }
    });
}

template <typename Isa>
void sum_pool(const SumPool& s, Share share, std::uint8_t* arena) {
    if (s.in.buffer.wide) {
        portable::sum_pool(s, share, arena);
        return;
    }
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const PoolWindow<SumPool> window(s, y, x, arena);
        const std::int32_t factor = factor_at(s, y, x);
        // Codes are summed as they lie in memory.
        const std::int32_t start = multiply_add(multiply_add(s.bias, window.n_outside(), s.pad_value),
                                                static_cast<std::int32_t>(window.n_inside()), -s.in.code_offset);
        std::uint8_t* const out = arena + s.out.at(y, x);
        for (std::int64_t c = 0; c < s.out.channels; c += kBlock) {
            alignas(64) std::uint32_t sums[kBlock] = {};
            std::uint8_t codes[kBlock];
            window.each([&](const std::uint8_t* pixel) {
                std::memcpy(codes, pixel + c, sizeof codes);
                for (int i = 0; i < kBlock; ++i) {
                    sums[i] += codes[i];
                }
            });
            for (std::uint32_t& sum : sums) {
                sum = (sum + static_cast<std::uint32_t>(start)) * static_cast<std::uint32_t>(factor);
            }
            const std::int64_t n = std::min<std::int64_t>(kBlock, s.out.channels - c);
            std::memcpy(out + 4 * c, sums, static_cast<std::size_t>(4 * n));
        }
    });
}

// Whole rows of one channel in single precision, where that is sure to be right; the rest one value after another.
// The error of x * inverse + 1/2 is below 2^-23 times its magnitude, so its floor is right unless it is that near to an
// integer. What lies well beyond the limits is clipped, whatever it is.
template <typename Isa>
bool quantize(const Quantize& s, const Input& input, Share share, std::uint8_t* arena) {
    constexpr std::int64_t kMaxCode = 510, kPiece = 64;
    constexpr double kLeastScale = 1e-30;  // its inverse is a float
    constexpr float kDoubt = 0x1p-13F, kMagic = 0x1.8p23F;
    const std::int64_t lowest = std::int64_t{s.low} - s.zero_point, highest = std::int64_t{s.high} - s.zero_point;
    const bool is_narrow = lowest >= -kMaxCode && highest <= kMaxCode && s.scale > kLeastScale && s.scale < 1 / kLeastScale;
    if (s.sign || s.grid != nullptr || input.f32 == nullptr || s.out.buffer.wide || !is_narrow) {
        return portable::quantize(s, input, share, arena);
    }
    const RoundingToNearest rounding;
    const auto inverse = static_cast<float>(1 / s.scale), low = static_cast<float>(lowest), high = static_cast<float>(highest);
    const std::int32_t add_code = add(s.zero_point, s.out.code_offset);
    const std::int64_t width = s.out.buffer.width, height = s.out.buffer.height;
    const std::int64_t pixel_step = s.out.at(0, 1) - s.out.at(0, 0);
    bool finite = true;
    for (std::int64_t y = share.first(height); y < share.last(height); ++y) {
        for (std::int32_t c = 0; c < s.out.channels; ++c) {
            const float* const in = input.f32 + planar(s.out, c, y, 0);
            std::uint8_t* const out = arena + s.out.at(y, 0) + c;
            for (std::int64_t x = 0; x < width; x += kPiece) {
                const std::int64_t n = std::min(kPiece, width - x);
                alignas(64) float values[kPiece] = {};
                alignas(64) std::int32_t codes[kPiece], doubtful[kPiece];
                std::memcpy(values, in + x, static_cast<std::size_t>(n) * sizeof(float));
                std::int32_t any = 0, strange = 0;
                for (std::int64_t i = 0; i < kPiece; ++i) {
                    strange |= !(std::fabs(values[i]) <= std::numeric_limits<float>::max());
                    float v = __builtin_fmaf(values[i], inverse, 0.5F);
                    v = v > low - 1 ? v : low - 1;  // NaN becomes `low - 1`
                    v = v < high + 2 ? v : high + 2;
                    const float nearest = (v + kMagic) - kMagic;  // |v| < 2^22, rounded to an integer
                    doubtful[i] = (std::fabs(v - nearest) < kDoubt) & (v >= low) & (v <= high + 1);
                    any |= doubtful[i];
                    const float below = nearest > v ? nearest - 1 : nearest;
                    codes[i] = add(static_cast<std::int32_t>(std::min(std::max(below, low), high)), add_code);
                }
                for (std::int64_t i = 0; any != 0 && i < n; ++i) {
                    codes[i] = doubtful[i] != 0 ? add(portable::quantized(s, values[i], c), s.out.code_offset) : codes[i];
                }
                finite = finite && strange == 0;
                for (std::int64_t i = 0; i < n; ++i) {
                    out[(x + i) * pixel_step] = static_cast<std::uint8_t>(codes[i]);
                }
            }
        }
    }
    return finite;
}

}  // namespace
}  // namespace dyadiq::engine
