// What turns the sums of sixteen outputs into codes, for kernels of 128 and 256 bits: in single precision where that is
// proven, else one value after another in 64 bits. `Lanes` are sixteen int32 in the registers of an instruction set.
#pragma once

#include <cfenv>
#include <cstring>

#include "engine/kernels/finish.hpp"

namespace dyadiq::engine {
namespace {

constexpr std::int32_t kMagicBits = 0x4B400000;  // of 1.5 * 2^23

// What single precision asks of the processor; a caller may have set another way of rounding.
class RoundingToNearest {
   public:
    RoundingToNearest() : before_(std::fegetround()) { std::fesetround(FE_TONEAREST); }
    ~RoundingToNearest() { std::fesetround(before_); }
    RoundingToNearest(const RoundingToNearest&) = delete;
    RoundingToNearest& operator=(const RoundingToNearest&) = delete;

   private:
    int before_;
};

template <typename Lanes>
struct VectorEpilogue {
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
        Lanes y = Lanes::load(sums).plus(Lanes::load(bias)).floored(scale, offset);
        if (s.has_residual) {
            const Branch& b = s.residual;
            if (b.x.buffer.wide) {
                y = y.plus(Lanes::load(residual_at + 4 * channel)).plus(Lanes::all(b.before));
            } else {
                const Lanes x = Lanes::load_bytes(residual_at + channel).plus(Lanes::all(add(b.before, -b.x.code_offset)));
                y = y.plus(x.nearest(residual_scale, residual_offset));
            }
        }
        y = y.clipped(add(s.finish.low, s.out.code_offset), add(s.finish.high, s.out.code_offset));
        if (s.out.buffer.wide) {
            y.store(out_at + 4 * channel);
        } else {
            y.store_bytes(out_at + channel);
        }
    }
};

}  // namespace
}  // namespace dyadiq::engine
