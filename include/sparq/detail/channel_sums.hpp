// SPDX-License-Identifier: MIT
// channel_sums: means and variances of a KV head's channels, from the ranges of its strips.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../code_labels.hpp"
#include "../config.hpp"
#include "../tiered_view.hpp"
#include "isa_vector.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// Mean and standard deviation that a 2-bit range was made from.
SPARQ_PER_ISA inline float range_mean(const code_range& range) noexcept {
    return static_cast<float>(range.minimum) + 2.0f * static_cast<float>(range.width);
}

/// Adds up strips in ascending order: sums over tokens of the channel's value, of its square
/// and of its variance within the strip.
class channel_sums {
   public:
    SPARQ_PER_ISA explicit channel_sums(std::size_t head_dim)
        : head_dim_(head_dim), sums_(3 * head_dim) {}

    SPARQ_PER_ISA void clear() noexcept {
        std::fill(sums_.begin(), sums_.end(), 0.0);
        tokens_ = 0;
    }
    SPARQ_PER_ISA void add(const code_range* ranges, std::size_t tokens) noexcept {
        const auto n = static_cast<double>(tokens);
        for (std::size_t c = 0; c < head_dim_; ++c) {
            const double mean = range_mean(ranges[c]);
            const double deviation = static_cast<float>(ranges[c].width);
            sums_[c] += n * mean;
            sums_[head_dim_ + c] += n * (mean * mean + deviation * deviation);
            sums_[2 * head_dim_ + c] += n * deviation * deviation;
        }
        tokens_ += tokens;
    }
    SPARQ_PER_ISA channel_sums& operator=(const channel_sums& other) noexcept {
        std::copy(other.sums_.begin(), other.sums_.end(), sums_.begin());
        tokens_ = other.tokens_;
        return *this;
    }
    channel_sums(const channel_sums&) = default;
    ~channel_sums() = default;

    /// Writes channel_moments' three rows of [d_h]; zeros without tokens.
    SPARQ_PER_ISA void moments(float* out) const noexcept {
        const double n = tokens_ == 0 ? 1.0 : static_cast<double>(tokens_);
        for (std::size_t c = 0; c < head_dim_; ++c) {
            const double mean = sums_[c] / n;
            out[c] = static_cast<float>(mean);
            out[head_dim_ + c] =
                static_cast<float>(std::max(0.0, sums_[head_dim_ + c] / n - mean * mean));
            out[2 * head_dim_ + c] = static_cast<float>(sums_[2 * head_dim_ + c] / n);
        }
    }

   private:
    std::size_t head_dim_, tokens_ = 0;
    isa_vector<double> sums_;  ///< [3, d_h]
};

}  // namespace detail
SPARQ_NAMESPACE_END
