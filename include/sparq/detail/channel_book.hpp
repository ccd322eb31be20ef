// SPDX-License-Identifier: MIT
// channel_book: the channel_moments of a cache's heads, kept in step with its labels.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../code_labels.hpp"
#include "../config.hpp"
#include "../kv_view.hpp"
#include "../tiered_view.hpp"
#include "channel_sums.hpp"
#include "isa_vector.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// How many tokens of a head stand in labels, and how many of those in closed strips.
struct coded_tokens {
    std::size_t labelled = 0, closed = 0;
    friend bool operator==(const coded_tokens&, const coded_tokens&) = default;
};

class SPARQ_ISA_TYPE channel_book {
   public:
    SPARQ_PER_ISA channel_book(std::size_t heads_kv, std::size_t head_dim)
        : heads_kv_(heads_kv),
          head_dim_(head_dim),
          all_sums_(heads_kv, channel_sums(head_dim)),
          closed_sums_(heads_kv, channel_sums(head_dim)),
          moments_(3 * heads_kv * head_dim) {}

    /// @throws std::bad_alloc; all stays as it was
    SPARQ_PER_ISA void make_room(std::size_t tokens) {
        saved_sums_.resize((tokens / saved_tokens + 1) * heads_kv_ * 3 * head_dim_);
    }
    /// Zeros until the first update; where they are does not change.
    [[nodiscard]] SPARQ_PER_ISA channel_moments moments(std::size_t g) const noexcept {
        const float* m = moments_.data() + 3 * g * head_dim_;
        return {m, m + head_dim_, m + 2 * head_dim_};
    }
    SPARQ_PER_ISA void clear() noexcept {
        std::fill(moments_.begin(), moments_.end(), 0.0f);
        for (std::size_t g = 0; g < heads_kv_; ++g) {
            all_sums_[g].clear();
            closed_sums_[g].clear();
        }
    }

    /// Goes on from the blocks that have been added up, or from where there are none any more
    /// or, from token `from` on, others.
    ///
    /// @param done, now  of head g: at the last update, and as the view has it
    template <class Arch, class T>
    void update(const kv_view<T, int2_label>& view, std::size_t g, const coded_tokens& done,
                const coded_tokens& now, std::size_t from) noexcept {
        std::size_t token = done.labelled;
        if (const std::size_t sound = std::min(from, now.closed); sound < done.closed) {
            token = sound / saved_tokens * saved_tokens;
            closed_sums_[g].restore(saved(g, token), token);
            all_sums_[g].take(closed_sums_[g]);
        } else if (std::min(from, now.labelled) < token) {
            token = done.closed;
            all_sums_[g].take(closed_sums_[g]);
        }
        for (std::size_t s = 0, first = 0; s < view.segments_per_head(); ++s) {
            const kv_segment<T, int2_label>& part = view.segment(s, g);
            // Of a segment that is full some blocks may be due yet; none are labelled behind it.
            for (; token - first < part.labelled; token += code_block_tokens)
                add_block<Arch>(part, g, token - first, token);
            first += part.tokens;
        }
        all_sums_[g].moments(moments_.data() + 3 * g * head_dim_);
    }

   private:
    /// Tokens between two stored sums of channels: what a truncate may have to measure again.
    static constexpr std::size_t saved_tokens = 8 * code_strip_tokens;

    /// @param t  of the block's first token in the segment
    template <class Arch, class T>
    void add_block(const kv_segment<T, int2_label>& part, std::size_t g, std::size_t t,
                   std::size_t token) noexcept {
        if (token % saved_tokens == 0) closed_sums_[g].save(saved(g, token));
        channel_sums& all = all_sums_[g];
        all.template add_keys<Arch>(part.keys + t * part.key_stride, part.key_stride,
                                    token < code_sinks ? code_sinks - token : 0);
        const code_strip<int2_label> strip = code_strip_of(part, t, head_dim_);
        if (strip.tokens == code_block_tokens)
            return all.add_widths(strip.ranges, code_block_tokens);
        if (t + code_block_tokens != strip.begin + strip.tokens) return;
        closed_sums_[g].take_keys(all);
        closed_sums_[g].add_widths(strip.ranges, strip.tokens);
        all.take(closed_sums_[g]);
    }

    /// The sums over the tokens before a multiple of saved_tokens.
    [[nodiscard]] SPARQ_PER_ISA double* saved(std::size_t g, std::size_t token) noexcept {
        return saved_sums_.data() + (token / saved_tokens * heads_kv_ + g) * 3 * head_dim_;
    }

    std::size_t heads_kv_, head_dim_;
    isa_vector<channel_sums> all_sums_;     ///< [heads_kv]: over all that is labelled
    isa_vector<channel_sums> closed_sums_;  ///< [heads_kv]: over closed strips
    isa_vector<float> moments_;             ///< [heads_kv, 3, d_h]
    isa_vector<double> saved_sums_;         ///< [capacity / saved_tokens, heads_kv, 3, d_h]
};

}  // namespace detail
SPARQ_NAMESPACE_END
