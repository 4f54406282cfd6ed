// Runs compiled programs in several threads under ThreadSanitizer, which reports what two threads touch without order.
//
//     threads FILE...
//
// Every program is run with pools of two and three threads, twice each, and by two callers at once that share the
// program but have arenas and pools of their own; the codes must be those of one thread. Kernels: all of this machine.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "dyadiq_engine.h"

namespace {

using Codes = std::vector<std::vector<std::int32_t>>;

void require(dyq_status status, const char* file) {
    if (status != DYQ_OK) {
        std::printf("%s: %s\n", file, dyq_message());
        std::exit(1);
    }
}

Codes run(const dyq_program* program, const std::vector<std::vector<float>>& values, dyq_pool* pool, const char* file) {
    const std::size_t arena_bytes = dyq_arena_bytes(program);
    void* arena = std::aligned_alloc(DYQ_ALIGNMENT, (arena_bytes + DYQ_ALIGNMENT - 1) / DYQ_ALIGNMENT * DYQ_ALIGNMENT);
    std::memset(arena, 0xA5, arena_bytes);
    std::vector<const float*> in;
    std::vector<std::int32_t*> out;
    Codes codes;
    for (const auto& value : values) { in.push_back(value.data()); }
    for (std::size_t i = 0; i < dyq_n_outputs(program); ++i) { codes.emplace_back(dyq_output_size(program, i)); }
    for (auto& code : codes) { out.push_back(code.data()); }
    for (int time = 0; time < 2; ++time) {
        require(dyq_run(program, arena, arena_bytes, in.data(), out.data(), pool, nullptr, nullptr), file);
    }
    std::free(arena);
    return codes;
}

int check(const char* file, const char* isa) {
    dyq_program* program = nullptr;
    if (dyq_open(file, isa, &program) != DYQ_OK) { return 0; }  // this machine has no such kernels
    std::vector<std::vector<float>> values;
    std::uint32_t state = 1;
    for (std::size_t i = 0; i < dyq_n_inputs(program); ++i) {
        values.emplace_back(dyq_input_size(program, i));
        for (float& value : values.back()) {
            state = state * 1664525u + 1013904223u;
            value = static_cast<float>(static_cast<std::int32_t>(state >> 8) - (1 << 23)) / (1 << 21);
        }
    }
    const Codes expected = run(program, values, nullptr, file);
    int n_runs = 0;
    for (const std::int32_t n_threads : {2, 3}) {
        Codes found[2];
        auto call = [&](int at) {
            dyq_pool* pool = nullptr;
            require(dyq_pool_open(n_threads, &pool), file);
            found[at] = run(program, values, pool, file);
            dyq_pool_close(pool);
        };
        std::thread other(call, 1);
        call(0);
        other.join();
        for (const Codes& codes : found) {
            ++n_runs;
            if (codes != expected) {
                std::printf("%s, %s, %d threads: other codes than in one\n", file, isa, n_threads);
                std::exit(1);
            }
        }
    }
    dyq_close(program);
    return n_runs;
}

}  // namespace

int main(int argc, char** argv) {
    int n_runs = 0;
    for (const char* isa : {"portable", "avx2", "avxvnni", "avx512vnni256", "avx512vnni", "neon", "neondot"}) {
        for (int i = 1; i < argc; ++i) { n_runs += check(argv[i], isa); }
    }
    std::printf("%d runs in several threads: the codes of one, and no data race\n", n_runs);
    return n_runs > 0 ? 0 : 1;
}
