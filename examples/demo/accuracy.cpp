// SPDX-License-Identifier: MIT
#include "accuracy.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <sparq/sparq.hpp>
#include <stdexcept>

#include "../synthetic.hpp"

namespace {

using cache_type = sparq::kv_cache<sparq::half>;

recorded_layer read_layer(const std::filesystem::path& folder, const std::string& name) {
    const auto read = [&](const char* ending) { return read_npy(folder / (name + ending)); };
    recorded_layer layer{name, read("_q.npy"), read("_k.npy"), read("_v.npy")};
    const auto& [q, k, v] = std::tie(layer.queries.shape, layer.keys.shape, layer.values.shape);
    if (q.size() != 3 || k.size() != 3 || v.size() != 3 || k[0] != v[0] || k[1] != v[1] ||
        q[2] != k[2] || q[1] % k[1] != 0 || q[0] > k[0])
        throw std::runtime_error(name + ": the shapes of q, k and v do not belong together");
    return layer;
}

void append_tokens(cache_type& cache, const recorded_layer& layer, std::size_t tokens) {
    const std::size_t key_row = layer.heads_kv() * layer.head_dim();
    const std::size_t value_row = layer.heads_kv() * layer.value_dim();
    const std::size_t first = cache.seq_len();
    cache.append(std::span(layer.keys.values).subspan(first * key_row, tokens * key_row),
                 std::span(layer.values.values).subspan(first * value_row, tokens * value_row));
}

std::vector<float> query_row(const recorded_layer& layer, std::size_t row) {
    const std::size_t size = layer.heads_q() * layer.head_dim();
    std::vector<float> q(size);
    const auto stored = std::span(layer.queries.values).subspan(row * size, size);
    std::transform(stored.begin(), stored.end(), q.begin(), [](sparq::half x) { return float(x); });
    return q;
}

/// The output of one step and what the library says about it.
struct step {
    std::vector<float> y;
    sparq::attention_report report;
};

/// Adds one row to the sums that become means at the end.
void accumulate(accuracy& sum, const step& sparq, const step& dense) {
    const std::size_t value_dim = sparq.y.size() / sum.heads.size();
    for (std::size_t h = 0; h < sum.heads.size(); ++h) {
        const auto y = std::span(sparq.y).subspan(h * value_dim, value_dim);
        const auto y_dense = std::span(dense.y).subspan(h * value_dim, value_dim);
        const auto& head = sparq.report.heads[h];
        sum.heads[h].error += relative_error(y, y_dense);
        sum.heads[h].mass += std::exp(double(head.log_sum_exp) - dense.report.heads[h].log_sum_exp);
        sum.heads[h].covered += double(head.covered);
    }
    sum.bytes_share += double(sparq.report.bytes_read) / double(dense.report.bytes_read);
}

void divide(accuracy& sum, double rows) {
    for (head_accuracy& head : sum.heads) {
        head.error /= rows;
        head.mass /= rows;
        head.covered /= rows;
    }
    sum.bytes_share /= rows;
}

template <class Member>
double mean_of(const std::vector<head_accuracy>& heads, Member member) {
    const auto add = [=](double sum, const head_accuracy& head) { return sum + head.*member; };
    return std::accumulate(heads.begin(), heads.end(), 0.0, add) / double(heads.size());
}

}  // namespace

double accuracy::mean_error() const { return mean_of(heads, &head_accuracy::error); }
double accuracy::mean_mass() const { return mean_of(heads, &head_accuracy::mass); }
double accuracy::worst_error() const {
    double worst = 0;
    for (const head_accuracy& head : heads) worst = std::max(worst, head.error);
    return worst;
}

std::vector<recorded_layer> read_layers(const std::filesystem::path& folder) {
    const std::string ending = "_q.npy";
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        const std::string file = entry.path().filename().string();
        if (file.ends_with(ending)) names.push_back(file.substr(0, file.size() - ending.size()));
    }
    std::sort(names.begin(), names.end());
    std::vector<recorded_layer> layers;
    layers.reserve(names.size());
    for (const std::string& name : names) layers.push_back(read_layer(folder, name));
    if (layers.empty()) throw std::runtime_error("no *_q.npy in " + folder.string());
    return layers;
}

std::vector<accuracy> measure_accuracy(const recorded_layer& layer,
                                       const std::vector<sparq::sparq_params>& choices) {
    std::vector<accuracy> results;
    results.reserve(choices.size());
    for (const auto& params : choices)
        results.push_back({params, std::vector<head_accuracy>(layer.heads_q())});

    cache_type cache(layer.heads_kv(), layer.head_dim(), layer.value_dim());
    if (layer.seq_len() > layer.rows()) append_tokens(cache, layer, layer.seq_len() - layer.rows());
    sparq::workspace work;
    step dense, sparq;
    dense.y.resize(layer.heads_q() * layer.value_dim());
    sparq.y.resize(dense.y.size());
    for (std::size_t row = 0; row < layer.rows(); ++row) {
        append_tokens(cache, layer, 1);
        const std::vector<float> q = query_row(layer, row);
        sparq::dense_attention(q, cache, dense.y, {.work = &work, .report = &dense.report});
        for (accuracy& result : results) {
            sparq::sparq_attention(q, cache, result.params, sparq.y,
                                   {.work = &work, .report = &sparq.report});
            accumulate(result, sparq, dense);
        }
    }
    for (accuracy& result : results) divide(result, double(layer.rows()));
    return results;
}
