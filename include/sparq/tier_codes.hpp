// SPDX-License-Identifier: MIT
// tier_codes: what attention in tiers needs beside the keys and values that an engine owns:
// 2-bit labels, rows of 4-bit codes, and what is known of channels and values. Indexed by
// cell.
//
// The engine keeps writing K and V where it always did and tells which cells are new or
// changed; view() then lets sparq_attention read the engine's rows and these codes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "config.hpp"
#include "detail/arch.hpp"
#include "detail/cell_labels.hpp"
#include "detail/cell_sums.hpp"
#include "detail/check.hpp"
#include "detail/code_row_book.hpp"
#include "detail/row_kernels.hpp"
#include "detail/segment_slab.hpp"
#include "memory_policy.hpp"
#include "strided_kv.hpp"
#include "tiered_view.hpp"

SPARQ_NAMESPACE_BEGIN

/// Owns the tables of a tiered_view beside an engine. One object serves call after call; once
/// it has seen as many ranges it allocates nothing.
template <cache_element T>
class tiered_view_storage {
    friend class tier_codes<T>;

    kv_view_storage<T, int2_label> rows_;
    detail::isa_vector<const std::uint8_t*> code_rows_;        ///< [segments, heads_kv]
    detail::isa_vector<typename tiered_view<T>::head> heads_;  ///< [heads_kv]
};

/// The codes of a tiered_cache beside keys and values in an engine's cells.
///
/// Memory a cell and KV head: d_h / 4 bytes of 2-bit labels, at most d_h / 16 of ranges, (d_h +
/// value_dim) / 2 + 8 of code rows; value_dim + 1 doubles for each 64 cells. With half that is
/// about a third of K and V.
///
/// Codes are those of a tiered_cache that holds the cells' tokens in the order of the cells: a
/// block of 64 cells has ranges of its own once it is full, a strip of 512 once that is, those
/// of all its cells but the code_sinks first of the engine, whether a view shows them or not.
/// What a view gives depends on what the cells hold and on the ranges asked for, and not on the
/// history; where it shows all cells, attention gives what it gives over that tiered_cache, but
/// for the rounding of the double sums of V and |V|^2, which are added up in blocks of 64.
///
/// Of cells in part visible: the sums of V and |V|^2 are those of the visible cells; the means
/// and variances of channels are those of all known cells that have labels. They choose the
/// channels that are scanned, stand for those that are not, and say how noisy codes are; tokens
/// that are read at 4 bits or exactly do not depend on them.
///
/// One thread at a time; views of it are read by any number while it stays as it is.
///
/// @tparam T  element type of the engine's keys and values
template <cache_element T>
class tier_codes {
   public:
    using engine_rows = strided_kv<T>;  ///< its keys_t is not looked at

    /// @throws std::invalid_argument for a zero or overflowing size; std::bad_alloc
    SPARQ_PER_ISA tier_codes(std::size_t heads_kv, std::size_t head_dim, std::size_t value_dim,
                             memory_policy pages = memory_policy::system)
        : heads_kv_(checked(heads_kv, head_dim, value_dim)),
          head_dim_(head_dim),
          value_dim_(value_dim),
          labels_(heads_kv, head_dim),
          sums_(heads_kv, value_dim),
          rows_(heads_kv, head_dim, value_dim, pages),
          made_anew_(heads_kv) {}

    SPARQ_PER_ISA tier_codes(tier_codes&&) noexcept = default;
    SPARQ_PER_ISA tier_codes& operator=(tier_codes&&) noexcept = default;

    /// Cells known.
    [[nodiscard]] std::size_t size() const noexcept { return labels_.size(); }
    /// Bytes of codes and ranges held.
    [[nodiscard]] SPARQ_PER_ISA std::size_t code_bytes() const noexcept {
        std::size_t bytes = rows_.bytes();
        for (const auto& slab : labels_.slabs()) bytes += heads_kv_ * slab.label_bytes();
        return bytes;
    }

    /// The engine has written cells [size(), size() + n). Reads K and V three times,
    /// and K of each strip that becomes whole twice more.
    /// @throws std::invalid_argument for n = 0, other dims, or more cells than the engine
    ///         has; std::bad_alloc. Either leaves all as it was.
    template <class Arch = default_arch>
    void append(const engine_rows& engine, std::size_t n) {
        check_engine(engine);
        labels_.check_append(engine, n);
        detail::row_kernels<Arch>::choose();
        const std::size_t before = size();
        make_room(before + n);
        bring_up_to_date<Arch>(engine);
        labels_.template append<Arch>(engine, n);
        for (std::size_t cell = before; cell < size(); ++cell)
            sums_.template add<Arch>(engine, cell);
        rows_.template follow<Arch>(all_cells(engine), before);
    }

    /// The engine has written a known cell anew. Its 4-bit row of V is made at once; the codes
    /// of K of its block or strip by the next view() or append(), which reads 64 or 512 rows of
    /// K twice for all cells of it that were written since; and to measure channels once more
    /// all rows from at most 4095 cells before the first of them on.
    /// @throws std::invalid_argument for cell >= size(), other dims, or an engine of fewer cells
    ///         than size(); all is as it was then
    template <class Arch = default_arch>
    void rewrite(const engine_rows& engine, std::size_t cell) {
        check_engine(engine);
        labels_.check_cell(engine, cell);
        detail::row_kernels<Arch>::choose();
        labels_.template rewrite<Arch>(engine, cell);
        sums_.rewrite(cell);
        const auto all = all_cells(engine);
        for (std::size_t g = 0; g < heads_kv_; ++g) rows_.template rewrite<Arch>(all, g, cell);
    }

    /// Forgets cells from `cells` on.
    /// @throws std::invalid_argument when cells exceeds size()
    SPARQ_PER_ISA void truncate(std::size_t cells) {
        labels_.check_truncate(cells);
        labels_.truncate(cells);
        sums_.truncate(cells);
        if (cells == 0) rows_.clear();
    }
    SPARQ_PER_ISA void clear() noexcept {
        labels_.truncate(0);
        rows_.clear();
    }

    /// What attention in tiers reads of a sequence that sees the cells in `visible`.
    ///
    /// @param engine   where the rows of all known cells lie
    /// @param visible  ranges of known cells, oldest first
    /// @param storage  owns the view's tables; the view is good until it, the codes or the
    ///                 engine's rows change
    /// @throws std::invalid_argument for ranges that are empty, out of order, overlapping or
    ///         beyond size(), for other dims, and for an engine of fewer cells than size();
    ///         std::bad_alloc
    template <class Arch = default_arch>
    tiered_view<T> view(const engine_rows& engine, std::span<const token_range> visible,
                        tiered_view_storage<T>& storage) {
        check_engine(engine);
        labels_.check_visible(engine, visible);
        detail::row_kernels<Arch>::choose();
        bring_up_to_date<Arch>(engine);
        auto& segments = storage.rows_.segments_;
        auto& sums = storage.rows_.value_sums_;
        segments.clear();
        storage.code_rows_.clear();
        sums.assign(sums_.width(), 0.0);
        for (const token_range& range : visible) {
            labels_.add_segments(engine, range, segments);
            labels_.for_parts(range, [&](std::size_t s, const token_range& part) {
                const std::size_t t = part.begin - labels_.slabs()[s].first_token();
                for (std::size_t g = 0; g < heads_kv_; ++g)
                    storage.code_rows_.push_back(rows_.code_row(s, g, t));
            });
            sums_.template sum_range<Arch>(engine, range, size(), sums.data());
        }
        const std::span<const double> all_sums(sums);
        const std::size_t values = heads_kv_ * value_dim_;
        const rows_view rows(heads_kv_, head_dim_, value_dim_, segments, all_sums.first(values));
        storage.heads_.resize(heads_kv_);
        for (std::size_t g = 0; g < heads_kv_; ++g) {
            storage.heads_[g] = rows_.of_head(g);
            storage.heads_[g].value_squares = all_sums[values + g];
        }
        return {rows, storage.code_rows_, storage.heads_};
    }

   private:
    using rows_view = kv_view<T, int2_label>;

    SPARQ_PER_ISA static std::size_t checked(std::size_t heads_kv, std::size_t head_dim,
                                             std::size_t value_dim) {
        detail::check_dims(heads_kv, head_dim, value_dim);
        return heads_kv;
    }
    SPARQ_PER_ISA void check_engine(const engine_rows& engine) const {
        detail::check_engine(engine, heads_kv_, head_dim_, value_dim_);
    }

    /// Labels that no code rows can be had for are given back: a long slab of them would ask
    /// every later append for as many code rows.
    SPARQ_PER_ISA void make_room(std::size_t cells) {
        sums_.make_room(cells);
        labels_.make_room(cells);
        const auto& slabs = labels_.slabs();
        try {
            segments_.reserve(slabs.size() * heads_kv_);
            while (rows_.segments() < slabs.size())
                rows_.add_segment(slabs[rows_.segments()].tokens());
        } catch (...) {
            labels_.drop_slabs(rows_.segments());
            throw;
        }
    }

    /// All known cells, of which there are some, a segment a slab.
    [[nodiscard]] SPARQ_PER_ISA rows_view all_cells(const engine_rows& engine) {
        segments_.clear();
        labels_.add_segments(engine, {0, size()}, segments_);
        return rows_view(heads_kv_, head_dim_, value_dim_, segments_);
    }

    /// Makes anew what rewrite() and truncate() have made stale.
    template <class Arch>
    void bring_up_to_date(const engine_rows& engine) {
        if (size() == 0) return;
        const rows_view all = all_cells(engine);
        std::fill(made_anew_.begin(), made_anew_.end(), size());
        labels_.template refresh<Arch>(engine,
                                       [&](std::size_t g, std::size_t begin, std::size_t end) {
                                           rows_.template rewrite_keys<Arch>(all, g, begin, end);
                                           made_anew_[g] = std::min(made_anew_[g], begin);
                                       });
        for (std::size_t g = 0; g < heads_kv_; ++g)
            rows_.template settle<Arch>(all, g, made_anew_[g]);
    }

    std::size_t heads_kv_, head_dim_, value_dim_;
    detail::cell_labels<T, int2_label> labels_;
    detail::cell_sums<true> sums_;
    detail::code_row_book<T> rows_;
    detail::isa_vector<kv_segment<T, int2_label>> segments_;  ///< scratch
    detail::isa_vector<std::size_t> made_anew_;               ///< scratch, [heads_kv]: from where
};

SPARQ_NAMESPACE_END
