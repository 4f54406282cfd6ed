// Whether a step writes over what it reads, which kernels need not bear. Header only; asked by the reader of a file.
#pragma once

#include <type_traits>
#include <variant>

#include "engine/plan.hpp"

namespace dyadiq::engine {

inline bool apart(const Buffer& a, const Buffer& b) {
    return a.offset + a.bytes() <= b.offset || b.offset + b.bytes() <= a.offset;
}

// Whether two tensors share no element: they lie in other bytes of the arena, or in other channels of one buffer.
inline bool apart(const Tensor& a, const Tensor& b) {
    if (a.buffer == b.buffer) {
        return a.first_channel + a.channels <= b.first_channel || b.first_channel + b.channels <= a.first_channel;
    }
    return apart(a.buffer, b.buffer);
}

// Whether a convolution that reads quads, which are a whole buffer, writes into another one.
inline bool quads_apart(const Conv& s) { return s.kind != ConvKind::kSparse4 || apart(s.in.buffer, s.out.buffer); }

// Whether what a Winograd convolution works in is no part of its tensors.
inline bool scratch_apart(const Conv& s) {
    const Buffer& scratch = s.winograd.scratch;
    return !s.is_winograd() || (apart(s.in.buffer, scratch) && apart(s.out.buffer, scratch) &&
                                             (!s.has_residual || apart(s.residual.x.buffer, scratch)));
}

inline bool writes_apart(const Step& step) {
    return std::visit(
        [](const auto& s) {
            using Kind = std::decay_t<decltype(s)>;
            if constexpr (std::is_same_v<Kind, Join>) {
                for (const Branch& branch : s.branches) {
                    if (!apart(branch.x, s.out)) {
                        return false;
                    }
                }
                return true;
            } else if constexpr (std::is_same_v<Kind, Conv>) {
                return apart(s.in, s.out) && (!s.has_residual || apart(s.residual.x, s.out)) && scratch_apart(s) && quads_apart(s);
            } else if constexpr (std::is_same_v<Kind, Quads>) {
                return apart(s.in.buffer, s.out.buffer);
            } else if constexpr (requires { s.in; s.out; }) {
                return apart(s.in, s.out);
            } else {
                return true;  // it reads, or writes, something outside the arena
            }
        },
        step);
}

}  // namespace dyadiq::engine
