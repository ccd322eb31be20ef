// SPDX-License-Identifier: MIT
// strip_coefficients: what the 4-bit codes of K are multiplied with, made once for each strip
// that a call reads (refine_tokens.hpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../../code_labels.hpp"
#include "../../config.hpp"
#include "../../detail/gather.hpp"
#include "../../kernels/code_rows.hpp"
#include "../../kernels/softmax.hpp"
#include "../attend_selected.hpp"

SPARQ_NAMESPACE_BEGIN
namespace steps {

/// What K's codes of a strip are multiplied with, for all heads. Strips are kept in slots: a
/// call reads most of them several times.
class strip_coefficients {
   public:
    /// @param memory  [floats(heads, d_h, slots)]
    SPARQ_PER_ISA strip_coefficients(const scaled_queries& q, std::size_t head_dim,
                                     std::size_t slots, float* memory) noexcept
        : q_(q),
          head_dim_(head_dim),
          slots_(slots),
          mean_(memory),
          spread_(mean_ + padded(head_dim)),
          product_(spread_ + padded(head_dim)),
          kept_(memory + scratch_floats(head_dim)) {
        for (std::size_t i = 0; i < slots; ++i) slot(i)->ranges = nullptr;
    }

    /// Slots for so many tokens of strips of the usual length.
    SPARQ_PER_ISA static constexpr std::size_t slots_for(std::size_t tokens) noexcept {
        return tokens / code_strip_tokens + 1;
    }
    SPARQ_PER_ISA static constexpr std::size_t floats(std::size_t heads, std::size_t head_dim,
                                                      std::size_t slots) noexcept {
        return scratch_floats(head_dim) + slots * slot_floats(heads, head_dim);
    }

    /// @param token  one of the strip's tokens: where it is kept
    template <class Arch>
    void use(const code_range* ranges, std::size_t token) noexcept {
        current_ = slot(token / code_strip_tokens % slots_);
        if (current_->ranges == ranges) return;
        current_->ranges = ranges;
        namespace simd = detail::simd;
        for (std::size_t c = 0; c < head_dim_; c += simd::lanes<Arch>) {
            const std::size_t n = std::min(simd::lanes<Arch>, head_dim_ - c);
            simd::f32<Arch> low, width;
            simd::load_pairs<Arch>(ranges + c, n, low, width);
            simd::store<Arch>(spread_ + c, width);
            simd::store<Arch>(mean_ + c,
                              simd::multiply_add<Arch>(simd::splat<Arch>(2.0f), width, low));
        }
        for (std::size_t h = 0; h < q_.heads; ++h) weigh<Arch>(h);
    }
    /// Of K's codes alone, see dot_code_rows.
    [[nodiscard]] const kernels::code_row_weights* weights() const noexcept {
        return weights_of(current_);
    }
    /// logits[j] = q . mean + minimum[j] * (q . spread) + step[j] * logits[j] of head h, for n
    /// padded to whole vectors.
    template <class Arch>
    void finish(std::size_t h, const float* minimum, const float* step, std::size_t n,
                float* logits) const noexcept {
        namespace simd = detail::simd;
        const auto mean = simd::splat<Arch>(means_of(current_)[2 * h]);
        const auto spread = simd::splat<Arch>(means_of(current_)[2 * h + 1]);
        for (std::size_t j = 0; j < n; j += simd::lanes<Arch>) {
            const auto base = simd::multiply_add<Arch>(simd::load<Arch>(minimum + j), spread, mean);
            simd::store<Arch>(logits + j,
                              simd::multiply_add<Arch>(simd::load<Arch>(step + j),
                                                       simd::load<Arch>(logits + j), base));
        }
    }
    [[nodiscard]] std::size_t head_dim() const noexcept { return head_dim_; }

   private:
    /// Followed by the weights of the heads, their q . mean and q . spread, their integers.
    struct alignas(kernels::code_row_weights) kept_strip {
        const code_range* ranges;  ///< whose it is; null: nobody's
    };
    /// Whole vectors of any instruction set.
    SPARQ_PER_ISA static constexpr std::size_t padded(std::size_t head_dim) noexcept {
        return (head_dim + 15) / 16 * 16;
    }
    SPARQ_PER_ISA static constexpr std::size_t scratch_floats(std::size_t head_dim) noexcept {
        return 3 * padded(head_dim);
    }
    SPARQ_PER_ISA static constexpr std::size_t slot_floats(std::size_t heads,
                                                           std::size_t head_dim) noexcept {
        const std::size_t bytes =
            sizeof(kept_strip) + heads * (sizeof(kernels::code_row_weights) + 2 * sizeof(float) +
                                          kernels::code_row_weight_count(head_dim) * 2);
        return (bytes + 15) / 16 * 16 / sizeof(float);
    }
    [[nodiscard]] SPARQ_PER_ISA kept_strip* slot(std::size_t i) const noexcept {
        return reinterpret_cast<kept_strip*>(kept_ + i * slot_floats(q_.heads, head_dim_));
    }
    [[nodiscard]] static kernels::code_row_weights* weights_of(kept_strip* strip) noexcept {
        return reinterpret_cast<kernels::code_row_weights*>(strip + 1);
    }
    [[nodiscard]] float* means_of(kept_strip* strip) const noexcept {
        return reinterpret_cast<float*>(weights_of(strip) + q_.heads);
    }

    template <class Arch>
    void weigh(std::size_t h) noexcept {
        const float* query = q_.data + h * q_.stride;
        float* means = means_of(current_);
        auto* integers = reinterpret_cast<std::int16_t*>(means + 2 * q_.heads);
        means[2 * h] = kernels::sum_of_products<Arch>(query, mean_, head_dim_);
        means[2 * h + 1] = kernels::sum_of_products<Arch>(query, spread_, head_dim_);
        for (std::size_t c = 0; c < head_dim_; ++c) product_[c] = query[c] * spread_[c];
        weights_of(current_)[h] = kernels::prepare_code_row_weights<Arch>(
            product_, head_dim_, integers + h * kernels::code_row_weight_count(head_dim_));
    }

    scaled_queries q_;
    std::size_t head_dim_, slots_;
    float *mean_, *spread_, *product_;  ///< [padded d_h]
    float* kept_;
    kept_strip* current_ = nullptr;
};

}  // namespace steps
SPARQ_NAMESPACE_END
