// SPDX-License-Identifier: MIT
// Approximate logits from codes of few bits.
//
//   logits[h][t] = sum over the channels c of weights[h][c] * (minimum_c + (code + 1/2) width_c)
//
// Some channels at a time over a run of strips, so that each is read as one long run
// (config.hpp). Between the passes the integer sums wait where the logits go.
//
// Traffic: bits / 8 bytes a token and channel, once for all query heads, and 4 bytes a
// channel and strip. Writes 4 bytes a token and head.
// Numerics: integer sums of code_weights.hpp, with its bound; then bias + step * sum in
// float, with one rounding where there is a fused instruction. No order depends on the
// tiles, and a token's logit depends on its strip only.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../config.hpp"
#include "code_run.hpp"
#include "sum_codes.hpp"

SPARQ_NAMESPACE_BEGIN
namespace kernels {

namespace detail {

/// The scan of a run for up to most_code_heads heads and most_code_channels channels, which
/// are `count` from `channel` on.
template <class Arch, class Label>
class run_scan {
    static constexpr unsigned bits = Label::bits;
    static constexpr std::size_t wide = code_register_bytes<Arch>;
    static constexpr std::size_t narrow = std::min<std::size_t>(wide, 16);
    static constexpr std::size_t slot = bits == 8 ? sizeof(std::int16_t) : 16;
    using sum_type = code_sum<bits>;
    template <std::size_t Bytes>
    static constexpr std::size_t tile_bytes = code_bytes<Label>(tile_tokens(Bytes));

   public:
    run_scan(const code_run<Label>& run, const code_query& query, std::size_t channel,
             std::size_t count, const code_strip<Label>* after, float* logits,
             std::size_t stride) noexcept
        : run_(run),
          weigher_(query, channel, count),
          after_(after),
          heads_(query.heads),
          terms_(weigher_.terms()),
          adds_(channel != 0),
          logits_(logits),
          stride_(stride),
          end_byte_(code_bytes<Label>((run.end + code_block_tokens - 1) / code_block_tokens *
                                      code_block_tokens)) {}

    /// @param scanned  called as scanned(place): the logits before it are there
    template <class Scanned>
    void operator()(const Scanned& scanned) noexcept {
        constexpr std::size_t at_once = code_terms_at_once<bits>;
        for (std::size_t s = 0; s < std::min<std::size_t>(run_.count, 4); ++s) ask_for_ranges(s);
        for (std::size_t term = 0; term < terms_; term += at_once) {
            begin_pass(term);
            for (std::size_t s = 0; s < run_.count; ++s) {
                if (term == 0) ask_for_ranges(s + 4), weigh(s);
                scan_strip(s, scanned);
            }
        }
    }

   private:
    SPARQ_ALWAYS_INLINE void ask_for_ranges(std::size_t s) const noexcept {
        if (s < run_.count) weigher_.prefetch(run_.strips[s].ranges);
    }

    [[nodiscard]] std::uint8_t* tables(std::size_t s, std::size_t h) noexcept {
        return tables_ + (s * heads_ + h) * terms_ * slot;
    }

    void weigh(std::size_t s) noexcept {
        weigher_.take(run_.strips[s].ranges);
        for (std::size_t h = 0; h < heads_; ++h) {
            code_weights<bits> weights;
            weigher_.weigh(h, weights);
            step_[s][h] = weights.step;
            bias_[s][h] = weights.bias;
            fill_slots<Arch, bits, wide != 0>(weights, terms_, tables(s, h));
        }
    }

    /// Terms from `term` on, and what is wanted after them.
    void begin_pass(std::size_t term) noexcept {
        constexpr std::size_t at_once = code_terms_at_once<bits>;
        first_term_ = term;
        pass_terms_ = std::min(at_once, terms_ - term);
        last_pass_ = term + at_once >= terms_;
        const code_strip<Label>& front = run_.strips[0];
        const Label* slab = front.codes - code_bytes<Label>(front.begin);
        point(slab, front.channel_stride, term, channels_);
        known_ = 0;
        if (!last_pass_)
            known_ = point(front.codes, front.channel_stride, term + at_once, upcoming_);
        else if (after_ != nullptr)
            known_ = point(after_->codes, after_->channel_stride, 0, upcoming_);
    }
    /// Returns how many terms from `term` on there are for a pass.
    std::size_t point(const Label* codes, std::size_t stride, std::size_t term,
                      code_channels& to) const noexcept {
        const std::size_t count = std::min(code_terms_at_once<bits>, terms_ - term);
        for (std::size_t i = 0; i < count; ++i) {
            to.first[i] = &codes[weigher_.channel(0, term + i) * stride].byte;
            if constexpr (bits == 2)
                to.second[i] = &codes[weigher_.channel(1, term + i) * stride].byte;
        }
        return count;
    }

    /// This pass over what is scanned of strip s, said tile by tile: memory works meanwhile.
    template <class Scanned>
    void scan_strip(std::size_t s, const Scanned& scanned) noexcept {
        constexpr std::size_t block = code_block_tokens, most = tile_tokens(wide);
        const code_strip<Label>& strip = run_.strips[s];
        const std::size_t begin = std::max(run_.begin, strip.begin);
        const std::size_t end = std::min(run_.end, strip.begin + strip.tokens);
        for (std::size_t t = begin / block * block; t < end;) {
            const bool whole = !adds_ && t >= begin;
            if (whole && t + most <= end) {
                tile<wide>(s, t, logits_ + (t - run_.begin), stride_);
                t += most;
                if (last_pass_) scanned(t);
                continue;
            }
            if (whole && t + block <= end)
                tile<narrow>(s, t, logits_ + (t - run_.begin), stride_);
            else if (first_term_ == 0)
                scan_edge(s, t, std::max(t, begin), std::min(t + block, end));
            t += block;
            if (last_pass_) scanned(std::min(t, end));
        }
    }

    /// Places [from, end) of a block that is not seen as a whole, or whose logits hold other
    /// channels' part already: all passes.
    void scan_edge(std::size_t s, std::size_t t, std::size_t from, std::size_t end) noexcept {
        float logits[most_code_heads * code_block_tokens];
        for (std::size_t term = 0; term < terms_; term += code_terms_at_once<bits>) {
            begin_pass(term);
            tile<narrow>(s, t, logits, code_block_tokens);
        }
        begin_pass(0);
        for (std::size_t h = 0; h < heads_; ++h)
            for (std::size_t i = from; i < end; ++i) {
                float& to = logits_[h * stride_ + (i - run_.begin)];
                const float part = logits[h * code_block_tokens + (i - t)];
                to = adds_ ? to + part : part;
            }
    }

    /// The pass's terms of a tile of tokens at place t, all heads.
    template <std::size_t Bytes>
    void tile(std::size_t s, std::size_t t, float* logits, std::size_t stride) noexcept {
        constexpr std::size_t tokens = tile_tokens(Bytes);
        const std::size_t byte = code_bytes<Label>(t);
        const auto sums_of = [&](std::size_t h) {
            return reinterpret_cast<std::byte*>(logits + h * stride);
        };
        const auto terms_of = [&](std::size_t h) { return tables(s, h) + first_term_ * slot; };
        const auto finished = [&](std::size_t h, const sum_type* sums) {
            logits_of<Arch, tokens>(sums, step_[s][h], bias_[s][h], logits + h * stride);
        };
        if constexpr (bits == 8 || Bytes == 0)
            add_in_order<Bytes>(byte, sums_of, terms_of, finished);
        else
            look_up<Bytes>(byte, sums_of, terms_of, finished);
    }

    /// Asks for what terms read next. Inlined, since g++ 12 drops calls of what only prefetches.
    template <std::size_t Bytes>
    struct prefetcher {
        const code_channels* channels;
        std::size_t at, known;

        /// Of terms i and those that are added with it.
        SPARQ_ALWAYS_INLINE void operator()(std::size_t i) const noexcept {
            namespace simd = sparq::detail::simd;
            if (i >= known) return;
            for (std::size_t l = 0; l < tile_bytes<Bytes>; l += cache_line_bytes)
                for (std::size_t j = i; j < i + entries_at_once; ++j) {
                    simd::prefetch(channels->first[j] + at + l);
                    if constexpr (bits == 2) simd::prefetch(channels->second[j] + at + l);
                }
        }
    };
    template <std::size_t Bytes>
    [[nodiscard]] SPARQ_ALWAYS_INLINE prefetcher<Bytes> ahead_of(std::size_t byte) const noexcept {
        const std::size_t next = byte + code_prefetch_bytes;
        const bool wanted = byte % cache_line_bytes < tile_bytes<Bytes>;
        if (next >= end_byte_) return {&upcoming_, next - end_byte_, wanted ? known_ : 0};
        return {&channels_, next, wanted ? pass_terms_ : 0};
    }

    template <std::size_t Bytes, class Sums, class Terms, class Finished>
    SPARQ_ALWAYS_INLINE void look_up(std::size_t byte, const Sums& sums_of, const Terms& terms_of,
                                     const Finished& finished) const noexcept {
        using ops = sparq::detail::native::byte_ops<Bytes>;
        const auto ahead = ahead_of<Bytes>(byte);
        typename ops::reg indices[code_terms_at_once<bits>][4];
        if (heads_ > 1)
            for (std::size_t i = 0; i < pass_terms_; ++i) {
                if (i % entries_at_once == 0) ahead(i);
                load_indices<ops, bits>(channels_, i, byte, indices[i]);
            }
        for (std::size_t h = 0; h < heads_; ++h) {
            split_sums<ops> total;
            if (first_term_ == 0)
                total.clear();
            else
                total.load(sums_of(h));
            if (heads_ > 1)
                look_up_indices<ops>(indices, pass_terms_, terms_of(h), total);
            else
                look_up_one<ops, bits>(channels_, byte, pass_terms_, terms_of(h), total, ahead);
            if (!last_pass_) {
                total.store(sums_of(h));
                continue;
            }
            sum_type sums[tile_tokens(Bytes)];
            total.template sort<bits>(sums);
            finished(h, static_cast<const sum_type*>(sums));
        }
    }

    template <std::size_t Bytes, class Sums, class Terms, class Finished>
    SPARQ_ALWAYS_INLINE void add_in_order(std::size_t byte, const Sums& sums_of,
                                          const Terms& terms_of,
                                          const Finished& finished) const noexcept {
        constexpr std::size_t tokens = tile_tokens(Bytes);
        for (std::size_t h = 0; h < heads_; ++h) {
            sum_type sums[tokens] = {};
            if (first_term_ != 0) std::memcpy(sums, sums_of(h), sizeof(sums));
            if constexpr (Bytes == 0) {
                compute_entries<Arch, bits>(channels_, byte, pass_terms_, terms_of(h), sums);
            } else {
                const auto ahead = ahead_of<Bytes>(byte);
                const prefetcher<Bytes> quiet{&channels_, 0, 0};
                std::int16_t weights[code_terms_at_once<8>];
                std::memcpy(weights, terms_of(h), pass_terms_ * sizeof(weights[0]));
                multiply_codes<sparq::detail::native::byte_ops<Bytes>>(
                    channels_, byte, pass_terms_, weights, sums, h == 0 ? ahead : quiet);
            }
            if (last_pass_)
                finished(h, static_cast<const sum_type*>(sums));
            else
                std::memcpy(sums_of(h), sums, sizeof(sums));
        }
    }

    code_run<Label> run_;
    code_weigher<Arch, bits> weigher_;
    const code_strip<Label>* after_;
    std::size_t heads_, terms_;
    bool adds_;  ///< to logits that hold other channels' part
    float* logits_;
    std::size_t stride_, end_byte_;
    std::size_t first_term_ = 0, pass_terms_ = 0, known_ = 0;
    bool last_pass_ = false;
    code_channels channels_, upcoming_;
    float step_[most_run_strips][most_code_heads], bias_[most_run_strips][most_code_heads];
    alignas(cache_line_bytes) std::uint8_t tables_[run_table_bytes];
};

}  // namespace detail

/// @param run      at most run_strips(heads, count) strips
/// @param query    any number of heads and channels
/// @param after    the strip that is scanned next, whose first codes are asked for; or null
/// @param logits   [heads, end - begin of the run], logits_stride apart; overlaps nothing
/// @param scanned  called as scanned(place), ascending: the logits before that place are there
template <class Arch, class Label, class Scanned>
void scan_codes(const code_run<Label>& run, const code_query& query, const code_strip<Label>* after,
                float* logits, std::size_t logits_stride, const Scanned& scanned) noexcept {
    for (std::size_t h = 0; h < query.heads; h += most_code_heads) {
        code_query part = query;
        part.weights += h * query.weights_stride;
        part.heads = std::min(most_code_heads, query.heads - h);
        for (std::size_t c = 0; c < query.count; c += most_code_channels) {
            const std::size_t count = std::min(most_code_channels, query.count - c);
            const bool last = h + part.heads == query.heads && c + count == query.count;
            detail::run_scan<Arch, Label>(run, part, c, count, h == 0 && c == 0 ? after : nullptr,
                                          logits + h * logits_stride,
                                          logits_stride)([&](std::size_t place) {
                if (last) scanned(place);
            });
        }
    }
}

}  // namespace kernels
SPARQ_NAMESPACE_END
