// SPDX-License-Identifier: MIT
// channel_sums: means and variances of a KV head's channels, block by block.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "../code_labels.hpp"
#include "../config.hpp"
#include "../tiered_view.hpp"
#include "isa_vector.hpp"
#include "row_kernels.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// Adds up blocks in ascending order: sums over the tokens of the channel's key and of its
/// square; and over the strips the square of their ranges' width.
class SPARQ_ISA_TYPE channel_sums {
   public:
    SPARQ_PER_ISA explicit channel_sums(std::size_t head_dim)
        : head_dim_(head_dim), sums_(3 * head_dim), block_(2 * head_dim) {}

    SPARQ_PER_ISA void clear() noexcept {
        std::fill(sums_.begin(), sums_.end(), 0.0);
        tokens_ = 0;
    }
    /// @param rows     [code_block_tokens, d_h]
    /// @param skipped  so many of them do not count, as in the ranges
    template <class Arch, class T>
    void add_keys(const T* rows, std::size_t row_stride, std::size_t skipped) noexcept {
        float *means = block_.data(), *variances = means + head_dim_;
        row_kernels<Arch>::measure(rows, row_stride, code_block_tokens, skipped, head_dim_, means,
                                   variances);
        const auto n = static_cast<double>(code_block_tokens);
        for (std::size_t c = 0; c < head_dim_; ++c) {
            const double mean = means[c];
            sums_[c] += n * mean;
            sums_[head_dim_ + c] += n * (mean * mean + variances[c]);
        }
        tokens_ += code_block_tokens;
    }
    SPARQ_PER_ISA void add_widths(const code_range* ranges, std::size_t tokens) noexcept {
        const auto n = static_cast<double>(tokens);
        for (std::size_t c = 0; c < head_dim_; ++c) {
            const double width = static_cast<float>(ranges[c].width);
            sums_[2 * head_dim_ + c] += n * width * width;
        }
    }
    /// Only the keys' sums of other, which has the same d_h.
    SPARQ_PER_ISA void take_keys(const channel_sums& other) noexcept {
        std::copy_n(other.sums_.begin(), 2 * head_dim_, sums_.begin());
        tokens_ = other.tokens_;
    }
    SPARQ_PER_ISA void take(const channel_sums& other) noexcept {
        restore(other.sums_.data(), other.tokens_);
    }
    /// To and from [3, d_h].
    SPARQ_PER_ISA void save(double* sums) const noexcept {
        std::copy(sums_.begin(), sums_.end(), sums);
    }
    SPARQ_PER_ISA void restore(const double* sums, std::size_t tokens) noexcept {
        std::copy_n(sums, 3 * head_dim_, sums_.begin());
        tokens_ = tokens;
    }

    /// Writes channel_moments' three rows of [d_h]; zeros without tokens.
    SPARQ_PER_ISA void moments(float* out) const noexcept {
        constexpr double most = std::numeric_limits<float>::max();
        const double n = tokens_ == 0 ? 1.0 : static_cast<double>(tokens_);
        for (std::size_t c = 0; c < head_dim_; ++c) {
            const double mean = sums_[c] / n;
            // No product is added to anything: fused or not, this has the same bits, whichever
            // unit runs it beside kernels chosen at run time.
            const double root = std::sqrt(sums_[head_dim_ + c] / n);
            const double variance = std::max(0.0, (root - mean) * (root + mean));
            out[c] = static_cast<float>(mean);
            out[head_dim_ + c] = static_cast<float>(std::min(variance, most));
            out[2 * head_dim_ + c] = static_cast<float>(sums_[2 * head_dim_ + c] / n);
        }
    }

   private:
    std::size_t head_dim_, tokens_ = 0;
    isa_vector<double> sums_;  ///< [3, d_h]
    isa_vector<float> block_;  ///< scratch
};

}  // namespace detail
SPARQ_NAMESPACE_END
