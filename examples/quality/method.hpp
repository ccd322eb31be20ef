// SPDX-License-Identifier: MIT
// method: one way to answer decode attention, for all layers of one model.
//
// To add one: derive from it in methods.cpp (or a file of its own), read the options in the
// constructor, and name it in make_method. Nothing else knows the methods.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <sparq/baselines.hpp>
#include <sparq/sparq.hpp>
#include <string>
#include <vector>

#include "method_spec.hpp"

namespace quality {

using token_cache = sparq::kv_cache<sparq::half>;

/// What one layer has seen. The same for all methods: they only read it.
struct layer_history {
    token_cache tokens;  ///< exact K and V, the current token's included
    /// What the prompt's queries gave to its tokens; only where a method wants it.
    std::optional<sparq::baselines::h2o_state> prompt_weights;
};

class method {
   public:
    method() = default;
    virtual ~method() = default;
    method(const method&) = delete;
    method& operator=(const method&) = delete;

    /// Layers [0, n) that are to be attended densely whatever the method.
    std::size_t dense_layers = 0;

    /// True where layer_history::prompt_weights must be there.
    [[nodiscard]] virtual bool wants_prompt_weights() const { return false; }

    /// The history is a prompt: forget all steps, take in what is new since the last call.
    virtual void begin(std::size_t layer, const layer_history& history);

    /// One decode step of a layer: one token more than in the last call for it.
    /// @param q    [heads_q, d_h]
    /// @param out  [heads_q, d_v], overwritten
    /// @param options  the bytes read go to its report
    virtual void attend(std::size_t layer, const layer_history& history, std::span<const float> q,
                        std::span<float> out, const sparq::call_options& options) = 0;
};

/// Throws std::invalid_argument for a method or an option that does not exist.
///
/// `share` stands for k (sparq: r and k) such that about this part of dense attention's bytes
/// is read, with S the length of the prompt.
///
/// | name | options, with their defaults |
/// |---|---|
/// | dense, zeros | |
/// | sparq | r=16, k=128, local=k/4, tail=auto,none,mean, ranking=softmax,logit; or share |
/// | h2o | k=128, local=k/4; or share |
/// | lm_infinite | k=128, initial=16; or share |
/// | flexgen | k=128, dropped=lost,renormalise,spread |
/// | sparq_codes | bits=4,2,8, r=16, k=128, local=k/4, tail, components=magnitude,spread,
/// temperature=paper,none | | tiers | tolerance=0.05; or refined and exact; channels=d_h/4 | |
/// quest | k=128, newest=off,on (its page); or share |
///
/// All of them: dense_layers=0.
std::unique_ptr<method> make_method(const std::string& text);

/// Those that need neither llama.cpp nor the queries of a whole prompt.
std::vector<std::string> replayable(const std::vector<std::string>& methods);

/// The methods that are llama.cpp's own, by the type of its cache: ggml (f16), q8_0, q4_0.
struct engine_cache {
    std::string type = "f16";  ///< f16, q8_0, q4_0
    bool rotation = true;      ///< llama.cpp rotates K and V before it quantises them
    double bytes = 1.0;        ///< of an f16 cache's
};
/// Nothing for the others. q8_0 and q4_0 have the option rotation=on,off.
std::optional<engine_cache> engine_cache_of(const std::string& text);

}  // namespace quality
