// SPDX-License-Identifier: MIT
// The same call compiled three times, for three instruction sets, in one program.
#pragma once

#include <cstddef>

#define SPARQ_TEST_DECLARE_UNIT(name)                                                              \
    namespace name {                                                                               \
    /* SparQ (r > 0) or dense attention over [S, heads, d] keys and values held as half. */        \
    /* Returns whether a wrong parameter was refused as well. */                                   \
    bool attend(const float* q, const float* keys, const float* values, std::size_t seq_len,       \
                std::size_t r, float* out);                                                        \
    /* In tiers, over a tiered_cache, then over tier_codes beside keys and values: both. */        \
    void attend_tiers(const float* q, const float* keys, const float* values, std::size_t seq_len, \
                      float* out);                                                                 \
    std::size_t lanes();                                                                           \
    }

namespace units {
inline constexpr std::size_t heads_kv = 2, group = 2, dim = 64, k = 40, local = 8;
inline constexpr float tolerance = 0.1f;
SPARQ_TEST_DECLARE_UNIT(baseline)
SPARQ_TEST_DECLARE_UNIT(avx2)
SPARQ_TEST_DECLARE_UNIT(avx512)
}  // namespace units
