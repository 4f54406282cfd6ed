#include "engine/threads.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace dyadiq::engine {
namespace {

constexpr int kLooks = 3000;  // some 40 to 100 microseconds

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(std::int32_t n_threads) : size_(n_threads) {
    others_.reserve(static_cast<std::size_t>(n_threads - 1));
    try {
        for (std::int32_t index = 1; index < n_threads; ++index) {
            others_.emplace_back([this, index] { serve(index); });
        }
    } catch (...) {
        // Those that started wait for the ones that did not: count them as there.
        arrived_.fetch_add(n_threads - 1 - static_cast<std::int32_t>(others_.size()));
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    stopping_ = true;
    meet();
    for (std::thread& other : others_) {
        other.join();
    }
}

void ThreadPool::meet() {
    const std::uint32_t meeting = meetings_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        arrived_.store(0, std::memory_order_relaxed);
        meetings_.store(meeting + 1, std::memory_order_release);
        meetings_.notify_all();
        return;
    }
    for (int look = 0; look < kLooks; ++look) {
        if (meetings_.load(std::memory_order_acquire) != meeting) {
            return;
        }
        pause();
    }
    meetings_.wait(meeting, std::memory_order_acquire);
}

void ThreadPool::serve(std::int32_t index) {
    for (;;) {
        meet();
        if (stopping_) {
            return;
        }
        call_(context_, index);
        meet();
    }
}

}  // namespace dyadiq::engine
