// SPDX-License-Identifier: MIT
// The members of decode_case, for the translation units that instantiate it.
#pragma once

#include <algorithm>
#include <sparq/sparq.hpp>
#include <string>

#include "checks.hpp"
#include "decode_case.hpp"
#include "synthetic.hpp"

namespace bench {

template <class T>
decode_case<T>::decode_case(const sparq::kv_cache<T>& cache, std::size_t group,
                            const sparq::sparq_params& params)
    : cache_(cache),
      group_(group),
      params_(params),
      spans_(key_and_value_spans(cache.view())),
      q_(make_queries(cache.heads_kv() * group, cache.head_dim())),
      dense_out_(q_.size()),
      sparq_out_(q_.size()),
      components_(cache.heads_kv() * params.r),
      tokens_(cache.heads_kv() * std::min(params.k, cache.seq_len())),
      inverse_tau_(cache.heads_kv() * group),
      covered_(cache.heads_kv() * group),
      step_out_(q_.size()),
      logits_(group * cache.seq_len()),
      log_sum_exp_(group),
      ranking_(cache.seq_len()),
      mean_(cache.value_dim()) {}

template <class T>
void decode_case<T>::dense(thread_pool* pool) {
    const sparq::call_options options{.work = &work_, .report = &dense_report_};
    if (pool != nullptr)
        sparq::dense_attention(q_, cache_, dense_out_, options, *pool);
    else
        sparq::dense_attention(q_, cache_, dense_out_, options);
}

template <class T>
void decode_case<T>::sparq(thread_pool* pool) {
    const sparq::call_options options{.work = &work_, .report = &sparq_report_};
    if (pool != nullptr)
        sparq::sparq_attention(q_, cache_, params_, sparq_out_, options, *pool);
    else
        sparq::sparq_attention(q_, cache_, params_, sparq_out_, options);
}

template <class T>
void decode_case<T>::choose_components(std::size_t g) {
    const auto components = std::span(components_).subspan(g * params_.r, params_.r);
    const std::span<const float> q = queries(g);
    sparq::choose_components(q, group_, components);
    for (std::size_t h = 0; h < group_; ++h)
        inverse_tau_[g * group_ + h] = sparq::inverse_temperature(
            q.subspan(h * cache_.head_dim(), cache_.head_dim()), components);
}

template <class T>
void decode_case<T>::approximate_scores(std::size_t g) {
    sparq::approximate_scores(
        cache_.view(), g, queries(g),
        std::span<const std::uint32_t>(components_).subspan(g * params_.r, params_.r),
        std::span<const float>(inverse_tau_).subspan(g * group_, group_), std::span(logits_),
        std::span(log_sum_exp_));
}

template <class T>
void decode_case<T>::select_tokens(std::size_t g) {
    const std::size_t k = tokens_.size() / heads_kv();
    const auto tokens = std::span(tokens_).subspan(g * k, k);
    const std::span<const float> logits(logits_), log_sum_exp(log_sum_exp_);
    if (group_ == 1) {  // the order of the weights is that of the logits
        sparq::select_tokens(logits, params_.local, tokens);
    } else {
        sparq::rank_tokens(logits, log_sum_exp, params_.ranking, std::span(ranking_));
        sparq::select_tokens(std::span<const float>(ranking_), params_.local, tokens);
    }
    sparq::covered_mass(logits, log_sum_exp, tokens,
                        std::span(covered_).subspan(g * group_, group_));
}

template <class T>
void decode_case<T>::attend_selected(std::size_t g) {
    const std::size_t k = tokens_.size() / heads_kv();
    sparq::attend_selected(cache_.view(), g, queries(g),
                           std::span<const std::uint32_t>(tokens_).subspan(g * k, k), params_.scale,
                           step_outputs(g), std::span(log_sum_exp_));
}

template <class T>
void decode_case<T>::estimate_tail(std::size_t g) {
    sparq::mean_value(cache_.view(), g, std::span(mean_));
    sparq::add_tail(std::span<const float>(mean_),
                    std::span<const float>(covered_).subspan(g * group_, group_), step_outputs(g));
}

template <class T>
std::size_t decode_case<T>::roof_bytes() const noexcept {
    std::size_t bytes = 0;
    for (const byte_span span : spans_) bytes += span.size();
    return bytes;
}

template <class T>
std::string decode_case<T>::shape() const {
    const auto part = [](const char* name, std::size_t value) {
        return std::string(" ") + name + "=" + std::to_string(value);
    };
    return type_name<T>() + part("S", seq_len()) + part("H_kv", heads_kv()) + part("G", group_) +
           part("d_h", cache_.head_dim()) + part("r", params_.r) + part("k", params_.k);
}

template <class T>
std::span<const float> decode_case<T>::queries(std::size_t g) const {
    const std::size_t width = group_ * cache_.head_dim();
    return std::span<const float>(q_).subspan(g * width, width);
}

template <class T>
std::span<float> decode_case<T>::step_outputs(std::size_t g) {
    const std::size_t width = group_ * cache_.value_dim();
    return std::span(step_out_).subspan(g * width, width);
}

template <class T>
std::string decode_case<T>::complaint() {
    dense();
    sparq_report_.keep_tokens = true;
    const std::vector<float> timed = sparq_out_;
    sparq();
    sparq_report_.keep_tokens = false;
    if (!std::equal(timed.begin(), timed.end(), sparq_out_.begin()))
        return "two calls of SparQ differ";
    std::string complaint = complaint_about_dense();
    // A call that fell back to dense has nothing else to show.
    if (complaint.empty() && sparq_report_.dense)
        return dense_out_ == sparq_out_ ? "" : "SparQ's dense result is not dense attention's";
    if (complaint.empty()) complaint = complaint_about_sparq();
    if (complaint.empty()) complaint = complaint_about_steps();
    return complaint;
}

template <class T>
std::string decode_case<T>::complaint_about_dense() const {
    const std::size_t g = heads_kv() - 1, d_h = cache_.head_dim();
    const std::span<const float> out = std::span(dense_out_).last(d_h);
    const auto expected =
        exact::attention(cache_.view(), g, queries(g).last(d_h), [](std::size_t) { return true; });
    const bool right = exact::deviation(out, expected) < exact::tolerance;
    return right ? "" : "dense differs from double precision";
}

template <class T>
std::string decode_case<T>::complaint_about_sparq() const {
    const auto view = cache_.view();
    const std::size_t g = heads_kv() - 1, d_h = cache_.head_dim();
    const auto tokens = std::span(sparq_report_.tokens).last(sparq_report_.tokens_per_head);
    const auto components = exact::components(queries(g), d_h, params_.r);

    exact::numbers ranking(seq_len()), weights;
    for (std::size_t h = 0; h < group_; ++h) {
        weights = exact::approximate_weights(view, g, queries(g).subspan(h * d_h, d_h), components);
        for (std::size_t t = 0; t < ranking.size(); ++t) ranking[t] += weights[t];
    }
    const std::string complaint = exact::complaint_about_tokens(ranking, params_.local, tokens);
    if (!complaint.empty()) return complaint;

    double covered = 0;  // of the last head, whose weights are still there
    for (const std::uint32_t token : tokens) covered += weights[token];
    if (!(std::fabs(covered - double(sparq_report_.heads.back().covered)) < exact::tolerance))
        return "alpha differs from double precision";

    auto expected = exact::attention(view, g, queries(g).last(d_h), [&](std::size_t token) {
        return std::binary_search(tokens.begin(), tokens.end(), std::uint32_t(token));
    });
    const auto mean = exact::mean_value(view, g);
    for (std::size_t c = 0; c < expected.size(); ++c)
        expected[c] = covered * expected[c] + (1 - covered) * mean[c];
    const bool right =
        exact::deviation(std::span(sparq_out_).last(d_h), expected) < exact::tolerance;
    return right ? "" : "SparQ differs from double precision";
}

template <class T>
std::string decode_case<T>::complaint_about_steps() {
    for (std::size_t g = 0; g < heads_kv(); ++g) {
        choose_components(g);
        approximate_scores(g);
        select_tokens(g);
        attend_selected(g);
        estimate_tail(g);
    }
    const exact::numbers whole(sparq_out_.begin(), sparq_out_.end());
    const bool same = exact::deviation(step_out_, whole) < exact::tolerance;
    return same ? "" : "the steps one by one differ from sparq_attention";
}

}  // namespace bench
