// SPDX-License-Identifier: MIT
// How the tasks of a call are run: a head as one task, or its chunks side by side.
//
// Tasks offer, all noexcept:
//   heads(), chunks()             how many KV heads, and chunks of tokens in each
//   scratch_bytes()               of one block of scratch
//   prepare(g, scratch)           once a head
//   chunk(g, scratch, c)          each chunk, in any order, after prepare
//   finish(g, scratch)            after all chunks
//   heads_take_turns()            may be missing: whether a chunk of every head comes before
//                                 the next chunk of any
// What a chunk leaves in the scratch depends on g and c only, and finish merges in
// ascending order: so the result has the same bits whichever way it is run.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <type_traits>

#include "../config.hpp"
#include "../executor.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// Blocks of scratch, one for each task that runs at a time; the lowest free one first,
/// so that few workers keep few blocks warm.
class scratch_pool {
   public:
    static constexpr std::size_t most_blocks = 64;

    SPARQ_PER_ISA scratch_pool(std::byte* memory, std::size_t block_bytes,
                               std::size_t blocks) noexcept
        : memory_(memory),
          block_bytes_(block_bytes),
          free_(blocks >= most_blocks ? ~std::uint64_t{0} : (std::uint64_t{1} << blocks) - 1) {}

    [[nodiscard]] std::byte* block(std::size_t i) const noexcept {
        return memory_ + i * block_bytes_;
    }
    SPARQ_PER_ISA std::size_t acquire() noexcept {
        std::uint64_t free = free_.load(std::memory_order_relaxed);
        for (;;) {
            if (free == 0) {  // more tasks at a time than blocks: wait for one to end
                std::this_thread::yield();
                free = free_.load(std::memory_order_relaxed);
            } else if (free_.compare_exchange_weak(free, free & (free - 1),
                                                   std::memory_order_acquire)) {
                return static_cast<std::size_t>(std::countr_zero(free));
            }
        }
    }
    SPARQ_PER_ISA void release(std::size_t i) noexcept {
        free_.fetch_or(std::uint64_t{1} << i, std::memory_order_release);
    }

   private:
    std::byte* memory_;
    std::size_t block_bytes_;
    std::atomic<std::uint64_t> free_;
};

template <class Tasks>
SPARQ_PER_ISA bool heads_take_turns(const Tasks& tasks) noexcept {
    if constexpr (requires { tasks.heads_take_turns(); })
        return tasks.heads_take_turns() && tasks.chunks() > 1;
    else
        return false;
}

/// Chunk i of those of all heads, in the order that reads memory best.
template <class Tasks>
SPARQ_PER_ISA void run_chunk(const Tasks& tasks, std::byte* memory, std::size_t i) noexcept {
    const bool turns = heads_take_turns(tasks);
    const std::size_t g = turns ? i % tasks.heads() : i / tasks.chunks();
    const std::size_t c = turns ? i / tasks.heads() : i % tasks.chunks();
    tasks.chunk(g, memory + g * tasks.scratch_bytes(), c);
}

template <class Tasks>
SPARQ_PER_ISA void run_head(const Tasks& tasks, std::size_t g, std::byte* scratch) noexcept {
    tasks.prepare(g, scratch);
    for (std::size_t c = 0; c < tasks.chunks(); ++c) tasks.chunk(g, scratch, c);
    tasks.finish(g, scratch);
}

/// Fewer heads than this are split into chunks, where an executor may have more workers.
inline constexpr std::size_t split_below_heads = 16;

template <class Tasks>
SPARQ_PER_ISA std::size_t scratch_blocks(const Tasks& tasks) noexcept {
    return tasks.heads() < scratch_pool::most_blocks ? tasks.heads() : scratch_pool::most_blocks;
}

/// @param memory  scratch_blocks() blocks of scratch_bytes()
template <class Tasks, class Executor>
SPARQ_PER_ISA void run_tasks(const Tasks& tasks, std::byte* memory, Executor& executor) {
    scratch_pool pool(memory, tasks.scratch_bytes(), scratch_blocks(tasks));
    constexpr bool serial = std::is_same_v<std::remove_cv_t<Executor>, serial_executor>;
    const bool turns = heads_take_turns(tasks) && tasks.heads() <= scratch_pool::most_blocks;
    if (!turns && (serial || tasks.chunks() == 1 || tasks.heads() >= split_below_heads)) {
        executor(tasks.heads(), [&](std::size_t g) noexcept {
            const std::size_t i = pool.acquire();
            run_head(tasks, g, pool.block(i));
            pool.release(i);
        });
        return;
    }
    for (std::size_t g = 0; g < tasks.heads(); ++g) tasks.prepare(g, pool.block(g));
    executor(tasks.heads() * tasks.chunks(),
             [&](std::size_t i) noexcept { run_chunk(tasks, memory, i); });
    executor(tasks.heads(), [&](std::size_t g) noexcept { tasks.finish(g, pool.block(g)); });
}

/// The share of thread ith of nth; `memory` holds one block a head. Every thread calls
/// barrier() the same number of times: twice, or never when the heads go round evenly.
template <class Tasks, class Barrier>
SPARQ_PER_ISA void run_share(const Tasks& tasks, std::byte* memory, std::size_t ith,
                             std::size_t nth, Barrier& barrier) {
    const std::size_t heads = tasks.heads(), total = heads * tasks.chunks();
    const auto block = [&](std::size_t g) { return memory + g * tasks.scratch_bytes(); };
    const bool whole = tasks.chunks() == 1 || heads % nth == 0 || heads >= 8 * nth;
    if (whole && !heads_take_turns(tasks)) {
        for (std::size_t g = ith; g < heads; g += nth) run_head(tasks, g, block(ith));
        return;
    }
    for (std::size_t g = ith; g < heads; g += nth) tasks.prepare(g, block(g));
    barrier();
    const std::size_t end = total * (ith + 1) / nth;
    for (std::size_t i = total * ith / nth; i < end; ++i) run_chunk(tasks, memory, i);
    barrier();
    for (std::size_t g = ith; g < heads; g += nth) tasks.finish(g, block(g));
}

}  // namespace detail
SPARQ_NAMESPACE_END
