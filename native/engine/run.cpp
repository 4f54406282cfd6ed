#include "engine/run.hpp"

#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <type_traits>

#include "engine/codebook.hpp"
#include "engine/kernels/finish.hpp"
#include "engine/pixels.hpp"

namespace dyadiq::engine {
namespace {

// What one thread does of every step.
struct Runner {
    const Kernels& kernels;
    Share share;
    std::uint8_t* arena;
    std::span<const Input> inputs;
    std::span<std::int32_t* const> outputs;
    bool finite = true;

    // Whether codes can be copied byte by byte.
    static bool same_codes(const Tensor& a, const Tensor& b) {
        return !a.buffer.wide && !b.buffer.wide && a.code_offset == b.code_offset;
    }

    std::uint8_t* pixel(const Tensor& t, std::int64_t y, std::int64_t x) const { return arena + t.at(y, x); }

    void operator()(const Quantize& s) {
        finite = kernels.quantize(s, inputs[static_cast<std::size_t>(s.input)], share, arena) && finite;
    }

    void operator()(const Conv& s) {
        switch (s.kind) {
            case ConvKind::kPacked: kernels.conv_packed(s, share, arena); break;
            case ConvKind::kDepthwise: kernels.conv_depthwise(s, share, arena); break;
            case ConvKind::kGeneric:
                if constexpr (is_built("generic")) {
                    generic(s);
                }
                break;
            case ConvKind::kSparse: kernels.conv_sparse(s, share, arena); break;
            case ConvKind::kSparse4: kernels.conv_sparse4(s, share, arena); break;
            case ConvKind::kWinograd:
            case ConvKind::kWinograd1d: kernels.conv_winograd(s, share, arena); break;
            case ConvKind::kBinary: kernels.conv_binary(s, share, arena); break;
            case ConvKind::kCodebook:
                if constexpr (is_built("codebook")) {
                    conv_codebook(kernels, s, share, arena);
                }
                break;
        }
    }

    void generic(const Conv& s) {
        const std::int32_t n_in = s.in.channels / s.groups, n_out = s.out.channels / s.groups;
        const auto* weights = static_cast<const std::int32_t*>(s.weights);
        pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
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

    void operator()(const Join& s) { kernels.join(s, share, arena); }
    void operator()(const MaxPool& s) { kernels.max_pool(s, share, arena); }
    void operator()(const SumPool& s) { kernels.sum_pool(s, share, arena); }

    void operator()(const Lookup& s) {
        pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
            const std::uint8_t* in = pixel(s.in, y, x);
            for (std::int32_t c = 0; c < s.out.channels; ++c) {
                const std::int64_t place = std::int64_t{load(s.in, in, c)} - s.first;
                store(s.out, pixel(s.out, y, x), c, s.table[std::clamp<std::int64_t>(place, 0, 255)]);
            }
        });
    }

    void operator()(const Pad& s) {
        pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
            const std::int32_t row = y - s.rows, column = x - s.columns;
            const bool inside = row >= 0 && row < s.in.buffer.height && column >= 0 && column < s.in.buffer.width;
            const std::uint8_t* in = inside ? pixel(s.in, row, column) : nullptr;
            if (same_codes(s.in, s.out)) {
                std::uint8_t* out = pixel(s.out, y, x);
                std::memset(out, add(s.value, s.out.code_offset), static_cast<std::size_t>(s.out.channels));
                if (inside) {
                    std::memcpy(out + s.channels, in, static_cast<std::size_t>(s.in.channels));
                }
                return;
            }
            for (std::int32_t c = 0; c < s.out.channels; ++c) {
                const std::int32_t from = c - s.channels;
                const bool copied = inside && from >= 0 && from < s.in.channels;
                store(s.out, pixel(s.out, y, x), c, copied ? load(s.in, in, from) : s.value);
            }
        });
    }

    void operator()(const Copy& s) {
        pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
            if (same_codes(s.in, s.out)) {
                std::memmove(pixel(s.out, y, x), pixel(s.in, y, x), static_cast<std::size_t>(s.out.channels));
                return;
            }
            for (std::int32_t c = 0; c < s.out.channels; ++c) {
                store(s.out, pixel(s.out, y, x), c, load(s.in, pixel(s.in, y, x), c));
            }
        });
    }

    void operator()(const Flatten& s) {
        std::uint8_t* out = pixel(s.out, 0, 0);
        pixels(s.in, share, [&](std::int32_t y, std::int32_t x) {
            for (std::int32_t c = 0; c < s.in.channels; ++c) {
                store(s.out, out, planar(s.in, c, y, x), load(s.in, pixel(s.in, y, x), c));
            }
        });
    }

    void operator()(const Lower& s) {
        const std::int64_t step = s.in.at(0, s.dilation_w) - s.in.at(0, 0);
        const bool side_by_side = step == s.in.channels;  // taps of a row: copied at once
        const std::int32_t columns = side_by_side ? 1 : s.kernel_w;
        const auto bytes = static_cast<std::size_t>(s.in.channels) * static_cast<std::size_t>(s.kernel_w / columns);
        pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
            std::uint8_t* out = pixel(s.out, y, x);
            for (std::int32_t a = 0; a < s.kernel_h; ++a) {
                const std::uint8_t* in =
                    pixel(s.in, std::int64_t{y} * s.stride_h - s.pad_h + std::int64_t{a} * s.dilation_h,
                          std::int64_t{x} * s.stride_w - s.pad_w);
                for (std::int32_t b = 0; b < columns; ++b, in += step, out += bytes) {
                    std::memcpy(out, in, bytes);
                }
            }
        });
    }

    void operator()(const Bits& s) { kernels.pack_bits(s, share, arena); }
    void operator()(const Quads& s) { kernels.pack_quads(s, share, arena); }

    void operator()(const Fill& s) {
        const Buffer& b = s.buffer;
        const std::int64_t row = b.row_stride(), left = std::int64_t{b.left} * b.pixel_stride;
        const std::int64_t right = std::int64_t{b.right} * b.pixel_stride;
        for (std::int64_t y = share.first(b.rows()); y < share.last(b.rows()); ++y) {
            const bool is_margin = y < b.top || y >= std::int64_t{b.top} + b.height;
            fill(b, y * row, is_margin ? row : left);
            fill(b, (y + 1) * row - right, is_margin ? 0 : right);
        }
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
        pixels(s.in, share, [&](std::int32_t y, std::int32_t x) {
            for (std::int32_t c = 0; c < s.in.channels; ++c) {
                out[planar(s.in, c, y, x)] = load(s.in, pixel(s.in, y, x), c);
            }
        });
    }
};

}  // namespace

bool run(const Plan& plan, const Kernels& kernels, std::uint8_t* arena, std::span<const Input> inputs,
         std::span<std::int32_t* const> outputs, ThreadPool* pool, const Observer* observer) {
    const std::int32_t n_threads = pool == nullptr ? 1 : pool->size();
    std::atomic<bool> finite = true;
    auto work = [&](std::int32_t index) {
        Runner runner{kernels, Share{index, n_threads}, arena, inputs, outputs};
        using Clock = std::chrono::steady_clock;
        Clock::time_point start;
        const bool tells = index == 0 && observer != nullptr;
        const std::int32_t times = observer == nullptr ? 1 : observer->times;
        for (std::size_t n = 0; n < plan.steps.size() * static_cast<std::size_t>(times); ++n) {
            const std::size_t i = n / static_cast<std::size_t>(times);
            if (tells) {
                start = Clock::now();
            }
            const auto run_built = [&]<typename Kind>(const Kind& step) {
                if constexpr (is_built(kOperator<Kind>)) {  // others were refused
                    runner(step);
                }
            };
            std::visit(run_built, plan.steps[i]);
            // The step after a fill writes into that buffer, and reads others: it need not wait.
            if (n_threads > 1 && (observer != nullptr || !std::holds_alternative<Fill>(plan.steps[i]))) {
                pool->meet();
            }
            if (tells) {
                const auto took = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start);
                observer->call(observer->context, i, took.count());
            }
            if (n_threads > 1 && observer != nullptr) {
                pool->meet();  // it may look at what the step wrote
            }
        }
        if (!runner.finite) {
            finite = false;
        }
    };
    if (n_threads == 1) {
        work(0);
    } else {
        pool->run(work);
    }
    return finite;
}

const Tensor* written(const Step& step) {
    return std::visit(
        [](const auto& s) -> const Tensor* {
            using Kind = std::decay_t<decltype(s)>;
            if constexpr (std::is_same_v<Kind, Fill>) {
                return nullptr;
            } else if constexpr (std::is_same_v<Kind, Output>) {
                return &s.in;
            } else {
                return &s.out;
            }
        },
        step);
}

std::int64_t n_codes(const Step& step) {
    const Tensor* const t = written(step);
    return t == nullptr ? 0 : std::int64_t{t->channels} * t->buffer.height * t->buffer.width;
}

void read_codes(const Step& step, const std::uint8_t* arena, std::int32_t* codes) {
    if (const Tensor* const t = written(step)) {
        pixels(*t, Share{}, [&](std::int32_t y, std::int32_t x) {
            for (std::int32_t c = 0; c < t->channels; ++c) {
                codes[planar(*t, c, y, x)] = load(*t, arena + t->at(y, x), c);
            }
        });
    }
}

bool real_values(const Output& output, const std::int32_t* codes, float* values) {
    const std::int64_t plane = std::int64_t{output.in.buffer.height} * output.in.buffer.width;
    for (std::int64_t i = 0; output.scale != nullptr && i < plane * output.in.channels; ++i) {
        const double scale = output.scale[output.n_scales == 1 ? 0 : i / plane];
        values[i] = static_cast<float>(static_cast<double>(std::int64_t{codes[i]} - output.zero_point) * scale);
    }
    return output.scale != nullptr;
}

std::int64_t macs(const Step& step) {
    const auto* conv = std::get_if<Conv>(&step);
    if (conv == nullptr) {
        return 0;
    }
    const Buffer& out = conv->out.buffer;
    const std::int64_t channels = std::int64_t{conv->in.channels} * (conv->kind == ConvKind::kBinary ? 8 : 1);
    const std::int64_t of_output = channels / conv->groups * conv->kernel_h * conv->kernel_w;
    return of_output * conv->out.channels * out.height * out.width;
}

}  // namespace dyadiq::engine
