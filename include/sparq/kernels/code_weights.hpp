// SPDX-License-Identifier: MIT
// What a scan of codes adds up, for one strip: integers of stated rounding.
//
//   logit = bias + step * sum over the channels of entry(code)
//
// With p = weight * width of a channel and `bias` = sum of weight * (minimum + width / 2):
//   2 bits  channels i and i + half in pairs: entry(a, b) = (A a + B b + C + 128) >> 8
//   4 bits  entry(a) = (A a + C + 128) >> 8
//   8 bits  entry(a) = A a
// A and B are p / step * 256 rounded to integers, C makes the least entry 0 (the bias has
// it back) and step, one for each query head, makes the greatest greatest_entry. For 8 bits A is
// p / step and at most 32767.
//
// Traffic: 4 bytes of a range a channel and strip. Numerics: float up to A, B and C, exact
// integers from there. |error| <=
// (0.5 + 2^-6) step an entry; for 8 bits step / 2 times the code. Sums fit: 128 channels
// are at most 128 * 127 < 2^16 and 128 * 255 * 32767 < 2^31.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "../code_labels.hpp"
#include "../detail/gather.hpp"
#include "../detail/simd.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

/// Channels and query heads whose codes are added up together.
inline constexpr std::size_t most_code_channels = 128;
inline constexpr std::size_t most_code_heads = 8;

/// The greatest entry of a table, and how many entries add up to less than 256.
inline constexpr int greatest_entry = 127;
inline constexpr std::size_t entries_at_once = 255 / greatest_entry;

/// What the strips of a scan have in common.
struct code_query {
    const float* weights;  ///< [heads, count], weights_stride >= count
    std::size_t heads, weights_stride;
    const std::uint32_t* components;  ///< [count], the channels
    std::size_t count;
};

/// Terms of `count` channels: pairs for 2 bits, channels otherwise. Terms come in
/// entries_at_once; the last ones may add nothing.
template <unsigned Bits>
SPARQ_PER_ISA constexpr std::size_t code_terms(std::size_t count) noexcept {
    const std::size_t terms = Bits == 2 ? (count + 1) / 2 : count;
    return (terms + entries_at_once - 1) / entries_at_once * entries_at_once;
}

/// Room for terms, and for vectors that reach beyond the last one.
template <unsigned Bits>
inline constexpr std::size_t padded_code_terms =
    (code_terms<Bits>(most_code_channels) + 15) / 16 * 16;

/// Integer weights of one strip and head, each in the lower bits of a float: what
/// integer_shift added to it leaves.
template <unsigned Bits>
struct code_weights {
    float step, bias;
    float a[padded_code_terms<Bits>], b[padded_code_terms<Bits>], c[padded_code_terms<Bits>];
};

namespace detail {

/// Adding it to a float under 2^22 leaves the nearest integer in the lower bits.
inline constexpr float integer_shift = 12582912.0f;  // 1.5 * 2^23

template <class Arch>
SPARQ_ALWAYS_INLINE std::int16_t lower_word(const float& x) noexcept {
    return static_cast<std::int16_t>(std::bit_cast<std::uint32_t>(x) & 0xffffu);
}

/// Which channels a scan weighs and by how much, arranged in terms: `Sides` of them in one,
/// filled up with weights of 0 to whole vectors.
template <class Arch, unsigned Bits>
class code_weigher {
    static constexpr std::size_t sides = Bits == 2 ? 2 : 1, room = padded_code_terms<Bits>;
    using vec = sparq::detail::simd::f32<Arch>;

   public:
    /// @param query  at most most_code_heads heads; channels [first, first + count), at most
    ///               most_code_channels
    code_weigher(const code_query& query, std::size_t first, std::size_t count) noexcept
        : heads_(query.heads),
          terms_(code_terms<Bits>(count)),
          padded_(sparq::detail::simd::padded<Arch>(terms_)) {
        for (std::size_t side = 0; side < sides; ++side)
            for (std::size_t i = 0; i < padded_; ++i) {
                const std::size_t at = side * terms_ + i;
                const bool there = i < terms_ && at < count;
                channel_[side][i] = query.components[first + (there ? at : count - 1)];
                for (std::size_t h = 0; h < heads_; ++h)
                    weight_[h][side][i] =
                        there ? query.weights[h * query.weights_stride + first + at] : 0.0f;
            }
    }

    [[nodiscard]] std::size_t terms() const noexcept { return terms_; }
    /// The channel of a term.
    [[nodiscard]] std::size_t channel(std::size_t side, std::size_t term) const noexcept {
        return channel_[side][term];
    }

    /// Asks for the ranges that it takes of a strip. (Inlined: as in scan_codes.hpp.)
    SPARQ_ALWAYS_INLINE void prefetch(const code_range* ranges) const noexcept {
        for (std::size_t side = 0; side < sides; ++side)
            for (std::size_t i = 0; i < terms_; ++i)
                sparq::detail::simd::prefetch(ranges + channel_[side][i]);
    }

    /// Takes the ranges of a strip, [d_h].
    void take(const code_range* ranges) noexcept {
        namespace simd = sparq::detail::simd;
        for (std::size_t side = 0; side < sides; ++side)
            for (std::size_t i = 0; i < padded_; i += simd::lanes<Arch>) {
                vec low, span;
                simd::gather_halves<Arch>(ranges, channel_[side] + i, low, span);
                simd::store<Arch>(width_[side] + i, span);
                simd::store<Arch>(middle_[side] + i,
                                  simd::multiply_add<Arch>(span, simd::splat<Arch>(0.5f), low));
            }
    }

    /// The weights of one head for the strip whose ranges were taken last.
    void weigh(std::size_t h, code_weights<Bits>& out) noexcept {
        namespace simd = sparq::detail::simd;
        constexpr float reach = Bits == 8 ? 32767.0f : greatest_entry * 256.0f / ((1 << Bits) - 1);
        float largest;
        out.bias = multiply(h, largest);
        const float scale = reach / largest;
        const bool usable = std::isfinite(out.bias) && std::isfinite(scale) && scale > 0.0f;
        const float unit = usable ? largest / reach : 0.0f;
        if (!std::isfinite(out.bias)) out.bias = std::numeric_limits<float>::quiet_NaN();
        if (!usable)
            for (auto& side : product_) std::fill_n(side, padded_, 0.0f);
        const float lowest = round(usable ? scale : 0.0f, out);
        out.step = Bits == 8 ? unit : 256.0f * unit;
        out.bias -= unit * lowest;
    }

   private:
    /// Weight * width of each channel. Returns the bias, not finite where anything is not.
    float multiply(std::size_t h, float& largest) noexcept {
        namespace simd = sparq::detail::simd;
        const vec zero = simd::splat<Arch>(0.0f);
        vec bias = zero, most = zero;
        for (std::size_t i = 0; i < padded_; i += simd::lanes<Arch>) {
            vec span = zero;
            for (std::size_t side = 0; side < sides; ++side) {
                const vec weight = simd::load<Arch>(weight_[h][side] + i);
                const vec product = weight * simd::load<Arch>(width_[side] + i);
                simd::store<Arch>(product_[side] + i, product);
                bias = simd::multiply_add<Arch>(weight, simd::load<Arch>(middle_[side] + i), bias);
                bias = simd::multiply_add<Arch>(product, zero, bias);
                span = span + simd::maximum<Arch>(product, zero - product);
            }
            most = simd::maximum<Arch>(most, span);
        }
        largest = simd::greatest_lane<Arch>(most);
        return simd::sum_lanes<Arch>(bias);
    }

    /// A, B and C of each term. Returns the sum of all C, an integer.
    float round(float scale, code_weights<Bits>& out) const noexcept {
        namespace simd = sparq::detail::simd;
        const vec shift = simd::splat<Arch>(integer_shift), zero = simd::splat<Arch>(0.0f);
        const vec factor = simd::splat<Arch>(scale), greatest = simd::splat<Arch>((1 << Bits) - 1);
        vec lowest = zero;
        for (std::size_t i = 0; i < padded_; i += simd::lanes<Arch>) {
            vec raised = zero;
            for (std::size_t side = 0; side < sides; ++side) {
                const vec x =
                    simd::multiply_add<Arch>(simd::load<Arch>(product_[side] + i), factor, shift);
                simd::store<Arch>((side == 0 ? out.a : out.b) + i, x);
                raised = raised + simd::maximum<Arch>(zero, (shift - x) * greatest);
            }
            simd::store<Arch>(out.c + i, raised + shift);
            lowest = lowest + raised;
        }
        return Bits == 8 ? 0.0f : simd::sum_lanes<Arch>(lowest);
    }

    std::size_t heads_, terms_, padded_;
    std::uint32_t channel_[sides][room];
    float weight_[most_code_heads][sides][room];
    float width_[sides][room], middle_[sides][room];  ///< middle: minimum + width / 2
    float product_[sides][room];
};

}  // namespace detail
}  // namespace kernels
SPARQ_NAMESPACE_END
