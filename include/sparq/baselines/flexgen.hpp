// SPDX-License-Identifier: MIT
// FlexGen's top-k as a baseline: exact weights of all tokens, V of the largest only.
//
// Sheng et al., "FlexGen", arXiv 2303.06865, section 4 (sparse attention), in the setting
// of the SparQ paper: one choice for a group, by the sum of its weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "../detail/baseline_call.hpp"
#include "../steps/select_tokens.hpp"
#include "../steps/tail_estimate.hpp"

SPARQ_NAMESPACE_BEGIN
namespace baselines {

/// What becomes of the weight of the tokens whose values are not read.
enum class dropped_mass {
    lost,         ///< the kept weights stay as they are: their sum is less than 1
    renormalise,  ///< the kept weights are divided by their sum
    spread,       ///< it is shared equally by the tokens that are dropped
};

struct flexgen_params {
    std::size_t k = 128;  ///< values read, at least 1; k >= S gives the dense result
    dropped_mass dropped = dropped_mass::lost;
    float scale = 0.0f;  ///< factor on q . k; 0 for 1 / sqrt(d_h)
};

}  // namespace baselines

namespace detail {

/// Adds what the dropped tokens get: (1 - covered) / dropped times the sum of their values.
/// @param all, kept  [value_dim], sums of the values of all and of the chosen tokens
SPARQ_PER_ISA inline void spread_dropped(const double* all, const double* kept, std::size_t dropped,
                                         float covered, std::size_t value_dim,
                                         float* sums) noexcept {
    const double share = (1.0 - static_cast<double>(covered)) /
                         static_cast<double>(std::max<std::size_t>(dropped, 1));
    for (std::size_t c = 0; c < value_dim; ++c)
        sums[c] = static_cast<float>(static_cast<double>(sums[c]) + share * (all[c] - kept[c]));
}

template <class Arch, class T, class Label>
class flexgen_call {
   public:
    flexgen_call(const attention_request<T, Label>& request,
                 const baselines::flexgen_params& params, scratch_layout& layout)
        : request_(request),
          count_(std::min(params.k, request.view.seq_len())),
          dropped_(params.dropped),
          attend_(request, layout) {
        const std::size_t tokens = request.view.seq_len();
        logits_ = layout.take<float>(checked_product("logits", request.group, tokens));
        log_sum_exp_ = layout.take<float>(2 * request.group);
        ranking_ = layout.take<float>(tokens);
        scratch_ = layout.take<float>(kernels::top_k_scratch_floats(tokens));
        chosen_ = layout.take<std::uint32_t>(tokens);
        weights_ = layout.take<float>(checked_product("weights", request.group, count_));
        sums_ = layout.take<double>(2 * request.view.value_dim());
    }

    void head(std::size_t g, std::byte* memory) const noexcept {
        const std::size_t tokens = request_.view.seq_len(), group = request_.group;
        auto* logits = reinterpret_cast<float*>(memory + logits_);
        auto* log_sum_exp = reinterpret_cast<float*>(memory + log_sum_exp_);
        auto* chosen = reinterpret_cast<std::uint32_t*>(memory + chosen_);
        score_rows<Arch, T>(attend_.queries(g, memory),
                            consecutive_rows<T, Label>(request_.view, g), request_.view.head_dim(),
                            logits, tokens);
        for (std::size_t h = 0; h < group; ++h)
            log_sum_exp[h] =
                kernels::log_sum_exp(kernels::softmax_of<Arch>(logits + h * tokens, tokens));
        steps::select_for_group<Arch>({logits, group, tokens, tokens, log_sum_exp},
                                      group_ranking::softmax_sum, count_, 0,
                                      reinterpret_cast<float*>(memory + ranking_),
                                      reinterpret_cast<float*>(memory + scratch_), chosen);
        attend(g, logits, log_sum_exp, chosen, memory);
    }

   private:
    void attend(std::size_t g, const float* logits, const float* log_sum_exp,
                const std::uint32_t* chosen, std::byte* memory) const noexcept {
        const std::size_t tokens = request_.view.seq_len(), group = request_.group;
        auto* weights = reinterpret_cast<float*>(memory + weights_);
        auto* covered = reinterpret_cast<float*>(memory + log_sum_exp_) + group;
        for (std::size_t h = 0; h < group; ++h) {
            float* row = weights + h * count_;
            for (std::size_t j = 0; j < count_; ++j) row[j] = logits[h * tokens + chosen[j]];
            const float kept = kernels::log_sum_exp(kernels::softmax_of<Arch>(row, count_));
            covered[h] = std::min(std::exp(kept - log_sum_exp[h]), 1.0f);
            const bool renormalise = dropped_ == baselines::dropped_mass::renormalise;
            make_weights<Arch>(row, count_, renormalise ? kept : log_sum_exp[h]);
        }
        const steps::partial_attention result = attend_.empty_result(memory);
        attend_.weigh(g, weights, count_, log_sum_exp, chosen, count_, result);
        if (dropped_ == baselines::dropped_mass::spread && count_ < tokens)
            spread(g, chosen, covered, result, memory);
        for (std::size_t h = 0; h < group; ++h)
            attend_.finish(g, h, result, count_ < tokens ? covered[h] : 1.0f);
    }

    void spread(std::size_t g, const std::uint32_t* chosen, const float* covered,
                const steps::partial_attention& result, std::byte* memory) const noexcept {
        const kv_view<T, Label>& view = request_.view;
        auto* kept = reinterpret_cast<double*>(memory + sums_);
        std::fill_n(kept, 2 * view.value_dim(), 0.0);
        steps::token_cursor<T, Label> cursor(view, g);
        for (std::size_t j = 0; j < count_; ++j) {
            cursor.seek(chosen[j]);
            kernels::add_row<Arch>(cursor.value_row(), view.value_dim(), kept);
        }
        const double* all = view.value_sum(g);
        if (all == nullptr) {
            steps::sum_values<Arch>(view, g, kept + view.value_dim());
            all = kept + view.value_dim();
        }
        for (std::size_t h = 0; h < request_.group; ++h)
            spread_dropped(all, kept, view.seq_len() - count_, covered[h], view.value_dim(),
                           result.sums + h * result.stride);
    }

    attention_request<T, Label> request_;
    std::size_t count_;
    baselines::dropped_mass dropped_;
    baseline_call<Arch, T, Label> attend_;
    std::size_t logits_ = 0, log_sum_exp_ = 0, ranking_ = 0, scratch_ = 0, chosen_ = 0;
    std::size_t weights_ = 0, sums_ = 0;
};

}  // namespace detail

namespace baselines {

/// Attends with exact weights the k tokens whose weights, summed over the group, are the
/// largest; equal ones: the older token.
///
/// Reads S * d_h elements of K and min(k, S) * value_dim of V a KV head; `spread` also the
/// sum of the values. Error bound: attend_selected's with S in place of k.
/// One thread; allocates nothing with a workspace that has seen the shape.
///
/// @param q    [heads_q, d_h]; heads_q is a multiple of heads_kv
/// @param out  [heads_q, value_dim], overwritten; must not overlap q
/// @throws std::invalid_argument for k = 0, a value that is no enumerator and what
///         dense_attention refuses; std::bad_alloc. Nothing is changed then.
///
/// The report: `bytes.scan` is K, `bytes.selected` V, `bytes.tail` the sums; `covered` the
/// exact mass of the attended tokens; log_sum_exp is over all tokens. A NaN or an infinity in q
/// or K makes the heads that read it NaN (K is read whole) and leaves the choice to the
/// other heads of the group; one in V those that read the row.
template <class Arch = default_arch, class T, class Label>
void flexgen_attention(std::span<const float> q, const kv_view<T, Label>& view,
                       const flexgen_params& params, std::span<float> out,
                       const call_options& options = {}) {
    detail::require_at_least_one("k", params.k);
    if (const auto value = static_cast<int>(params.dropped);
        value < 0 || value > static_cast<int>(dropped_mass::spread))
        detail::refuse("dropped", std::to_string(value), "one of its enumerators");
    const auto request = detail::check_request(q, view, params.scale, out, options);
    const std::size_t count = std::min(params.k, view.seq_len());
    detail::scratch_layout layout;
    const detail::flexgen_call<Arch, T, Label> call(request, params, layout);
    detail::call_scratch memory(options.work);
    std::byte* scratch = memory.prepare(layout);
    const std::size_t heads = view.heads_kv();
    const bool spreads = params.dropped == dropped_mass::spread && count < view.seq_len();
    detail::begin_report(
        request,
        {heads * view.seq_len() * view.head_dim() * sizeof(T),
         heads * count * view.value_dim() * sizeof(T), spreads ? steps::tail_bytes(view) : 0},
        count, count == view.seq_len());
    for (std::size_t g = 0; g < heads; ++g) call.head(g, scratch);
}

}  // namespace baselines
SPARQ_NAMESPACE_END
