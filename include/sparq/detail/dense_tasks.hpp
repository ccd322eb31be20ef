// SPDX-License-Identifier: MIT
// dense_tasks: exact attention over all tokens of a history, in chunks.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>

#include "../steps/attend_selected.hpp"
#include "attention_request.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// Whether the heads of a token lie side by side in one row, as in engines' caches. The heads
/// then take turns at chunks that fit into L2, so that memory brings whole rows once instead of
/// a piece of each row a head.
template <class T, class Label>
SPARQ_PER_ISA bool heads_share_rows(const kv_view<T, Label>& view) noexcept {
    return view.heads_kv() > 1 &&
           view.segment(0, 0).key_stride != elements_of_row<T>(view.head_dim());
}

/// Whether a chunk's rows are asked for during the chunk before it, in the order in which they
/// lie in memory, instead of a block ahead: pieces of a few lines out of longer rows come too
/// slowly otherwise. It does not pay where computing takes longer than reading. What it was worth
/// on Zen 4 with AVX-512: bench/README.md. Zen 3, AVX2, half, 8000 tokens, time of the one by that
/// of the other: 3 heads of 64, G = 3 0.80; 8 of 64, G = 3 0.68; 16 of 64, G = 2 0.84; 2 of 64,
/// G = 7 1.16; 8 of 128, G = 1, 2, 3 1.00, 1.14, 1.08 (in chunks as large as its L2).
template <class Arch, class T, class Label>
SPARQ_PER_ISA bool asks_by_token(const kv_view<T, Label>& view, std::size_t group) noexcept {
    constexpr bool wide = simd::lanes<Arch> >= 16;
    constexpr std::size_t short_row = 2 * cache_line_bytes / sizeof(T), few_heads = wide ? 4 : 3;
    return heads_share_rows(view) && group <= few_heads &&
           (wide || (view.head_dim() <= short_row && view.value_dim() <= short_row));
}

/// Tokens of a chunk. Two chunks fit into L2 where one is attended and the next on its way.
/// (Without: Zen 3, half, 3 heads of 64, G = 3, 30 layers of 8000 tokens: 1024, 256, 128, 64,
/// 32 tokens 29.2, 30.3, 30.2, 31.6, 37.2 ms; all tokens of a head after the other 30.9, and 73
/// against 41 to 50 while other programs use the L3.)
template <class Arch, class T, class Label>
SPARQ_PER_ISA std::size_t dense_chunk_tokens(const kv_view<T, Label>& view,
                                             std::size_t group) noexcept {
    constexpr std::size_t chunk_bytes = std::size_t{1} << 18, most = 1024;
    if (!heads_share_rows(view)) return chunk_tokens;
    const bool by_token = asks_by_token<Arch>(view, group);
    const std::size_t bytes = by_token ? chunk_bytes / 2 : chunk_bytes;
    const std::size_t least = by_token && simd::lanes<Arch> >= 16 ? 32 : 128;
    const std::size_t token_bytes =
        view.heads_kv() * (bytes_of_row<T>(view.head_dim()) + bytes_of_row<T>(view.value_dim()));
    return std::clamp(std::bit_floor(bytes / token_bytes), least, most);
}

template <class Arch, class T, class Label>
class dense_tasks {
   public:
    explicit dense_tasks(const attention_request<T, Label>& request)
        : request_(request),
          by_token_(asks_by_token<Arch>(request.view, request.group)),
          chunk_(dense_chunk_tokens<Arch>(request.view, request.group)),
          chunks_((request.view.seq_len() + chunk_ - 1) / chunk_),
          partial_floats_(steps::partial_floats<Arch>(request.group, request.view.value_dim())) {
        scratch_layout layout;
        queries_ = layout.take<float>(
            checked_product("q", request.group, simd::padded<Arch>(request.view.head_dim())));
        partials_ = layout.take<float>(checked_product("scratch", chunks_, partial_floats_));
        scratch_bytes_ = layout.bytes();
    }

    [[nodiscard]] std::size_t heads() const noexcept { return request_.view.heads_kv(); }
    [[nodiscard]] std::size_t seq_len() const noexcept { return request_.view.seq_len(); }
    [[nodiscard]] std::size_t chunks() const noexcept { return chunks_; }
    [[nodiscard]] bool heads_take_turns() const noexcept { return chunk_ != chunk_tokens; }
    [[nodiscard]] std::size_t scratch_bytes() const noexcept { return scratch_bytes_; }

    void begin_report() const {
        const std::size_t tokens = request_.view.seq_len();
        detail::begin_report(request_, {0, row_bytes(request_.view, tokens), 0}, tokens, true);
    }

    void prepare(std::size_t g, std::byte* scratch) const noexcept {
        steps::scale_queries<Arch>(request_.queries(g), request_.scale, queries(scratch));
    }

    void chunk(std::size_t g, std::byte* scratch, std::size_t c) const noexcept {
        const kv_view<T, Label>& view = request_.view;
        const std::size_t begin = c * chunk_, end = std::min(begin + chunk_, view.seq_len());
        const steps::partial_attention result = partial(scratch, c);
        result.clear();
        const steps::scaled_queries q{queries(scratch), request_.group,
                                      simd::padded<Arch>(view.head_dim())};
        const steps::streamed_rows<T, Label> rows(view, g, request_.group, begin, end);
        if (!by_token_)
            return steps::attend_rows<Arch, T>(q, rows, view.head_dim(), view.value_dim(), result);
        const std::size_t next = std::min(end + chunk_, view.seq_len()) - end;
        // As many rows as each head attends: the heads together ask for all of the next chunk.
        const std::size_t first = end * view.heads_kv() + g * next;
        steps::attend_rows_ahead<Arch, T>(
            q, rows, steps::rows_by_token<T, Label>(view, first, first + next, rows.block_tokens()),
            view.head_dim(), view.value_dim(), result);
    }

    void finish(std::size_t g, std::byte* scratch) const noexcept {
        const steps::partial_attention all = partial(scratch, 0);
        for (std::size_t c = 1; c < chunks_; ++c) steps::merge_attention(all, partial(scratch, c));
        for (std::size_t h = 0; h < request_.group; ++h) {
            steps::finish_attention(all, h, request_.view.value_dim(), request_.out_row(g, h));
            request_.report_head(g, h, 1.0f, kernels::log_sum_exp(all.state[h]));
        }
        if (request_.report != nullptr && request_.report->keep_tokens) {
            std::uint32_t* tokens = request_.report->tokens.data() + g * request_.view.seq_len();
            std::iota(tokens, tokens + request_.view.seq_len(), std::uint32_t{0});
        }
    }

   private:
    [[nodiscard]] float* queries(std::byte* scratch) const noexcept {
        return reinterpret_cast<float*>(scratch + queries_);
    }
    [[nodiscard]] steps::partial_attention partial(std::byte* scratch,
                                                   std::size_t c) const noexcept {
        return steps::place_partial<Arch>(
            reinterpret_cast<float*>(scratch + partials_) + c * partial_floats_, request_.group,
            request_.view.value_dim());
    }

    attention_request<T, Label> request_;
    bool by_token_;
    std::size_t chunk_, chunks_, partial_floats_;
    std::size_t queries_ = 0, partials_ = 0, scratch_bytes_ = 0;
};

}  // namespace detail
SPARQ_NAMESPACE_END
