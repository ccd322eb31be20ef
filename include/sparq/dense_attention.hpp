// SPDX-License-Identifier: MIT
// dense_attention: exact attention of one decode step, the baseline of sparq_attention.
#pragma once

#include <span>

#include "attention_plan.hpp"
#include "kv_cache.hpp"

SPARQ_NAMESPACE_BEGIN

/// out[h] = softmax(scale * q[h] . K) . V over all tokens of the history.
///
/// Reads K and V once for all query heads of a group: S * (d_h + value_dim) elements a
/// KV head. Accumulates in float over blocks of 4 to 32 tokens; the bits are the same under
/// every executor.
///
/// @param q      [heads_q, d_h]; heads_q is a multiple of heads_kv, G = heads_q / heads_kv
/// @param view   the history, at least one token
/// @param scale  factor on q . k; 0 for 1 / sqrt(d_h)
/// @param out    [heads_q, value_dim], overwritten; must not overlap q
/// @throws std::invalid_argument for other sizes, an empty history, a scale that is not
///         finite or out overlapping q; std::bad_alloc. Nothing is changed then.
///
/// A NaN or an infinity in what a head reads makes that head's result NaN (one in V,
/// that component), and no other.
template <class Arch = default_arch, class T, class Label, class Executor = serial_executor>
    requires task_executor<Executor>
void dense_attention(std::span<const float> q, const kv_view<T, Label>& view, float scale,
                     std::span<float> out, const call_options& options = {},
                     Executor&& executor = {}) {
    detail::make_dense_plan<Arch>(q, view, scale, out, options, detail::plan_use::executor)
        .run(executor);
}

template <class Arch = default_arch, class T, class Label, class Executor = serial_executor>
    requires task_executor<Executor>
void dense_attention(std::span<const float> q, const kv_view<T, Label>& view, std::span<float> out,
                     const call_options& options = {}, Executor&& executor = {}) {
    dense_attention<Arch>(q, view, 0.0f, out, options, executor);
}

template <class Arch = default_arch, class T, class Label, class Executor = serial_executor>
    requires task_executor<Executor>
void dense_attention(std::span<const float> q, const kv_cache<T, Label>& cache, float scale,
                     std::span<float> out, const call_options& options = {},
                     Executor&& executor = {}) {
    dense_attention<Arch>(q, cache.view(), scale, out, options, executor);
}

template <class Arch = default_arch, class T, class Label, class Executor = serial_executor>
    requires task_executor<Executor>
void dense_attention(std::span<const float> q, const kv_cache<T, Label>& cache,
                     std::span<float> out, const call_options& options = {},
                     Executor&& executor = {}) {
    dense_attention<Arch>(q, cache.view(), 0.0f, out, options, executor);
}

SPARQ_NAMESPACE_END
