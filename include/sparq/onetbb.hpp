// SPDX-License-Identifier: MIT
// onetbb_executor: the tasks of a call spread over oneTBB's workers.
//
//     sparq::sparq_attention(q, cache, params, out, {}, sparq::onetbb_executor{});
//
// Optional: needs oneTBB (CMake: find_package(TBB), TBB::tbb).
#pragma once

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/partitioner.h>
#include <oneapi/tbb/task_arena.h>

#include <cstddef>

#include "version.hpp"

SPARQ_NAMESPACE_BEGIN

/// An executor (executor.hpp) that runs the tasks in the caller's arena and returns when
/// all are done. The arena decides the number of threads: call inside
/// oneapi::tbb::task_arena::execute to choose it.
struct onetbb_executor {
    [[nodiscard]] std::size_t workers() const noexcept {
        return static_cast<std::size_t>(oneapi::tbb::this_task_arena::max_concurrency());
    }

    template <class Body>
    void operator()(std::size_t count, const Body& body) const {
        using range = oneapi::tbb::blocked_range<std::size_t>;
        // A task reads megabytes: split down to single tasks, so that none waits behind another.
        oneapi::tbb::parallel_for(
            range(0, count, 1),
            [&body](const range& tasks) {
                for (std::size_t i = tasks.begin(); i != tasks.end(); ++i) body(i);
            },
            oneapi::tbb::simple_partitioner{});
    }
};

SPARQ_NAMESPACE_END
