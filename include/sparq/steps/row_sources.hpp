// SPDX-License-Identifier: MIT
// Where attention's rows of K and V come from: listed tokens, or all of a range.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "../config.hpp"
#include "../kernels/dot_rows.hpp"
#include "token_cursor.hpp"

SPARQ_NAMESPACE_BEGIN
namespace steps {

/// Asks for the rows of tokens, given in ascending order.
template <class T, class Label>
class row_prefetch {
   public:
    SPARQ_PER_ISA row_prefetch(const kv_view<T, Label>& view, std::size_t g) noexcept
        : view_(view), cursor_(view, g) {}

    SPARQ_PER_ISA void operator()(std::size_t token) noexcept {
        cursor_.seek(token);
        ask(cursor_.key_row(), view_.head_dim());
        ask(cursor_.value_row(), view_.value_dim());
    }

   private:
    SPARQ_PER_ISA static void ask(const T* row, std::size_t width) noexcept {
        kernels::upcoming_rows<T>{&row, 1, width}.prefetch(0, 1);
    }

    kv_view<T, Label> view_;
    token_cursor<T, Label> cursor_;
};

/// Rows of one block.
template <class T>
struct row_block {
    const T* keys[most_block_tokens];
    const T* values[most_block_tokens];
    std::size_t count = 0;

    template <class Label>
    SPARQ_PER_ISA void add(const token_cursor<T, Label>& cursor) noexcept {
        keys[count] = cursor.key_row();
        values[count++] = cursor.value_row();
    }
};

/// Fills blocks with the rows of listed tokens.
template <class T, class Label>
class listed_rows {
   public:
    /// @param tokens  [count], ascending
    SPARQ_PER_ISA listed_rows(const kv_view<T, Label>& view, std::size_t g,
                              const std::uint32_t* tokens, std::size_t count) noexcept
        : cursor_(view, g), next_(tokens), end_(tokens + count) {}

    /// The next rows; none when all have been.
    SPARQ_PER_ISA void fill(row_block<T>& rows) noexcept {
        for (rows.count = 0; rows.count < attend_block_tokens && next_ != end_; ++next_) {
            cursor_.seek(*next_);
            rows.add(cursor_);
        }
    }

   private:
    token_cursor<T, Label> cursor_;
    const std::uint32_t* next_;
    const std::uint32_t* end_;
};

/// Fills blocks with the rows of all tokens [begin, end), a quarter of a block from each
/// quarter of the range, in turn: memory delivers four streams faster than one (four rows
/// of a quarter at a time 0.69 and 0.55 of the rate with half and float, one 0.77 and 0.73).
template <class T, class Label>
class streamed_rows {
   public:
    /// @param group  query heads of KV head g
    SPARQ_PER_ISA streamed_rows(const kv_view<T, Label>& view, std::size_t g, std::size_t group,
                                std::size_t begin, std::size_t end) noexcept
        : block_tokens_(streamed_block_tokens<T>(
              std::max(bytes_of_row<T>(view.head_dim()), bytes_of_row<T>(view.value_dim())),
              group)) {
        const std::size_t quarter = (end - begin + 3) / 4;
        for (std::size_t s = 0; s < 4; ++s) {
            const std::size_t from = std::min(begin + s * quarter, end);
            streams_[s] = stream(view, g, from, std::min(from + quarter, end));
        }
    }

    /// Rows of a block.
    [[nodiscard]] SPARQ_PER_ISA std::size_t block_tokens() const noexcept { return block_tokens_; }

    SPARQ_PER_ISA void fill(row_block<T>& rows) noexcept {
        switch (block_tokens_) {
            case 4:
                return fill_in_turns<1>(rows);
            case 8:
                return fill_in_turns<2>(rows);
            case attend_block_tokens:
                return fill_in_turns<attend_block_tokens / 4>(rows);
            default:
                return fill_in_turns<most_block_tokens / 4>(rows);
        }
    }

   private:
    /// A block in which every stream has that many turns.
    template <std::size_t Turns>
    SPARQ_PER_ISA void fill_in_turns(row_block<T>& rows) noexcept {
        rows.count = 0;
        bool whole = true;
        for (const stream& one : streams_) whole &= std::min(one.left, one.left_in_part) > Turns;
        if (whole) {
            for (std::size_t s = 0; s < 4; ++s) streams_[s].template take_all<Turns>(rows, s);
            rows.count = 4 * Turns;
            return;
        }
        for (std::size_t i = 0; i < Turns; ++i)
            for (stream& one : streams_)
                if (one.left != 0) one.take(rows);
    }

    /// The rows of consecutive tokens.
    struct stream {
        const kv_segment<T, Label>* part = nullptr;
        const T *key = nullptr, *value = nullptr;
        std::size_t left_in_part = 0, left = 0, parts = 0;

        stream() = default;
        SPARQ_PER_ISA stream(const kv_view<T, Label>& view, std::size_t g, std::size_t from,
                             std::size_t to) noexcept
            : left(to - from), parts(view.heads_kv()) {
            if (left == 0) return;
            token_cursor<T, Label> cursor(view, g);
            cursor.seek(from);
            part = &cursor.segment();
            key = cursor.key_row();
            value = cursor.value_row();
            left_in_part = cursor.left();
        }
        /// Rows of a block in which every stream has its turns, and more to come in its part.
        template <std::size_t Turns>
        SPARQ_PER_ISA void take_all(row_block<T>& rows, std::size_t s) noexcept {
            for (std::size_t i = 0; i < Turns; ++i) {
                rows.keys[4 * i + s] = key + i * part->key_stride;
                rows.values[4 * i + s] = value + i * part->value_stride;
            }
            key += Turns * part->key_stride;
            value += Turns * part->value_stride;
            left -= Turns;
            left_in_part -= Turns;
        }
        SPARQ_PER_ISA void take(row_block<T>& rows) noexcept {
            rows.keys[rows.count] = key;
            rows.values[rows.count++] = value;
            if (--left == 0) return;
            key += part->key_stride;
            value += part->value_stride;
            if (--left_in_part != 0) return;
            part += parts;
            key = part->keys;
            value = part->values;
            left_in_part = part->tokens;
        }
    };

    std::size_t block_tokens_;
    std::array<stream, 4> streams_;
};

/// Fills blocks with rows [begin, end) of a history whose row i is that of token i / H_kv and head
/// i % H_kv, the order in which an engine's cache holds them: not to attend but to ask for. Two
/// halves of the range take turns.
template <class T, class Label>
class rows_by_token {
   public:
    /// @param block  rows that are attended at a time meanwhile
    SPARQ_PER_ISA rows_by_token(const kv_view<T, Label>& view, std::size_t begin, std::size_t end,
                                std::size_t block) noexcept
        : block_(block) {
        const std::size_t middle = begin + (end - begin) / 2;
        halves_[0] = half_range(view, begin, middle);
        halves_[1] = half_range(view, middle, end);
    }

    SPARQ_PER_ISA void fill(row_block<T>& rows) noexcept {
        rows.count = 0;
        while (rows.count < block_ && halves_[1].left != 0) {
            halves_[0].take(rows);  // as long as the other, or a row shorter
            halves_[1].take(rows);
        }
    }

   private:
    struct half_range {
        const kv_segment<T, Label>* part = nullptr;  ///< [heads]
        std::size_t heads = 0, head = 0, token = 0, left = 0;

        half_range() = default;
        SPARQ_PER_ISA half_range(const kv_view<T, Label>& view, std::size_t from,
                                 std::size_t to) noexcept
            : heads(view.heads_kv()), head(from % heads), left(to - from) {
            if (left == 0) return;
            token_cursor<T, Label> cursor(view, 0);
            cursor.seek(from / heads);
            part = &cursor.segment();
            token = cursor.offset();
        }
        SPARQ_PER_ISA void take(row_block<T>& rows) noexcept {
            if (left == 0) return;
            rows.keys[rows.count] = part[head].keys + token * part[head].key_stride;
            rows.values[rows.count++] = part[head].values + token * part[head].value_stride;
            --left;
            if (++head != heads) return;
            head = 0;
            if (++token != part->tokens) return;
            token = 0;
            part += heads;
        }
    };

    std::size_t block_;
    std::array<half_range, 2> halves_;
};

}  // namespace steps
SPARQ_NAMESPACE_END
