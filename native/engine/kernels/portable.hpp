// The kernels in plain C++, in several files; portable.cpp has their table.
#pragma once

#include "engine/kernels.hpp"

namespace dyadiq::engine::portable {

// docs/spec/integer-program.md, section 4: literally float64.
std::int32_t quantized(const Quantize& step, double value, std::int32_t channel);

bool quantize(const Quantize& step, const Input& input, Share share, std::uint8_t* arena);
void join(const Join& step, Share share, std::uint8_t* arena);
void max_pool(const MaxPool& step, Share share, std::uint8_t* arena);
void sum_pool(const SumPool& step, Share share, std::uint8_t* arena);
void conv_sparse4(const Conv& step, Share share, std::uint8_t* arena);
void pack_quads(const Quads& step, Share share, std::uint8_t* arena);

}  // namespace dyadiq::engine::portable
