// SPDX-License-Identifier: MIT
#include "engine_cache.hpp"

#include <algorithm>
#include <exception>
#include <span>

#include "visible_cells.hpp"

namespace sparq_llama {
namespace {

/// More ranges than this must hold as many cells each, or the node is the engine's: a scan
/// of single cells is slower than reading them all.
constexpr std::size_t most_short_ranges = 64, cells_of_a_long_range = 8;

std::size_t cells_in(std::span<const sparq::token_range> ranges) noexcept {
    std::size_t cells = 0;
    for (const auto [begin, end] : ranges) cells += end - begin;
    return cells;
}

/// The node's cache as the library reads it, all cells of it: codes of cells in sight may need
/// others' rows.
strided rows_of(const attention_node& node, std::size_t stream) noexcept {
    return {.keys = node.keys + stream * node.key_stream_stride,
            .values = node.values + stream * node.value_stream_stride,
            .heads_kv = node.heads_kv,
            .head_dim = node.head_dim,
            .value_dim = node.value_dim,
            .cells = node.cache.cells,
            .key_token_stride = node.key_token_stride,
            .key_head_stride = node.key_head_stride,
            .value_token_stride = node.value_token_stride,
            .value_head_stride = node.value_head_stride};
}

}  // namespace

answer engine_cache::prepare(const attention_node& node, const settings& with) noexcept {
    try {
        answer_ = try_prepare(node, with);
    } catch (const std::exception&) {
        answer_ = answer::refused;
    }
    return answer_;
}

answer engine_cache::try_prepare(const attention_node& node, const settings& with) {
    node_ = node;
    plans_.clear();
    zeros_ = with.use == method::zeros;
    if (with.use == method::off || node.cells <= with.off_below ||
        node.rows * node.streams > with.most_rows)
        return answer::none;
    if (zeros_) return answer::given;

    const std::size_t rows = node.streams * node.rows;
    while (rows_.size() < rows) rows_.push_back(std::make_unique<row_state>());
    for (std::size_t i = 0; i < rows; ++i)
        if (const answer seen = look(i, with, *rows_[i]); seen != answer::given) return seen;
    const bool all_dense =
        std::all_of(rows_.begin(), rows_.begin() + static_cast<std::ptrdiff_t>(rows),
                    [](const auto& row) { return row->dense; });
    // Once a node: what is changed from outside from here on counts for the next one.
    layer_state* state = all_dense ? nullptr : &state_of_layer(with);
    if (state != nullptr)
        for (std::size_t s = 0; s < node.streams; ++s) refresh(s, *state);
    plans_.reserve(rows);
    for (std::size_t i = 0; i < rows; ++i) plans_.push_back(plan_row(i, with, state, *rows_[i]));
    return answer::given;
}

/// Which cells row i sees, and by which method it is answered.
answer engine_cache::look(std::size_t i, const settings& with, row_state& row) const {
    const std::size_t stream = i / node_.rows;
    const std::uint16_t* mask =
        node_.mask + stream * node_.mask_stream_stride + i % node_.rows * node_.mask_row_stride;
    if (!find_visible(mask, node_.cells, row.visible)) return answer::biased;
    if (row.visible.empty()) return answer::blind;
    const std::size_t tokens = cells_in(row.visible);
    if (row.visible.size() > most_short_ranges &&
        tokens < cells_of_a_long_range * row.visible.size())
        return answer::scattered;
    row.dense = with.use == method::dense || with.is_dense_layer(node_.cache.layer) ||
                tokens < with.dense_below || (with.use == method::sparq && tokens <= with.params.k);
    return answer::given;
}

/// Brings what is kept of a stream up to date as far as its rows look. It stays as it is
/// then, while all its rows are planned and computed.
void engine_cache::refresh(std::size_t stream, layer_state& state) {
    std::size_t end = 0;
    for (std::size_t i = stream * node_.rows; i < (stream + 1) * node_.rows; ++i)
        if (!rows_[i]->dense) end = std::max(end, rows_[i]->visible.back().end);
    if (end != 0) state.refresh(rows_of(node_, stream), node_.first_stream + stream, end);
}

row_plan engine_cache::plan_row(std::size_t i, const settings& with, layer_state* state,
                                row_state& row) {
    const std::size_t stream = i / node_.rows, r = i % node_.rows;
    const row_request request{
        .q = {node_.q + stream * node_.q_stream_stride + r * node_.q_row_stride,
              (node_.heads_q - 1) * node_.q_head_stride + node_.head_dim},
        .out = {node_.out + stream * node_.out_stream_stride + r * node_.out_row_stride,
                (node_.heads_q - 1) * node_.out_head_stride + node_.value_dim},
        .heads_q = node_.heads_q,
        .visible = row.visible,
        .scale = node_.scale,
        .options = {.work = &row.scratch.work,
                    .q_stride = node_.q_head_stride,
                    .out_stride = node_.out_head_stride}};
    const strided engine = rows_of(node_, stream);
    if (row.dense)
        return sparq::plan_dense(request.q,
                                 std::get<row_scratch::labelled<sparq::half>>(row.scratch.labels)
                                     .assign(engine, row.visible),
                                 request.out, request.options, node_.scale);
    return state->plan(engine, node_.first_stream + stream, request, with, row.scratch);
}

layer_state& engine_cache::state_of_layer(const settings& with) {
    layer& found = layers_[node_.cache.keys];
    const std::uint64_t epoch = epoch_.load(std::memory_order_acquire);
    const layer_shape shape{node_.cache.streams, node_.heads_kv, node_.head_dim, node_.value_dim};
    if (found.state == nullptr || found.cache != node_.cache || found.shape != shape ||
        !found.state->serves(with)) {
        found = {node_.cache, shape, epoch, make_layer_state(with, shape)};
    } else if (found.epoch != epoch) {
        found.state->invalidate();
        found.epoch = epoch;
    }
    return *found.state;
}

void engine_cache::wrote(const void* keys, const std::int64_t* rows, std::size_t count) {
    const auto found = layers_.find(keys);
    if (found == layers_.end() || found->second.state == nullptr) return;
    for (std::size_t i = 0; i < count; ++i) {
        const auto row = static_cast<std::size_t>(rows[i]);
        found->second.state->wrote(row / found->second.cache.cells,
                                   row % found->second.cache.cells);
    }
}

std::size_t engine_cache::cells_kept(const void* keys, std::size_t stream) const noexcept {
    const auto found = layers_.find(keys);
    return found == layers_.end() || found->second.state == nullptr
               ? 0
               : found->second.state->cells_kept(stream);
}

void engine_cache::changed(const void* keys) noexcept {
    if (const auto found = layers_.find(keys);
        found != layers_.end() && found->second.state != nullptr)
        found->second.state->invalidate();
}

void engine_cache::write_zeros() const {
    for (std::size_t stream = 0; stream < node_.streams; ++stream)
        for (std::size_t row = 0; row < node_.rows; ++row)
            for (std::size_t h = 0; h < node_.heads_q; ++h)
                std::fill_n(node_.out + stream * node_.out_stream_stride +
                                row * node_.out_row_stride + h * node_.out_head_stride,
                            node_.value_dim, 0.0f);
}

}  // namespace sparq_llama
