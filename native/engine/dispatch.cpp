#include <algorithm>
#include <array>
#include <cstdlib>

#include "engine/kernels.hpp"

namespace dyadiq::engine {
namespace {

// A library may be built for some instruction sets only (DYADIQ_ISAS, CMakeLists.txt): others are not referred to.
constexpr const Kernels* if_built([[maybe_unused]] std::string_view name, const Kernels* kernels) {
#ifdef DYADIQ_ISAS
    return is_among(name, DYADIQ_ISAS) ? kernels : nullptr;
#else
    return kernels;
#endif
}

constexpr std::array kKnown{
    &kPortable,
#ifdef DYADIQ_X86
    if_built("avx2", &kAvx2), if_built("avxvnni", &kAvxVnni), if_built("avx512vnni256", &kAvx512Vnni256),
    if_built("avx512vnni", &kAvx512Vnni),
#endif
#ifdef DYADIQ_AARCH64
    if_built("neon", &kNeon), if_built("neondot", &kNeonDot),
#endif
};

constexpr auto kAll = [] {
    std::array<const Kernels*, static_cast<std::size_t>(std::ranges::count_if(kKnown, [](auto k) { return k != nullptr; }))> all{};
    std::ranges::copy_if(kKnown, all.begin(), [](auto k) { return k != nullptr; });
    return all;
}();

}  // namespace

std::span<const Kernels* const> all_kernels() { return kAll; }

const Kernels* find_kernels(std::string_view name) {
    for (const Kernels* kernels : kAll) {
        if (kernels->name == name) {
            return kernels->supported() ? kernels : nullptr;
        }
    }
    return nullptr;
}

const Kernels* choose_kernels() {
    if (const char* forced = std::getenv("DYADIQ_ISA"); forced != nullptr && *forced != '\0') {
        return find_kernels(forced);
    }
    const Kernels* best = &kPortable;
    for (const Kernels* kernels : kAll) {
        best = kernels->supported() ? kernels : best;
    }
    return best;
}

}  // namespace dyadiq::engine
