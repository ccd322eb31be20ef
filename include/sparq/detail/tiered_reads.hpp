// SPDX-License-Identifier: MIT
// tiered_reads: what is read of one KV head in tiers, and in what order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "../kernels/top_k.hpp"
#include "../steps/approximate_scores.hpp"
#include "../tiered_params.hpp"
#include "baseline_call.hpp"
#include "multiply_add.hpp"
#include "tiered_scratch.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class Arch, class T>
class tiered_reads {
   public:
    using request = attention_request<T, int2_label>;

    /// @param scanned_tokens  of the head: those that have labels
    tiered_reads(const request& call, const tiered_view<T>& view, const tiered_params& params,
                 std::size_t g, std::size_t scanned_tokens, std::size_t columns,
                 const tiered_scratch& scratch) noexcept
        : call_(call),
          view_(view),
          params_(params),
          s_(scratch),
          g_(g),
          group_(call.group),
          tokens_(view.seq_len()),
          scanned_(scanned_tokens),
          columns_(columns),
          queries_{scratch.queries, call.group, simd::padded<Arch>(view.head_dim())},
          coefficients_(queries_, view.head_dim(),
                        steps::strip_coefficients::slots_for(view.seq_len()),
                        scratch.coefficients) {
        count_strips();
    }

    /// Bytes read of this head so far, the scan left out.
    [[nodiscard]] std::size_t selected_bytes() const noexcept {
        return (exact_ + picks_) * row_bytes() + refined_ * view_.code_row_pitch() +
               (refined_ == 0 ? 0 : strips_ * strip_bytes());
    }
    [[nodiscard]] std::size_t scan_bytes() const noexcept {
        return scanned_ * s_.scan->channels / 4 + strips_ * s_.scan->channels * sizeof(code_range) +
               steps::sink_bytes(view_.rows().segment(0, g_), view_.head_dim());
    }

   protected:
    /// Share of dense attention's bytes above which it is dense attention.
    static constexpr float dense_share = 0.9f;

    [[nodiscard]] std::size_t row_bytes() const noexcept {
        return bytes_of_row<T>(view_.head_dim()) + bytes_of_row<T>(view_.value_dim());
    }
    [[nodiscard]] std::size_t strip_bytes() const noexcept {
        return view_.head_dim() * sizeof(code_range);
    }
    [[nodiscard]] bool exceeds_dense() const noexcept {
        const std::size_t rows = (certain_ + drawn_) * view_.code_row_pitch();
        const auto bytes = static_cast<float>(scan_bytes() + strips_ * strip_bytes() + rows +
                                              (exact_ + picks_) * row_bytes());
        return bytes > dense_share * static_cast<float>(tokens_ * row_bytes());
    }

    /// X: the oldest, the newest, and those that have no codes yet. What is between the
    /// scanned tokens and the newest is refined in any case.
    bool read_exact() noexcept {
        sinks_ = std::min(params_.sinks, tokens_);
        newest_ = std::max(sinks_, tokens_ - std::min(params_.recent, tokens_));
        if (view_.of_head(g_).open_ranges == nullptr)
            newest_ = std::min(newest_, std::max(sinks_, scanned_));
        if (scanned_ <= sinks_ || newest_ == sinks_) return false;
        exact_ = 0;
        for (std::size_t t = 0; t < sinks_; ++t) s_.exact[exact_++] = std::uint32_t(t);
        for (std::size_t t = newest_; t < tokens_; ++t) s_.exact[exact_++] = std::uint32_t(t);
        ask_for_rows(s_.exact, exact_);
        score_rows<Arch, T>(queries_, rows_of(s_.exact, exact_), view_.head_dim(), s_.exact_logits,
                            tokens_);
        return true;
    }

    [[nodiscard]] auto rows_of(const std::uint32_t* tokens, std::size_t count) const noexcept {
        return steps::listed_rows<T, int2_label>(view_.rows(), g_, tokens, count);
    }

    /// K and V of ascending tokens, both before the first of them is used. (Inlined: g++ 12
    /// drops calls of what only prefetches.)
    SPARQ_ALWAYS_INLINE void ask_for_rows(const std::uint32_t* tokens,
                                          std::size_t count) const noexcept {
        steps::row_prefetch<T, int2_label> ask(view_.rows(), g_);
        for (std::size_t i = 0; i < count; ++i) ask(tokens[i]);
    }

    void count_strips() noexcept {
        strips_ = 0;
        for (std::size_t s = 0; s < view_.rows().segments_per_head(); ++s) {
            const auto& part = view_.rows().segment(s, g_);
            for_code_strips(part, 0, part.labelled, view_.head_dim(),
                            [&](const auto&, std::size_t, std::size_t) { ++strips_; });
        }
    }

    /// How far a block's maximum may lie above the logarithm of all weights, as only a token can
    /// that was forgotten because its scanned logit was wrong. Next to it, weights of its block
    /// under e^(60 - 87) of all have become 0; further above, some that count would have.
    static constexpr float most_above = 60.0f;

    /// Scanned weights relative to exact ones and scanned ones together, and X's part of the
    /// output. False where that is not finite, or hidden by a wrong logit (most_above).
    bool rank() noexcept {
        for (std::size_t t = 0; t < sinks_; ++t) forget_scanned(t);
        for (std::size_t t = newest_; t < scanned_; ++t) forget_scanned(t);
        refresh_block(0);
        for (std::size_t t = newest_ / score_block_tokens * score_block_tokens; t < scanned_;
             t += score_block_tokens)
            if (t != 0) refresh_block(t / score_block_tokens);
        const std::size_t n = blocks();
        for (std::size_t h = 0; h < group_; ++h) {
            const float* maximum = s_.maximum + h * n;
            kernels::softmax_state all{
                s_.unread[h] + kernels::log_sum_exp_of<Arch>(maximum, s_.sum + h * n, n), 1.0f};
            float* exact = s_.exact_logits + h * tokens_;
            if (exact_ != 0) kernels::merge_softmax(all, kernels::softmax_of<Arch>(exact, exact_));
            const float shift = s_.shift[h] = kernels::log_sum_exp(all);
            if (!std::isfinite(shift)) return false;
            for (std::size_t b = 0; b < n; ++b) {
                const float above = maximum[b] + s_.unread[h] - shift;
                if (!(above < most_above)) return false;
                s_.factors[h * n + b] = std::exp(above);
            }
            s_.mix[h] = {};
            s_.mix[h].exact = steps::relative_weights<Arch>(exact, exact_, shift, exact);
        }
        sum_exact_values();
        if (!std::isfinite(view_.of_head(g_).value_squares)) return false;
        sum_scanned();
        return true;
    }
    [[nodiscard]] std::size_t blocks() const noexcept {
        return (scanned_ + score_block_tokens - 1) / score_block_tokens;
    }
    void forget_scanned(std::size_t t) noexcept {
        if (t >= scanned_) return;
        for (std::size_t h = 0; h < group_; ++h) s_.scores[h * tokens_ + t] = 0.0f;
    }
    /// The sum of a block of which tokens were forgotten.
    void refresh_block(std::size_t b) noexcept {
        const std::size_t begin = b * score_block_tokens;
        const std::size_t end = std::min(begin + score_block_tokens, scanned_);
        for (std::size_t h = 0; h < group_; ++h) {
            float sum = 0.0f;
            for (std::size_t t = begin; t < end; ++t) sum += s_.scores[h * tokens_ + t];
            float& before = s_.sum[h * blocks() + b];
            before = std::isfinite(before) ? sum : before;
        }
    }

    /// Y0 of X, the sum of V over all others, and what is known of V.
    void sum_exact_values() noexcept {
        std::fill_n(s_.exact_sums, group_ * columns_, 0.0f);
        weigh_exact(s_.exact_logits, s_.exact, exact_, s_.exact_sums);
        const double* sums = view_.rows().value_sum(g_);
        const auto n = static_cast<double>(tokens_);
        double mean_square = 0.0;
        std::fill_n(s_.rest, view_.value_dim(), 0.0);
        steps::token_cursor<T, int2_label> cursor(view_.rows(), g_);
        for (std::size_t j = 0; j < exact_; ++j) {
            cursor.seek(s_.exact[j]);
            kernels::add_row<Arch>(cursor.value_row(), view_.value_dim(), s_.rest);
        }
        for (std::size_t c = 0; c < view_.value_dim(); ++c) {
            s_.rest[c] = sums[c] - s_.rest[c];
            s_.mean[c] = static_cast<float>(sums[c] / n);
            mean_square = multiply_add(sums[c] / n, sums[c] / n, mean_square);
        }
        value_variance_ =
            static_cast<float>(std::max(0.0, view_.of_head(g_).value_squares / n - mean_square));
    }
    /// sums[h] += weights[h] . V of listed tokens, exactly.
    void weigh_exact(const float* weights, const std::uint32_t* tokens, std::size_t count,
                     float* sums) const noexcept {
        weigh_values<Arch, T>(weights, tokens_, rows_of(tokens, count), view_.value_dim(),
                              {nullptr, sums, nullptr, group_, columns_, 0});
    }

    void sum_scanned() noexcept {
        std::fill_n(s_.scanned, group_, kernels::weight_sums{});
        s_.histogram->clear();
        const std::size_t step = histogram_step();
        float inverse[score_block_tokens];
        for (std::size_t b = 0; b < blocks(); ++b) {
            const std::size_t begin = b * score_block_tokens;
            const std::size_t n = std::min(score_block_tokens, scanned_ - begin);
            float* greatest = s_.greatest + begin;
            kernels::scale_weights<Arch>(s_.scores + begin, tokens_, group_, s_.factors + b,
                                         blocks(), n, greatest);
            if (group_ > 1) kernels::invert_weights<Arch>(greatest, n, inverse);
            for (std::size_t h = 0; h < group_; ++h)
                kernels::sum_weights<Arch>(s_.scores + h * tokens_ + begin,
                                           group_ > 1 ? inverse : nullptr, n, s_.scanned[h]);
            s_.histogram->add(greatest, n, b % step, step);
        }
        s_.histogram->finish(static_cast<std::uint32_t>(step));
        for (std::size_t t = 0; t < sinks_; ++t) s_.greatest[t] = -1.0f;
        for (std::size_t t = newest_; t < scanned_; ++t) s_.greatest[t] = -1.0f;
    }
    /// Of longer histories every so-manieth weight is counted: for an estimate some thousands
    /// are enough.
    [[nodiscard]] std::size_t histogram_step() const noexcept {
        return std::clamp<std::size_t>(scanned_ / steps::counted_weights, 1, 32);
    }
    /// Some of s_.tokens.
    [[nodiscard]] steps::refined_tokens listed(std::size_t first,
                                               std::size_t count) const noexcept {
        return {s_.tokens + first,        count,
                s_.logits + first,        tokens_,
                s_.rows + first,          s_.key_step + first,
                s_.value_minimum + first, s_.value_step + first};
    }

    request call_;
    tiered_view<T> view_;
    tiered_params params_;
    tiered_scratch s_;
    std::size_t g_, group_, tokens_, scanned_, columns_;
    steps::scaled_queries queries_;
    steps::strip_coefficients coefficients_;
    std::size_t sinks_ = 0, newest_ = 0;  ///< X: tokens [0, sinks) and [newest, S)
    std::size_t exact_ = 0, certain_ = 0, drawn_ = 0, picks_ = 0, strips_ = 0, refined_ = 0;
    float threshold_ = 0.0f, value_variance_ = 0.0f;
};

}  // namespace detail
SPARQ_NAMESPACE_END
