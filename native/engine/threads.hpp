// A few threads that do the same work at once and wait for each other between its parts. The caller's: made before
// runs, used by one run at a time.
//
// A thread that waits looks for at most a twentieth to a tenth of a millisecond, since shares of a step end at nearly the
// same time and waking takes about as long, and then sleeps in the kernel until the last one comes. Between runs all but
// the caller's sleep. Threads of a
// process that forks are not in its child.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace dyadiq::engine {

class ThreadPool {
   public:
    // Starts all but one of them: the caller of `run` is the first. Throws std::system_error.
    explicit ThreadPool(std::int32_t n_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    std::int32_t size() const { return static_cast<std::int32_t>(others_.size()) + 1; }

    // Call `work(index)` in every thread, and return when all have done so. Allocates nothing.
    template <typename Work>
    void run(Work& work) {
        call_ = [](void* context, std::int32_t index) { (*static_cast<Work*>(context))(index); };
        context_ = &work;
        meet();
        work(0);
        meet();
    }

    // To be called by every thread in `work`: returns when all have called it; what they wrote before is seen by all.
    void meet();

   private:
    void serve(std::int32_t index);
    void stop();

    std::atomic<std::int32_t> arrived_{0};
    std::atomic<std::uint32_t> meetings_{0};
    bool stopping_ = false;
    void (*call_)(void*, std::int32_t) = nullptr;
    void* context_ = nullptr;
    std::int32_t size_ = 1;
    std::vector<std::thread> others_;
};

}  // namespace dyadiq::engine
