// SPDX-License-Identifier: MIT
// Cross-attention, as in a speech or translation model: the encoder's keys and values
// fill the cache once, every decoder step attends to the same tokens. No token is newer
// than another here, so local = 0.
#include <algorithm>
#include <cstdio>
#include <sparq/sparq.hpp>

#include "synthetic.hpp"

namespace {

constexpr std::size_t heads = 6, head_dim = 64, frames = 1500;
constexpr std::size_t row = heads * head_dim;

/// A query that looks for one frame: that frame's key, made long, and some noise.
std::vector<float> query_for(std::size_t frame, std::span<const float> keys, std::mt19937& random) {
    std::vector<float> q = normal_numbers(random, row);
    for (std::size_t i = 0; i < row; ++i) q[i] += 2.0f * keys[frame * row + i];
    return q;
}

/// Whether every head chose the frame.
bool all_heads_chose(const sparq::attention_report& report, std::size_t frame) {
    for (std::size_t g = 0; g < heads; ++g) {
        const auto begin = report.tokens.begin() + std::ptrdiff_t(g * report.tokens_per_head);
        if (!std::binary_search(begin, begin + std::ptrdiff_t(report.tokens_per_head), frame))
            return false;
    }
    return true;
}

}  // namespace

int main() {
    std::mt19937 random(7);
    const std::vector<float> keys = normal_numbers(random, frames * row);
    const std::vector<float> values = normal_numbers(random, frames * row);
    sparq::kv_cache<sparq::half> encoder(heads, head_dim);
    encoder.append(keys, values);

    const sparq::sparq_params params{.r = 16, .k = 64, .local = 0};
    sparq::workspace work;
    sparq::attention_report report;
    report.keep_tokens = true;
    std::vector<float> y(row), y_dense(row);
    std::size_t missed = 0;
    double worst = 0;
    for (std::size_t frame = 0; frame < frames; frame += 30) {
        const std::vector<float> q = query_for(frame, keys, random);
        sparq::sparq_attention(q, encoder, params, y, {.work = &work, .report = &report});
        sparq::dense_attention(q, encoder, y_dense, {.work = &work});
        if (!all_heads_chose(report, frame)) ++missed;
        worst = std::max(worst, relative_error(y, y_dense));
    }
    std::printf("%zu steps over %zu frames: frame missed in %zu, worst error %.4f\n", frames / 30,
                frames, missed, worst);
    return missed == 0 && worst < 0.05 ? 0 : 1;
}
