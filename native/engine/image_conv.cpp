// Convolutions of a plan: that their weights are there, whatever their layout, and that their windows lie in the input.
#include "engine/reader.hpp"

namespace dyadiq::engine {
namespace {

class ConvReader {
   public:
    explicit ConvReader(Reader& words) : words_(words) {}

    Conv conv() {
        read_geometry();
        read_weights();
        s_.bias = words_.int32s(n_parameters_, "a bias");
        s_.dyadic = words_.dyadic(n_parameters_);
        s_.finished = words_.flag();
        s_.finish = words_.finish();
        s_.has_residual = words_.flag();
        if (s_.has_residual) {
            s_.residual = words_.branch(n_parameters_);
            Reader::same_shape(s_.residual.x, s_.out);
        }
        read_single();
        require(s_.finished || (s_.out.buffer.wide && !s_.has_residual), "an accumulator is stored in bytes");
        require(!s_.finished || s_.dyadic.multiplier != nullptr, "a convolution has no multipliers");
        return s_;
    }

   private:
    bool is_sparse() const { return s_.kind == ConvKind::kSparse || s_.kind == ConvKind::kSparse4; }
    bool is_packed() const { return s_.kind == ConvKind::kPacked || s_.is_winograd(); }
    std::int64_t taps() const { return std::int64_t{s_.kernel_h} * s_.tap_columns(); }

    void read_geometry() {
        s_.kind = static_cast<ConvKind>(words_.between(0, 8, "a kind of convolution"));
        s_.in = words_.tensor(), s_.out = words_.tensor();
        s_.kernel_h = words_.side(), s_.kernel_w = words_.side(), s_.stride_h = words_.side(), s_.stride_w = words_.side();
        s_.dilation_h = words_.side(), s_.dilation_w = words_.side();
        s_.pad_h = words_.margin(), s_.pad_w = words_.margin();
        s_.groups = words_.between(1, kMaxChannels, "a number of groups");
        require(s_.in.channels % s_.groups == 0 && s_.out.channels % s_.groups == 0, "groups do not divide the channels");
        n_in_ = s_.in.channels / s_.groups, n_out_ = s_.out.channels / s_.groups;
        blocks_ = (n_out_ + kBlock - 1) / kBlock, quads_ = s_.quads_of_tap();
        const bool in_blocks = is_packed() || is_sparse() || s_.kind == ConvKind::kBinary ||
                               s_.kind == ConvKind::kCodebook;
        n_parameters_ = in_blocks ? s_.groups * blocks_ * kBlock : s_.out.channels;
        require(s_.kind == ConvKind::kGeneric || !s_.in.buffer.wide, "a convolution reads wide codes");
        if (s_.kind == ConvKind::kBinary) {
            const Buffer& in = s_.in.buffer;
            require(s_.groups == 1 && s_.in.channels % kQuad == 0, "bits are of one group, in whole words");
            require(s_.pad_h + s_.pad_w + in.top + in.left + in.bottom + in.right == 0, "bits have no margins");
        } else if (s_.kind != ConvKind::kPacked && in_blocks) {
            require(s_.groups == 1, "sparse weights, those of Winograd and places in a table are of one group");
        } else if (s_.kind == ConvKind::kPacked) {
            require(s_.groups == 1 || n_in_ % kQuad == 0, "groups are no whole quads");
        } else if (s_.kind == ConvKind::kDepthwise) {
            require(n_in_ == 1 && n_out_ == 1, "a depthwise convolution has one channel a group");
        }
        Conv windows = s_;
        if (s_.kind == ConvKind::kSparse4) {  // whose windows may end in the next row; what they read, `read_quads` checks
            require(is_in_quads(s_.in, s_.stride_h, s_.stride_w), "quads are no whole buffer");
            require(s_.out.buffer.width <= s_.columns_of_phase(), "a convolution leaves its input");
            windows.in.buffer.right = s_.in.buffer.width;
        }
        require(windows_fit(windows), "a convolution leaves its input");
    }

    void read_weights() {
        if (s_.kind == ConvKind::kCodebook) {
            read_codebook();
            return;
        }
        const bool generic = s_.kind == ConvKind::kGeneric, sparse = is_sparse();
        const bool binary = s_.kind == ConvKind::kBinary;
        const std::int64_t n_weights = is_packed() ? s_.groups * blocks_ * taps() * quads_ * kBlock * kQuad
                                       : binary    ? blocks_ * taps() * quads_ * kBlock
                                       : generic   ? s_.out.channels * taps() * n_in_
                                                   : taps() * s_.out.channels;
        const Record& weights = words_.record(words_.next(), sparse ? 0 : n_weights, "a weight");
        require(weights.kind == 0 && weights.is_signed, "a weight is of another type");
        if (is_packed() && weights.bits < 8) {  // groups of quads fill bytes
            const std::int64_t group = weights.bits == 4 ? 2 : weights.bits == 2 ? 4 : weights.bits == 1 ? 8 : 0;
            require(group != 0 && quads_ % group == 0, "packed weights are no whole groups");
            s_.weight_bits = weights.bits;
        } else {
            require(weights.bits == (generic || binary ? 32 : 8), "a weight is of another type");
        }
        s_.weights = weights.payload;
        if (s_.kind == ConvKind::kSparse) {
            read_places(weights.count, blocks_, kBlock * kQuad);
            for (std::int64_t i = 0; i < s_.starts[blocks_]; ++i) {
                require(s_.places[i] < taps() * quads_, "a list of quads is out of order");
            }
        } else if (s_.kind == ConvKind::kSparse4) {
            read_quads(weights.count);
        } else if (s_.is_winograd()) {
            read_winograd();
        } else if (binary) {
            s_.binary.both = words_.flag();
            s_.binary.factor = words_.next();
        }
    }

    // Places in a table of weights, and the table; a block has room in a panel.
    void read_codebook() {
        const std::int64_t pair = 2 * kBlock * kQuad;
        require(taps() <= kCodebookPanel && quads_ <= kCodebookPanel && s_.pairs_of_block() * pair <= kCodebookPanel,
                "a block of weights is too large for a table");
        const Record& places = words_.record(words_.next(), blocks_ * s_.pairs_of_block() * pair, "a weight");
        require(places.kind == 0 && !places.is_signed && places.bits == 4, "a weight is of another type");
        s_.weights = places.payload;
        const Record& table = words_.record(words_.next(), kTable, "a table of weights");
        require(table.kind == 0 && table.is_signed && table.bits == 8, "a table of weights is of another type");
        s_.table = reinterpret_cast<const std::int8_t*>(table.payload);
    }

    // Where each of `n` blocks' quads begin, and its quads: in order, and all weights there.
    void read_places(std::int64_t n_weights, std::int64_t n, std::int64_t weights_of_quad) {
        const Record& found = words_.record(words_.next(), n + 1, "a list of quads");
        require(Reader::is_int32(found), "a list of quads is of another type");
        s_.starts = reinterpret_cast<const std::int32_t*>(found.payload);
        s_.places = s_.starts + n + 1;
        const std::int64_t n_places = found.count - n - 1;
        require(s_.starts[0] == 0 && s_.starts[n] == n_places && n_weights >= n_places * weights_of_quad,
                "a list of quads has another length");
        for (std::int64_t b = 0; b < n; ++b) {
            const std::int64_t first = s_.starts[b], last = s_.starts[b + 1];
            require(first <= last && last <= n_places && last - first <= kMaxPlaces, "a list of quads is out of order");
            for (std::int64_t i = first; i < last; ++i) {
                const bool rises = i == first || s_.places[i] > s_.places[i - 1];
                require(s_.places[i] >= 0 && rises, "a list of quads is out of order");
            }
        }
    }

    // Blocks of 4 outputs, whose quads are found by where the first output's lies: the last output's lies inside, too.
    void read_quads(std::int64_t n_weights) {
        const std::int64_t n = blocks_ * (kBlock / kQuad);
        read_places(n_weights, n, kQuad * kQuad);
        const Buffer &in = s_.in.buffer, &out = s_.out.buffer;
        const std::int64_t last = (std::int64_t{out.height} - 1) * s_.columns_of_phase() + out.width - 1;
        for (std::int64_t i = 0; i < s_.starts[n]; ++i) {
            require(s_.places[i] + last < in.bytes() / kQuad, "a quad lies outside its buffer");
        }
    }

    // The lowest code as it lies in memory, and memory for transformed inputs, which nothing else of the step lies in.
    void read_winograd() {
        const auto is_kernel = [&](std::int32_t h, std::int32_t w) { return s_.kernel_h == h && s_.kernel_w == w; };
        const bool is_1d = s_.kind == ConvKind::kWinograd1d;
        require((is_kernel(3, 3) || (is_1d && (is_kernel(1, 3) || is_kernel(3, 1)))) && s_.stride_h == 1 &&
                    s_.stride_w == 1 && s_.dilation_h == 1 && s_.dilation_w == 1 && s_.in.channels <= kMaxWinogradChannels,
                "a convolution is none for Winograd");
        s_.winograd.low = words_.between(0, 255, "the lowest code of an input");
        const Buffer scratch = s_.winograd.scratch = words_.buffer();
        require(!scratch.wide && scratch.bytes() >= WinogradTiles(s_.out.buffer).n() * winograd_bytes(s_.in.channels),
                "a buffer is too small for Winograd");
    }

    // Bias, scale and offset, and those of a residual in bytes.
    void read_single() {
        const std::int64_t n = n_parameters_;
        const bool rescales_residual = s_.has_residual && !s_.residual.x.buffer.wide;
        const std::int32_t* words = words_.int32s((rescales_residual ? 5 : 3) * n, "a rescaling in single precision", true);
        if (words == nullptr) {
            return;
        }
        require(s_.finished && !s_.finish.sign && !(s_.out.buffer.wide && s_.has_residual) &&
                    (rescales_residual || s_.residual.dyadic.multiplier == nullptr),
                "single precision is not for this convolution");
        const auto* reals = reinterpret_cast<const float*>(words);
        s_.single = {words, reals + n, reals + 2 * n};
        if (rescales_residual) {
            s_.single.residual_scale = reals + 3 * n, s_.single.residual_offset = reals + 4 * n;
        }
    }

    Reader& words_;
    Conv s_{};
    std::int64_t n_in_ = 0, n_out_ = 0, blocks_ = 0;  // of a group
    std::int64_t quads_ = 0;                          // of a tap
    std::int64_t n_parameters_ = 0;                               // of bias and dyadics
};

}  // namespace

Conv read_conv(Reader& words) { return ConvReader(words).conv(); }

}  // namespace dyadiq::engine
