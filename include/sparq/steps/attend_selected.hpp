// SPDX-License-Identifier: MIT
// Step 3 of SparQ (Algorithm 1, lines 7 and 8): exact attention over given tokens.
//
//   s = softmax(scale * q . K[i2]),   y = s . V[i2]
//
// Serves every way of choosing tokens: SparQ's, a foreign retriever's, or all of them
// (dense attention is this over chunks of consecutive tokens).
//
// Traffic: k * (d_h + value_dim) elements, each row read once for all G query heads.
// Numerics: float. Blocks of rows, each with the maximum so far,
// rescaled into running sums (online softmax), then one division.
// With eps = 2^-24: |error| <= about (d_h / lanes + 8) eps * max |scale q . k terms|
// relative in the weights, plus (32 + blocks) eps * sum s |V|, with blocks of 4 to 32 rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "../config.hpp"
#include "../detail/multiply_add.hpp"
#include "../kernels/accumulate_rows.hpp"
#include "../kernels/dot_rows.hpp"
#include "../kernels/int8_rows.hpp"
#include "../kernels/softmax.hpp"
#include "query_components.hpp"
#include "row_sources.hpp"
#include "select_tokens.hpp"

SPARQ_NAMESPACE_BEGIN

namespace steps {

/// Query heads as the kernels want them: scaled, padded with zeros.
struct scaled_queries {
    const float* data;  ///< [heads, stride]
    std::size_t heads, stride;
};

template <class Arch>
scaled_queries scale_queries(const query_group& q, float scale, float* memory) noexcept {
    const std::size_t stride = detail::simd::padded<Arch>(q.head_dim);
    for (std::size_t h = 0; h < q.heads; ++h)
        for (std::size_t c = 0; c < stride; ++c)
            memory[h * stride + c] = c < q.head_dim ? q.head(h)[c] * scale : 0.0f;
    return {memory, q.heads, stride};
}

/// Attention in the making over some tokens: a softmax state and the weighted sums of V
/// for each head. Partial results over disjoint tokens merge.
struct partial_attention {
    kernels::softmax_state* state;  ///< [heads]
    float* sums;                    ///< [heads, stride]
    float* lane_sums;               ///< [heads, lanes]: of the weights, by lane
    std::size_t heads, stride, lanes;

    SPARQ_PER_ISA void clear() const noexcept {
        std::fill_n(state, heads, kernels::softmax_state{});
        std::fill_n(sums, heads * stride, 0.0f);
        std::fill_n(lane_sums, heads * lanes, 0.0f);
    }
};

/// Adds a block of rows to a partial result. While it reads K it asks for `values`, and while
/// it reads V for `keys`: those of this block and of the next, so that memory is always one
/// block ahead and no row is wanted before it had the time to come, or rows of a chunk to come.
template <class Arch, class T>
void attend_block(const scaled_queries& q, const row_block<T>& rows,
                  const kernels::upcoming_rows<T>& keys, const kernels::upcoming_rows<T>& values,
                  std::size_t head_dim, std::size_t value_dim,
                  const partial_attention& result) noexcept {
    alignas(cache_line_bytes) float weights[attend_block_heads][most_block_tokens];
    float rescale[attend_block_heads];
    for (std::size_t first = 0; first < q.heads; first += attend_block_heads) {
        const std::size_t heads = std::min(attend_block_heads, q.heads - first);
        const auto once = [first](const kernels::upcoming_rows<T>& wanted) {
            return first == 0 ? wanted : kernels::upcoming_rows<T>{};
        };
        kernels::dot_rows<Arch>(q.data + first * q.stride, heads, q.stride, rows.keys, rows.count,
                                head_dim, weights[0], most_block_tokens, once(values));
        if (first == 0 && q.heads > 2)  // in L2 by now, as computing takes longer than reading
            for (std::size_t j = 0; j < rows.count; ++j)
                detail::simd::prefetch_from_l2(rows.values[j]);
        const bool raised = kernels::take_softmax_block<Arch>(
            weights[0], heads, most_block_tokens, rows.count, result.state + first,
            result.lane_sums + first * result.lanes, rescale);
        kernels::accumulate_rows<Arch>(
            weights[0], heads, most_block_tokens, raised ? rescale : nullptr, rows.values,
            rows.count, value_dim, result.sums + first * result.stride, result.stride, once(keys));
    }
}

/// Sums of the weights, from those by lane: after the last block.
template <class Arch>
void sum_weights(const partial_attention& result) noexcept {
    for (std::size_t h = 0; h < result.heads; ++h)
        result.state[h].sum = detail::simd::sum_lanes<Arch>(
            detail::simd::load<Arch>(result.lane_sums + h * result.lanes));
}

/// Adds all rows of a source to a partial result.
/// @param source  fill(row_block&) gives the next block, an empty one at the end
template <class Arch, class T, class Source>
void attend_rows(const scaled_queries& q, Source source, std::size_t head_dim,
                 std::size_t value_dim, const partial_attention& result) noexcept {
    row_block<T> blocks[2];
    source.fill(blocks[0]);
    kernels::upcoming_rows<T>{blocks[0].keys, blocks[0].count, head_dim}.prefetch(
        0, most_block_tokens);
    for (std::size_t current = 0; blocks[current].count != 0; current = 1 - current) {
        const row_block<T>&rows = blocks[current], &next = blocks[1 - current];
        source.fill(blocks[1 - current]);
        attend_block<Arch, T>(q, rows, {next.keys, next.count, head_dim},
                              {rows.values, rows.count, value_dim}, head_dim, value_dim, result);
    }
    sum_weights<Arch>(result);
}

/// The same for rows that are in L2 already; asks for those of `ahead`, a block for each block.
template <class Arch, class T, class Source, class Ahead>
void attend_rows_ahead(const scaled_queries& q, Source source, Ahead ahead, std::size_t head_dim,
                       std::size_t value_dim, const partial_attention& result) noexcept {
    row_block<T> rows, wanted;
    for (source.fill(rows); rows.count != 0; source.fill(rows)) {
        ahead.fill(wanted);
        attend_block<Arch, T>(q, rows, {wanted.keys, wanted.count, head_dim},
                              {wanted.values, wanted.count, value_dim}, head_dim, value_dim,
                              result);
    }
    sum_weights<Arch>(result);
}

/// Adds `other` to `result`.
SPARQ_PER_ISA inline void merge_attention(const partial_attention& result,
                                          const partial_attention& other) noexcept {
    for (std::size_t h = 0; h < result.heads; ++h) {
        const kernels::softmax_factors factors =
            kernels::merge_softmax(result.state[h], other.state[h]);
        float* sums = result.sums + h * result.stride;
        const float* added = other.sums + h * result.stride;
        for (std::size_t c = 0; c < result.stride; ++c)
            sums[c] = detail::multiply_add(sums[c], factors.of_first, added[c] * factors.of_second);
    }
}

/// The weighted mean of head h. An infinite result comes from an infinite input and
/// becomes NaN like any other that is not finite.
SPARQ_PER_ISA inline void finish_attention(const partial_attention& result, std::size_t h,
                                           std::size_t value_dim, float* out) noexcept {
    const float sum = result.state[h].sum;
    for (std::size_t c = 0; c < value_dim; ++c) {
        const float y = result.sums[h * result.stride + c] / sum;
        out[c] = y + (y - y);
    }
}

/// Floats of scratch for a partial_attention and the queries of `heads` heads.
template <class Arch>
SPARQ_PER_ISA constexpr std::size_t partial_floats(std::size_t heads,
                                                   std::size_t value_dim) noexcept {
    return heads * (2 + detail::simd::padded<Arch>(value_dim) + detail::simd::lanes<Arch>);
}

/// Lays a partial result over scratch of partial_floats.
template <class Arch>
partial_attention place_partial(float* memory, std::size_t heads, std::size_t value_dim) noexcept {
    static_assert(sizeof(kernels::softmax_state) == 2 * sizeof(float));
    const std::size_t stride = detail::simd::padded<Arch>(value_dim);
    float* lane_sums = memory + heads * stride;
    float* state = lane_sums + heads * detail::simd::lanes<Arch>;
    return {reinterpret_cast<kernels::softmax_state*>(state),
            memory,
            lane_sums,
            heads,
            stride,
            detail::simd::lanes<Arch>};
}

}  // namespace steps

/// Exact attention of a group's query heads over a list of tokens, renormalised over it.
/// The list may come from anywhere: select_tokens, or somebody else's retriever.
///
/// @param g            KV head
/// @param q            [G, d_h]; G is the size of log_sum_exp
/// @param tokens       ascending, distinct, each < S
/// @param scale        factor on q . k, 0 for 1 / sqrt(d_h)
/// @param out          [G, value_dim], overwritten; must not overlap q
/// @param log_sum_exp  [G], overwritten: ln of the sum of exp(scale * q . k) over tokens
/// @throws std::invalid_argument for sizes outside these; std::bad_alloc for scratch
template <class Arch = default_arch, class T, class Label>
void attend_selected(const kv_view<T, Label>& view, std::size_t g, std::span<const float> q,
                     std::span<const std::uint32_t> tokens, float scale, std::span<float> out,
                     std::span<float> log_sum_exp) {
    const std::size_t group = log_sum_exp.size(), head_dim = view.head_dim();
    detail::check_head(g, view.heads_kv());
    detail::require_at_least_one("G, the size of log_sum_exp,", group);
    detail::require_size("q", q.size(), group * head_dim, "G * d_h");
    detail::require_size("out", out.size(), group * view.value_dim(), "G * value_dim");
    detail::check_tokens(tokens, view.seq_len());
    detail::check_scale(scale);
    workspace scratch;
    const std::size_t floats = steps::partial_floats<Arch>(group, view.value_dim());
    auto* memory = reinterpret_cast<float*>(
        scratch.prepare((floats + group * detail::simd::padded<Arch>(head_dim)) * sizeof(float)));
    const auto result = steps::place_partial<Arch>(memory, group, view.value_dim());
    const auto queries =
        steps::scale_queries<Arch>({q.data(), group, head_dim, head_dim},
                                   steps::resolve_scale(scale, head_dim), memory + floats);
    result.clear();
    steps::attend_rows<Arch, T>(queries,
                                steps::listed_rows<T, Label>(view, g, tokens.data(), tokens.size()),
                                head_dim, view.value_dim(), result);
    for (std::size_t h = 0; h < group; ++h) {
        steps::finish_attention(result, h, view.value_dim(), out.data() + h * view.value_dim());
        log_sum_exp[h] = kernels::log_sum_exp(result.state[h]);
    }
}

SPARQ_NAMESPACE_END
