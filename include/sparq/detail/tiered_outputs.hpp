// SPDX-License-Identifier: MIT
// tiered_outputs: what has been read of a KV head, made into its output and an error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "multiply_add.hpp"
#include "tiered_batches.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class Arch, class T>
class tiered_outputs : public tiered_batches<Arch, T> {
   protected:
    using base = tiered_batches<Arch, T>;
    using base::call_, base::view_, base::params_, base::s_, base::g_, base::group_, base::tokens_,
        base::scanned_, base::columns_, base::queries_, base::sinks_, base::newest_, base::exact_,
        base::certain_, base::drawn_, base::picks_, base::threshold_, base::value_variance_,
        base::unscanned_, base::weighed_;

   public:
    using base::base;

   protected:
    /// Both outputs and what to think of them; returns the tail's expected squared relative
    /// error, mean over the heads.
    float mix_outputs() noexcept {
        weigh();
        read_values();
        const std::size_t others = tokens_ - exact_ - certain_, width = view_.value_dim();
        const float* ones = s_.certain_sums + group_ * columns_;
        for (std::size_t c = 0; c < width; ++c)
            s_.tail_mean[c] = others == 0 ? 0.0f
                                          : (static_cast<float>(s_.rest[c]) - ones[c]) /
                                                static_cast<float>(others);
        float risk = 0.0f;
        for (std::size_t h = 0; h < group_; ++h) risk += mix_head(h);
        return risk / static_cast<float>(group_);
    }

    /// e of A and w of B in s_.weights, and their sums: of A what is new.
    void weigh() noexcept {
        const std::size_t first = std::max(weighed_, unscanned_), scanned_of_a = certain_ - first;
        float* inverse = group_ > 1 ? s_.gain : nullptr;  // not needed yet
        for (std::size_t j = 0; inverse != nullptr && j < scanned_of_a; ++j)
            inverse[j] = s_.greatest[s_.tokens[first + j]];
        if (inverse != nullptr) kernels::invert_weights<Arch>(inverse, scanned_of_a, inverse);
        for (std::size_t h = 0; h < group_; ++h) {
            steps::head_mix& mix = s_.mix[h];
            const float* logits = s_.logits + h * tokens_;
            const float* scanned = s_.scores + h * tokens_;
            float* weights = s_.weights + h * tokens_;
            const float shift = s_.shift[h];
            mix.certain += steps::relative_weights<Arch>(logits + weighed_, certain_ - weighed_,
                                                         shift, weights + weighed_);
            for (std::size_t j = 0; j < scanned_of_a; ++j)
                s_.scanned_weights[j] = scanned[s_.tokens[first + j]];
            kernels::sum_weights<Arch>(s_.scanned_weights, inverse, scanned_of_a, mix.seen);
            mix.tail = static_cast<float>(std::max(0.0, s_.scanned[h].p - mix.seen.p));
            for (std::size_t j = 0; j < drawn_; ++j)
                s_.scanned_weights[j] = scanned[s_.tokens[certain_ + j]];
            steps::relative_weights<Arch>(logits + certain_, drawn_, shift, weights + certain_);
            steps::weigh_drawn<Arch>(weights + certain_, s_.scanned_weights, s_.chance, drawn_,
                                     mix);
        }
    }

    /// The weighted sums of V at 4 bits, and the plain one over A.
    void read_values() noexcept {
        std::fill_n(s_.weights + group_ * tokens_ + weighed_, certain_ - weighed_, 1.0f);
        std::fill_n(s_.drawn_sums, group_ * columns_, 0.0f);
        values_of(weighed_, certain_ - weighed_, group_ + 1, s_.certain_sums);
        values_of(certain_, drawn_, group_, s_.drawn_sums);
        weighed_ = certain_;
    }

    void values_of(std::size_t first, std::size_t count, std::size_t heads,
                   float* sums) const noexcept {
        steps::refine_values<Arch>(
            this->listed(first, count), code_row_layout(view_.head_dim(), view_.value_dim()),
            view_.value_dim(), s_.weights + first, heads, tokens_, sums, columns_);
    }

    void write_report(std::size_t h) noexcept {
        const steps::head_mix& mix = s_.mix[h];
        head_report& report = call_.report->heads[g_ * group_ + h];
        report = {};
        report.tail_weight = mix.tail / mix.z0();
        report.covered = 1.0f - report.tail_weight;
        report.log_sum_exp = s_.shift[h] + std::log(mix.z0());
        report.expected_error = std::sqrt(mix.risk);
        report.exact = exact_ + picks_;
        report.refined = certain_ + drawn_ - picks_;
    }

    float mix_head(std::size_t h) noexcept {
        steps::head_mix& mix = s_.mix[h];
        const std::size_t width = view_.value_dim();
        const float z0 = mix.z0(), z1 = mix.z1();
        float distance = 0.0f;
        for (std::size_t c = 0; c < width; ++c) {
            const float sum = s_.exact_sums[h * columns_ + c] + s_.certain_sums[h * columns_ + c];
            s_.sampled[c] = (sum + s_.drawn_sums[h * columns_ + c]) / z1;
            s_.output[c] = multiply_add(mix.tail, s_.tail_mean[c], sum) / z0;
            const float off = s_.mean[c] - s_.sampled[c];
            distance = multiply_add(off, off, distance);
        }
        mix.spread = value_variance_ + distance;
        mix.variance =
            mix.tail > 0.0f ? std::max(mix.variance, least_variance(h)) * mix.spread : 0.0f;
        steps::shrink_tail(s_.sampled, s_.output, width, mix);
        if (params_.has_fixed_tiers()) take_mean_tail(h);
        return mix.risk;
    }

    /// What the 8 bits of the rows that were read exactly add to the risk, once the output is
    /// there. (Of other tokens 4 bits are what counts.)
    /// @param certain_picks  of the picks, those that stand first
    void add_row_noise(std::size_t certain_picks) noexcept {
        const std::size_t certain = exact_ + certain_picks;
        add_row_noise(0, exact_, &steps::head_mix::certain_factor);
        add_row_noise(exact_, certain, &steps::head_mix::certain_factor);
        add_row_noise(certain, exact_ + picks_, &steps::head_mix::drawn_factor);
    }
    /// Of s_.exact [begin, end), ascending: a logit is off by a step of K's codes times q / 12^1/2
    /// and moves the output towards or away from v, which is off by a step of its own.
    void add_row_noise(std::size_t begin, std::size_t end,
                       float (steps::head_mix::*factor)() const) noexcept {
        const std::size_t width = view_.value_dim();
        float *value = s_.sampled, *off = s_.output;  // not needed any more
        steps::token_cursor<T, int2_label> cursor(view_.rows(), g_);
        for (std::size_t j = begin; j < end; ++j) {
            cursor.seek(s_.exact[j]);
            kernels::convert_row<Arch>(cursor.value_row(), width, value);
            const float key_step = range_of(cursor.key_row()).step;
            const float value_step = range_of(cursor.value_row()).step;
            for (std::size_t h = 0; h < group_; ++h) {
                steps::head_mix& mix = s_.mix[h];
                const float* y = call_.out_row(g_, h);
                for (std::size_t c = 0; c < width; ++c) off[c] = value[c] - y[c];
                const float* q = queries_.data + h * queries_.stride;
                const float noise = key_step * key_step / 12.0f *
                                    kernels::sum_of_products<Arch>(q, q, view_.head_dim());
                const float weight = s_.exact_logits[h * tokens_ + j] * (mix.*factor)();
                mix.risk += weight * weight / mix.size *
                            (std::expm1(std::min(noise, 80.0f)) *
                                 kernels::sum_of_products<Arch>(off, off, width) +
                             value_step * value_step * static_cast<float>(width) / 12.0f);
            }
        }
    }

    /// Of the sampled tail, if scanned weights were true and values unlike each other.
    [[nodiscard]] float least_variance(std::size_t h) const noexcept {
        const double below = s_.scanned[h].squares_by_greatest - s_.mix[h].seen.squares_by_greatest;
        const float z1 = s_.mix[h].z1();
        return steps::least_variance_share * steps::draw_spread * threshold_ *
               static_cast<float>(std::max(0.0, below)) / (z1 * z1);
    }

    /// Of fixed tiers: the mean tail, whose error is taken as if the tail's values were
    /// unlike each other.
    void take_mean_tail(std::size_t h) noexcept {
        steps::head_mix& mix = s_.mix[h];
        const double squares = s_.scanned[h].squares - mix.seen.squares;
        mix.shrink = 0.0f;
        mix.risk = static_cast<float>(std::max(0.0, squares)) * mix.spread / mix.size *
                   std::min(std::exp(2.0f * s_.scan->noise), 20.0f);
    }
};

}  // namespace detail
SPARQ_NAMESPACE_END
