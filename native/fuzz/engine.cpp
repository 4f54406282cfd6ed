// Fuzzing of the engine: any file is refused or runs inside its arena, whatever kernels run it.
//
// For libFuzzer, with sanitizers; native/fuzz/run builds and starts it. An input is a file. The mutator changes words of
// its plan and bytes of its payloads and then makes the checksums right, so that what is changed reaches the reader behind
// them and the kernels; now and then it leaves the checksums, or cuts the file.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <variant>
#include <vector>

#include "engine/crc32.hpp"
#include "engine/image.hpp"
#include "engine/kernels.hpp"
#include "engine/run.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace {

namespace engine = dyadiq::engine;

constexpr std::size_t kHeader = 64, kRecord = 64, kAlignment = 64;
constexpr std::int64_t kMostArena = 1 << 20, kMostWork = 1 << 23, kMostInputs = 1 << 18;

struct Free {
    void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<std::uint8_t, Free>;

// Exactly `size` bytes at a multiple of 64, so that sanitizers see the first byte read behind them.
Memory aligned(std::size_t size) {
    void* found = nullptr;
    return Memory(posix_memalign(&found, kAlignment, size) == 0 ? static_cast<std::uint8_t*>(found) : nullptr);
}

// Bound of the elements that a step visits.
std::int64_t work(const engine::Step& step) {
    if (const auto* pool = std::get_if<engine::MaxPool>(&step)) {
        return std::int64_t{pool->kernel_h} * pool->kernel_w * pool->out.buffer.bytes();
    }
    if (const auto* pool = std::get_if<engine::SumPool>(&step)) {
        return std::int64_t{pool->kernel_h} * pool->kernel_w * pool->out.buffer.bytes();
    }
    return engine::macs(step);
}

bool is_small(const engine::Plan& plan) {
    std::int64_t sum = plan.arena_bytes > kMostArena || plan.steps.size() > 1000 ? kMostWork + 1 : 0;
    for (const engine::Step& step : plan.steps) {
        sum = sum > kMostWork ? sum : sum + work(step);
    }
    std::int64_t values = 0;
    for (const auto* sizes : {&plan.input_sizes, &plan.output_sizes}) {
        for (std::int64_t size : *sizes) {
            values += size;
        }
    }
    return sum <= kMostWork && values <= kMostInputs;
}

void run(const engine::Plan& plan, const engine::Kernels& kernels) {
    const Memory arena = aligned(static_cast<std::size_t>(plan.arena_bytes));
    std::memset(arena.get(), 0x5A, static_cast<std::size_t>(plan.arena_bytes));
    std::vector<std::vector<float>> values;
    std::vector<std::vector<std::int32_t>> codes;
    std::vector<engine::Input> inputs;
    std::vector<std::int32_t*> outputs;
    for (std::int64_t size : plan.input_sizes) {
        std::vector<float>& all = values.emplace_back(static_cast<std::size_t>(size));
        for (std::size_t i = 0; i < all.size(); ++i) {
            all[i] = static_cast<float>(i % 37) * 0.29F - 5.0F;
        }
        inputs.push_back({all.data(), nullptr});
    }
    for (std::int64_t size : plan.output_sizes) {
        outputs.push_back(codes.emplace_back(static_cast<std::size_t>(size)).data());
    }
    engine::run(plan, kernels, arena.get(), inputs, outputs);
}

template <typename T>
T get(const std::uint8_t* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

void put(std::uint8_t* at, std::uint32_t value) { std::memcpy(at, &value, sizeof value); }

struct Payload {
    std::size_t start, bytes;
};

// Where the payloads of a file lie, as far as its records make sense.
std::vector<Payload> payloads(const std::uint8_t* data, std::size_t size) {
    std::vector<Payload> found;
    const std::size_t n = size < kHeader ? 0 : get<std::uint32_t>(data + 12);
    for (std::size_t i = 0; i < n && kHeader + (i + 1) * kRecord <= size; ++i) {
        const std::uint8_t* record = data + kHeader + i * kRecord;
        const auto start = get<std::uint64_t>(record + 32), bytes = get<std::uint64_t>(record + 40);
        if (start > size || bytes > size - start) {
            break;
        }
        found.push_back({start, bytes});
    }
    return found;
}

void make_checksums(std::uint8_t* data, const std::vector<Payload>& found) {
    for (std::size_t i = 0; i < found.size(); ++i) {
        put(data + kHeader + i * kRecord + 48, engine::crc32(data + found[i].start, found[i].bytes));
    }
    put(data + 40, engine::crc32(data + kHeader, found[0].start - kHeader));
    put(data + 60, engine::crc32(data, 60));
}

std::uint32_t strange(std::mt19937& random, std::uint32_t old) {
    constexpr std::uint32_t kStrange[] = {0,   1,   2,   3,     4,       7,          8,          15,        16,         17,
                                          63,  64,  127, 128,   255,     256,        4096,       65535,     65536,      1 << 20,
                                          1 << 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFF80};
    switch (random() % 4) {
        case 0: return old + random() % 9 - 4;
        case 1: return old ^ 1U << random() % 32;
        case 2: return random() % 64;
        default: return kStrange[random() % std::size(kStrange)];
    }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
    std::mt19937 random(seed);
    const std::vector<Payload> found = payloads(data, size);
    if (found.empty() || found[0].bytes < 4 || found[0].start < kHeader || random() % 64 == 0) {
        return LLVMFuzzerMutate(data, size, most);
    }
    if (random() % 128 == 0) {
        return 1 + random() % size;
    }
    for (unsigned left = 1 + random() % 3; left > 0; --left) {
        if (random() % 4 != 0) {  // a word of the plan
            std::uint8_t* const word = data + found[0].start + random() % (found[0].bytes / 4) * 4;
            put(word, strange(random, get<std::uint32_t>(word)));
            continue;
        }
        const Payload& payload = found[random() % found.size()];
        if (payload.bytes >= 4) {
            std::uint8_t* const word = data + payload.start + random() % (payload.bytes / 4) * 4;
            put(word, strange(random, get<std::uint32_t>(word)));
        }
    }
    if (random() % 16 == 0) {  // what a record says
        data[kHeader + random() % found.size() * kRecord + random() % 32] ^= static_cast<std::uint8_t>(1U << random() % 8);
    }
    make_checksums(data, found);
    return size;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Memory file = aligned(size);
    if (file == nullptr) {
        return 0;
    }
    std::memcpy(file.get(), data, size);
    try {
        const engine::Plan plan = engine::open(file.get(), size);
        if (is_small(plan)) {
            for (const engine::Kernels* kernels : engine::all_kernels()) {
                if (kernels->supported()) {
                    run(plan, *kernels);
                }
            }
        }
    } catch (const engine::BadImage&) {
    }
    return 0;
}
