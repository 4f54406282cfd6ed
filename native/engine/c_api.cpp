// The C face: checks of arguments, and exceptions turned into statuses; no logic beyond that.
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <system_error>
#include <variant>
#include <vector>

#include "engine/dyadiq_engine.h"
#include "engine/image.hpp"
#include "engine/kernels.hpp"
#include "engine/mapping.hpp"
#include "engine/run.hpp"
#include "engine/threads.hpp"

namespace engine = dyadiq::engine;

struct dyq_program {
    std::unique_ptr<engine::Mapping> mapping;  // null: the file is the caller's
    engine::Plan plan;
    const engine::Kernels* kernels = nullptr;
};

struct dyq_pool {
    explicit dyq_pool(std::int32_t n_threads) : threads(n_threads) {}
    engine::ThreadPool threads;
};

namespace {

constexpr std::int32_t kMaxThreads = 256;
constexpr std::size_t kMaxEnds = 64;  // inputs or outputs: their pointers lie on the stack of a run

thread_local char message[256] = "";

dyq_status failed(dyq_status status, const char* what, const char* detail = "") {
    std::snprintf(message, sizeof message, "%s%s", what, detail);
    return status;
}

// What a call throws, as a status.
template <typename Call>
dyq_status guarded(Call call) noexcept {
    try {
        return call();
    } catch (const engine::MissingOperator& error) {
        return failed(DYQ_NO_OPERATOR, "this library was built without an operator of the program: ", error.what());
    } catch (const engine::BadImage& error) {
        return failed(DYQ_BAD_FILE, "this is no compiled program of this version: ", error.what());
    } catch (const std::bad_alloc&) {
        return failed(DYQ_NO_MEMORY, "there is not enough memory");
    } catch (const std::exception& error) {
        return failed(DYQ_INTERNAL, "the engine failed: ", error.what());
    } catch (...) {
        return failed(DYQ_INTERNAL, "the engine failed");
    }
}

dyq_status open_image(std::unique_ptr<dyq_program> made, const void* data, std::size_t size, const char* isa,
                      dyq_program** program) {
    const bool chooses = isa == nullptr || *isa == '\0';
    made->kernels = chooses ? engine::choose_kernels() : engine::find_kernels(isa);
    if (made->kernels == nullptr) {
        return failed(DYQ_NO_ISA, "this machine has no such kernels: ", chooses ? "DYADIQ_ISA" : isa);
    }
    made->plan = engine::open(static_cast<const std::uint8_t*>(data), size);
    if (made->plan.input_sizes.size() > kMaxEnds || made->plan.output_sizes.size() > kMaxEnds) {
        return failed(DYQ_BAD_FILE, "the program has more than 64 inputs or outputs");
    }
    *program = made.release();
    return DYQ_OK;
}

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % DYQ_ALIGNMENT == 0; }

const engine::Step* step_at(const dyq_program* program, std::size_t step) {
    return program != nullptr && step < program->plan.steps.size() ? &program->plan.steps[step] : nullptr;
}

std::size_t size_at(const std::vector<std::int64_t>& sizes, std::size_t at) {
    return at < sizes.size() ? static_cast<std::size_t>(sizes[at]) : 0;
}

}  // namespace

const char* dyq_message(void) { return message; }

std::int32_t dyq_api_version(void) { return DYQ_API_VERSION; }

dyq_status dyq_open(const char* path, const char* isa, dyq_program** program) {
    if (path == nullptr || program == nullptr) {
        return failed(DYQ_BAD_ARGUMENT, "dyq_open: path and program must not be null");
    }
    return guarded([&] {
        auto made = std::make_unique<dyq_program>();
        try {
            made->mapping = std::make_unique<engine::Mapping>(path);
        } catch (const std::runtime_error& error) {
            return failed(DYQ_NO_FILE, "the file cannot be read: ", error.what());
        }
        const engine::Mapping& file = *made->mapping;
        return open_image(std::move(made), file.data(), file.size(), isa, program);
    });
}

dyq_status dyq_open_memory(const void* data, std::size_t size, const char* isa, dyq_program** program) {
    if (data == nullptr || program == nullptr) {
        return failed(DYQ_BAD_ARGUMENT, "dyq_open_memory: data and program must not be null");
    }
    return guarded([&] { return open_image(std::make_unique<dyq_program>(), data, size, isa, program); });
}

void dyq_close(dyq_program* program) { delete program; }

const char* dyq_isa(const dyq_program* program) { return program == nullptr ? nullptr : program->kernels->name.data(); }

std::size_t dyq_arena_bytes(const dyq_program* program) {
    return program == nullptr ? 0 : static_cast<std::size_t>(program->plan.arena_bytes);
}

std::size_t dyq_n_inputs(const dyq_program* program) { return program == nullptr ? 0 : program->plan.input_sizes.size(); }

std::size_t dyq_n_outputs(const dyq_program* program) {
    return program == nullptr ? 0 : program->plan.output_sizes.size();
}

std::size_t dyq_n_steps(const dyq_program* program) { return program == nullptr ? 0 : program->plan.steps.size(); }

std::size_t dyq_input_size(const dyq_program* program, std::size_t input) {
    return program == nullptr ? 0 : size_at(program->plan.input_sizes, input);
}

std::size_t dyq_output_size(const dyq_program* program, std::size_t output) {
    return program == nullptr ? 0 : size_at(program->plan.output_sizes, output);
}

const char* dyq_structure(const dyq_program* program, std::size_t* n_bytes) {
    const std::string_view text = program == nullptr ? std::string_view{} : program->plan.structure;
    if (n_bytes != nullptr) {
        *n_bytes = text.size();
    }
    return text.data();
}

dyq_status dyq_pool_open(std::int32_t n_threads, dyq_pool** pool) {
    if (pool == nullptr || n_threads < 1 || n_threads > kMaxThreads) {
        return failed(DYQ_BAD_ARGUMENT, "dyq_pool_open: expected 1 to 256 threads, and a pool that is not null");
    }
    return guarded([&] {
        try {
            *pool = new dyq_pool(n_threads);
        } catch (const std::system_error& error) {
            return failed(DYQ_NO_THREADS, "threads do not start: ", error.what());
        }
        return DYQ_OK;
    });
}

void dyq_pool_close(dyq_pool* pool) { delete pool; }

dyq_status dyq_run(const dyq_program* program, void* arena, std::size_t arena_bytes, const float* const* inputs,
                   std::int32_t* const* outputs, dyq_pool* pool, dyq_observer observer, void* context) {
    if (program == nullptr || arena == nullptr || inputs == nullptr || outputs == nullptr) {
        return failed(DYQ_BAD_ARGUMENT, "dyq_run: program, arena, inputs and outputs must not be null");
    }
    if (!aligned(arena) || arena_bytes < dyq_arena_bytes(program)) {
        return failed(DYQ_BAD_ARGUMENT, "dyq_run: the arena is smaller than dyq_arena_bytes, or not aligned to 64 bytes");
    }
    const std::size_t n_inputs = program->plan.input_sizes.size(), n_outputs = program->plan.output_sizes.size();
    engine::Input values[kMaxEnds];
    for (std::size_t i = 0; i < n_inputs; ++i) {
        values[i].f32 = inputs[i];
    }
    for (std::size_t i = 0; i < n_inputs + n_outputs; ++i) {
        if (i < n_inputs ? inputs[i] == nullptr : outputs[i - n_inputs] == nullptr) {
            return failed(DYQ_BAD_ARGUMENT, "dyq_run: an input or output is null");
        }
    }
    const engine::Observer told{observer, context};
    const bool finite =
        engine::run(program->plan, *program->kernels, static_cast<std::uint8_t*>(arena), {values, n_inputs},
                    {outputs, n_outputs}, pool == nullptr ? nullptr : &pool->threads, observer == nullptr ? nullptr : &told);
    return finite ? DYQ_OK : failed(DYQ_NOT_FINITE, "dyq_run: an input is NaN or infinite");
}

dyq_status dyq_real_values(const dyq_program* program, std::size_t output, const std::int32_t* codes, float* values) {
    if (program == nullptr || codes == nullptr || values == nullptr || output >= program->plan.output_sizes.size()) {
        return failed(DYQ_BAD_ARGUMENT, "dyq_real_values: a null pointer, or no such output");
    }
    for (const engine::Step& step : program->plan.steps) {
        const auto* end = std::get_if<engine::Output>(&step);
        if (end != nullptr && end->output == static_cast<std::int32_t>(output)) {
            return engine::real_values(*end, codes, values)
                       ? DYQ_OK
                       : failed(DYQ_NO_SCALE, "dyq_real_values: the program does not say what codes of this output are worth");
        }
    }
    return failed(DYQ_BAD_ARGUMENT, "dyq_real_values: no step makes this output");
}

std::size_t dyq_step_size(const dyq_program* program, std::size_t step) {
    const engine::Step* const found = step_at(program, step);
    return found == nullptr ? 0 : static_cast<std::size_t>(engine::n_codes(*found));
}

std::int64_t dyq_step_macs(const dyq_program* program, std::size_t step) {
    const engine::Step* const found = step_at(program, step);
    return found == nullptr ? 0 : engine::macs(*found);
}

dyq_status dyq_step_codes(const dyq_program* program, const void* arena, std::size_t step, std::int32_t* codes) {
    const engine::Step* const found = step_at(program, step);
    if (found == nullptr || arena == nullptr || codes == nullptr) {
        return failed(DYQ_BAD_ARGUMENT, "dyq_step_codes: a null pointer, or no such step");
    }
    engine::read_codes(*found, static_cast<const std::uint8_t*>(arena), codes);
    return DYQ_OK;
}
