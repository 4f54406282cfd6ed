// Convolutions of packed weights: which tiles of avx512vnni_tiles.S run, over which taps, and what becomes of sums that
// are not finished there.
//
// Taps of a row that lie side by side in memory, as in weights, are one tap of more quads. Rows of taps that lie in
// margins of zeros are skipped, and so is the pixel at the end of a row for taps that lie beside it.
#include <algorithm>
#include <limits>

#include "engine/kernels/avx512vnni.hpp"
#include "engine/kernels/avx512vnni_epilogue.hpp"
#include "engine/pixels.hpp"

namespace dyadiq::engine::avx512vnni {
namespace {

constexpr std::int32_t kMaxTaps = 128;

// The rows of outputs: where planes are one row of memory, the whole plane is one.
struct Rows {
    std::int32_t n_rows, n_columns;

    explicit Rows(const Conv& s) : n_rows(s.out.buffer.height), n_columns(s.out.buffer.width) {
        const auto is_plain = [](const Buffer& b) { return b.left + b.right == 0; };
        const bool pointwise = s.kernel_h * s.kernel_w == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 &&
                               s.pad_w == 0 && s.in.buffer.width == s.out.buffer.width;
        if (pointwise && is_plain(s.in.buffer) && is_plain(s.out.buffer) &&
            (!s.has_residual || is_plain(s.residual.x.buffer))) {
            n_columns *= n_rows;
            n_rows = 1;
        }
    }
};

std::int64_t bytes_of_pixel(const Tensor& t) { return t.at(0, 1) - t.at(0, 0); }
std::int64_t bytes_of_row(const Tensor& t) { return t.at(1, 0) - t.at(0, 0); }

// One convolution: what all its tiles have in common.
struct Convolution {
    const Conv& s;
    std::uint8_t* arena;
    Rows rows;
    Tap taps[4][kMaxTaps];  // of tiles inside, at the left end of a row, at the right one, and at both
    std::int64_t quads, quads_of_tap;
    bool merges, skips_rows, skips_columns;

    Convolution(const Conv& step, std::uint8_t* memory) : s(step), arena(memory), rows(step) {
        const std::int32_t n_in = s.in.channels / s.groups;
        constexpr std::int64_t kWorthSkipping = 8;  // quads: shorter taps take longer than they save
        quads_of_tap = (n_in + kQuad - 1) / kQuad;
        const bool has_zeros = s.in.buffer.fill == 0;
        skips_rows = has_zeros && s.pad_h + s.in.buffer.bottom > 0;
        skips_columns = has_zeros && s.pad_w + s.in.buffer.right > 0 && quads_of_tap >= kWorthSkipping &&
                        s.out.buffer.width > 1;
        merges = s.dilation_w == 1 && bytes_of_pixel(s.in) == quads_of_tap * kQuad && !skips_columns;
        quads = merges ? quads_of_tap * s.kernel_w : quads_of_tap;
    }

    bool fits() const { return std::int64_t{s.kernel_h} * taps_of_row() <= kMaxTaps; }

    // Which pixel of a tile a column of taps need not see.
    Skipped skipped(std::int32_t b, bool is_left, bool is_right) const {
        const std::int64_t column = std::int64_t{b} * s.dilation_w - s.pad_w;
        if (is_left && column < 0) {
            return Skipped::kFirst;
        }
        const std::int64_t last = std::int64_t{s.out.buffer.width - 1} * s.stride_w + column;
        return is_right && last >= s.in.buffer.width ? Skipped::kLast : Skipped::kNone;
    }

    std::int32_t taps_of_row() const { return merges ? 1 : s.kernel_w; }

    void find_taps(Tap* tap, bool is_left, bool is_right) const {
        for (std::int32_t a = 0; a < s.kernel_h; ++a) {
            for (std::int32_t b = 0; b < taps_of_row(); ++b, ++tap) {
                tap->in = a * s.dilation_h * bytes_of_row(s.in) + b * s.dilation_w * bytes_of_pixel(s.in);
                tap->weights = (std::int64_t{a} * s.kernel_w + b) * quads_of_tap * kBlock * kQuad;
                tap->skipped = skipped(b, is_left && skips_columns, is_right && skips_columns);
            }
        }
    }

    // Rows of taps that an output row sees; one at least, if only of zeros.
    Window tap_rows(std::int32_t y) const {
        Window all{0, 1, s.kernel_h, std::numeric_limits<std::int32_t>::max()};
        if (!skips_rows) {
            return all;
        }
        const Window seen{std::int64_t{y} * s.stride_h - s.pad_h, s.dilation_h, s.kernel_h, s.in.buffer.height};
        return seen.first < seen.last ? seen : all;
    }

    // Shares are of tiles, in the order in which they run: all of a few blocks, then of the next ones.
    void run(Share share) {
        for (int place = 0; place < 4; ++place) {
            find_taps(taps[place], place % 2 == 1, place / 2 == 1);
        }
        const std::int32_t n_out = s.out.channels / s.groups, full = n_out / kBlock;
        const std::int32_t blocks = (n_out + kBlock - 1) / kBlock;
        const std::int64_t plane = std::int64_t{rows.n_rows} * rows.n_columns, all = s.groups * blocks * plane;
        for (std::int32_t group = 0; group < s.groups; ++group) {
            for (std::int32_t block = 0, n = 0; block < blocks; block += n) {
                n = block < full ? widest(full - block) : 1;
                const std::int64_t at = std::int64_t{group} * blocks + block;
                const std::int64_t n_tiles = std::int64_t{rows.n_rows} * tiles_of_row(n), pixels = n * plane;
                const auto tile = [&](std::int64_t end) {  // that the end of a share lies in, counted from these blocks
                    const std::int64_t pixel = std::clamp<std::int64_t>(end - at * plane, 0, pixels);
                    return (pixel * n_tiles + pixels - 1) / pixels;
                };
                const std::int64_t first = tile(share.first(all)), last = tile(share.last(all));
                if (first < last) {
                    run_blocks(group, block, n, at, n_out, first, last);
                }
            }
        }
    }

    int widest(std::int32_t left) const {
        if (rows.n_columns <= 4 && left >= 4) {
            return 4;
        }
        return left >= 2 ? 2 : 1;
    }

    static int pixels_of_tile(int n) { return n == 1 ? kMaxPixels1 : n == 2 ? kMaxPixels2 : kMaxPixels4; }
    std::int32_t tiles_of_row(int n) const { return (rows.n_columns + pixels_of_tile(n) - 1) / pixels_of_tile(n); }

    // Some tiles of `n` blocks of a group; `at` is the first block among all of them.
    void run_blocks(std::int32_t group, std::int32_t block, int n, std::int64_t at, std::int32_t n_out,
                    std::int64_t first_tile, std::int64_t last_tile) {
        const std::int64_t parameter = at * kBlock, in_group = std::int64_t{block} * kBlock;
        const std::int64_t channel = std::int64_t{group} * n_out + in_group;
        bool in_tile = in_group + n * kBlock <= n_out;
        alignas(64) std::int32_t sums[kMaxPixels2 * 2 * kBlock];
        Call call{};
        call.pixel_step = bytes_of_pixel(s.in) * s.stride_w;
        call.quads = quads;
        call.block_bytes = std::int64_t{s.kernel_h} * s.kernel_w * quads_of_tap * kBlock * kQuad;
        call.bias = s.bias + parameter;
        call.out_step = bytes_of_pixel(s.out);
        call.residual_step = s.has_residual ? bytes_of_pixel(s.residual.x) : 0;
        call.sums = sums;
        Epilogue epilogues[4];
        for (int b = 0; b < n; ++b) {
            const std::int64_t first = b * kBlock;
            epilogues[b] = Epilogue(s, parameter + first, channel + first, n_out - in_group - first);
            in_tile = in_tile && epilogues[b].is_single;
        }
        if (in_tile) {
            call.bias = s.single.bias + parameter;
            call.ending = s.out.buffer.wide ? Ending::kWideCodes : Ending::kCodes;
            call.magic = kMagic;
            call.wide_low = s.finish.low, call.wide_high = s.finish.high;
            call.scale = s.single.scale + parameter, call.offset = s.single.offset + parameter;
            call.low = static_cast<std::uint8_t>(s.finish.low + s.out.code_offset);
            call.high = static_cast<std::uint8_t>(s.finish.high + s.out.code_offset);
            if (s.has_residual && s.residual.x.buffer.wide) {
                call.ending = Ending::kCodesAndWide;
                call.magic = kMagic - static_cast<std::uint32_t>(s.residual.before);
            } else if (s.has_residual) {
                call.ending = Ending::kCodesAndBytes;
                call.magic = 2 * kMagic;
                call.before = s.residual.before - s.residual.x.code_offset;
                call.residual_scale = s.single.residual_scale + parameter;
                call.residual_offset = s.single.residual_offset + parameter;
            }
        }
        call.weights = static_cast<const std::int8_t*>(s.weights) + at * call.block_bytes;
        const std::int64_t in_channel = std::int64_t{group} * (s.in.channels / s.groups);
        const auto start = [&](const Tensor& t) { return in_tile ? channel * (t.buffer.wide ? 4 : 1) : 0; };
        const Tile* tiles = n == 1   ? dyadiq_avx512vnni_tiles.one
                            : n == 2 ? dyadiq_avx512vnni_tiles.two
                                     : dyadiq_avx512vnni_tiles.four;
        const std::int32_t n_tiles = tiles_of_row(n);
        for (std::int64_t tile = first_tile; tile < last_tile;) {
            const auto y = static_cast<std::int32_t>(tile / n_tiles);
            const Window seen = tap_rows(y);
            call.n_taps = std::int64_t{seen.last - seen.first} * taps_of_row();
            const std::uint8_t* in =
                arena + s.in.at(std::int64_t{y} * s.stride_h - s.pad_h, -std::int64_t{s.pad_w}) + in_channel;
            const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, 0) + start(s.residual.x) : arena;
            std::uint8_t* out = arena + s.out.at(y, 0) + start(s.out);
            for (std::int64_t t = tile % n_tiles; t < n_tiles && tile < last_tile; ++t, ++tile) {
                const std::int64_t x = std::int64_t{rows.n_columns} * t / n_tiles;
                const std::int64_t count = std::int64_t{rows.n_columns} * (t + 1) / n_tiles - x;
                call.taps = taps[count == 1 ? 0 : (t == 0 ? 1 : 0) + (t == n_tiles - 1 ? 2 : 0)] + seen.first * taps_of_row();
                std::uint8_t* const out_at = out + x * call.out_step;
                const std::uint8_t* const residual_at = residual + x * call.residual_step;
                tiles[count - 1](&call, in + x * call.pixel_step, out_at, residual_at);
                for (std::int64_t p = 0; !in_tile && p < count; ++p) {
                    for (int b = 0; b < n; ++b) {
                        const __m512i sum = _mm512_load_si512(sums + (p * n + b) * kBlock);
                        epilogues[b](sum, residual_at + p * call.residual_step, out_at + p * call.out_step);
                    }
                }
            }
        }
    }
};

}  // namespace

void conv_packed(const Conv& s, Share share, std::uint8_t* arena) {
    Convolution convolution(s, arena);
    if (!convolution.fits() || (s.finish.sign && s.finished)) {
        kPortable.conv_packed(s, share, arena);
        return;
    }
    convolution.run(share);
}

}  // namespace dyadiq::engine::avx512vnni
