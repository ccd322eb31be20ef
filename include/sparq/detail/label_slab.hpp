// SPDX-License-Identifier: MIT
// label_slab: the memory of the labels of some cells, beside rows that an engine owns.
//
// Per head keys_t [d_h, tokens + pad], and for labels of few bits their ranges
// [tokens / code_block_tokens, d_h]: what a segment_slab has, without the rows.
#pragma once

#include <cstddef>

#include "../code_labels.hpp"
#include "../config.hpp"
#include "../strided_kv.hpp"
#include "../workspace.hpp"
#include "check.hpp"
#include "segment_slab.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class Label>
class SPARQ_ISA_TYPE label_slab {
   public:
    /// @throws std::bad_alloc; std::invalid_argument when sizes overflow
    SPARQ_PER_ISA label_slab(std::size_t heads_kv, std::size_t head_dim, std::size_t first_token,
                             std::size_t tokens)
        : first_token_(first_token),
          tokens_(tokens),
          head_dim_(head_dim),
          range_bytes_(coded_label<Label>
                           ? lines(tokens / code_block_tokens * head_dim * sizeof(code_range))
                           : 0),
          head_bytes_(lines(head_dim * channel_stride() * sizeof(Label)) + range_bytes_),
          memory_(allocate_aligned(checked_product("heads_kv", heads_kv, head_bytes_))) {}

    [[nodiscard]] std::size_t first_token() const noexcept { return first_token_; }
    [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
    [[nodiscard]] std::size_t head_dim() const noexcept { return head_dim_; }
    [[nodiscard]] std::size_t end_token() const noexcept { return first_token_ + tokens_; }
    /// Of one head, ranges included.
    [[nodiscard]] std::size_t label_bytes() const noexcept { return head_bytes_; }

    /// Channels and ranges by the token's index within the slab.
    [[nodiscard]] SPARQ_PER_ISA Label* channel(std::size_t g, std::size_t c,
                                               std::size_t t) const noexcept {
        auto* labels = reinterpret_cast<Label*>(memory_.get() + g * head_bytes_ + range_bytes_);
        return label_of(labels + c * channel_stride(), t);
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t channel_stride() const noexcept {
        return label_stride<Label>(tokens_);
    }
    /// A row of ranges, [d_h]; see range_row.
    [[nodiscard]] SPARQ_PER_ISA code_range* ranges(std::size_t g, std::size_t row) const noexcept
        requires coded_label<Label>
    {
        return reinterpret_cast<code_range*>(memory_.get() + g * head_bytes_) + row * head_dim_;
    }

   private:
    SPARQ_PER_ISA static std::size_t lines(std::size_t bytes) noexcept {
        return (bytes + cache_line_bytes - 1) / cache_line_bytes * cache_line_bytes;
    }

    std::size_t first_token_, tokens_, head_dim_, range_bytes_, head_bytes_;
    aligned_bytes memory_;
};

/// A label_slab with the engine's rows, as slab_labels.hpp takes it.
template <class Engine, class Label>
struct engine_slab {
    using label = Label;
    const Engine& engine;
    const label_slab<Label>& slab;

    [[nodiscard]] std::size_t first_token() const noexcept { return slab.first_token(); }
    [[nodiscard]] std::size_t head_dim() const noexcept { return slab.head_dim(); }
    [[nodiscard]] std::size_t key_stride() const noexcept { return engine.key_token_stride; }
    [[nodiscard]] SPARQ_PER_ISA auto key_row(std::size_t g, std::size_t t) const noexcept {
        return engine.key_row(slab.first_token() + t, g);
    }
    [[nodiscard]] SPARQ_PER_ISA Label* channel(std::size_t g, std::size_t c,
                                               std::size_t t) const noexcept {
        return slab.channel(g, c, t);
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t channel_stride() const noexcept {
        return slab.channel_stride();
    }
    [[nodiscard]] SPARQ_PER_ISA code_range* ranges(std::size_t g, std::size_t row) const noexcept
        requires coded_label<Label>
    {
        return slab.ranges(g, row);
    }
};

}  // namespace detail
SPARQ_NAMESPACE_END
