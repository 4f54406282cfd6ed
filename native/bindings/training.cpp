// Rounding of training as Python sees it: flat arrays of one length, float32 or the bits of bfloat16.
#include "bindings/training.hpp"

#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>

#include "training/rounding.hpp"

namespace nb = nanobind;

namespace {

template <typename T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
void bind_for(nb::module_& m) {
    m.def(
        "round_values",
        [](In<T> x, Out<T> y, float step, float low, float high) {
            if (x.size() != y.size()) {
                throw std::invalid_argument("values and results are not as many");
            }
            nb::gil_scoped_release without_gil;
            dyadiq::round_values(x.data(), y.data(), x.size(), step, low, high);
        },
        nb::arg("x").noconvert(), nb::arg("y").noconvert(), nb::arg("step"), nb::arg("low"), nb::arg("high"));
    m.def(
        "round_gradients",
        [](In<T> gradient, In<T> x, In<T> y, Out<T> for_x, float first, float last) {
            if (gradient.size() != x.size() || y.size() != x.size() || for_x.size() != x.size()) {
                throw std::invalid_argument("gradients, values and results are not as many");
            }
            nb::gil_scoped_release without_gil;
            return dyadiq::round_gradients(gradient.data(), x.data(), y.data(), for_x.data(), x.size(), first, last);
        },
        nb::arg("gradient").noconvert(), nb::arg("x").noconvert(), nb::arg("y").noconvert(),
        nb::arg("for_x").noconvert(), nb::arg("first"), nb::arg("last"));
}

}  // namespace

void bind_training(nb::module_& m) {
    bind_for<float>(m);
    bind_for<std::uint16_t>(m);
}
