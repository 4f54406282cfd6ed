// The engine as Python sees it: a file's bytes in, codes out. No logic beyond checks of sizes.
#include "bindings/engine.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/image.hpp"
#include "engine/kernels.hpp"
#include "engine/run.hpp"

namespace nb = nanobind;
namespace engine = dyadiq::engine;

namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Real = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const engine::Kernels& kernels_named(const std::string& isa) {
    const engine::Kernels* kernels = isa.empty() ? engine::choose_kernels() : engine::find_kernels(isa);
    if (kernels == nullptr) {
        throw std::invalid_argument("no such kernels on this machine");
    }
    return *kernels;
}

class Engine {
   public:
    // Keeps `file`, into which the plan points.
    Engine(Bytes file, const std::string& isa, std::int32_t n_threads)
        : file_(file), plan_(engine::open(file_.data(), file_.shape(0))), kernels_(kernels_named(isa)) {
        if (n_threads > 1) {
            pool_ = std::make_unique<engine::ThreadPool>(n_threads);
        }
        // Zeros that cost nothing before they are touched: a program may ask for more than it uses.
        constexpr std::size_t kAlignment = 64;
        std::size_t room = static_cast<std::size_t>(plan_.arena_bytes) + kAlignment;
        memory_.reset(static_cast<std::uint8_t*>(std::calloc(room, 1)));
        if (memory_ == nullptr) {
            throw std::bad_alloc();
        }
        void* start = memory_.get();
        arena_ = static_cast<std::uint8_t*>(std::align(kAlignment, room - kAlignment, start, room));
    }

    void run(const std::vector<Real>& inputs, const std::vector<Codes>& outputs) { run_all(inputs, outputs, nullptr); }

    // Nanoseconds of every step, which runs `n` times at once: a list a sample, `n` of each step side by side.
    std::vector<std::vector<std::int64_t>> profile(const std::vector<Real>& inputs, const std::vector<Codes>& outputs,
                                                   std::int32_t n) {
        struct Times {
            std::size_t of_sample;
            std::vector<std::vector<std::int64_t>> all;
        } times{plan_.steps.size() * static_cast<std::size_t>(n), {}};
        const auto note = [](void* context, std::size_t, std::int64_t ns) {
            auto& [of_sample, all] = *static_cast<Times*>(context);
            if (all.empty() || all.back().size() == of_sample) {
                all.emplace_back();
            }
            all.back().push_back(ns);
        };
        const engine::Observer observer{note, &times, n};
        run_all(inputs, outputs, &observer);
        return std::move(times.all);
    }

    // Codes that every step wrote, a list a sample.
    std::vector<std::vector<std::vector<std::int32_t>>> dump(const std::vector<Real>& inputs,
                                                             const std::vector<Codes>& outputs) {
        struct Dump {
            const Engine& self;
            std::vector<std::vector<std::vector<std::int32_t>>> all;
        } dump{*this, {}};
        const auto note = [](void* context, std::size_t step, std::int64_t) {
            auto& [self, all] = *static_cast<Dump*>(context);
            if (step == 0) {
                all.emplace_back();
            }
            const engine::Step& done = self.plan_.steps[step];
            all.back().emplace_back(static_cast<std::size_t>(engine::n_codes(done)));
            engine::read_codes(done, self.arena_, all.back().back().data());
        };
        const engine::Observer observer{note, &dump};
        run_all(inputs, outputs, &observer);
        return std::move(dump.all);
    }

    std::vector<std::int64_t> macs() const {
        std::vector<std::int64_t> found;
        for (const engine::Step& step : plan_.steps) {
            found.push_back(engine::macs(step));
        }
        return found;
    }

    double measure_peak() const { return kernels_.measure_peak(); }

    std::string isa() const { return std::string(kernels_.name); }
    std::int64_t arena_bytes() const { return plan_.arena_bytes; }
    std::size_t n_steps() const { return plan_.steps.size(); }
    nb::bytes structure() const { return nb::bytes(plan_.structure.data(), plan_.structure.size()); }

   private:
    void run_all(const std::vector<Real>& inputs, const std::vector<Codes>& outputs,
                 const engine::Observer* observer) {
        check(inputs, plan_.input_sizes, "inputs");
        check(outputs, plan_.output_sizes, "outputs");
        const std::size_t n = inputs.front().shape(0);
        for (const Codes& codes : outputs) {
            if (codes.shape(0) != n) {
                throw std::invalid_argument("outputs have another number of samples");
            }
        }
        std::vector<engine::Input> values(inputs.size());
        std::vector<std::int32_t*> codes(outputs.size());
        bool finite = true;
        {
            nb::gil_scoped_release released;
            const std::lock_guard one_run_at_a_time(mutex_);  // there is one arena
            for (std::size_t sample = 0; sample < n && finite; ++sample) {
                for (std::size_t i = 0; i < inputs.size(); ++i) {
                    const std::size_t at = sample * inputs[i].shape(1);
                    if (inputs[i].dtype() == nb::dtype<double>()) {
                        values[i].f64 = static_cast<const double*>(inputs[i].data()) + at;
                    } else {
                        values[i].f32 = static_cast<const float*>(inputs[i].data()) + at;
                    }
                }
                for (std::size_t i = 0; i < outputs.size(); ++i) {
                    codes[i] = outputs[i].data() + sample * outputs[i].shape(1);
                }
                finite = engine::run(plan_, kernels_, arena_, values, codes, pool_.get(), observer);
            }
        }
        if (!finite) {
            throw std::invalid_argument("an input is NaN or infinite");
        }
    }

    template <typename Array>
    static void check(const std::vector<Array>& arrays, const std::vector<std::int64_t>& sizes, const char* what) {
        bool fits = arrays.size() == sizes.size() && !arrays.empty();
        for (std::size_t i = 0; fits && i < sizes.size(); ++i) {
            fits = static_cast<std::int64_t>(arrays[i].shape(1)) == sizes[i] &&
                   arrays[i].shape(0) == arrays[0].shape(0) &&
                   (arrays[i].dtype() == nb::dtype<double>() || arrays[i].dtype() == nb::dtype<float>() ||
                    arrays[i].dtype() == nb::dtype<std::int32_t>());
        }
        if (!fits) {
            throw std::invalid_argument(std::string(what) + " do not fit the program");
        }
    }

    struct Free {
        void operator()(std::uint8_t* p) const { std::free(p); }
    };

    Bytes file_;
    engine::Plan plan_;
    const engine::Kernels& kernels_;
    std::unique_ptr<std::uint8_t, Free> memory_;
    std::uint8_t* arena_;
    std::unique_ptr<engine::ThreadPool> pool_;
    std::mutex mutex_;
};

}  // namespace

void bind_engine(nb::module_& m) {
    nb::register_exception_translator([](const std::exception_ptr& p, void*) {
        try {
            std::rethrow_exception(p);
        } catch (const engine::BadImage& error) {
            PyErr_SetString(PyExc_ValueError, error.what());
        }
    });
    m.def("engine_isas", [] {
        std::vector<std::string> names;
        for (const engine::Kernels* kernels : engine::all_kernels()) {
            if (kernels->supported()) {
                names.emplace_back(kernels->name);
            }
        }
        return names;
    });
    nb::class_<Engine>(m, "Engine")
        .def(nb::init<Bytes, const std::string&, std::int32_t>(), nb::arg("file"), nb::arg("isa"), nb::arg("threads"))
        .def("run", &Engine::run, nb::arg("inputs"), nb::arg("outputs"))
        .def("profile", &Engine::profile, nb::arg("inputs"), nb::arg("outputs"), nb::arg("times"))
        .def("dump", &Engine::dump, nb::arg("inputs"), nb::arg("outputs"))
        .def("macs", &Engine::macs)
        .def("measure_peak", &Engine::measure_peak)
        .def_prop_ro("isa", &Engine::isa)
        .def_prop_ro("arena_bytes", &Engine::arena_bytes)
        .def_prop_ro("n_steps", &Engine::n_steps)
        .def_prop_ro("structure", &Engine::structure);
}
