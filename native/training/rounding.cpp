#include "training/rounding.hpp"

#include <bit>
#include <cmath>

// Compiled for several instruction sets, the best of which is taken when the module is loaded. Not fused: x / step + 1/2
// has to round twice, as everywhere else.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define DYADIQ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define DYADIQ_CLONES
#endif

namespace dyadiq {
namespace {

constexpr std::size_t kLanes = 16;  // sums that do not wait for each other

[[gnu::always_inline]] inline float wide(float value) { return value; }
[[gnu::always_inline]] inline float wide(std::uint16_t value) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

template <typename T>
T narrow(float value);
template <>
[[gnu::always_inline]] inline float narrow<float>(float value) {
    return value;
}
// To nearest, ties to even; NaN stays NaN, as in torch.
template <>
[[gnu::always_inline]] inline std::uint16_t narrow<std::uint16_t>(float value) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

template <typename T>
[[gnu::always_inline]] inline void values(const T* __restrict x, T* __restrict y, std::size_t n, float step, float low,
                                          float high) {
    for (std::size_t i = 0; i < n; ++i) {
        float code = std::floor(wide(x[i]) / step + 0.5f);
        code = code < low ? low : code;  // NaN stays NaN
        code = code > high ? high : code;
        y[i] = narrow<T>(code * step);
    }
}

template <typename T>
[[gnu::always_inline]] inline double gradients(const T* __restrict gradient, const T* __restrict x,
                                               const T* __restrict y, T* __restrict for_x, std::size_t n, float first,
                                               float last) {
    double lanes[kLanes] = {};
    for (std::size_t from = 0; from < n; from += kLanes) {
        const std::size_t many = n - from < kLanes ? n - from : kLanes;
        float parts[kLanes] = {};
        for (std::size_t lane = 0; lane < many; ++lane) {
            const std::size_t at = from + lane;
            const float g = wide(gradient[at]), value = wide(x[at]);
            const bool inside = (value > first) & (value < last);
            for_x[at] = narrow<T>(inside ? g : 0.0f);
            parts[lane] = g * (wide(y[at]) - (inside ? value : 0.0f));
        }
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            lanes[lane] += static_cast<double>(parts[lane]);
        }
    }
    double total = 0.0;
    for (const double lane : lanes) {
        total += lane;
    }
    return total;
}

}  // namespace

DYADIQ_CLONES void round_values(const float* x, float* y, std::size_t n, float step, float low, float high) {
    values(x, y, n, step, low, high);
}

DYADIQ_CLONES void round_values(const std::uint16_t* x, std::uint16_t* y, std::size_t n, float step, float low,
                                float high) {
    values(x, y, n, step, low, high);
}

DYADIQ_CLONES double round_gradients(const float* gradient, const float* x, const float* y, float* for_x,
                                     std::size_t n, float first, float last) {
    return gradients(gradient, x, y, for_x, n, first, last);
}

DYADIQ_CLONES double round_gradients(const std::uint16_t* gradient, const std::uint16_t* x, const std::uint16_t* y,
                                     std::uint16_t* for_x, std::size_t n, float first, float last) {
    return gradients(gradient, x, y, for_x, n, first, last);
}

}  // namespace dyadiq
