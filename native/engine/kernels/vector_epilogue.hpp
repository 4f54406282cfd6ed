// What turns the sums of sixteen outputs into codes, as loops over sixteen lanes that compilers turn into vectors.
//
// Used by kernels of 128 and 256 bits. Single precision where that is proven, else one value after another in 64 bits.
#pragma once

#include <bit>
#include <cfenv>
#include <cstring>

#include "engine/kernels/finish.hpp"

namespace dyadiq::engine {
namespace {

// What `single` asks of the processor; a caller may have set another way of rounding.
class RoundingToNearest {
   public:
    RoundingToNearest() : before_(std::fegetround()) { std::fesetround(FE_TONEAREST); }
    ~RoundingToNearest() { std::fesetround(before_); }
    RoundingToNearest(const RoundingToNearest&) = delete;
    RoundingToNearest& operator=(const RoundingToNearest&) = delete;

   private:
    int before_;
};

struct VectorEpilogue {
    static constexpr std::int32_t kMagicBits = 0x4B400000;  // of 1.5 * 2^23

    const Conv& s;
    std::int64_t parameter, channel, n;  // the first of bias and dyadics, and of the output; outputs that exist
    bool is_single;
    alignas(64) float scale[kBlock], offset[kBlock], residual_scale[kBlock], residual_offset[kBlock];
    alignas(64) std::int32_t bias[kBlock];

    VectorEpilogue(const Conv& step, std::int64_t first_parameter, std::int64_t first_channel, std::int64_t n_outputs)
        : s(step), parameter(first_parameter), channel(first_channel), n(std::min<std::int64_t>(n_outputs, kBlock)) {
        is_single = n == kBlock && s.finished && s.single.scale != nullptr;
        for (int i = 0; is_single && i < kBlock; ++i) {
            is_single = s.single.scale[parameter + i] >= 0;
        }
        if (!is_single) {
            return;
        }
        std::memcpy(scale, s.single.scale + parameter, sizeof scale);
        std::memcpy(offset, s.single.offset + parameter, sizeof offset);
        std::memcpy(bias, s.single.bias + parameter, sizeof bias);
        if (s.single.residual_scale != nullptr) {
            std::memcpy(residual_scale, s.single.residual_scale + parameter, sizeof residual_scale);
            std::memcpy(residual_offset, s.single.residual_offset + parameter, sizeof residual_offset);
        }
    }

    // Sums without bias.
    [[gnu::always_inline]] void operator()(const std::int32_t* sums, const std::uint8_t* residual_at,
                                           std::uint8_t* out_at) const {
        if (!is_single) {
            for (std::int64_t i = 0; i < n; ++i) {
                finish_accumulator(s, sums[i], parameter + i, channel + i, residual_at, out_at);
            }
            return;
        }
        alignas(64) std::int32_t y[kBlock];
        for (int i = 0; i < kBlock; ++i) {
            y[i] = single(add(sums[i], bias[i]), scale[i], offset[i]);
        }
        if (s.has_residual) {
            add_residual(y, residual_at);
        }
        const std::int32_t low = s.finish.low + s.out.code_offset, high = s.finish.high + s.out.code_offset;
        for (std::int32_t& code : y) {
            code = std::min(std::max(code, low), high);
        }
        if (s.out.buffer.wide) {
            std::memcpy(out_at + 4 * channel, y, sizeof y);
            return;
        }
        alignas(16) std::uint8_t bytes[kBlock];
        for (int i = 0; i < kBlock; ++i) {
            bytes[i] = static_cast<std::uint8_t>(y[i]);
        }
        std::memcpy(out_at + channel, bytes, sizeof bytes);
    }

   private:
    static std::int32_t single(std::int32_t x, float factor, float summand) {
        const float y = __builtin_fmaf(static_cast<float>(x), factor, summand);
        return add(std::bit_cast<std::int32_t>(y), -kMagicBits);
    }

    void add_residual(std::int32_t* y, const std::uint8_t* residual_at) const {
        const Branch& b = s.residual;
        alignas(64) std::int32_t x[kBlock];
        if (b.x.buffer.wide) {
            std::memcpy(x, residual_at + 4 * channel, sizeof x);
            for (int i = 0; i < kBlock; ++i) {
                y[i] = add(y[i], add(x[i], b.before));
            }
            return;
        }
        alignas(16) std::uint8_t bytes[kBlock];
        std::memcpy(bytes, residual_at + channel, sizeof bytes);
        const std::int32_t before = b.before - b.x.code_offset;
        for (int i = 0; i < kBlock; ++i) {
            y[i] = add(y[i], single(add(bytes[i], before), residual_scale[i], residual_offset[i]));
        }
    }
};

}  // namespace
}  // namespace dyadiq::engine
