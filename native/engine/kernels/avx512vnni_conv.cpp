// Convolutions of packed weights: which tiles of avx512vnni_tiles.S run, over which taps (geometry.hpp), and what becomes
// of sums that are not finished there.
#include "engine/kernels/avx512vnni.hpp"
#include "engine/kernels/avx512vnni_epilogue.hpp"
#include "engine/kernels/geometry.hpp"

namespace dyadiq::engine::avx512vnni {
namespace {

int pixels_of_tile(int n) { return n == 1 ? kMaxPixels1 : n == 2 ? kMaxPixels2 : kMaxPixels4; }

// Packed weights: quad i of a group lies i times their bits from the bottom of bytes.
constexpr Shift kShifts4[] = {{4, 0}, {0, 0}}, kShifts2[] = {{6, 0}, {4, 0}, {2, 0}, {0, 0}};
constexpr Shift kShifts1[] = {{7, 0}, {6, 0}, {5, 0}, {4, 0}, {3, 0}, {2, 0}, {1, 0}, {0, 0}};

// Let tiles unpack weights, and leave those as bytes in a panel: as they see them, 16 or 64 times as large.
void unpack(Call& call, int bits, std::int8_t* panel, std::int64_t panel_block, std::int64_t panel_step) {
    call.weight_kind = WeightKind::kPacked;
    call.mask = bits == 4 ? 0xF0F0F0F0 : bits == 2 ? 0xC0C0C0C0 : 0x80808080;
    call.flip = bits == 1 ? 0xC0C0C0C0 : 0;  // the top bit becomes -64 or 64
    call.shifts = bits == 4 ? kShifts4 : bits == 2 ? kShifts2 : kShifts1;
    call.shifts_end = call.shifts + 8 / bits;
    call.panel = panel, call.panel_block = panel_block, call.panel_step = panel_step;
}

// Weights as bytes: half the instructions of a tile that unpacks them, where many tiles read them and they stay near.
constexpr std::int64_t kPanelBytes = 144 << 10, kWorthPanel = 32;  // pixels

// `panel`: where the first tile of all taps leaves weights as bytes, for the others; null: all tiles read them as they are. `places`: of sparse weights; null: others.
void run_blocks(const Geometry& geometry, const Run& run, std::uint8_t* arena, std::int8_t* panel, const Places* places) {
    const Conv& s = geometry.s;
    const int n = run.n;
    const std::int64_t parameter = run.at * kBlock, in_group = run.block * kBlock;
    const std::int64_t channel = run.group * geometry.n_out + in_group;
    bool in_tile = in_group + n * kBlock <= geometry.n_out;
    alignas(64) std::int32_t sums[kMaxPixels2 * 2 * kBlock];
    alignas(64) float scales[2 * kBlock];
    const int bits = s.weight_bits;
    const std::int64_t whole = panel == nullptr ? run.last : geometry.find_whole(run);
    const bool in_panel = whole < run.last;
    Call call{};
    call.pixel_step = geometry.pixel_step();
    call.quads = geometry.quads;
    const std::int64_t file_bytes = geometry.block_bytes(bits), panel_bytes = geometry.block_bytes(8);
    call.weights = static_cast<const std::int8_t*>(s.weights) + run.at * file_bytes;
    call.block_bytes = file_bytes;
    call.scale_shift.bits = static_cast<std::uint64_t>(weight_shift(bits));
    if (places != nullptr) {
        call.weight_kind = WeightKind::kSparse;
    } else if (bits < 8) {
        unpack(call, bits, reinterpret_cast<std::int8_t*>(sums), 0, 0);  // which nobody reads before all taps are done
    }
    call.bias = s.bias + parameter;
    call.out_step = bytes_of_pixel(s.out);
    call.residual_step = s.has_residual ? bytes_of_pixel(s.residual.x) : 0;
    call.sums = sums;
    Epilogue epilogues[4];
    for (int b = 0; b < n; ++b) {
        const std::int64_t first = b * kBlock;
        epilogues[b] = Epilogue(s, parameter + first, channel + first, geometry.n_out - in_group - first);
        in_tile = in_tile && epilogues[b].is_single;
    }
    if (in_tile) {
        call.bias = s.single.bias + parameter;
        call.ending = s.out.buffer.wide ? Ending::kWideCodes : Ending::kCodes;
        call.magic = kMagic;
        call.wide_low = s.finish.low, call.wide_high = s.finish.high;
        call.scale = s.single.scale + parameter, call.offset = s.single.offset + parameter;
        call.low = static_cast<std::uint8_t>(add(s.finish.low, s.out.code_offset));
        call.high = static_cast<std::uint8_t>(add(s.finish.high, s.out.code_offset));
        if (s.has_residual && s.residual.x.buffer.wide) {
            call.ending = Ending::kCodesAndWide;
            call.magic = kMagic - static_cast<std::uint32_t>(s.residual.before);
        } else if (s.has_residual) {
            call.ending = Ending::kCodesAndBytes;
            call.magic = 2 * kMagic;
            call.before = add(s.residual.before, -s.residual.x.code_offset);
            call.residual_scale = s.single.residual_scale + parameter;
            call.residual_offset = s.single.residual_offset + parameter;
        }
    }
    const auto start = [&](const Tensor& t) { return in_tile ? channel * (t.buffer.wide ? 4 : 1) : 0; };
    const Tile* tiles = n == 1   ? dyadiq_avx512vnni_tiles.one
                        : n == 2 ? dyadiq_avx512vnni_tiles.two
                                 : dyadiq_avx512vnni_tiles.four;
    const std::uint8_t* const in = arena + geometry.input(0, run.group);
    const std::int64_t in_step = geometry.input(1, run.group) - geometry.input(0, run.group);
    const std::int64_t out_row = bytes_of_row(s.out), residual_row = s.has_residual ? bytes_of_row(s.residual.x) : 0;
    std::uint8_t* const out = arena + s.out.at(0, 0) + start(s.out);
    const std::uint8_t* const residual = s.has_residual ? arena + s.residual.x.at(0, 0) + start(s.residual.x) : arena;
    // The next blocks' weights, which filling the panel, or the first tile, would wait for; then what is near.
    const std::int64_t n_next = std::min<std::int64_t>(n, s.groups * geometry.blocks - run.at - n);
    const std::int8_t* ahead = static_cast<const std::int8_t*>(s.weights) + (run.at + n) * file_bytes;
    const std::int8_t* const ahead_end = ahead + (n_next > 0 ? n_next * file_bytes : kNextSteps);
    const auto run_tiles = [&](std::int64_t first, std::int64_t last, int unscaled) {  // how much too large sums stay
        Run some = run;
        some.first = first, some.last = last;
        geometry.each_tile(some, [&](std::int64_t y, std::int64_t x, std::int64_t count, const Tap* taps, const Window& seen) {
            Tap packed[Geometry::kMaxTaps];
            call.taps = taps, call.n_taps = geometry.n_taps(seen);
            if (call.weight_kind == WeightKind::kPacked && geometry.tile_bits == 8) {
                std::transform(taps, taps + call.n_taps, packed, [&](Tap tap) { return tap.weights = tap.weights * bits / 8, tap; });
                call.taps = packed;
            }
            call.ahead = ahead < ahead_end ? ahead : call.weights;
            ahead += call.weight_kind == WeightKind::kBytes ? call.n_taps * call.quads * kBytes : 0;
            if (places != nullptr) {
                const std::int64_t from = places->rows[seen.first];
                call.places = places->in + from, call.n_places = places->rows[seen.last] - from;
                call.weights = static_cast<const std::int8_t*>(s.weights) + (s.starts[run.block] + from) * kBlock * kQuad;
            }
            std::uint8_t* const out_at = out + y * out_row + x * call.out_step;
            const std::uint8_t* const residual_at = residual + y * residual_row + x * call.residual_step;
            tiles[count - 1](&call, in + y * in_step + x * call.pixel_step, out_at, residual_at);
            for (std::int64_t p = 0; !in_tile && p < count; ++p) {
                for (int b = 0; b < n; ++b) {
                    const __m512i scaled = _mm512_load_si512(sums + (p * n + b) * kBlock);
                    const __m512i sum = _mm512_sra_epi32(scaled, _mm_cvtsi32_si128(unscaled));
                    epilogues[b](sum, residual_at + p * call.residual_step, out_at + p * call.out_step);
                }
            }
        });
    };
    if (!in_panel) {
        run_tiles(run.first, run.last, 0);
        return;
    }
    unpack(call, bits, panel, panel_bytes, kBytes);
    run_tiles(whole, whole + 1, 0);
    call.weight_kind = WeightKind::kBytes;
    call.weights = panel;
    call.block_bytes = panel_bytes;
    if (in_tile) {  // what sums are too large, a power of two, is in the scale
        const float less = 1.0F / static_cast<float>(1 << weight_shift(bits));
        std::transform(call.scale, call.scale + n * kBlock, scales, [&](float scale) { return scale * less; });
        call.scale = scales;
    }
    run_tiles(run.first, whole, weight_shift(bits));
    run_tiles(whole + 1, run.last, weight_shift(bits));
}

template <typename Widest>
[[gnu::noinline]] void run_in_panel(const Geometry& geometry, Share share, Widest widest, std::uint8_t* arena) {
    alignas(64) std::int8_t panel[kPanelBytes];
    geometry.each_run(share, widest, pixels_of_tile, [&](const Run& run) { run_blocks(geometry, run, arena, panel, nullptr); });
}

}  // namespace

void conv_packed(const Conv& s, Share share, std::uint8_t* arena) {
    const std::int64_t quads = std::int64_t{s.kernel_h} * s.tap_columns() * s.quads_of_tap();
    const std::int64_t panel_blocks = std::min<std::int64_t>(kPanelBytes / (quads * kBlock * kQuad), 2);
    const bool in_panel = s.weight_bits < 8 && panel_blocks > 0 &&
                          std::int64_t{s.out.buffer.height} * s.out.buffer.width >= kWorthPanel;
    const Geometry geometry(s, true, in_panel ? 8 : s.weight_bits);
    if (!geometry.fits() || (s.finish.sign && s.finished)) {
        kPortable.conv_packed(s, share, arena);
        return;
    }
    const auto widest = [&](std::int64_t left) {
        if (in_panel) {
            return static_cast<int>(std::min(left, panel_blocks));
        }
        return geometry.rows.n_columns <= 4 && left >= 4 ? 4 : left >= 2 ? 2 : 1;
    };
    if (in_panel) {
        run_in_panel(geometry, share, widest, arena);
        return;
    }
    geometry.each_run(share, widest, pixels_of_tile,
                      [&](const Run& run) { run_blocks(geometry, run, arena, nullptr, nullptr); });
}

void conv_sparse(const Conv& s, Share share, std::uint8_t* arena) {
    const Geometry geometry(s, false, 8);
    if (!geometry.fits_places() || (s.finish.sign && s.finished)) {
        kPortable.conv_sparse(s, share, arena);
        return;
    }
    Places places;
    geometry.each_run_of_rows(share, kMaxPixels1, [&](const Run& run) {
        places.find(geometry, run.block);
        run_blocks(geometry, run, arena, nullptr, &places);
    });
}

}  // namespace dyadiq::engine::avx512vnni
