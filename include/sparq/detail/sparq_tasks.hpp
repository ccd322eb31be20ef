// SPDX-License-Identifier: MIT
// sparq_tasks: SparQ attention as tasks. prepare and chunk scan, finish does the rest:
// read in that order they are Algorithm 1 of the paper, one call a step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../steps/approximate_scores.hpp"
#include "../steps/attend_selected.hpp"
#include "../steps/query_components.hpp"
#include "../steps/select_tokens.hpp"
#include "../steps/tail_estimate.hpp"
#include "attention_request.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class Arch, class T, class Label>
class sparq_tasks {
   public:
    /// @param params  checked, with k < seq_len
    sparq_tasks(const attention_request<T, Label>& request, const sparq_params& params)
        : request_(request),
          params_(params),
          tokens_(request.view.seq_len()),
          chunks_((tokens_ + chunk_tokens - 1) / chunk_tokens),
          mean_tail_(steps::uses_mean_value(params.tail, request.group)) {
        lay_out();
    }

    [[nodiscard]] std::size_t heads() const noexcept { return request_.view.heads_kv(); }
    [[nodiscard]] std::size_t chunks() const noexcept { return chunks_; }
    [[nodiscard]] std::size_t scratch_bytes() const noexcept { return scratch_bytes_; }

    void begin_report() const {
        detail::begin_report(
            request_,
            {steps::scan_bytes(request_.view, params_.r), row_bytes(request_.view, params_.k),
             mean_tail_ ? steps::tail_bytes(request_.view) : 0},
            params_.k, false);
    }

    /// i1 and the temperatures.
    void prepare(std::size_t g, std::byte* scratch) const noexcept {
        const steps::query_group q = request_.queries(g);
        auto* components = at<std::uint32_t>(scratch, components_);
        steps::choose_components<Arch>(q, params_.r, at<float>(scratch, component_scratch_),
                                       components);
        float* weights = at<float>(scratch, scan_weights_);
        for (std::size_t h = 0; h < request_.group; ++h) {
            const float inverse_tau = steps::inverse_temperature<Arch>(
                q.head(h), q.head_dim, components, params_.r, request_.scale);
            for (std::size_t i = 0; i < params_.r; ++i)
                weights[h * params_.r + i] = q.head(h)[components[i]] * inverse_tau;
        }
    }

    /// s-hat of a chunk of tokens.
    void chunk(std::size_t g, std::byte* scratch, std::size_t c) const noexcept {
        const std::size_t begin = c * chunk_tokens;
        steps::scan_chunk<Arch>(request_.view, g,
                                {at<float>(scratch, scan_weights_), request_.group, params_.r,
                                 at<std::uint32_t>(scratch, components_)},
                                begin, std::min(tokens_, begin + chunk_tokens),
                                at<float>(scratch, logits_), tokens_,
                                at<kernels::softmax_state>(scratch, states_) + c, chunks_);
    }

    /// i2, alpha, s and y.
    void finish(std::size_t g, std::byte* scratch) const noexcept {
        const steps::approximate_weights weights = merged_weights(scratch);
        auto* chosen = at<std::uint32_t>(scratch, chosen_);
        steps::select_for_group<Arch>(weights, params_.ranking, params_.k, params_.local,
                                      at<float>(scratch, ranking_), at<float>(scratch, top_k_),
                                      chosen);
        if (request_.report != nullptr && request_.report->keep_tokens)
            std::copy_n(chosen, params_.k, request_.report->tokens.data() + g * params_.k);

        const auto result = steps::place_partial<Arch>(at<float>(scratch, partial_), request_.group,
                                                       request_.view.value_dim());
        result.clear();
        const auto queries = steps::scale_queries<Arch>(request_.queries(g), request_.scale,
                                                        at<float>(scratch, queries_));
        steps::attend_rows<Arch, T>(
            queries, steps::listed_rows<T, Label>(request_.view, g, chosen, params_.k),
            request_.view.head_dim(), request_.view.value_dim(), result);

        if (mean_tail_)
            steps::mean_value<Arch>(request_.view, g, at<double>(scratch, sums_),
                                    at<float>(scratch, mean_));
        for (std::size_t h = 0; h < request_.group; ++h)
            finish_head(g, h, weights, result, scratch);
    }

   private:
    void finish_head(std::size_t g, std::size_t h, const steps::approximate_weights& weights,
                     const steps::partial_attention& result, std::byte* scratch) const noexcept {
        const float covered = steps::covered_mass<Arch>(
            weights, h, at<std::uint32_t>(scratch, chosen_), params_.k, at<float>(scratch, top_k_));
        float* out = request_.out_row(g, h);
        steps::finish_attention(result, h, request_.view.value_dim(), out);
        if (mean_tail_)
            steps::add_tail(at<float>(scratch, mean_), covered, request_.view.value_dim(), out);
        else if (!weights.is_finite(h))  // the scan read something that is not finite
            std::fill_n(out, request_.view.value_dim(), covered);
        request_.report_head(g, h, covered, kernels::log_sum_exp(result.state[h]));
    }

    /// The logits with the log-sum-exp of each head, merged over the chunks.
    [[nodiscard]] steps::approximate_weights merged_weights(std::byte* scratch) const noexcept {
        float* log_sum_exp = at<float>(scratch, log_sum_exp_);
        const auto* states = at<kernels::softmax_state>(scratch, states_);
        for (std::size_t h = 0; h < request_.group; ++h)
            log_sum_exp[h] = steps::merge_chunks(states + h * chunks_, chunks_);
        return {at<float>(scratch, logits_), request_.group, tokens_, tokens_, log_sum_exp};
    }

    void lay_out() {
        const std::size_t group = request_.group, head_dim = request_.view.head_dim();
        const std::size_t value_dim = request_.view.value_dim();
        scratch_layout layout;
        queries_ = layout.take<float>(checked_product("q", group, simd::padded<Arch>(head_dim)));
        components_ = layout.take<std::uint32_t>(head_dim);
        component_scratch_ = layout.take<float>(steps::component_scratch_floats(head_dim));
        scan_weights_ = layout.take<float>(checked_product("q", group, params_.r));
        states_ = layout.take<kernels::softmax_state>(checked_product("q", group, chunks_));
        log_sum_exp_ = layout.take<float>(group);
        partial_ = layout.take<float>(steps::partial_floats<Arch>(group, value_dim));
        sums_ = layout.take<double>(value_dim);
        mean_ = layout.take<float>(value_dim);
        logits_ = layout.take<float>(checked_product("q", group, tokens_));
        ranking_ = layout.take<float>(group > 1 ? tokens_ : 0);
        top_k_ = layout.take<float>(kernels::top_k_scratch_floats(tokens_));
        chosen_ = layout.take<std::uint32_t>(tokens_);
        scratch_bytes_ = layout.bytes();
    }

    template <class U>
    static U* at(std::byte* scratch, std::size_t offset) noexcept {
        return reinterpret_cast<U*>(scratch + offset);
    }

    attention_request<T, Label> request_;
    sparq_params params_;
    std::size_t tokens_, chunks_;
    bool mean_tail_;
    // Offsets into a block of scratch.
    std::size_t queries_ = 0, components_ = 0, component_scratch_ = 0, scan_weights_ = 0;
    std::size_t states_ = 0, log_sum_exp_ = 0, partial_ = 0, sums_ = 0, mean_ = 0;
    std::size_t logits_ = 0, ranking_ = 0, top_k_ = 0, chosen_ = 0, scratch_bytes_ = 0;
};

}  // namespace detail
SPARQ_NAMESPACE_END
