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
// of 128 channels cost. Numerics: float, relative to the first strip's ranges, strips in order;
// pieces of a strip count together, however a view is cut.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "../config.hpp"
#include "../detail/gather.hpp"
#include "../detail/simd.hpp"
#include "../kv_view.hpp"
#include "query_components.hpp"

SPARQ_NAMESPACE_BEGIN
namespace steps {

/// Sums over the strips of a head for some of its channels.
template <class Arch, coded_label Label>
class spread_sums {
    using vec = detail::simd::f32<Arch>;

   public:
    /// Channels: of most models all, so that the ranges are read as they lie.
    static constexpr std::size_t most = 128;

    spread_sums(std::size_t first, std::size_t count) noexcept : first_(first), count_(count) {}

    void add(const code_range* ranges, std::size_t tokens) noexcept {
        if (ranges != ranges_) flush();
        ranges_ = ranges;
        pending_ += tokens;
    }
    /// 1 where nothing was added, 0 where a channel is constant or not finite.
    void finish(float* spreads) noexcept {
        flush();
        for (std::size_t i = 0; i < count_; ++i) {
            const float mean = tokens_ == 0 ? 0.0f : sums_[i] / static_cast<float>(tokens_);
            const float variance =
                tokens_ == 0 ? 1.0f : squares_[i] / static_cast<float>(tokens_) - mean * mean;
            spreads[i] = variance > 0.0f ? std::sqrt(variance) : 0.0f;
        }
    }

   private:
    void flush() noexcept {
        namespace simd = detail::simd;
        if (pending_ == 0) return;
        constexpr float codes = 1u << Label::bits;
        constexpr float square = Label::bits == 2 ? 1.0f : codes * codes / 12.0f;
        const vec n = simd::splat<Arch>(static_cast<float>(pending_));
        for (std::size_t i = 0; i < count_; i += simd::lanes<Arch>) {
            vec low, width;
            simd::load_pairs<Arch>(ranges_ + first_ + i, std::min(simd::lanes<Arch>, count_ - i),
                                   low, width);
            if (tokens_ == 0) simd::store<Arch>(origin_ + i, low);
            const vec mean = simd::multiply_add<Arch>(width, simd::splat<Arch>(codes / 2.0f),
                                                      low - simd::load<Arch>(origin_ + i));
            const vec spread =
                simd::multiply_add<Arch>(mean, mean, width * width * simd::splat<Arch>(square));
            simd::store<Arch>(sums_ + i,
                              simd::multiply_add<Arch>(n, mean, simd::load<Arch>(sums_ + i)));
            simd::store<Arch>(squares_ + i,
                              simd::multiply_add<Arch>(n, spread, simd::load<Arch>(squares_ + i)));
        }
        tokens_ += pending_;
        pending_ = 0;
    }

    std::size_t first_, count_, tokens_ = 0, pending_ = 0;
    const code_range* ranges_ = nullptr;
    float sums_[most] = {}, squares_[most] = {}, origin_[most] = {};
};

/// The spreads of `count` channels of head g from `first` on, at most spread_sums::most; 1
/// where nothing is coded.
template <class Arch, class T, coded_label Label>
void channel_spreads(const kv_view<T, Label>& view, std::size_t g, std::size_t first,
                     std::size_t count, float* spreads) noexcept {
    spread_sums<Arch, Label> sums(first, count);
    for (std::size_t s = 0; s < view.segments_per_head(); ++s)
        for_code_strips(
            view.segment(s, g), 0, view.segment(s, g).labelled, view.head_dim(),
            [&](const auto& strip, std::size_t, std::size_t n) { sums.add(strip.ranges, n); });
    sums.finish(spreads);
}

/// choose_components by |q| times spread. Channels that are not finite count as 0.
template <class Arch, class T, coded_label Label>
void choose_by_spread(const kv_view<T, Label>& view, std::size_t g, const query_group& q,
                      std::size_t r, float* scratch, std::uint32_t* indices) noexcept {
    constexpr std::size_t most = spread_sums<Arch, Label>::most;
    for (std::size_t c = 0; c < q.head_dim; c += most)
        channel_spreads<Arch>(view, g, c, std::min(most, q.head_dim - c), scratch + c);
    choose_components<Arch>(q, r, scratch, indices, scratch);
}

}  // namespace steps
SPARQ_NAMESPACE_END
