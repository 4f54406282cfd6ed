// Where convolutions of packed weights and pools read: rows of outputs, taps, and which of them see zeros only, or lie inside.
//
// Taps of a row that lie side by side in memory, as in weights, are one tap of more quads. Rows of taps that lie in
// margins of zeros are skipped, and so is the pixel at the end of a row for taps that lie beside it, where tiles can.
// Used by the kernels of every instruction set. In a namespace without a name, since each is compiled for its own
// instructions: one's code must not run in another's place.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "engine/kernels.hpp"
#include "engine/pixels.hpp"

namespace dyadiq::engine {

// A pixel that a tap need not see, because it would read zeros; only of tiles with more than one.
enum class Skipped : std::int64_t { kNone, kFirst, kLast };

struct Tap {
    std::int64_t in, weights;  // bytes from the first pixel, and from the weights of a block
    Skipped skipped;
};

namespace {

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

inline std::int64_t bytes_of_pixel(const Tensor& t) { return t.at(0, 1) - t.at(0, 0); }
inline std::int64_t bytes_of_row(const Tensor& t) { return t.at(1, 0) - t.at(0, 0); }

// What the window of a pool sees that stands over one output: the taps that lie inside.
template <typename Pool>
struct PoolWindow {
    std::int64_t top, left;
    Window rows, columns;
    const std::uint8_t* in;  // of the first tap, which may lie outside
    std::int64_t row_step, column_step, taps;

    PoolWindow(const Pool& s, std::int32_t y, std::int32_t x, const std::uint8_t* arena)
        : top(std::int64_t{y} * s.stride_h - s.pad_h), left(std::int64_t{x} * s.stride_w - s.pad_w),
          rows(top, dilation(s).first, s.kernel_h, s.in.buffer.height),
          columns(left, dilation(s).second, s.kernel_w, s.in.buffer.width), in(arena + s.in.at(top, left)),
          row_step(bytes_of_row(s.in) * dilation(s).first), column_step(bytes_of_pixel(s.in) * dilation(s).second),
          taps(std::int64_t{s.kernel_h} * s.kernel_w) {}

    std::int64_t n_inside() const { return std::int64_t{rows.last - rows.first} * (columns.last - columns.first); }
    auto n_outside() const { return static_cast<std::int32_t>(taps - n_inside()); }

    // Call `visit(pixel)` for every tap inside.
    template <typename Visit>
    [[gnu::always_inline]] void each(Visit visit) const {
        for (std::int64_t a = rows.first; a < rows.last; ++a) {
            for (std::int64_t b = columns.first; b < columns.last; ++b) {
                visit(in + a * row_step + b * column_step);
            }
        }
    }

   private:
    static std::pair<std::int64_t, std::int64_t> dilation(const Pool& s) {
        if constexpr (requires { s.dilation_h; }) {
            return {s.dilation_h, s.dilation_w};
        } else {
            return {1, 1};
        }
    }
};

inline std::int32_t factor_at(const SumPool& s, std::int32_t y, std::int32_t x) {
    return s.factor != nullptr ? s.factor[std::int64_t{y} * s.out.buffer.width + x] : 1;
}

// Some tiles of one or more blocks of outputs, all in one group.
struct Run {
    std::int64_t group, block, at;  // the first block in its group, and among all
    int n;                          // blocks
    std::int64_t first, last;       // tiles, row by row
    std::int64_t tiles_of_row;
};

struct Geometry {
    static constexpr std::int32_t kMaxTaps = 128;

    const Conv& s;
    Rows rows;
    Tap taps[4][kMaxTaps];  // of tiles inside, at the left end of a row, at the right one, and at both
    std::int64_t n_in, n_out, blocks;  // of a group
    std::int64_t quads, quads_of_tap;
    std::int32_t tap_columns, tile_bits;
    bool merges, skips_rows, skips_columns;

    // Tiles read weights of `bits` each.
    Geometry(const Conv& step, bool may_skip_columns, std::int32_t bits) : s(step), rows(step), tile_bits(bits) {
        n_in = s.in.channels / s.groups, n_out = s.out.channels / s.groups;
        blocks = (n_out + kBlock - 1) / kBlock;
        constexpr std::int64_t kWorthSkipping = 8;  // quads: shorter taps take longer than they save
        quads_of_tap = s.quads_of_tap(), tap_columns = s.tap_columns();
        const bool has_zeros = s.in.buffer.fill == 0;
        skips_rows = has_zeros && s.pad_h + s.in.buffer.bottom > 0;
        skips_columns = may_skip_columns && !s.packs_rows() && has_zeros && s.pad_w + s.in.buffer.right > 0 &&
                        quads_of_tap >= kWorthSkipping && s.out.buffer.width > 1;
        merges = s.dilation_w == 1 && bytes_of_pixel(s.in) == quads_of_tap * kQuad && !skips_columns;
        quads = merges ? quads_of_tap * tap_columns : quads_of_tap;
        for (int place = 0; fits() && place < 4; ++place) {
            find_taps(taps[place], place % 2 == 1, place / 2 == 1);
        }
    }

    bool fits() const { return std::int64_t{s.kernel_h} * taps_of_row() <= kMaxTaps; }

    std::int64_t pixel_step() const { return bytes_of_pixel(s.in) * s.stride_w; }
    std::int64_t quads_of_block() const { return std::int64_t{s.kernel_h} * tap_columns * quads_of_tap; }
    std::int64_t block_bytes(std::int32_t bits) const { return quads_of_block() * kBlock * kQuad * bits / 8; }
    std::int32_t taps_of_row() const { return merges ? 1 : tap_columns; }

    // What the first output of a row sees through the first tap; in a group.
    std::int64_t input(std::int64_t y, std::int64_t group) const {
        return s.in.at(y * s.stride_h - s.pad_h, -std::int64_t{s.pad_w}) + group * n_in;
    }

    // Which pixel of a tile a column of taps need not see.
    Skipped skipped(std::int32_t b, bool is_left, bool is_right) const {
        const std::int64_t column = std::int64_t{b} * s.dilation_w - s.pad_w;
        if (is_left && column < 0) {
            return Skipped::kFirst;
        }
        const std::int64_t last = std::int64_t{s.out.buffer.width - 1} * s.stride_w + column;
        return is_right && last >= s.in.buffer.width ? Skipped::kLast : Skipped::kNone;
    }

    void find_taps(Tap* tap, bool is_left, bool is_right) const {
        const std::int64_t tap_bytes = quads_of_tap * kBlock * kQuad * tile_bits / 8;
        for (std::int32_t a = 0; a < s.kernel_h; ++a) {
            for (std::int32_t b = 0; b < taps_of_row(); ++b, ++tap) {
                tap->in = a * s.dilation_h * bytes_of_row(s.in) + b * s.dilation_w * bytes_of_pixel(s.in);
                tap->weights = (std::int64_t{a} * tap_columns + b) * tap_bytes;
                tap->skipped = skipped(b, is_left && skips_columns, is_right && skips_columns);
            }
        }
    }

    // Rows of taps that an output row sees; one at least, if only of zeros.
    Window tap_rows(std::int64_t y) const {
        Window all{0, 1, s.kernel_h, std::numeric_limits<std::int32_t>::max()};
        if (!skips_rows) {
            return all;
        }
        const Window seen{y * s.stride_h - s.pad_h, s.dilation_h, s.kernel_h, s.in.buffer.height};
        return seen.first < seen.last ? seen : all;
    }

    // Whether shares are of rows and not of outputs: rows stay in the caches of the core that makes them, for the steps
    // behind as well, but every core reads all weights then.
    bool shares_rows() const {
        const std::int64_t weights = s.groups * blocks * quads_of_block() * kBlock * kQuad;
        return weights <= 2 * (s.in.buffer.bytes() + s.out.buffer.bytes());
    }

    // Tiles of a share, in the order in which they run: all of a few blocks, then of the next ones. `widest(n)` is how
    // many of n whole blocks are taken at once, `most_pixels(n)` how many pixels a tile of n blocks has at most.
    template <typename Widest, typename MostPixels, typename Visit>
    void each_run(Share share, Widest widest, MostPixels most_pixels, Visit visit) const {
        const std::int64_t full = n_out / kBlock, plane = std::int64_t{rows.n_rows} * rows.n_columns;
        const std::int64_t all = s.groups * blocks * plane;
        const bool by_rows = shares_rows();
        for (std::int64_t group = 0; group < s.groups; ++group) {
            int n = 0;
            for (std::int64_t block = 0; block < blocks; block += n) {
                n = block < full ? widest(full - block) : 1;
                const std::int64_t at = group * blocks + block;
                const std::int64_t tiles_of_row = (rows.n_columns + most_pixels(n) - 1) / most_pixels(n);
                const std::int64_t n_tiles = rows.n_rows * tiles_of_row, pixels = n * plane;
                const auto tile = [&](std::int64_t end) {  // that the end of a share lies in, counted from these blocks
                    const std::int64_t pixel = std::clamp<std::int64_t>(end - at * plane, 0, pixels);
                    return (pixel * n_tiles + pixels - 1) / pixels;
                };
                const std::int64_t first = by_rows ? share.first(n_tiles) : tile(share.first(all));
                const std::int64_t last = by_rows ? share.last(n_tiles) : tile(share.last(all));
                const Run run{group, block, at, n, first, last, tiles_of_row};
                if (run.first < run.last) {
                    visit(run);
                }
            }
        }
    }

    // Tiles of a share where a block is little work: all blocks of some rows, whose inputs stay near, then of the next.
    template <typename Visit>
    void each_run_of_rows(Share share, int most_pixels, Visit visit) const {
        constexpr std::int64_t kNear = 16 << 10, kPixels = 64;  // bytes of new inputs, and what is worth reading weights for
        const std::int64_t tiles_of_row = (rows.n_columns + most_pixels - 1) / most_pixels;
        const std::int64_t row_bytes = bytes_of_row(s.in) * s.stride_h;
        const std::int64_t least = (kPixels + rows.n_columns - 1) / rows.n_columns;
        const std::int64_t in_band = std::min<std::int64_t>(std::max(kNear / row_bytes, least), rows.n_rows);
        const std::int64_t bands = (rows.n_rows + in_band - 1) / in_band, all = s.groups * blocks;
        const std::int64_t last = share.last(bands * all);
        for (std::int64_t item = share.first(bands * all); item < last; ++item) {
            const std::int64_t at = item % all, first = item / all * in_band;
            const std::int64_t end = std::min<std::int64_t>(first + in_band, rows.n_rows);
            visit(Run{at / blocks, at % blocks, at, 1, first * tiles_of_row, end * tiles_of_row, tiles_of_row});
        }
    }

    // Whether every quad of sparse weights lies near enough.
    bool fits_places() const {
        const std::int64_t far = bytes_of_row(s.in) * s.dilation_h * s.kernel_h;
        return s.kernel_h <= kMaxTaps && far <= std::numeric_limits<std::int32_t>::max();
    }

    // Call `visit(y, x, count, taps, seen)` for every tile of a run: the taps of rows that are seen.
    template <typename Visit>
    void each_tile(const Run& run, Visit visit) const {
        for (std::int64_t tile = run.first; tile < run.last;) {
            const std::int64_t y = tile / run.tiles_of_row;
            const Window seen = tap_rows(y);
            std::int64_t t = tile % run.tiles_of_row, x = rows.n_columns * t / run.tiles_of_row;
            for (; t < run.tiles_of_row && tile < run.last; ++t, ++tile) {
                const std::int64_t next = rows.n_columns * (t + 1) / run.tiles_of_row, count = next - x;
                const int place = !skips_columns || count == 1 ? 0 : (t == 0 ? 1 : 0) + (t == run.tiles_of_row - 1 ? 2 : 0);
                visit(y, x, count, taps[place] + seen.first * taps_of_row(), seen);
                x = next;
            }
        }
    }
    // The first tile of a run that sees all taps; the end of the run where none does.
    std::int64_t find_whole(const Run& run) const {
        std::int64_t tile = run.first;
        while (tile < run.last && n_taps(tap_rows(tile / run.tiles_of_row)) < std::int64_t{s.kernel_h} * taps_of_row()) {
            tile = (tile / run.tiles_of_row + 1) * run.tiles_of_row;
        }
        return std::min(tile, run.last);
    }

    std::int64_t n_taps(const Window& seen) const { return std::int64_t{seen.last - seen.first} * taps_of_row(); }
};

// The quads of one block of sparse weights: where each lies, from the first pixel of a tile, in order.
struct Places {
    std::int32_t n = 0;
    std::int32_t in[kMaxPlaces];         // bytes
    std::int32_t rows[Geometry::kMaxTaps + 1];  // the first quad of each row of taps, and one behind the last

    void find(const Geometry& geometry, std::int64_t block) {
        const Conv& s = geometry.s;
        const std::int32_t* from = s.places + s.starts[block];
        const std::int64_t row_bytes = bytes_of_row(s.in) * s.dilation_h, pixel_bytes = bytes_of_pixel(s.in) * s.dilation_w;
        const auto quads = static_cast<std::int32_t>(geometry.quads_of_tap);
        n = s.starts[block + 1] - s.starts[block];
        std::int32_t row = 0, column = 0, first = 0;  // of the tap, and its first quad
        rows[0] = 0;
        for (std::int32_t i = 0; i < n; ++i) {
            while (from[i] >= first + quads) {
                first += quads;
                if (++column == s.kernel_w) {
                    column = 0;
                    rows[++row] = i;
                }
            }
            in[i] = static_cast<std::int32_t>(row * row_bytes + column * pixel_bytes + (from[i] - first) * kQuad);
        }
        while (row < s.kernel_h) {
            rows[++row] = n;
        }
    }
};

}  // namespace
}  // namespace dyadiq::engine
