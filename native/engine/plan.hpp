// What a compiled program is once it has been read and checked: tensors in an arena, and steps that run in order.
//
// Made by `open` (image.hpp) from a file, run by `run` (run.hpp). docs/spec/engine.md is the normative text of the
// file; numbers of steps and fields are those of dyadiq.engine.plan. Pointers lead into the file, which must stay.
//
// A tensor lies in the arena as [height][width][channel], with margins around it that hold the code of zero. Codes of
// at most 8 bits are bytes, `code + code_offset` (0 for unsigned types, 128 for signed ones); others are int32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

namespace dyadiq::engine {

inline constexpr std::int32_t kPlanVersion = 12;
inline constexpr std::int32_t kNone = -1;
inline constexpr int kBlock = 16;  // output channels of one block of packed weights
inline constexpr int kQuad = 4;    // input channels of one dot product
inline constexpr std::int32_t kMaxPlaces = 8192;  // quads of a block of sparse weights

inline constexpr std::int32_t kMaxWinogradChannels = 512;  // of inputs: what a panel of transformed weights has room for

// How many bits to the left packed weights lie that come out of registers by a shift and a mask alone; see layout.py.
constexpr int weight_shift(int bits) { return bits == 4 ? 4 : bits < 4 ? 6 : 0; }

struct Buffer {
    std::int64_t offset;  // bytes from the start of the arena, a multiple of 64
    bool wide;            // int32, else bytes
    std::int32_t height, width;
    std::int32_t pixel_stride;  // elements from one pixel to the next: channels, and mostly padding to a multiple of kQuad
    std::int32_t top, left, bottom, right;
    std::int32_t fill;  // element that margins hold

    std::int64_t rows() const { return std::int64_t{top} + height + bottom; }
    std::int64_t row_stride() const { return (std::int64_t{left} + width + right) * pixel_stride; }  // elements
    std::int64_t bytes() const { return rows() * row_stride() * (wide ? 4 : 1); }
    bool operator==(const Buffer&) const = default;
};

struct Tensor {  // some channels of a buffer
    Buffer buffer;
    std::int32_t first_channel, channels;
    std::int32_t code_offset;

    // Bytes from the start of the arena to the first channel of a pixel; margins have negative positions.
    std::int64_t at(std::int64_t y, std::int64_t x) const {
        const std::int64_t element =
            (y + buffer.top) * buffer.row_stride() + (x + buffer.left) * buffer.pixel_stride + first_channel;
        return buffer.offset + element * (buffer.wide ? 4 : 1);
    }
};

// y = clip(sum + zero_point, low, high), or its sign; what a sum is, the step says.
struct Finish {
    std::int32_t zero_point, low, high;
    bool sign;
};

// (x * multiplier + 2^(shift-1)) >> shift by channel; null: x itself.
struct Dyadic {
    const std::int32_t* multiplier = nullptr;
    const std::int32_t* shift = nullptr;
};

// A rescaling in single precision, proven to give the same codes as they lie in memory (dyadiq/engine/single.py):
// bits(x * scale + offset) - bits(1.5 * 2^23), of the accumulator, and of the residual and its `before`, added; clipped
// with the code offset in them. A wide residual is added as it is. Null: not proven, as channels with a scale below 0.
struct Single {
    const std::int32_t* bias = nullptr;  // instead of the convolution's
    const float *scale = nullptr, *offset = nullptr, *residual_scale = nullptr, *residual_offset = nullptr;
};

// One summand of a join: clip(dyadic(x + before), low, high).
struct Branch {
    Tensor x;
    std::int32_t before;
    Dyadic dyadic;
    std::int32_t low, high;
};

struct Quantize {  // real values [C, H, W] of a program's input
    std::int32_t input;
    Tensor out;
    double scale;
    std::int32_t zero_point, low, high;
    bool sign;
    const std::int32_t* grid;  // [3, C]: shift, low, high; null: none
};

enum class ConvKind { kPacked, kDepthwise, kGeneric, kSparse, kWinograd, kBinary, kCodebook, kSparse4, kWinograd1d };

// The tiles of 2 by 2 outputs of a plane, row by row; the last of a row or column may be half outside.
struct WinogradTiles {
    std::int64_t rows, columns;

    explicit WinogradTiles(const Buffer& out) : rows((out.height + 1) / 2), columns((out.width + 1) / 2) {}
    std::int64_t n() const { return rows * columns; }
};

inline constexpr int kPositions = 16;  // of a transformed tile
// Bytes of one transformed tile of inputs: whole vectors of every position.
constexpr std::int64_t winograd_bytes(std::int64_t channels) { return (channels + 63) / 64 * 64 * kPositions; }

// What a Winograd convolution, of two axes or one, has beside packed weights.
struct Winograd {
    std::int32_t low = 0;  // of its inputs, as they lie in memory
    Buffer scratch{};      // for transformed inputs
};

inline constexpr std::int64_t kCodebookPanel = 144 << 10;  // bytes of weights that come out of a table at once
inline constexpr int kTable = 16;                          // values of it

inline constexpr int kWordBits = 32;  // of a quad of bits

// What sums of bits become: `factor` times how many inputs and weights are both 1, or are not the same.
struct Binary {
    bool both = false;
    std::int32_t factor = 0;
};

struct Conv {
    ConvKind kind;
    Tensor in, out;
    std::int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w, groups;
    const void* weights;       // layouts: run.hpp
    std::int32_t weight_bits = 8;  // of packed weights: 8, 4, 2 or 1
    const std::int8_t* table = nullptr;  // of weights that are places in it
    const std::int32_t *starts = nullptr, *places = nullptr;  // of sparse ones: which quads of each block exist, or where they lie
    Winograd winograd;                                        // of those kinds alone
    Binary binary;                                            // of that kind alone
    const std::int32_t* bias;  // padded to whole blocks where packed
    bool finished;             // requantized, else the accumulator is what is stored
    Dyadic dyadic;
    Single single;
    bool has_residual;
    Branch residual;
    Finish finish;

    // Of inputs in the order of quads: from one row of a phase to the next, in quads.
    std::int64_t columns_of_phase() const { return in.buffer.width / stride_w; }
    bool is_winograd() const { return kind == ConvKind::kWinograd || kind == ConvKind::kWinograd1d; }

    // Whether a tap of packed weights is a whole row of the kernel: where pixels of the input are no whole quads.
    bool packs_rows() const {
        return (kind == ConvKind::kPacked || kind == ConvKind::kCodebook) && groups == 1 && dilation_w == 1 && in.buffer.pixel_stride % kQuad != 0;
    }
    std::int32_t tap_columns() const { return packs_rows() ? 1 : kernel_w; }
    // Of weights that are places in a table: two quads in 64 bytes, the last one filled up.
    std::int64_t pairs_of_block() const { return (std::int64_t{kernel_h} * tap_columns() * quads_of_tap() + 1) / 2; }
    std::int64_t quads_of_tap() const {
        const std::int64_t n = packs_rows() ? std::int64_t{kernel_w} * in.buffer.pixel_stride : in.channels / groups;
        return (n + kQuad - 1) / kQuad;
    }
};

struct Join {
    Tensor out;
    std::vector<Branch> branches;
    Finish finish;
};

struct MaxPool {
    Tensor in, out;
    std::int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
};

struct SumPool {
    Tensor in, out;
    std::int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, pad_value, bias;
    const std::int32_t* factor;  // [OH, OW]; null: 1
};

struct Lookup {
    Tensor in, out;
    std::int32_t first;
    const std::int32_t* table;  // [256]
};

struct Pad {
    Tensor in, out;
    std::int32_t channels, rows, columns;  // before
    std::int32_t value;
};

struct Copy {  // codes as they are; into another type or place
    Tensor in, out;
};

struct Flatten {  // [C, H, W] row-major becomes channels
    Tensor in, out;
};

// The window of every pixel of `out`, [tap][channel]: a copy of the input over which a convolution reads in a row.
struct Lower {
    Tensor in, out;
    std::int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
};

// Which channels of every pixel are not `low`, as bits: [byte of 8 channels], whole words, zeros behind the last channel.
struct Bits {
    static constexpr std::int32_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
    Tensor in, out;
    std::int32_t pad_h, pad_w;  // rows and columns of margins that come before
    std::uint8_t low;           // as it lies in memory
};

// The pixels under a convolution's windows in another order, so that outputs side by side read quads side by side:
// [quad of channels][row % stride][column % stride][row / stride][column / stride][4]. Out has whole strides of rows and
// columns and no margins; behind those of in comes the same fill.
struct Quads {
    static constexpr std::int32_t kernel_h = 1, kernel_w = 1, dilation_h = 1, dilation_w = 1;
    Tensor in, out;
    std::int32_t stride_h, stride_w, pad_h, pad_w;  // of the windows; rows and columns of margins that come before

    std::int64_t n() const { return out.buffer.pixel_stride / kQuad; }  // quads of a pixel
    // Bytes from the first quad of out to that of a pixel, and from there to its next one.
    std::int64_t at(std::int64_t y, std::int64_t x) const {
        const std::int64_t phase = y % stride_h * stride_w + x % stride_w, columns = out.buffer.width / stride_w;
        return (phase * (out.buffer.height / stride_h) * columns + y / stride_h * columns + x / stride_w) * kQuad;
    }
    std::int64_t step() const { return std::int64_t{out.buffer.height} * out.buffer.width * kQuad; }
};

struct Fill {  // margins
    Buffer buffer;
};

struct Output {  // codes [C, H, W] as int32
    Tensor in;
    std::int32_t output;
    const double* scale = nullptr;  // one, or one a channel: what a step is worth; null: not known
    std::int32_t n_scales = 0, zero_point = 0;
};

using Step =
    std::variant<Quantize, Conv, Join, MaxPool, SumPool, Lookup, Pad, Copy, Flatten, Fill, Output, Lower, Bits, Quads>;

struct Plan {
    std::int64_t arena_bytes = 0;
    std::string_view structure;  // for people, see docs/spec/engine.md
    std::vector<std::int64_t> input_sizes, output_sizes;  // elements
    std::vector<Step> steps;
};

}  // namespace dyadiq::engine
