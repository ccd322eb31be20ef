// SPDX-License-Identifier: MIT
#include "engine.hpp"

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "ggml.h"

namespace quality {
namespace {

using std::size_t;

size_t extent(const ggml_tensor* tensor, int axis) { return static_cast<size_t>(tensor->ne[axis]); }

/// The cache of keys that an attention node reads, or nullptr where the node is another. Its
/// operation is not looked at: that of a node that is not to be computed was taken away.
const ggml_tensor* key_cache_of(const ggml_tensor* node) {
    if (node->op != GGML_OP_FLASH_ATTN_EXT && node->op != GGML_OP_NONE) return nullptr;
    if (node->src[1] == nullptr || node->src[2] == nullptr || node->src[3] == nullptr)
        return nullptr;
    const ggml_tensor* cache = node->src[1]->view_src;
    return cache != nullptr && std::strncmp(cache->name, "cache_k_l", 9) == 0 ? cache : nullptr;
}

size_t layer_of(const ggml_tensor* cache) { return std::stoul(cache->name + 9); }

/// Rows [first, end) of a cache: with flash attention, tokens one behind the other.
std::span<const sparq::half> rows_of(const ggml_tensor* cache, size_t first, size_t end) {
    const auto row = extent(cache, 0) * extent(cache, 2);
    if (cache->type != GGML_TYPE_F16 || cache->nb[1] != row * sizeof(sparq::half))
        throw std::runtime_error("llama.cpp's cache has another layout than expected");
    return {static_cast<const sparq::half*>(cache->data) + first * row, (end - first) * row};
}

/// The last query sees the cells [0, tokens) and no other: cells are tokens then.
bool sees_just(const ggml_tensor* mask, size_t query, size_t tokens) {
    const auto* row = reinterpret_cast<const std::uint16_t*>(static_cast<const char*>(mask->data) +
                                                             query * mask->nb[1]);
    for (size_t cell = 0; cell < extent(mask, 0); ++cell)
        if ((row[cell] == 0) != (cell < tokens)) return false;
    return true;
}

ggml_type type_of(const std::string& name) {
    return name == "q8_0" ? GGML_TYPE_Q8_0 : name == "q4_0" ? GGML_TYPE_Q4_0 : GGML_TYPE_F16;
}

void show_errors(ggml_log_level level, const char* text, void*) {
    static bool shown = false;
    if (level != GGML_LOG_LEVEL_CONT) shown = level >= GGML_LOG_LEVEL_ERROR;
    if (shown) std::fputs(text, stderr);
}

}  // namespace

loaded_model::loaded_model(const std::string& path) {
    llama_log_set(show_errors, nullptr);
    ggml_backend_load_all();
    model_.reset(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
    if (!model_) throw std::runtime_error(path + ": no model");
}

model_shape loaded_model::shape() const {
    const auto heads = static_cast<size_t>(llama_model_n_head(get()));
    return {static_cast<size_t>(llama_model_n_layer(get())), heads,
            static_cast<size_t>(llama_model_n_head_kv(get())),
            static_cast<size_t>(llama_model_n_embd(get())) / heads};
}

std::vector<llama_token> loaded_model::tokens_of(std::string_view text) const {
    std::vector<llama_token> tokens(text.size() + 8);
    const int n =
        llama_tokenize(llama_model_get_vocab(get()), text.data(), static_cast<int>(text.size()),
                       tokens.data(), static_cast<int>(tokens.size()), false, false);
    if (n < 0) throw std::runtime_error("llama_tokenize failed");
    tokens.resize(static_cast<size_t>(n));
    return tokens;
}

std::string loaded_model::text_of(std::span<const llama_token> tokens) const {
    std::string text;
    for (const llama_token token : tokens) {
        char piece[256];
        const int n =
            llama_token_to_piece(llama_model_get_vocab(get()), token, piece, sizeof piece, 0, true);
        text.append(piece, static_cast<size_t>(std::max(n, 0)));
    }
    return text;
}

size_t loaded_model::measure(std::string_view text, size_t tokens) const {
    const auto all = tokens_of(text);
    return text_of(std::span(all).first(std::min(tokens, all.size()))).size();
}

size_t loaded_model::vocabulary() const {
    return static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(get())));
}

/// What happens at the attention nodes.
struct engine::hook {
    explicit hook(const model_shape& shape) : attention(shape), queries(shape.layers) {}

    decoder_attention attention;
    enum { collect, answer, leave } mode = leave;
    std::vector<std::vector<float>> queries;  ///< [layers]
    size_t last_queries = 0;
    std::string error;  ///< no exception may pass through llama.cpp

    static bool on_node(ggml_tensor* node, bool ask, void* self) {
        auto& hook = *static_cast<engine::hook*>(self);
        const ggml_tensor* cache = key_cache_of(node);
        if (cache == nullptr) return false;
        if (ask) {
            node->op = hook.mode == answer ? GGML_OP_NONE : GGML_OP_FLASH_ATTN_EXT;
            return hook.mode != leave;
        }
        try {
            hook.look(node, layer_of(cache));
        } catch (const std::exception& problem) {
            hook.error = problem.what();
        }
        return true;
    }

    void look(ggml_tensor* node, size_t layer) {
        const ggml_tensor *q = node->src[0], *k = node->src[1], *v = node->src[2];
        const size_t n = extent(q, 1), known = attention.layer(layer).tokens.seq_len();
        if (!sees_just(node->src[3], n - 1, known + n))
            throw std::runtime_error("cells of llama.cpp's cache are not in the tokens' order");
        copy_queries(q);
        attention.append(layer, rows_of(k, known, known + n), rows_of(v, known, known + n),
                         queries_);
        auto& last = queries[layer];
        last.insert(last.end(), queries_.begin(), queries_.end());
        const size_t most = last_queries * queries_.size() / n;
        if (last.size() > most)
            last.erase(last.begin(), last.end() - static_cast<std::ptrdiff_t>(most));
        if (mode != answer) return;
        if (n != 1) throw std::runtime_error("a step of several tokens");
        attention.attend(
            layer, queries_,
            {static_cast<float*>(node->data), static_cast<size_t>(ggml_nelements(node))});
    }

    /// [n, heads_q, d_h] from [heads_q, n, d_h] of any strides.
    void copy_queries(const ggml_tensor* q) {
        queries_.clear();
        for (size_t t = 0; t < extent(q, 1); ++t)
            for (size_t h = 0; h < extent(q, 2); ++h) {
                const auto* row = reinterpret_cast<const float*>(static_cast<const char*>(q->data) +
                                                                 t * q->nb[1] + h * q->nb[2]);
                queries_.insert(queries_.end(), row, row + extent(q, 0));
            }
    }
    std::vector<float> queries_;  ///< of one node
};

engine::engine(const loaded_model& model, const engine_cache& cache, size_t tokens, int threads)
    : model_(model), hook_(std::make_unique<hook>(model.shape())) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<std::uint32_t>(tokens);
    params.n_threads = params.n_threads_batch = threads;
    params.type_k = params.type_v = type_of(cache.type);
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    if (cache.type == "f16") {
        params.cb_eval = hook::on_node;
        params.cb_eval_user_data = hook_.get();
    }
    // Read once, when the cache is made.
    setenv("LLAMA_ATTN_ROT_DISABLE", cache.rotation ? "0" : "1", 1);
    context_.reset(llama_init_from_model(model.get(), params));
    if (!context_) throw std::runtime_error("no context of " + std::to_string(tokens) + " tokens");
}

engine::~engine() = default;

const decoder_attention& engine::attention() const { return hook_->attention; }

std::span<const float> engine::queries(size_t layer) const { return hook_->queries[layer]; }

std::span<const float> engine::decode(std::span<const llama_token> tokens) {
    constexpr size_t at_once = 512;
    for (size_t begin = 0; begin < tokens.size(); begin += at_once) {
        const size_t n = std::min(at_once, tokens.size() - begin);
        // llama_batch_get_one asks for the last token's logits, and continues the sequence.
        std::vector<llama_token> piece(tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                       tokens.begin() + static_cast<std::ptrdiff_t>(begin + n));
        const int status =
            llama_decode(context_.get(), llama_batch_get_one(piece.data(), static_cast<int>(n)));
        if (!hook_->error.empty()) throw std::runtime_error(hook_->error);
        if (status != 0) throw std::runtime_error("llama_decode: " + std::to_string(status));
    }
    seen_ += tokens.size();
    return {llama_get_logits_ith(context_.get(), -1), model_.vocabulary()};
}

void engine::prefill(std::span<const llama_token> tokens, bool wants_prompt_weights,
                     size_t last_queries) {
    llama_memory_clear(llama_get_memory(context_.get()), false);
    hook_->attention.clear(wants_prompt_weights);
    hook_->mode = hook::collect;
    hook_->last_queries = last_queries;
    for (auto& queries : hook_->queries) queries.clear();
    seen_ = 0;
    const auto logits = decode(tokens);
    prompt_logits_.assign(logits.begin(), logits.end());
    prompt_tokens_ = tokens.size();
    hook_->mode = hook::leave;
}

void engine::begin(method* chosen) {
    if (seen_ > prompt_tokens_ && !llama_memory_seq_rm(llama_get_memory(context_.get()), 0,
                                                       static_cast<llama_pos>(prompt_tokens_), -1))
        throw std::runtime_error("llama.cpp's cache cannot go back to the prompt");
    seen_ = prompt_tokens_;
    hook_->attention.truncate(prompt_tokens_);
    hook_->mode = chosen == nullptr ? hook::leave : hook::answer;
    if (chosen != nullptr) hook_->attention.use(*chosen);
}

std::span<const float> engine::step(llama_token token) { return decode({&token, 1}); }

}  // namespace quality
