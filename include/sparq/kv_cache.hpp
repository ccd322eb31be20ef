// SPDX-License-Identifier: MIT
// kv_cache: the key/value history of one layer and sequence, in both layouts.
//
// Segments of 256, 256, 512, .. 8192, 8192, .. tokens (longer ones at once where many
// tokens come or are reserved together) hold for each KV head K and V
// token by token, and K once more channel by channel (what the scan of SparQ reads).
// Growing copies nothing; an append touches a row of K and V a head, and every
// strip_tokens tokens transposes one strip a head (labels of few bits: code_labels.hpp), the heads
// in turn, so no append does it for all. Tokens not yet transposed are scanned from their rows.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "config.hpp"
#include "detail/arch.hpp"
#include "detail/check.hpp"
#include "detail/isa_vector.hpp"
#include "detail/row_kernels.hpp"
#include "detail/segment_slab.hpp"
#include "detail/slab_labels.hpp"
#include "kv_view.hpp"
#include "memory_policy.hpp"

SPARQ_NAMESPACE_BEGIN

template <row_element T>
class tiered_cache;

/// Memory: per token and KV head (d_h + value_dim) * sizeof(T) + d_h * sizeof(Label),
/// and a few percent (labels of few bits: d_h * bits / 8, and at most d_h / 16 for ranges); beyond
/// what was reserved the next segment is allocated when the last quarter of one begins. Results
/// depend on the tokens only: any way of cutting the appends, and a truncate with the same tokens
/// appended again, give the same bits.
///
/// One thread at a time may change a cache; any number may read it meanwhile unchanged.
///
/// @tparam T      element type of keys and values: float, half or bfloat16
/// @tparam Label  what the d_h-major copy of the keys consists of: an element type, or
///                int8_label, int4_label, int2_label (code_labels.hpp)
template <row_element T, label_element Label = T>
class kv_cache {
   public:
    /// @throws std::invalid_argument for a zero or overflowing size
    SPARQ_PER_ISA kv_cache(std::size_t heads_kv, std::size_t head_dim)
        : kv_cache(heads_kv, head_dim, head_dim) {}

    /// @param value_dim  width of V, narrower or wider than K
    /// @param pages      of what segments are made; a hint that changes no result
    SPARQ_PER_ISA kv_cache(std::size_t heads_kv, std::size_t head_dim, std::size_t value_dim,
                           memory_policy pages = memory_policy::system)
        : heads_kv_(heads_kv), head_dim_(head_dim), value_dim_(value_dim), pages_(pages) {
        detail::check_dims(heads_kv, head_dim, value_dim);
        value_sums_.resize(heads_kv * value_dim);
    }

    SPARQ_PER_ISA kv_cache(kv_cache&&) noexcept = default;
    SPARQ_PER_ISA kv_cache& operator=(kv_cache&&) noexcept = default;

    [[nodiscard]] std::size_t heads_kv() const noexcept { return heads_kv_; }
    [[nodiscard]] std::size_t head_dim() const noexcept { return head_dim_; }
    [[nodiscard]] std::size_t value_dim() const noexcept { return value_dim_; }
    /// Tokens held.
    [[nodiscard]] std::size_t seq_len() const noexcept { return seq_len_; }
    /// Tokens for which there is memory.
    [[nodiscard]] SPARQ_PER_ISA std::size_t capacity() const noexcept {
        return slabs_.empty() ? 0 : slabs_.back().end_token();
    }

    /// Appends n >= 1 tokens, the newest last.
    ///
    /// @param keys    [n, heads_kv, d_h], rounded to T (nearest, ties to even)
    /// @param values  [n, heads_kv, value_dim]
    /// @throws std::invalid_argument for sizes that are not n >= 1 whole tokens, the same
    ///         n in both; std::bad_alloc. Either leaves the cache as it was.
    template <class Arch = default_arch>
    void append(std::span<const float> keys, std::span<const float> values) {
        append_rows<Arch>(keys, values);
    }
    template <class Arch = default_arch>
        requires(cache_element<T> && !std::same_as<T, float>)
    void append(std::span<const T> keys, std::span<const T> values) {
        append_rows<Arch>(keys, values);
    }
    template <class Arch = default_arch, class From>
        requires std::same_as<T, int8_row>
    void append(std::span<const From> keys, std::span<const From> values) {
        append_rows<Arch>(keys, values);
    }

    /// Drops the newest tokens until n are left.
    /// @throws std::invalid_argument when n exceeds seq_len()
    template <class Arch = default_arch>
    void truncate(std::size_t n) {
        if (n > seq_len_) detail::refuse("n", n, detail::text("at most seq_len() = ", seq_len_));
        detail::row_kernels<Arch>::choose();
        const std::size_t before = seq_len_;
        restore_sums<Arch>(n);
        seq_len_ = n;
        if constexpr (coded_label<Label>) open_strips<Arch>(before);
        set_lengths(n);
    }

    /// Drops all tokens and keeps the memory.
    SPARQ_PER_ISA void clear() noexcept {
        std::fill(value_sums_.begin(), value_sums_.end(), 0.0);
        seq_len_ = 0;
        set_lengths(0);
    }

    /// Makes room for n tokens in all, so that appends up to there allocate nothing. What
    /// is reserved at once lies in longer runs, which are scanned faster.
    /// @throws std::bad_alloc, std::invalid_argument for n >= 2^32; the cache stays as it was
    SPARQ_PER_ISA void reserve(std::size_t n) {
        make_room(n);
        reserved_ = std::max(reserved_, n);
    }

    /// Segments that there is memory for, and the tokens that fit into one of them.
    [[nodiscard]] std::size_t segments() const noexcept { return slabs_.size(); }
    [[nodiscard]] SPARQ_PER_ISA std::size_t segment_capacity(std::size_t s) const noexcept {
        return slabs_[s].tokens();
    }
    /// Bytes of labels and ranges among the memory held.
    [[nodiscard]] SPARQ_PER_ISA std::size_t label_bytes() const noexcept {
        std::size_t bytes = 0;
        for (const slab& part : slabs_) bytes += heads_kv_ * part.label_bytes();
        return bytes;
    }

    /// What attention reads. Good until the cache is next changed.
    [[nodiscard]] SPARQ_PER_ISA kv_view<T, Label> view() const noexcept {
        const std::span<const kv_segment<T, Label>> all(segments_);
        return kv_view<T, Label>(typename kv_view<T, Label>::unchecked{}, heads_kv_, head_dim_,
                                 value_dim_, all.first(segments_used() * heads_kv_), value_sums_,
                                 seq_len_);
    }

   private:
    friend class tiered_cache<T>;
    using slab = detail::segment_slab<T, Label>;

    [[nodiscard]] SPARQ_PER_ISA std::size_t segments_used() const noexcept {
        std::size_t used = 0;
        while (used < slabs_.size() && slabs_[used].first_token() < seq_len_) ++used;
        return used;
    }
    [[nodiscard]] SPARQ_PER_ISA slab& slab_of(std::size_t token) noexcept {
        std::size_t s = slabs_.size();
        while (slabs_[s - 1].first_token() > token) --s;
        return slabs_[s - 1];
    }

    SPARQ_PER_ISA void make_room(std::size_t n) {
        if (n > std::numeric_limits<std::uint32_t>::max())
            detail::refuse("number of tokens", n, "less than 2^32");
        detail::isa_vector<slab> added;
        for (std::size_t end = capacity(); end < n; end = added.back().end_token())
            added.emplace_back(heads_kv_, head_dim_, value_dim_, end,
                               detail::labelled_segment_length<Label>(end, n), pages_);
        if (added.empty()) return;
        slabs_.reserve(std::max(slabs_.size() + added.size(), 2 * slabs_.size()));
        segments_.reserve(slabs_.capacity() * heads_kv_);
        for (slab& part : added) {
            for (std::size_t g = 0; g < heads_kv_; ++g) segments_.push_back(part.segment(g));
            slabs_.push_back(std::move(part));
        }
    }
    /// Gives back the segments from the n-th on, which hold no tokens.
    SPARQ_PER_ISA void drop_segments(std::size_t n) noexcept {
        while (slabs_.size() > n) slabs_.pop_back();
        segments_.resize(n * heads_kv_);
    }

    template <class Arch, class From>
    void append_rows(std::span<const From> keys, std::span<const From> values) {
        const std::size_t key_width = heads_kv_ * head_dim_, value_width = heads_kv_ * value_dim_;
        const std::size_t n =
            detail::check_append(keys.size(), key_width, values.size(), value_width, seq_len_);
        detail::row_kernels<Arch>::choose();
        make_room(seq_len_ + n);
        for (std::size_t t = 0; t < n; ++t)
            store_token<Arch>(seq_len_ + t, keys.data() + t * key_width,
                              values.data() + t * value_width);
        const std::size_t before = seq_len_;
        seq_len_ += n;
        for (std::size_t g = 0; g < heads_kv_; ++g) label_strips<Arch>(g, before);
        set_lengths(before);
        prepare_next_segment();
    }

    /// While the last quarter of a segment fills up, the memory of the next is fetched
    /// from the system a little at a time. Nothing depends on it.
    SPARQ_PER_ISA void prepare_next_segment() noexcept {
        const slab& last = slab_of(seq_len_ - 1);
        const std::size_t quarter = last.tokens() / 4, left = last.end_token() - seq_len_;
        if (left >= quarter) return;
        if (last.end_token() == capacity()) {
            if (reserved_ > last.first_token()) return;  // all that the caller wants
            try {
                make_room(capacity() + 1);
            } catch (...) {  // not needed yet: whoever needs it will be told
                return;
            }
        }
        slab_of(seq_len_ + left).touch_ahead(quarter - left, quarter);
    }

    template <class Arch, class From>
    void store_token(std::size_t token, const From* keys, const From* values) noexcept {
        slab& part = slab_of(token);
        const std::size_t t = token - part.first_token();
        if (t % checkpoint_tokens == 0)
            std::copy(value_sums_.begin(), value_sums_.end(), part.checkpoint(t));
        for (std::size_t g = 0; g < heads_kv_; ++g) {
            detail::row_kernels<Arch>::convert(keys + g * head_dim_, head_dim_, part.key_row(g, t));
            T* value_row = part.value_row(g, t);
            detail::store_value<Arch>(values + g * value_dim_, value_dim_, token, value_row);
            detail::row_kernels<Arch>::add(value_row, value_dim_,
                                           value_sums_.data() + g * value_dim_);
        }
    }

    /// Labels what has fallen due of head g since there were `before` tokens.
    template <class Arch>
    void label_strips(std::size_t g, std::size_t before) noexcept {
        const std::size_t due = labelled(g, seq_len_);
        for (std::size_t token = labelled(g, before); token < due;) {
            slab& part = slab_of(token);
            const std::size_t first = part.first_token();
            token = first + detail::label_some<Arch>(part, g, token - first, due - token);
        }
    }

    /// After a truncate from `before` tokens: codes the last strip as if it had never
    /// been whole.
    template <class Arch>
    void open_strips(std::size_t before) noexcept {
        for (std::size_t g = 0; g < heads_kv_; ++g) {
            const std::size_t left = labelled(g, seq_len_);
            if (left == 0) continue;
            slab& part = slab_of(left - 1);
            const std::size_t first = part.first_token();
            detail::open_strip<Arch>(part, g, labelled(g, before) - first, left - first);
        }
    }

    [[nodiscard]] SPARQ_PER_ISA std::size_t labelled(std::size_t g, std::size_t n) const noexcept {
        return detail::labelled_tokens<Label>(g, heads_kv_, n);
    }

    /// Brings the segment table up to date after a change of the tokens from `changed` on.
    SPARQ_PER_ISA void set_lengths(std::size_t changed) noexcept {
        for (std::size_t s = slabs_.size(); s-- != 0;) {
            const std::size_t first = slabs_[s].first_token(), room = slabs_[s].tokens();
            if (first + room + 2 * detail::label_step<Label> <= changed) break;
            const auto within = [&](std::size_t n) {
                return n <= first ? 0 : std::min(n - first, room);
            };
            for (std::size_t g = 0; g < heads_kv_; ++g) {
                kv_segment<T, Label>& part = segments_[s * heads_kv_ + g];
                part.tokens = within(seq_len_);
                part.labelled = within(labelled(g, seq_len_));
                if constexpr (coded_label<Label>)
                    part.closed = part.labelled / code_strip_tokens * code_strip_tokens;
            }
        }
    }

    /// The sums over the first n tokens: the last checkpoint and what followed, added
    /// in the order of the appends.
    template <class Arch>
    void restore_sums(std::size_t n) noexcept {
        if (n == seq_len_) return;
        if (n == 0) return clear();
        slab& part = slab_of(n - 1);
        const std::size_t end = n - part.first_token();
        std::size_t t = (end - 1) / checkpoint_tokens * checkpoint_tokens;
        std::copy_n(part.checkpoint(t), value_sums_.size(), value_sums_.begin());
        for (; t < end; ++t)
            for (std::size_t g = 0; g < heads_kv_; ++g)
                detail::row_kernels<Arch>::add(part.value_row(g, t), value_dim_,
                                               value_sums_.data() + g * value_dim_);
    }

    std::size_t heads_kv_, head_dim_, value_dim_;
    memory_policy pages_;
    std::size_t seq_len_ = 0;
    std::size_t reserved_ = 0;  ///< what the caller has asked room for
    detail::isa_vector<slab> slabs_;
    detail::isa_vector<kv_segment<T, Label>> segments_;  ///< [slabs, heads_kv]
    detail::isa_vector<double> value_sums_;              ///< [heads_kv, value_dim]
};

SPARQ_NAMESPACE_END
