// SPDX-License-Identifier: MIT
// Step 1 of SparQ with components by |q| times spread, where labels are codes of few bits.
//
//   spread_c^2 = mean over the strips of (their variance + (their mean - mean of all)^2)
//
// as the ranges tell: of 2 bits the width is taken as the deviation (where keys reach far it
// is 1.7 of them or more) and the middle of the range as the mean; of 4 and 8 bits the mean is
// taken as the middle of the range and the deviation as the range / sqrt(12) (even if the keys were
// not spread evenly: the ranking wants proportion). Tokens that are not coded have no say.
//
// Traffic: all ranges of a head, 4 * d_h bytes a strip: at 2 bits a sixteenth of what r = 32
// of 128 channels cost. Numerics: double, strips in order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "../config.hpp"
#include "../kv_view.hpp"
#include "query_components.hpp"

SPARQ_NAMESPACE_BEGIN
namespace steps {

/// The spreads of `count` channels of head g from `first` on, at most 64; 1 where nothing is
/// coded, 0 where a channel is constant or not finite.
template <class Arch, class T, coded_label Label>
void channel_spreads(const kv_view<T, Label>& view, std::size_t g, std::size_t first,
                     std::size_t count, float* spreads) noexcept {
    constexpr double codes = 1u << Label::bits;
    double tokens = 0, sums[64] = {}, squares[64] = {}, origin[64] = {};
    const auto add = [&](const code_strip<Label>& strip, std::size_t, std::size_t n) {
        for (std::size_t i = 0; i < count; ++i) {
            const code_range range = strip.ranges[first + i];
            const auto width = static_cast<double>(static_cast<float>(range.width));
            const auto low = static_cast<double>(static_cast<float>(range.minimum));
            if (tokens == 0) origin[i] = low;
            const double mean = low - origin[i] + width * codes / 2;
            const double variance = width * width * (Label::bits == 2 ? 1.0 : codes * codes / 12);
            sums[i] += static_cast<double>(n) * mean;
            squares[i] += static_cast<double>(n) * (variance + mean * mean);
        }
        tokens += static_cast<double>(n);
    };
    for (std::size_t s = 0; s < view.segments_per_head(); ++s)
        for_code_strips(view.segment(s, g), 0, view.segment(s, g).labelled, view.head_dim(), add);
    for (std::size_t i = 0; i < count; ++i) {
        const double mean = tokens == 0 ? 0 : sums[i] / tokens;
        const double variance = tokens == 0 ? 1 : squares[i] / tokens - mean * mean;
        spreads[i] = variance > 0 ? static_cast<float>(std::sqrt(variance)) : 0.0f;
    }
}

/// choose_components by |q| times spread. Channels that are not finite count as 0.
template <class Arch, class T, coded_label Label>
void choose_by_spread(const kv_view<T, Label>& view, std::size_t g, const query_group& q,
                      std::size_t r, float* scratch, std::uint32_t* indices) noexcept {
    for (std::size_t c = 0; c < q.head_dim; c += 64)
        channel_spreads<Arch>(view, g, c, std::min<std::size_t>(64, q.head_dim - c), scratch + c);
    choose_components<Arch>(q, r, scratch, indices, scratch);
}

}  // namespace steps
SPARQ_NAMESPACE_END
