// SPDX-License-Identifier: MIT
// key_labels: what SparQ needs beside the keys and values that an engine owns: the keys
// once more channel by channel, and sums of the values. Indexed by cell.
//
// The engine keeps writing K and V where it always did and tells which cells are new or
// changed; view() then lets sparq_attention read the engine's rows and these channels.
#pragma once

#include <cstddef>
#include <span>

#include "config.hpp"
#include "detail/arch.hpp"
#include "detail/cell_labels.hpp"
#include "detail/cell_sums.hpp"
#include "detail/check.hpp"
#include "detail/row_kernels.hpp"
#include "detail/segment_slab.hpp"
#include "strided_kv.hpp"

SPARQ_NAMESPACE_BEGIN

/// Memory: d_h * sizeof(Label) a cell and KV head (labels of few bits: d_h * bits / 8, and at
/// most d_h / 16 for ranges), and value_dim doubles for each 64 cells. Cells that have no
/// labels yet, under 64 in a KV head (128 with codes), are scanned from the engine's rows. One
/// thread at a time.
///
/// Labels of few bits (code_labels.hpp) are coded as a kv_cache codes the same tokens: a block
/// of 64 cells, counted from cell 0, once it is full, and a strip of 512 anew once that is. A
/// block's or strip's ranges are those of all its cells, whether a view shows them or not; the
/// code_sinks first cells have no say. So for int8_label and int4_label |key - what its code
/// stands for| <= width / 2 holds for all cells but those, with the range of what the strip's
/// cells hold when view() is called. rewrite() and truncate() cost nothing but a mark: the
/// strips they touch, or blocks where these are not whole, are coded anew from the engine's
/// rows by the next view() or append(), once for all cells marked: 512 rows of K are read then.
///
/// What a view gives depends on what the cells hold and on the ranges asked for, and not on the
/// history.
///
/// @tparam T      element type of the engine's keys and values
/// @tparam Label  what the d_h-major copy of the keys consists of, as in kv_cache
template <cache_element T, label_element Label = T>
class key_labels {
   public:
    /// The engine's rows: strided_kv<T, Label>, and strided_kv<T> with labels of few bits.
    using engine_rows = typename detail::cell_labels<T, Label>::engine_rows;

    /// @throws std::invalid_argument for a zero or overflowing size
    SPARQ_PER_ISA key_labels(std::size_t heads_kv, std::size_t head_dim, std::size_t value_dim)
        : heads_kv_(heads_kv),
          head_dim_(head_dim),
          value_dim_(value_dim),
          labels_(heads_kv, head_dim),
          sums_(heads_kv, value_dim) {
        detail::check_dims(heads_kv, head_dim, value_dim);
    }

    /// Cells known.
    [[nodiscard]] std::size_t size() const noexcept { return labels_.size(); }

    /// The engine has written cells [size(), size() + n).
    /// @throws std::invalid_argument for n = 0, other dims, or more cells than the engine
    ///         has; std::bad_alloc. Either leaves all as it was.
    template <class Arch = default_arch>
    void append(const engine_rows& engine, std::size_t n) {
        check_engine(engine);
        labels_.check_append(engine, n);
        detail::row_kernels<Arch>::choose();
        const std::size_t before = size();
        labels_.make_room(before + n);
        sums_.make_room(before + n);
        refresh<Arch>(engine);
        labels_.template append<Arch>(engine, n);
        for (std::size_t cell = before; cell < size(); ++cell)
            sums_.template add<Arch>(engine, cell);
    }

    /// The engine has written a known cell anew.
    /// @throws std::invalid_argument for other dims, a cell that is not known or not the
    ///         engine's, and with labels of few bits for an engine of fewer cells than size();
    ///         all is as it was then
    template <class Arch = default_arch>
    void rewrite(const engine_rows& engine, std::size_t cell) {
        check_engine(engine);
        labels_.check_cell(engine, cell);
        detail::row_kernels<Arch>::choose();
        labels_.template rewrite<Arch>(engine, cell);
        sums_.rewrite(cell);
    }

    /// Forgets cells from `cells` on.
    /// @throws std::invalid_argument when cells exceeds size()
    SPARQ_PER_ISA void truncate(std::size_t cells) {
        labels_.check_truncate(cells);
        labels_.truncate(cells);
        sums_.truncate(cells);
    }
    SPARQ_PER_ISA void clear() noexcept { labels_.truncate(0); }

    /// What attention reads of a sequence that sees the cells in `visible`.
    ///
    /// @param engine   where the rows of all known cells lie
    /// @param visible  ranges of known cells, oldest first
    /// @param storage  owns the view's table; the view is good until it, the labels or
    ///                 the engine's rows change
    /// @param with_value_sums  false where no tail is wanted: spares the call reading
    ///                 value_dim doubles a KV head and 64 cells; a mean value is then
    ///                 computed from all of V in the call that asks for it
    /// @throws std::invalid_argument for ranges that are empty, out of order, overlapping
    ///         or beyond size(), and with labels of few bits for an engine of fewer cells
    ///         than that; std::bad_alloc
    template <class Arch = default_arch>
    kv_view<T, Label> view(const engine_rows& engine, std::span<const token_range> visible,
                           kv_view_storage<T, Label>& storage, bool with_value_sums = true) {
        check_engine(engine);
        labels_.check_visible(engine, visible);
        detail::row_kernels<Arch>::choose();
        storage.segments_.clear();
        storage.value_sums_.assign(with_value_sums ? sums_.width() : 0, 0.0);
        for (const token_range& range : visible) {
            labels_.add_segments(engine, range, storage.segments_);
            if (with_value_sums)
                sums_.template sum_range<Arch>(engine, range, size(), storage.value_sums_.data());
        }
        refresh<Arch>(engine);
        return kv_view<T, Label>(heads_kv_, head_dim_, value_dim_, storage.segments_,
                                 storage.value_sums_);
    }

   private:
    SPARQ_PER_ISA void check_engine(const engine_rows& engine) const {
        detail::check_engine(engine, heads_kv_, head_dim_, value_dim_);
    }
    template <class Arch>
    void refresh(const engine_rows& engine) noexcept {
        labels_.template refresh<Arch>(engine, [](std::size_t, std::size_t, std::size_t) {});
    }

    std::size_t heads_kv_, head_dim_, value_dim_;
    detail::cell_labels<T, Label> labels_;
    detail::cell_sums<false> sums_;
};

SPARQ_NAMESPACE_END
