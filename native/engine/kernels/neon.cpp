// Kernels for every aarch64. Products of signed bytes fit 16 bits, and pairs of them are added to 32.
#include "engine/kernels/neon.hpp"

namespace dyadiq::engine {
namespace {

struct Neon {
    using Lanes = NeonLanes;
    static constexpr int kPixels = 2, kCodesLess = 128;
    using Small = void;
    struct Sums {
        int32x4_t v[2 * kVectors];  // two of each output, side by side
    };
    using Weights = NeonWeights;

    template <int kBits, int i>
    static Weights weights(const std::int8_t* at) {
        return unpacked<kBits, i>(at);
    }
    [[gnu::always_inline]] static void dot(Sums& sums, const Weights& w, const std::uint8_t* codes) {
        const int8x16_t x = quad_of(codes);
        for (int v = 0; v < kVectors; ++v) {
            sums.v[2 * v] = vpadalq_s16(sums.v[2 * v], vmull_s8(vget_low_s8(x), vget_low_s8(w.v[v])));
            sums.v[2 * v + 1] = vpadalq_s16(sums.v[2 * v + 1], vmull_high_s8(x, w.v[v]));
        }
    }
    static int8x16_t all_lanes(const std::int8_t* quad) { return engine::all_lanes(quad); }
    [[gnu::always_inline]] static void dot_quads(Sums& sums, int8x16_t w, const std::uint8_t* codes) {
        for (int v = 0; v < kVectors; ++v) {
            const int8x16_t x = quads_of(codes + 16 * v);
            sums.v[2 * v] = vpadalq_s16(sums.v[2 * v], vmull_s8(vget_low_s8(x), vget_low_s8(w)));
            sums.v[2 * v + 1] = vpadalq_s16(sums.v[2 * v + 1], vmull_high_s8(x, w));
        }
    }
    template <int kBits>
    static void store(const Sums& sums, std::int32_t* to) {
        for (int v = 0; v < kVectors; ++v) {
            const int32x4_t both = vpaddq_s32(sums.v[2 * v], sums.v[2 * v + 1]);
            vst1q_s32(to + 4 * v, vshlq_s32(both, vdupq_n_s32(-weight_shift(kBits))));
        }
    }
};

}  // namespace

constinit const Kernels kNeon = only_built(
    {"neon", [] { return true; }, [] { return 0.0; }, conv_packed<Neon>, conv_sparse<Neon>, conv_sparse4<Neon>, portable::pack_quads, conv_winograd<Neon>,
     conv_depthwise<Neon>, conv_binary<NeonBits>, pack_bits<NeonBits>, look_up, quantize<Neon>, portable::join, max_pool<Neon>, sum_pool<Neon>});

}  // namespace dyadiq::engine
