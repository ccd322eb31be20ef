// SPDX-License-Identifier: MIT
// attention_report: what a call did, for those who ask.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "version.hpp"

SPARQ_NAMESPACE_BEGIN

/// Of one query head.
struct head_report {
    /// alpha: the approximate softmax mass of the attended tokens, in [0, 1]; 1 when dense.
    float covered = 0.0f;
    /// ln of the sum of exp(scale * q . k) over the tokens attended exactly. Partial
    /// results over disjoint tokens merge with it.
    float log_sum_exp = 0.0f;
    // Of attention in tiers (tiered_attention.hpp) only:
    /// |y - y_dense| / |y_dense| to expect; 0 when dense. Over rows of 8 bits (int8_row) their
    /// rounding included, but where dense.
    float expected_error = 0.0f;
    float tail_weight = 0.0f;  ///< weight of the tokens that the mean or a sample stands for
    std::size_t exact = 0;     ///< tokens read exactly
    std::size_t refined = 0;   ///< tokens read as 4-bit rows
    bool dense = false;        ///< all was read exactly: nothing would have been saved
};

/// Bytes of keys, values and value sums that each step read, all heads together.
struct step_bytes {
    std::size_t scan = 0;      ///< approximate scores: r channels of the d_h-major keys, and
                               ///< rows of K that the scan takes instead of their labels
    std::size_t selected = 0;  ///< rows of K and V attended exactly
    std::size_t tail = 0;      ///< sums of the values, or the values where no sums are kept
};

/// Filled by a call that is given one; a refused call leaves it as it was. The vectors
/// keep their memory, so a report that has seen the shape once costs no allocation.
struct attention_report {
    std::size_t bytes_read = 0;  ///< the sum of `bytes`
    step_bytes bytes;
    std::vector<head_report> heads;  ///< [heads_q]
    bool dense = false;              ///< all tokens were attended (k >= S, S < dense_below)

    bool keep_tokens = false;           ///< set by the caller: fill `tokens`
    std::size_t tokens_per_head = 0;    ///< min(k, S)
    std::vector<std::uint32_t> tokens;  ///< [heads_kv, tokens_per_head], ascending
};

SPARQ_NAMESPACE_END
