// SPDX-License-Identifier: MIT
// First read of tiered attention, before it: the channels whose 2-bit codes are scanned.
//
// What a channel tells about the order of the tokens is how far its part of q . k spreads
// over them, less what its codes leave unknown. The r channels with the greatest
//
//   gain[c] = sum over h of q[h][c]^2 * (variance[c] - code_error * square_width[c])
//
// are scanned; the others stand at their mean, which is the same for all tokens. The
// scanned logit of head h then differs from q . k by a noise of variance
//
//   sum over c of q[h][c]^2 * variance[c] - sum over scanned c of its gain.
//
// Traffic: reads q and 12 bytes a channel of the moments. (SparQ ranks by |q| alone; the
// spread raises the mass of the exact top 256 that 16 of 64 channels find from 0.96 to 0.98
// in SmolLM2-135M at 8k tokens.)
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../../config.hpp"
#include "../../detail/multiply_add.hpp"
#include "../../kernels/top_k.hpp"
#include "../../tiered_view.hpp"
#include "../attend_selected.hpp"

SPARQ_NAMESPACE_BEGIN
namespace steps {

/// Mean squared error of a 2-bit code relative to the square of its range's width: 0.119 for
/// normal values where the width is their deviation, 0.10 to 0.13 in real keys; 0.083 for even
/// ones. (In SmolLM2-135M 0.08 saves 1 % of the bytes and 0.16 costs 3 % at tolerance 0.2.)
inline constexpr float code_error = 0.12f;

/// More channels than asked for are scanned, eight at a time, until the noise of a logit
/// (mean over the heads, as a deviation) is below it.
inline constexpr float scan_noise_limit = 1.75f;

/// What the scan is told, in scratch.
struct channel_choice {
    std::uint32_t* channels;  ///< [r], ascending
    float* weights;           ///< [heads, r]: q of those channels
    float* unread;            ///< [heads]: what the other channels add to every logit
};

/// Floats of scratch for choose_channels.
SPARQ_PER_ISA constexpr std::size_t channel_scratch_floats(std::size_t head_dim) noexcept {
    return head_dim + kernels::top_k_scratch_floats(head_dim);
}

SPARQ_PER_ISA inline void weigh_channels(const scaled_queries& q, std::size_t head_dim,
                                         const channel_moments& known, std::size_t r,
                                         const channel_choice& choice) noexcept {
    for (std::size_t h = 0; h < q.heads; ++h) {
        const float* query = q.data + h * q.stride;
        choice.unread[h] = 0.0f;
        for (std::size_t c = 0; c < head_dim; ++c)
            choice.unread[h] = detail::multiply_add(query[c], known.mean[c], choice.unread[h]);
        for (std::size_t i = 0; i < r; ++i) {
            const std::size_t c = choice.channels[i];
            choice.weights[h * r + i] = query[c];
            choice.unread[h] = detail::multiply_add(-query[c], known.mean[c], choice.unread[h]);
        }
    }
}

/// The choice of r channels, or more where they are needed.
///
/// @param q        scaled
/// @param scratch  [channel_scratch_floats(d_h)]
/// @param choice   its arrays have room for d_h channels and are overwritten
/// @return         r, and the variance of the scanned logits' noise, mean over the heads
struct scanned_channels {
    std::size_t r;
    float noise;
};
template <class Arch>
scanned_channels choose_channels(const scaled_queries& q, std::size_t head_dim,
                                 const channel_moments& known, std::size_t r, float* scratch,
                                 const channel_choice& choice) noexcept {
    float* gain = scratch;
    float all = 0.0f;
    for (std::size_t c = 0; c < head_dim; ++c) {
        float square = 0.0f;
        for (std::size_t h = 0; h < q.heads; ++h)
            square =
                detail::multiply_add(q.data[h * q.stride + c], q.data[h * q.stride + c], square);
        square /= static_cast<float>(q.heads);
        gain[c] = square * std::max(0.0f, detail::multiply_add(-code_error, known.square_width[c],
                                                               known.variance[c]));
        all = detail::multiply_add(square, known.variance[c], all);
    }
    for (;; r = std::min(r + 8, head_dim)) {
        kernels::top_k<Arch>(gain, head_dim, r, nullptr, scratch + head_dim, choice.channels);
        float noise = all;
        for (std::size_t i = 0; i < r; ++i) noise -= gain[choice.channels[i]];
        if (r < head_dim && noise > scan_noise_limit * scan_noise_limit) continue;
        weigh_channels(q, head_dim, known, r, choice);
        return {r, std::max(0.0f, noise)};
    }
}

}  // namespace steps
SPARQ_NAMESPACE_END
