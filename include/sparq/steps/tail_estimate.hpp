// SPDX-License-Identifier: MIT
// Step 3 of SparQ, its end (Algorithm 1, line 9): what stands for the tokens that were
// not attended.
//
//   y = alpha * y + (1 - alpha) * mean of V over all S tokens, the attended ones included
//
// Traffic: value_dim doubles a KV head where sums of V are kept, else all of V.
// Numerics: the sum in double, token after token; the rest in float.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include "../config.hpp"
#include "../detail/multiply_add.hpp"
#include "../kernels/convert.hpp"
#include "../params.hpp"
#include "approximate_scores.hpp"
#include "token_cursor.hpp"

SPARQ_NAMESPACE_BEGIN

namespace steps {

SPARQ_PER_ISA constexpr bool uses_mean_value(tail_estimate tail, std::size_t group) noexcept {
    return tail == tail_estimate::mean_value || (tail == tail_estimate::automatic && group == 1);
}

/// Adds all values of KV head g to sums [value_dim].
template <class Arch, class T, class Label>
void sum_values(const kv_view<T, Label>& view, std::size_t g, double* sums) noexcept {
    for (std::size_t s = 0; s < view.segments_per_head(); ++s) {
        const auto& part = view.segment(s, g);
        for (std::size_t t = 0; t < part.tokens; ++t)
            kernels::add_row<Arch>(part.values + t * part.value_stride, view.value_dim(), sums);
    }
}

/// @param scratch  [value_dim], used where the view has no sums
template <class Arch, class T, class Label>
void mean_value(const kv_view<T, Label>& view, std::size_t g, double* scratch,
                float* mean) noexcept {
    const double* sums = view.value_sum(g);
    if (sums == nullptr) {
        std::fill_n(scratch, view.value_dim(), 0.0);
        sum_values<Arch>(view, g, scratch);
        sums = scratch;
    }
    const auto tokens = static_cast<double>(view.seq_len());
    for (std::size_t c = 0; c < view.value_dim(); ++c)
        mean[c] = static_cast<float>(sums[c] / tokens);
}

/// y = alpha * y + (1 - alpha) * mean for one query head; not finite becomes NaN.
SPARQ_PER_ISA inline void add_tail(const float* mean, float covered, std::size_t value_dim,
                                   float* y) noexcept {
    for (std::size_t c = 0; c < value_dim; ++c) {
        // Which product is rounded is not left to the compiler.
        const float blended = detail::multiply_add(covered, y[c], (1.0f - covered) * mean[c]);
        y[c] = blended + (blended - blended);
    }
}

/// Bytes that the mean values of all KV heads cost.
template <class T, class Label>
SPARQ_PER_ISA std::size_t tail_bytes(const kv_view<T, Label>& view) noexcept {
    const std::size_t width = view.heads_kv() * view.value_dim();
    return view.value_sum(0) != nullptr ? width * sizeof(double)
                                        : width * view.seq_len() * sizeof(T);
}

}  // namespace steps

/// The mean of V over all tokens of a KV head.
///
/// @param mean  [value_dim], overwritten
/// @throws std::invalid_argument for sizes outside these; std::bad_alloc for scratch
template <class Arch = default_arch, class T, class Label>
void mean_value(const kv_view<T, Label>& view, std::size_t g, std::span<float> mean) {
    detail::check_head(g, view.heads_kv());
    detail::require_size("mean", mean.size(), view.value_dim(), "value_dim");
    workspace scratch;
    auto* sums = reinterpret_cast<double*>(scratch.prepare(view.value_dim() * sizeof(double)));
    steps::mean_value<Arch>(view, g, sums, mean.data());
}

/// Lets the mean value stand for what a group's heads did not attend.
///
/// @param mean     [value_dim]
/// @param covered  [G], alpha
/// @param out      [G, value_dim], y before and after
/// @throws std::invalid_argument for sizes outside these
template <class Arch = default_arch>
void add_tail(std::span<const float> mean, std::span<const float> covered, std::span<float> out) {
    detail::require_at_least_one("value_dim, the size of mean,", mean.size());
    detail::require_size("out", out.size(), covered.size() * mean.size(), "G * value_dim");
    for (std::size_t h = 0; h < covered.size(); ++h)
        steps::add_tail(mean.data(), covered[h], mean.size(), out.data() + h * mean.size());
}

SPARQ_NAMESPACE_END
