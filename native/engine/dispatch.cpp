#include <array>
#include <cstdlib>

#include "engine/kernels.hpp"

namespace dyadiq::engine {
namespace {

constexpr std::array kAll{
    &kPortable,
#ifdef DYADIQ_X86
    &kAvx2, &kAvxVnni, &kAvx512Vnni256, &kAvx512Vnni,
#endif
#ifdef DYADIQ_AARCH64
    &kNeon, &kNeonDot,
#endif
};

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
