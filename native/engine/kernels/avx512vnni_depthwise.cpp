// Depthwise convolutions.
#include "engine/kernels/avx512vnni.hpp"
#include "engine/kernels/avx512vnni_epilogue.hpp"

namespace dyadiq::engine::avx512vnni {

void conv_depthwise(const Conv& s, std::uint8_t* arena) {
    if (s.finish.sign && s.finished) {
        kPortable.conv_depthwise(s, arena);
        return;
    }
    const auto* weights = static_cast<const std::int8_t*>(s.weights);
    const std::int64_t channels = s.out.channels;
    for (std::int64_t first = 0; first < channels; first += kBlock) {
        const Epilogue epilogue(s, first, first, channels - first);
        const __m512i bias = _mm512_maskz_loadu_epi32(epilogue.mask, s.bias + first);
        for (std::int32_t y = 0; y < s.out.buffer.height; ++y) {
            for (std::int32_t x = 0; x < s.out.buffer.width; ++x) {
                __m512i sum = bias;
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

}  // namespace dyadiq::engine::avx512vnni
