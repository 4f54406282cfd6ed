// Convolutions of packed weights: which tiles of avx512vnni_tiles.S run, over which taps (geometry.hpp), and what becomes
// of sums that are not finished there.
#include "engine/kernels/avx512vnni.hpp"
#include "engine/kernels/avx512vnni_epilogue.hpp"
#include "engine/kernels/geometry.hpp"

namespace dyadiq::engine::avx512vnni {
namespace {

int pixels_of_tile(int n) { return n == 1 ? kMaxPixels1 : n == 2 ? kMaxPixels2 : kMaxPixels4; }

void run_blocks(const Geometry& geometry, const Run& run, std::uint8_t* arena) {
    const Conv& s = geometry.s;
    const int n = run.n;
    const std::int64_t parameter = run.at * kBlock, in_group = run.block * kBlock;
    const std::int64_t channel = run.group * geometry.n_out + in_group;
    bool in_tile = in_group + n * kBlock <= geometry.n_out;
    alignas(64) std::int32_t sums[kMaxPixels2 * 2 * kBlock];
    Call call{};
    call.pixel_step = geometry.pixel_step();
    call.quads = geometry.quads;
    call.block_bytes = geometry.block_bytes();
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
    call.weights = static_cast<const std::int8_t*>(s.weights) + run.at * call.block_bytes;
    const auto start = [&](const Tensor& t) { return in_tile ? channel * (t.buffer.wide ? 4 : 1) : 0; };
    const Tile* tiles = n == 1   ? dyadiq_avx512vnni_tiles.one
                        : n == 2 ? dyadiq_avx512vnni_tiles.two
                                 : dyadiq_avx512vnni_tiles.four;
    const std::uint8_t* const in = arena + geometry.input(0, run.group);
    const std::int64_t in_step = geometry.input(1, run.group) - geometry.input(0, run.group);
    const std::int64_t out_row = bytes_of_row(s.out), residual_row = s.has_residual ? bytes_of_row(s.residual.x) : 0;
    std::uint8_t* const out = arena + s.out.at(0, 0) + start(s.out);
    const std::uint8_t* const residual = s.has_residual ? arena + s.residual.x.at(0, 0) + start(s.residual.x) : arena;
    geometry.each_tile(run, [&](std::int64_t y, std::int64_t x, std::int64_t count, const Tap* taps, std::int64_t n_taps) {
        call.taps = taps, call.n_taps = n_taps;
        std::uint8_t* const out_at = out + y * out_row + x * call.out_step;
        const std::uint8_t* const residual_at = residual + y * residual_row + x * call.residual_step;
        tiles[count - 1](&call, in + y * in_step + x * call.pixel_step, out_at, residual_at);
        for (std::int64_t p = 0; !in_tile && p < count; ++p) {
            for (int b = 0; b < n; ++b) {
                const __m512i sum = _mm512_load_si512(sums + (p * n + b) * kBlock);
                epilogues[b](sum, residual_at + p * call.residual_step, out_at + p * call.out_step);
            }
        }
    });
}

}  // namespace

void conv_packed(const Conv& s, Share share, std::uint8_t* arena) {
    const Geometry geometry(s, true);
    if (!geometry.fits() || (s.finish.sign && s.finished)) {
        kPortable.conv_packed(s, share, arena);
        return;
    }
    const auto widest = [&](std::int64_t left) { return geometry.rows.n_columns <= 4 && left >= 4 ? 4 : left >= 2 ? 2 : 1; };
    geometry.each_run(share, widest, pixels_of_tile, [&](const Run& run) { run_blocks(geometry, run, arena); });
}

}  // namespace dyadiq::engine::avx512vnni
