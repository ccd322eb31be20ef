// SPDX-License-Identifier: MIT
// Executors: how the independent tasks of a call are spread.
//
// An executor is any callable parallel_for(count, body) that calls body(i) once for
// each i in 0 .. count - 1, in any order, on any threads, and returns when all are done.
// body does not throw. The library starts no threads; the result has the same bits
// under every executor. Adaptors: sparq/openmp.hpp, sparq/onetbb.hpp.
//
// An executor may also offer workers() const noexcept, a std::size_t: how many tasks it runs at
// a time. Heads are then taken whole as far as they go round evenly, and the others shared.
#pragma once

#include <concepts>
#include <cstddef>

#include "version.hpp"

SPARQ_NAMESPACE_BEGIN

/// Runs the tasks one after the other on the calling thread.
struct serial_executor {
    template <class Body>
    void operator()(std::size_t count, const Body& body) const {
        for (std::size_t i = 0; i < count; ++i) body(i);
    }
};

namespace detail {
struct any_task {
    void operator()(std::size_t) const noexcept {}
};
}  // namespace detail

template <class Executor>
concept task_executor = std::invocable<Executor&, std::size_t, const detail::any_task&>;

SPARQ_NAMESPACE_END
