// SPDX-License-Identifier: MIT
// attention_plan: a call prepared before, for engines that run it on threads of their own.
//
//   auto plan = sparq::plan_sparq(q, cache.view(), params, out, options);
//   // then on each of nth threads:
//   plan.run(ith, nth, barrier);
//
// Heads are taken whole as far as they go round evenly; the others are shared, chunk by chunk,
// with two or three barriers: so three heads feed eight threads.
#pragma once

#include <cstddef>
#include <span>
#include <variant>

#include "call_options.hpp"
#include "config.hpp"
#include "detail/dense_tasks.hpp"
#include "detail/run_tasks.hpp"
#include "detail/sparq_tasks.hpp"
#include "kv_view.hpp"
#include "params.hpp"

SPARQ_NAMESPACE_BEGIN

/// One attention step with its arguments checked and its scratch memory laid out. What
/// q, the view, out, the report and the workspace refer to must outlive it unchanged;
/// q is read while the plan runs, so new queries in the same place serve the next run.
template <class Arch, class T, class Label>
class attention_plan {
   public:
    using dense = detail::dense_tasks<Arch, T, Label>;
    using sparse = detail::sparq_tasks<Arch, T, Label>;

    /// Prefer plan_sparq and plan_dense.
    /// @throws std::bad_alloc
    template <class Tasks>
    attention_plan(const Tasks& tasks, workspace* work, std::size_t blocks) : tasks_(tasks) {
        const std::size_t bytes = detail::checked_product("scratch", blocks, tasks.scratch_bytes());
        memory_ = (work != nullptr ? *work : own_).prepare(bytes);
        tasks.begin_report();
    }

    /// Does the share of thread ith of nth; all nth threads call it, then the result is
    /// there. Allocates nothing, throws nothing but what barrier throws.
    ///
    /// @param barrier  called as barrier() by every thread the same number of times (0, 2 or
    ///                 3): returns when all nth threads have called it
    template <class Barrier>
    void run(std::size_t ith, std::size_t nth, Barrier&& barrier) const {
        std::visit([&](const auto& tasks) { detail::run_share(tasks, memory_, ith, nth, barrier); },
                   tasks_);
    }

    /// Does all of it through an executor (executor.hpp).
    template <class Executor>
    void run(Executor&& executor) const {
        std::visit([&](const auto& tasks) { detail::run_tasks(tasks, memory_, executor); }, tasks_);
    }

   private:
    std::variant<dense, sparse> tasks_;
    workspace own_;
    std::byte* memory_ = nullptr;
};

namespace detail {

enum class plan_use { executor, own_threads };

/// Blocks of scratch: as many as tasks can be at work at a time.
template <class Tasks>
SPARQ_PER_ISA std::size_t plan_blocks(const Tasks& tasks, plan_use use) noexcept {
    return use == plan_use::own_threads ? tasks.heads() : scratch_blocks(tasks);
}

template <class Arch, class T, class Label>
attention_plan<Arch, T, Label> make_dense_plan(std::span<const float> q,
                                               const kv_view<T, Label>& view, float scale,
                                               std::span<float> out, const call_options& options,
                                               plan_use use) {
    const dense_tasks<Arch, T, Label> tasks(check_request(q, view, scale, out, options));
    return {tasks, options.work, plan_blocks(tasks, use)};
}

template <class Arch, class T, class Label>
attention_plan<Arch, T, Label> make_sparq_plan(std::span<const float> q,
                                               const kv_view<T, Label>& view,
                                               const sparq_params& params, std::span<float> out,
                                               const call_options& options, plan_use use) {
    check_params(params, view.head_dim());
    if constexpr (!coded_label<Label>)
        if (params.components == component_ranking::magnitude_times_spread)
            refuse("components", "magnitude_times_spread",
                   "magnitude, unless labels are int8_label, int4_label or int2_label");
    // With k >= S, i2 is everything and alpha is 1.
    if (params.k >= view.seq_len() || view.seq_len() < params.dense_below)
        return make_dense_plan<Arch>(q, view, params.scale, out, options, use);
    const sparq_tasks<Arch, T, Label> tasks(check_request(q, view, params.scale, out, options),
                                            params);
    return {tasks, options.work, plan_blocks(tasks, use)};
}

}  // namespace detail

/// Plans sparq_attention with the same arguments; what that refuses is refused here.
/// The workspace of the options, if any, belongs to the plan as long as it lives.
template <class Arch = default_arch, class T, class Label>
[[nodiscard]] attention_plan<Arch, T, Label> plan_sparq(std::span<const float> q,
                                                        const kv_view<T, Label>& view,
                                                        const sparq_params& params,
                                                        std::span<float> out,
                                                        const call_options& options = {}) {
    return detail::make_sparq_plan<Arch>(q, view, params, out, options,
                                         detail::plan_use::own_threads);
}

/// Plans dense_attention with the same arguments.
template <class Arch = default_arch, class T, class Label>
[[nodiscard]] attention_plan<Arch, T, Label> plan_dense(std::span<const float> q,
                                                        const kv_view<T, Label>& view,
                                                        std::span<float> out,
                                                        const call_options& options = {},
                                                        float scale = 0.0f) {
    return detail::make_dense_plan<Arch>(q, view, scale, out, options,
                                         detail::plan_use::own_threads);
}

SPARQ_NAMESPACE_END
