// SPDX-License-Identifier: MIT
#include "sparq_layer.hpp"

namespace sparq_llama {

sparq_layer::sparq_layer(const layer_shape& shape) {
    streams_.reserve(shape.streams);
    for (std::size_t s = 0; s < shape.streams; ++s) streams_.emplace_back(shape);
}

bool sparq_layer::serves(const settings& with) const noexcept { return with.use == method::sparq; }

void sparq_layer::wrote(std::size_t stream, std::size_t cell) {
    if (stream < streams_.size())
        streams_[stream].written.note(cell, streams_[stream].labels.size());
}

void sparq_layer::invalidate() noexcept {
    for (one_stream& stream : streams_) {
        stream.labels.clear();
        stream.written.clear();
    }
}

void sparq_layer::refresh(const strided& engine, std::size_t stream, std::size_t end) {
    auto& [labels, written] = streams_.at(stream);
    if (written.better_cut_off(labels.size())) written.cut_off();
    if (written.end(labels.size()) < labels.size()) labels.truncate(written.end(labels.size()));
    for (const std::size_t cell : written.singles()) labels.rewrite(engine, cell);
    written.clear();
    if (labels.size() < end) labels.append(engine, end - labels.size());
}

row_plan sparq_layer::plan(const strided& engine, std::size_t stream, const row_request& row,
                           const settings& with, row_scratch& scratch) {
    sparq::sparq_params params = with.params;
    params.scale = row.scale;
    const std::size_t group = row.heads_q / engine.heads_kv;
    const bool sums = sparq::steps::uses_mean_value(params.tail, group);
    return sparq::plan_sparq(
        row.q, streams_.at(stream).labels.view(engine, row.visible, scratch.storage, sums), params,
        row.out, row.options);
}

std::unique_ptr<layer_state> make_layer_state(const settings&, const layer_shape& shape) {
    return std::make_unique<sparq_layer>(shape);
}

}  // namespace sparq_llama
