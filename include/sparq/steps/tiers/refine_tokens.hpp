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
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../../config.hpp"
#include "../../detail/channel_sums.hpp"
#include "../../detail/code_row_writer.hpp"
#include "../../kernels/code_row_sums.hpp"
#include "../../kernels/code_rows.hpp"
#include "../../kernels/convert.hpp"
#include "../../kernels/softmax.hpp"
#include "../../tiered_view.hpp"
#include "../attend_selected.hpp"
#include "../token_cursor.hpp"
#include "strip_coefficients.hpp"

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
/// Heads that are worked on together, for as much room.
inline constexpr std::size_t most_refined_heads = 8;

/// One range a row, as floats: n <= refine_block_tokens of them, converted together since a
/// half is slow to convert alone. `offset` is where it lies in a row. What lies behind the
/// n-th up to a whole vector is 0.
template <class Arch>
void load_ranges(const std::uint8_t* const* rows, std::size_t n, std::size_t offset, float* minimum,
                 float* step) noexcept {
    half minima[refine_block_tokens], steps[refine_block_tokens];
    const std::size_t padded = detail::simd::padded<Arch>(n);
    for (std::size_t j = 0; j < n; ++j) {
        kernels::row_range range;
        std::memcpy(static_cast<void*>(&range), rows[j] + offset, sizeof(range));
        minima[j] = range.minimum, steps[j] = range.step;
    }
    for (std::size_t j = n; j < padded; ++j) minima[j] = steps[j] = half{};
    kernels::convert_row<Arch>(static_cast<const half*>(minima), padded, minimum);
    kernels::convert_row<Arch>(static_cast<const half*>(steps), padded, step);
}

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

/// Heads [h, h + heads), at most most_refined_heads: the logits of n rows of one strip, which go
/// where `out` points once whole vectors of them are finished.
template <class Arch>
void refine_block(const strip_coefficients& coefficients, std::size_t h, std::size_t heads,
                  const std::uint8_t* const* rows, std::size_t n, const float* minimum,
                  const float* step, float* out, std::size_t stride) noexcept {
    float logits[most_refined_heads * refine_block_tokens];
    kernels::dot_code_rows<Arch>(coefficients.weights() + h, heads, rows, n,
                                 coefficients.head_dim(), logits, refine_block_tokens);
    for (std::size_t i = 0; i < heads; ++i) {
        float* row = logits + i * refine_block_tokens;
        for (std::size_t j = n; j < detail::simd::padded<Arch>(n); ++j) row[j] = 0.0f;
        coefficients.finish<Arch>(h + i, minimum, step, n, row);
        std::copy_n(row, n, out + i * stride);
    }
}

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
        if (ranges != in_use)
            coefficients.template use<Arch>(in_use = ranges, refined.tokens[first]);
        if (cursor.ranges() != ranges)  // the next strip's, while this one's rows are used
            for (std::size_t c = 0; c < view.head_dim(); c += cache_line_bytes / sizeof(code_range))
                sparq::detail::simd::prefetch(cursor.ranges() + c);
        float minimum[refine_block_tokens], step[refine_block_tokens];
        load_ranges<Arch>(rows, n, layout.value_range, minimum, step);
        std::copy_n(minimum, n, refined.value_minimum + first);
        std::copy_n(step, n, refined.value_step + first);
        load_ranges<Arch>(rows, n, layout.key_range, minimum, step);
        std::copy_n(step, n, refined.key_step + first);
        for (std::size_t h = 0; h < heads; h += most_refined_heads)
            refine_block<Arch>(coefficients, h, std::min(most_refined_heads, heads - h), rows, n,
                               minimum, step, refined.logits + h * refined.stride + first,
                               refined.stride);
        first += n;
    }
}

/// sums[h] += sum over the refined tokens of weights[h][j] * V.
///
/// @param refined  logits and tokens are not looked at
/// @param weights  [heads, stride]
/// @param sums     [heads, sums_stride], padded_code_width(value_dim) of each written
template <class Arch>
void refine_values(const refined_tokens& refined, const detail::code_row_layout& layout,
                   std::size_t value_dim, const float* weights, std::size_t heads,
                   std::size_t stride, float* sums, std::size_t sums_stride) noexcept {
    for (std::size_t h = 0; h < heads; ++h) {  // minima add the same to every column
        const float base = kernels::sum_of_products<Arch>(weights + h * stride,
                                                          refined.value_minimum, refined.count);
        for (std::size_t c = 0; c < value_dim; ++c) sums[h * sums_stride + c] += base;
    }
    const std::uint8_t* rows[refine_block_tokens];
    float scaled[most_refined_heads * refine_block_tokens];
    for (std::size_t first = 0; first < refined.count; first += refine_block_tokens) {
        const std::size_t n = std::min(refine_block_tokens, refined.count - first);
        for (std::size_t j = 0; j < n; ++j) rows[j] = refined.rows[first + j] + layout.value_codes;
        for (std::size_t done = 0; done < heads; done += most_refined_heads) {
            const std::size_t count = std::min(most_refined_heads, heads - done);
            for (std::size_t h = 0; h < count; ++h)
                for (std::size_t j = 0; j < n; ++j)
                    scaled[h * refine_block_tokens + j] =
                        weights[(done + h) * stride + first + j] * refined.value_step[first + j];
            kernels::accumulate_code_rows<Arch>(static_cast<const float*>(scaled), count,
                                                refine_block_tokens, rows, n, value_dim,
                                                sums + done * sums_stride, sums_stride);
        }
    }
}

}  // namespace steps
SPARQ_NAMESPACE_END
