// SPDX-License-Identifier: MIT
#include "decoder_attention.hpp"

namespace quality {

void decoder_attention::clear(bool wants_prompt_weights) {
    wants_prompt_weights_ = wants_prompt_weights;
    while (layers_.size() < shape_.layers)
        layers_.push_back({token_cache(shape_.heads_kv, shape_.head_dim), std::nullopt});
    for (layer_history& layer : layers_) {
        layer.tokens.clear();
        layer.prompt_weights.reset();
        if (wants_prompt_weights)
            layer.prompt_weights.emplace(shape_.heads_kv, sparq::baselines::h2o_params{});
    }
    method_ = nullptr;
}

void decoder_attention::append(std::size_t layer, std::span<const sparq::half> keys,
                               std::span<const sparq::half> values,
                               std::span<const float> queries) {
    layer_history& history = layers_.at(layer);
    history.tokens.append(keys, values);
    if (method_ == nullptr && wants_prompt_weights_)
        history.prompt_weights->append(queries, keys.size() / shape_.heads_kv / shape_.head_dim,
                                       history.tokens.view());
}

void decoder_attention::truncate(std::size_t n) {
    for (layer_history& layer : layers_)
        if (layer.tokens.seq_len() > n) layer.tokens.truncate(n);
}

void decoder_attention::use(method& chosen) {
    method_ = &chosen;
    read_ = dense_ = 0.0;
    report_.keep_tokens = true;
    for (std::size_t l = 0; l < layers_.size(); ++l) chosen.begin(l, layers_[l]);
}

void decoder_attention::attend(std::size_t layer, std::span<const float> q, std::span<float> out) {
    const layer_history& history = layers_.at(layer);
    const sparq::call_options options{.work = &work_, .report = &report_};
    if (layer < method_->dense_layers)
        sparq::dense_attention(q, history.tokens, out, options);
    else
        method_->attend(layer, history, q, out, options);
    read_ += static_cast<double>(report_.bytes_read);
    dense_ += static_cast<double>(history.tokens.seq_len() * shape_.heads_kv * shape_.head_dim * 2 *
                                  sizeof(sparq::half));
}

double decoder_attention::bytes_share() const noexcept {
    return dense_ > 0.0 ? read_ / dense_ : 0.0;
}

}  // namespace quality
