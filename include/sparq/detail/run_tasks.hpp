// SPDX-License-Identifier: MIT
// How the tasks of a call are run: a head as one task, or its chunks side by side.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <type_traits>

#include "../config.hpp"
#include "../executor.hpp"
#include "task_phases.hpp"

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

/// Chunk i of those of all heads, in the order that reads memory best.
template <class Tasks>
SPARQ_PER_ISA void run_chunk(const Tasks& tasks, std::byte* memory, std::size_t i) noexcept {
    const bool turns = heads_take_turns(tasks);
    const std::size_t g = turns ? i % tasks.heads() : i / tasks.chunks();
    const std::size_t c = turns ? i / tasks.heads() : i % tasks.chunks();
    tasks.chunk(g, memory + g * tasks.scratch_bytes(), c);
}

/// Part i of the ranking of all heads.
template <class Tasks>
SPARQ_PER_ISA void run_rank(const Tasks& tasks, std::byte* memory, std::size_t i) noexcept {
    const std::size_t parts = rank_parts(tasks), g = i / parts;
    rank_part(tasks, g, memory + g * tasks.scratch_bytes(), i % parts);
}

template <class Tasks>
SPARQ_PER_ISA void run_head(const Tasks& tasks, std::size_t g, std::byte* scratch) noexcept {
    tasks.prepare(g, scratch);
    run_all_chunks(tasks, g, scratch);
    tasks.finish(g, scratch);
}

/// Fewer heads than this are shared where nobody says how many workers there are.
inline constexpr std::size_t shared_below_heads = 16;

/// How many heads `workers` take whole, as many each unless there are many; the chunks of the
/// others are shared.
/// @param workers  0: not known
template <class Tasks>
SPARQ_PER_ISA std::size_t whole_heads(const Tasks& tasks, std::size_t workers) noexcept {
    const std::size_t heads = tasks.heads();
    if (heads_take_turns(tasks)) return 0;
    if (tasks.chunks() == 1) return heads;
    if (workers == 0)
        return heads >= shared_below_heads || tasks.seq_len() <= chunk_tokens ? heads : 0;
    return heads >= 8 * workers ? heads : heads / workers * workers;
}

template <class Executor>
SPARQ_PER_ISA std::size_t workers_of(const Executor& executor) noexcept {
    if constexpr (std::is_same_v<std::remove_cv_t<Executor>, serial_executor>)
        return 1;
    else if constexpr (requires { executor.workers(); })
        return static_cast<std::size_t>(executor.workers());
    else
        return 0;
}

/// A block for each task that runs at a time; for each head where heads take turns.
template <class Tasks>
SPARQ_PER_ISA std::size_t scratch_blocks(const Tasks& tasks) noexcept {
    const std::size_t heads = tasks.heads(), most = scratch_pool::most_blocks;
    return heads < most || heads_take_turns(tasks) ? heads : most;
}

/// All chunks of the heads from `whole` on. Where heads take turns a worker gets chunks that follow
/// each other, since one asks for rows of the next.
template <class Tasks, class Executor>
SPARQ_PER_ISA void run_chunks(const Tasks& tasks, std::byte* memory, std::size_t whole,
                              Executor& executor) {
    const std::size_t first = whole * tasks.chunks();
    const std::size_t total = tasks.heads() * tasks.chunks() - first;
    const std::size_t workers = heads_take_turns(tasks) ? workers_of(executor) : 0;
    if (workers == 0)
        return executor(total,
                        [&](std::size_t i) noexcept { run_chunk(tasks, memory, first + i); });
    executor(workers, [&](std::size_t w) noexcept {
        for (std::size_t i = total * w / workers; i < total * (w + 1) / workers; ++i)
            run_chunk(tasks, memory, first + i);
    });
}

/// @param memory  scratch_blocks() blocks of scratch_bytes()
template <class Tasks, class Executor>
SPARQ_PER_ISA void run_tasks(const Tasks& tasks, std::byte* memory, Executor& executor) {
    const std::size_t heads = tasks.heads(), blocks = scratch_blocks(tasks);
    const std::size_t whole = blocks < heads ? heads : whole_heads(tasks, workers_of(executor));
    // Heads that are shared keep blocks of their own, the last ones.
    scratch_pool pool(memory, tasks.scratch_bytes(), whole < blocks ? whole : blocks);
    executor(heads, [&](std::size_t g) noexcept {
        if (g >= whole) return tasks.prepare(g, pool.block(g));
        const std::size_t i = pool.acquire();
        run_head(tasks, g, pool.block(i));
        pool.release(i);
    });
    if (whole == heads) return;
    run_chunks(tasks, memory, whole, executor);
    const std::size_t shared = heads - whole, parts = rank_parts(tasks);
    if (parts != 0)
        executor(shared * parts,
                 [&](std::size_t i) noexcept { run_rank(tasks, memory, whole * parts + i); });
    executor(shared,
             [&](std::size_t i) noexcept { tasks.finish(whole + i, pool.block(whole + i)); });
}

/// The share of thread ith of nth; `memory` holds one block a head. Every thread calls
/// barrier() the same number of times: two or three, or none when the heads go round evenly.
template <class Tasks, class Barrier>
SPARQ_PER_ISA void run_share(const Tasks& tasks, std::byte* memory, std::size_t ith,
                             std::size_t nth, Barrier& barrier) {
    const std::size_t heads = tasks.heads(), whole = whole_heads(tasks, nth);
    const auto block = [&](std::size_t g) { return memory + g * tasks.scratch_bytes(); };
    if (whole == heads) {
        for (std::size_t g = ith; g < heads; g += nth) run_head(tasks, g, block(ith));
        return;
    }
    // The heads to be shared are prepared first: the others are done while one waits for it.
    for (std::size_t g = whole + ith; g < heads; g += nth) tasks.prepare(g, block(g));
    for (std::size_t g = ith; g < whole; g += nth) run_head(tasks, g, block(ith));
    barrier();
    // run(i) for this thread's share of `parts` a head.
    const auto share = [&](std::size_t parts, const auto& run) {
        const std::size_t first = whole * parts, total = heads * parts - first;
        const std::size_t end = first + total * (ith + 1) / nth;
        for (std::size_t i = first + total * ith / nth; i < end; ++i) run(i);
    };
    share(tasks.chunks(), [&](std::size_t i) noexcept { run_chunk(tasks, memory, i); });
    barrier();
    if (const std::size_t parts = rank_parts(tasks); parts != 0) {
        share(parts, [&](std::size_t i) noexcept { run_rank(tasks, memory, i); });
        barrier();
    }
    for (std::size_t g = whole + ith; g < heads; g += nth) tasks.finish(g, block(g));
}

}  // namespace detail
SPARQ_NAMESPACE_END
