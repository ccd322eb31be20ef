// SPDX-License-Identifier: MIT
// openmp_executor: the tasks of a call spread over an OpenMP team.
//
//     sparq::sparq_attention(q, cache, params, out, {}, sparq::openmp_executor{});
//
// Optional: needs -fopenmp in compiling and linking (CMake: OpenMP::OpenMP_CXX).
#pragma once

#ifndef _OPENMP
#error "sparq/openmp.hpp needs OpenMP: compile and link with -fopenmp, in CMake OpenMP::OpenMP_CXX"
#endif

#include <omp.h>

#include <cstddef>

#include "version.hpp"

SPARQ_NAMESPACE_BEGIN

/// An executor (executor.hpp) that runs the tasks on a team of OpenMP threads and
/// returns when all are done. A task goes to the next thread that is free: heads cost
/// the same but threads do not run at the same pace. Inside a parallel region OpenMP's
/// own rule for nesting holds, by default one thread.
struct openmp_executor {
    /// Threads of the team; 0 or less: what OpenMP would take (OMP_NUM_THREADS).
    int threads = 0;

    [[nodiscard]] std::size_t workers() const noexcept {
        const bool alone = omp_get_active_level() >= omp_get_max_active_levels();
        return alone ? 1 : static_cast<std::size_t>(team());
    }

    template <class Body>
    void operator()(std::size_t count, const Body& body) const {
#pragma omp parallel for schedule(dynamic) num_threads(team())
        for (std::size_t i = 0; i < count; ++i) body(i);
    }

   private:
    [[nodiscard]] int team() const noexcept {
        return threads > 0 ? threads : omp_get_max_threads();
    }
};

SPARQ_NAMESPACE_END
