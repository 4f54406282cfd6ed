// Convolutions whose weights are places in a table: some blocks of outputs at a time, their weights become bytes, which are
// all that the kernels of packed weights see. So every instruction set has them, with its own way to look bytes up.
#pragma once

#include "engine/kernels.hpp"

namespace dyadiq::engine {

void conv_codebook(const Kernels& kernels, const Conv& step, Share share, std::uint8_t* arena);

}  // namespace dyadiq::engine
