// SPDX-License-Identifier: MIT
// tiered_cache: the key/value history of one layer and sequence, at several precisions.
//
// A kv_cache with labels of 2 bits, and for each token a row of 4-bit codes of K and V.
// K's codes follow the ranges of the labels: when a block or a strip of those is coded
// anew, so are its rows. Tokens that have no labels yet use the last ranges there are.
//
// tiered_cache<int8_row> keeps K and V themselves as rows of 8-bit codes (int8_row.hpp): for
// those who want the memory.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>

#include "config.hpp"
#include "detail/check.hpp"
#include "detail/code_row_book.hpp"
#include "detail/row_kernels.hpp"
#include "kv_cache.hpp"
#include "tiered_view.hpp"

SPARQ_NAMESPACE_BEGIN

/// Memory: what a kv_cache<T, int2_label> takes, and (d_h + value_dim) / 2 + 8 bytes more per
/// token and KV head: with T = half about a third of the bytes of K and V, beside those.
/// Results depend on the tokens only, as with kv_cache.
///
/// With int8_row K and V take d_h + value_dim + 16 bytes, half of what they take in half and a
/// few percent; all else is made of what their codes stand for, and is as large. What calls
/// "exact" and "dense" reads these rows: docs/tiers.md has the error that 8 bits leave.
///
/// One thread at a time may change a cache; any number may read it meanwhile unchanged.
///
/// @tparam T  element type of keys and values: float, half, bfloat16 or int8_row
template <row_element T>
class tiered_cache {
   public:
    /// @throws std::invalid_argument for a zero or overflowing size
    SPARQ_PER_ISA tiered_cache(std::size_t heads_kv, std::size_t head_dim)
        : tiered_cache(heads_kv, head_dim, head_dim) {}

    /// @param value_dim  width of V, narrower or wider than K
    /// @param pages      of what segments are made; a hint that changes no result
    SPARQ_PER_ISA tiered_cache(std::size_t heads_kv, std::size_t head_dim, std::size_t value_dim,
                               memory_policy pages = memory_policy::system)
        : rows_(heads_kv, head_dim, value_dim, pages),
          codes_(heads_kv, head_dim, value_dim, pages) {}

    SPARQ_PER_ISA tiered_cache(tiered_cache&&) noexcept = default;
    SPARQ_PER_ISA tiered_cache& operator=(tiered_cache&&) noexcept = default;

    [[nodiscard]] std::size_t heads_kv() const noexcept { return rows_.heads_kv(); }
    [[nodiscard]] std::size_t head_dim() const noexcept { return rows_.head_dim(); }
    [[nodiscard]] std::size_t value_dim() const noexcept { return rows_.value_dim(); }
    /// Tokens held.
    [[nodiscard]] std::size_t seq_len() const noexcept { return rows_.seq_len(); }
    /// Tokens for which there is memory.
    [[nodiscard]] SPARQ_PER_ISA std::size_t capacity() const noexcept {
        std::size_t tokens = 0;  // the rows may have a segment more, made ahead
        for (std::size_t s = 0; s < codes_.segments(); ++s) tokens += rows_.segment_capacity(s);
        return tokens;
    }

    /// Appends n >= 1 tokens, the newest last.
    ///
    /// @param keys    [n, heads_kv, d_h], rounded to T (nearest, ties to even); floats, or as
    ///                they are stored; with int8_row floats, halves or bfloat16s
    /// @param values  [n, heads_kv, value_dim]
    /// @throws std::invalid_argument for sizes that are not n >= 1 whole tokens, the same
    ///         n in both; std::bad_alloc. Either leaves the cache as it was.
    template <class Arch = default_arch>
    void append(std::span<const float> keys, std::span<const float> values) {
        append_rows<Arch>(keys, values);
    }
    template <class Arch = default_arch>
        requires(cache_element<T> && !std::same_as<T, float>)
    void append(std::span<const T> keys, std::span<const T> values) {
        append_rows<Arch>(keys, values);
    }
    template <class Arch = default_arch>
        requires(std::same_as<T, int8_row>)
    void append(std::span<const half> keys, std::span<const half> values) {
        append_rows<Arch>(keys, values);
    }
    template <class Arch = default_arch>
        requires(std::same_as<T, int8_row>)
    void append(std::span<const bfloat16> keys, std::span<const bfloat16> values) {
        append_rows<Arch>(keys, values);
    }

    /// Drops the newest tokens until n are left.
    /// @throws std::invalid_argument when n exceeds seq_len()
    template <class Arch = default_arch>
    void truncate(std::size_t n) {
        if (n == seq_len()) return;
        rows_.template truncate<Arch>(n);
        if (n == 0)
            codes_.clear();
        else
            codes_.template truncate<Arch>(rows_.view(), n);
    }

    /// Drops all tokens and keeps the memory.
    SPARQ_PER_ISA void clear() noexcept {
        rows_.clear();
        codes_.clear();
    }

    /// Makes room for n tokens in all, so that appends up to there allocate nothing.
    /// @throws std::bad_alloc, std::invalid_argument for n >= 2^32; the cache stays as it was,
    ///         but may have part of the room
    SPARQ_PER_ISA void reserve(std::size_t n) {
        make_room(n);
        rows_.reserve(n);
    }

    /// What attention reads. Good until the cache is next changed.
    [[nodiscard]] SPARQ_PER_ISA tiered_view<T> view() const noexcept {
        return codes_.view(rows_.view());
    }

    /// Bytes of K and V that there is memory for, themselves and with int8_row their ranges.
    [[nodiscard]] SPARQ_PER_ISA std::size_t row_bytes() const noexcept {
        return heads_kv() * rows_.capacity() *
               (bytes_of_row<T>(head_dim()) + bytes_of_row<T>(value_dim()));
    }
    /// Bytes of codes and ranges held, beside K and V themselves and their sums.
    [[nodiscard]] SPARQ_PER_ISA std::size_t code_bytes() const noexcept {
        return codes_.bytes() + rows_.label_bytes();
    }

   private:
    /// For n tokens in all. Rows that no codes can be had for are given back: a long segment
    /// of them would ask every later append for as many codes.
    SPARQ_PER_ISA void make_room(std::size_t n) {
        const std::size_t before = rows_.segments();
        rows_.make_room(n);
        try {
            while (capacity() < n) codes_.add_segment(rows_.segment_capacity(codes_.segments()));
        } catch (...) {
            rows_.drop_segments(std::max(before, codes_.segments()));
            throw;
        }
    }

    template <class Arch, class From>
    void append_rows(std::span<const From> keys, std::span<const From> values) {
        const std::size_t before = seq_len();
        const std::size_t n = detail::check_append(keys.size(), heads_kv() * head_dim(),
                                                   values.size(), heads_kv() * value_dim(), before);
        detail::row_kernels<Arch>::choose();
        make_room(before + n);
        rows_.template append<Arch>(keys, values);
        codes_.template follow<Arch>(rows_.view(), before);
    }

    kv_cache<T, int2_label> rows_;
    detail::code_row_book<T> codes_;
};

SPARQ_NAMESPACE_END
