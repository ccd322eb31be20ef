// SPDX-License-Identifier: MIT
// Attention fidelity: real queries, keys and values are replayed, and each step's choice and
// output compared with exact attention.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "decoder_attention.hpp"

namespace quality {

/// One layer, or some of its KV heads: q [n, heads_q, d_h], K and V [S, heads_kv, d_h]; the
/// queries are those of the last n tokens.
struct recorded_layer {
    std::size_t layer = 0;
    model_shape shape;  ///< layers = 1
    std::size_t seq_len = 0, queries = 0;
    std::vector<sparq::half> q, keys, values;
};

/// All layers in a folder of files layerNN*_{q,k,v}.npy, in the order of their names.
/// Throws std::runtime_error that names the file and what is wrong.
std::vector<recorded_layer> read_layers(const std::filesystem::path& folder);

/// Writes one as layerNN_{q,k,v}.npy. Throws std::runtime_error.
void write_layer(const std::filesystem::path& folder, const recorded_layer& layer);

/// Of one query head, means over the steps. Weights are dense attention's; n the number of
/// tokens that were attended.
struct fidelity_row {
    std::size_t layer = 0, head = 0;
    std::string method;
    double recall = 0.0;       ///< how many of the n largest weights were attended, of n
    double mass = 0.0;         ///< sum of the weights attended
    double share = 0.0;        ///< mass, of that of the n largest
    double error = 0.0;        ///< |y - dense| / |dense|
    double worst_error = 0.0;  ///< of all steps
    double bytes = 0.0;        ///< of dense attention's, of all heads
};

/// A row for each method and query head. Throws std::invalid_argument for methods that need
/// the queries of the whole prompt (H2O).
std::vector<fidelity_row> replay(const recorded_layer& layer, std::span<const std::string> methods);

}  // namespace quality
