// SPDX-License-Identifier: MIT
// tiered_view: what attention in tiers of precision reads, in memory owned by anybody.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "code_labels.hpp"
#include "config.hpp"
#include "kernels/code_rows.hpp"
#include "kv_view.hpp"

SPARQ_NAMESPACE_BEGIN

/// What is known of the channels of a KV head's keys, over the tokens that have codes.
struct channel_moments {
    const float* mean;          ///< [d_h]
    const float* variance;      ///< [d_h], around the mean
    const float* square_width;  ///< [d_h], mean square of the width of the tokens' ranges
};

/// A kv_view with labels of 2 bits, and beside it each token's K and V once more as rows of
/// 4-bit codes. A code row holds the codes of K, their range, those of V and theirs; what K's
/// codes stand for is relative to the middle and the width of the labels' ranges of the
/// token's strip: k[c] = middle[c] + width[c] * (minimum + step * code[c]).
///
/// Owns nothing, like kv_view; made by tiered_cache and tier_codes.
///
/// @tparam T  float, half, bfloat16, or int8_row (int8_row.hpp)
template <row_element T>
class tiered_view {
   public:
    using element = T;

    /// Parts of one KV head that no segment of the rows knows.
    struct head {
        channel_moments moments;
        /// [d_h], ranges of the tokens behind the labelled ones; null while there are none:
        /// those tokens have no code rows then.
        const code_range* open_ranges;
        double value_squares;  ///< the sum of |V|^2 over all tokens
    };

    SPARQ_PER_ISA tiered_view(const kv_view<T, int2_label>& rows,
                              std::span<const std::uint8_t* const> code_rows,
                              std::span<const head> heads) noexcept
        : rows_(rows), code_rows_(code_rows), heads_(heads) {}

    /// Keys, values and 2-bit labels.
    [[nodiscard]] const kv_view<T, int2_label>& rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t heads_kv() const noexcept { return rows_.heads_kv(); }
    [[nodiscard]] std::size_t head_dim() const noexcept { return rows_.head_dim(); }
    [[nodiscard]] std::size_t value_dim() const noexcept { return rows_.value_dim(); }
    [[nodiscard]] std::size_t seq_len() const noexcept { return rows_.seq_len(); }

    /// Bytes of a code row, from one to the next.
    [[nodiscard]] SPARQ_PER_ISA std::size_t code_row_pitch() const noexcept {
        return code_row_pitch(head_dim(), value_dim());
    }
    [[nodiscard]] SPARQ_PER_ISA static constexpr std::size_t code_row_pitch(
        std::size_t head_dim, std::size_t value_dim) noexcept {
        return kernels::code_row_bytes(head_dim) + kernels::code_row_bytes(value_dim) +
               2 * sizeof(kernels::row_range);
    }
    /// Code row of the first token of segment s of KV head g.
    [[nodiscard]] SPARQ_PER_ISA const std::uint8_t* code_rows(std::size_t s,
                                                              std::size_t g) const noexcept {
        return code_rows_[s * heads_kv() + g];
    }
    [[nodiscard]] SPARQ_PER_ISA const head& of_head(std::size_t g) const noexcept {
        return heads_[g];
    }

   private:
    kv_view<T, int2_label> rows_;
    std::span<const std::uint8_t* const> code_rows_;  ///< [segments, heads_kv]
    std::span<const head> heads_;                     ///< [heads_kv]
};

SPARQ_NAMESPACE_END
