// SPDX-License-Identifier: MIT
// key_labels: what SparQ needs beside the keys and values that an engine owns: the keys
// once more channel by channel, and sums of the values. Indexed by cell.
//
// The engine keeps writing K and V where it always did and tells which cells are new or
// changed; view() then lets sparq_attention read the engine's rows and these channels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include "config.hpp"
#include "detail/arch.hpp"
#include "detail/check.hpp"
#include "detail/isa_vector.hpp"
#include "detail/row_kernels.hpp"
#include "detail/segment_slab.hpp"
#include "detail/slab_labels.hpp"
#include "strided_kv.hpp"
#include "workspace.hpp"

SPARQ_NAMESPACE_BEGIN

/// Memory: d_h * sizeof(Label) a cell and KV head, and value_dim doubles for each 64
/// cells. Cells that are not yet in a whole strip (under 64) are scanned from the
/// engine's rows. One thread at a time.
template <cache_element T, cache_element Label = T>
class key_labels {
   public:
    /// @throws std::invalid_argument for a zero or overflowing size
    SPARQ_PER_ISA key_labels(std::size_t heads_kv, std::size_t head_dim, std::size_t value_dim)
        : heads_kv_(heads_kv), head_dim_(head_dim), value_dim_(value_dim) {
        detail::require_at_least_one("heads_kv", heads_kv);
        detail::require_at_least_one("head_dim", head_dim);
        detail::require_at_least_one("value_dim", value_dim);
        detail::check_row_bytes("heads_kv * head_dim", heads_kv, head_dim);
        detail::check_row_bytes("heads_kv * value_dim", heads_kv, value_dim);
    }

    /// Cells known.
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

    /// The engine has written cells [size(), size() + n).
    /// @throws std::invalid_argument for n = 0, other dims, or more cells than the engine
    ///         has; std::bad_alloc. Either leaves all as it was.
    template <class Arch = default_arch>
    void append(const strided_kv<T, Label>& engine, std::size_t n) {
        check_engine(engine);
        detail::require_at_least_one("n", n);
        if (n > engine.cells || size_ > engine.cells - n)
            detail::refuse("n", n,
                           detail::text("at most the engine's ", engine.cells, " cells less the ",
                                        size_, " known"));
        detail::row_kernels<Arch>::choose();
        make_room(size_ + n);
        const std::size_t before = size_;
        size_ += n;
        for (std::size_t cell = before; cell < size_; ++cell) add_to_sums<Arch>(engine, cell);
        for (std::size_t g = 0; g < heads_kv_; ++g)
            for (std::size_t cell = detail::labelled_tokens<Label>(g, heads_kv_, before);
                 cell < detail::labelled_tokens<Label>(g, heads_kv_, size_); cell += strip_tokens)
                label_cells<Arch>(engine, g, cell, strip_tokens);
    }

    /// The engine has written a known cell anew.
    /// @throws std::invalid_argument for cell >= size() or other dims
    template <class Arch = default_arch>
    void rewrite(const strided_kv<T, Label>& engine, std::size_t cell) {
        check_engine(engine);
        if (cell >= size_) detail::refuse("cell", cell, detail::text("less than size() = ", size_));
        detail::row_kernels<Arch>::choose();
        for (std::size_t g = 0; g < heads_kv_; ++g)
            if (cell < detail::labelled_tokens<Label>(g, heads_kv_, size_))
                label_cells<Arch>(engine, g, cell, 1);
        stale_[cell / sum_cells] = 1;
    }

    /// Forgets cells from `cells` on.
    /// @throws std::invalid_argument when cells exceeds size()
    SPARQ_PER_ISA void truncate(std::size_t cells) {
        if (cells > size_) detail::refuse("cells", cells, detail::text("at most size() = ", size_));
        size_ = cells;
        if (cells % sum_cells != 0) stale_[cells / sum_cells] = 1;
    }
    void clear() noexcept { size_ = 0; }

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
    ///         or beyond size(); std::bad_alloc
    template <class Arch = default_arch>
    kv_view<T, Label> view(const strided_kv<T, Label>& engine, std::span<const token_range> visible,
                           kv_view_storage<T, Label>& storage, bool with_value_sums = true) {
        check_engine(engine);
        detail::check_ranges(visible, std::min(size_, engine.cells));
        detail::row_kernels<Arch>::choose();
        storage.segments_.clear();
        storage.value_sums_.assign(with_value_sums ? heads_kv_ * value_dim_ : 0, 0.0);
        for (const token_range& range : visible) {
            for (std::size_t begin = range.begin; begin < range.end;) {
                const std::size_t end = std::min(range.end, slab_of(begin).end);
                add_segments(engine, {begin, end}, storage.segments_);
                begin = end;
            }
            if (with_value_sums) sum_range<Arch>(engine, range, storage.value_sums_.data());
        }
        return kv_view<T, Label>(heads_kv_, head_dim_, value_dim_, storage.segments_,
                                 storage.value_sums_);
    }

   private:
    /// Cells [first, end): channels [heads_kv, d_h, stride].
    struct slab {
        std::size_t first, end, stride;
        detail::aligned_bytes memory;
    };
    /// Cells of one stored sum of V.
    static constexpr std::size_t sum_cells = 64;

    SPARQ_PER_ISA void check_engine(const strided_kv<T, Label>& engine) const {
        const auto same = [](const char* member, std::size_t value, std::size_t here) {
            if (value != here) detail::refuse(member, value, detail::text(here, ", as here"));
        };
        same("engine.heads_kv", engine.heads_kv, heads_kv_);
        same("engine.head_dim", engine.head_dim, head_dim_);
        same("engine.value_dim", engine.value_dim, value_dim_);
        if (engine.keys == nullptr || engine.values == nullptr)
            detail::refuse("engine.keys or values", "null", "a pointer to its rows");
    }

    [[nodiscard]] SPARQ_PER_ISA const slab& slab_of(std::size_t cell) const noexcept {
        std::size_t s = slabs_.size();
        while (slabs_[s - 1].first > cell) --s;
        return slabs_[s - 1];
    }
    [[nodiscard]] SPARQ_PER_ISA Label* channel(const slab& part, std::size_t g, std::size_t c,
                                               std::size_t cell) const noexcept {
        return reinterpret_cast<Label*>(part.memory.get()) + (g * head_dim_ + c) * part.stride +
               (cell - part.first);
    }
    [[nodiscard]] SPARQ_PER_ISA double* block_sum(std::size_t block) noexcept {
        return sums_.data() + block * heads_kv_ * value_dim_;
    }

    SPARQ_PER_ISA void make_room(std::size_t n) {
        if (n > std::numeric_limits<std::uint32_t>::max())
            detail::refuse("number of cells", n, "less than 2^32");
        const std::size_t blocks = (n + sum_cells - 1) / sum_cells;
        detail::isa_vector<slab> added;
        for (std::size_t end = slabs_.empty() ? 0 : slabs_.back().end; end < n;
             end = added.back().end) {
            const std::size_t length = segment_length(end, n);
            const std::size_t stride = length + 2 * cache_line_bytes / sizeof(Label);
            added.push_back(
                {end, end + length, stride,
                 detail::allocate_aligned(heads_kv_ * head_dim_ * stride * sizeof(Label))});
        }
        slabs_.reserve(slabs_.size() + added.size());
        if (stale_.size() < blocks) {
            sums_.resize(std::max(blocks, 2 * stale_.size()) * heads_kv_ * value_dim_);
            stale_.resize(std::max(blocks, 2 * stale_.size()));
        }
        for (slab& part : added) slabs_.push_back(std::move(part));
    }

    template <class Arch>
    void label_cells(const strided_kv<T, Label>& engine, std::size_t g, std::size_t cell,
                     std::size_t n) noexcept {
        const slab& part = slab_of(cell);
        detail::row_kernels<Arch>::transpose(engine.key_row(cell, g), engine.key_token_stride, n,
                                             head_dim_, channel(part, g, 0, cell), part.stride);
    }

    template <class Arch>
    void add_rows(const strided_kv<T, Label>& engine, const token_range& cells,
                  double* sums) const noexcept {
        for (std::size_t cell = cells.begin; cell < cells.end; ++cell)
            for (std::size_t g = 0; g < heads_kv_; ++g)
                detail::row_kernels<Arch>::add(engine.value_row(cell, g), value_dim_,
                                               sums + g * value_dim_);
    }

    /// Keeps the sum of the cell's block, unless it is to be computed anew in any case.
    template <class Arch>
    void add_to_sums(const strided_kv<T, Label>& engine, std::size_t cell) noexcept {
        const std::size_t block = cell / sum_cells;
        if (cell % sum_cells == 0) {
            std::fill_n(block_sum(block), heads_kv_ * value_dim_, 0.0);
            stale_[block] = 0;
        }
        if (stale_[block] == 0) add_rows<Arch>(engine, {cell, cell + 1}, block_sum(block));
    }

    template <class Arch>
    const double* fresh_sum(const strided_kv<T, Label>& engine, std::size_t block) noexcept {
        double* sum = block_sum(block);
        if (stale_[block] != 0) {
            std::fill_n(sum, heads_kv_ * value_dim_, 0.0);
            add_rows<Arch>(engine, {block * sum_cells, std::min(size_, (block + 1) * sum_cells)},
                           sum);
            stale_[block] = 0;
        }
        return sum;
    }

    /// Adds V over a range: whole blocks from their sums, the ends from the rows.
    template <class Arch>
    void sum_range(const strided_kv<T, Label>& engine, const token_range& range,
                   double* sums) noexcept {
        for (std::size_t cell = range.begin; cell < range.end;) {
            const std::size_t block = cell / sum_cells;
            const std::size_t end = std::min((block + 1) * sum_cells, size_);
            if (cell == block * sum_cells && end <= range.end) {
                const double* sum = fresh_sum<Arch>(engine, block);
                for (std::size_t i = 0; i < heads_kv_ * value_dim_; ++i) sums[i] += sum[i];
                cell = end;
            } else {
                const std::size_t stop = std::min(end, range.end);
                add_rows<Arch>(engine, {cell, stop}, sums);
                cell = stop;
            }
        }
    }

    SPARQ_PER_ISA void add_segments(const strided_kv<T, Label>& engine, const token_range& cells,
                                    detail::isa_vector<kv_segment<T, Label>>& segments) const {
        const slab& part = slab_of(cells.begin);
        const std::size_t tokens = cells.end - cells.begin;
        for (std::size_t g = 0; g < heads_kv_; ++g) {
            const std::size_t labelled = detail::labelled_tokens<Label>(g, heads_kv_, size_);
            segments.push_back(
                {engine.key_row(cells.begin, g), engine.value_row(cells.begin, g),
                 channel(part, g, 0, cells.begin), engine.key_token_stride,
                 engine.value_token_stride, part.stride, tokens,
                 labelled <= cells.begin ? 0 : std::min(tokens, labelled - cells.begin)});
        }
    }

    std::size_t heads_kv_, head_dim_, value_dim_;
    std::size_t size_ = 0;
    detail::isa_vector<slab> slabs_;
    detail::isa_vector<double> sums_;         ///< [blocks, heads_kv, value_dim]
    detail::isa_vector<std::uint8_t> stale_;  ///< [blocks]: the sum is to be computed anew
};

SPARQ_NAMESPACE_END
