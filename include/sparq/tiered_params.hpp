// SPDX-License-Identifier: MIT
// tiered_params: what a caller chooses about attention in tiers of precision.
#pragma once

#include <cstddef>

#include "version.hpp"

SPARQ_NAMESPACE_BEGIN

/// The parameters of one call over a tiered_view. Each token is read as precisely as its
/// weight asks for: all of them at 2 bits in some channels (the scan), the better ones as
/// 4-bit rows, the best as they are; the mean value stands for the rest.
struct tiered_params {
    /// Relative error of each head's output that is accepted, |y - y_dense| / |y_dense| with
    /// Euclidean norms: the expected one, which single steps exceed. 0: dense attention.
    float tolerance = 0.05f;
    /// Channels that the scan reads, up to d_h; 0 stands for a quarter of d_h, rounded up.
    std::size_t scan_channels = 0;
    /// Fixed tiers, when either is not 0: so many tokens are read exactly, and so many more
    /// as 4-bit rows; sinks and recent ones come on top. The tolerance plays no part.
    std::size_t refined = 0;
    std::size_t exact = 0;
    /// How many of the oldest and of the newest tokens are always read exactly.
    std::size_t sinks = 4;
    std::size_t recent = 16;
    /// Factor on q . k before the softmax; 0 stands for 1 / sqrt(d_h). Must be finite.
    float scale = 0.0f;

    [[nodiscard]] constexpr bool has_fixed_tiers() const noexcept {
        return refined != 0 || exact != 0;
    }
};

SPARQ_NAMESPACE_END
