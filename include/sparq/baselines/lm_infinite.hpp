// SPDX-License-Identifier: MIT
// LM-Infinite as a baseline: the first tokens and the newest ones, whatever the query.
//
// Han et al., "LM-Infinite", arXiv 2308.16137, in the setting of the SparQ paper: 16
// first tokens. The published method's limit on distances is not modelled: keys are
// taken as after rope.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>

#include "../detail/baseline_call.hpp"

SPARQ_NAMESPACE_BEGIN
namespace baselines {

struct lm_infinite_params {
    std::size_t k = 128;       ///< tokens attended, at least 1; k >= S gives the dense result
    std::size_t initial = 16;  ///< how many of the k are the oldest, 0 .. k
    float scale = 0.0f;        ///< factor on q . k; 0 for 1 / sqrt(d_h)
};

/// Attends the `initial` oldest and the k - initial newest tokens, renormalised over them.
///
/// Reads min(k, S) * (d_h + value_dim) elements a KV head. Error bound: attend_selected's.
/// One thread; allocates nothing with a workspace that has seen the shape.
///
/// @param q    [heads_q, d_h]; heads_q is a multiple of heads_kv
/// @param out  [heads_q, value_dim], overwritten; must not overlap q
/// @throws std::invalid_argument for k = 0, initial > k and what dense_attention refuses;
///         std::bad_alloc. Nothing is changed then.
///
/// The report: `bytes.selected`; `covered` is not known, NaN, unless dense. A NaN or an
/// infinity makes the heads that read it NaN, and no other.
template <class Arch = default_arch, class T, class Label>
void lm_infinite_attention(std::span<const float> q, const kv_view<T, Label>& view,
                           const lm_infinite_params& params, std::span<float> out,
                           const call_options& options = {}) {
    detail::require_at_least_one("k", params.k);
    if (params.initial > params.k)
        detail::refuse("initial", params.initial, detail::text("0 .. k = ", params.k));
    const auto request = detail::check_request(q, view, params.scale, out, options);
    const std::size_t seq_len = view.seq_len(), count = std::min(params.k, seq_len);
    const std::size_t initial = std::min(params.initial, count);
    detail::scratch_layout layout;
    const detail::baseline_call<Arch, T, Label> call(request, layout);
    const std::size_t list = layout.take<std::uint32_t>(count);
    detail::call_scratch memory(options.work);
    std::byte* scratch = memory.prepare(layout);
    detail::begin_report(request, {0, detail::row_bytes(view, count), 0}, count, count == seq_len);
    auto* tokens = reinterpret_cast<std::uint32_t*>(scratch + list);
    std::iota(tokens, tokens + initial, std::uint32_t{0});
    std::iota(tokens + initial, tokens + count,
              static_cast<std::uint32_t>(seq_len - count + initial));
    for (std::size_t g = 0; g < view.heads_kv(); ++g)
        call.attend(g, tokens, count, count == seq_len ? 1.0f : NAN, scratch);
}

}  // namespace baselines
SPARQ_NAMESPACE_END
