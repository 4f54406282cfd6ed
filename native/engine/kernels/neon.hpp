// What the kernels of aarch64 share: packed weights in the top bits of bytes, 16 or 64 times as large; codes less 128,
// since the products of both are of signed bytes.
#pragma once

#include <arm_neon.h>

#include "engine/kernels/vector_conv.hpp"
#include "engine/kernels/vector_planes.hpp"

namespace dyadiq::engine {
namespace {

constexpr int kVectors = 4;  // of sixteen outputs

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
            found.v[v] = vreinterpretq_s8_u8(kBits == 1 ? vorrq_u8(top, vdupq_n_u8(0x40)) : top);  // -64 and 64
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

}  // namespace
}  // namespace dyadiq::engine
