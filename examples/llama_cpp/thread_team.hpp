// SPDX-License-Identifier: MIT
// thread_team: threads that do a job together with the thread that has it.
#pragma once

#include <barrier>
#include <cstddef>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace sparq_llama {

class thread_team {
   public:
    using job = std::function<void(std::size_t ith, std::size_t nth)>;

    thread_team() = default;
    ~thread_team() { dismiss(); }
    thread_team(const thread_team&) = delete;
    thread_team& operator=(const thread_team&) = delete;

    /// Calls work(ith, nth) for all ith < threads at the same time, ith = 0 here. Waits for
    /// all of them. Threads are started when the number changes.
    void run(std::size_t threads, const job& work) {
        if (threads != helpers_.size() + 1) hire(threads);
        if (threads == 1) return work(0, 1);
        work_ = &work;
        meet_->arrive_and_wait();
        work(0, threads);
        meet_->arrive_and_wait();
    }
    /// Within a job: returns when all its threads have called it.
    void barrier() {
        if (!helpers_.empty()) meet_->arrive_and_wait();
    }

   private:
    void hire(std::size_t threads) {
        dismiss();
        meet_ = std::make_unique<std::barrier<>>(static_cast<std::ptrdiff_t>(threads));
        for (std::size_t ith = 1; ith < threads; ++ith)
            helpers_.emplace_back([this, ith, threads] {
                for (;;) {
                    meet_->arrive_and_wait();
                    if (work_ == nullptr) return;
                    (*work_)(ith, threads);
                    meet_->arrive_and_wait();
                }
            });
    }
    void dismiss() {
        if (helpers_.empty()) return;
        work_ = nullptr;
        meet_->arrive_and_wait();
        helpers_.clear();
    }

    std::unique_ptr<std::barrier<>> meet_;
    const job* work_ = nullptr;
    std::vector<std::jthread> helpers_;
};

}  // namespace sparq_llama
