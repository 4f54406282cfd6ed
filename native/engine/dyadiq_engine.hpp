// The C face of the engine in C++17: owners that close, exceptions instead of statuses. Header only.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "dyadiq_engine.h"

namespace dyadiq {

// What a call of the C face returned, and its words.
struct EngineError : std::runtime_error {
    dyq_status status;
    explicit EngineError(dyq_status failed) : std::runtime_error(dyq_message()), status(failed) {}
};

inline void check(dyq_status status) {
    if (status != DYQ_OK) {
        throw EngineError(status);
    }
}

// A program with an arena of its own, and threads: one run at a time.
class Engine {
   public:
    explicit Engine(const std::string& path, int n_threads = 1, const char* isa = nullptr) {
        dyq_program* program = nullptr;
        check(dyq_open(path.c_str(), isa, &program));
        program_.reset(program);
        if (n_threads != 1) {
            dyq_pool* pool = nullptr;
            check(dyq_pool_open(n_threads, &pool));
            pool_.reset(pool);
        }
        arena_.reset(::operator new(dyq_arena_bytes(program), std::align_val_t{DYQ_ALIGNMENT}));
        for (std::size_t i = 0; i < dyq_n_outputs(program); ++i) {
            codes_.emplace_back(dyq_output_size(program, i));
            outputs_.push_back(codes_.back().data());
        }
    }

    // Codes of every output, valid until the next run.
    const std::vector<std::vector<std::int32_t>>& run(const std::vector<std::vector<float>>& inputs) {
        std::vector<const float*> values;
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            if (inputs[i].size() != dyq_input_size(program(), i)) {
                throw std::invalid_argument("input " + std::to_string(i) + " has another size");
            }
            values.push_back(inputs[i].data());
        }
        if (values.size() != dyq_n_inputs(program())) {
            throw std::invalid_argument("the program has another number of inputs");
        }
        check(dyq_run(program(), arena_.get(), dyq_arena_bytes(program()), values.data(), outputs_.data(), pool_.get(),
                      nullptr, nullptr));
        return codes_;
    }

    // What the codes of the last run are worth.
    std::vector<float> real_values(std::size_t output) const {
        std::vector<float> values(codes_.at(output).size());
        check(dyq_real_values(program(), output, codes_[output].data(), values.data()));
        return values;
    }

    const dyq_program* program() const { return program_.get(); }

   private:
    struct Close {
        void operator()(dyq_program* p) const { dyq_close(p); }
        void operator()(dyq_pool* p) const { dyq_pool_close(p); }
        void operator()(void* p) const { ::operator delete(p, std::align_val_t{DYQ_ALIGNMENT}); }
    };
    std::unique_ptr<dyq_program, Close> program_;
    std::unique_ptr<dyq_pool, Close> pool_;
    std::unique_ptr<void, Close> arena_;
    std::vector<std::vector<std::int32_t>> codes_;
    std::vector<std::int32_t*> outputs_;
};

}  // namespace dyadiq
