// SPDX-License-Identifier: MIT
// cell_labels: the labels of the cells in which an engine keeps its keys.
//
// Elements are copied as soon as the engine tells of a cell. Codes share their ranges with
// the cells of their block or strip: a cell written anew, or a strip of which cells were
// dropped, makes them stale, and they are made anew of the rows before they are next read.
// So codes depend on what the cells hold and not on how it came there.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "../config.hpp"
#include "../kv_view.hpp"
#include "../strided_kv.hpp"
#include "check.hpp"
#include "isa_vector.hpp"
#include "label_slab.hpp"
#include "row_kernels.hpp"
#include "slab_labels.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

/// Refuses rows of other sizes than what is kept beside them, and missing ones.
template <class Engine>
SPARQ_PER_ISA void check_engine(const Engine& engine, std::size_t heads_kv, std::size_t head_dim,
                                std::size_t value_dim) {
    const auto same = [](const char* member, std::size_t value, std::size_t here) {
        if (value != here) refuse(member, value, text(here, ", as here"));
    };
    same("engine.heads_kv", engine.heads_kv, heads_kv);
    same("engine.head_dim", engine.head_dim, head_dim);
    same("engine.value_dim", engine.value_dim, value_dim);
    if (engine.keys == nullptr || engine.values == nullptr)
        refuse("engine.keys or values", "null", "a pointer to its rows");
    if (engine.cells > 1 &&
        (engine.key_token_stride < head_dim || engine.value_token_stride < value_dim))
        refuse("engine.key_token_stride or value_token_stride",
               text(engine.key_token_stride, " or ", engine.value_token_stride),
               "at least head_dim and value_dim");
}

template <class T, class Label>
class cell_labels {
   public:
    using engine_rows = typename engine_rows_of<T, Label>::type;

    SPARQ_PER_ISA cell_labels(std::size_t heads_kv, std::size_t head_dim)
        : heads_kv_(heads_kv), head_dim_(head_dim) {}

    /// Cells known.
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] const isa_vector<label_slab<Label>>& slabs() const noexcept { return slabs_; }
    /// Cells [0, labelled(g)) of head g have labels, and codes of [0, closed(g)) are in strips.
    [[nodiscard]] SPARQ_PER_ISA std::size_t labelled(std::size_t g) const noexcept {
        return labelled_tokens<Label>(g, heads_kv_, size_);
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t closed(std::size_t g) const noexcept {
        return labelled(g) / code_strip_tokens * code_strip_tokens;
    }

    /// Refuses n cells that are not the engine's, or none.
    SPARQ_PER_ISA void check_append(const engine_rows& engine, std::size_t n) const {
        require_at_least_one("n", n);
        if (n > engine.cells || size_ > engine.cells - n)
            refuse(
                "n", n,
                text("at most the engine's ", engine.cells, " cells less the ", size_, " known"));
        if (size_ + n > std::numeric_limits<std::uint32_t>::max())
            refuse("number of cells", size_ + n, "less than 2^32");
    }
    /// Refuses a cell that is not known, or not the engine's.
    SPARQ_PER_ISA void check_cell(const engine_rows& engine, std::size_t cell) const {
        if (cell >= size_) refuse("cell", cell, text("less than size() = ", size_));
        check_known(engine);
        if (cell >= engine.cells)
            refuse("cell", cell, text("less than engine.cells = ", engine.cells));
    }
    SPARQ_PER_ISA void check_truncate(std::size_t cells) const {
        if (cells > size_) refuse("cells", cells, text("at most size() = ", size_));
    }
    /// Refuses ranges that are no cells of the engine's, or not known.
    SPARQ_PER_ISA void check_visible(const engine_rows& engine,
                                     std::span<const token_range> visible) const {
        check_known(engine);
        check_ranges(visible, std::min(size_, engine.cells));
    }

    /// @throws std::bad_alloc; all stays as it was
    SPARQ_PER_ISA void make_room(std::size_t n) {
        isa_vector<label_slab<Label>> added;
        for (std::size_t end = capacity(); end < n; end = added.back().end_token())
            added.emplace_back(heads_kv_, head_dim_, end, labelled_segment_length<Label>(end, n));
        if (added.empty()) return;
        slabs_.reserve(slabs_.size() + added.size());
        if constexpr (coded_label<Label>)
            stale_.resize(added.back().end_token() / code_strip_tokens);
        for (label_slab<Label>& part : added) slabs_.push_back(std::move(part));
    }

    /// Gives back the slabs from the n-th on, which hold no known cells.
    SPARQ_PER_ISA void drop_slabs(std::size_t n) noexcept {
        while (slabs_.size() > n) slabs_.pop_back();
    }

    /// Cells [size(), size() + n) are new; there is room, and nothing is stale.
    template <class Arch>
    void append(const engine_rows& engine, std::size_t n) noexcept {
        const std::size_t before = size_;
        size_ += n;
        for (std::size_t g = 0; g < heads_kv_; ++g) {
            const std::size_t due = labelled(g);
            for (std::size_t cell = labelled_tokens<Label>(g, heads_kv_, before); cell < due;) {
                const engine_slab<engine_rows, Label> part{engine, slab_of(cell)};
                const std::size_t first = part.first_token();
                cell = first + label_some<Arch>(part, g, cell - first, due - cell);
            }
        }
    }

    /// A known cell was written anew.
    template <class Arch>
    void rewrite(const engine_rows& engine, std::size_t cell) noexcept {
        if constexpr (coded_label<Label>) {
            mark_block(cell);
        } else {
            const label_slab<Label>& part = slab_of(cell);
            for (std::size_t g = 0; g < heads_kv_; ++g)
                if (cell < labelled(g))
                    row_kernels<Arch>::transpose(
                        engine.key_row(cell, g), engine.key_token_stride, std::size_t{1}, head_dim_,
                        part.channel(g, 0, cell - part.first_token()), part.channel_stride());
        }
    }

    /// Only the first `cells` are left. What was coded in a strip that is whole no longer is
    /// stale.
    SPARQ_PER_ISA void truncate(std::size_t cells) noexcept {
        [[maybe_unused]] const std::size_t whole = closed(0);
        size_ = cells;
        if constexpr (coded_label<Label>)
            for (std::size_t cell = closed(heads_kv_ - 1); cell < std::min(whole, labelled(0));
                 cell += code_block_tokens)
                mark_block(cell);
        if (cells == 0) {
            std::fill(stale_.begin(), stale_.end(), std::uint8_t{0});
            first_stale_ = end_stale_ = 0;
        }
    }

    /// Makes stale codes anew. changed(g, begin, end): those cells of head g have new ranges.
    template <class Arch, class Changed>
    void refresh(const engine_rows& engine, const Changed& changed) noexcept {
        if constexpr (coded_label<Label>) {
            for (std::size_t s = first_stale_; s < end_stale_; ++s)
                if (const unsigned blocks = std::exchange(stale_[s], std::uint8_t{0}); blocks != 0)
                    for (std::size_t g = 0; g < heads_kv_; ++g)
                        encode_blocks<Arch>(engine, g, s * code_strip_tokens, blocks, changed);
            first_stale_ = end_stale_ = 0;
        }
    }

    /// body(slab's index, part): the parts of a range of known cells that lie in one slab each.
    template <class Body>
    SPARQ_PER_ISA void for_parts(const token_range& cells, const Body& body) const {
        for (std::size_t begin = cells.begin; begin < cells.end;) {
            const std::size_t s = slab_index(begin);
            const std::size_t end = std::min(cells.end, slabs_[s].end_token());
            body(s, token_range{begin, end});
            begin = end;
        }
    }
    /// Appends the segments of a range of known cells, a slab each, of all heads.
    SPARQ_PER_ISA void add_segments(const engine_rows& engine, const token_range& cells,
                                    isa_vector<kv_segment<T, Label>>& segments) const {
        for_parts(cells, [&](std::size_t s, const token_range& part) {
            for (std::size_t g = 0; g < heads_kv_; ++g)
                segments.push_back(segment(engine, slabs_[s], g, part));
        });
    }

   private:
    static constexpr std::size_t blocks_of_strip = code_strip_tokens / code_block_tokens;
    static_assert(blocks_of_strip == 8);  // a bit each in a byte of stale_

    /// Stale codes may need any known cell's row.
    SPARQ_PER_ISA void check_known(const engine_rows& engine) const {
        if constexpr (coded_label<Label>)
            if (engine.cells < size_)
                refuse("engine.cells", engine.cells, text("at least size() = ", size_));
    }

    [[nodiscard]] SPARQ_PER_ISA std::size_t capacity() const noexcept {
        return slabs_.empty() ? 0 : slabs_.back().end_token();
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t slab_index(std::size_t cell) const noexcept {
        std::size_t s = slabs_.size();
        while (slabs_[s - 1].first_token() > cell) --s;
        return s - 1;
    }
    [[nodiscard]] SPARQ_PER_ISA const label_slab<Label>& slab_of(std::size_t cell) const noexcept {
        return slabs_[slab_index(cell)];
    }

    SPARQ_PER_ISA void mark_block(std::size_t cell) noexcept {
        const std::size_t strip = cell / code_strip_tokens;
        const std::size_t block = cell / code_block_tokens % blocks_of_strip;
        stale_[strip] = static_cast<std::uint8_t>(stale_[strip] | (1u << block));
        if (first_stale_ == end_stale_) first_stale_ = strip;
        first_stale_ = std::min(first_stale_, strip);
        end_stale_ = std::max(end_stale_, strip + 1);
    }

    /// @param blocks  a bit for each block of the strip; those without labels are skipped
    template <class Arch, class Changed>
    void encode_blocks(const engine_rows& engine, std::size_t g, std::size_t strip, unsigned blocks,
                       const Changed& changed) noexcept {
        const engine_slab<engine_rows, Label> part{engine, slab_of(strip)};
        const auto encode = [&](std::size_t begin, std::size_t n) {
            encode_tokens<Arch>(part, g, begin - part.first_token(), n);
            changed(g, begin, begin + n);
        };
        if (strip < closed(g)) return encode(strip, code_strip_tokens);
        for (std::size_t b = 0; b < blocks_of_strip; ++b)
            if (const std::size_t begin = strip + b * code_block_tokens;
                (blocks >> b & 1u) != 0 && begin < labelled(g))
                encode(begin, code_block_tokens);
    }

    /// Cells [begin, end) of one slab.
    [[nodiscard]] SPARQ_PER_ISA kv_segment<T, Label> segment(
        const engine_rows& engine, const label_slab<Label>& part, std::size_t g,
        const token_range& cells) const noexcept {
        kv_segment<T, Label> result;
        const std::size_t offset = cells.begin - part.first_token(), end = labelled(g);
        result.keys = engine.key_row(cells.begin, g);
        result.values = engine.value_row(cells.begin, g);
        result.key_stride = engine.key_token_stride;
        result.value_stride = engine.value_token_stride;
        result.channel_stride = part.channel_stride();
        result.tokens = cells.end - cells.begin;
        result.labelled = end <= cells.begin ? 0 : std::min(result.tokens, end - cells.begin);
        if constexpr (coded_label<Label>) {
            result.keys_t = part.channel(g, 0, 0);
            result.ranges = part.ranges(g, 0);
            result.offset = offset;
            const std::size_t whole = std::min(closed(g), part.end_token());
            result.closed = whole <= part.first_token() ? 0 : whole - part.first_token();
        } else {
            result.keys_t = part.channel(g, 0, offset);
        }
        return result;
    }

    std::size_t heads_kv_, head_dim_;
    std::size_t size_ = 0;
    isa_vector<label_slab<Label>> slabs_;
    isa_vector<std::uint8_t> stale_;               ///< [strips]: a bit a block
    std::size_t first_stale_ = 0, end_stale_ = 0;  ///< strips that may have some
};

}  // namespace detail
SPARQ_NAMESPACE_END
