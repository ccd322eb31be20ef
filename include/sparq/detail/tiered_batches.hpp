// SPDX-License-Identifier: MIT
// tiered_batches: which tokens of a KV head are read as 4-bit rows, batch by batch. Each batch
// holds the ones before it: what is known of their tokens is kept, and only new ones are read.
//
// s_.tokens and what belongs to them: A, first those that were not scanned, then batch by batch;
// then B. Within what is new tokens ascend.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "tiered_reads.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class Arch, class T>
class tiered_batches : public tiered_reads<Arch, T> {
   protected:
    using base = tiered_reads<Arch, T>;
    using base::view_, base::s_, base::g_, base::group_, base::tokens_, base::scanned_,
        base::columns_, base::coefficients_, base::sinks_, base::newest_, base::exact_,
        base::certain_, base::drawn_, base::refined_, base::threshold_;

   public:
    using base::base;

   protected:
    /// Nothing is read but what was not scanned will be.
    void begin_batches() noexcept {
        certain_ = drawn_ = weighed_ = 0;
        for (std::size_t t = std::max(scanned_, sinks_); t < newest_; ++t)
            s_.tokens[certain_++] = static_cast<std::uint32_t>(t);
        unscanned_ = certain_;
        std::fill_n(s_.certain_sums, (group_ + 1) * columns_, 0.0f);
    }
    void find_reach() noexcept {
        const kernels::token_uniforms uniforms(tokens_);
        kernels::find_reach<Arch>(s_.greatest, 0, scanned_, steps::draw_spread, uniforms, s_.reach);
    }

    /// A and B at a lower threshold than before.
    void collect(std::size_t edge) noexcept {
        threshold_ = kernels::weight_histogram::edge(edge);
        promote_drawn();
        // Room that nothing else needs yet.
        std::uint32_t *certain = s_.exact + exact_, *drawn = s_.picks;
        const kernels::collected_tokens found =
            kernels::collect_reached<Arch>(s_.greatest, s_.reach, scanned_, threshold_, certain,
                                           drawn, steps::code_row_prefetch<T>(view_, g_));
        move_drawn(found.certain);
        take(certain, found.certain, certain_);
        certain_ += found.certain;
        take(drawn, found.drawn, certain_ + drawn_);
        drawn_ += found.drawn;
        new_certain_ = found.certain, new_drawn_ = found.drawn;
        for (std::size_t j = 0; j < drawn_; ++j) s_.chance[j] = chance_of(s_.tokens[certain_ + j]);
    }
    /// Of a drawn token.
    [[nodiscard]] float chance_of(std::size_t token) const noexcept {
        return s_.greatest[token] / (steps::draw_spread * threshold_);
    }
    /// The n best of the scanned tokens, ascending: those above an edge of the histogram, less
    /// the surplus. Returns their number. Their code rows are asked for as they are found, or,
    /// where all tokens are (a head so sharp that the n-th weight is under the lowest edge), once
    /// the best are known.
    std::size_t best_scanned(std::uint32_t* tokens, std::size_t n) noexcept {
        if (n == 0) return 0;
        std::size_t edge = edge_with(n);
        const auto reached = [&] {
            return kernels::detail::count_at_least<Arch>(s_.greatest, scanned_,
                                                         kernels::weight_histogram::edge(edge));
        };
        while (edge != 0 && reached() < n) --edge;  // the histogram may be an estimate
        const bool all = edge == 0;
        steps::code_row_prefetch<T> ask(view_, g_);
        const std::size_t found = kernels::collect_certain<Arch>(
            s_.greatest, scanned_, all ? 0.0f : kernels::weight_histogram::edge(edge), tokens,
            [&](std::size_t token) {
                if (!all) ask(token);
            });
        const std::size_t count = keep_best(tokens, found, n);
        for (std::size_t j = 0; all && j < count; ++j) ask(tokens[j]);
        return count;
    }
    /// The n tokens behind those that were not scanned are A.
    void collect_fixed(std::size_t n) noexcept {
        threshold_ = 0.0f;
        certain_ += n;
        new_certain_ = n;
    }

    /// Logits of the tokens that collect added.
    void refine() noexcept {
        if (refined_ == 0) refine_some(0, unscanned_);
        refine_some(certain_ - new_certain_, new_certain_);
        refine_some(certain_ + drawn_ - new_drawn_, new_drawn_);
        refined_ = certain_ + drawn_;
    }

    [[nodiscard]] float expected_rows(std::size_t b) const noexcept {
        return s_.histogram->at_least(b) +
               s_.histogram->below(b) / (steps::draw_spread * kernels::weight_histogram::edge(b));
    }
    /// The highest edge at which so many rows are read on average.
    [[nodiscard]] std::size_t edge_for_rows(float rows) const noexcept {
        std::size_t b = kernels::weight_histogram::bins - 1;
        while (b != 0 && expected_rows(b) < rows) --b;
        return b;
    }
    /// The highest edge that at least n scanned tokens reach; 0: all.
    [[nodiscard]] std::size_t edge_with(std::size_t n) const noexcept {
        std::size_t b = kernels::weight_histogram::bins - 1;
        while (b != 0 && s_.histogram->at_least(b) < static_cast<float>(n)) --b;
        return b;
    }
    /// The variance goes with edge * weight below it: the highest edge that meets the budget.
    [[nodiscard]] std::size_t next_edge(std::size_t edge, float risk, float budget,
                                        bool is_last) const noexcept {
        const auto scale = [&](std::size_t b) {
            return kernels::weight_histogram::edge(b) * s_.histogram->below(b);
        };
        const float present = scale(edge);
        std::size_t b = edge - 1;
        while (b != 0 && risk * scale(b) > budget * present) --b;
        if (!is_last)
            b = std::max(
                b, edge_for_rows(steps::batch_growth * static_cast<float>(certain_ + drawn_)));
        return std::min(b, edge - 1);
    }

    std::size_t unscanned_ = 0;  ///< tokens at the front of A
    std::size_t weighed_ = 0;    ///< tokens of A that are in the sums

   private:
    /// Moves the n best of `found` ascending tokens to the front; of equal ones the oldest.
    std::size_t keep_best(std::uint32_t* tokens, std::size_t found, std::size_t n) noexcept {
        for (std::size_t j = 0; j < found; ++j) s_.weights[j] = s_.greatest[tokens[j]];
        const float least = kernels::find_threshold<Arch>(s_.weights, found, n).value;
        std::size_t surplus = kernels::detail::count_at_least<Arch>(s_.weights, found, least) - n;
        std::size_t count = 0;
        for (std::size_t j = found; j-- != 0;)
            if (surplus != 0 && s_.weights[j] == least) {
                s_.weights[j] = -1.0f;
                --surplus;
            }
        for (std::size_t j = 0; j < found; ++j)
            if (s_.weights[j] >= least) tokens[count++] = tokens[j];
        return count;
    }

    /// All that is known of a token that was read.
    template <class Body>
    void for_known(const Body& body) const noexcept {
        body(s_.tokens), body(s_.rows);
        body(s_.key_step), body(s_.value_minimum), body(s_.value_step);
        for (std::size_t h = 0; h < group_; ++h) body(s_.logits + h * tokens_);
    }
    /// Drawn tokens that reach the threshold now go to A.
    void promote_drawn() noexcept {
        for (std::size_t j = certain_, end = certain_ + drawn_; j < end; ++j) {
            if (!(s_.greatest[s_.tokens[j]] >= threshold_)) continue;
            for_known([&](auto* x) { std::swap(x[certain_], x[j]); });
            ++certain_, --drawn_;
        }
    }
    /// Makes room for n more tokens of A.
    void move_drawn(std::size_t n) noexcept {
        if (n == 0 || drawn_ == 0) return;
        for_known([&](auto* x) {
            std::copy_backward(x + certain_, x + certain_ + drawn_, x + certain_ + drawn_ + n);
        });
    }
    /// Tokens that are not to be collected again.
    void take(const std::uint32_t* tokens, std::size_t n, std::size_t place) noexcept {
        for (std::size_t j = 0; j < n; ++j) {
            s_.tokens[place + j] = tokens[j];
            s_.reach[tokens[j]] = -1.0f;
        }
    }
    void refine_some(std::size_t first, std::size_t count) noexcept {
        steps::refine_logits<Arch, T>(view_, g_, coefficients_, group_, this->listed(first, count));
    }

    std::size_t new_certain_ = 0, new_drawn_ = 0;
};

}  // namespace detail
SPARQ_NAMESPACE_END
