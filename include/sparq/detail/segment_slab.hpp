// SPDX-License-Identifier: MIT
// segment_slab: the memory of one segment of a cache, all KV heads together.
//
// Per head, each part on a page of its own start: keys [n, d_h], values [n, d_v],
// keys_t [d_h, n + pad]; then the checkpoints, [n / checkpoint_tokens, heads, d_v].
// The pad (two cache lines) keeps the channels, a power of two apart otherwise, out of
// the same cache sets.
#pragma once

#include <cstddef>

#include "../config.hpp"
#include "../kv_view.hpp"
#include "../workspace.hpp"
#include "check.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// Refuses rows of all heads so wide that a segment's size would overflow.
SPARQ_PER_ISA inline void check_row_bytes(const char* argument, std::size_t heads_kv,
                                          std::size_t width) {
    constexpr std::size_t bytes_per_element = 64 * largest_segment_tokens;
    checked_product(argument, bytes_per_element, checked_product(argument, heads_kv, width));
}

template <class T, class Label>
class segment_slab {
   public:
    /// @throws std::bad_alloc; std::invalid_argument when sizes overflow
    SPARQ_PER_ISA segment_slab(std::size_t heads_kv, std::size_t head_dim, std::size_t value_dim,
                               std::size_t first_token, std::size_t tokens)
        : first_token_(first_token),
          tokens_(tokens),
          heads_kv_(heads_kv),
          head_dim_(head_dim),
          value_dim_(value_dim),
          key_bytes_(part_bytes(tokens, head_dim, sizeof(T))),
          value_bytes_(part_bytes(tokens, value_dim, sizeof(T))),
          label_bytes_(part_bytes(channel_stride(), head_dim, sizeof(Label))),
          memory_(allocate_aligned(total_bytes())) {}

    [[nodiscard]] std::size_t first_token() const noexcept { return first_token_; }
    [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
    [[nodiscard]] std::size_t end_token() const noexcept { return first_token_ + tokens_; }

    /// Rows and channels by the token's index within the segment.
    [[nodiscard]] SPARQ_PER_ISA T* key_row(std::size_t g, std::size_t t) noexcept {
        return reinterpret_cast<T*>(head(g)) + t * head_dim_;
    }
    [[nodiscard]] SPARQ_PER_ISA T* value_row(std::size_t g, std::size_t t) noexcept {
        return reinterpret_cast<T*>(head(g) + key_bytes_) + t * value_dim_;
    }
    [[nodiscard]] SPARQ_PER_ISA Label* channel(std::size_t g, std::size_t c,
                                               std::size_t t) noexcept {
        return reinterpret_cast<Label*>(head(g) + key_bytes_ + value_bytes_) +
               c * channel_stride() + t;
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t channel_stride() const noexcept {
        return tokens_ + 2 * cache_line_bytes / sizeof(Label);
    }

    /// The sums of V over all tokens of the sequence before token t of the segment, a
    /// multiple of checkpoint_tokens: [heads_kv, value_dim].
    [[nodiscard]] SPARQ_PER_ISA double* checkpoint(std::size_t t) noexcept {
        return reinterpret_cast<double*>(head(heads_kv_)) +
               t / checkpoint_tokens * heads_kv_ * value_dim_;
    }

    [[nodiscard]] SPARQ_PER_ISA kv_segment<T, Label> segment(std::size_t g) noexcept {
        return {key_row(g, 0), value_row(g, 0), channel(g, 0, 0),
                head_dim_,     value_dim_,      channel_stride()};
    }

   private:
    SPARQ_PER_ISA static std::size_t part_bytes(std::size_t rows, std::size_t width,
                                                std::size_t element) {
        constexpr std::size_t page = aligned_delete::alignment;
        const std::size_t bytes =
            checked_product("head_dim", checked_product("head_dim", rows, width), element);
        return (bytes + page - 1) / page * page;
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t total_bytes() const {
        const std::size_t heads =
            checked_product("heads_kv", heads_kv_, key_bytes_ + value_bytes_ + label_bytes_);
        const std::size_t sums = checked_product("heads_kv", heads_kv_, value_dim_);
        return heads +
               checked_product("heads_kv", sums, tokens_ / checkpoint_tokens * sizeof(double));
    }
    [[nodiscard]] SPARQ_PER_ISA std::byte* head(std::size_t g) noexcept {
        return memory_.get() + g * (key_bytes_ + value_bytes_ + label_bytes_);
    }

    std::size_t first_token_, tokens_, heads_kv_, head_dim_, value_dim_;
    std::size_t key_bytes_, value_bytes_, label_bytes_;
    aligned_bytes memory_;
};

}  // namespace detail
SPARQ_NAMESPACE_END
