// SPDX-License-Identifier: MIT
// Where the scan finds the labels of a token, and what it multiplies them with.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../config.hpp"
#include "../kernels/dot_rows.hpp"
#include "../kernels/scan_codes.hpp"
#include "../kv_view.hpp"
#include "token_cursor.hpp"

SPARQ_NAMESPACE_BEGIN
namespace steps {

/// What the scan multiplies keys with: q[h][i1] / tau[h].
struct scan_weights {
    const float* data;  ///< [heads, r]
    std::size_t heads, r;
    const std::uint32_t* components;  ///< [r]
};

SPARQ_PER_ISA inline kernels::code_query query_of(const scan_weights& weights) noexcept {
    return {weights.data, weights.heads, weights.r, weights.components, weights.r};
}

/// Where a run of labels begins; no segment: nowhere.
template <class T, class Label>
struct label_place {
    const kv_segment<T, Label>* part = nullptr;
    std::size_t offset = 0;

    /// Pointers to the run in channels [first, first + count) of the chosen components.
    SPARQ_PER_ISA void point(const scan_weights& weights, std::size_t first, std::size_t count,
                             const Label** channels) const noexcept {
        for (std::size_t c = 0; c < count; ++c)
            channels[c] =
                part->keys_t + weights.components[first + c] * part->channel_stride + offset;
    }
};

/// Where the labels of the token lie that the cursor comes to next, if it has any.
template <class T, class Label>
SPARQ_PER_ISA label_place<T, Label> place_of(const kv_view<T, Label>& view,
                                             token_cursor<T, Label> cursor,
                                             std::size_t token) noexcept {
    if (token >= view.seq_len()) return {};
    cursor.seek(token);
    if (cursor.offset() >= cursor.segment().labelled) return {};
    return {&cursor.segment(), cursor.offset()};
}

/// Channels of a run of tokens that are read side by side, and those that are read next.
template <class Label>
struct channel_streams {
    channel_streams(std::size_t of_run, std::size_t asked_ahead) noexcept
        : tokens(of_run), ahead(asked_ahead) {}

    std::size_t tokens, ahead;  ///< of the run; how far what is asked for lies ahead
    bool next_is_known = true;
    const Label *channels[most_channels_at_once], *next[most_channels_at_once];

    /// Points at token `from` of `count` channels, and at what is to be asked for meanwhile: what
    /// lies ahead, past the run's end at the front of what is read next. False: nothing is known.
    bool seek(std::size_t from, std::size_t count, const Label** present,
              const Label** wanted) const noexcept {
        const bool is_within = from + ahead < tokens;
        for (std::size_t c = 0; c < count; ++c) {
            present[c] = channels[c] + from;
            if (is_within || next_is_known)
                wanted[c] = is_within ? present[c] + ahead : next[c] + (from + ahead - tokens);
        }
        return is_within || next_is_known;
    }
};

/// K of tokens [begin, end) that have no labels: rows that no stream of the scan brings. (Inlined:
/// as in accumulate_channels.hpp.)
template <class T, class Label>
struct unlabelled_rows {
    const kv_view<T, Label>& view;
    std::size_t g, begin, end;

    SPARQ_ALWAYS_INLINE void ask() const noexcept {
        token_cursor<T, Label> cursor(view, g);
        for (std::size_t t = begin; t < std::min(end, begin + most_unlabelled_tokens); ++t) {
            cursor.seek(t);
            const T* row = cursor.key_row();
            kernels::upcoming_rows<T>{&row, 1, view.head_dim()}.prefetch(0, 1);
        }
    }
};

}  // namespace steps
SPARQ_NAMESPACE_END
