// How to walk over tensors. Header only.
#pragma once

#include <cstdint>

#include "engine/kernels.hpp"
#include "engine/plan.hpp"

namespace dyadiq::engine {

// Call `visit(y, x)` for every pixel of a share of a tensor.
template <typename Visit>
void pixels(const Tensor& t, Share share, Visit visit) {
    const std::int64_t width = t.buffer.width, n = t.buffer.height * width;
    const std::int64_t last = share.last(n);
    for (std::int64_t at = share.first(n); at < last;) {
        const auto y = static_cast<std::int32_t>(at / width);
        auto x = static_cast<std::int32_t>(at % width);
        for (; x < width && at < last; ++x, ++at) {
            visit(y, x);
        }
    }
}

// [C, H, W], row-major.
inline std::int64_t planar(const Tensor& t, std::int64_t c, std::int64_t y, std::int64_t x) {
    return (c * t.buffer.height + y) * t.buffer.width + x;
}

// What a window at one end of an axis sees: taps from `first` to before `last` lie inside.
struct Window {
    std::int32_t first, last;

    Window(std::int64_t start, std::int64_t dilation, std::int32_t kernel, std::int32_t size) : first(0), last(kernel) {
        while (first < last && start + first * dilation < 0) {
            ++first;
        }
        while (last > first && start + (last - 1) * dilation >= size) {
            --last;
        }
    }
};

}  // namespace dyadiq::engine
