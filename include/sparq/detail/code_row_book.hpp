// SPDX-License-Identifier: MIT
// code_row_book: the 4-bit rows of a cache and what is known of its heads, kept in step with
// the rows and the labels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "../code_labels.hpp"
#include "../config.hpp"
#include "../kernels/int8_rows.hpp"
#include "../memory_policy.hpp"
#include "../tiered_view.hpp"
#include "../workspace.hpp"
#include "channel_book.hpp"
#include "check.hpp"
#include "code_row_writer.hpp"
#include "isa_vector.hpp"
#include "row_kernels.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class T>
class SPARQ_ISA_TYPE code_row_book {
   public:
    using rows_view = kv_view<T, int2_label>;
    using head = typename tiered_view<T>::head;

    SPARQ_PER_ISA code_row_book(std::size_t heads_kv, std::size_t head_dim, std::size_t value_dim,
                                memory_policy pages)
        : heads_kv_(heads_kv),
          head_dim_(head_dim),
          pages_(pages),
          writer_(head_dim, value_dim),
          channels_(heads_kv, head_dim),
          done_(heads_kv),
          open_(heads_kv * writer_.normalisation_floats()),
          closed_(writer_.normalisation_floats()),
          value_(value_dim),
          heads_(heads_kv) {
        for (std::size_t g = 0; g < heads_kv; ++g) heads_[g].moments = channels_.moments(g);
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
            channels_.make_room(capacity_);
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
            for_tokens(view, g, begin, n, [&](std::size_t, const auto& part, std::size_t t, auto*) {
                heads_[g].value_squares += square<Arch>(part.values + t * part.value_stride);
            });
            follow_head<Arch>(view, g, n);
        }
    }

    SPARQ_PER_ISA void clear() noexcept {
        channels_.clear();
        for (std::size_t g = 0; g < heads_kv_; ++g) {
            done_[g] = {};
            heads_[g].open_ranges = nullptr;
            heads_[g].value_squares = 0.0;
        }
    }

    // For rows that an engine owns and writes anew (tier_codes.hpp), seen as one view of all
    // cells whose segments are those of add_segment.

    [[nodiscard]] const head& of_head(std::size_t g) const noexcept { return heads_[g]; }
    [[nodiscard]] SPARQ_PER_ISA const std::uint8_t* code_row(std::size_t s, std::size_t g,
                                                             std::size_t t) const noexcept {
        return table_[s * heads_kv_ + g] + t * writer_.layout().pitch;
    }
    /// A token of head g was written anew: V's codes, and K's if it has no labels. Those that
    /// have get new ranges, see rewrite_keys.
    template <class Arch>
    void rewrite(const rows_view& view, std::size_t g, std::size_t token) noexcept {
        for_tokens(view, g, token, token + 1,
                   [&](std::size_t, const auto& part, std::size_t t, std::uint8_t* code_row) {
                       writer_.template write_value<Arch>(part.values + t * part.value_stride,
                                                          token, code_row);
                       if (t >= part.labelled) rewrite_keys<Arch>(view, g, token, token + 1);
                   });
    }
    /// K's codes of tokens [begin, end) of head g.
    template <class Arch>
    void rewrite_keys(const rows_view& view, std::size_t g, std::size_t begin,
                      std::size_t end) noexcept {
        const code_range* in_use = nullptr;
        for_tokens(view, g, begin, end,
                   [&](std::size_t, const auto& part, std::size_t t, std::uint8_t* code_row) {
                       write_key<Arch>(g, part, t, code_row, in_use);
                   });
    }
    /// Labels of head g were made anew, which rewrite_keys was told of, none before token `from`,
    /// or may be fewer: brings up to date what follows from them all. Reads K from `from` on.
    template <class Arch>
    void settle(const rows_view& view, std::size_t g, std::size_t from) noexcept {
        const coded_tokens now = count(view, g);
        if (from >= now.labelled && now == done_[g]) return;
        update_head<Arch>(view, g, now, from);
        done_[g] = now;
        rewrite_keys<Arch>(view, g, now.labelled, view.seq_len());
    }

    [[nodiscard]] SPARQ_PER_ISA tiered_view<T> view(const rows_view& rows) const noexcept {
        return {rows, std::span(table_).first(rows.segments_per_head() * heads_kv_), heads_};
    }

   private:
    static constexpr std::size_t block_tokens = 64;

    template <class Arch>
    double square(const T* row) noexcept {
        return row_kernels<Arch>::widen_and_square(row, value_.size(), value_.data());
    }

    /// body(token, segment, its index there, its code row) for tokens [begin, end).
    template <class Body>
    void for_tokens(const rows_view& view, std::size_t g, std::size_t begin, std::size_t end,
                    const Body& body) const noexcept {
        for (std::size_t s = 0, first = 0; s < view.segments_per_head() && first < end; ++s) {
            const kv_segment<T, int2_label>& part = view.segment(s, g);
            std::uint8_t* code_rows = table_[s * heads_kv_ + g];
            const std::size_t stop = std::min(part.tokens, end - first);
            for (std::size_t t = begin > first ? begin - first : 0; t < stop; ++t)
                body(first + t, part, t, code_rows + t * writer_.layout().pitch);
            first += part.tokens;
        }
    }

    [[nodiscard]] SPARQ_PER_ISA coded_tokens count(const rows_view& view,
                                                   std::size_t g) const noexcept {
        coded_tokens all;
        for (std::size_t s = 0; s < view.segments_per_head(); ++s) {
            all.labelled += view.segment(s, g).labelled;
            all.closed += view.segment(s, g).closed;
        }
        return all;
    }

    /// @param in_use  ranges that closed_ was made of, or null; updated
    template <class Arch>
    void write_key(std::size_t g, const kv_segment<T, int2_label>& part, std::size_t t,
                   std::uint8_t* code_row, const code_range*& in_use) noexcept {
        const bool open = t >= part.labelled;
        if (open && heads_[g].open_ranges == nullptr) return;
        if (!open) {
            const code_range* ranges = code_strip_of(part, t, head_dim_).ranges;
            if (ranges != in_use) writer_.template normalise<Arch>(in_use = ranges, closed_.data());
        }
        writer_.template write_key<Arch>(
            part.keys + t * part.key_stride,
            open ? open_.data() + g * writer_.normalisation_floats() : closed_.data(), code_row);
    }

    template <class Arch>
    void update_head(const rows_view& view, std::size_t g, const coded_tokens& now,
                     std::size_t from = std::numeric_limits<std::size_t>::max()) noexcept {
        channels_.template update<Arch>(view, g, done_[g], now, from);
        heads_[g].open_ranges = nullptr;
        for (std::size_t s = 0; s < view.segments_per_head(); ++s) {
            const kv_segment<T, int2_label>& part = view.segment(s, g);
            if (part.labelled != 0)
                heads_[g].open_ranges = code_strip_of(part, part.labelled - 1, head_dim_).ranges;
        }
        if (heads_[g].open_ranges != nullptr)
            writer_.template normalise<Arch>(heads_[g].open_ranges,
                                             open_.data() + g * writer_.normalisation_floats());
    }

    template <class Arch>
    void follow_head(const rows_view& view, std::size_t g, std::size_t before) noexcept {
        const coded_tokens now = count(view, g);
        std::size_t changed = before;
        if (now != done_[g]) {
            update_head<Arch>(view, g, now);
            changed = std::min(before, now.closed != done_[g].closed
                                           ? std::min(now.closed, done_[g].closed)
                                           : std::min(now.labelled, done_[g].labelled));
        }
        done_[g] = now;
        const code_range* in_use = nullptr;
        for_tokens(view, g, changed, view.seq_len(),
                   [&](std::size_t token, const auto& part, std::size_t t, std::uint8_t* code_row) {
                       write_key<Arch>(g, part, t, code_row, in_use);
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

    std::size_t heads_kv_, head_dim_;
    memory_policy pages_;
    code_row_writer writer_;
    channel_book channels_;
    isa_vector<coded_tokens> done_;    ///< [heads_kv]
    isa_vector<float> open_;           ///< [heads_kv]: of open_ranges, normalised
    isa_vector<float> closed_;         ///< of another strip, scratch
    isa_vector<float> value_;          ///< scratch
    isa_vector<head> heads_;           ///< [heads_kv]
    isa_vector<double> squares_;       ///< [blocks, heads_kv]: value_squares before each
    isa_vector<aligned_bytes> slabs_;  ///< [segments]
    isa_vector<std::uint8_t*> table_;  ///< [segments, heads_kv]
    std::size_t capacity_ = 0, bytes_ = 0;
};

}  // namespace detail
SPARQ_NAMESPACE_END
