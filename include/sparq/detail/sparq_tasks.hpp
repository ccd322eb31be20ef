// SPDX-License-Identifier: MIT
// sparq_tasks: SparQ attention as tasks. prepare and chunk scan, finish does the rest:
// read in that order they are Algorithm 1 of the paper, one call a step.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../steps/approximate_scores.hpp"
#include "../steps/attend_selected.hpp"
#include "../steps/channel_spread.hpp"
#include "../steps/query_components.hpp"
#include "../steps/scanned_tokens.hpp"
#include "../steps/tail_estimate.hpp"
#include "attention_request.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class Arch, class T, class Label>
class sparq_tasks {
    /// Tokens scanned as one run where a head is not shared.
    static constexpr std::size_t run_tokens = std::max(chunk_tokens, steps::scan_tokens<Label>);

   public:
    /// @param params  checked, with k < seq_len
    sparq_tasks(const attention_request<T, Label>& request, const sparq_params& params)
        : request_(request),
          params_(params),
          tokens_(request.view.seq_len()),
          chunk_(shared_chunk_tokens(tokens_, run_tokens)),
          chunks_((tokens_ + chunk_ - 1) / chunk_),
          mean_tail_(steps::uses_mean_value(params.tail, request.group)),
          weights_wanted_(request.group > 1 && params.ranking != group_ranking::logit_sum) {
        lay_out();
    }

    [[nodiscard]] std::size_t heads() const noexcept { return request_.view.heads_kv(); }
    [[nodiscard]] std::size_t seq_len() const noexcept { return tokens_; }
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
        auto* component_scratch = at<float>(scratch, component_scratch_);
        if (params_.components == component_ranking::magnitude)
            steps::choose_components<Arch>(q, params_.r, component_scratch, components);
        else if constexpr (coded_label<Label>)
            steps::choose_by_spread<Arch>(request_.view, g, q, params_.r, component_scratch,
                                          components);
        float* weights = at<float>(scratch, scan_weights_);
        for (std::size_t h = 0; h < request_.group; ++h) {
            const float inverse_tau =
                params_.tau == temperature::none
                    ? request_.scale
                    : steps::inverse_temperature<Arch>(q.head(h), q.head_dim, components, params_.r,
                                                       request_.scale);
            for (std::size_t i = 0; i < params_.r; ++i)
                weights[h * params_.r + i] = q.head(h)[components[i]] * inverse_tau;
        }
    }

    /// s-hat of a chunk of tokens. The bits do not depend on where chunks begin
    /// (steps::block_states).
    void chunk(std::size_t g, std::byte* scratch, std::size_t c) const noexcept {
        scan(g, scratch, c * chunk_, std::min(tokens_, (c + 1) * chunk_), weights_wanted_);
    }
    /// With several query heads: the sum of their s-hat, part by part once all is scanned. A
    /// thread that has scanned a part has its scores at hand.
    [[nodiscard]] std::size_t rank_parts() const noexcept {
        return weights_wanted_ ? std::min(chunks_, most_rank_parts) : 0;
    }
    void rank(std::size_t /*g*/, std::byte* scratch, std::size_t part) const noexcept {
        const steps::scanned_tokens tokens = scanned(scratch, true, part);
        const std::size_t blocks = tokens.scan.blocks(), parts = rank_parts();
        steps::rank_blocks<Arch>(tokens, blocks * part / parts, blocks * (part + 1) / parts);
    }
    void all_chunks(std::size_t g, std::byte* scratch) const noexcept {
        scan_all(g, scratch, weights_wanted_);
        if (!weights_wanted_) return;
        const steps::scanned_tokens tokens = scanned(scratch, true);
        steps::rank_blocks<Arch>(tokens, 0, tokens.scan.blocks());
    }

    /// i2, alpha, s and y.
    void finish(std::size_t g, std::byte* scratch) const noexcept {
        const steps::scanned_tokens tokens = select(g, scratch);
        const auto* chosen = at<std::uint32_t>(scratch, chosen_);
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
        for (std::size_t h = 0; h < request_.group; ++h) finish_head(g, h, tokens, result, scratch);
    }

   private:
    void scan(std::size_t g, std::byte* scratch, std::size_t begin, std::size_t end,
              bool as_weights) const noexcept {
        steps::scan_chunk<Arch>(request_.view, g,
                                {at<float>(scratch, scan_weights_), request_.group, params_.r,
                                 at<std::uint32_t>(scratch, components_)},
                                begin, end, scanned(scratch, as_weights).scan);
    }
    void scan_all(std::size_t g, std::byte* scratch, bool as_weights) const noexcept {
        for (std::size_t begin = 0; begin < tokens_; begin += run_tokens)
            scan(g, scratch, begin, std::min(tokens_, begin + run_tokens), as_weights);
    }

    /// i2, and the rows of K and V asked for as soon as they are candidates. Weights that
    /// are too small to be told apart are scanned once more as logits: in that case, which
    /// is rare, ranking takes logarithms.
    [[nodiscard]] steps::scanned_tokens select(std::size_t g, std::byte* scratch) const noexcept {
        steps::row_prefetch<T, Label> candidate(request_.view, g);
        float* top_k = at<float>(scratch, top_k_);
        auto* chosen = at<std::uint32_t>(scratch, chosen_);
        steps::scanned_tokens tokens = scanned(scratch, weights_wanted_);
        if (!weights_wanted_) steps::merge_blocks<Arch>(tokens.scan, tokens.log_sum_exp);
        if (steps::select_scanned<Arch>(tokens, params_.k, params_.local, top_k, chosen, candidate))
            return tokens;
        if (weights_wanted_) scan_all(g, scratch, false);
        tokens = scanned(scratch, false);
        steps::select_for_group<Arch>(tokens.logits(), params_.ranking, params_.k, params_.local,
                                      tokens.ranking, top_k, chosen);
        return tokens;
    }

    void finish_head(std::size_t g, std::size_t h, const steps::scanned_tokens& tokens,
                     const steps::partial_attention& result, std::byte* scratch) const noexcept {
        const float covered = steps::covered_mass<Arch>(
            tokens, h, at<std::uint32_t>(scratch, chosen_), params_.k, at<float>(scratch, top_k_));
        float* out = request_.out_row(g, h);
        steps::finish_attention(result, h, request_.view.value_dim(), out);
        if (mean_tail_)
            steps::add_tail(at<float>(scratch, mean_), covered, request_.view.value_dim(), out);
        else if (!tokens.is_finite(h))  // the scan read something that is not finite
            std::fill_n(out, request_.view.value_dim(), covered);
        request_.report_head(g, h, covered, kernels::log_sum_exp(result.state[h]));
    }

    /// @param part  of the ranking, whose copy of log_sum_exp is meant; they are the same
    [[nodiscard]] steps::scanned_tokens scanned(std::byte* scratch, bool as_weights,
                                                std::size_t part = 0) const noexcept {
        float* maxima = at<float>(scratch, maxima_);
        return {{at<float>(scratch, scores_), request_.group, tokens_, tokens_,
                 at<float>(scratch, maximum_), at<float>(scratch, sum_),
                 request_.group == 1 ? maxima : nullptr, as_weights},
                at<float>(scratch, log_sum_exp_) + part * request_.group,
                at<float>(scratch, factors_),
                at<float>(scratch, ranking_),
                maxima};
    }

    void lay_out() {
        const std::size_t group = request_.group, head_dim = request_.view.head_dim();
        const std::size_t value_dim = request_.view.value_dim();
        scratch_layout layout;
        queries_ = layout.take<float>(checked_product("q", group, simd::padded<Arch>(head_dim)));
        components_ = layout.take<std::uint32_t>(head_dim);
        component_scratch_ = layout.take<float>(steps::component_scratch_floats(head_dim));
        scan_weights_ = layout.take<float>(checked_product("q", group, params_.r));
        const std::size_t blocks = (tokens_ + score_block_tokens - 1) / score_block_tokens;
        maximum_ = layout.take<float>(checked_product("q", group, blocks));
        sum_ = layout.take<float>(checked_product("q", group, blocks));
        factors_ = layout.take<float>(weights_wanted_ ? checked_product("q", group, blocks) : 0);
        maxima_ = layout.take<float>(checked_product("q", maxima_per_block, blocks));
        log_sum_exp_ =
            layout.take<float>(checked_product("q", group, std::max<std::size_t>(rank_parts(), 1)));
        partial_ = layout.take<float>(steps::partial_floats<Arch>(group, value_dim));
        sums_ = layout.take<double>(value_dim);
        mean_ = layout.take<float>(value_dim);
        scores_ = layout.take<float>(checked_product("q", group, tokens_));
        ranking_ = layout.take<float>(group > 1 ? tokens_ : 0);
        top_k_ =
            layout.take<float>(std::max(kernels::top_k_scratch_floats(tokens_), 2 * params_.k));
        chosen_ = layout.take<std::uint32_t>(tokens_);
        scratch_bytes_ = layout.bytes();
    }

    template <class U>
    static U* at(std::byte* scratch, std::size_t offset) noexcept {
        return reinterpret_cast<U*>(scratch + offset);
    }

    attention_request<T, Label> request_;
    sparq_params params_;
    std::size_t tokens_, chunk_, chunks_;
    bool mean_tail_, weights_wanted_;
    // Offsets into a block of scratch.
    std::size_t queries_ = 0, components_ = 0, component_scratch_ = 0, scan_weights_ = 0;
    std::size_t maximum_ = 0, sum_ = 0, factors_ = 0, maxima_ = 0, log_sum_exp_ = 0;
    std::size_t partial_ = 0, sums_ = 0, mean_ = 0, scores_ = 0, ranking_ = 0, top_k_ = 0,
                chosen_ = 0, scratch_bytes_ = 0;
};

}  // namespace detail
SPARQ_NAMESPACE_END
