// SPDX-License-Identifier: MIT
// tiered_head: attention of one KV head's group in tiers, after the scan.
//
// Read finish() first: it is the method, a call a step.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>

#include "multiply_add.hpp"
#include "tiered_outputs.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class Arch, class T>
class tiered_head : public tiered_outputs<Arch, T> {
    using base = tiered_outputs<Arch, T>;
    using base::call_, base::view_, base::params_, base::s_, base::g_, base::group_, base::tokens_,
        base::scanned_, base::columns_, base::queries_, base::sinks_, base::newest_, base::exact_,
        base::certain_, base::drawn_, base::picks_, base::threshold_, base::value_variance_;

   public:
    using base::base;

    /// Writes the head's output and report; false, with neither written, where reading it
    /// all is the way: where nothing would be saved, or rank or sums_are_sound says no.
    bool finish() noexcept {
        if (params_.tolerance == 0.0f && !params_.has_fixed_tiers()) return false;
        if (!this->read_exact() || !this->rank()) return false;
        if (params_.has_fixed_tiers() ? !refine_fixed() : !refine_enough()) return false;
        if (!sums_are_sound()) return false;
        choose_picks();
        if (this->exceeds_dense()) {
            picks_ = 0;  // they have not been read
            return false;
        }
        read_picks();
        exchange_picks();
        if (!sums_are_sound()) return false;
        for (std::size_t h = 0; h < group_; ++h) write_output(h);
        if (call_.report == nullptr) return true;
        if constexpr (std::same_as<T, int8_row>) this->add_row_noise(certain_picks_);
        for (std::size_t h = 0; h < group_; ++h) this->write_report(h);
        return true;
    }

   private:
    /// False where something is not finite, or a token outweighs all that the scan expected by
    /// so much that weights were cut off (relative_weights).
    [[nodiscard]] bool sums_are_sound() const noexcept {
        constexpr float most = 1e30f;
        return std::all_of(s_.mix, s_.mix + group_, [&](const steps::head_mix& mix) {
            return mix.z0() < most && mix.z1() < most;
        });
    }
    /// Read 2 to the tolerance: batches, each a superset of the one before.
    bool refine_enough() noexcept {
        const float tolerance = params_.tolerance,
                    budget = steps::sampling_share * tolerance * tolerance;
        this->begin_batches();
        this->find_reach();
        std::size_t edge = first_edge(budget);
        for (std::size_t batch = 1;; ++batch) {
            this->collect(edge);
            if (this->exceeds_dense()) return false;
            this->refine();
            const float risk = this->mix_outputs();
            if (risk <= steps::sampling_slack * budget || batch == steps::most_batches || edge == 0)
                return true;
            edge = this->next_edge(edge, risk, budget, batch + 1 == steps::most_batches);
        }
    }
    /// The highest edge at which scanned weights promise to meet the budget, taking values for
    /// unlike each other: |y|^2 is then that of X and the mean value, and on average the sum of
    /// s^2 |v - mean|^2.
    [[nodiscard]] std::size_t first_edge(float budget) const noexcept {
        float slope = 0.0f;  // of the risk, over edge * weight below it
        for (std::size_t h = 0; h < group_; ++h) {
            float size = 0.0f;
            for (std::size_t c = 0; c < view_.value_dim(); ++c) {
                const float y = multiply_add(1.0f - s_.mix[h].exact, s_.mean[c],
                                             s_.exact_sums[h * columns_ + c]);
                size = multiply_add(y, y, size);
            }
            const kernels::weight_sums& all = s_.scanned[h];
            size = multiply_add(static_cast<float>(all.squares), value_variance_, size);
            slope += static_cast<float>(all.squares_by_greatest) * value_variance_ / size;
        }
        slope *= steps::first_risk / (static_cast<float>(group_) * s_.histogram->total());
        std::size_t b = this->edge_for_rows(steps::first_rows);
        while (b != 0 &&
               slope * kernels::weight_histogram::edge(b) * s_.histogram->below(b) > budget)
            --b;
        return b;
    }
    /// The fixed tiers: the best by scanned weight, the mean value for the rest.
    bool refine_fixed() noexcept {
        const std::size_t inside = std::min(newest_, scanned_) - sinks_;
        const std::size_t refined = std::min(params_.refined, inside);
        this->begin_batches();
        this->collect_fixed(this->best_scanned(
            s_.tokens + certain_, refined + std::min(params_.exact, inside - refined)));
        if (this->exceeds_dense()) return false;
        this->refine();
        this->mix_outputs();
        return true;
    }

    /// The tokens whose 4 bits would cost more than the tolerance has left.
    void choose_picks() noexcept {
        const std::size_t n = certain_ + drawn_;
        float risk = 0.0f;
        std::fill_n(s_.gain, n, 0.0f);
        for (std::size_t h = 0; h < group_; ++h) {
            risk += s_.mix[h].risk / static_cast<float>(group_);
            for_codes(h, 1.0f / static_cast<float>(group_),
                      [&](const auto& cost, std::size_t first, std::size_t count) {
                          kernels::add_code_costs<Arch>(cost, s_.weights + h * tokens_ + first,
                                                        s_.key_step + first, s_.value_step + first,
                                                        count, s_.gain + first);
                      });
        }
        const float square = params_.tolerance * params_.tolerance;
        const float threshold =
            params_.has_fixed_tiers()
                ? fixed_threshold(n)
                : threshold_below(n,
                                  std::max(square - risk, (1.0f - steps::sampling_share) * square));
        pick_above(n, threshold);
        float* left = s_.gain;
        std::fill_n(left, n, 1.0f);
        for (std::size_t i = 0; i < picks_; ++i) left[s_.picks[i]] = 0.0f;
        for (std::size_t h = 0; h < group_; ++h)
            for_codes(h, 1.0f, [&](const auto& cost, std::size_t first, std::size_t count) {
                s_.mix[h].risk += kernels::sum_code_costs<Arch>(
                    cost, s_.weights + h * tokens_ + first, s_.key_step + first,
                    s_.value_step + first, left + first, count);
            });
    }
    void pick_above(std::size_t n, float threshold) noexcept {
        picks_ = certain_picks_ = 0;
        std::size_t equal = equal_picks(n, threshold);
        for (std::size_t j = 0; j < n; ++j) {
            if (!(s_.gain[j] >= threshold)) continue;  // nor where it is NaN
            if (s_.gain[j] == threshold) {
                if (equal == 0) continue;
                --equal;
            }
            s_.picks[picks_] = static_cast<std::uint32_t>(j);
            s_.exact[exact_ + picks_++] = s_.tokens[j];
            if (j < certain_) ++certain_picks_;
        }
        std::uint32_t* tokens = s_.exact + exact_;  // what is read goes in order
        std::sort(tokens, tokens + certain_picks_);
        std::sort(tokens + certain_picks_, tokens + picks_);
    }
    /// Variance of a 4-bit logit for codes of step 1.
    [[nodiscard]] float key_noise(std::size_t h) const noexcept {
        const float* square_width = view_.of_head(g_).moments.square_width;
        const float* q = queries_.data + h * queries_.stride;
        float noise = 0.0f;
        for (std::size_t c = 0; c < view_.head_dim(); ++c)
            noise = multiply_add(q[c] * q[c], square_width[c], noise);
        return noise / 12.0f;
    }
    /// body(cost, first, count) for A and for B: `share` of the squared relative error that
    /// leaving a token at 4 bits is expected to cost head h.
    template <class Body>
    void for_codes(std::size_t h, float share, const Body& body) const noexcept {
        const steps::head_mix& mix = s_.mix[h];
        kernels::code_cost cost{share / mix.size, mix.certain_factor(), key_noise(h), mix.spread,
                                static_cast<float>(view_.value_dim()) / 12.0f};
        body(cost, 0, certain_);
        cost.factor = mix.drawn_factor();
        body(cost, certain_, drawn_);
    }
    [[nodiscard]] float fixed_threshold(std::size_t n) noexcept {
        const std::size_t k = std::min(params_.exact, n);
        if (k == 0) return std::numeric_limits<float>::infinity();
        return kernels::find_threshold<Arch>(s_.gain, n, k).value;
    }
    /// How many gains that equal the threshold are read exactly: of fixed tiers so many that
    /// there are not too many.
    [[nodiscard]] std::size_t equal_picks(std::size_t n, float threshold) const noexcept {
        if (!params_.has_fixed_tiers()) return n;
        const auto above =
            std::count_if(s_.gain, s_.gain + n, [&](float gain) { return gain > threshold; });
        return params_.exact - std::min(params_.exact, static_cast<std::size_t>(above));
    }
    /// Below it the gains sum up to at most `limit`.
    [[nodiscard]] float threshold_below(std::size_t n, float limit) noexcept {
        s_.histogram->clear();
        s_.histogram->add(s_.gain, n);
        s_.histogram->finish();
        std::size_t b = 0;
        while (b + 1 < kernels::weight_histogram::bins && s_.histogram->below(b + 1) <= limit) ++b;
        return kernels::weight_histogram::edge(b);
    }

    /// Their logits; and the picked ones move to the front of what is known of A and B.
    void read_picks() noexcept {
        const auto part = [&](std::size_t first, std::size_t count) {
            this->ask_for_rows(s_.exact + exact_ + first, count);
            score_rows<Arch, T>(queries_, this->rows_of(s_.exact + exact_ + first, count),
                                view_.head_dim(), s_.exact_logits + exact_ + first, tokens_);
        };
        part(0, certain_picks_);
        part(certain_picks_, picks_ - certain_picks_);
        for (std::size_t i = 0; i < picks_; ++i) {
            const std::size_t j = s_.picks[i];  // at least i
            s_.rows[i] = s_.rows[j];
            s_.value_minimum[i] = s_.value_minimum[j];
            s_.value_step[i] = s_.value_step[j];
        }
        for (std::size_t i = certain_picks_; i < picks_; ++i)
            s_.chance[i - certain_picks_] = this->chance_of(s_.exact[exact_ + i]);
    }

    /// In all sums the exact weights and values of the picked tokens take the place of those
    /// at 4 bits.
    void exchange_picks() noexcept {
        for (std::size_t h = 0; h < group_; ++h) exchange_weights(h);
        const std::size_t drawn_picks = picks_ - certain_picks_;
        this->values_of(0, certain_picks_, group_, s_.certain_sums);
        this->values_of(certain_picks_, drawn_picks, group_, s_.drawn_sums);
        const float* weights = s_.exact_logits + exact_;
        const std::uint32_t* tokens = s_.exact + exact_;
        this->weigh_exact(weights, tokens, certain_picks_, s_.certain_sums);
        this->weigh_exact(weights + certain_picks_, tokens + certain_picks_, drawn_picks,
                          s_.drawn_sums);
    }
    /// The negative weights of the picked tokens at 4 bits come first in s_.weights then.
    void exchange_weights(std::size_t h) noexcept {
        steps::head_mix& mix = s_.mix[h];
        float* coarse = s_.weights + h * tokens_;
        float* exact = s_.exact_logits + h * tokens_ + exact_;
        const float* left = s_.gain;
        mix.certain = kernels::sum_of_products<Arch>(coarse, left, certain_) +
                      steps::relative_weights<Arch>(exact, certain_picks_, s_.shift[h], exact);
        mix.drawn = kernels::sum_of_products<Arch>(coarse + certain_, left + certain_, drawn_);
        float* drawn = exact + certain_picks_;
        const std::size_t drawn_picks = picks_ - certain_picks_;
        steps::relative_weights<Arch>(drawn, drawn_picks, s_.shift[h], drawn);
        mix.drawn += kernels::scale_drawn<Arch>(drawn, s_.chance, drawn_picks, mix.fix).weights;
        for (std::size_t i = 0; i < picks_; ++i) coarse[i] = -coarse[s_.picks[i]];
    }

    void write_output(std::size_t h) noexcept {
        const steps::head_mix& mix = s_.mix[h];
        float* out = call_.out_row(g_, h);
        for (std::size_t c = 0; c < view_.value_dim(); ++c)
            out[c] =
                multiply_add(s_.exact_sums[h * columns_ + c] + s_.certain_sums[h * columns_ + c],
                             mix.certain_factor(),
                             multiply_add(s_.drawn_sums[h * columns_ + c], mix.drawn_factor(),
                                          mix.mean_factor() * s_.tail_mean[c]));
    }

    std::size_t certain_picks_ = 0;
};

}  // namespace detail
SPARQ_NAMESPACE_END
