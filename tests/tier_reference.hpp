// SPDX-License-Identifier: MIT
// Attention in fixed tiers in double, from the formulas: which tokens are read how, the output
// that follows, and how far float and the integer sums of codes may be from it.
#pragma once

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "tier_codes.hpp"

namespace tier_reference {

using std::size_t;
using numbers = std::vector<double>;

struct fixed_result {
    bool near_tie = false;  ///< a choice that rounding could turn
    size_t exact = 0, refined = 0;
    numbers out, limit;  ///< [G, d_v]
};

/// One KV head's group.
template <class T>
class fixed_tiers {
   public:
    fixed_tiers(const test::problem& p, const sparq::tiered_view<T>& view, size_t g,
                const sparq::tiered_params& params)
        : view_(view),
          params_(params),
          g_(g),
          group_(p.dims.group),
          d_(p.dims.head_dim),
          n_(view.seq_len()),
          rows_(tier_codes::rows_of<T>(p, g, n_)),
          places_(tier_codes::places(view, g)) {
        const double scale =
            params.scale != 0 ? double{params.scale} : 1 / std::sqrt(static_cast<double>(d_));
        for (size_t i = 0; i < group_ * d_; ++i)
            q_.push_back(double{p.q[g * group_ * d_ + i]} * scale);
        for (const tier_codes::place& at : places_)
            codes_.push_back(tier_codes::decode_row(view, g, at));
        sinks_ = std::min(params.sinks, n_);
        newest_ = std::max(sinks_, n_ - std::min(params.recent, n_));
    }

    fixed_result run() {
        choose_channels();
        scan();
        choose_refined();
        choose_exact();
        result_.exact = sinks_ + n_ - newest_ + picked_.size();
        result_.refined = refined_.size() - picked_.size();
        for (size_t h = 0; h < group_; ++h) mix(h);
        return result_;
    }

   private:
    [[nodiscard]] bool in_between(size_t t) const { return t >= sinks_ && t < newest_; }
    [[nodiscard]] double dot(size_t h, const double* key) const {
        return reference::dot(&q_[h * d_], key, d_);
    }

    /// Greatest q^2 * (variance - 0.12 * square of the ranges' width).
    void choose_channels() {
        const auto& known = view_.of_head(g_).moments;
        const size_t r = params_.scan_channels != 0 ? params_.scan_channels : (d_ + 3) / 4;
        numbers gain(d_);
        for (size_t c = 0; c < d_; ++c)
            for (size_t h = 0; h < group_; ++h)
                gain[c] +=
                    q_[h * d_ + c] * q_[h * d_ + c] *
                    std::max(0.0, double{known.variance[c]} - 0.12 * double{known.square_width[c]});
        channels_ = reference::largest(gain, r);
        numbers sorted = gain;
        std::sort(sorted.rbegin(), sorted.rend());
        if (r < d_ && sorted[r - 1] - sorted[r] < 1e-5 * sorted[r - 1]) result_.near_tie = true;
    }

    /// The logits from 2-bit codes, unread channels at their mean.
    void scan() {
        const auto& known = view_.of_head(g_).moments;
        std::vector<char> read(d_, 0);
        for (size_t c : channels_) read[c] = 1;
        scanned_.assign(group_ * n_, -INFINITY);
        for (size_t h = 0; h < group_; ++h) {
            double unread = 0, largest = 0;
            for (size_t c = 0; c < d_; ++c)
                if (read[c] == 0) unread += q_[h * d_ + c] * double{known.mean[c]};
            for (size_t t = 0; t < n_; ++t) {
                if (!in_between(t) || !places_[t].labelled) continue;
                double logit = unread;
                const auto* ranges = tier_codes::ranges_of(view_, g_, places_[t]);
                for (size_t c : channels_) {
                    logit += q_[h * d_ + c] * tier_codes::scanned_key(view_, g_, places_[t], c);
                    largest =
                        std::max(largest, std::abs(q_[h * d_ + c]) * test::decode(ranges[c].width));
                }
                scanned_[h * n_ + t] = logit;
            }
            // Entries of a pair of channels: in 127 steps of the greatest pair's span.
            const double pairs = static_cast<double>(channels_.size() + 1) / 2;
            scan_error_.push_back(pairs * 0.52 * (2 * 3 * largest) / 127 + 1e-4);
        }
    }

    /// The best by the greatest weight over the heads, and all that has no 2-bit codes.
    void choose_refined() {
        numbers best;
        std::vector<size_t> tokens;
        double error = 0;
        lse_.assign(group_, 0.0);
        for (size_t h = 0; h < group_; ++h) {
            numbers all;
            for (size_t t = 0; t < n_; ++t)
                all.push_back(in_between(t) ? scanned_[h * n_ + t] : dot(h, rows_.key(t)));
            lse_[h] = reference::log_sum_exp(all.data(), n_);
            error = std::max(error, 2 * scan_error_[h]);
        }
        for (size_t t = sinks_; t < newest_; ++t) {
            if (!places_[t].labelled) continue;
            double top = -INFINITY;
            for (size_t h = 0; h < group_; ++h) top = std::max(top, scanned_[h * n_ + t] - lse_[h]);
            best.push_back(top);
            tokens.push_back(t);
        }
        const size_t m = std::min(params_.refined + params_.exact, best.size());
        for (size_t i : reference::largest(best, m)) refined_.push_back(tokens[i]);
        std::sort(best.rbegin(), best.rend());
        if (m > 0 && m < best.size() && best[m - 1] - best[m] < 2 * error) result_.near_tie = true;
        for (size_t t = sinks_; t < newest_; ++t)
            if (!places_[t].labelled) refined_.push_back(t);
    }

    /// Those whose 4 bits cost most: weight^2 times what the steps of K and V add up to. Only
    /// choices that are clear whatever the two are worth are taken.
    void choose_exact() {
        const size_t k = std::min(params_.exact, refined_.size());
        numbers size(refined_.size(), 0.0);
        double widest = 0, finest = INFINITY;
        for (size_t j = 0; j < refined_.size(); ++j) {
            const auto& row = codes_[refined_[j]];
            for (size_t h = 0; h < group_; ++h)
                size[j] = std::max(size[j], std::exp(dot(h, row.key.data()) - lse_[h]));
            widest = std::max({widest, row.key_step, row.value_step});
            finest = std::min({finest, row.key_step, row.value_step});
        }
        for (size_t i : reference::largest(size, k)) picked_.push_back(refined_[i]);
        std::sort(size.rbegin(), size.rend());
        const double clear = 1.2 * static_cast<double>(group_) * widest / finest;
        if (k > 0 && k < size.size() && size[k - 1] < clear * size[k]) result_.near_tie = true;
    }

    struct part {
        double weight, error;  ///< error relative
        const double* value;
    };

    [[nodiscard]] double exact_error(size_t h, const double* key) const {
        double sum = 0;
        for (size_t c = 0; c < d_; ++c) sum += std::abs(q_[h * d_ + c] * key[c]);
        return (static_cast<double>(d_) + 8) * 0x1p-23 * sum + 0x1p-20;
    }
    /// Coefficients are integers of 15 bits of the greatest, each off by half of one.
    [[nodiscard]] double code_error(size_t h, size_t t) const {
        const auto* ranges = tier_codes::ranges_of(view_, g_, places_[t]);
        double largest = 0, sum = 0;
        for (size_t c = 0; c < d_; ++c) {
            const double spread = test::decode(ranges[c].width);
            const double mean = test::decode(ranges[c].minimum) + 2 * spread;
            largest = std::max(largest, std::abs(q_[h * d_ + c]) * spread);
            sum += std::abs(q_[h * d_ + c]) *
                   (std::abs(mean) +
                    spread * (std::abs(codes_[t].key_minimum) + 15 * codes_[t].key_step));
        }
        return 0.51 * largest / 32767 * 15 * static_cast<double>(d_) * codes_[t].key_step +
               (static_cast<double>(d_) + 8) * 0x1p-23 * sum + 0x1p-20;
    }

    void mix(size_t h) {
        const size_t width = view_.value_dim();
        std::vector<char> kind(n_, 0);  // 0 tail, 1 refined, 2 exact
        for (size_t t : refined_) kind[t] = 1;
        for (size_t t : picked_) kind[t] = 2;
        std::vector<part> parts;
        numbers mean(width, 0.0);
        double tail = 0, others = 0;
        for (size_t t = 0; t < n_; ++t) {
            const bool always = !in_between(t);
            if (always || kind[t] == 2) {
                parts.push_back({std::exp(dot(h, rows_.key(t)) - lse_[h]),
                                 exact_error(h, rows_.key(t)), rows_.value(t)});
            } else if (kind[t] == 1) {
                parts.push_back({std::exp(dot(h, codes_[t].key.data()) - lse_[h]), code_error(h, t),
                                 codes_[t].value.data()});
            } else {
                tail += std::exp(scanned_[h * n_ + t] - lse_[h]);
                others += 1;
            }
            // What is known of the tail's sum is the sum over all less what was read, of
            // which everything but sinks and newest ones in 4 bits.
            for (size_t c = 0; c < width; ++c)
                if (!always && kind[t] == 0)
                    mean[c] += rows_.value(t)[c];
                else if (!always)
                    mean[c] += rows_.value(t)[c] - codes_[t].value[c];
        }
        if (others > 0)
            for (double& x : mean) x /= others;
        parts.push_back({tail, std::expm1(scan_error_[h]), mean.data()});
        add_output(parts, width);
    }

    void add_output(const std::vector<part>& parts, size_t width) {
        double sum = 0;
        for (const part& x : parts) sum += x.weight;
        for (size_t c = 0; c < width; ++c) {
            double y = 0, size = 0, limit = 0;
            for (const part& x : parts) {
                y += x.weight / sum * x.value[c];
                size += x.weight / sum * std::abs(x.value[c]);
            }
            double greatest = 0;  // minima of V rows are added and taken away again
            for (const part& x : parts) {
                limit += x.weight / sum * x.error * std::abs(x.value[c] - y);
                for (size_t i = 0; i < width; ++i)
                    greatest = std::max(greatest, std::abs(x.value[i]));
            }
            const double rounding = (static_cast<double>(parts.size()) + 64) * 0x1p-23;
            result_.out.push_back(y);
            result_.limit.push_back(1.2 * limit + rounding * (size + greatest));
        }
    }

    const sparq::tiered_view<T>& view_;
    sparq::tiered_params params_;
    size_t g_, group_, d_, n_, sinks_ = 0, newest_ = 0;
    tier_codes::exact_rows rows_;
    std::vector<tier_codes::place> places_;
    std::vector<tier_codes::code_row> codes_;
    numbers q_, scanned_, scan_error_, lse_;
    std::vector<size_t> channels_, refined_, picked_;
    fixed_result result_;
};

}  // namespace tier_reference
