// SPDX-License-Identifier: MIT
// Second read of tiered attention: K and V of chosen tokens as rows of 4-bit codes.
//
//   k[c] = mean[c] + spread[c] * (minimum + step * code[c])
//   q . k = q . mean + minimum * (q . spread) + step * sum over c of (q[c] spread[c]) code[c]
//
// with the middle and the width of the token's strip's ranges as mean and spread: so a
// strip's coefficients are made once, and a row costs an integer dot product.
//
// Traffic: a code row a token (d_h / 2 + value_dim / 2 + 8 bytes), and 4 d_h bytes of ranges
// a strip that has chosen tokens.
// Numerics: coefficients in 15 bits of the greatest, sums exact, then float.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../../config.hpp"
#include "../../detail/channel_sums.hpp"
#include "../../detail/code_row_writer.hpp"
#include "../../kernels/code_row_sums.hpp"
#include "../../kernels/code_rows.hpp"
#include "../../kernels/convert.hpp"
#include "../../kernels/dot_rows.hpp"
#include "../../kernels/softmax.hpp"
#include "../../tiered_view.hpp"
#include "../attend_selected.hpp"
#include "../token_cursor.hpp"

SPARQ_NAMESPACE_BEGIN
namespace steps {

/// Tokens read at 4 bits, in scratch.
struct refined_tokens {
    std::uint32_t* tokens;  ///< ascending
    std::size_t count;
    float* logits;  ///< [heads, stride]
    std::size_t stride;
    const std::uint8_t** rows;          ///< [count]: their code rows
    float* key_step;                    ///< [count]: step of K's codes, in spreads of the channels
    float *value_minimum, *value_step;  ///< [count]: range of V's codes
};

/// From ascending tokens to their code rows and the ranges these are relative to.
template <class T>
class code_row_cursor {
   public:
    SPARQ_PER_ISA code_row_cursor(const tiered_view<T>& view, std::size_t g) noexcept
        : view_(view), pitch_(view.code_row_pitch()), g_(g) {}

    SPARQ_PER_ISA void seek(std::size_t token) noexcept {
        while (token - first_ >= segment().tokens) {
            first_ += segment().tokens;
            ++index_;
            strip_end_ = 0;
        }
        offset_ = token - first_;
        if (offset_ >= strip_end_) find_strip();
    }
    [[nodiscard]] SPARQ_PER_ISA const std::uint8_t* row() const noexcept {
        return view_.code_rows(index_, g_) + offset_ * pitch_;
    }
    [[nodiscard]] const code_range* ranges() const noexcept { return ranges_; }

   private:
    [[nodiscard]] const kv_segment<T, int2_label>& segment() const noexcept {
        return view_.rows().segment(index_, g_);
    }
    SPARQ_PER_ISA void find_strip() noexcept {
        if (offset_ >= segment().labelled) {
            ranges_ = view_.of_head(g_).open_ranges;
            strip_end_ = segment().tokens;
            return;
        }
        const code_strip<int2_label> strip = code_strip_of(segment(), offset_, view_.head_dim());
        ranges_ = strip.ranges;
        strip_end_ = std::min(strip.begin + strip.tokens - segment().offset, segment().labelled);
    }

    tiered_view<T> view_;
    std::size_t pitch_, g_;
    std::size_t index_ = 0, first_ = 0, offset_ = 0, strip_end_ = 0;
    const code_range* ranges_ = nullptr;
};

/// Code rows read at a time.
inline constexpr std::size_t refine_block_tokens = 32;

/// One range a row, as floats: n <= refine_block_tokens of them, converted together since a
/// half is slow to convert alone. `offset` is where it lies in a row.
template <class Arch>
void load_ranges(const std::uint8_t* const* rows, std::size_t n, std::size_t offset, float* minimum,
                 float* step) noexcept {
    half minima[refine_block_tokens], steps[refine_block_tokens];
    for (std::size_t j = 0; j < n; ++j) {
        kernels::row_range range;
        std::memcpy(static_cast<void*>(&range), rows[j] + offset, sizeof(range));
        minima[j] = range.minimum, steps[j] = range.step;
    }
    kernels::convert_row<Arch>(static_cast<const half*>(minima), n, minimum);
    kernels::convert_row<Arch>(static_cast<const half*>(steps), n, step);
}

/// What K's codes of one strip are multiplied with, for all heads.
class strip_coefficients {
   public:
    /// @param memory  [floats(heads, d_h)]
    SPARQ_PER_ISA strip_coefficients(const scaled_queries& q, std::size_t head_dim,
                                     float* memory) noexcept
        : q_(q),
          head_dim_(head_dim),
          of_mean_(memory),
          of_spread_(memory + q.heads),
          prepared_(reinterpret_cast<kernels::code_row_weights*>(memory + 2 * q.heads)),
          ranges_(memory + 2 * q.heads +
                  q.heads * sizeof(kernels::code_row_weights) / sizeof(float)),
          mean_(ranges_ + 2 * head_dim),
          spread_(mean_ + head_dim),
          product_(spread_ + head_dim),
          integers_(reinterpret_cast<std::int16_t*>(product_ + head_dim)) {}

    SPARQ_PER_ISA static constexpr std::size_t floats(std::size_t heads,
                                                      std::size_t head_dim) noexcept {
        return heads * (2 + sizeof(kernels::code_row_weights) / sizeof(float)) + 5 * head_dim +
               (heads * kernels::code_row_weight_count(head_dim) + 1) / 2;
    }

    template <class Arch>
    void use(const code_range* ranges) noexcept {
        static_assert(sizeof(code_range) == 2 * sizeof(half));
        kernels::convert_row<Arch>(reinterpret_cast<const half*>(ranges), 2 * head_dim_, ranges_);
        for (std::size_t c = 0; c < head_dim_; ++c) {
            spread_[c] = ranges_[2 * c + 1];
            mean_[c] = ranges_[2 * c] + 2.0f * spread_[c];
        }
        for (std::size_t h = 0; h < q_.heads; ++h) {
            const float* query = q_.data + h * q_.stride;
            of_mean_[h] = kernels::sum_of_products<Arch>(query, mean_, head_dim_);
            of_spread_[h] = kernels::sum_of_products<Arch>(query, spread_, head_dim_);
            for (std::size_t c = 0; c < head_dim_; ++c) product_[c] = query[c] * spread_[c];
            prepared_[h] = kernels::prepare_code_row_weights<Arch>(
                product_, head_dim_, integers_ + h * kernels::code_row_weight_count(head_dim_));
        }
    }
    /// Of K's codes alone, see dot_code_rows.
    [[nodiscard]] const kernels::code_row_weights* weights() const noexcept { return prepared_; }
    /// logits[j] = q . mean + minimum[j] * (q . spread) + step[j] * logits[j] of head h.
    template <class Arch>
    void finish(std::size_t h, const float* minimum, const float* step, std::size_t n,
                float* logits) const noexcept {
        namespace simd = detail::simd;
        const auto mean = simd::splat<Arch>(of_mean_[h]), spread = simd::splat<Arch>(of_spread_[h]);
        const auto finished = [&](const auto& low, const auto& width, const auto& product) {
            return simd::multiply_add<Arch>(width, product,
                                            simd::multiply_add<Arch>(low, spread, mean));
        };
        std::size_t j = 0;
        for (; j + simd::lanes<Arch> <= n; j += simd::lanes<Arch>)
            simd::store<Arch>(logits + j,
                              finished(simd::load<Arch>(minimum + j), simd::load<Arch>(step + j),
                                       simd::load<Arch>(logits + j)));
        if (const std::size_t rest = n - j; rest != 0)
            simd::store_partial<Arch>(logits + j,
                                      finished(simd::load_partial<Arch>(minimum + j, rest),
                                               simd::load_partial<Arch>(step + j, rest),
                                               simd::load_partial<Arch>(logits + j, rest)),
                                      rest);
    }

   private:
    scaled_queries q_;
    std::size_t head_dim_;
    float *of_mean_, *of_spread_;  ///< [heads]: q . mean, q . spread
    kernels::code_row_weights* prepared_;
    float *ranges_, *mean_, *spread_, *product_;  ///< [d_h], ranges_ twice that
    std::int16_t* integers_;
};

/// Asks for the code rows of tokens, given in ascending order, as soon as they are chosen.
template <class T>
class code_row_prefetch {
   public:
    SPARQ_PER_ISA code_row_prefetch(const tiered_view<T>& view, std::size_t g) noexcept
        : view_(view), pitch_(view.code_row_pitch()), g_(g) {}

    SPARQ_PER_ISA void operator()(std::size_t token) noexcept {
        while (token - first_ >= view_.rows().segment(index_, g_).tokens)
            first_ += view_.rows().segment(index_++, g_).tokens;
        const std::uint8_t* row = view_.code_rows(index_, g_) + (token - first_) * pitch_;
        for (std::size_t b = 0; b < pitch_; b += cache_line_bytes) detail::simd::prefetch(row + b);
        detail::simd::prefetch(row + pitch_ - 1);
    }

   private:
    tiered_view<T> view_;
    std::size_t pitch_, g_;
    std::size_t index_ = 0, first_ = 0;
};

/// Logits of `refined.tokens` for all heads, and the steps of their codes.
template <class Arch, class T>
void refine_logits(const tiered_view<T>& view, std::size_t g, strip_coefficients& coefficients,
                   std::size_t heads, const refined_tokens& refined) noexcept {
    const detail::code_row_layout layout(view.head_dim(), view.value_dim());
    code_row_cursor<T> cursor(view, g);
    const code_range* in_use = nullptr;
    for (std::size_t first = 0; first < refined.count;) {
        const std::uint8_t** rows = refined.rows + first;
        std::size_t n = 0;
        const code_range* ranges = nullptr;
        for (; n < refine_block_tokens && first + n < refined.count; ++n) {
            cursor.seek(refined.tokens[first + n]);
            if (n != 0 && cursor.ranges() != ranges) break;
            ranges = cursor.ranges();
            rows[n] = cursor.row();
        }
        if (ranges != in_use) coefficients.template use<Arch>(in_use = ranges);
        if (cursor.ranges() != ranges)  // the next strip's, while this one's rows are used
            for (std::size_t c = 0; c < view.head_dim(); c += cache_line_bytes / sizeof(code_range))
                sparq::detail::simd::prefetch(cursor.ranges() + c);
        float* out = refined.logits + first;
        kernels::dot_code_rows<Arch>(coefficients.weights(), heads, rows, n, view.head_dim(), out,
                                     refined.stride);
        float minimum[refine_block_tokens];
        load_ranges<Arch>(rows, n, layout.key_range, minimum, refined.key_step + first);
        load_ranges<Arch>(rows, n, layout.value_range, refined.value_minimum + first,
                          refined.value_step + first);
        for (std::size_t h = 0; h < heads; ++h)
            coefficients.template finish<Arch>(h, minimum, refined.key_step + first, n,
                                               out + h * refined.stride);
        first += n;
    }
}

/// sums[h] += sum over the refined tokens of weights[h][j] * V. Weights are overwritten.
///
/// @param refined  logits and tokens are not looked at
/// @param weights  [heads, stride]
/// @param sums     [heads, sums_stride], padded_code_width(value_dim) of each written
template <class Arch>
void refine_values(const refined_tokens& refined, const detail::code_row_layout& layout,
                   std::size_t value_dim, float* weights, std::size_t heads, std::size_t stride,
                   float* sums, std::size_t sums_stride) noexcept {
    const std::size_t count = refined.count;
    for (std::size_t h = 0; h < heads; ++h) {  // minima add the same to every column
        float* row = weights + h * stride;
        const float base = kernels::sum_of_products<Arch>(row, refined.value_minimum, count);
        for (std::size_t j = 0; j < count; ++j) row[j] *= refined.value_step[j];
        for (std::size_t c = 0; c < value_dim; ++c) sums[h * sums_stride + c] += base;
    }
    const std::uint8_t* rows[refine_block_tokens];
    for (std::size_t first = 0; first < count; first += refine_block_tokens) {
        const std::size_t n = std::min(refine_block_tokens, count - first);
        for (std::size_t j = 0; j < n; ++j) rows[j] = refined.rows[first + j] + layout.value_codes;
        kernels::accumulate_code_rows<Arch>(weights + first, heads, stride, rows, n, value_dim,
                                            sums, sums_stride);
    }
}

}  // namespace steps
SPARQ_NAMESPACE_END
