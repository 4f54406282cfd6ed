// Kernels for aarch64 with dot products of signed bytes (SDOT: Cortex-A76, Neoverse N1, Apple M1 and later).
#include "engine/kernels/neon.hpp"

#ifdef __linux__
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace dyadiq::engine {
namespace {

struct NeonDot {
    using Lanes = NeonLanes;
    static constexpr int kPixels = 6, kCodesLess = 128;
    using Small = void;
    struct Sums {
        int32x4_t v[kVectors];
    };
    using Weights = NeonWeights;

    template <int kBits, int i>
    static Weights weights(const std::int8_t* at) {
        return unpacked<kBits, i>(at);
    }
    [[gnu::always_inline]] static void dot(Sums& sums, const Weights& w, const std::uint8_t* codes) {
        const int8x16_t x = quad_of(codes);
        for (int v = 0; v < kVectors; ++v) {
            sums.v[v] = vdotq_s32(sums.v[v], w.v[v], x);
        }
    }
    static int8x16_t all_lanes(const std::int8_t* quad) { return engine::all_lanes(quad); }
    [[gnu::always_inline]] static void dot_quads(Sums& sums, int8x16_t w, const std::uint8_t* codes) {
        for (int v = 0; v < kVectors; ++v) {
            sums.v[v] = vdotq_s32(sums.v[v], w, quads_of(codes + 16 * v));
        }
    }
    template <int kBits>
    static void store(const Sums& sums, std::int32_t* to) {
        for (int v = 0; v < kVectors; ++v) {
            vst1q_s32(to + 4 * v, vshlq_s32(sums.v[v], vdupq_n_s32(-weight_shift(kBits))));
        }
    }
};

bool supported() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
    return true;  // every aarch64 of Apple's that runs macOS
#else
    return false;
#endif
}

}  // namespace

constinit const Kernels kNeonDot = only_built(
    {"neondot", supported, [] { return 0.0; }, conv_packed<NeonDot>, conv_sparse<NeonDot>, conv_sparse4<NeonDot>, portable::pack_quads, conv_winograd<NeonDot>,
     conv_depthwise<NeonDot>, conv_binary<NeonBits>, pack_bits<NeonBits>, look_up, quantize<NeonDot>, portable::join, max_pool<NeonDot>, sum_pool<NeonDot>});

}  // namespace dyadiq::engine
