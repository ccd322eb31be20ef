// SPDX-License-Identifier: MIT
// What the baselines share: attention over listed tokens in one checked call, and exact
// logits and given weights as separate halves for methods that look at the weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "../config.hpp"
#include "../steps/attend_selected.hpp"
#include "attention_request.hpp"

SPARQ_NAMESPACE_BEGIN
namespace baselines {

/// Fills up report.tokens of a KV head that attended fewer tokens than another one.
inline constexpr std::uint32_t no_token = std::numeric_limits<std::uint32_t>::max();

}  // namespace baselines
namespace detail {

/// Fills blocks with the rows of all tokens, oldest first.
template <class T, class Label>
class consecutive_rows {
   public:
    SPARQ_PER_ISA consecutive_rows(const kv_view<T, Label>& view, std::size_t g) noexcept
        : cursor_(view, g), end_(view.seq_len()) {}

    SPARQ_PER_ISA void fill(steps::row_block<T>& rows) noexcept {
        for (rows.count = 0; rows.count < attend_block_tokens && next_ != end_; ++next_) {
            cursor_.seek(next_);
            rows.add(cursor_);
        }
    }

   private:
    steps::token_cursor<T, Label> cursor_;
    std::size_t next_ = 0, end_;
};

/// logits[h][j] = q[h] . K of the j-th row of the source; the next block's rows are asked
/// for while one is computed.
/// @param logits  [heads, stride]
template <class Arch, class T, class Source>
void score_rows(const steps::scaled_queries& q, Source source, std::size_t head_dim, float* logits,
                std::size_t stride) noexcept {
    steps::row_block<T> blocks[2];
    source.fill(blocks[0]);
    for (std::size_t current = 0; blocks[current].count != 0; current = 1 - current) {
        const steps::row_block<T>&rows = blocks[current], &next = blocks[1 - current];
        source.fill(blocks[1 - current]);
        kernels::dot_rows<Arch>(q.data, q.heads, q.stride, rows.keys, rows.count, head_dim, logits,
                                stride, kernels::upcoming_rows<T>{next.keys, next.count, head_dim});
        logits += rows.count;
    }
}

/// result.sums[h] += sum over j of weights[h][j] * V of the j-th row of the source.
/// @param weights  [heads, stride]
template <class Arch, class T, class Source>
void weigh_values(const float* weights, std::size_t stride, Source source, std::size_t value_dim,
                  const steps::partial_attention& result) noexcept {
    float unchanged[attend_block_heads];
    std::fill_n(unchanged, attend_block_heads, 1.0f);
    steps::row_block<T> blocks[2];
    source.fill(blocks[0]);
    for (std::size_t current = 0; blocks[current].count != 0; current = 1 - current) {
        const steps::row_block<T>&rows = blocks[current], &next = blocks[1 - current];
        source.fill(blocks[1 - current]);
        for (std::size_t h = 0; h < result.heads; h += attend_block_heads)
            kernels::accumulate_rows<Arch>(
                weights + h * stride, std::min(attend_block_heads, result.heads - h), stride,
                unchanged, rows.values, rows.count, value_dim, result.sums + h * result.stride,
                result.stride,
                kernels::upcoming_rows<T>{next.values, h == 0 ? next.count : 0, value_dim});
        weights += rows.count;
    }
}

/// Makes weights of one head's logits in place: exp(x - log_sum_exp).
template <class Arch>
void make_weights(float* logits, std::size_t n, float log_sum_exp) noexcept {
    kernels::exponentials<Arch>(logits, n, log_sum_exp, logits);
}

/// Attention of one KV head after another in scratch that a method's own may follow.
template <class Arch, class T, class Label>
class baseline_call {
   public:
    baseline_call(const attention_request<T, Label>& request, scratch_layout& layout)
        : request_(request) {
        queries_ = layout.take<float>(
            checked_product("q", request.group, simd::padded<Arch>(request.view.head_dim())));
        partial_ = layout.take<float>(
            steps::partial_floats<Arch>(request.group, request.view.value_dim()));
    }

    [[nodiscard]] steps::scaled_queries queries(std::size_t g, std::byte* scratch) const noexcept {
        return steps::scale_queries<Arch>(request_.queries(g), request_.scale,
                                          reinterpret_cast<float*>(scratch + queries_));
    }
    [[nodiscard]] steps::partial_attention empty_result(std::byte* scratch) const noexcept {
        const auto result = steps::place_partial<Arch>(reinterpret_cast<float*>(scratch + partial_),
                                                       request_.group, request_.view.value_dim());
        result.clear();
        return result;
    }

    /// Attends the tokens, renormalised over them.
    /// @param covered  what the report says of every head
    void attend(std::size_t g, const std::uint32_t* tokens, std::size_t count, float covered,
                std::byte* scratch) const noexcept {
        const steps::partial_attention result = empty_result(scratch);
        steps::attend_rows<Arch, T>(queries(g, scratch),
                                    steps::listed_rows<T, Label>(request_.view, g, tokens, count),
                                    request_.view.head_dim(), request_.view.value_dim(), result);
        for (std::size_t h = 0; h < request_.group; ++h) finish(g, h, result, covered);
        report_tokens(g, tokens, count);
    }

    /// Attends the tokens with the given weights, as they are.
    /// @param weights      [G, stride]
    /// @param log_sum_exp  [G], what the report says; not finite makes the head NaN
    void weigh(std::size_t g, const float* weights, std::size_t stride, const float* log_sum_exp,
               const std::uint32_t* tokens, std::size_t count,
               const steps::partial_attention& result) const noexcept {
        weigh_values<Arch, T>(weights, stride,
                              steps::listed_rows<T, Label>(request_.view, g, tokens, count),
                              request_.view.value_dim(), result);
        for (std::size_t h = 0; h < request_.group; ++h)
            result.state[h] = {log_sum_exp[h], std::isfinite(log_sum_exp[h]) ? 1.0f : NAN};
        report_tokens(g, tokens, count);
    }

    void finish(std::size_t g, std::size_t h, const steps::partial_attention& result,
                float covered) const noexcept {
        steps::finish_attention(result, h, request_.view.value_dim(), request_.out_row(g, h));
        request_.report_head(g, h, covered, kernels::log_sum_exp(result.state[h]));
    }

   private:
    void report_tokens(std::size_t g, const std::uint32_t* tokens,
                       std::size_t count) const noexcept {
        attention_report* report = request_.report;
        if (report == nullptr || !report->keep_tokens) return;
        std::uint32_t* list = report->tokens.data() + g * report->tokens_per_head;
        std::copy_n(tokens, count, list);
        std::fill(list + count, list + report->tokens_per_head, baselines::no_token);
    }

    attention_request<T, Label> request_;
    std::size_t queries_ = 0, partial_ = 0;
};

/// The caller's workspace, or one for this call.
class call_scratch {
   public:
    SPARQ_PER_ISA explicit call_scratch(workspace* given) noexcept : given_(given) {}
    SPARQ_PER_ISA std::byte* prepare(const scratch_layout& layout) {
        return (given_ != nullptr ? *given_ : own_).prepare(layout.bytes());
    }

   private:
    workspace* given_;
    workspace own_;
};

}  // namespace detail
SPARQ_NAMESPACE_END
