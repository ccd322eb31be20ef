// SPDX-License-Identifier: MIT
// decoder_attention: the attention of all layers of a decoder, by any method, over one prompt
// that several methods start from.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "method.hpp"

namespace quality {

struct model_shape {
    std::size_t layers = 0, heads_q = 0, heads_kv = 0, head_dim = 0;
};

class decoder_attention {
   public:
    explicit decoder_attention(const model_shape& shape) : shape_(shape) {}

    [[nodiscard]] const model_shape& shape() const noexcept { return shape_; }
    [[nodiscard]] const layer_history& layer(std::size_t l) const { return layers_[l]; }

    /// Forgets everything. What the next prompt's queries do is remembered if wanted: for
    /// H2O, which takes as long as the attention of the prompt.
    void clear(bool wants_prompt_weights);
    /// Tokens of one layer, [n, heads_kv, d_h], and their queries, [n, heads_q, d_h].
    void append(std::size_t layer, std::span<const sparq::half> keys,
                std::span<const sparq::half> values, std::span<const float> queries);
    /// Drops the newest tokens until n are left in every layer.
    void truncate(std::size_t n);

    /// From here on `chosen` attends; all layers hold the prompt and no more. The counts
    /// begin at zero.
    void use(method& chosen);
    /// One step of one layer, whose newest token is the query's.
    void attend(std::size_t layer, std::span<const float> q, std::span<float> out);

    /// Bytes of K and V read in all calls of attend since use(), of what dense attention
    /// reads, as the library's reports count them; 0 before the first.
    [[nodiscard]] double bytes_share() const noexcept;
    /// Of the last call of attend.
    [[nodiscard]] const sparq::attention_report& report() const noexcept { return report_; }

   private:
    model_shape shape_;
    std::vector<layer_history> layers_;
    method* method_ = nullptr;
    bool wants_prompt_weights_ = false;
    double read_ = 0.0, dense_ = 0.0;
    sparq::workspace work_;
    sparq::attention_report report_;
};

}  // namespace quality
