#include "engine/image.hpp"

#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "engine/aliasing.hpp"
#include "engine/container.hpp"

namespace dyadiq::engine {
namespace {

constexpr std::int32_t kMaxSide = 1 << 16;
constexpr std::int32_t kMaxMargin = 1 << 12;
constexpr std::int32_t kMaxChannels = 1 << 20;
constexpr std::int64_t kMaxArena = std::int64_t{1} << 40;
constexpr std::int64_t kSlack = 64;  // bytes behind the last buffer that kernels may read

void require(bool holds, const std::string& what) {
    if (!holds) {
        throw BadImage(what);
    }
}

// A bound that cannot overflow: how many positions of a window fit.
bool windows_fit(std::int64_t out, std::int64_t stride, std::int64_t kernel, std::int64_t dilation, std::int64_t pad,
                 std::int64_t before, std::int64_t size, std::int64_t after) {
    return pad <= before && (out - 1) * stride - pad + (kernel - 1) * dilation < size + after;
}

// Whether the window of a pool is no larger than what it slides over: a bound on work, and no window is all padding.
bool pool_fits(std::int64_t kernel, std::int64_t dilation, std::int64_t pad, std::int64_t size) {
    return pad < kernel * dilation && (kernel - 1) * dilation < size + 2 * pad;
}

class Reader {
   public:
    explicit Reader(Container file) : structure_(file.structure), records_(std::move(file.records)) {
        require(!records_.empty() && is_int32(records_[0]), "its first tensor is no plan");
        words_ = reinterpret_cast<const std::int32_t*>(records_[0].payload);
        n_words_ = records_[0].count;
    }

    Plan plan() {
        require(next() == kPlanVersion, "its plan is of a newer version");
        Plan plan;
        plan.structure = structure_;
        const auto low = static_cast<std::uint32_t>(next());
        plan.arena_bytes = static_cast<std::int64_t>(static_cast<std::uint64_t>(next()) << 32 | low);
        require(plan.arena_bytes >= kSlack && plan.arena_bytes <= kMaxArena, "its arena has no sensible size");
        const std::int32_t n_buffers = count(), n_tensors = count(), n_inputs = count(), n_outputs = count();
        const std::int32_t n_steps = count();
        sizes(plan.input_sizes, n_inputs);
        sizes(plan.output_sizes, n_outputs);
        for (std::int32_t i = 0; i < n_buffers; ++i) {
            buffers_.push_back(read_buffer(plan.arena_bytes));
        }
        for (std::int32_t i = 0; i < n_tensors; ++i) {
            tensors_.push_back(read_tensor());
        }
        for (std::int32_t i = 0; i < n_steps; ++i) {
            plan.steps.push_back(read_step(plan));
            require(writes_apart(plan.steps.back()), "a step writes over what it reads");
        }
        require(at_ == n_words_, "its plan has words that belong to nothing");
        return plan;
    }

   private:
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

    void sizes(std::vector<std::int64_t>& into, std::int32_t n) {
        for (std::int32_t i = 0; i < n; ++i) {
            into.push_back(between(1, std::numeric_limits<std::int32_t>::max(), "a size"));
        }
    }

    Buffer read_buffer(std::int64_t arena_bytes) {
        Buffer b{};
        b.offset = std::int64_t{between(0, std::numeric_limits<std::int32_t>::max(), "an offset")} * 64;
        b.wide = flag();
        b.height = side(), b.width = side();
        b.pixel_stride = between(1, kMaxChannels, "a number of channels");
        b.top = margin(), b.left = margin(), b.bottom = margin(), b.right = margin();
        b.fill = b.wide ? next() : between(0, 255, "a code of a margin");
        require(b.offset + b.bytes() <= arena_bytes - kSlack, "a buffer lies outside the arena");
        return b;
    }

    Tensor read_tensor() {
        require(!buffers_.empty(), "a tensor lies in no buffer");
        Tensor t{};
        t.buffer = buffers_[static_cast<std::size_t>(
            between(0, static_cast<std::int32_t>(buffers_.size()) - 1, "a buffer"))];
        t.first_channel = between(0, kMaxChannels, "a channel");
        t.channels = between(1, kMaxChannels, "a number of channels");
        t.code_offset = between(0, t.buffer.wide ? 0 : 128, "an offset of codes");
        require(t.first_channel + t.channels <= t.buffer.pixel_stride, "a tensor leaves its buffer");
        return t;
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

    // Bias, scale and offset, and those of a residual in bytes.
    Single single(const Conv& s, std::int64_t n) {
        const bool rescales_residual = s.has_residual && !s.residual.x.buffer.wide;
        const std::int32_t* words = int32s((rescales_residual ? 5 : 3) * n, "a rescaling in single precision", true);
        if (words == nullptr) {
            return {};
        }
        require(s.finished && !s.finish.sign && !(s.out.buffer.wide && s.has_residual) &&
                    (rescales_residual || s.residual.dyadic.multiplier == nullptr),
                "single precision is not for this convolution");
        const auto* reals = reinterpret_cast<const float*>(words);
        Single found{words, reals + n, reals + 2 * n};
        if (rescales_residual) {
            found.residual_scale = reals + 3 * n, found.residual_offset = reals + 4 * n;
        }
        return found;
    }

    static void same_plane(const Tensor& a, const Tensor& b) {
        require(a.buffer.height == b.buffer.height && a.buffer.width == b.buffer.width, "two tensors differ in size");
    }

    static void same_shape(const Tensor& a, const Tensor& b) {
        same_plane(a, b);
        require(a.channels == b.channels, "two tensors differ in channels");
    }

    static std::int64_t plane(const Tensor& t) { return std::int64_t{t.buffer.height} * t.buffer.width; }

    Step read_step(const Plan& plan) {
        switch (next()) {
            case 1: return quantize(plan);
            case 2: return conv();
            case 3: return join();
            case 4: return max_pool();
            case 5: return sum_pool();
            case 6: return lookup();
            case 7: return pad();
            case 8: return copy();
            case 9: return flatten();
            case 10: return fill();
            case 11: return output(plan);
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
        s.sign = flag();
        s.grid = int32s(3 * std::int64_t{s.out.channels}, "a grid", true);
        for (std::int32_t c = 0; s.grid != nullptr && c < s.out.channels; ++c) {
            require(s.grid[c] >= 0 && s.grid[c] <= 30, "a grid is out of range");
        }
        const std::int64_t size = plane(s.out) * s.out.channels;
        require(plan.input_sizes[static_cast<std::size_t>(s.input)] == size, "an input has another size");
        return s;
    }

    // Where each block's quads begin, and its quads: in order, and all weights there.
    void read_places(Conv& s, std::int64_t blocks, std::int64_t n_quads, std::int64_t n_weights) {
        const Record& found = record(next(), blocks + 1, "a list of quads");
        require(is_int32(found), "a list of quads is of another type");
        s.starts = reinterpret_cast<const std::int32_t*>(found.payload);
        s.places = s.starts + blocks + 1;
        const std::int64_t n_places = found.count - blocks - 1;
        require(s.starts[0] == 0 && s.starts[blocks] == n_places && n_weights >= n_places * kBlock * kQuad,
                "a list of quads has another length");
        for (std::int64_t b = 0; b < blocks; ++b) {
            const std::int64_t first = s.starts[b], last = s.starts[b + 1];
            require(first <= last && last <= n_places && last - first <= kMaxPlaces, "a list of quads is out of order");
            for (std::int64_t i = first; i < last; ++i) {
                require(s.places[i] >= 0 && s.places[i] < n_quads && (i == first || s.places[i] > s.places[i - 1]),
                        "a list of quads is out of order");
            }
        }
    }

    Step conv() {
        Conv s{};
        s.kind = static_cast<ConvKind>(between(0, 3, "a kind of convolution"));
        s.in = tensor(), s.out = tensor();
        s.kernel_h = side(), s.kernel_w = side(), s.stride_h = side(), s.stride_w = side();
        s.dilation_h = side(), s.dilation_w = side(), s.pad_h = margin(), s.pad_w = margin();
        s.groups = between(1, kMaxChannels, "a number of groups");
        require(s.in.channels % s.groups == 0 && s.out.channels % s.groups == 0, "groups do not divide the channels");
        const std::int64_t n_in = s.in.channels / s.groups, n_out = s.out.channels / s.groups;
        const std::int64_t taps = std::int64_t{s.kernel_h} * s.kernel_w;
        const std::int64_t blocks = (n_out + kBlock - 1) / kBlock, quads = (n_in + kQuad - 1) / kQuad;
        std::int64_t n_parameters = s.out.channels;
        const bool packed = s.kind == ConvKind::kPacked, generic = s.kind == ConvKind::kGeneric;
        const bool sparse = s.kind == ConvKind::kSparse;
        require(generic || !s.in.buffer.wide, "a convolution reads wide codes");
        if (sparse) {
            require(s.groups == 1, "sparse weights are of one group");
            n_parameters = blocks * kBlock;
        } else if (packed) {
            require(s.groups == 1 || n_in % kQuad == 0, "groups are no whole quads");
            n_parameters = s.groups * blocks * kBlock;
        } else if (!generic) {
            require(n_in == 1 && n_out == 1, "a depthwise convolution has one channel a group");
        }
        const std::int64_t n_weights = packed    ? s.groups * blocks * taps * quads * kBlock * kQuad
                                       : generic ? s.out.channels * taps * n_in
                                                 : taps * s.out.channels;
        const Record& weights = record(next(), sparse ? 0 : n_weights, "a weight");
        require(weights.kind == 0 && weights.is_signed, "a weight is of another type");
        if (packed && weights.bits < 8) {  // groups of quads fill bytes
            const std::int64_t group = weights.bits == 4 ? 2 : weights.bits == 2 ? 4 : weights.bits == 1 ? 8 : 0;
            require(group != 0 && quads % group == 0, "packed weights are no whole groups");
            s.weight_bits = weights.bits;
        } else {
            require(weights.bits == (generic ? 32 : 8), "a weight is of another type");
        }
        s.weights = weights.payload;
        if (sparse) {
            read_places(s, blocks, taps * quads, weights.count);
        }
        s.bias = int32s(n_parameters, "a bias");
        s.dyadic = dyadic(n_parameters);
        s.finished = flag();
        s.finish = finish();
        s.has_residual = flag();
        if (s.has_residual) {
            s.residual = branch(n_parameters);
            same_shape(s.residual.x, s.out);
        }
        s.single = single(s, n_parameters);
        require(s.finished || (s.out.buffer.wide && !s.has_residual), "an accumulator is stored in bytes");
        require(!s.finished || s.dyadic.multiplier != nullptr, "a convolution has no multipliers");
        const Buffer &in = s.in.buffer, &out = s.out.buffer;
        require(windows_fit(out.height, s.stride_h, s.kernel_h, s.dilation_h, s.pad_h, in.top, in.height, in.bottom) &&
                    windows_fit(out.width, s.stride_w, s.kernel_w, s.dilation_w, s.pad_w, in.left, in.width, in.right),
                "a convolution leaves its input");
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

    Step fill() {
        require(!buffers_.empty(), "a step fills no buffer");
        const std::int32_t last = static_cast<std::int32_t>(buffers_.size()) - 1;
        return Fill{buffers_[static_cast<std::size_t>(between(0, last, "a buffer"))]};
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

    std::string_view structure_;
    std::vector<Record> records_;
    const std::int32_t* words_ = nullptr;
    std::int64_t n_words_ = 0, at_ = 0;
    std::vector<Buffer> buffers_;
    std::vector<Tensor> tensors_;
};

}  // namespace

Plan open(const std::uint8_t* data, std::size_t size) { return Reader(read_container(data, size)).plan(); }

}  // namespace dyadiq::engine
