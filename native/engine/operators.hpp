// Which operators a library runs: all, or those that its build named (DYADIQ_OPERATORS, CMakeLists.txt).
//
// Names are those of docs/spec/engine.md: of steps, and of convolutions their kinds. To add one: a line here, and where it
// has kernels, one in `only_built` (kernels.hpp).
#pragma once

#include <string_view>
#include <variant>

#include "engine/plan.hpp"

namespace dyadiq::engine {

// Whether a name is among others with a space on both sides of each.
constexpr bool is_among(std::string_view name, std::string_view others) {
    for (std::size_t at = others.find(name); at != others.npos; at = others.find(name, at + 1)) {
        if (at > 0 && others[at - 1] == ' ' && others[at + name.size()] == ' ') {
            return true;
        }
    }
    return false;
}

constexpr bool is_built([[maybe_unused]] std::string_view name) {
#ifdef DYADIQ_OPERATORS
    return name.empty() || is_among(name, DYADIQ_OPERATORS);
#else
    return true;
#endif
}

// What a kind of step is called; nothing: it is always there.
template <typename Kind>
inline constexpr std::string_view kOperator = "";
template <>
inline constexpr std::string_view kOperator<Quantize> = "quantize";
template <>
inline constexpr std::string_view kOperator<Join> = "join";
template <>
inline constexpr std::string_view kOperator<MaxPool> = "max_pool";
template <>
inline constexpr std::string_view kOperator<SumPool> = "sum_pool";
template <>
inline constexpr std::string_view kOperator<Lookup> = "lookup";
template <>
inline constexpr std::string_view kOperator<Pad> = "pad";
template <>
inline constexpr std::string_view kOperator<Copy> = "copy";
template <>
inline constexpr std::string_view kOperator<Flatten> = "flatten";
template <>
inline constexpr std::string_view kOperator<Lower> = "lower";
template <>
inline constexpr std::string_view kOperator<Bits> = "bits";
template <>
inline constexpr std::string_view kOperator<Quads> = "quads";

constexpr std::string_view name_of(ConvKind kind) {
    switch (kind) {
        case ConvKind::kPacked: return "direct";
        case ConvKind::kDepthwise: return "depthwise";
        case ConvKind::kGeneric: return "generic";
        case ConvKind::kSparse: return "sparse";
        case ConvKind::kWinograd: return "winograd";
        case ConvKind::kBinary: return "binary";
        case ConvKind::kCodebook: return "codebook";
        case ConvKind::kSparse4: return "sparse4x4";
        case ConvKind::kWinograd1d: return "winograd1d";
    }
    return "";
}

inline std::string_view name_of(const Step& step) {
    const auto name = []<typename Kind>(const Kind& s) {
        if constexpr (std::is_same_v<Kind, Conv>) {
            return name_of(s.kind);
        } else {
            return kOperator<Kind>;
        }
    };
    return std::visit(name, step);
}

}  // namespace dyadiq::engine
