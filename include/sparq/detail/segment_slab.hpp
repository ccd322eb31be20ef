// SPDX-License-Identifier: MIT
// segment_slab: the memory of one segment of a cache, all KV heads together.
//
// Per head keys [n, d_h], values [n, d_v] (int8_row: a range before each row), keys_t [d_h, n +
// pad], and for labels of few bits their ranges [n / code_block_tokens, d_h]; behind the heads the
// checkpoints, [n / checkpoint_tokens, heads, d_v]. The pad (two cache lines) keeps the channels, a
// power of two apart otherwise, out of the same cache sets. Heads, and V against K, begin at
// different places of a page, so that their rows come to a new page (a fault of microseconds) one
// after the other and not in the same append.
#pragma once

#include <concepts>
#include <cstddef>

#include "../code_labels.hpp"
#include "../config.hpp"
#include "../int8_row.hpp"
#include "../kv_view.hpp"
#include "../memory_policy.hpp"
#include "../workspace.hpp"
#include "check.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// Refuses rows of all heads so wide that a segment's size would overflow.
SPARQ_PER_ISA inline void check_row_bytes(const char* argument, std::size_t heads_kv,
                                          std::size_t width) {
    constexpr std::size_t bytes_per_element = 256 * largest_segment_tokens;  // codes: longer
    checked_product(argument, bytes_per_element, checked_product(argument, heads_kv, width));
}

/// Refuses dimensions that are 0 or overflow.
SPARQ_PER_ISA inline void check_dims(std::size_t heads_kv, std::size_t head_dim,
                                     std::size_t value_dim) {
    require_at_least_one("heads_kv", heads_kv);
    require_at_least_one("head_dim", head_dim);
    require_at_least_one("value_dim", value_dim);
    check_row_bytes("heads_kv * head_dim", heads_kv, head_dim);
    check_row_bytes("heads_kv * value_dim", heads_kv, value_dim);
}

/// Labels from one channel to the next in a slab of `tokens`.
template <class Label>
SPARQ_PER_ISA std::size_t label_stride(std::size_t tokens) noexcept {
    constexpr std::size_t pad = 2 * cache_line_bytes / sizeof(Label);
    if constexpr (coded_label<Label>)
        return code_bytes<Label>(tokens) + pad;
    else
        return tokens + pad;
}
/// Where the label of token t lies in its channel; of codes that of its unit.
template <class Label>
SPARQ_PER_ISA Label* label_of(Label* channel, std::size_t t) noexcept {
    if constexpr (coded_label<Label>)
        return channel + code_bytes<Label>(t);
    else
        return channel + t;
}

template <class T, class Label>
class SPARQ_ISA_TYPE segment_slab {
    static_assert(cache_element<T> || std::same_as<Label, int2_label>);  // for tiered_cache

   public:
    using label = Label;

    /// @throws std::bad_alloc; std::invalid_argument when sizes overflow
    SPARQ_PER_ISA segment_slab(std::size_t heads_kv, std::size_t head_dim, std::size_t value_dim,
                               std::size_t first_token, std::size_t tokens,
                               memory_policy policy = memory_policy::system)
        : first_token_(first_token),
          tokens_(tokens),
          heads_kv_(heads_kv),
          head_dim_(head_dim),
          value_dim_(value_dim),
          key_bytes_(part_bytes(tokens, elements_of_row<T>(head_dim), sizeof(T))),
          value_bytes_(part_bytes(tokens, elements_of_row<T>(value_dim), sizeof(T))),
          label_bytes_(part_bytes(channel_stride(), head_dim, sizeof(Label)) + range_bytes()),
          policy_(policy),
          memory_(allocate_aligned(total_bytes(), policy)) {}

    [[nodiscard]] std::size_t first_token() const noexcept { return first_token_; }
    [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
    [[nodiscard]] std::size_t head_dim() const noexcept { return head_dim_; }
    [[nodiscard]] std::size_t key_stride() const noexcept { return elements_of_row<T>(head_dim_); }
    [[nodiscard]] std::size_t end_token() const noexcept { return first_token_ + tokens_; }
    /// Of one head: labels, and ranges where they are codes.
    [[nodiscard]] std::size_t label_bytes() const noexcept { return label_bytes_; }

    /// Rows and channels by the token's index within the segment.
    [[nodiscard]] SPARQ_PER_ISA T* key_row(std::size_t g, std::size_t t) noexcept {
        return row_of(head(g), head_dim_, t);
    }
    [[nodiscard]] SPARQ_PER_ISA T* value_row(std::size_t g, std::size_t t) noexcept {
        return row_of(head(g) + values_at(), value_dim_, t);
    }
    [[nodiscard]] SPARQ_PER_ISA Label* channel(std::size_t g, std::size_t c,
                                               std::size_t t) noexcept {
        return label_of(reinterpret_cast<Label*>(head(g) + labels_at()) + c * channel_stride(), t);
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t channel_stride() const noexcept {
        return label_stride<Label>(tokens_);
    }

    /// A row of ranges, [d_h]; see range_row.
    [[nodiscard]] SPARQ_PER_ISA code_range* ranges(std::size_t g, std::size_t row) noexcept
        requires coded_label<Label>
    {
        const std::size_t bytes = tokens_ / code_block_tokens * head_dim_ * sizeof(code_range);
        std::byte* first = head(g) + labels_at() + label_bytes_ -
                           (bytes + page_bytes - 1) / page_bytes * page_bytes;
        return reinterpret_cast<code_range*>(first) + row * head_dim_;
    }

    /// The sums of V over all tokens of the sequence before token t of the segment, a
    /// multiple of checkpoint_tokens: [heads_kv, value_dim].
    [[nodiscard]] SPARQ_PER_ISA double* checkpoint(std::size_t t) noexcept {
        return reinterpret_cast<double*>(head(heads_kv_)) +
               t / checkpoint_tokens * heads_kv_ * value_dim_;
    }

    [[nodiscard]] SPARQ_PER_ISA kv_segment<T, Label> segment(std::size_t g) noexcept {
        kv_segment<T, Label> part;
        part.keys = key_row(g, 0);
        part.values = value_row(g, 0);
        part.keys_t = channel(g, 0, 0);
        part.key_stride = elements_of_row<T>(head_dim_);
        part.value_stride = elements_of_row<T>(value_dim_);
        part.channel_stride = channel_stride();
        if constexpr (coded_label<Label>) part.ranges = ranges(g, 0);
        return part;
    }

    /// Touches the pages of keys_t, or all where they are huge, up to the given share of
    /// them, each once in the life of the slab. The first strips of a segment write to a
    /// page a channel, the first token to two pages a head: without this the system would
    /// hand out hundreds of pages, or many huge ones, within one append.
    SPARQ_PER_ISA void touch_ahead(std::size_t part, std::size_t of) noexcept {
        const bool all = policy_ == memory_policy::huge_pages;
        const std::size_t begin = all ? 0 : labels_at();
        const std::size_t pages_per_head = (all ? head_bytes() : label_bytes_) / page_bytes;
        const std::size_t wanted = heads_kv_ * pages_per_head * part / of;
        for (; touched_ < wanted; ++touched_)
            head(touched_ / pages_per_head)[begin + touched_ % pages_per_head * page_bytes] =
                std::byte{0};
    }

   private:
    SPARQ_PER_ISA static T* row_of(std::byte* rows, std::size_t width, std::size_t t) noexcept {
        return reinterpret_cast<T*>(rows) + t * elements_of_row<T>(width) + row_prefix<T>;
    }
    SPARQ_PER_ISA static std::size_t part_bytes(std::size_t rows, std::size_t width,
                                                std::size_t element) {
        const std::size_t bytes =
            checked_product("head_dim", checked_product("head_dim", rows, width), element);
        return (bytes + page_bytes - 1) / page_bytes * page_bytes;
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t range_bytes() const {
        if constexpr (coded_label<Label>)
            return part_bytes(tokens_ / code_block_tokens, head_dim_, sizeof(code_range));
        else
            return 0;
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t total_bytes() const {
        const std::size_t heads = checked_product("heads_kv", heads_kv_, head_bytes());
        const std::size_t sums = checked_product("heads_kv", heads_kv_, value_dim_);
        return heads +
               checked_product("heads_kv", sums, tokens_ / checkpoint_tokens * sizeof(double));
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t values_at() const noexcept {
        return key_bytes_ + page_bytes / 2;
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t labels_at() const noexcept {
        return values_at() + value_bytes_;
    }
    /// From head to head: a page more than its parts, divided among the heads.
    [[nodiscard]] SPARQ_PER_ISA std::size_t head_bytes() const noexcept {
        const std::size_t lines = page_bytes / cache_line_bytes;
        const std::size_t step = (lines + heads_kv_ - 1) / heads_kv_ * cache_line_bytes;
        return labels_at() + label_bytes_ + page_bytes / 2 + step;
    }
    [[nodiscard]] SPARQ_PER_ISA std::byte* head(std::size_t g) noexcept {
        return memory_.get() + g * head_bytes();
    }

    std::size_t first_token_, tokens_, heads_kv_, head_dim_, value_dim_;
    std::size_t key_bytes_, value_bytes_, label_bytes_;
    memory_policy policy_;
    aligned_bytes memory_;
    std::size_t touched_ = 0;  ///< pages, counted over all heads
};

}  // namespace detail
SPARQ_NAMESPACE_END
