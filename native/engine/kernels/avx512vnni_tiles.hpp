// The C++ face of avx512vnni_tiles.S.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/kernels/geometry.hpp"

namespace dyadiq::engine {

// What becomes of sums: stored as they are; codes of bytes, with a residual of bytes or of int32 that is added as it is;
// codes of int32.
enum class Ending : std::uint8_t { kSums, kCodes, kCodesAndBytes, kCodesAndWide, kWideCodes };

enum class WeightKind : std::uint32_t { kBytes, kPacked, kSparse };  // the last: only tiles of one block

struct Shift {
    std::uint64_t bits, unused;
};

// Everything of a tile but where it lies.
struct Call {
    std::int64_t pixel_step;     // bytes from one output's input to the next one's
    std::int64_t quads;          // of inputs of each tap
    const std::int8_t* weights;  // of the first block
    std::int64_t block_bytes;    // of weights
    const std::int32_t* bias;    // from here on, of the first block
    const float *scale, *offset, *residual_scale, *residual_offset;
    std::int64_t out_step, residual_step;  // bytes from pixel to pixel
    std::int32_t* sums;                    // [pixel][block][16]: where sums go that are not finished here
    const Tap* taps;
    std::int64_t n_taps;      // at least 1
    std::uint8_t low, high;                // codes as they lie in memory
    Ending ending;
    std::uint32_t magic;               // kMagic, and what else is taken away
    std::int32_t before;               // added to bytes of the residual
    std::int32_t wide_low, wide_high;  // of wide codes
    WeightKind weight_kind;
    std::uint32_t mask, flip;  // in every byte: quad i of a group of packed weights is (w << shifts[i] & mask) ^ flip
    const Shift *shifts, *shifts_end;
    Shift scale_shift;           // how much too large such weights are
    const std::int32_t* places;  // of sparse weights, whose taps are not looked at: bytes from the first pixel
    std::int64_t n_places;
    const std::int8_t* ahead;  // what tiles of bytes fetch into a farther cache, 64 bytes a quad
    std::int8_t* panel;        // where tiles of packed weights, of one or two blocks, leave them as bytes
    std::int64_t panel_block, panel_step;  // bytes from block to block, and from quad to quad
};
static_assert(offsetof(Call, sums) == 88 && offsetof(Call, n_taps) == 104 && offsetof(Call, magic) == 116 &&
              offsetof(Call, wide_high) == 128 && offsetof(Call, mask) == 136 && offsetof(Call, shifts) == 144 &&
              offsetof(Call, scale_shift) == 160 && offsetof(Call, n_places) == 184 &&
              offsetof(Call, ahead) == 192 && offsetof(Call, panel_step) == 216);

inline constexpr std::uint32_t kMagic = 0x4B400000;  // bits of 1.5 * 2^23

// What follows the last weights of a step in a file is read by the next ones: so much of it is fetched ahead.
inline constexpr std::int64_t kNextSteps = 256 << 10;

using Tile = void (*)(const Call*, const std::uint8_t* in, std::uint8_t* out, const std::uint8_t* residual);

inline constexpr int kMaxPixels1 = 16, kMaxPixels2 = 14, kMaxPixels4 = 6;
struct Tiles {  // of 1, 2, 4 blocks; of 1 pixel and more
    Tile one[kMaxPixels1], two[kMaxPixels2], four[kMaxPixels4];
};

extern "C" const Tiles dyadiq_avx512vnni_tiles;

}  // namespace dyadiq::engine
