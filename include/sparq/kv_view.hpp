// SPDX-License-Identifier: MIT
// kv_view: what attention reads, in memory owned by anybody.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "code_labels.hpp"
#include "config.hpp"
#include "detail/check.hpp"
#include "int8_row.hpp"
#include "scalar_types.hpp"

SPARQ_NAMESPACE_BEGIN

/// Consecutive tokens of one KV head. Strides in elements.
template <row_element T, label_element Label = T>
struct kv_segment {
    const T* keys = nullptr;        ///< [tokens, d_h], a token a row
    const T* values = nullptr;      ///< [tokens, value_dim], a token a row
    const Label* keys_t = nullptr;  ///< [d_h, labelled], a channel a row; null when labelled = 0
    std::size_t key_stride = 0, value_stride = 0, channel_stride = 0;
    std::size_t tokens = 0;
    /// The first `labelled` tokens stand in keys_t too; the others are scanned from
    /// `keys`: the same scores, but their whole rows are read.
    std::size_t labelled = 0;
};

/// The same with labels of few bits. Their units begin where the slab begins that the
/// codes lie in, which may be before the segment's first token.
template <row_element T, coded_label Label>
struct kv_segment<T, Label> {
    const T* keys = nullptr;        ///< [tokens, d_h], a token a row
    const T* values = nullptr;      ///< [tokens, value_dim], a token a row
    const Label* keys_t = nullptr;  ///< codes of the slab, a channel a row; null when labelled = 0
    std::size_t key_stride = 0, value_stride = 0;
    std::size_t channel_stride = 0;  ///< bytes
    std::size_t tokens = 0;
    /// The first `labelled` tokens stand in keys_t too; the others are scanned from `keys`.
    std::size_t labelled = 0;
    /// [blocks of code_block_tokens of the slab, d_h], see range_row.
    const code_range* ranges = nullptr;
    std::size_t offset = 0;  ///< place of the first token: how many the slab has before it
    std::size_t closed = 0;  ///< places [0, closed) are in whole strips, others in blocks
};

/// The strip or block that holds a labelled token of the segment. Its first tokens may lie
/// before the segment, its last ones behind it.
template <row_element T, coded_label Label>
SPARQ_PER_ISA code_strip<Label> code_strip_of(const kv_segment<T, Label>& part, std::size_t token,
                                              std::size_t head_dim) noexcept {
    const std::size_t place = part.offset + token;
    const std::size_t tokens = place < part.closed ? code_strip_tokens : code_block_tokens;
    const std::size_t begin = place / tokens * tokens;
    return {begin, tokens, part.keys_t + code_bytes<Label>(begin), part.channel_stride,
            part.ranges + range_row(begin, tokens) * head_dim};
}

/// Calls body(strip, first, n) for every strip or block of which tokens [begin, end) of the
/// segment, all labelled, have a share, in order: tokens [first, first + n) of the strip.
template <row_element T, coded_label Label, class Body>
SPARQ_PER_ISA void for_code_strips(const kv_segment<T, Label>& part, std::size_t begin,
                                   std::size_t end, std::size_t head_dim, Body&& body) {
    while (begin < end) {
        const code_strip<Label> strip = code_strip_of(part, begin, head_dim);
        const std::size_t first = part.offset + begin - strip.begin;
        const std::size_t n = std::min(strip.tokens - first, end - begin);
        body(strip, first, n);
        begin += n;
    }
}

template <row_element T, label_element Label>
class kv_cache;

/// The key/value history of one layer and sequence: for each KV head a list of
/// segments, oldest token first. A view owns nothing: segments, sums and what they
/// point to outlive it. Views are cheap to copy; reading one from several threads is safe.
template <row_element T, label_element Label = T>
class kv_view {
   public:
    using element = T;
    using label = Label;

    /// @param segments    [n_segments, heads_kv]: segment s of head g at s * heads_kv + g.
    ///                    Segment s has the same number of tokens in every head.
    /// @param value_sums  [heads_kv, value_dim], the sum of V over all tokens of the view;
    ///                    empty: the mean value is computed from all of V in each call
    /// @throws std::invalid_argument for zero dims, a ragged or empty table, more than
    ///         2^32 - 1 tokens, null pointers, strides shorter than a row
    SPARQ_PER_ISA kv_view(std::size_t heads_kv, std::size_t head_dim, std::size_t value_dim,
                          std::span<const kv_segment<T, Label>> segments,
                          std::span<const double> value_sums = {})
        : kv_view(unchecked{}, heads_kv, head_dim, value_dim, segments, value_sums) {
        detail::require_at_least_one("heads_kv", heads_kv);
        detail::require_at_least_one("head_dim", head_dim);
        detail::require_at_least_one("value_dim", value_dim);
        if (segments.empty() || segments.size() % heads_kv != 0)
            detail::refuse("segments", detail::text("of size ", segments.size()),
                           detail::text("a multiple of heads_kv = ", heads_kv, ", not 0"));
        if (!value_sums.empty())
            detail::require_size("value_sums", value_sums.size(),
                                 detail::checked_product("value_dim", heads_kv, value_dim),
                                 "heads_kv * value_dim, or empty");
        for (std::size_t s = 0; s < segments_per_head(); ++s) check_segment(s);
        seq_len_ = count_tokens();
    }

    [[nodiscard]] std::size_t heads_kv() const noexcept { return heads_kv_; }
    [[nodiscard]] std::size_t head_dim() const noexcept { return head_dim_; }
    [[nodiscard]] std::size_t value_dim() const noexcept { return value_dim_; }
    [[nodiscard]] std::size_t seq_len() const noexcept { return seq_len_; }
    [[nodiscard]] SPARQ_PER_ISA std::size_t segments_per_head() const noexcept {
        return segments_.size() / heads_kv_;
    }
    [[nodiscard]] SPARQ_PER_ISA const kv_segment<T, Label>& segment(std::size_t s,
                                                                    std::size_t g) const noexcept {
        return segments_[s * heads_kv_ + g];
    }
    /// [value_dim] of KV head g, or nullptr when the view has no sums.
    [[nodiscard]] SPARQ_PER_ISA const double* value_sum(std::size_t g) const noexcept {
        return value_sums_.empty() ? nullptr : value_sums_.data() + g * value_dim_;
    }

   private:
    friend class kv_cache<T, Label>;
    struct unchecked {};

    SPARQ_PER_ISA kv_view(unchecked, std::size_t heads_kv, std::size_t head_dim,
                          std::size_t value_dim, std::span<const kv_segment<T, Label>> segments,
                          std::span<const double> value_sums, std::size_t seq_len = 0) noexcept
        : heads_kv_(heads_kv),
          head_dim_(head_dim),
          value_dim_(value_dim),
          seq_len_(seq_len),
          segments_(segments),
          value_sums_(value_sums) {}

    SPARQ_PER_ISA void check_segment(std::size_t s) const {
        for (std::size_t g = 0; g < heads_kv_; ++g) {
            const auto& part = segment(s, g);
            if (part.tokens == 0 || part.tokens != segment(s, 0).tokens)
                detail::refuse("segment.tokens", part.tokens,
                               "the same number, at least 1, in every KV head");
            if (part.keys == nullptr || part.values == nullptr)
                detail::refuse("segment.keys or values", "null", "a pointer to its rows");
            if (part.labelled > part.tokens)
                detail::refuse("segment.labelled", part.labelled,
                               detail::text("at most its ", part.tokens, " tokens"));
            check_labels(part);
            if (part.tokens > 1 && (part.key_stride < elements_of_row<T>(head_dim_) ||
                                    part.value_stride < elements_of_row<T>(value_dim_)))
                detail::refuse("segment.key_stride or value_stride",
                               detail::text(part.key_stride, " or ", part.value_stride),
                               "at least head_dim and value_dim");
        }
    }

    SPARQ_PER_ISA static void check_labels(const kv_segment<T, Label>& part) {
        if (part.labelled == 0) return;
        std::size_t wanted = part.labelled;
        if constexpr (coded_label<Label>) {
            if (part.ranges == nullptr) detail::refuse("segment.ranges", "null", "ranges");
            if (part.closed % code_strip_tokens != 0)
                detail::refuse("segment.closed", part.closed,
                               detail::text("a multiple of ", code_strip_tokens));
            const std::size_t blocks =
                (part.offset + part.labelled + code_block_tokens - 1) / code_block_tokens;
            wanted = code_bytes<Label>(std::max(blocks * code_block_tokens, part.closed));
        }
        if (part.keys_t == nullptr || part.channel_stride < wanted)
            detail::refuse(
                "segment.channel_stride", part.channel_stride,
                detail::text("at least ", wanted, " for the labelled tokens, and keys_t not null"));
    }

    [[nodiscard]] SPARQ_PER_ISA std::size_t count_tokens() const {
        constexpr std::size_t limit = std::numeric_limits<std::uint32_t>::max();
        std::size_t total = 0;
        for (std::size_t s = 0; s < segments_per_head(); ++s) {
            const std::size_t tokens = segment(s, 0).tokens;
            if (tokens > limit - total)
                detail::refuse("seq_len", detail::text("over ", limit),
                               detail::text("at most ", limit));
            total += tokens;
        }
        return total;
    }

    std::size_t heads_kv_, head_dim_, value_dim_, seq_len_;
    std::span<const kv_segment<T, Label>> segments_;
    std::span<const double> value_sums_;
};

SPARQ_NAMESPACE_END
