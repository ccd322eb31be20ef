// SPDX-License-Identifier: MIT
// What the programs that run a model share: a loaded model and plugin, batches, and how far
// two rows of logits are apart.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "llama.h"
#include "sparq_llama.h"

namespace sparq_llama {

/// The plugin as a program finds it that has only loaded it.
class loaded_plugin {
   public:
    /// Exits with a message when the file is no plugin or is not active.
    explicit loaded_plugin(const std::string& path);
    /// Exits with a message for a wrong setting.
    void configure(const std::string& list) const;
    /// nullptr, or what is wrong with the settings.
    const char* try_configure(const std::string& list) const { return configure_(list.c_str()); }
    void invalidate() const { invalidate_(); }
    [[nodiscard]] sparq_llama_counts counts() const { return count_(); }

   private:
    decltype(&sparq_llama_configure) configure_;
    decltype(&sparq_llama_invalidate) invalidate_;
    decltype(&sparq_llama_count) count_;
};

struct free_model {
    void operator()(llama_model* model) const { llama_model_free(model); }
};
struct free_context {
    void operator()(llama_context* context) const { llama_free(context); }
};
using model_ptr = std::unique_ptr<llama_model, free_model>;
using context_ptr = std::unique_ptr<llama_context, free_context>;

/// Only warnings and errors of llama.cpp are shown. Exits when the file is no model.
model_ptr load_model(const std::string& path);

struct context_options {
    std::uint32_t tokens = 1024;
    std::uint32_t sequences = 1;
    bool unified = false, flash_attention = true;
    int threads = 1;
    ggml_type cache_type = GGML_TYPE_F16;
};
context_ptr make_context(llama_model* model, const context_options& options);

/// At most `most` tokens of a text file.
std::vector<llama_token> tokens_of_file(const llama_model* model, const std::string& path,
                                        std::size_t most);
std::string text_of(const llama_model* model, std::span<const llama_token> tokens);

/// Appends tokens to each of the sequences, in one call of llama_decode for each 512 tokens
/// of a sequence. Logits of each sequence's last token can be read afterwards by
/// logits_of(i-th sequence). Exits when llama_decode fails.
void append(llama_context* context, std::span<const int> sequences,
            std::span<const llama_token> tokens);
/// The same, one token for each sequence, of its own.
void step(llama_context* context, std::span<const int> sequences,
          std::span<const llama_token> tokens);
/// Of the last call above: of its i-th sequence's last token.
std::vector<float> logits_of(llama_context* context, std::size_t i, std::size_t sequences);

std::size_t most_likely(std::span<const float> logits);
/// Sum of p (ln p - ln q), p and q the softmax of the two.
double kl_divergence(std::span<const float> logits_p, std::span<const float> logits_q);

}  // namespace sparq_llama
