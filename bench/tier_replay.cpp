// SPDX-License-Identifier: MIT
#include "tier_replay.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sparq/sparq.hpp>

#include "../examples/synthetic.hpp"

namespace bench {
namespace {

using sparq::call_options;
using sparq::half;

std::string text(double number) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%g", number);
    return digits;
}

/// SparQ over one of the caches; k may exceed the history.
template <class Cache>
replay_method sparq_method(std::string family, Cache replay_caches::* cache,
                           const sparq::sparq_params& params) {
    const bool has_mean = params.tail == sparq::tail_estimate::mean_value;
    return {std::move(family),
            "r " + std::to_string(params.r) + ", k " + std::to_string(params.k) +
                (has_mean ? ", mean tail" : ""),
            0,
            [cache, params](const replay_caches& all, std::span<const float> q,
                            std::span<float> out, const call_options& options) {
                sparq::sparq_attention(q, all.*cache, params, out, options);
            }};
}

/// Labels of few bits are scanned as their description advises, SparQ's own as in the paper.
template <class T, class Label>
void add_grid(std::vector<replay_method>& methods, const std::string& family,
              sparq::kv_cache<T, Label> replay_caches::* cache,
              const std::vector<std::size_t>& all_r) {
    using enum sparq::tail_estimate;
    for (const auto tail : {none, mean_value})
        for (const std::size_t r : all_r)
            for (const std::size_t k : {32u, 64u, 128u, 256u, 512u, 1024u}) {
                sparq::sparq_params params{.r = r, .k = k, .local = k / 4, .tail = tail};
                if constexpr (sparq::coded_label<Label>) {
                    params.components = sparq::component_ranking::magnitude_times_spread;
                    params.tau = sparq::temperature::none;
                }
                methods.push_back(sparq_method(family, cache, params));
            }
}

template <class T>
replay_method tiered_method(std::string family, std::string settings,
                            sparq::tiered_cache<T> replay_caches::* cache,
                            const sparq::tiered_params& params) {
    return {std::move(family), std::move(settings),
            params.has_fixed_tiers() ? 0.0 : double(params.tolerance),
            [cache, params](const replay_caches& all, std::span<const float> q,
                            std::span<float> out, const call_options& options) {
                sparq::sparq_attention(q, all.*cache, params, out, options);
            }};
}

/// Evenly spaced, the last among them.
std::vector<std::size_t> chosen_rows(std::size_t all, std::size_t wanted) {
    const std::size_t count = wanted == 0 ? all : std::min(wanted, all);
    std::vector<std::size_t> rows(count);
    for (std::size_t i = 0; i < count; ++i)
        rows[i] = count == 1 ? all - 1 : (all - 1) * i / (count - 1);
    return rows;
}

std::vector<float> query_row(const recorded_layer& layer, std::size_t row) {
    const std::size_t size = layer.heads_q() * layer.head_dim();
    const auto stored = std::span(layer.queries.values).subspan(row * size, size);
    std::vector<float> q(size);
    std::transform(stored.begin(), stored.end(), q.begin(), [](half x) { return float(x); });
    return q;
}

void add_row(replay_figures& figures, const sparq::attention_report& report,
             std::span<const float> y, std::span<const float> dense, std::size_t dense_bytes) {
    figures.bytes += double(report.bytes_read);
    figures.dense_bytes += double(dense_bytes);
    const std::size_t width = y.size() / report.heads.size();
    for (std::size_t h = 0; h < report.heads.size(); ++h) {
        const sparq::head_report& head = report.heads[h];
        figures.errors.push_back(
            relative_error(y.subspan(h * width, width), dense.subspan(h * width, width)));
        figures.expected.push_back(double(head.expected_error));
        figures.refined.push_back(double(head.refined));
        figures.exact.push_back(double(head.exact));
        figures.is_dense.push_back(head.dense || report.dense);
    }
}

template <class T>
void append_to(std::vector<T>& all, const std::vector<T>& more) {
    all.insert(all.end(), more.begin(), more.end());
}

}  // namespace

replay_caches::replay_caches(const recorded_layer& layer)
    : plain(layer.heads_kv(), layer.head_dim(), layer.value_dim()),
      int8(layer.heads_kv(), layer.head_dim(), layer.value_dim()),
      int4(layer.heads_kv(), layer.head_dim(), layer.value_dim()),
      int2(layer.heads_kv(), layer.head_dim(), layer.value_dim()),
      tiered(layer.heads_kv(), layer.head_dim(), layer.value_dim()),
      tiered8(layer.heads_kv(), layer.head_dim(), layer.value_dim()) {}

void replay_caches::append(const recorded_layer& layer, std::size_t tokens) {
    const std::size_t key_row = layer.heads_kv() * layer.head_dim();
    const std::size_t value_row = layer.heads_kv() * layer.value_dim();
    const std::size_t first = plain.seq_len();
    const std::span<const half> all_keys(layer.keys.values), all_values(layer.values.values);
    const auto keys = all_keys.subspan(first * key_row, tokens * key_row);
    const auto values = all_values.subspan(first * value_row, tokens * value_row);
    plain.append(keys, values);
    int8.append(keys, values);
    int4.append(keys, values);
    int2.append(keys, values);
    tiered.append(keys, values);
    tiered8.append(keys, values);
}

std::vector<replay_method> replay_methods(std::size_t head_dim) {
    std::vector<replay_method> methods{
        {"dense", "", 0,
         [](const replay_caches& all, std::span<const float> q, std::span<float> out,
            const call_options& options) { sparq::dense_attention(q, all.plain, out, options); }},
        tiered_method("dense, 8-bit rows", "", &replay_caches::tiered8, {.tolerance = 0.0f})};
    constexpr float tolerances[] = {.01f, .02f, .03f, .05f, .075f, .1f, .15f, .2f};
    for (const float tolerance : tolerances)
        methods.push_back(tiered_method("tolerance", text(double(tolerance)),
                                        &replay_caches::tiered, {.tolerance = tolerance}));
    for (const float tolerance : tolerances)
        methods.push_back(tiered_method("tolerance, 8-bit rows", text(double(tolerance)),
                                        &replay_caches::tiered8, {.tolerance = tolerance}));
    for (const auto& [refined, exact] : {std::pair{128u, 16u},
                                         {256u, 16u},
                                         {256u, 64u},
                                         {512u, 64u},
                                         {1024u, 64u},
                                         {1024u, 128u},
                                         {2048u, 128u}})
        methods.push_back(
            tiered_method("fixed tiers",
                          "refined " + std::to_string(refined) + ", exact " + std::to_string(exact),
                          &replay_caches::tiered, {.refined = refined, .exact = exact}));
    const std::size_t d = head_dim;
    add_grid(methods, "SparQ", &replay_caches::plain, {d / 16, d / 8, d / 4, d / 2});
    add_grid(methods, "int8 labels", &replay_caches::int8, {d / 8, d / 4, d / 2});
    add_grid(methods, "int4 labels", &replay_caches::int4, {d / 8, d / 4, d / 2});
    add_grid(methods, "int2 labels", &replay_caches::int2, {d / 4, d / 2, d});
    return methods;
}

void replay_figures::add(const replay_figures& other) {
    bytes += other.bytes;
    dense_bytes += other.dense_bytes;
    append_to(errors, other.errors);
    append_to(expected, other.expected);
    append_to(refined, other.refined);
    append_to(exact, other.exact);
    append_to(is_dense, other.is_dense);
}

double replay_figures::mean_error() const { return mean_of(errors); }

double mean_of(const std::vector<double>& numbers) {
    return std::accumulate(numbers.begin(), numbers.end(), 0.0) /
           double(std::max<std::size_t>(numbers.size(), 1));
}

double percentile(std::vector<double> numbers, double share) {
    if (numbers.empty()) return 0;
    const auto place =
        numbers.begin() + std::ptrdiff_t(std::lround(share * double(numbers.size() - 1)));
    std::nth_element(numbers.begin(), place, numbers.end());
    return *place;
}

std::vector<replay_figures> replay(const recorded_layer& layer,
                                   const std::vector<replay_method>& methods, std::size_t rows) {
    std::vector<replay_figures> figures(methods.size());
    replay_caches caches(layer);
    sparq::workspace work;
    sparq::attention_report report;
    std::vector<float> dense(layer.heads_q() * layer.value_dim()), y(dense.size());
    for (const std::size_t row : chosen_rows(layer.rows(), rows)) {
        const std::size_t seen = layer.seq_len() - layer.rows() + row + 1;
        caches.append(layer, seen - caches.plain.seq_len());
        const std::vector<float> q = query_row(layer, row);
        sparq::dense_attention(q, caches.plain, dense, {.work = &work, .report = &report});
        const std::size_t dense_bytes = report.bytes_read;
        for (std::size_t i = 0; i < methods.size(); ++i) {
            methods[i].call(caches, q, y, {.work = &work, .report = &report});
            add_row(figures[i], report, y, dense, dense_bytes);
        }
    }
    return figures;
}

}  // namespace bench
