// The kernels of one instruction set, in several files; avx512vnni.cpp is their table.
#pragma once

#include "engine/kernels.hpp"

namespace dyadiq::engine::avx512vnni {

void conv_packed(const Conv& step, Share share, std::uint8_t* arena);
void conv_sparse(const Conv& step, Share share, std::uint8_t* arena);
void conv_sparse4(const Conv& step, Share share, std::uint8_t* arena);
void pack_quads(const Quads& step, Share share, std::uint8_t* arena);
void conv_winograd(const Conv& step, Share share, std::uint8_t* arena);
void conv_depthwise(const Conv& step, Share share, std::uint8_t* arena);
void conv_binary(const Conv& step, Share share, std::uint8_t* arena);
void pack_bits(const Bits& step, Share share, std::uint8_t* arena);
void look_up(const std::uint8_t* places, std::int64_t n, const std::int8_t* table, std::int8_t* weights);
bool quantize(const Quantize& step, const Input& input, Share share, std::uint8_t* arena);
void join(const Join& step, Share share, std::uint8_t* arena);
void max_pool(const MaxPool& step, Share share, std::uint8_t* arena);
void sum_pool(const SumPool& step, Share share, std::uint8_t* arena);

}  // namespace dyadiq::engine::avx512vnni
