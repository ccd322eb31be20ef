// SPDX-License-Identifier: MIT
// tiered_attention: attention of one decode step to a chosen error, in three reads of rising
// precision. See docs/tiers.md for the method and what it is worth.
//
//   steps/tiers/scan_channels.hpp  which channels are scanned at 2 bits, and the noise of that
//   steps/tiers/refine_tokens.hpp  4-bit rows of K and V
//   steps/tiers/tier_mix.hpp       the output, and how far it is likely to be off
// detail/tiered_head.hpp calls them in this order.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>

#include "attention_plan.hpp"
#include "detail/tiered_tasks.hpp"
#include "tiered_cache.hpp"
#include "tiered_params.hpp"

SPARQ_NAMESPACE_BEGIN

namespace detail {

SPARQ_PER_ISA inline void check_params(const tiered_params& params, std::size_t head_dim) {
    if (!(params.tolerance >= 0.0f) || !std::isfinite(params.tolerance))
        refuse("tolerance", std::to_string(params.tolerance), "finite, 0 or more");
    if (params.scan_channels > head_dim)
        refuse("scan_channels", params.scan_channels, detail::text("0 .. d_h = ", head_dim));
}

}  // namespace detail

/// A tiered step with its arguments checked and its scratch memory laid out, for engines that
/// run it on threads of their own; see attention_plan, which it is like. The report is of the
/// last run.
template <class Arch, class T>
class tiered_plan {
   public:
    /// Prefer plan_tiered.
    /// @throws std::bad_alloc
    tiered_plan(const detail::tiered_tasks<Arch, T>& tasks, workspace* work, std::size_t blocks)
        : tasks_(tasks) {
        memory_ = (work != nullptr ? *work : own_)
                      .prepare(detail::checked_product("scratch", blocks, tasks.scratch_bytes()));
        tasks.begin_report();
    }

    /// Does the share of thread ith of nth; all nth threads call it, then the result is there.
    template <class Barrier>
    void run(std::size_t ith, std::size_t nth, Barrier&& barrier) const {
        detail::run_share(tasks_, memory_, ith, nth, barrier);
    }
    /// Does all of it through an executor (executor.hpp).
    template <class Executor>
    void run(Executor&& executor) const {
        detail::run_tasks(tasks_, memory_, executor);
    }

   private:
    detail::tiered_tasks<Arch, T> tasks_;
    workspace own_;
    std::byte* memory_ = nullptr;
};

namespace detail {

template <class Arch, class T>
tiered_tasks<Arch, T> make_tiered_tasks(std::span<const float> q, const tiered_view<T>& view,
                                        const tiered_params& params, std::span<float> out,
                                        const call_options& options) {
    check_params(params, view.head_dim());
    return {check_request(q, view.rows(), params.scale, out, options), view, params};
}

}  // namespace detail

/// Plans sparq_attention with the same arguments; what that refuses is refused here.
template <class Arch = default_arch, class T>
[[nodiscard]] tiered_plan<Arch, T> plan_tiered(std::span<const float> q, const tiered_view<T>& view,
                                               const tiered_params& params, std::span<float> out,
                                               const call_options& options = {}) {
    const auto tasks = detail::make_tiered_tasks<Arch>(q, view, params, out, options);
    return {tasks, options.work, tasks.heads()};
}

/// Attention that reads each token as precisely as its weight asks for.
///
/// @param q       [heads_q, d_h]; heads_q is a multiple of heads_kv, G = heads_q / heads_kv
/// @param view    the history, at least one token
/// @param params  see tiered_params. tolerance = 0 is dense attention. A head in which the
///                tolerance saves nothing is attended densely, and the report says so
/// @param out     [heads_q, value_dim], overwritten; must not overlap q
/// @param options scratch memory, a report (heads[h].expected_error and what was read), strides
/// @param executor  see executor.hpp; the result has the same bits under every one
/// @throws std::invalid_argument, with the argument, its value and what is allowed, for
///         sizes, parameters or an overlap outside these; std::bad_alloc. Nothing is
///         changed then. With a workspace that has seen the shape no call allocates.
///
/// A NaN or an infinity in what is scanned or read exactly makes the head dense, and its result
/// what dense attention says.
template <class Arch = default_arch, class T, class Executor = serial_executor>
    requires task_executor<Executor>
void sparq_attention(std::span<const float> q, const tiered_view<T>& view,
                     const tiered_params& params, std::span<float> out,
                     const call_options& options = {}, Executor&& executor = {}) {
    const auto tasks = detail::make_tiered_tasks<Arch>(q, view, params, out, options);
    if (params.tolerance == 0.0f && !params.has_fixed_tiers()) {
        detail::make_dense_plan<Arch>(q, view.rows(), params.scale, out, options,
                                      detail::plan_use::executor)
            .run(executor);
        if (options.report != nullptr)
            for (head_report& head : options.report->heads) head.dense = true;
        return;
    }
    tiered_plan<Arch, T>(tasks, options.work, detail::scratch_blocks(tasks)).run(executor);
}

template <class Arch = default_arch, class T, class Executor = serial_executor>
    requires task_executor<Executor>
void sparq_attention(std::span<const float> q, const tiered_cache<T>& cache,
                     const tiered_params& params, std::span<float> out,
                     const call_options& options = {}, Executor&& executor = {}) {
    sparq_attention<Arch>(q, cache.view(), params, out, options, executor);
}

SPARQ_NAMESPACE_END
