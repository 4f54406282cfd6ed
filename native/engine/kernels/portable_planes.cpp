// Everything but convolutions, in plain C++: slow, obvious, the meaning of the others.
#include <cmath>

#include "engine/kernels.hpp"
#include "engine/kernels/finish.hpp"
#include "engine/kernels/portable.hpp"
#include "engine/pixels.hpp"

namespace dyadiq::engine::portable {

std::int32_t quantized(const Quantize& s, double value, std::int32_t c) {
    if (s.sign) {
        return value >= 0 ? 1 : -1;
    }
    double scale = s.scale, low = s.low, high = s.high, zero_point = s.zero_point;
    std::int32_t shift = 0;
    if (s.grid != nullptr) {
        shift = s.grid[c];
        scale *= static_cast<double>(std::int64_t{1} << shift);
        low = s.grid[s.out.channels + c], high = s.grid[2 * s.out.channels + c], zero_point = 0;
    }
    const double code = std::floor(value / scale + 0.5) + zero_point;
    const double clipped = code > high ? high : code >= low ? code : low;  // NaN becomes `low`
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(static_cast<std::int32_t>(clipped)) << shift);
}

bool quantize(const Quantize& s, const Input& input, Share share, std::uint8_t* arena) {
    bool finite = true;
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        std::uint8_t* out = arena + s.out.at(y, x);
        for (std::int32_t c = 0; c < s.out.channels; ++c) {
            const std::int64_t at = planar(s.out, c, y, x);
            const double value = input.f64 != nullptr ? input.f64[at] : static_cast<double>(input.f32[at]);
            finite = finite && std::isfinite(value);
            store(s.out, out, c, quantized(s, value, c));
        }
    });
    return finite;
}

void join(const Join& s, Share share, std::uint8_t* arena) {
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        std::uint8_t* out = arena + s.out.at(y, x);
        for (std::int32_t c = 0; c < s.out.channels; ++c) {
            std::int64_t sum = 0;
            for (const Branch& branch : s.branches) {
                sum += branch_value(branch, arena + branch.x.at(y, x), c, c);
            }
            store(s.out, out, c, finished(sum, s.finish));
        }
    });
}

void max_pool(const MaxPool& s, Share share, std::uint8_t* arena) {
    const std::int32_t height = s.in.buffer.height, width = s.in.buffer.width;
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        std::uint8_t* out = arena + s.out.at(y, x);
        bool first = true;
        for (std::int32_t a = 0; a < s.kernel_h; ++a) {
            const std::int64_t row = std::int64_t{y} * s.stride_h - s.pad_h + std::int64_t{a} * s.dilation_h;
            for (std::int32_t b = 0; b < s.kernel_w; ++b) {
                const std::int64_t column = std::int64_t{x} * s.stride_w - s.pad_w + std::int64_t{b} * s.dilation_w;
                if (row < 0 || row >= height || column < 0 || column >= width) {
                    continue;
                }
                const std::uint8_t* in = arena + s.in.at(row, column);
                if (s.in.buffer.wide) {
                    for (std::int32_t c = 0; c < s.out.channels; ++c) {
                        const std::int32_t value = load(s.in, in, c);
                        store(s.out, out, c, first ? value : std::max(value, load(s.out, out, c)));
                    }
                } else if (first) {
                    std::memcpy(out, in, static_cast<std::size_t>(s.out.channels));
                } else {
                    for (std::int32_t c = 0; c < s.out.channels; ++c) {
                        out[c] = std::max(out[c], in[c]);
                    }
                }
                first = false;
            }
        }
    });
}

void sum_pool(const SumPool& s, Share share, std::uint8_t* arena) {
    const std::int32_t height = s.in.buffer.height, width = s.in.buffer.width;
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        std::uint8_t* out = arena + s.out.at(y, x);
        for (std::int32_t c = 0; c < s.out.channels; ++c) {
            store(s.out, out, c, s.bias);
        }
        for (std::int32_t a = 0; a < s.kernel_h; ++a) {
            const std::int64_t row = std::int64_t{y} * s.stride_h - s.pad_h + a;
            for (std::int32_t b = 0; b < s.kernel_w; ++b) {
                const std::int64_t column = std::int64_t{x} * s.stride_w - s.pad_w + b;
                const bool inside = row >= 0 && row < height && column >= 0 && column < width;
                const std::uint8_t* in = inside ? arena + s.in.at(row, column) : nullptr;
                for (std::int32_t c = 0; c < s.out.channels; ++c) {
                    store(s.out, out, c, add(load(s.out, out, c), inside ? load(s.in, in, c) : s.pad_value));
                }
            }
        }
        for (std::int32_t c = 0; s.factor != nullptr && c < s.out.channels; ++c) {
            const std::int32_t factor = s.factor[std::int64_t{y} * s.out.buffer.width + x];
            store(s.out, out, c, multiply_add(0, load(s.out, out, c), factor));
        }
    });
}

}  // namespace dyadiq::engine::portable
