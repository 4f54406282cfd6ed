// Rounding of training in one pass over memory: what dyadiq.quant.rounding_gradient does in several.
//
// Its results are the same to the last bit where each value decides alone (values, gradients of values); the gradient of
// the step is a sum, here in float64, so that its last bits may differ. bfloat16 values lie in uint16.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dyadiq {

// y = clip(floor(x / step + 1/2), low, high) * step, computed in float32.
void round_values(const float* x, float* y, std::size_t n, float step, float low, float high);
void round_values(const std::uint16_t* x, std::uint16_t* y, std::size_t n, float step, float low, float high);

// for_x = gradient where first < x < last, else 0; returns sum(gradient * y) - sum(for_x * x).
double round_gradients(const float* gradient, const float* x, const float* y, float* for_x, std::size_t n, float first,
                       float last);
double round_gradients(const std::uint16_t* gradient, const std::uint16_t* x, const std::uint16_t* y,
                       std::uint16_t* for_x, std::size_t n, float first, float last);

}  // namespace dyadiq
