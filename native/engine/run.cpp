#include "engine/run.hpp"

#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/kernels/finish.hpp"

namespace dyadiq::engine {
namespace {

// Call `visit(y, x)` for every pixel of a tensor.
template <typename Visit>
void pixels(const Tensor& t, Visit visit) {
    for (std::int32_t y = 0; y < t.buffer.height; ++y) {
        for (std::int32_t x = 0; x < t.buffer.width; ++x) {
            visit(y, x);
        }
    }
}

// [C, H, W], row-major.
std::int64_t planar(const Tensor& t, std::int64_t c, std::int64_t y, std::int64_t x) {
    return (c * t.buffer.height + y) * t.buffer.width + x;
}

struct Runner {
    const Kernels& kernels;
    std::uint8_t* arena;
    std::span<const Input> inputs;
    std::span<std::int32_t* const> outputs;
    bool finite = true;

    std::uint8_t* pixel(const Tensor& t, std::int64_t y, std::int64_t x) const { return arena + t.at(y, x); }

    // docs/spec/integer-program.md, section 4: literally float64.
    void operator()(const Quantize& s) {
        const Input& input = inputs[static_cast<std::size_t>(s.input)];
        pixels(s.out, [&](std::int32_t y, std::int32_t x) {
            std::uint8_t* out = pixel(s.out, y, x);
            for (std::int32_t c = 0; c < s.out.channels; ++c) {
                const std::int64_t at = planar(s.out, c, y, x);
                const double value = input.f64 != nullptr ? input.f64[at] : static_cast<double>(input.f32[at]);
                finite = finite && std::isfinite(value);
                store(s.out, out, c, quantized(s, value, c));
            }
        });
    }

    static std::int32_t quantized(const Quantize& s, double value, std::int32_t c) {
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

    void operator()(const Conv& s) {
        switch (s.kind) {
            case ConvKind::kPacked: kernels.conv_packed(s, arena); break;
            case ConvKind::kDepthwise: kernels.conv_depthwise(s, arena); break;
            case ConvKind::kGeneric: generic(s); break;
        }
    }

    void generic(const Conv& s) {
        const std::int32_t n_in = s.in.channels / s.groups, n_out = s.out.channels / s.groups;
        const auto* weights = static_cast<const std::int32_t*>(s.weights);
        pixels(s.out, [&](std::int32_t y, std::int32_t x) {
            const std::uint8_t* residual = s.has_residual ? pixel(s.residual.x, y, x) : nullptr;
            const std::int32_t* w = weights;
            for (std::int32_t o = 0; o < s.out.channels; ++o) {
                std::int32_t sum = 0;
                for (std::int32_t a = 0; a < s.kernel_h; ++a) {
                    for (std::int32_t b = 0; b < s.kernel_w; ++b) {
                        const std::uint8_t* in = pixel(s.in, y * s.stride_h - s.pad_h + a * s.dilation_h,
                                                       x * s.stride_w - s.pad_w + b * s.dilation_w);
                        for (std::int32_t i = 0; i < n_in; ++i) {
                            sum = multiply_add(sum, load(s.in, in, o / n_out * n_in + i), *w++);
                        }
                    }
                }
                finish_accumulator(s, sum, o, o, residual, pixel(s.out, y, x));
            }
        });
    }

    void operator()(const Join& s) {
        pixels(s.out, [&](std::int32_t y, std::int32_t x) {
            std::uint8_t* out = pixel(s.out, y, x);
            for (std::int32_t c = 0; c < s.out.channels; ++c) {
                std::int64_t sum = 0;
                for (const Branch& branch : s.branches) {
                    sum += branch_value(branch, pixel(branch.x, y, x), c, c);
                }
                store(s.out, out, c, finished(sum, s.finish));
            }
        });
    }

    void operator()(const MaxPool& s) {
        const std::int32_t height = s.in.buffer.height, width = s.in.buffer.width;
        pixels(s.out, [&](std::int32_t y, std::int32_t x) {
            std::uint8_t* out = pixel(s.out, y, x);
            bool first = true;
            for (std::int32_t a = 0; a < s.kernel_h; ++a) {
                const std::int64_t row = std::int64_t{y} * s.stride_h - s.pad_h + std::int64_t{a} * s.dilation_h;
                for (std::int32_t b = 0; b < s.kernel_w; ++b) {
                    const std::int64_t column = std::int64_t{x} * s.stride_w - s.pad_w + std::int64_t{b} * s.dilation_w;
                    if (row < 0 || row >= height || column < 0 || column >= width) {
                        continue;
                    }
                    const std::uint8_t* in = pixel(s.in, row, column);
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

    void operator()(const SumPool& s) {
        const std::int32_t height = s.in.buffer.height, width = s.in.buffer.width;
        pixels(s.out, [&](std::int32_t y, std::int32_t x) {
            std::uint8_t* out = pixel(s.out, y, x);
            for (std::int32_t c = 0; c < s.out.channels; ++c) {
                store(s.out, out, c, s.bias);
            }
            for (std::int32_t a = 0; a < s.kernel_h; ++a) {
                const std::int64_t row = std::int64_t{y} * s.stride_h - s.pad_h + a;
                for (std::int32_t b = 0; b < s.kernel_w; ++b) {
                    const std::int64_t column = std::int64_t{x} * s.stride_w - s.pad_w + b;
                    const bool inside = row >= 0 && row < height && column >= 0 && column < width;
                    const std::uint8_t* in = inside ? pixel(s.in, row, column) : nullptr;
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

    void operator()(const Lookup& s) {
        pixels(s.out, [&](std::int32_t y, std::int32_t x) {
            const std::uint8_t* in = pixel(s.in, y, x);
            for (std::int32_t c = 0; c < s.out.channels; ++c) {
                const std::int64_t place = std::int64_t{load(s.in, in, c)} - s.first;
                store(s.out, pixel(s.out, y, x), c, s.table[std::clamp<std::int64_t>(place, 0, 255)]);
            }
        });
    }

    void operator()(const Pad& s) {
        pixels(s.out, [&](std::int32_t y, std::int32_t x) {
            const std::int32_t row = y - s.rows, column = x - s.columns;
            const bool inside = row >= 0 && row < s.in.buffer.height && column >= 0 && column < s.in.buffer.width;
            const std::uint8_t* in = inside ? pixel(s.in, row, column) : nullptr;
            for (std::int32_t c = 0; c < s.out.channels; ++c) {
                const std::int32_t from = c - s.channels;
                const bool copied = inside && from >= 0 && from < s.in.channels;
                store(s.out, pixel(s.out, y, x), c, copied ? load(s.in, in, from) : s.value);
            }
        });
    }

    void operator()(const Copy& s) {
        pixels(s.out, [&](std::int32_t y, std::int32_t x) {
            for (std::int32_t c = 0; c < s.out.channels; ++c) {
                store(s.out, pixel(s.out, y, x), c, load(s.in, pixel(s.in, y, x), c));
            }
        });
    }

    void operator()(const Flatten& s) {
        std::uint8_t* out = pixel(s.out, 0, 0);
        pixels(s.in, [&](std::int32_t y, std::int32_t x) {
            for (std::int32_t c = 0; c < s.in.channels; ++c) {
                store(s.out, out, planar(s.in, c, y, x), load(s.in, pixel(s.in, y, x), c));
            }
        });
    }

    void operator()(const Fill& s) {
        const Buffer& b = s.buffer;
        const std::int64_t row = b.row_stride(), left = std::int64_t{b.left} * b.pixel_stride;
        const std::int64_t right = std::int64_t{b.right} * b.pixel_stride;
        fill(b, 0, b.top * row);
        for (std::int64_t y = b.top; y < std::int64_t{b.top} + b.height; ++y) {
            fill(b, y * row, left);
            fill(b, (y + 1) * row - right, right);
        }
        fill(b, (std::int64_t{b.top} + b.height) * row, b.bottom * row);
    }

    void fill(const Buffer& b, std::int64_t first, std::int64_t n) const {
        if (!b.wide) {
            std::memset(arena + b.offset + first, b.fill, static_cast<std::size_t>(n));
            return;
        }
        auto* at = reinterpret_cast<std::int32_t*>(arena + b.offset) + first;
        std::fill(at, at + n, b.fill);
    }

    void operator()(const Output& s) {
        std::int32_t* out = outputs[static_cast<std::size_t>(s.output)];
        pixels(s.in, [&](std::int32_t y, std::int32_t x) {
            for (std::int32_t c = 0; c < s.in.channels; ++c) {
                out[planar(s.in, c, y, x)] = load(s.in, pixel(s.in, y, x), c);
            }
        });
    }
};

}  // namespace

bool run(const Plan& plan, const Kernels& kernels, std::uint8_t* arena, std::span<const Input> inputs,
         std::span<std::int32_t* const> outputs, std::span<std::int64_t> step_ns) {
    Runner runner{kernels, arena, inputs, outputs};
    if (step_ns.empty()) {
        for (const Step& step : plan.steps) {
            std::visit(runner, step);
        }
        return runner.finite;
    }
    using Clock = std::chrono::steady_clock;
    for (std::size_t i = 0; i < plan.steps.size(); ++i) {
        const Clock::time_point start = Clock::now();
        std::visit(runner, plan.steps[i]);
        step_ns[i] = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
    }
    return runner.finite;
}

std::int64_t macs(const Step& step) {
    const auto* conv = std::get_if<Conv>(&step);
    if (conv == nullptr) {
        return 0;
    }
    const Buffer& out = conv->out.buffer;
    const std::int64_t of_output = std::int64_t{conv->in.channels} / conv->groups * conv->kernel_h * conv->kernel_w;
    return of_output * conv->out.channels * out.height * out.width;
}

}  // namespace dyadiq::engine
