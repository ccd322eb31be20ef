// SPDX-License-Identifier: MIT
// K and V as an engine keeps them: rows of all heads side by side, cells in any use.
#pragma once

#include "problem.hpp"

namespace test {

/// Cells of K and V [cells, heads_kv, d + gap], as an engine's cache tensor; unused cells
/// and gaps hold NaN, so that reading one shows.
template <class T>
struct engine_memory {
    size_t heads_kv, head_dim, value_dim, cells, key_row, value_row;
    std::vector<T> keys, values;

    engine_memory(const shape& d, size_t n_cells, size_t gap = 3)
        : heads_kv(d.heads_kv),
          head_dim(d.head_dim),
          value_dim(d.value_dim),
          cells(n_cells),
          key_row(d.head_dim + gap),
          value_row(d.value_dim + gap),
          keys(n_cells * d.heads_kv * key_row, T(NAN)),
          values(n_cells * d.heads_kv * value_row, T(NAN)) {}

    /// Writes token t of the problem into a cell.
    void write(size_t cell, const problem& p, size_t t) {
        for (size_t g = 0; g < heads_kv; ++g) {
            for (size_t c = 0; c < head_dim; ++c)
                keys[(cell * heads_kv + g) * key_row + c] =
                    T(p.keys[(t * heads_kv + g) * head_dim + c]);
            for (size_t c = 0; c < value_dim; ++c)
                values[(cell * heads_kv + g) * value_row + c] =
                    T(p.values[(t * heads_kv + g) * value_dim + c]);
        }
    }

    template <class Label = T>
    [[nodiscard]] sparq::strided_kv<T, Label> strided() const {
        sparq::strided_kv<T, Label> s{};
        s.keys = keys.data();
        s.values = values.data();
        s.heads_kv = heads_kv;
        s.head_dim = head_dim;
        s.value_dim = value_dim;
        s.cells = cells;
        s.key_token_stride = heads_kv * key_row;
        s.key_head_stride = key_row;
        s.value_token_stride = heads_kv * value_row;
        s.value_head_stride = value_row;
        return s;
    }
};

/// An engine whose cell c holds token c of the problem, and beside it key_labels or tier_codes.
template <class T, class Codes>
struct engine_beside {
    problem p;
    engine_memory<T> memory;
    Codes codes;

    explicit engine_beside(const problem& tokens)
        : p(tokens),
          memory(p.dims, p.dims.seq_len),
          codes(p.dims.heads_kv, p.dims.head_dim, p.dims.value_dim) {}

    void append(size_t n) {
        const size_t begin = codes.size();
        for (size_t t = begin; t < begin + n; ++t) memory.write(t, p, t);
        codes.template append<arch>(memory.strided(), n);
    }
    /// Token `from` of another problem into a cell.
    void write(size_t cell, const problem& other, size_t from) {
        const size_t key_row = p.dims.heads_kv * p.dims.head_dim;
        const size_t value_row = p.dims.heads_kv * p.dims.value_dim;
        for (size_t c = 0; c < key_row; ++c)
            p.keys[cell * key_row + c] = other.keys[from * key_row + c];
        for (size_t c = 0; c < value_row; ++c)
            p.values[cell * value_row + c] = other.values[from * value_row + c];
        memory.write(cell, p, cell);
    }
    void tell(size_t cell) { codes.template rewrite<arch>(memory.strided(), cell); }

    template <class Storage>
    auto view(const std::vector<sparq::token_range>& visible, Storage& storage) {
        return codes.template view<arch>(memory.strided(), visible, storage);
    }
};

/// The tokens that the ranges show, as a problem of their own; cell c holds token c.
inline problem visible_part(const problem& p, const std::vector<sparq::token_range>& visible) {
    problem part = p;
    part.keys.clear();
    part.values.clear();
    part.dims.seq_len = 0;
    const size_t key_row = p.dims.heads_kv * p.dims.head_dim;
    const size_t value_row = p.dims.heads_kv * p.dims.value_dim;
    for (const auto& range : visible) {
        const auto keys = rows(p.keys, key_row, range.begin, range.end);
        const auto values = rows(p.values, value_row, range.begin, range.end);
        part.keys.insert(part.keys.end(), keys.begin(), keys.end());
        part.values.insert(part.values.end(), values.begin(), values.end());
        part.dims.seq_len += range.end - range.begin;
    }
    return part;
}

}  // namespace test
