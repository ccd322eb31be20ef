// SPDX-License-Identifier: MIT
// tiered_head: attention of one KV head's group in tiers, after the scan.
//
// Read finish() first: it is the method, a call a step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

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
    /// all is the way: where nothing would be saved, or something read is not finite.
    bool finish() noexcept {
        if (params_.tolerance == 0.0f && !params_.has_fixed_tiers()) return false;
        if (!this->read_exact() || !this->rank()) return false;
        if (params_.has_fixed_tiers() ? !refine_fixed() : !refine_enough()) return false;
        choose_picks();
        if (this->exceeds_dense()) return false;
        read_picks();
        write_output();
        return true;
    }

   private:
    /// Read 2 to the tolerance: batches, each a superset of the one before.
    bool refine_enough() noexcept {
        const float tolerance = params_.tolerance,
                    budget = steps::sampling_share * tolerance * tolerance;
        *s_.uniforms = kernels::token_uniforms(tokens_);
        const bool useless = s_.scan->noise > steps::scan_noise_useless * steps::scan_noise_useless;
        std::size_t edge =
            useless ? 0 : this->edge_for_rows(std::clamp(6.0f / tolerance, 32.0f, 256.0f));
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
    /// The fixed tiers: the best by scanned weight, the mean value for the rest.
    bool refine_fixed() noexcept {
        const std::size_t inside = std::min(newest_, scanned_) - sinks_;
        const std::size_t refined = std::min(params_.refined, inside);
        certain_ = best_scanned(refined + std::min(params_.exact, inside - refined));
        drawn_ = 0;
        threshold_ = 0.0f;
        this->add_unscanned();
        if (this->exceeds_dense()) return false;
        this->refine();
        this->mix_outputs();
        return true;
    }

    /// The n best of the scanned tokens, ascending: those above an edge of the histogram, less
    /// the surplus.
    std::size_t best_scanned(std::size_t n) noexcept {
        if (n == 0) return 0;
        std::size_t edge = this->edge_with(n);
        const std::size_t found = kernels::collect_certain<Arch>(
            s_.greatest, scanned_, edge == 0 ? 0.0f : kernels::weight_histogram::edge(edge),
            s_.tokens, steps::code_row_prefetch<T>(view_, g_));
        for (std::size_t j = 0; j < found; ++j) s_.weights[j] = s_.greatest[s_.tokens[j]];
        const float least = kernels::find_threshold<Arch>(s_.weights, found, n).value;
        std::size_t surplus = kernels::detail::count_at_least<Arch>(s_.weights, found, least) - n;
        std::size_t count = 0;
        for (std::size_t j = found; j-- != 0;)  // of equal ones the newest go
            if (surplus != 0 && s_.weights[j] == least) {
                s_.weights[j] = -1.0f;
                --surplus;
            }
        for (std::size_t j = 0; j < found; ++j)
            if (s_.weights[j] >= least) s_.tokens[count++] = s_.tokens[j];
        return count;
    }

    /// The tokens whose 4 bits would cost more than the tolerance has left.
    void choose_picks() noexcept {
        const std::size_t n = certain_ + drawn_;
        this->weigh();
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
        picks_ = certain_picks_ = 0;
        std::size_t equal = equal_picks(n, threshold);
        for (std::size_t j = 0; j < n; ++j) {
            const bool ties = s_.gain[j] == threshold && equal != 0;
            if (ties) --equal;
            s_.picked[j] = ties || s_.gain[j] > threshold;
            if (!s_.picked[j]) continue;
            s_.picks[picks_] = static_cast<std::uint32_t>(j);
            s_.exact[exact_ + picks_++] = s_.tokens[j];
            if (j < certain_) ++certain_picks_;
        }
        float* left = s_.gain;
        for (std::size_t j = 0; j < n; ++j) left[j] = s_.picked[j] ? 0.0f : 1.0f;
        for (std::size_t h = 0; h < group_; ++h)
            for_codes(h, 1.0f, [&](const auto& cost, std::size_t first, std::size_t count) {
                s_.mix[h].risk += kernels::sum_code_costs<Arch>(
                    cost, s_.weights + h * tokens_ + first, s_.key_step + first,
                    s_.value_step + first, left + first, count);
            });
    }
    /// Variance of a 4-bit logit for codes of step 1.
    [[nodiscard]] float key_noise(std::size_t h) const noexcept {
        const float* square_width = view_.of_head(g_).moments.square_width;
        const float* q = queries_.data + h * queries_.stride;
        float noise = 0.0f;
        for (std::size_t c = 0; c < view_.head_dim(); ++c) noise += q[c] * q[c] * square_width[c];
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

    void read_picks() noexcept {
        float* logits = s_.exact_logits + exact_;
        const auto part = [&](std::size_t first, std::size_t count) {
            this->ask_for_rows(s_.exact + exact_ + first, count);
            score_rows<Arch, T>(queries_, this->rows_of(s_.exact + exact_ + first, count),
                                view_.head_dim(), logits + first, tokens_);
        };
        part(0, certain_picks_);
        part(certain_picks_, picks_ - certain_picks_);
        for (std::size_t h = 0; h < group_; ++h)
            for (std::size_t i = 0; i < picks_; ++i)
                s_.logits[h * tokens_ + s_.picks[i]] = logits[h * tokens_ + i];
    }

    /// y from all that was read, each token at its best.
    void write_output() noexcept {
        this->weigh();
        for (std::size_t h = 0; h < group_; ++h) scale_weights(h);
        std::fill_n(s_.certain_sums, group_ * columns_, 0.0f);
        this->weigh_exact(s_.exact_logits + exact_, s_.exact + exact_, certain_picks_,
                          s_.certain_sums);
        this->weigh_exact(s_.exact_logits + exact_ + certain_picks_,
                          s_.exact + exact_ + certain_picks_, picks_ - certain_picks_,
                          s_.certain_sums);
        const std::size_t kept = drop_picked();
        this->values_of(0, kept, group_, s_.certain_sums);
        this->values_of(kept, certain_ + drawn_ - picks_ - kept, group_, s_.certain_sums);
        for (std::size_t h = 0; h < group_; ++h) write_head(h);
    }
    void scale_weights(std::size_t h) noexcept {
        const steps::head_mix& mix = s_.mix[h];
        float* weights = s_.weights + h * tokens_;
        for (std::size_t j = 0; j < certain_ + drawn_; ++j)
            weights[j] *= j < certain_ ? mix.certain_factor() : mix.drawn_factor();
        for (std::size_t i = 0; i < picks_; ++i)
            s_.exact_logits[h * tokens_ + exact_ + i] = weights[s_.picks[i]];
    }
    /// Leaves the tokens that stay at 4 bits; returns how many of them are of A.
    std::size_t drop_picked() noexcept {
        std::size_t count = 0, kept = 0;
        for (std::size_t j = 0; j < certain_ + drawn_; ++j) {
            if (j == certain_) kept = count;
            if (s_.picked[j]) continue;
            for (std::size_t h = 0; h < group_; ++h)
                s_.weights[h * tokens_ + count] = s_.weights[h * tokens_ + j];
            s_.rows[count] = s_.rows[j];
            s_.value_minimum[count] = s_.value_minimum[j];
            s_.value_step[count++] = s_.value_step[j];
        }
        return drawn_ == 0 ? count : kept;
    }
    void write_head(std::size_t h) noexcept {
        const steps::head_mix& mix = s_.mix[h];
        float* out = call_.out_row(g_, h);
        for (std::size_t c = 0; c < view_.value_dim(); ++c)
            out[c] = s_.exact_sums[h * columns_ + c] * mix.certain_factor() +
                     s_.certain_sums[h * columns_ + c] + mix.mean_factor() * s_.tail_mean[c];
        if (call_.report == nullptr) return;
        head_report& report = call_.report->heads[g_ * group_ + h];
        report = {};
        report.tail_weight = mix.tail / mix.z0();
        report.covered = 1.0f - report.tail_weight;
        report.log_sum_exp = s_.shift[h] + std::log(mix.z0());
        report.expected_error = std::sqrt(mix.risk);
        report.exact = exact_ + picks_;
        report.refined = certain_ + drawn_ - picks_;
    }

    std::size_t certain_picks_ = 0;
};

}  // namespace detail
SPARQ_NAMESPACE_END
