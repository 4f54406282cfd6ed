// dyadiq._native: what Python sees of the native parts. Arrays in, arrays out; no logic.
//
// INTERFACE is compared with dyadiq.core.native.INTERFACE: raise both when a signature or a meaning changes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <span>
#include <stdexcept>

#include "allocation/knapsack.hpp"
#include "bindings/engine.hpp"
#include "bindings/training.hpp"

namespace nb = nanobind;

namespace {

constexpr int kInterface = 19;

template <typename T>
using Flat = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
std::span<const T> view(const Flat<T>& array) {
    return {array.data(), array.shape(0)};
}

}  // namespace

NB_MODULE(_native, m) {
    m.attr("INTERFACE") = kInterface;
    bind_engine(m);
    bind_training(m);

    nb::class_<dyadiq::KnapsackAnswer>(m, "KnapsackAnswer")
        .def_ro("feasible", &dyadiq::KnapsackAnswer::feasible)
        .def_ro("proven", &dyadiq::KnapsackAnswer::proven)
        .def_ro("unconstrained", &dyadiq::KnapsackAnswer::unconstrained)
        .def_ro("slack", &dyadiq::KnapsackAnswer::slack)
        .def_ro("above", &dyadiq::KnapsackAnswer::above)
        .def_ro("multiplier", &dyadiq::KnapsackAnswer::multiplier)
        .def_ro("core", &dyadiq::KnapsackAnswer::core)
        .def_ro("labels", &dyadiq::KnapsackAnswer::labels)
        .def_ro("widest", &dyadiq::KnapsackAnswer::widest)
        .def_ro("positions", &dyadiq::KnapsackAnswer::positions)
        .def_ro("choice", &dyadiq::KnapsackAnswer::choice);

    nb::class_<dyadiq::Knapsack>(m, "Knapsack")
        .def(
            "__init__",
            [](dyadiq::Knapsack* self, Flat<std::int64_t> offsets, Flat<std::int64_t> cost, Flat<double> loss) {
                const auto at = view(offsets);
                if (at.empty() || at.front() != 0 || cost.shape(0) != loss.shape(0) ||
                    at.back() != static_cast<std::int64_t>(cost.shape(0))) {
                    throw std::invalid_argument("offsets, cost and loss do not fit each other");
                }
                for (std::size_t g = 0; g + 1 < at.size(); ++g) {
                    if (at[g] >= at[g + 1]) {
                        throw std::invalid_argument("a group without options");
                    }
                }
                new (self) dyadiq::Knapsack(at, view(cost), view(loss));
            },
            nb::arg("offsets"), nb::arg("cost"), nb::arg("loss"))
        .def("solve", &dyadiq::Knapsack::solve, nb::arg("capacity"), nb::arg("max_labels"), nb::arg("thin"),
             nb::arg("fixed"), nb::arg("cutoff"), nb::call_guard<nb::gil_scoped_release>())
        .def("bound", &dyadiq::Knapsack::bound, nb::arg("capacity"), nb::arg("fixed"))
        .def("corners", &dyadiq::Knapsack::corners, nb::arg("most"));
}
