// Sparse convolutions in blocks of 4 outputs by 4 inputs in plain C++, and the order of inputs that they read.
#include "engine/kernels/finish.hpp"
#include "engine/kernels/portable.hpp"
#include "engine/pixels.hpp"

namespace dyadiq::engine::portable {

void conv_sparse4(const Conv& s, Share share, std::uint8_t* arena) {
    constexpr std::int64_t kBytes = kQuad * kQuad;
    const auto* weights = static_cast<const std::int8_t*>(s.weights);
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const std::uint8_t* residual = s.has_residual ? arena + s.residual.x.at(y, x) : nullptr;
        const std::uint8_t* in = arena + s.in.buffer.offset + (y * s.columns_of_phase() + x) * kQuad;
        for (std::int64_t first = 0; first < s.out.channels; first += kQuad) {
            std::int32_t sums[kQuad] = {};
            for (std::int64_t i = s.starts[first / kQuad]; i < s.starts[first / kQuad + 1]; ++i) {
                const std::uint8_t* quad = in + std::int64_t{s.places[i]} * kQuad;
                for (int k = 0; k < kBytes; ++k) {
                    sums[k / kQuad] = multiply_add(sums[k / kQuad], quad[k % kQuad], weights[i * kBytes + k]);
                }
            }
            const std::int64_t n = std::min<std::int64_t>(kQuad, s.out.channels - first);
            for (std::int64_t o = 0; o < n; ++o) {
                finish_accumulator(s, sums[o], first + o, first + o, residual, arena + s.out.at(y, x));
            }
        }
    });
}

void pack_quads(const Quads& s, Share share, std::uint8_t* arena) {
    const Buffer& in = s.in.buffer;
    pixels(s.out, share, [&](std::int32_t y, std::int32_t x) {
        const std::int64_t from_y = std::int64_t{y} - s.pad_h, from_x = std::int64_t{x} - s.pad_w;
        const bool inside = from_y < std::int64_t{in.height} + in.bottom && from_x < std::int64_t{in.width} + in.right;
        std::uint8_t* to = arena + s.out.buffer.offset + s.at(y, x);
        for (std::int64_t quad = 0; quad < s.n(); ++quad, to += s.step()) {
            if (inside) {
                std::memcpy(to, arena + s.in.at(from_y, from_x) + quad * kQuad, kQuad);
            } else {
                std::memset(to, in.fill, kQuad);
            }
        }
    });
}

}  // namespace dyadiq::engine::portable
