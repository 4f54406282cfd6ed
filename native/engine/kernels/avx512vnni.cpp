// Kernels for x86-64 with AVX-512 and its VNNI instructions (Cascade Lake, Zen 4 and later).
//
// vpdpbusd adds four products of unsigned and signed bytes to an int32 without saturating, which is exact. A tile of
// pixels times blocks of 16 channels stays in registers over all taps; tiles are at most 7 x 2, 14 x 1 or 1 x 4, since
// wider ones make g++ spill. Epilogues compute in 64 bits, like the specification.
#include <immintrin.h>

#include <array>
#include <utility>

#include "engine/kernels.hpp"
#include "engine/kernels/finish.hpp"

namespace dyadiq::engine {
namespace {

// Everything of a convolution that does not change from tile to tile.
struct Geometry {
    std::int64_t row_step, column_step;  // bytes from one tap to the next
    std::int64_t pixel_step;             // bytes from one output's input to the next one's
    std::int64_t block_bytes;            // of weights
    std::int32_t kernel_h, kernel_w, quads;
};

// A rescaling of 16 channels, in halves: channels with even and with odd numbers.
struct Rescale {
    __m512i multiplier[2], shift[2], rounding[2];

    Rescale() = default;
    Rescale(const Dyadic& d, std::int64_t parameter) {
        const __m512i m = _mm512_loadu_si512(d.multiplier + parameter), e = _mm512_loadu_si512(d.shift + parameter);
        const __m512i one = _mm512_set1_epi64(1), low_half = _mm512_set1_epi64(0xFFFFFFFF);
        multiplier[0] = m, multiplier[1] = _mm512_srli_epi64(m, 32);
        shift[0] = _mm512_and_si512(e, low_half), shift[1] = _mm512_srli_epi64(e, 32);
        for (int half = 0; half < 2; ++half) {  // 2^(shift-1), and 0 for shift 0
            rounding[half] = _mm512_srli_epi64(_mm512_sllv_epi64(one, shift[half]), 1);
        }
    }

    __m512i operator()(__m512i x, int half) const {
        const __m512i product = _mm512_mul_epi32(x, multiplier[half]);
        return _mm512_srav_epi64(_mm512_add_epi64(product, rounding[half]), shift[half]);
    }
};

// What turns the accumulators of one block into codes.
struct Epilogue {
    const Conv& step;
    std::int64_t channel;  // of the output
    __mmask16 mask;        // channels that exist
    __m512i bias;
    Rescale main, residual;
    bool rescales_residual;

    Epilogue(const Conv& s, std::int64_t parameter, std::int64_t first, std::int32_t n)
        : step(s), channel(first), mask(static_cast<__mmask16>(n >= kBlock ? 0xFFFF : (1 << n) - 1)) {
        bias = _mm512_loadu_si512(s.bias + parameter);
        rescales_residual = s.has_residual && s.residual.dyadic.multiplier != nullptr;
        if (s.finished) {
            main = Rescale(s.dyadic, parameter);
        }
        if (rescales_residual) {
            residual = Rescale(s.residual.dyadic, parameter);
        }
    }

    void operator()(__m512i sum, const std::uint8_t* residual_at, std::uint8_t* out_at) const {
        sum = _mm512_add_epi32(sum, bias);
        if (!step.finished) {
            _mm512_mask_storeu_epi32(out_at + 4 * channel, mask, sum);
            return;
        }
        __m512i halves[2] = {main(sum, 0), main(_mm512_srli_epi64(sum, 32), 1)};
        if (step.has_residual) {
            const __m512i codes = load_residual(residual_at);
            const __m512i other[2] = {codes, _mm512_srli_epi64(codes, 32)};
            const __m512i low = _mm512_set1_epi64(step.residual.low), high = _mm512_set1_epi64(step.residual.high);
            for (int half = 0; half < 2; ++half) {
                const __m512i value = rescales_residual ? residual(other[half], half) : sign_extended(other[half]);
                halves[half] = _mm512_add_epi64(halves[half], _mm512_min_epi64(_mm512_max_epi64(value, low), high));
            }
        }
        const __m512i zero_point = _mm512_set1_epi64(step.finish.zero_point);
        const __m512i low = _mm512_set1_epi64(step.finish.low), high = _mm512_set1_epi64(step.finish.high);
        for (__m512i& half : halves) {
            half = _mm512_min_epi64(_mm512_max_epi64(_mm512_add_epi64(half, zero_point), low), high);
        }
        __m512i codes = _mm512_mask_mov_epi32(halves[0], 0xAAAA, _mm512_slli_epi64(halves[1], 32));
        if (step.out.buffer.wide) {
            _mm512_mask_storeu_epi32(out_at + 4 * channel, mask, codes);
        } else {
            codes = _mm512_add_epi32(codes, _mm512_set1_epi32(step.out.code_offset));
            _mm_mask_storeu_epi8(out_at + channel, mask, _mm512_cvtepi32_epi8(codes));
        }
    }

    static __m512i sign_extended(__m512i low_halves) {
        return _mm512_srai_epi64(_mm512_slli_epi64(low_halves, 32), 32);
    }

    __m512i load_residual(const std::uint8_t* at) const {
        const Tensor& x = step.residual.x;
        const __m512i codes =
            x.buffer.wide ? _mm512_maskz_loadu_epi32(mask, at + 4 * channel)
                          : _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, at + channel));
        return _mm512_add_epi32(codes, _mm512_set1_epi32(step.residual.before - x.code_offset));
    }
};

// The accumulators of P pixels times B blocks.
template <int P, int B>
inline void accumulate(const Geometry& g, const std::uint8_t* in, const std::int8_t* weights, __m512i (&sums)[P][B]) {
    for (int p = 0; p < P; ++p) {
        for (int b = 0; b < B; ++b) {
            sums[p][b] = _mm512_setzero_si512();
        }
    }
    for (std::int32_t a = 0; a < g.kernel_h; ++a) {
        for (std::int32_t c = 0; c < g.kernel_w; ++c) {
            const std::uint8_t* tap = in + a * g.row_step + c * g.column_step;
            for (std::int32_t quad = 0; quad < g.quads; ++quad, tap += kQuad, weights += kBlock * kQuad) {
                __m512i w[B];
                for (int b = 0; b < B; ++b) {
                    w[b] = _mm512_loadu_si512(weights + b * g.block_bytes);
                }
                for (int p = 0; p < P; ++p) {
                    std::int32_t four;
                    std::memcpy(&four, tap + p * g.pixel_step, sizeof four);
                    const __m512i x = _mm512_set1_epi32(four);
                    for (int b = 0; b < B; ++b) {
                        sums[p][b] = _mm512_dpbusd_epi32(sums[p][b], x, w[b]);
                    }
                }
            }
        }
    }
}

struct Places {  // of a tile in the arena
    const std::uint8_t* in;
    const std::uint8_t* residual;
    std::uint8_t* out;
    std::int64_t residual_step, out_step;  // bytes from pixel to pixel
};

template <int P, int B>
void tile(const Geometry& g, const std::int8_t* weights, const Epilogue* epilogues, const Places& at) {
    __m512i sums[P][B];
    accumulate<P, B>(g, at.in, weights, sums);
    for (int b = 0; b < B; ++b) {
        for (int p = 0; p < P; ++p) {
            epilogues[b](sums[p][b], at.residual + p * at.residual_step, at.out + p * at.out_step);
        }
    }
}

using Tile = void (*)(const Geometry&, const std::int8_t*, const Epilogue*, const Places&);

template <int B, int... P>
constexpr std::array<Tile, sizeof...(P)> tiles(std::integer_sequence<int, P...>) {
    return {tile<P + 1, B>...};
}

constexpr int kWide = 14, kPaired = 7;
constexpr auto kSingleTiles = tiles<1>(std::make_integer_sequence<int, kWide>{});
constexpr auto kPairTiles = tiles<2>(std::make_integer_sequence<int, kPaired>{});
constexpr Tile kQuadTile = tile<1, 4>;

// The rows of a convolution: where planes are one row of memory, the whole plane is one.
struct Rows {
    std::int32_t n_rows, n_columns;

    explicit Rows(const Conv& s) : n_rows(s.out.buffer.height), n_columns(s.out.buffer.width) {
        const auto is_plain = [&](const Buffer& b) {
            return b.left + b.right == 0 && std::int64_t{b.width} * b.pixel_stride == b.row_stride();
        };
        const bool pointwise = s.kernel_h * s.kernel_w == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 &&
                               s.pad_w == 0 && s.in.buffer.width == s.out.buffer.width;
        if (pointwise && is_plain(s.in.buffer) && is_plain(s.out.buffer) &&
            (!s.has_residual || is_plain(s.residual.x.buffer))) {
            n_columns *= n_rows;
            n_rows = 1;
        }
    }
};

void run_blocks(const Conv& s, std::uint8_t* arena, const Geometry& g, const std::int8_t* weights,
                const Epilogue* epilogues, int n_blocks, std::int64_t in_channel) {
    const Rows rows(s);
    const int widest = n_blocks == 1 ? kWide : n_blocks == 2 ? kPaired : 1;
    const std::int32_t n_tiles = (rows.n_columns + widest - 1) / widest;
    Places step{nullptr, nullptr, nullptr, 0, s.out.at(0, 1) - s.out.at(0, 0)};
    step.residual_step = s.has_residual ? s.residual.x.at(0, 1) - s.residual.x.at(0, 0) : 0;
    for (std::int32_t y = 0; y < rows.n_rows; ++y) {
        const std::uint8_t* in = arena + s.in.at(y * s.stride_h - s.pad_h, -s.pad_w) + in_channel;
        const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, 0) : arena;
        std::uint8_t* out = arena + s.out.at(y, 0);
        for (std::int32_t t = 0; t < n_tiles; ++t) {
            const auto x = static_cast<std::int32_t>(std::int64_t{rows.n_columns} * t / n_tiles);
            const auto end = static_cast<std::int32_t>(std::int64_t{rows.n_columns} * (t + 1) / n_tiles);
            Places at = step;
            at.in = in + x * g.pixel_step;
            at.residual = residual + x * step.residual_step;
            at.out = out + x * step.out_step;
            const auto n = static_cast<std::size_t>(end - x - 1);
            const Tile run_tile = n_blocks == 1 ? kSingleTiles[n] : n_blocks == 2 ? kPairTiles[n] : kQuadTile;
            run_tile(g, weights, epilogues, at);
        }
    }
}

void conv_packed(const Conv& s, std::uint8_t* arena) {
    if (s.finish.sign && s.finished) {
        kPortable.conv_packed(s, arena);
        return;
    }
    const std::int32_t n_in = s.in.channels / s.groups, n_out = s.out.channels / s.groups;
    const std::int32_t blocks = (n_out + kBlock - 1) / kBlock;
    Geometry g{};
    g.kernel_h = s.kernel_h, g.kernel_w = s.kernel_w, g.quads = (n_in + kQuad - 1) / kQuad;
    g.column_step = (s.in.at(0, 1) - s.in.at(0, 0)) * s.dilation_w;
    g.row_step = (s.in.at(1, 0) - s.in.at(0, 0)) * s.dilation_h;
    g.pixel_step = (s.in.at(0, 1) - s.in.at(0, 0)) * s.stride_w;
    g.block_bytes = std::int64_t{s.kernel_h} * s.kernel_w * g.quads * kBlock * kQuad;
    const bool is_point = s.out.buffer.height * s.out.buffer.width == 1;
    for (std::int32_t group = 0; group < s.groups; ++group) {
        for (std::int32_t block = 0; block < blocks;) {
            const std::int32_t left = blocks - block;
            const int n = is_point && left >= 4 ? 4 : left >= 2 ? 2 : 1;
            const std::int64_t at = std::int64_t{group} * blocks + block;
            const auto epilogue = [&](int b) {
                const std::int32_t first = (block + b) * kBlock;
                return Epilogue(s, (at + b) * kBlock, std::int64_t{group} * n_out + first, n_out - first);
            };
            // The first `n` are used; the others repeat the last one.
            const Epilogue epilogues[4] = {epilogue(0), epilogue(std::min(1, n - 1)), epilogue(std::min(2, n - 1)),
                                           epilogue(std::min(3, n - 1))};
            const auto* weights = static_cast<const std::int8_t*>(s.weights) + at * g.block_bytes;
            run_blocks(s, arena, g, weights, epilogues, n, std::int64_t{group} * n_in);
            block += n;
        }
    }
}

void conv_depthwise(const Conv& s, std::uint8_t* arena) {
    if (s.finish.sign && s.finished) {
        kPortable.conv_depthwise(s, arena);
        return;
    }
    const auto* weights = static_cast<const std::int8_t*>(s.weights);
    const std::int64_t channels = s.out.channels;
    for (std::int64_t first = 0; first < channels; first += kBlock) {
        const auto n = static_cast<std::int32_t>(std::min<std::int64_t>(kBlock, channels - first));
        const Epilogue epilogue(s, first, first, n);
        for (std::int32_t y = 0; y < s.out.buffer.height; ++y) {
            for (std::int32_t x = 0; x < s.out.buffer.width; ++x) {
                __m512i sum = _mm512_setzero_si512();
                for (std::int32_t a = 0; a < s.kernel_h; ++a) {
                    for (std::int32_t b = 0; b < s.kernel_w; ++b) {
                        const std::int64_t at = s.in.at(y * s.stride_h - s.pad_h + a * s.dilation_h,
                                                        x * s.stride_w - s.pad_w + b * s.dilation_w);
                        const std::int8_t* w = weights + (std::int64_t{a} * s.kernel_w + b) * channels + first;
                        const __m512i codes =
                            _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(epilogue.mask, arena + at + first));
                        const __m512i factors = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(epilogue.mask, w));
                        sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(codes, factors));
                    }
                }
                const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, x) : arena;
                epilogue(sum, residual, arena + s.out.at(y, x));
            }
        }
    }
}

bool supported() {
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
           __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
           __builtin_cpu_supports("avx512vnni") != 0;
}

}  // namespace

const Kernels kAvx512Vnni{"avx512vnni", supported, conv_packed, conv_depthwise};

}  // namespace dyadiq::engine
