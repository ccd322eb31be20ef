// SPDX-License-Identifier: MIT
// tier_case: one decode step over the same tokens in every layout, to be timed.
//
// What attention to a tolerance reads depends on the numbers, so these are made like those of
// real heads: see real_heads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <sparq/kv_cache.hpp>
#include <sparq/tiered_attention.hpp>
#include <string>
#include <vector>

#include "memory.hpp"
#include "synthetic.hpp"

namespace bench {

/// Keys, values and queries like those of a language model's sharp heads.
///
///   key   = mean + sum over j < 16 of z[j] u[j] + noise / 2
///   value = mean + noise
///   q     = sum over j of w[j] u[j] + noise / 4, so long that logits deviate by 2.5
///
/// u[j] have heavy-tailed components (cubes of normal numbers): a few channels spread most.
/// z[j] of a token is normal, less for later j. Token 0 is a sink: the query gives it about
/// two fifths of the weight.
class real_heads {
   public:
    real_heads(std::size_t heads, std::size_t head_dim, std::size_t seq_len);

    /// The next tokens, [n, heads, d_h].
    void make(std::size_t n, std::vector<float>& keys, std::vector<float>& values);
    [[nodiscard]] std::vector<float> queries() const { return q_; }  ///< [heads, d_h]

   private:
    static constexpr std::size_t rank = 16;

    [[nodiscard]] const float* direction(std::size_t g, std::size_t j) const {
        return directions_.data() + (g * rank + j) * head_dim_;
    }
    void make_queries(double logit_deviation);
    void make_key(std::size_t g, float* key);

    std::size_t heads_, head_dim_, seq_len_, made_ = 0;
    std::vector<float> directions_, mean_key_, mean_value_, q_;
    quick_normal normal_;
};

/// half, G = 1. SparQ and the labels of few bits with r = d_h / 4, k = 128, local = 32, mean
/// tail; fixed tiers with d_h / 4 channels, 1024 refined and 64 exact tokens.
class tier_case {
   public:
    using T = sparq::half;

    tier_case(std::size_t heads, std::size_t head_dim, std::size_t seq_len);

    // The whole step on one thread.
    void roof() const { streaming_read(spans_, nullptr); }
    void dense();
    void sparq();
    void int8_labels();
    void int4_labels();
    void int2_labels();
    void fixed_tiers();
    void tolerance_05();
    void tolerance_10();
    // Over a tiered_cache<int8_row>.
    void dense_int8_rows();
    void tolerance_05_int8_rows();
    void tolerance_10_int8_rows();

    // Fixed tiers in parts, all heads: the first read, and all that follows on it.
    void scan_head(std::size_t g);
    void read_head(std::size_t g);

    [[nodiscard]] std::size_t heads() const noexcept { return plain_.heads_kv(); }
    [[nodiscard]] std::size_t roof_bytes() const noexcept;
    /// Of the latest whole step.
    [[nodiscard]] const sparq::attention_report& report() const noexcept { return report_; }
    /// Of the latest whole step but dense, from dense(): mean over the heads.
    [[nodiscard]] double mean_error() const;
    /// As "half S=16384 H_kv=42 G=1 d_h=128".
    [[nodiscard]] std::string shape() const;
    /// Compares dense and labels of 4 bits with double precision, and the errors of tiers with
    /// what they were to be. Empty, or what is wrong.
    [[nodiscard]] std::string complaint();

   private:
    template <class Cache>
    void tiers(const Cache& cache, const sparq::tiered_params& params);
    template <class Label>
    void labels(const sparq::kv_cache<T, Label>& cache);

    sparq::kv_cache<T> plain_;
    sparq::kv_cache<T, sparq::int8_label> int8_;
    sparq::kv_cache<T, sparq::int4_label> int4_;
    sparq::kv_cache<T, sparq::int2_label> int2_;
    sparq::tiered_cache<T> tiered_;
    sparq::tiered_cache<sparq::int8_row> tiered8_;
    std::vector<byte_span> spans_;
    std::vector<float> q_, dense_out_, out_;
    sparq::workspace work_, step_work_;
    sparq::attention_report report_;
};

}  // namespace bench
