// SPDX-License-Identifier: MIT
// decode_case: one decode step over a given cache, to be timed whole or step by step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <sparq/attention_report.hpp>
#include <sparq/kv_cache.hpp>
#include <sparq/params.hpp>
#include <sparq/workspace.hpp>
#include <string>
#include <vector>

#include "memory.hpp"
#include "thread_pool.hpp"

namespace bench {

template <class T>
std::string type_name();
template <>
inline std::string type_name<float>() {
    return "float";
}
template <>
inline std::string type_name<sparq::half>() {
    return "half";
}
template <>
inline std::string type_name<sparq::bfloat16>() {
    return "bfloat16";
}

/// The parameters of issue and table: a quarter of the components (32 of 128), k = 128,
/// local = 32, and the mean value for every G.
inline sparq::sparq_params usual_params(std::size_t head_dim) {
    return {.r = head_dim / 4, .k = 128, .local = 32, .tail = sparq::tail_estimate::mean_value};
}

template <class T>
class decode_case {
   public:
    /// @param cache  outlives this and stays as it is
    decode_case(const sparq::kv_cache<T>& cache, std::size_t group,
                const sparq::sparq_params& params);

    // The whole step. A pool shares it among threads.
    void dense(thread_pool* pool = nullptr);
    void sparq(thread_pool* pool = nullptr);
    /// The streaming read of K and V: what dense could take at best.
    void roof(thread_pool* pool = nullptr) const { streaming_read(spans_, pool); }

    // SparQ's public steps for one KV head, in this order. approximate_scores leaves the
    // logits of the last head it was called for; the others keep theirs for every head.
    void choose_components(std::size_t g);
    void approximate_scores(std::size_t g);
    void select_tokens(std::size_t g);
    void attend_selected(std::size_t g);
    void estimate_tail(std::size_t g);

    [[nodiscard]] std::size_t heads_kv() const noexcept { return cache_.heads_kv(); }
    [[nodiscard]] std::size_t group() const noexcept { return group_; }
    [[nodiscard]] const sparq::sparq_params& params() const noexcept { return params_; }
    [[nodiscard]] std::size_t seq_len() const noexcept { return cache_.seq_len(); }
    /// Bytes of K and V.
    [[nodiscard]] std::size_t roof_bytes() const noexcept;
    [[nodiscard]] const sparq::attention_report& dense_report() const noexcept {
        return dense_report_;
    }
    [[nodiscard]] const sparq::attention_report& sparq_report() const noexcept {
        return sparq_report_;
    }
    // Of the latest call, [heads_q, d_h].
    [[nodiscard]] std::span<const float> dense_output() const noexcept { return dense_out_; }
    [[nodiscard]] std::span<const float> sparq_output() const noexcept { return sparq_out_; }
    /// As "half S=16384 H_kv=42 G=1 d_h=128 r=32 k=128".
    [[nodiscard]] std::string shape() const;

    /// Compares the outputs of the latest dense() and sparq() in the last KV head with
    /// double precision, and all heads with the public steps. Empty, or what is wrong.
    [[nodiscard]] std::string complaint();

   private:
    [[nodiscard]] std::span<const float> queries(std::size_t g) const;
    [[nodiscard]] std::span<float> step_outputs(std::size_t g);
    [[nodiscard]] std::string complaint_about_dense() const;
    [[nodiscard]] std::string complaint_about_sparq() const;
    [[nodiscard]] std::string complaint_about_steps();

    const sparq::kv_cache<T>& cache_;
    std::size_t group_;
    sparq::sparq_params params_;
    std::vector<byte_span> spans_;
    std::vector<float> q_, dense_out_, sparq_out_;  ///< [heads_q, d_h]
    sparq::workspace work_;
    sparq::attention_report dense_report_, sparq_report_;

    // Of the steps.
    std::vector<std::uint32_t> components_, tokens_;            ///< [heads_kv, r], [heads_kv, k]
    std::vector<float> inverse_tau_, covered_, step_out_;       ///< [heads_q], .., [heads_q, d_h]
    std::vector<float> logits_, log_sum_exp_, ranking_, mean_;  ///< [G, S], [G], [S], [d_h]
};

extern template class decode_case<float>;
extern template class decode_case<sparq::half>;
extern template class decode_case<sparq::bfloat16>;

}  // namespace bench
