// SPDX-License-Identifier: MIT
// tiered_scratch: where one KV head of a tiered call keeps what it works on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../config.hpp"
#include "../kernels/code_rows.hpp"
#include "../kernels/token_draws.hpp"
#include "../kernels/weight_histogram.hpp"
#include "../steps/tiers/refine_tokens.hpp"
#include "../steps/tiers/scan_channels.hpp"
#include "../steps/tiers/tier_mix.hpp"
#include "attention_request.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// What prepare leaves for the others.
struct tiered_scan {
    std::size_t channels;
    float noise;  ///< variance of a scanned logit
};

/// Pointers into a block of scratch. `most` bounds the tokens that are read beyond the scan.
struct tiered_scratch {
    tiered_scan* scan;
    float* queries;  ///< [G, padded d_h], scaled
    float* channel_scratch;
    std::uint32_t* channels;         ///< [d_h]
    float* scan_weights;             ///< [G, d_h]
    float* unread;                   ///< [G]
    float *maximum, *sum, *factors;  ///< [G, blocks]
    float* scores;                   ///< [G, S]: scanned weights
    float *greatest, *reach;         ///< [S]: over the heads; -1 for exact tokens
    float* shift;                    ///< [G]: ln of the weights' sum that all are relative to
    kernels::weight_histogram* histogram;
    kernels::weight_sums* scanned;  ///< [G]
    steps::head_mix* mix;           ///< [G]
    float* coefficients;
    std::uint32_t *exact, *tokens, *picks;         ///< [S]: X; A then B; those of them read exactly
    float* exact_logits;                           ///< [G, S], then weights
    float* logits;                                 ///< [G, S] of `tokens`
    float* weights;                                ///< [G + 1, S]
    float *chance, *scanned_weights;               ///< [S]: of B
    const std::uint8_t** rows;                     ///< [S]
    float *key_step, *value_minimum, *value_step;  ///< [S]
    float* gain;  ///< [S]: what reading a token exactly would spare; then 1 for the others
    float *exact_sums, *certain_sums, *drawn_sums;  ///< [G or G + 1, columns]
    double* rest;                                   ///< [value_dim]: sum of V over all but X
    float *mean, *tail_mean;                        ///< [columns]: of V over all; over the tail
    float *sampled, *output;                        ///< [columns]
    float* partials;                                ///< two partial_attention, for dense attention
};

/// Lays it out; the same for every block.
template <class Arch>
class tiered_layout {
   public:
    tiered_layout(std::size_t group, std::size_t head_dim, std::size_t value_dim,
                  std::size_t tokens)
        : group_(group), head_dim_(head_dim), value_dim_(value_dim), tokens_(tokens) {
        scratch_layout layout;
        tiered_scratch nowhere;
        place(nowhere, [&]<class U>(U*&, std::size_t rows, std::size_t n) {
            layout.take<U>(checked_product("q", rows, n));
        });
        bytes_ = layout.bytes();
    }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    /// Columns of the sums: what code rows of V are padded to.
    [[nodiscard]] std::size_t columns() const noexcept {
        return kernels::padded_code_width(value_dim_);
    }
    [[nodiscard]] tiered_scratch at(std::byte* block) const noexcept {
        scratch_layout layout;
        tiered_scratch s;
        place(s, [&]<class U>(U*& part, std::size_t rows, std::size_t n) noexcept {
            part = reinterpret_cast<U*>(block + layout.take_again<U>(rows * n));
        });
        return s;
    }

   private:
    /// take(part, rows, n) for each part, in the order in which they lie.
    template <class Take>
    void place(tiered_scratch& s, const Take& take) const {
        place_scan(s, take);
        place_sums(s, take);
        place_tokens(s, take);
    }

    template <class Take>
    void place_scan(tiered_scratch& s, const Take& take) const {
        const std::size_t blocks = (tokens_ + score_block_tokens - 1) / score_block_tokens;
        take(s.scan, 1, 1);
        take(s.queries, group_, simd::padded<Arch>(head_dim_));
        take(s.channel_scratch, 1, steps::channel_scratch_floats(head_dim_));
        take(s.channels, 1, head_dim_);
        take(s.scan_weights, group_, head_dim_);
        take(s.unread, 1, group_);
        take(s.maximum, group_, blocks);
        take(s.sum, group_, blocks);
        take(s.factors, group_, blocks);
        take(s.greatest, 1, tokens_);
        take(s.reach, 1, tokens_);
        take(s.shift, 1, group_);
        take(s.histogram, 1, 1);
        take(s.scanned, 1, group_);
        take(s.mix, 1, group_);
        take(s.coefficients, 1,
             steps::strip_coefficients::floats(group_, head_dim_,
                                               steps::strip_coefficients::slots_for(tokens_)));
    }
    template <class Take>
    void place_sums(tiered_scratch& s, const Take& take) const {
        take(s.exact_sums, group_, columns());
        take(s.certain_sums, group_ + 1, columns());
        take(s.drawn_sums, group_, columns());
        take(s.rest, 1, value_dim_);
        take(s.mean, 1, columns());
        take(s.tail_mean, 1, columns());
        take(s.sampled, 1, columns());
        take(s.output, 1, columns());
        take(s.partials, 2, steps::partial_floats<Arch>(group_, value_dim_));
    }
    template <class Take>
    void place_tokens(tiered_scratch& s, const Take& take) const {
        take(s.scores, group_, tokens_);
        take(s.exact, 1, tokens_);
        take(s.tokens, 1, tokens_);
        take(s.picks, 1, tokens_);
        take(s.exact_logits, group_, tokens_);
        take(s.logits, group_, tokens_);
        take(s.weights, group_ + 1, tokens_);
        take(s.chance, 1, tokens_);
        take(s.scanned_weights, 1, tokens_);
        take(s.key_step, 1, tokens_);
        take(s.rows, 1, tokens_);
        take(s.value_minimum, 1, tokens_);
        take(s.value_step, 1, tokens_);
        take(s.gain, 1, tokens_);
    }

    std::size_t group_, head_dim_, value_dim_, tokens_, bytes_;
};

}  // namespace detail
SPARQ_NAMESPACE_END
