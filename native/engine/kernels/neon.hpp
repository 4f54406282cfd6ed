// What the kernels of aarch64 share: packed weights in the top bits of bytes, 16 or 64 times as large; codes less 128,
// since the products of both are of signed bytes.
#pragma once

#include <arm_neon.h>

#include "engine/kernels/vector_binary.hpp"
#include "engine/kernels/vector_conv.hpp"
#include "engine/kernels/vector_planes.hpp"
#include "engine/kernels/vector_sparse4.hpp"
#include "engine/kernels/vector_winograd.hpp"

namespace dyadiq::engine {
namespace {

constexpr int kVectors = 4;  // of sixteen outputs

struct NeonLanes {
    int32x4_t v[kVectors];

    template <typename T>
    static NeonLanes load(const T* from) {
        NeonLanes found;
        std::memcpy(&found, from, sizeof found);
        return found;
    }
    static NeonLanes load_bytes(const std::uint8_t* from) {
        const uint8x16_t bytes = vld1q_u8(from);
        const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
        return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_high_u16(low)),
                 vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))), vreinterpretq_s32_u32(vmovl_high_u16(high))}};
    }
    static NeonLanes all(std::int32_t x) { return {{vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x)}}; }
    NeonLanes plus(const NeonLanes& other) const {
        NeonLanes sum;
        for (int i = 0; i < kVectors; ++i) {
            sum.v[i] = vaddq_s32(v[i], other.v[i]);
        }
        return sum;
    }
    NeonLanes nearest(const float* scale, const float* offset) const { return rescaled<false>(scale, offset); }
    NeonLanes floored(const float* scale, const float* offset) const { return rescaled<true>(scale, offset); }
    NeonLanes clipped(std::int32_t low, std::int32_t high) const {
        NeonLanes y;
        for (int i = 0; i < kVectors; ++i) {
            y.v[i] = vminq_s32(vmaxq_s32(v[i], vdupq_n_s32(low)), vdupq_n_s32(high));
        }
        return y;
    }
    void store(std::uint8_t* to) const { std::memcpy(to, this, sizeof *this); }
    void store_bytes(std::uint8_t* to) const {  // of lanes that are bytes
        const uint16x8_t low = vcombine_u16(vqmovun_s32(v[0]), vqmovun_s32(v[1]));
        const uint16x8_t high = vcombine_u16(vqmovun_s32(v[2]), vqmovun_s32(v[3]));
        vst1q_u8(to, vcombine_u8(vqmovn_u16(low), vqmovn_u16(high)));
    }

   private:
    template <bool kDown>
    NeonLanes rescaled(const float* scale, const float* offset) const {
        NeonLanes y;
        for (int i = 0; i < kVectors; ++i) {
            const float32x4_t x = vcvtq_f32_s32(v[i]), a = vld1q_f32(scale + 4 * i), b = vld1q_f32(offset + 4 * i);
            const float32x4_t real = vfmaq_f32(b, x, a);
            y.v[i] = vsubq_s32(vreinterpretq_s32_f32(real), vdupq_n_s32(kMagicBits));
            if constexpr (kDown) {  // what rounding took away, whose sign is exact; less one where it added
                const uint32x4_t added = vcltzq_f32(vfmaq_f32(vsubq_f32(b, real), x, a));
                y.v[i] = vaddq_s32(y.v[i], vreinterpretq_s32_u32(added));
            }
        }
        return y;
    }
};

inline void look_up(const std::uint8_t* places, std::int64_t n, const std::int8_t* table, std::int8_t* weights) {
    const int8x16_t values = vld1q_s8(table);
    for (std::int64_t i = 0; i < 4 * n; ++i, places += 16) {  // quarters of 64 bytes
        const uint8x16_t both = vld1q_u8(places);
        std::int8_t* to = weights + i / 4 * 128 + i % 4 * 16;
        vst1q_s8(to, vqtbl1q_s8(values, vandq_u8(both, vdupq_n_u8(15))));
        vst1q_s8(to + 64, vqtbl1q_s8(values, vshrq_n_u8(both, 4)));
    }
}

struct NeonBits {
    using Ending = VectorEpilogue<NeonLanes>;
    static constexpr int kPixels = 2;
    static constexpr std::int64_t kWords = 31, kBytes = 8;  // counts of at most 8 in bytes; channels packed at once
    struct Weights {
        uint8x16_t v[kVectors];
    };
    using Counts = Weights;
    struct Sums {
        uint32x4_t v[kVectors];
    };

    static Weights load(const std::int8_t* at) {
        Weights found;
        std::memcpy(&found, at, sizeof found);
        return found;
    }
    template <bool kBoth>
    [[gnu::always_inline]] static void count(Counts& counts, const Weights& w, const std::uint8_t* word) {
        std::uint32_t bits;
        std::memcpy(&bits, word, sizeof bits);
        const uint8x16_t x = vreinterpretq_u8_u32(vdupq_n_u32(bits));
        for (int v = 0; v < kVectors; ++v) {
            const uint8x16_t met = kBoth ? vandq_u8(x, w.v[v]) : veorq_u8(x, w.v[v]);
            counts.v[v] = vaddq_u8(counts.v[v], vcntq_u8(met));
        }
    }
    [[gnu::always_inline]] static void add(Sums& sums, const Counts& counts) {
        for (int v = 0; v < kVectors; ++v) {
            sums.v[v] = vpadalq_u16(sums.v[v], vpaddlq_u8(counts.v[v]));
        }
    }
    static void store(const Sums& sums, std::int32_t* to) { std::memcpy(to, &sums, sizeof sums); }

    static void bits(const std::uint8_t* from, std::uint8_t low, std::uint8_t* to) { *to = bits_of(from, kBytes, low); }
};

struct NeonWeights {
    int8x16_t v[kVectors];
};

template <int kBits, int i>
[[gnu::always_inline]] inline NeonWeights unpacked(const std::int8_t* at) {
    NeonWeights found;
    for (int v = 0; v < kVectors; ++v) {
        const uint8x16_t all = vreinterpretq_u8_s8(vld1q_s8(at + 16 * v));
        if constexpr (kBits == 8) {
            found.v[v] = vreinterpretq_s8_u8(all);
        } else {
            constexpr int kMask = (0xFF00 >> kBits) & 0xFF;
            const uint8x16_t top = vandq_u8(vshlq_n_u8(all, 8 - kBits * (i + 1)), vdupq_n_u8(kMask));
            found.v[v] = vreinterpretq_s8_u8(kBits == 1 ? veorq_u8(top, vdupq_n_u8(0xC0)) : top);  // -64 and 64
        }
    }
    return found;
}

// A quad of codes, less 128 each, in every lane.
[[gnu::always_inline]] inline int8x16_t quad_of(const std::uint8_t* at) {
    std::uint32_t codes;
    std::memcpy(&codes, at, sizeof codes);
    return vreinterpretq_s8_u32(vdupq_n_u32(codes ^ 0x80808080U));
}

// Four of them side by side, and a quad of weights for every lane.
[[gnu::always_inline]] inline int8x16_t quads_of(const std::uint8_t* at) {
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at), vdupq_n_u8(0x80)));
}
[[gnu::always_inline]] inline int8x16_t all_lanes(const std::int8_t* at) {
    std::uint32_t quad;
    std::memcpy(&quad, at, sizeof quad);
    return vreinterpretq_s8_u32(vdupq_n_u32(quad));
}

}  // namespace
}  // namespace dyadiq::engine
