// SPDX-License-Identifier: MIT
// sparq_attention: SparQ attention of one decode step (Ribar et al., ICML 2024, Algorithm 1).
//
// Per KV head: guess the attention weights from the r strongest query components, read
// K and V exactly for the k best tokens, let the mean value stand for the rest. The
// steps are in steps/, one file each:
//   query_components.hpp    i1, tau
//   approximate_scores.hpp  s-hat
//   select_tokens.hpp       i2, alpha
//   attend_selected.hpp     s, y
//   tail_estimate.hpp       y with the mean value
// detail/sparq_tasks.hpp calls them in this order.
#pragma once

#include <span>

#include "attention_plan.hpp"
#include "kv_cache.hpp"

SPARQ_NAMESPACE_BEGIN

/// Approximate attention that reads S * r + k * (d_h + value_dim) elements a KV head,
/// where dense attention reads S * (d_h + value_dim).
///
/// Exact when k >= S (it is dense attention then). With G > 1 query heads on a KV head,
/// all share one set of components and one set of tokens; the temperature, the weights
/// and alpha are each head's own.
///
/// @param q       [heads_q, d_h]; heads_q is a multiple of heads_kv, G = heads_q / heads_kv
/// @param view    the history, at least one token
/// @param params  1 <= r <= d_h, k >= 1, local <= k, scale finite
/// @param out     [heads_q, value_dim], overwritten; must not overlap q
/// @param options scratch memory, a report, strides of q and out
/// @param executor  parallel_for(count, body), see executor.hpp; the result has the same
///                  bits under every one
/// @throws std::invalid_argument, with the argument, its value and what is allowed, for
///         sizes, parameters or an overlap outside these; std::bad_alloc. Nothing is
///         changed then. With a workspace that has seen the shape no call allocates.
///
/// Calls on views of one history may run at the same time, each with a workspace of its
/// own. A NaN or an infinity in what a head reads makes that head's result NaN (one in
/// V, that component), and no other. q = 0 is finite: the mean of the chosen values,
/// blended with the mean of all.
template <class Arch = default_arch, class T, class Label, class Executor = serial_executor>
    requires task_executor<Executor>
void sparq_attention(std::span<const float> q, const kv_view<T, Label>& view,
                     const sparq_params& params, std::span<float> out,
                     const call_options& options = {}, Executor&& executor = {}) {
    detail::make_sparq_plan<Arch>(q, view, params, out, options, detail::plan_use::executor)
        .run(executor);
}

template <class Arch = default_arch, class T, class Label, class Executor = serial_executor>
    requires task_executor<Executor>
void sparq_attention(std::span<const float> q, const kv_cache<T, Label>& cache,
                     const sparq_params& params, std::span<float> out,
                     const call_options& options = {}, Executor&& executor = {}) {
    sparq_attention<Arch>(q, cache.view(), params, out, options, executor);
}

SPARQ_NAMESPACE_END
