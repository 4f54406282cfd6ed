// How the words of a plan become parts of steps, each checked as it is read: what all steps are made of. image.cpp reads
// the plan and most steps with it, image_conv.cpp convolutions.
#pragma once

#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/container.hpp"
#include "engine/image.hpp"
#include "engine/plan.hpp"

namespace dyadiq::engine {

inline constexpr std::int32_t kMaxSide = 1 << 16;
inline constexpr std::int32_t kMaxMargin = 1 << 12;
inline constexpr std::int32_t kMaxChannels = 1 << 20;
inline constexpr std::int64_t kMaxArena = std::int64_t{1} << 40;
inline constexpr std::int64_t kSlack = 64;  // bytes behind the last buffer that kernels may read

inline void require(bool holds, const std::string& what) {
    if (!holds) {
        throw BadImage(what);
    }
}

// Whether the windows of a step, one a pixel of its output, lie in its input and the margins around it. Cannot overflow.
template <typename WindowStep>
bool windows_fit(const WindowStep& s) {
    const auto fits = [](std::int64_t out, std::int64_t stride, std::int64_t kernel, std::int64_t dilation, std::int64_t pad,
                         std::int64_t before, std::int64_t size, std::int64_t after) {
        return pad <= before && (out - 1) * stride - pad + (kernel - 1) * dilation < size + after;
    };
    const Buffer &in = s.in.buffer, &out = s.out.buffer;
    return fits(out.height, s.stride_h, s.kernel_h, s.dilation_h, s.pad_h, in.top, in.height, in.bottom) &&
           fits(out.width, s.stride_w, s.kernel_w, s.dilation_w, s.pad_w, in.left, in.width, in.right);
}

// Whether a tensor is a buffer whose bytes may lie in the order of quads: whole strides of rows and columns, no margins.
inline bool is_in_quads(const Tensor& t, std::int32_t stride_h, std::int32_t stride_w) {
    const Buffer& b = t.buffer;
    const bool fills = t.first_channel == 0 && b.pixel_stride == (t.channels + kQuad - 1) / kQuad * kQuad;
    return !b.wide && fills && b.height % stride_h == 0 && b.width % stride_w == 0 &&
           b.top + b.left + b.bottom + b.right == 0;
}

class Reader {
   public:
    explicit Reader(Container file) : structure_(file.structure), records_(std::move(file.records)) {
        require(!records_.empty() && is_int32(records_[0]), "its first tensor is no plan");
        words_ = reinterpret_cast<const std::int32_t*>(records_[0].payload);
        n_words_ = records_[0].count;
    }

    static bool is_int32(const Record& record) { return record.kind == 0 && record.bits == 32 && record.is_signed; }

    std::int32_t next() {
        require(at_ < n_words_, "its plan is cut short");
        std::int32_t word;
        std::memcpy(&word, words_ + at_++, sizeof word);
        return word;
    }

    std::int32_t between(std::int32_t low, std::int32_t high, const char* what) {
        const std::int32_t value = next();
        require(value >= low && value <= high, std::string(what) + " is out of range");
        return value;
    }

    std::int32_t count() { return between(0, 1 << 24, "a number of things"); }
    bool flag() { return between(0, 1, "a flag") == 1; }
    std::int32_t side() { return between(1, kMaxSide, "a size"); }
    std::int32_t margin() { return between(0, kMaxMargin, "a margin"); }

    // The next buffer or tensor of the plan, for steps to refer to.
    void add_buffer(std::int64_t arena_bytes) {
        Buffer b{};
        b.offset = std::int64_t{between(0, std::numeric_limits<std::int32_t>::max(), "an offset")} * 64;
        b.wide = flag();
        b.height = side(), b.width = side();
        b.pixel_stride = between(1, kMaxChannels, "a number of channels");
        b.top = margin(), b.left = margin(), b.bottom = margin(), b.right = margin();
        b.fill = b.wide ? next() : between(0, 255, "a code of a margin");
        require(b.offset + b.bytes() <= arena_bytes - kSlack, "a buffer lies outside the arena");
        buffers_.push_back(b);
    }

    void add_tensor() {
        Tensor t{};
        t.buffer = buffer();
        t.first_channel = between(0, kMaxChannels, "a channel");
        t.channels = between(1, kMaxChannels, "a number of channels");
        t.code_offset = between(0, t.buffer.wide ? 0 : 128, "an offset of codes");
        require(t.first_channel + t.channels <= t.buffer.pixel_stride, "a tensor leaves its buffer");
        tensors_.push_back(t);
    }

    Buffer buffer() {
        require(!buffers_.empty(), "there are no buffers");
        return buffers_[static_cast<std::size_t>(
            between(0, static_cast<std::int32_t>(buffers_.size()) - 1, "a buffer"))];
    }

    Tensor tensor() {
        require(!tensors_.empty(), "a step reads no tensor");
        return tensors_[static_cast<std::size_t>(
            between(0, static_cast<std::int32_t>(tensors_.size()) - 1, "a tensor"))];
    }

    const Record& record(std::int64_t index, std::int64_t at_least, const char* what) {
        require(index >= 1 && index < static_cast<std::int64_t>(records_.size()), std::string(what) + " is not there");
        const Record& found = records_[static_cast<std::size_t>(index)];
        require(found.count >= at_least, std::string(what) + " is too short");
        return found;
    }

    const std::int32_t* int32s(std::int64_t at_least, const char* what, bool optional = false) {
        const std::int32_t index = next();
        if (optional && index == kNone) {
            return nullptr;
        }
        const Record& found = record(index, at_least, what);
        require(is_int32(found), std::string(what) + " is of another type");
        return reinterpret_cast<const std::int32_t*>(found.payload);
    }

    Dyadic dyadic(std::int64_t n) {
        Dyadic d;
        d.multiplier = int32s(n, "a multiplier", true);
        d.shift = int32s(n, "a shift", d.multiplier == nullptr);
        require((d.multiplier == nullptr) == (d.shift == nullptr), "a multiplier has no shift");
        for (std::int64_t i = 0; d.shift != nullptr && i < n; ++i) {
            require(d.shift[i] >= 0 && d.shift[i] <= 62, "a shift is out of range");
        }
        return d;
    }

    Finish finish() {
        Finish f{};
        f.zero_point = next(), f.low = next(), f.high = next();
        f.sign = flag();
        require(f.low <= f.high, "limits are the wrong way round");
        return f;
    }

    Branch branch(std::int64_t n) {
        Branch b{};
        b.x = tensor();
        b.before = next();
        b.dyadic = dyadic(n);
        b.low = next(), b.high = next();
        require(b.low <= b.high, "limits are the wrong way round");
        return b;
    }

    bool is_at_end() const { return at_ == n_words_; }
    std::string_view structure() const { return structure_; }

    static void same_plane(const Tensor& a, const Tensor& b) {
        require(a.buffer.height == b.buffer.height && a.buffer.width == b.buffer.width, "two tensors differ in size");
    }

    static void same_shape(const Tensor& a, const Tensor& b) {
        same_plane(a, b);
        require(a.channels == b.channels, "two tensors differ in channels");
    }

    static std::int64_t plane(const Tensor& t) { return std::int64_t{t.buffer.height} * t.buffer.width; }

   private:
    std::string_view structure_;
    std::vector<Record> records_;
    const std::int32_t* words_ = nullptr;
    std::int64_t n_words_ = 0, at_ = 0;
    std::vector<Buffer> buffers_;
    std::vector<Tensor> tensors_;
};

// The convolution whose fields come next.
Conv read_conv(Reader& words);

}  // namespace dyadiq::engine
