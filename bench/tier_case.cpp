// SPDX-License-Identifier: MIT
#include "tier_case.hpp"

#include <algorithm>
#include <cmath>
#include <sparq/sparq.hpp>

#include "checks.hpp"
#include "decode_case.hpp"

namespace bench {

real_heads::real_heads(std::size_t heads, std::size_t head_dim, std::size_t seq_len)
    : heads_(heads),
      head_dim_(head_dim),
      seq_len_(seq_len),
      directions_(normal_numbers(5, heads * rank * head_dim)),
      mean_key_(normal_numbers(6, heads * head_dim)),
      mean_value_(normal_numbers(7, heads * head_dim)),
      normal_(8 + seq_len) {
    double square = 0;
    for (float& x : directions_) square += std::pow(double(x = x * x * x), 2);
    const auto unit = float(std::sqrt(double(directions_.size()) / square));
    for (float& x : directions_) x *= unit;
    for (float& x : mean_value_) x *= 0.5f;
    make_queries(2.5);
}

void real_heads::make_queries(double logit_deviation) {
    q_.assign(heads_ * head_dim_, 0.0f);
    for (std::size_t g = 0; g < heads_; ++g) {
        float* q = q_.data() + g * head_dim_;
        for (std::size_t c = 0; c < head_dim_; ++c) q[c] = 0.25f * normal_();
        for (std::size_t j = 0; j < rank; ++j) {
            const float weight = normal_() / float(1 + j);
            for (std::size_t c = 0; c < head_dim_; ++c) q[c] += weight * direction(g, j)[c];
        }
        double variance = 0;
        for (std::size_t c = 0; c < head_dim_; ++c) variance += 0.25 * double(q[c] * q[c]);
        for (std::size_t j = 0; j < rank; ++j) {
            double product = 0;
            for (std::size_t c = 0; c < head_dim_; ++c)
                product += double(q[c]) * double(direction(g, j)[c]);
            variance += std::pow(product / double(1 + j), 2);
        }
        const double factor = logit_deviation * std::sqrt(double(head_dim_) / variance);
        for (std::size_t c = 0; c < head_dim_; ++c) q[c] *= float(factor);
    }
}

void real_heads::make_key(std::size_t g, float* key) {
    const float* mean = mean_key_.data() + g * head_dim_;
    for (std::size_t c = 0; c < head_dim_; ++c) key[c] = mean[c] + 0.5f * normal_();
    for (std::size_t j = 0; j < rank; ++j) {
        const float amount = normal_() / float(1 + j);
        const float* u = direction(g, j);
        for (std::size_t c = 0; c < head_dim_; ++c) key[c] += amount * u[c];
    }
    if (made_ != 0) return;
    // The others' logits are normal: their weights sum up to exp(deviation^2 / 2) a token.
    const float* q = q_.data() + g * head_dim_;
    const double logit = std::log(double(seq_len_)) + 0.5 * 2.5 * 2.5 - 0.4;
    double square = 0;
    for (std::size_t c = 0; c < head_dim_; ++c) square += double(q[c] * q[c]);
    const auto along = float(logit * std::sqrt(double(head_dim_)) / square);
    for (std::size_t c = 0; c < head_dim_; ++c) key[c] = mean[c] + along * q[c];
}

void real_heads::make(std::size_t n, std::vector<float>& keys, std::vector<float>& values) {
    keys.resize(n * heads_ * head_dim_);
    values.resize(keys.size());
    for (std::size_t t = 0; t < n; ++t, ++made_)
        for (std::size_t g = 0; g < heads_; ++g) {
            make_key(g, keys.data() + (t * heads_ + g) * head_dim_);
            float* value = values.data() + (t * heads_ + g) * head_dim_;
            const float* mean = mean_value_.data() + g * head_dim_;
            for (std::size_t c = 0; c < head_dim_; ++c) value[c] = mean[c] + normal_();
        }
}

tier_case::tier_case(std::size_t heads, std::size_t head_dim, std::size_t seq_len)
    : plain_(heads, head_dim),
      int8_(heads, head_dim),
      int4_(heads, head_dim),
      int2_(heads, head_dim),
      tiered_(heads, head_dim),
      tiered8_(heads, head_dim) {
    real_heads made(heads, head_dim, seq_len);
    const std::size_t block =
        std::clamp<std::size_t>((std::size_t{1} << 20) / (heads * head_dim), 1, seq_len);
    const auto fill = [&](auto& cache, const auto& keys, const auto& values) {
        cache.reserve(seq_len);
        cache.append(std::span<const float>(keys), std::span<const float>(values));
    };
    std::vector<float> keys, values;
    for (std::size_t done = 0; done < seq_len; done += block) {
        made.make(std::min(block, seq_len - done), keys, values);
        fill(plain_, keys, values);
        fill(int8_, keys, values);
        fill(int4_, keys, values);
        fill(int2_, keys, values);
        fill(tiered_, keys, values);
        fill(tiered8_, keys, values);
    }
    q_ = made.queries();
    dense_out_.resize(q_.size());
    out_.resize(q_.size());
    spans_ = key_and_value_spans(plain_.view());
}

void tier_case::dense() {
    sparq::dense_attention(q_, plain_, dense_out_, {.work = &work_, .report = &report_});
}

template <class Label>
void tier_case::labels(const sparq::kv_cache<T, Label>& cache) {
    sparq::sparq_params params = usual_params(cache.head_dim());
    if constexpr (sparq::coded_label<Label>) {
        params.components = sparq::component_ranking::magnitude_times_spread;
        params.tau = sparq::temperature::none;
    }
    sparq::sparq_attention(q_, cache, params, out_, {.work = &work_, .report = &report_});
}
void tier_case::sparq() { labels(plain_); }
void tier_case::int8_labels() { labels(int8_); }
void tier_case::int4_labels() { labels(int4_); }
void tier_case::int2_labels() { labels(int2_); }

template <class Cache>
void tier_case::tiers(const Cache& cache, const sparq::tiered_params& params) {
    sparq::sparq_attention(q_, cache, params, out_, {.work = &work_, .report = &report_});
}

namespace {
sparq::tiered_params fixed_params(std::size_t head_dim) {
    return {.scan_channels = head_dim / 4, .refined = 1024, .exact = 64};
}
}  // namespace

void tier_case::fixed_tiers() { tiers(tiered_, fixed_params(tiered_.head_dim())); }
void tier_case::tolerance_05() { tiers(tiered_, {.tolerance = 0.05f}); }
void tier_case::tolerance_10() { tiers(tiered_, {.tolerance = 0.1f}); }
void tier_case::dense_int8_rows() { tiers(tiered8_, {.tolerance = 0.0f}); }
void tier_case::tolerance_05_int8_rows() { tiers(tiered8_, {.tolerance = 0.05f}); }
void tier_case::tolerance_10_int8_rows() { tiers(tiered8_, {.tolerance = 0.1f}); }

void tier_case::scan_head(std::size_t g) {
    const auto tasks = sparq::detail::make_tiered_tasks<sparq::default_arch>(
        std::span<const float>(q_), tiered_.view(), fixed_params(tiered_.head_dim()),
        std::span<float>(out_), {});
    std::byte* scratch = step_work_.prepare(tasks.scratch_bytes());
    tasks.prepare(g, scratch);
    for (std::size_t c = 0; c < tasks.chunks(); ++c) tasks.chunk(g, scratch, c);
}
void tier_case::read_head(std::size_t g) {
    const auto tasks = sparq::detail::make_tiered_tasks<sparq::default_arch>(
        std::span<const float>(q_), tiered_.view(), fixed_params(tiered_.head_dim()),
        std::span<float>(out_), {});
    tasks.finish(g, step_work_.prepare(tasks.scratch_bytes()));
}

std::size_t tier_case::roof_bytes() const noexcept {
    std::size_t bytes = 0;
    for (const byte_span span : spans_) bytes += span.size();
    return bytes;
}

double tier_case::mean_error() const {
    const std::size_t d = plain_.head_dim();
    double sum = 0;
    for (std::size_t h = 0; h < heads(); ++h) {
        const auto dense = std::span(dense_out_).subspan(h * d, d);
        sum += exact::deviation(std::span(out_).subspan(h * d, d),
                                exact::numbers(dense.begin(), dense.end()));
    }
    return sum / double(heads());
}

std::string tier_case::shape() const {
    return "half S=" + std::to_string(plain_.seq_len()) + " H_kv=" + std::to_string(heads()) +
           " G=1 d_h=" + std::to_string(plain_.head_dim());
}

std::string tier_case::complaint() {
    const std::size_t d = plain_.head_dim(), g = heads() - 1;
    const auto q = std::span<const float>(q_).last(d);
    dense();
    const auto all = exact::attention(plain_.view(), g, q, [](std::size_t) { return true; });
    if (!(exact::deviation(std::span(dense_out_).last(d), all) < exact::tolerance))
        return "dense differs from double precision";

    report_.keep_tokens = true;
    int4_labels();
    report_.keep_tokens = false;
    const auto tokens = std::span(report_.tokens).last(report_.tokens_per_head);
    auto expected = exact::attention(plain_.view(), g, q, [&](std::size_t token) {
        return std::binary_search(tokens.begin(), tokens.end(), std::uint32_t(token));
    });
    const double covered = double(report_.heads.back().covered);
    const auto mean = exact::mean_value(plain_.view(), g);
    for (std::size_t c = 0; c < d; ++c)
        expected[c] = covered * expected[c] + (1 - covered) * mean[c];
    if (!(exact::deviation(std::span(out_).last(d), expected) < exact::tolerance))
        return "labels of 4 bits: not attention to the tokens they chose";

    tolerance_05();
    if (!(mean_error() < 2 * 0.05)) return "tolerance 0.05: off by more than twice that";
    tolerance_10();
    if (!(mean_error() < 2 * 0.1)) return "tolerance 0.1: off by more than twice that";
    dense_int8_rows();
    if (!(mean_error() < 0.03)) return "dense over 8-bit rows: off by more than 0.03";
    tolerance_05_int8_rows();
    if (!(mean_error() < 2 * 0.05))
        return "tolerance 0.05, 8-bit rows: off by more than twice that";
    fixed_tiers();
    const std::vector<float> whole = out_;
    for (std::size_t head = 0; head < heads(); ++head) scan_head(head), read_head(head);
    return whole == out_ ? "" : "fixed tiers: the parts one by one differ from the whole";
}

}  // namespace bench
