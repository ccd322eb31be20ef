// SPDX-License-Identifier: MIT
// How near SparQ comes to dense attention on recorded queries, keys and values.
#pragma once

#include <cstddef>
#include <filesystem>
#include <sparq/params.hpp>
#include <string>
#include <vector>

#include "npy.hpp"

/// One attention layer of a model, recorded while it read a text of S tokens.
struct recorded_layer {
    std::string name;
    npy_array queries;  ///< [rows, H_q, d_h]; row i is the query of token S - rows + i
    npy_array keys;     ///< [S, H_kv, d_h]
    npy_array values;   ///< [S, H_kv, d_v]

    std::size_t rows() const { return queries.shape[0]; }
    std::size_t heads_q() const { return queries.shape[1]; }
    std::size_t heads_kv() const { return keys.shape[1]; }
    std::size_t head_dim() const { return keys.shape[2]; }
    std::size_t value_dim() const { return values.shape[2]; }
    std::size_t seq_len() const { return keys.shape[0]; }
};

/// Every NAME_q.npy, NAME_k.npy, NAME_v.npy of a folder, sorted by name.
std::vector<recorded_layer> read_layers(const std::filesystem::path& folder);

/// Of one query head, mean over the rows.
struct head_accuracy {
    double error = 0;    ///< |y - y_dense| / |y_dense|
    double mass = 0;     ///< weight that dense attention gives the attended tokens
    double covered = 0;  ///< alpha: what SparQ takes that weight to be
};

/// Of one layer under one choice of parameters.
struct accuracy {
    sparq::sparq_params params;
    std::vector<head_accuracy> heads;  ///< [H_q]
    double bytes_share = 0;            ///< bytes read / bytes that dense attention reads

    double mean_error() const;
    double mean_mass() const;
    double worst_error() const;  ///< of the head with the largest
};

/// Decodes the recorded rows token by token, once for all the choices.
std::vector<accuracy> measure_accuracy(const recorded_layer& layer,
                                       const std::vector<sparq::sparq_params>& choices);
