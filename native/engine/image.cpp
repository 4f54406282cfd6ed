#include "engine/image.hpp"

#include <cstring>
#include <limits>

#include "engine/aliasing.hpp"
#include "engine/operators.hpp"
#include "engine/reader.hpp"

namespace dyadiq::engine {
namespace {

// Whether the window of a pool is no larger than what it slides over: a bound on work, and no window is all padding.
bool pool_fits(std::int64_t kernel, std::int64_t dilation, std::int64_t pad, std::int64_t size) {
    return pad < kernel * dilation && (kernel - 1) * dilation < size + 2 * pad;
}

class PlanReader : Reader {
   public:
    using Reader::Reader;

    Plan plan() {
        require(next() == kPlanVersion, "its plan is of a newer version");
        Plan plan;
        plan.structure = structure();
        const auto low = static_cast<std::uint32_t>(next());
        plan.arena_bytes = static_cast<std::int64_t>(static_cast<std::uint64_t>(next()) << 32 | low);
        require(plan.arena_bytes >= kSlack && plan.arena_bytes <= kMaxArena, "its arena has no sensible size");
        const std::int32_t n_buffers = count(), n_tensors = count(), n_inputs = count(), n_outputs = count();
        const std::int32_t n_steps = count();
        sizes(plan.input_sizes, n_inputs);
        sizes(plan.output_sizes, n_outputs);
        for (std::int32_t i = 0; i < n_buffers; ++i) {
            add_buffer(plan.arena_bytes);
        }
        for (std::int32_t i = 0; i < n_tensors; ++i) {
            add_tensor();
        }
        for (std::int32_t i = 0; i < n_steps; ++i) {
            plan.steps.push_back(read_step(plan));
            if (const std::string_view name = name_of(plan.steps.back()); !is_built(name)) {
                throw MissingOperator(std::string(name));
            }
            require(writes_apart(plan.steps.back()), "a step writes over what it reads");
        }
        require(is_at_end(), "its plan has words that belong to nothing");
        return plan;
    }

   private:
    void sizes(std::vector<std::int64_t>& into, std::int32_t n) {
        for (std::int32_t i = 0; i < n; ++i) {
            into.push_back(between(1, std::numeric_limits<std::int32_t>::max(), "a size"));
        }
    }

    Step read_step(const Plan& plan) {
        switch (next()) {
            case 1: return quantize(plan);
            case 2: return read_conv(*this);
            case 3: return join();
            case 4: return max_pool();
            case 5: return sum_pool();
            case 6: return lookup();
            case 7: return pad();
            case 8: return copy();
            case 9: return flatten();
            case 10: return Fill{buffer()};
            case 11: return output(plan);
            case 12: return lower();
            case 13: return bits();
            case 14: return quads();
            default: throw BadImage("a step is unknown");
        }
    }

    Step quantize(const Plan& plan) {
        Quantize s{};
        s.input = between(0, static_cast<std::int32_t>(plan.input_sizes.size()) - 1, "an input");
        s.out = tensor();
        const Record& scale = record(next(), 1, "a scale");
        require(scale.kind == 1, "a scale is of another type");
        std::memcpy(&s.scale, scale.payload, sizeof s.scale);
        require(s.scale > 0 && s.scale < std::numeric_limits<double>::infinity(), "a scale is not positive");
        s.zero_point = next(), s.low = next(), s.high = next();
        require(s.low <= s.high, "codes of an input have no range");
        s.sign = flag();
        s.grid = int32s(3 * std::int64_t{s.out.channels}, "a grid", true);
        for (std::int32_t c = 0; s.grid != nullptr && c < s.out.channels; ++c) {
            require(s.grid[c] >= 0 && s.grid[c] <= 30, "a grid is out of range");
        }
        const std::int64_t size = plane(s.out) * s.out.channels;
        require(plan.input_sizes[static_cast<std::size_t>(s.input)] == size, "an input has another size");
        return s;
    }

    Step join() {
        Join s{};
        s.out = tensor();
        s.finish = finish();
        const std::int32_t n = between(1, 64, "a number of branches");
        for (std::int32_t i = 0; i < n; ++i) {
            s.branches.push_back(branch(s.out.channels));
            same_shape(s.branches.back().x, s.out);
        }
        return s;
    }

    Step max_pool() {
        MaxPool s{};
        s.in = tensor(), s.out = tensor();
        s.kernel_h = side(), s.kernel_w = side(), s.stride_h = side(), s.stride_w = side();
        s.dilation_h = side(), s.dilation_w = side(), s.pad_h = margin(), s.pad_w = margin();
        require(s.in.channels == s.out.channels && s.in.buffer.wide == s.out.buffer.wide &&
                    s.in.code_offset == s.out.code_offset,
                "a pool changes types");
        require(pool_fits(s.kernel_h, s.dilation_h, s.pad_h, s.in.buffer.height) &&
                    pool_fits(s.kernel_w, s.dilation_w, s.pad_w, s.in.buffer.width),
                "a window is larger than what it slides over");
        return s;
    }

    Step sum_pool() {
        SumPool s{};
        s.in = tensor(), s.out = tensor();
        s.kernel_h = side(), s.kernel_w = side(), s.stride_h = side(), s.stride_w = side();
        s.pad_h = margin(), s.pad_w = margin();
        s.pad_value = next(), s.bias = next();
        s.factor = int32s(plane(s.out), "a factor", true);
        require(s.in.channels == s.out.channels && s.out.buffer.wide, "a pool changes channels, or is stored in bytes");
        require(pool_fits(s.kernel_h, 1, s.pad_h, s.in.buffer.height) &&
                    pool_fits(s.kernel_w, 1, s.pad_w, s.in.buffer.width),
                "a window is larger than what it slides over");
        return s;
    }

    Step lookup() {
        Lookup s{};
        s.in = tensor(), s.out = tensor();
        s.first = next();
        s.table = int32s(256, "a table");
        same_shape(s.in, s.out);
        return s;
    }

    Step pad() {
        Pad s{};
        s.in = tensor(), s.out = tensor();
        s.channels = between(0, kMaxChannels, "a padding"), s.rows = margin(), s.columns = margin();
        s.value = next();
        require(s.channels + s.in.channels <= s.out.channels && s.rows + s.in.buffer.height <= s.out.buffer.height &&
                    s.columns + s.in.buffer.width <= s.out.buffer.width,
                "a padded tensor is too small");
        return s;
    }

    Step copy() {
        Copy s{tensor(), tensor()};
        same_shape(s.in, s.out);
        return s;
    }

    Step flatten() {
        Flatten s{tensor(), tensor()};
        require(plane(s.out) == 1 && s.out.channels == plane(s.in) * s.in.channels, "a flattened tensor has another size");
        return s;
    }

    Step lower() {
        Lower s{};
        s.in = tensor(), s.out = tensor();
        s.kernel_h = side(), s.kernel_w = side(), s.stride_h = side(), s.stride_w = side();
        s.dilation_h = side(), s.dilation_w = side(), s.pad_h = margin(), s.pad_w = margin();
        require(!s.in.buffer.wide && !s.out.buffer.wide && s.in.code_offset == s.out.code_offset,
                "a lowered tensor is of another type");
        require(s.out.channels == std::int64_t{s.kernel_h} * s.kernel_w * s.in.channels,
                "a lowered tensor has other channels than its windows");
        require(windows_fit(s), "a lowered tensor leaves its input");
        return s;
    }

    Step bits() {
        Bits s{};
        s.in = tensor(), s.out = tensor();
        s.pad_h = margin(), s.pad_w = margin();
        s.low = static_cast<std::uint8_t>(between(0, 255, "the lower code of an input"));
        require(!s.in.buffer.wide && !s.out.buffer.wide && s.out.code_offset == 0, "a tensor of bits is of another type");
        require(s.out.channels == (std::int64_t{s.in.channels} + kWordBits - 1) / kWordBits * kQuad,
                "a tensor of bits has other channels than its input");
        require(windows_fit(s), "a tensor of bits leaves its input");
        return s;
    }

    Step quads() {
        Quads s{};
        s.in = tensor(), s.out = tensor();
        s.stride_h = side(), s.stride_w = side(), s.pad_h = margin(), s.pad_w = margin();
        require(!s.in.buffer.wide && s.in.channels == s.out.channels && s.in.code_offset == s.out.code_offset,
                "a tensor of quads is of another type than its input");
        require(is_in_quads(s.out, s.stride_h, s.stride_w), "a tensor of quads is no whole buffer");
        require(s.pad_h <= s.in.buffer.top && s.pad_w <= s.in.buffer.left, "a tensor of quads leaves its input");
        return s;
    }

    Step output(const Plan& plan) {
        Output s{};
        s.in = tensor();
        s.output = between(0, static_cast<std::int32_t>(plan.output_sizes.size()) - 1, "an output");
        require(plan.output_sizes[static_cast<std::size_t>(s.output)] == plane(s.in) * s.in.channels,
                "an output has another size");
        const std::int32_t scale = next();
        s.zero_point = next();
        if (scale != kNone) {
            const Record& scales = record(scale, 1, "a scale");
            require(scales.kind == 1 && (scales.count == 1 || scales.count == s.in.channels), "a scale is of another type");
            s.scale = reinterpret_cast<const double*>(scales.payload);
            s.n_scales = static_cast<std::int32_t>(scales.count);
        }
        return s;
    }
};

}  // namespace

Plan open(const std::uint8_t* data, std::size_t size) { return PlanReader(read_container(data, size)).plan(); }

}  // namespace dyadiq::engine
