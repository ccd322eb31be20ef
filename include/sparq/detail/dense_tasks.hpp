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

/// Tokens of a chunk where the heads of a token lie side by side in one row, as in engines'
/// caches: K and V of a chunk then fit into L2, and its heads take turns, so that memory
/// brings whole rows once instead of a piece of each row a head. Zen 3, half, 3 heads of 64,
/// G = 3, 30 layers of 8000 tokens: 1024, 256, 128, 64, 32 tokens 29.2, 30.3, 30.2, 31.6,
/// 37.2 ms; all tokens of a head after the other 30.9 (and 73 against 41 to 50 while other
/// programs use the L3).
template <class T, class Label>
SPARQ_PER_ISA std::size_t dense_chunk_tokens(const kv_view<T, Label>& view) noexcept {
    constexpr std::size_t chunk_bytes = std::size_t{1} << 18, least = 128, most = 1024;
    if (view.heads_kv() == 1 || view.segment(0, 0).key_stride == view.head_dim())
        return chunk_tokens;
    const std::size_t token_bytes =
        view.heads_kv() * (view.head_dim() + view.value_dim()) * sizeof(T);
    return std::clamp(std::bit_floor(chunk_bytes / token_bytes), least, most);
}

template <class Arch, class T, class Label>
class dense_tasks {
   public:
    explicit dense_tasks(const attention_request<T, Label>& request)
        : request_(request),
          chunk_(dense_chunk_tokens(request.view)),
          chunks_((request.view.seq_len() + chunk_ - 1) / chunk_),
          partial_floats_(steps::partial_floats<Arch>(request.group, request.view.value_dim())) {
        scratch_layout layout;
        queries_ = layout.take<float>(
            checked_product("q", request.group, simd::padded<Arch>(request.view.head_dim())));
        partials_ = layout.take<float>(checked_product("scratch", chunks_, partial_floats_));
        scratch_bytes_ = layout.bytes();
    }

    [[nodiscard]] std::size_t heads() const noexcept { return request_.view.heads_kv(); }
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
        const std::size_t begin = c * chunk_;
        const std::size_t end = std::min(begin + chunk_, request_.view.seq_len());
        const steps::partial_attention result = partial(scratch, c);
        result.clear();
        steps::attend_rows<Arch, T>(
            {queries(scratch), request_.group, simd::padded<Arch>(request_.view.head_dim())},
            steps::streamed_rows<T, Label>(request_.view, g, begin, end), request_.view.head_dim(),
            request_.view.value_dim(), result);
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
    std::size_t chunk_, chunks_, partial_floats_;
    std::size_t queries_ = 0, partials_ = 0, scratch_bytes_ = 0;
};

}  // namespace detail
SPARQ_NAMESPACE_END
