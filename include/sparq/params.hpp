// SPDX-License-Identifier: MIT
// sparq_params: what a caller chooses about SparQ attention.
#pragma once

#include <cstddef>

#include "version.hpp"

SPARQ_NAMESPACE_BEGIN

/// What stands for the tokens that are not attended (Algorithm 1, step 7).
enum class tail_estimate {
    automatic,   ///< mean_value for G = 1, none for G > 1: what the paper does for each
    none,        ///< nothing: the attended tokens are renormalised to weight 1
    mean_value,  ///< y = alpha * y + (1 - alpha) * mean of all values
};

/// How the query heads of a group agree on the tokens to attend.
enum class group_ranking {
    softmax_sum,  ///< by the sum of their approximate weights (paper, appendix B)
    logit_sum,    ///< by the sum of their approximate logits (the authors' released code)
};

/// How the query components that are scanned are ranked.
enum class component_ranking {
    magnitude,               ///< by the sum over the group of |q| (Algorithm 1, line 2)
    magnitude_times_spread,  ///< by that times the deviation of the channel's keys over the
                             ///< tokens: what is alike for all of them ranks nothing. Needs
                             ///< labels of few bits, whose ranges tell
};

/// What approximate logits are divided by.
enum class temperature {
    paper,  ///< tau = sqrt(d_h |q[i1]|_1 / |q|_1) (Algorithm 1, line 3)
    none,   ///< what exact logits are divided by, 1 / scale
};

/// The parameters of one call. Cost in elements per KV head: S * r + 2 * k * d_h,
/// where dense attention reads 2 * S * d_h. To read 1/c of the bytes take r = d_h / c
/// and k = S / (2 c); the paper's quality figures have k >= 128 and local = k / 4.
struct sparq_params {
    /// Query components used to guess the weights, 1 .. d_h.
    std::size_t r = 32;
    /// Tokens attended exactly, at least 1. k >= S gives the dense result.
    std::size_t k = 128;
    /// How many of the k are the newest tokens, 0 .. k.
    std::size_t local = 32;
    tail_estimate tail = tail_estimate::automatic;
    group_ranking ranking = group_ranking::softmax_sum;
    /// Factor on q . k before the softmax; 0 stands for 1 / sqrt(d_h). Must be finite.
    float scale = 0.0f;
    /// Histories of fewer tokens are attended whole, as with k >= S: exact, and faster where
    /// the tokens are few. The report says so. Measured with half, d_h = 128, one thread:
    /// SparQ overtakes dense attention at 5 to 8 times k. 0: never, as in the paper.
    std::size_t dense_below = 0;
    component_ranking components = component_ranking::magnitude;
    temperature tau = temperature::paper;
};

SPARQ_NAMESPACE_END
