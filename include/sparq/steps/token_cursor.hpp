// SPDX-License-Identifier: MIT
// token_cursor: from a token's index to its rows, for indices that ascend.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>

#include "../config.hpp"
#include "../detail/check.hpp"
#include "../kv_view.hpp"

SPARQ_NAMESPACE_BEGIN

namespace detail {

SPARQ_PER_ISA inline void check_head(std::size_t g, std::size_t heads_kv) {
    if (g >= heads_kv) refuse("g", g, detail::text("less than heads_kv = ", heads_kv));
}

}  // namespace detail

namespace steps {

/// Walks the segments of one KV head forwards.
template <class T, class Label>
class token_cursor {
   public:
    SPARQ_PER_ISA token_cursor(const kv_view<T, Label>& view, std::size_t g) noexcept
        : view_(view), g_(g) {}

    /// Goes to `token`, which is not before where the cursor stands and less than seq_len.
    SPARQ_PER_ISA void seek(std::size_t token) noexcept {
        while (token - first_ >= segment().tokens) {
            first_ += segment().tokens;
            ++index_;
        }
        offset_ = token - first_;
    }

    [[nodiscard]] const kv_segment<T, Label>& segment() const noexcept {
        return view_.segment(index_, g_);
    }
    /// The token's index within the segment, and the tokens from it to the segment's end.
    [[nodiscard]] std::size_t offset() const noexcept { return offset_; }
    [[nodiscard]] std::size_t left() const noexcept { return segment().tokens - offset_; }

    [[nodiscard]] SPARQ_PER_ISA const T* key_row() const noexcept {
        return segment().keys + offset_ * segment().key_stride;
    }
    [[nodiscard]] SPARQ_PER_ISA const T* value_row() const noexcept {
        return segment().values + offset_ * segment().value_stride;
    }

   private:
    kv_view<T, Label> view_;
    std::size_t g_;
    std::size_t index_ = 0, first_ = 0, offset_ = 0;
};

}  // namespace steps
SPARQ_NAMESPACE_END
