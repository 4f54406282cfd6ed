// Runs compiled programs on another machine: cross ISA SAMPLES PREFIX...
//
// For each prefix opens PREFIX.dyqe, reads the samples of input i from PREFIX.in<i> (float32), and writes the codes of
// output i to PREFIX.out<i> (int32). ISA "best" lets the library choose. Prints the kernels that ran.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "dyadiq_engine.h"

namespace {

void require(dyq_status status) {
    if (status != DYQ_OK) {
        std::printf("%d %s\n", static_cast<int>(status), dyq_message());
        std::exit(1);
    }
}

void run(const std::string& prefix, const char* isa, std::size_t n_samples, dyq_pool* pool) {
    dyq_program* program = nullptr;
    require(dyq_open((prefix + ".dyqe").c_str(), isa, &program));
    std::printf("%s\n", dyq_isa(program));
    const std::size_t arena_bytes = dyq_arena_bytes(program);
    void* arena = std::aligned_alloc(DYQ_ALIGNMENT, (arena_bytes + DYQ_ALIGNMENT - 1) / DYQ_ALIGNMENT * DYQ_ALIGNMENT);
    std::memset(arena, 0xA5, arena_bytes);
    std::vector<std::vector<float>> values;
    for (std::size_t i = 0; i < dyq_n_inputs(program); ++i) {
        values.emplace_back(n_samples * dyq_input_size(program, i));
        std::ifstream file(prefix + ".in" + std::to_string(i), std::ios::binary);
        file.read(reinterpret_cast<char*>(values[i].data()), static_cast<std::streamsize>(values[i].size() * sizeof(float)));
    }
    std::vector<std::vector<std::int32_t>> codes;
    for (std::size_t i = 0; i < dyq_n_outputs(program); ++i) {
        codes.emplace_back(n_samples * dyq_output_size(program, i));
    }
    for (std::size_t sample = 0; sample < n_samples; ++sample) {
        std::vector<const float*> in;
        std::vector<std::int32_t*> out;
        for (std::size_t i = 0; i < values.size(); ++i) {
            in.push_back(values[i].data() + sample * dyq_input_size(program, i));
        }
        for (std::size_t i = 0; i < codes.size(); ++i) {
            out.push_back(codes[i].data() + sample * dyq_output_size(program, i));
        }
        require(dyq_run(program, arena, arena_bytes, in.data(), out.data(), pool, nullptr, nullptr));
    }
    for (std::size_t i = 0; i < codes.size(); ++i) {
        std::ofstream file(prefix + ".out" + std::to_string(i), std::ios::binary);
        file.write(reinterpret_cast<const char*>(codes[i].data()),
                   static_cast<std::streamsize>(codes[i].size() * sizeof(std::int32_t)));
    }
    std::free(arena);
    dyq_close(program);
}

}  // namespace

int main(int argc, char** argv) {
    dyq_pool* pool = nullptr;
    require(dyq_pool_open(2, &pool));
    const char* isa = std::strcmp(argv[1], "best") == 0 ? nullptr : argv[1];
    for (int i = 3; i < argc; ++i) {
        run(argv[i], isa, std::strtoul(argv[2], nullptr, 10), i % 2 == 0 ? pool : nullptr);
    }
    dyq_pool_close(pool);
    return 0;
}
