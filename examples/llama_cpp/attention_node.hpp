// SPDX-License-Identifier: MIT
// What an engine asks for: one attention node over a key/value cache, without the engine's
// types. Strides in elements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <sparq/scalar_types.hpp>

namespace sparq_llama {

/// The keys of one layer as the engine holds them: [streams, cells, row]. Tells one layer
/// from another; what is remembered about it is dropped when a member changes.
struct key_cache {
    const void* keys = nullptr;  ///< of stream 0, cell 0
    std::size_t cells = 0, streams = 0, row = 0;
    std::size_t layer = 0;  ///< the model's number of it

    friend bool operator==(const key_cache&, const key_cache&) = default;
};

/// Attention of `rows` query tokens in each of `streams`: row i of stream s looks at those of
/// the first `cells` cells of that stream whose mask is 0.
struct attention_node {
    key_cache cache;
    std::size_t first_stream = 0, streams = 0, rows = 0, cells = 0;
    std::size_t heads_q = 0, heads_kv = 0, head_dim = 0, value_dim = 0;
    float scale = 0.0f;

    const float* q = nullptr;
    std::size_t q_row_stride = 0, q_head_stride = 0, q_stream_stride = 0;
    float* out = nullptr;
    std::size_t out_row_stride = 0, out_head_stride = 0, out_stream_stride = 0;
    const sparq::half* keys = nullptr;  ///< of first_stream, cell 0
    std::size_t key_token_stride = 0, key_head_stride = 0, key_stream_stride = 0;
    const sparq::half* values = nullptr;
    std::size_t value_token_stride = 0, value_head_stride = 0, value_stream_stride = 0;
    const std::uint16_t* mask = nullptr;  ///< IEEE half: 0 visible, -inf hidden
    std::size_t mask_row_stride = 0, mask_stream_stride = 0;
};

}  // namespace sparq_llama
