// SPDX-License-Identifier: MIT
// The plugin's settings, by the names of their environment variables.
#pragma once

#include <cstddef>
#include <sparq/params.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace sparq_llama {

enum class method {
    off,    ///< everything is left to ggml
    dense,  ///< exact attention
    sparq,  ///< SparQ attention
    tiers,  ///< attention in tiers, to a tolerance
    zeros,  ///< writes zeros: the time of a model without attention, and a test that can fail
};

/// How the plugin gets at ggml's nodes; chosen when it is loaded, by SPARQ_ADAPTER.
enum class adapter {
    automatic,     ///< extra_buffer, or accel where the CPU backend hides what that needs
    extra_buffer,  ///< an entry in the CPU backend's list of extra buffer types
    accel,         ///< a device of type ACCEL
};
/// Throws std::invalid_argument as settings::set() does.
adapter adapter_from_environment();

struct settings {
    method use = method::sparq;
    sparq::sparq_params params{.r = 16, .k = 128, .local = 32};
    unsigned label_bits = 16;        ///< of SparQ's copy of the keys: 16 (the keys), 8, 4, 2
    float tolerance = 0.05f;         ///< of tiers: relative error that is accepted
    std::vector<bool> dense_layers;  ///< true: exact attention in that layer
    std::size_t dense_below = 512;   ///< cells in sight below which attention is exact
    std::size_t off_below = 0;       ///< cells in use below which all is left to ggml
    std::size_t most_rows = 8;       ///< query tokens of a node above which it is a prompt

    /// Sets one by its variable's name, SPARQ_METHOD for example.
    /// @throws std::invalid_argument naming it, the value, and what is allowed
    void set(std::string_view name, std::string_view value);

    /// Sets all of "SPARQ_R=16 SPARQ_K=128"; SPARQ_K without SPARQ_LOCAL makes that a
    /// quarter of it. Throws as set(), also for settings that contradict each other; nothing
    /// is changed then.
    void set_all(std::string_view list);

    /// Those named in the environment set, the others as above. Throws as set_all().
    static settings from_environment();

    [[nodiscard]] bool is_dense_layer(std::size_t layer) const noexcept {
        return layer < dense_layers.size() && dense_layers[layer];
    }
    /// One line for a log.
    [[nodiscard]] std::string text() const;
};

}  // namespace sparq_llama
