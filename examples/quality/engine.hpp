// SPDX-License-Identifier: MIT
// engine: a llama.cpp context whose decode attention can be answered by decoder_attention.
//
// llama.cpp lets a program look at the nodes of its graph before and after they are computed
// (cb_eval). In prompts the attention nodes are left as they are, and K, V and the queries
// they used are taken down. In steps they are not computed at all: their result is written by
// the method. No patch, public headers only; the graph is cut at each of these nodes, so this
// is for quality, not for speed.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "decoder_attention.hpp"
#include "llama.h"

namespace quality {

struct free_model {
    void operator()(llama_model* model) const { llama_model_free(model); }
};
struct free_context {
    void operator()(llama_context* context) const { llama_free(context); }
};

/// The weights and the tokenizer.
class loaded_model {
   public:
    /// Throws std::runtime_error.
    explicit loaded_model(const std::string& path);
    [[nodiscard]] llama_model* get() const { return model_.get(); }
    [[nodiscard]] model_shape shape() const;
    [[nodiscard]] std::vector<llama_token> tokens_of(std::string_view text) const;
    [[nodiscard]] std::string text_of(std::span<const llama_token> tokens) const;
    /// See token_measure.
    [[nodiscard]] std::size_t measure(std::string_view text, std::size_t tokens) const;
    [[nodiscard]] std::size_t vocabulary() const;

   private:
    std::unique_ptr<llama_model, free_model> model_;
};

class engine {
   public:
    /// @param tokens  most tokens of a prompt with its steps
    /// @param cache   f16 where methods are to attend. Throws std::runtime_error.
    engine(const loaded_model& model, const engine_cache& cache, std::size_t tokens, int threads);
    ~engine();
    engine(const engine&) = delete;
    engine& operator=(const engine&) = delete;

    /// Forgets everything and processes a prompt, densely, by llama.cpp.
    /// @param last_queries  how many of the prompt's last queries to keep for queries()
    void prefill(std::span<const llama_token> tokens, bool wants_prompt_weights = false,
                 std::size_t last_queries = 0);
    /// Back to the end of the prompt. nullptr: llama.cpp attends in the steps that follow.
    void begin(method* chosen);
    /// Feeds one token. Good until the next call.
    std::span<const float> step(llama_token token);

    /// What the prompt predicts.
    [[nodiscard]] std::span<const float> prompt_logits() const { return prompt_logits_; }
    [[nodiscard]] std::size_t prompt_tokens() const { return prompt_tokens_; }
    [[nodiscard]] const decoder_attention& attention() const;
    /// The last queries of a layer, [n, heads_q, d_h].
    [[nodiscard]] std::span<const float> queries(std::size_t layer) const;

   private:
    struct hook;
    std::span<const float> decode(std::span<const llama_token> tokens);

    const loaded_model& model_;
    std::unique_ptr<hook> hook_;
    std::unique_ptr<llama_context, free_context> context_;
    std::vector<float> prompt_logits_;
    std::size_t prompt_tokens_ = 0, seen_ = 0;
};

}  // namespace quality
