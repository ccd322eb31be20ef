// SPDX-License-Identifier: MIT
// slab_labels: which tokens of a slab are labelled, and how.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../config.hpp"
#include "row_kernels.hpp"
#include "segment_slab.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// Tokens that are labelled together.
template <label_element Label>
inline constexpr std::size_t label_step = coded_label<Label> ? code_block_tokens : strip_tokens;

/// Tokens of the segment that begins at `first_token` when there is to be room for `tokens`.
template <label_element Label>
SPARQ_PER_ISA std::size_t labelled_segment_length(std::size_t first_token,
                                                  std::size_t tokens) noexcept {
    if constexpr (coded_label<Label>)
        return segment_length(first_token, tokens, code_strip_tokens,
                              code_run_bytes * 8 / Label::bits);
    else
        return segment_length(first_token, tokens);
}

/// Tokens of head g that have labels when there are n in all. The heads lag behind by
/// different amounts, so that their strips fall due in turn.
template <label_element Label>
SPARQ_PER_ISA std::size_t labelled_tokens(std::size_t g, std::size_t heads_kv,
                                          std::size_t n) noexcept {
    constexpr std::size_t step = label_step<Label>;
    const std::size_t lag = g * step / heads_kv;
    return n <= lag ? 0 : (n - lag) / step * step;
}

/// Codes tokens [t, t + n) of the slab's head g, a strip or a block, with ranges of their own.
///
/// @tparam Slab  segment_slab, or engine_slab (label_slab.hpp)
template <class Arch, class Slab>
void encode_tokens(Slab& part, std::size_t g, std::size_t t, std::size_t n) noexcept {
    const std::size_t token = part.first_token() + t;
    row_kernels<Arch>::encode(part.key_row(g, t), part.key_stride(), n, part.head_dim(),
                              token < code_sinks ? code_sinks - token : 0, part.channel(g, 0, t),
                              part.channel_stride(), part.ranges(g, range_row(t, n)));
}

/// Labels tokens of the slab's head g from t on, at most n and those of one strip only.
/// Returns the token behind them.
template <class Arch, class Slab>
std::size_t label_some(Slab& part, std::size_t g, std::size_t t, std::size_t n) noexcept {
    if constexpr (coded_label<typename Slab::label>) {
        const std::size_t begin = t / code_strip_tokens * code_strip_tokens;
        const std::size_t end = begin + code_strip_tokens;
        if (t + n >= end) {  // complete: coded as a whole
            encode_tokens<Arch>(part, g, begin, end - begin);
            return end;
        }
        for (std::size_t block = t; block < t + n; block += code_block_tokens)
            encode_tokens<Arch>(part, g, block, code_block_tokens);
        return t + n;
    } else {
        row_kernels<Arch>::transpose(part.key_row(g, t), part.key_stride(), strip_tokens,
                                     part.head_dim(), part.channel(g, 0, t), part.channel_stride());
        return t + strip_tokens;
    }
}

/// Codes the blocks of the strip that is whole no longer, now that the slab's head g has
/// `left` labelled tokens where it had `before`.
template <class Arch, class Slab>
void open_strip(Slab& part, std::size_t g, std::size_t before, std::size_t left) noexcept {
    const std::size_t begin = left / code_strip_tokens * code_strip_tokens;
    if (begin < left && begin + code_strip_tokens <= before)
        label_some<Arch>(part, g, begin, left - begin);
}

}  // namespace detail
SPARQ_NAMESPACE_END
