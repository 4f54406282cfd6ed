// From accumulators to codes, one value at a time: what every kernel's epilogue means. Header only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "engine/plan.hpp"

namespace dyadiq::engine {

// Sums of programs are proven not to overflow; those of a hostile file wrap instead of being undefined.
inline std::int32_t add(std::int32_t a, std::int32_t b) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
}

inline std::int32_t multiply_add(std::int32_t sum, std::int32_t a, std::int32_t b) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(sum) +
                                     static_cast<std::uint32_t>(a) * static_cast<std::uint32_t>(b));
}

inline std::int64_t rescale(std::int64_t x, const Dyadic& d, std::int64_t channel) {
    if (d.multiplier == nullptr) {
        return x;
    }
    const std::int32_t shift = d.shift[channel];
    const std::uint64_t rounding = shift > 0 ? std::uint64_t{1} << (shift - 1) : 0;
    const auto multiplier = static_cast<std::uint64_t>(std::int64_t{d.multiplier[channel]});
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(x) * multiplier + rounding) >> shift;
}

inline std::int32_t finished(std::int64_t sum, const Finish& f) {
    const std::int64_t y = sum + f.zero_point;
    if (f.sign) {
        return y >= 0 ? 1 : -1;
    }
    return static_cast<std::int32_t>(std::clamp<std::int64_t>(y, f.low, f.high));
}

// Weight number `i` of one block and tap: of 64 in a quad, quads in groups that fill 64 bytes.
inline std::int32_t packed_weight(const std::int8_t* weights, std::int32_t bits, std::int64_t i) {
    if (bits == 8) {
        return weights[i];
    }
    const std::int64_t quads = 8 / bits, lanes = kBlock * kQuad, quad = i / lanes;
    const auto byte = static_cast<std::uint8_t>(weights[quad / quads * lanes + i % lanes]);
    const std::int32_t code = byte >> (quad % quads * bits) & ((1 << bits) - 1), half = 1 << (bits - 1);
    return bits == 1 ? 2 * code - 1 : (code ^ half) - half;
}

// The code of a channel of the pixel at `at`, and its opposite.
inline std::int32_t load(const Tensor& t, const std::uint8_t* at, std::int64_t channel) {
    if (t.buffer.wide) {
        std::int32_t value;
        std::memcpy(&value, at + 4 * channel, sizeof value);
        return value;
    }
    return std::int32_t{at[channel]} - t.code_offset;
}

inline void store(const Tensor& t, std::uint8_t* at, std::int64_t channel, std::int32_t code) {
    if (t.buffer.wide) {
        std::memcpy(at + 4 * channel, &code, sizeof code);
    } else {
        at[channel] = static_cast<std::uint8_t>(add(code, t.code_offset));
    }
}

inline std::int64_t branch_value(const Branch& b, const std::uint8_t* at, std::int64_t channel, std::int64_t parameter) {
    const std::int64_t x = std::int64_t{load(b.x, at, channel)} + b.before;
    return std::clamp<std::int64_t>(rescale(x, b.dyadic, parameter), b.low, b.high);
}

// Store what becomes of the accumulator of a channel; `parameter` is its place among bias and dyadics.
inline void finish_accumulator(const Conv& s, std::int32_t sum, std::int64_t parameter, std::int64_t channel,
                               const std::uint8_t* residual_at, std::uint8_t* out_at) {
    const std::int32_t accumulator = add(sum, s.bias[parameter]);
    if (!s.finished) {
        store(s.out, out_at, channel, accumulator);
        return;
    }
    std::int64_t total = rescale(accumulator, s.dyadic, parameter);
    if (s.has_residual) {
        total += branch_value(s.residual, residual_at, channel, parameter);
    }
    store(s.out, out_at, channel, finished(total, s.finish));
}

}  // namespace dyadiq::engine
