// SPDX-License-Identifier: MIT
// attention_request: the checked arguments of a call, as its tasks want them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>

#include "../call_options.hpp"
#include "../config.hpp"
#include "../kv_view.hpp"
#include "../params.hpp"
#include "../steps/query_components.hpp"
#include "check.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class T, class Label>
struct attention_request {
    kv_view<T, Label> view;
    const float* q;
    float* out;
    std::size_t group, q_stride, out_stride;
    float scale;
    attention_report* report;

    [[nodiscard]] SPARQ_PER_ISA steps::query_group queries(std::size_t g) const noexcept {
        return {q + g * group * q_stride, group, view.head_dim(), q_stride};
    }
    [[nodiscard]] SPARQ_PER_ISA float* out_row(std::size_t g, std::size_t h) const noexcept {
        return out + (g * group + h) * out_stride;
    }
    [[nodiscard]] std::size_t heads_q() const noexcept { return view.heads_kv() * group; }

    SPARQ_PER_ISA void report_head(std::size_t g, std::size_t h, float covered,
                                   float log_sum_exp) const noexcept {
        if (report != nullptr) report->heads[g * group + h] = {covered, log_sum_exp};
    }
};

/// The stride between heads: what the options say, `width` when they say nothing.
SPARQ_PER_ISA inline std::size_t check_stride(const char* argument, std::size_t stride,
                                              std::size_t width) {
    if (stride == 0) return width;
    if (stride < width) refuse(argument, stride, detail::text("0, or at least the row's ", width));
    return stride;
}

/// How many query heads q holds, with or without the padding behind the last one.
SPARQ_PER_ISA inline std::size_t check_heads(std::span<const float> q, std::size_t stride,
                                             std::size_t head_dim, std::size_t heads_kv) {
    const std::size_t heads = q.size() < head_dim ? 0 : 1 + (q.size() - head_dim) / stride;
    const bool fits = q.size() % stride == 0 || (q.size() - head_dim) % stride == 0;
    if (heads == 0 || !fits || heads % heads_kv != 0)
        refuse("q", detail::text("of size ", q.size()),
               detail::text("heads_q * d_h with d_h = ", head_dim,
                            " and heads_q a multiple of heads_kv = ", heads_kv));
    return heads;
}

SPARQ_PER_ISA inline void check_out(std::span<float> out, std::size_t heads, std::size_t stride,
                                    std::size_t value_dim) {
    const std::size_t padded = checked_product("out", heads, stride);
    if (out.size() != padded && out.size() != padded - stride + value_dim)
        refuse("out", detail::text("of size ", out.size()),
               detail::text(padded, " (heads_q = ", heads, " times value_dim = ", value_dim,
                            " or its stride)"));
}

template <class T, class Label>
SPARQ_PER_ISA attention_request<T, Label> check_request(std::span<const float> q,
                                                        const kv_view<T, Label>& view, float scale,
                                                        std::span<float> out,
                                                        const call_options& options) {
    if (view.seq_len() == 0) refuse("cache", "empty", "at least one token");
    check_scale(scale);
    const std::size_t q_stride = check_stride("q_stride", options.q_stride, view.head_dim());
    const std::size_t out_stride = check_stride("out_stride", options.out_stride, view.value_dim());
    const std::size_t heads = check_heads(q, q_stride, view.head_dim(), view.heads_kv());
    check_out(out, heads, out_stride, view.value_dim());
    if (overlaps(q.data(), q.size_bytes(), out.data(), out.size_bytes()))
        refuse("out", "overlapping q", "memory of its own");
    return {view,
            q.data(),
            out.data(),
            heads / view.heads_kv(),
            q_stride,
            out_stride,
            steps::resolve_scale(scale, view.head_dim()),
            options.report};
}

SPARQ_PER_ISA inline void check_params(const sparq_params& params, std::size_t head_dim) {
    if (params.r == 0 || params.r > head_dim)
        refuse("r", params.r, detail::text("1 .. d_h = ", head_dim));
    require_at_least_one("k", params.k);
    if (params.local > params.k) refuse("local", params.local, detail::text("0 .. k = ", params.k));
    const auto enumerator = [](const char* argument, int value, int last) {
        if (value < 0 || value > last)
            refuse(argument, std::to_string(value), "one of its enumerators");
    };
    enumerator("tail", static_cast<int>(params.tail), static_cast<int>(tail_estimate::mean_value));
    enumerator("ranking", static_cast<int>(params.ranking),
               static_cast<int>(group_ranking::logit_sum));
    enumerator("components", static_cast<int>(params.components),
               static_cast<int>(component_ranking::magnitude_times_spread));
    enumerator("tau", static_cast<int>(params.tau), static_cast<int>(temperature::none));
}

/// Sizes a report before the work; tasks then fill in their heads. Flattened: the vectors'
/// functions have the same names in every unit, so none may be left as one of its own.
template <class T, class Label>
SPARQ_FLATTEN SPARQ_PER_ISA void begin_report(const attention_request<T, Label>& request,
                                              const step_bytes& bytes, std::size_t tokens_per_head,
                                              bool dense) {
    attention_report* report = request.report;
    if (report == nullptr) return;
    const std::size_t tokens = report->keep_tokens ? tokens_per_head * request.view.heads_kv() : 0;
    report->heads.reserve(request.heads_q());  // what may throw comes first
    report->tokens.reserve(tokens);
    report->heads.resize(request.heads_q());
    report->tokens.resize(tokens);
    report->tokens_per_head = tokens_per_head;
    report->bytes = bytes;
    report->bytes_read = bytes.scan + bytes.selected + bytes.tail;
    report->dense = dense;
}

/// Bytes of K and V in `tokens` tokens of every KV head.
template <class T, class Label>
SPARQ_PER_ISA std::size_t row_bytes(const kv_view<T, Label>& view, std::size_t tokens) noexcept {
    return view.heads_kv() * tokens *
           (bytes_of_row<T>(view.head_dim()) + bytes_of_row<T>(view.value_dim()));
}

/// Parts of a block of scratch, each on a cache line of its own.
class scratch_layout {
   public:
    /// Takes n elements of U; returns their offset in bytes.
    template <class U>
    SPARQ_PER_ISA std::size_t take(std::size_t n) {
        return place(checked_product("scratch", n, sizeof(U)));
    }
    /// The same where such parts have been taken before: throws nothing.
    template <class U>
    SPARQ_PER_ISA std::size_t take_again(std::size_t n) noexcept {
        return place(n * sizeof(U));
    }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

   private:
    SPARQ_PER_ISA std::size_t place(std::size_t bytes) noexcept {
        const std::size_t offset = bytes_;
        bytes_ += (bytes + cache_line_bytes - 1) / cache_line_bytes * cache_line_bytes;
        return offset;
    }

    std::size_t bytes_ = 0;
};

}  // namespace detail
SPARQ_NAMESPACE_END
