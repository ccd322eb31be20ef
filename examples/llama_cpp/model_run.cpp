// SPDX-License-Identifier: MIT
#include "model_run.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "ggml-backend.h"

namespace sparq_llama {
namespace {

[[noreturn]] void give_up(const std::string& what) {
    std::fprintf(stderr, "%s\n", what.c_str());
    std::exit(2);
}

template <class Function>
Function find(ggml_backend_reg_t registration, const char* name) {
    void* function = ggml_backend_reg_get_proc_address(registration, name);
    if (function == nullptr) give_up(std::string("the plugin has no ") + name);
    return reinterpret_cast<Function>(function);
}

/// A batch that frees itself.
class batch {
   public:
    explicit batch(std::size_t tokens) : batch_(llama_batch_init(static_cast<int>(tokens), 0, 1)) {}
    ~batch() { llama_batch_free(batch_); }
    batch(const batch&) = delete;
    batch& operator=(const batch&) = delete;

    void add(llama_token token, llama_pos position, int sequence, bool wants_logits) {
        const int i = batch_.n_tokens++;
        batch_.token[i] = token;
        batch_.pos[i] = position;
        batch_.n_seq_id[i] = 1;
        batch_.seq_id[i][0] = sequence;
        batch_.logits[i] = wants_logits;
    }
    void decode(llama_context* context) {
        if (const int error = llama_decode(context, batch_); error != 0)
            give_up("llama_decode: error " + std::to_string(error));
    }

   private:
    llama_batch batch_;
};

llama_pos next_position(llama_context* context, int sequence) {
    return llama_memory_seq_pos_max(llama_get_memory(context), sequence) + 1;
}

double log_sum_exp(std::span<const float> x) {
    const double most = *std::max_element(x.begin(), x.end());
    double sum = 0.0;
    for (const float value : x) sum += std::exp(value - most);
    return most + std::log(sum);
}

}  // namespace

loaded_plugin::loaded_plugin(const std::string& path) {
    ggml_backend_load_all();
    ggml_backend_reg_t registration = ggml_backend_reg_by_name("sparq");
    if (registration == nullptr) registration = ggml_backend_load(path.c_str());
    if (registration == nullptr) give_up(path + ": not loaded");
    configure_ = find<decltype(configure_)>(registration, "sparq_llama_configure");
    invalidate_ = find<decltype(invalidate_)>(registration, "sparq_llama_invalidate");
    count_ = find<decltype(count_)>(registration, "sparq_llama_count");
}

void loaded_plugin::configure(const std::string& list) const {
    if (const char* wrong = try_configure(list); wrong != nullptr) give_up(wrong);
}

model_ptr load_model(const std::string& path) {
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
            static bool shown = false;
            if (level != GGML_LOG_LEVEL_CONT) shown = level >= GGML_LOG_LEVEL_ERROR;
            if (shown) std::fputs(text, stderr);
        },
        nullptr);
    model_ptr model(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
    if (!model) give_up(path + ": no model");
    return model;
}

context_ptr make_context(llama_model* model, const context_options& options) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = options.tokens * options.sequences;
    params.n_seq_max = options.sequences;
    params.kv_unified = options.unified;
    params.n_threads = params.n_threads_batch = options.threads;
    params.type_k = params.type_v = options.cache_type;
    params.flash_attn_type =
        options.flash_attention ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    context_ptr context(llama_init_from_model(model, params));
    if (!context) give_up("no context");
    return context;
}

std::vector<llama_token> tokens_of_file(const llama_model* model, const std::string& path,
                                        std::size_t most) {
    std::ifstream file(path);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    if (text.empty()) give_up(path + ": no text");
    text.resize(std::min(text.size(), most * 8));
    std::vector<llama_token> tokens(text.size() + 16);
    const int count =
        llama_tokenize(llama_model_get_vocab(model), text.data(), static_cast<int>(text.size()),
                       tokens.data(), static_cast<int>(tokens.size()), true, false);
    tokens.resize(std::min(static_cast<std::size_t>(std::max(count, 0)), most));
    return tokens;
}

std::string text_of(const llama_model* model, std::span<const llama_token> tokens) {
    std::string text;
    for (const llama_token token : tokens) {
        char piece[256];
        const int n =
            llama_token_to_piece(llama_model_get_vocab(model), token, piece, sizeof piece, 0, true);
        text.append(piece, static_cast<std::size_t>(std::max(n, 0)));
    }
    return text;
}

void append(llama_context* context, std::span<const int> sequences,
            std::span<const llama_token> tokens) {
    constexpr std::size_t at_once = 512;
    for (std::size_t begin = 0; begin < tokens.size(); begin += at_once) {
        const std::size_t n = std::min(at_once, tokens.size() - begin);
        batch all(n * sequences.size());
        for (const int sequence : sequences) {
            const llama_pos position = next_position(context, sequence);
            for (std::size_t i = 0; i < n; ++i)
                all.add(tokens[begin + i], position + static_cast<llama_pos>(i), sequence,
                        begin + i + 1 == tokens.size());
        }
        all.decode(context);
    }
}

void step(llama_context* context, std::span<const int> sequences,
          std::span<const llama_token> tokens) {
    batch all(sequences.size());
    for (std::size_t i = 0; i < sequences.size(); ++i)
        all.add(tokens[i], next_position(context, sequences[i]), sequences[i], true);
    all.decode(context);
}

std::vector<float> logits_of(llama_context* context, std::size_t i, std::size_t sequences) {
    const int n = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
    const auto from_end = static_cast<int>(i) - static_cast<int>(sequences);
    const float* row = llama_get_logits_ith(context, from_end);
    if (row == nullptr) give_up("no logits");
    return {row, row + n};
}

std::size_t most_likely(std::span<const float> logits) {
    return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) -
                                    logits.begin());
}

double kl_divergence(std::span<const float> logits_p, std::span<const float> logits_q) {
    const double p_sum = log_sum_exp(logits_p), q_sum = log_sum_exp(logits_q);
    double sum = 0.0;
    for (std::size_t i = 0; i < logits_p.size(); ++i) {
        const double log_p = logits_p[i] - p_sum;
        sum += std::exp(log_p) * (log_p - (logits_q[i] - q_sum));
    }
    return sum;
}

}  // namespace sparq_llama
