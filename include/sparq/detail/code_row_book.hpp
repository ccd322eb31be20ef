// SPDX-License-Identifier: MIT
// code_row_book: the 4-bit rows of a cache and what is known of its heads, kept in step with
// the rows and the labels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "../code_labels.hpp"
#include "../config.hpp"
#include "../kernels/convert.hpp"
#include "../kernels/softmax.hpp"
#include "../memory_policy.hpp"
#include "../tiered_view.hpp"
#include "../workspace.hpp"
#include "channel_sums.hpp"
#include "check.hpp"
#include "code_row_writer.hpp"
#include "isa_vector.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class T>
class code_row_book {
   public:
    using rows_view = kv_view<T, int2_label>;
    using head = typename tiered_view<T>::head;

    SPARQ_PER_ISA code_row_book(std::size_t heads_kv, std::size_t head_dim, std::size_t value_dim,
                                memory_policy pages)
        : heads_kv_(heads_kv),
          head_dim_(head_dim),
          pages_(pages),
          writer_(head_dim, value_dim),
          all_sums_(heads_kv, channel_sums(head_dim)),
          closed_sums_(heads_kv, channel_sums(head_dim)),
          done_(heads_kv),
          moments_(3 * heads_kv * head_dim),
          open_(2 * heads_kv * head_dim),
          closed_(2 * head_dim),
          value_(value_dim),
          heads_(heads_kv) {
        for (std::size_t g = 0; g < heads_kv; ++g) {
            const float* m = moments_.data() + 3 * g * head_dim;
            heads_[g].moments = {m, m + head_dim, m + 2 * head_dim};
        }
    }

    [[nodiscard]] std::size_t segments() const noexcept { return slabs_.size(); }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

    /// Makes room for the code rows of one more segment.
    /// @throws std::bad_alloc; all stays as it was
    SPARQ_PER_ISA void add_segment(std::size_t tokens) {
        const std::size_t head_bytes = checked_product("head_dim", tokens, writer_.layout().pitch);
        const std::size_t all = checked_product("heads_kv", heads_kv_, head_bytes);
        capacity_ += tokens;
        try {
            squares_.resize((capacity_ + block_tokens - 1) / block_tokens * heads_kv_);
            saved_sums_.resize((capacity_ / saved_tokens + 1) * heads_kv_ * 3 * head_dim_);
            table_.reserve(std::max(table_.size() + heads_kv_, 2 * table_.size()));
            slabs_.push_back(allocate_aligned(all, pages_));
        } catch (...) {
            capacity_ -= tokens;
            throw;
        }
        bytes_ += all;
        auto* memory = reinterpret_cast<std::uint8_t*>(slabs_.back().get());
        for (std::size_t g = 0; g < heads_kv_; ++g) table_.push_back(memory + g * head_bytes);
    }

    /// The rows' tokens from `before` on are new (none, after a truncate to `before`).
    template <class Arch>
    void follow(const rows_view& view, std::size_t before) noexcept {
        for (std::size_t g = 0; g < heads_kv_; ++g) follow_head<Arch>(view, g, before);
    }

    /// Only the first n tokens of the rows are left, of more.
    template <class Arch>
    void truncate(const rows_view& view, std::size_t n) noexcept {
        for (std::size_t g = 0; g < heads_kv_; ++g) {
            heads_[g].value_squares = squares_[n / block_tokens * heads_kv_ + g];
            const std::size_t begin = n / block_tokens * block_tokens;
            for_tokens(view, g, begin, [&](std::size_t, const auto& part, std::size_t t, auto*) {
                heads_[g].value_squares += square<Arch>(part.values + t * part.value_stride);
            });
            follow_head<Arch>(view, g, n);
        }
    }

    SPARQ_PER_ISA void clear() noexcept {
        std::fill(moments_.begin(), moments_.end(), 0.0f);
        for (std::size_t g = 0; g < heads_kv_; ++g) {
            done_[g] = {};
            all_sums_[g].clear();
            closed_sums_[g].clear();
            heads_[g].open_ranges = nullptr;
            heads_[g].value_squares = 0.0;
        }
    }

    [[nodiscard]] SPARQ_PER_ISA tiered_view<T> view(const rows_view& rows) const noexcept {
        return {rows, std::span(table_).first(rows.segments_per_head() * heads_kv_), heads_};
    }

   private:
    /// How many tokens of a head stand in labels, and how many of those in closed strips.
    struct coded {
        std::size_t labelled = 0, closed = 0;
        friend bool operator==(const coded&, const coded&) = default;
    };
    static constexpr std::size_t block_tokens = 64;
    /// Tokens between two stored sums of channels: what a truncate may have to measure again.
    static constexpr std::size_t saved_tokens = 8 * code_strip_tokens;

    template <class Arch>
    double square(const T* row) noexcept {
        kernels::convert_row<Arch>(row, value_.size(), value_.data());
        return kernels::sum_of_products<Arch>(value_.data(), value_.data(), value_.size());
    }

    /// body(token, segment, its index there, its code row) for the tokens from `begin` on.
    template <class Body>
    void for_tokens(const rows_view& view, std::size_t g, std::size_t begin,
                    const Body& body) const noexcept {
        for (std::size_t s = 0, first = 0; s < view.segments_per_head(); ++s) {
            const kv_segment<T, int2_label>& part = view.segment(s, g);
            std::uint8_t* code_rows = table_[s * heads_kv_ + g];
            for (std::size_t t = begin > first ? begin - first : 0; t < part.tokens; ++t)
                body(first + t, part, t, code_rows + t * writer_.layout().pitch);
            first += part.tokens;
        }
    }

    template <class Arch>
    void follow_head(const rows_view& view, std::size_t g, std::size_t before) noexcept {
        coded now;
        for (std::size_t s = 0; s < view.segments_per_head(); ++s) {
            now.labelled += view.segment(s, g).labelled;
            now.closed += view.segment(s, g).closed;
        }
        std::size_t changed = before;
        if (now != done_[g]) {
            update_moments<Arch>(view, g, now);
            changed = std::min(before, now.closed != done_[g].closed
                                           ? std::min(now.closed, done_[g].closed)
                                           : std::min(now.labelled, done_[g].labelled));
        }
        done_[g] = now;
        const code_range *open = heads_[g].open_ranges, *in_use = nullptr;
        const float* open_normalisation = open_.data() + 2 * g * head_dim_;
        for_tokens(view, g, changed,
                   [&](std::size_t token, const auto& part, std::size_t t, std::uint8_t* code_row) {
                       const code_range* ranges =
                           t < part.labelled ? code_strip_of(part, t, head_dim_).ranges : open;
                       if (ranges != open && ranges != in_use)
                           writer_.template normalise<Arch>(in_use = ranges, closed_.data());
                       if (ranges != nullptr)
                           writer_.template write_key<Arch>(
                               part.keys + t * part.key_stride,
                               ranges == open ? open_normalisation : closed_.data(), code_row);
                       if (token >= before)
                           take_value<Arch>(g, token, part.values + t * part.value_stride,
                                            code_row);
                   });
    }

    template <class Arch>
    void take_value(std::size_t g, std::size_t token, const T* row,
                    std::uint8_t* code_row) noexcept {
        if (token % block_tokens == 0)
            squares_[token / block_tokens * heads_kv_ + g] = heads_[g].value_squares;
        heads_[g].value_squares += square<Arch>(row);  // and leaves the row in value_
        writer_.template write_value<Arch>(static_cast<const float*>(value_.data()), token,
                                           code_row);
    }

    /// Goes on from the blocks that have been added up, or from where blocks are no more.
    template <class Arch>
    void update_moments(const rows_view& view, std::size_t g, const coded& now) noexcept {
        std::size_t token = done_[g].labelled;
        if (now.closed < done_[g].closed) {
            token = now.closed / saved_tokens * saved_tokens;
            closed_sums_[g].restore(saved(g, token), token);
            all_sums_[g].take(closed_sums_[g]);
        } else if (now.labelled < token) {
            token = now.closed;
            all_sums_[g].take(closed_sums_[g]);
        }
        heads_[g].open_ranges = nullptr;
        for (std::size_t s = 0, first = 0; s < view.segments_per_head(); ++s) {
            const kv_segment<T, int2_label>& part = view.segment(s, g);
            // Of a segment that is full some blocks may be due yet; none are labelled behind it.
            for (; token - first < part.labelled; token += block_tokens)
                add_block<Arch>(part, g, token - first, token);
            if (part.labelled != 0)
                heads_[g].open_ranges = code_strip_of(part, part.labelled - 1, head_dim_).ranges;
            first += part.tokens;
        }
        all_sums_[g].moments(moments_.data() + 3 * g * head_dim_);
        if (heads_[g].open_ranges != nullptr)
            writer_.template normalise<Arch>(heads_[g].open_ranges,
                                             open_.data() + 2 * g * head_dim_);
    }

    /// @param t  of the block's first token in the segment
    template <class Arch>
    void add_block(const kv_segment<T, int2_label>& part, std::size_t g, std::size_t t,
                   std::size_t token) noexcept {
        if (token % saved_tokens == 0) closed_sums_[g].save(saved(g, token));
        channel_sums& all = all_sums_[g];
        all.template add_keys<Arch>(part.keys + t * part.key_stride, part.key_stride,
                                    token < code_sinks ? code_sinks - token : 0);
        const code_strip<int2_label> strip = code_strip_of(part, t, head_dim_);
        if (strip.tokens == block_tokens) return all.add_widths(strip.ranges, block_tokens);
        if (t + block_tokens != strip.begin + strip.tokens) return;
        closed_sums_[g].take_keys(all);
        closed_sums_[g].add_widths(strip.ranges, strip.tokens);
        all.take(closed_sums_[g]);
    }

    /// The sums over the tokens before a multiple of saved_tokens.
    [[nodiscard]] SPARQ_PER_ISA double* saved(std::size_t g, std::size_t token) noexcept {
        return saved_sums_.data() + (token / saved_tokens * heads_kv_ + g) * 3 * head_dim_;
    }

    std::size_t heads_kv_, head_dim_;
    memory_policy pages_;
    code_row_writer writer_;
    isa_vector<channel_sums> all_sums_;     ///< [heads_kv]: over all that is labelled
    isa_vector<channel_sums> closed_sums_;  ///< [heads_kv]: over closed strips
    isa_vector<coded> done_;                ///< [heads_kv]
    isa_vector<float> moments_;             ///< [heads_kv, 3, d_h]
    isa_vector<float> open_;                ///< [heads_kv, 2, d_h]: of open_ranges, normalised
    isa_vector<float> closed_;              ///< [2, d_h]: of another strip, scratch
    isa_vector<float> value_;               ///< scratch
    isa_vector<head> heads_;                ///< [heads_kv]
    isa_vector<double> squares_;            ///< [blocks, heads_kv]: value_squares before each
    isa_vector<double> saved_sums_;         ///< [capacity / saved_tokens, heads_kv, 3, d_h]
    isa_vector<aligned_bytes> slabs_;       ///< [segments]
    isa_vector<std::uint8_t*> table_;       ///< [segments, heads_kv]
    std::size_t capacity_ = 0, bytes_ = 0;
};

}  // namespace detail
SPARQ_NAMESPACE_END
