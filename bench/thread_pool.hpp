// SPDX-License-Identifier: MIT
// thread_pool: an executor for the library (see sparq/executor.hpp) on std::thread. The
// calling thread works too; tasks are taken one at a time. Idle workers sleep, so a pool
// that is not in use costs no processor time.
#pragma once

#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace bench {

class thread_pool {
   public:
    /// @param threads  the calling one included, at least 1
    explicit thread_pool(std::size_t threads) {
        for (std::size_t i = 1; i < threads; ++i) workers_.emplace_back([this] { serve(); });
    }
    thread_pool(const thread_pool&) = delete;
    thread_pool& operator=(const thread_pool&) = delete;
    ~thread_pool() {
        run_task_ = nullptr;
        start();
        for (std::thread& worker : workers_) worker.join();
    }

    [[nodiscard]] std::size_t workers() const noexcept { return workers_.size() + 1; }

    template <class Body>
    void operator()(std::size_t count, const Body& body) {
        body_ = &body;
        count_ = count;
        run_task_ = [](const void* task_body, std::size_t i) noexcept {
            (*static_cast<const Body*>(task_body))(i);
        };
        next_.store(0, std::memory_order_relaxed);
        working_.store(workers_.size(), std::memory_order_relaxed);
        start();
        take_tasks();
        while (working_.load(std::memory_order_acquire) != 0) std::this_thread::yield();
    }

   private:
    // How often a worker looks for the next call before it sleeps: one call of the library
    // may use the executor three times in a row, and waking takes tens of microseconds.
    static constexpr int looks_before_sleep = 20000;

    void start() noexcept {
        generation_.fetch_add(1, std::memory_order_release);
        generation_.notify_all();
    }
    void take_tasks() noexcept {
        for (std::size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;)
            run_task_(body_, i);
    }
    void serve() noexcept {
        for (unsigned seen = 0;; ++seen) {
            for (int look = 0; look < looks_before_sleep; ++look)
                if (generation_.load(std::memory_order_relaxed) != seen) break;
            generation_.wait(seen, std::memory_order_acquire);
            if (run_task_ == nullptr) return;
            take_tasks();
            working_.fetch_sub(1, std::memory_order_release);
        }
    }

    const void* body_ = nullptr;
    void (*run_task_)(const void*, std::size_t) noexcept = nullptr;
    std::size_t count_ = 0;
    std::atomic<std::size_t> next_ = 0, working_ = 0;
    std::atomic<unsigned> generation_ = 0;
    std::vector<std::thread> workers_;
};

}  // namespace bench
