// SPDX-License-Identifier: MIT
#include "fidelity.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <numeric>
#include <stdexcept>

#include "../demo/npy.hpp"

namespace quality {
namespace {

using std::size_t;
namespace fs = std::filesystem;

/// Exact attention of one query head in double precision.
struct exact_attention {
    std::vector<double> weights, output;
    std::vector<std::uint32_t> order;  ///< tokens by falling weight
};

void rank(exact_attention& exact) {
    exact.order.resize(exact.weights.size());
    std::iota(exact.order.begin(), exact.order.end(), std::uint32_t{0});
    std::sort(exact.order.begin(), exact.order.end(), [&](std::uint32_t a, std::uint32_t b) {
        const double of_a = exact.weights[a], of_b = exact.weights[b];
        return of_a != of_b ? of_a > of_b : a < b;
    });
}

exact_attention attend_exactly(const recorded_layer& layer, size_t step, size_t head) {
    const size_t d = layer.shape.head_dim, heads_kv = layer.shape.heads_kv;
    const size_t g = head / (layer.shape.heads_q / heads_kv);
    const size_t tokens = layer.seq_len - layer.queries + step + 1;
    const auto row = [&](const std::vector<sparq::half>& from, size_t t) {
        return from.data() + (t * heads_kv + g) * d;
    };
    const sparq::half* q = layer.q.data() + (step * layer.shape.heads_q + head) * d;
    exact_attention exact{std::vector<double>(tokens), std::vector<double>(d), {}};
    for (size_t t = 0; t < tokens; ++t)
        for (size_t c = 0; c < d; ++c)
            exact.weights[t] += static_cast<double>(static_cast<float>(q[c])) *
                                static_cast<double>(static_cast<float>(row(layer.keys, t)[c]));
    const double scale = 1.0 / std::sqrt(static_cast<double>(d));
    const double most = *std::max_element(exact.weights.begin(), exact.weights.end());
    double sum = 0.0;
    for (double& w : exact.weights) sum += w = std::exp((w - most) * scale);
    for (size_t t = 0; t < tokens; ++t) {
        exact.weights[t] /= sum;
        for (size_t c = 0; c < d; ++c)
            exact.output[c] +=
                exact.weights[t] * static_cast<double>(static_cast<float>(row(layer.values, t)[c]));
    }
    rank(exact);
    return exact;
}

void add_choice(const exact_attention& exact, std::span<const std::uint32_t> attended,
                fidelity_row& row) {
    double mass = 0.0;
    std::vector<bool> chosen(exact.weights.size());
    size_t n = 0;
    for (const std::uint32_t t : attended) {
        if (t >= exact.weights.size()) continue;  // a list shorter than the others is filled up
        chosen[t] = true;
        mass += exact.weights[t];
        ++n;
    }
    double best = 0.0;
    size_t found = 0;
    for (size_t i = 0; i < n; ++i) {
        best += exact.weights[exact.order[i]];
        if (chosen[exact.order[i]]) ++found;
    }
    if (n == 0) return;
    row.recall += static_cast<double>(found) / static_cast<double>(n);
    row.mass += mass;
    row.share += mass / best;
}

void add_error(const exact_attention& exact, std::span<const float> out, fidelity_row& row) {
    double error = 0.0, norm = 0.0;
    for (size_t c = 0; c < out.size(); ++c) {
        error += std::pow(static_cast<double>(out[c]) - exact.output[c], 2);
        norm += std::pow(exact.output[c], 2);
    }
    error = std::sqrt(error / norm);
    row.error += error;
    row.worst_error = std::max(row.worst_error, error);
}

std::vector<sparq::half> read_part(const fs::path& folder, const std::string& stem,
                                   const char* part, std::vector<size_t>& extents) {
    const fs::path file = folder / (stem + "_" + part + ".npy");
    npy_array array = read_npy(file);
    if (array.shape.size() != 3) throw std::runtime_error(file.string() + " has not three axes");
    extents = array.shape;
    return std::move(array.values);
}

recorded_layer read_layer(const fs::path& folder, const std::string& stem) {
    recorded_layer layer;
    std::vector<size_t> q, k, v;
    layer.q = read_part(folder, stem, "q", q);
    layer.keys = read_part(folder, stem, "k", k);
    layer.values = read_part(folder, stem, "v", v);
    if (k != v || q[2] != k[2] || q[0] > k[0] || q[0] == 0 || k[1] == 0 || q[1] % k[1] != 0)
        throw std::runtime_error((folder / stem).string() + ": shapes that do not fit together");
    layer.layer = std::stoul(stem.substr(5));
    layer.shape = {1, q[1], k[1], k[2]};
    layer.seq_len = k[0];
    layer.queries = q[0];
    return layer;
}

void write_npy(const fs::path& file, std::vector<size_t> extents,
               const std::vector<sparq::half>& values) {
    std::string header = "{'descr': '<f2', 'fortran_order': False, 'shape': (";
    for (const size_t extent : extents) header += std::to_string(extent) + ", ";
    header += "), }";
    header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 10 - 1, ' ');
    header += '\n';
    std::ofstream out(file, std::ios::binary);
    out.write("\x93NUMPY\x01\x00", 8);
    out.put(static_cast<char>(header.size() % 256)).put(static_cast<char>(header.size() / 256));
    out << header;
    out.write(reinterpret_cast<const char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(sparq::half)));
    if (!out) throw std::runtime_error("cannot write " + file.string());
}

/// The layer in a decoder of one layer, all but the tokens of the recorded queries appended.
class replayed_layer {
   public:
    replayed_layer(const recorded_layer& layer, method& chosen)
        : layer_(layer), attention_(layer.shape) {
        attention_.clear(false);
        if (prompt() != 0) append(0, prompt());
        // Only this layer is here: it is dense or it is not.
        chosen.dense_layers = layer.layer < chosen.dense_layers ? 1 : 0;
        attention_.use(chosen);
    }
    std::span<const float> attend(size_t step) {
        const size_t row = layer_.shape.heads_q * layer_.shape.head_dim;
        append(prompt() + step, 1);
        q_.resize(row);
        for (size_t i = 0; i < row; ++i) q_[i] = static_cast<float>(layer_.q[step * row + i]);
        out_.resize(row);
        attention_.attend(0, q_, out_);
        return out_;
    }
    [[nodiscard]] std::span<const std::uint32_t> tokens_of(size_t head) const {
        const sparq::attention_report& report = attention_.report();
        const size_t g = head / (layer_.shape.heads_q / layer_.shape.heads_kv);
        return std::span(report.tokens).subspan(g * report.tokens_per_head, report.tokens_per_head);
    }
    [[nodiscard]] double bytes_share() const { return attention_.bytes_share(); }

   private:
    [[nodiscard]] size_t prompt() const { return layer_.seq_len - layer_.queries; }
    void append(size_t begin, size_t n) {
        const size_t row = layer_.shape.heads_kv * layer_.shape.head_dim;
        attention_.append(0, std::span(layer_.keys).subspan(begin * row, n * row),
                          std::span(layer_.values).subspan(begin * row, n * row), {});
    }
    const recorded_layer& layer_;
    decoder_attention attention_;
    std::vector<float> q_, out_;
};

std::vector<fidelity_row> replay_method(const recorded_layer& layer,
                                        std::span<const exact_attention> exact,
                                        const std::string& name) {
    const auto chosen = make_method(name);
    if (chosen->wants_prompt_weights())
        throw std::invalid_argument("method = " + name + ": needs the prompt's queries");
    replayed_layer replayed(layer, *chosen);
    const size_t heads = layer.shape.heads_q, d = layer.shape.head_dim;
    std::vector<fidelity_row> rows(heads);
    for (size_t step = 0; step < layer.queries; ++step) {
        const std::span<const float> out = replayed.attend(step);
        for (size_t h = 0; h < heads; ++h) {
            add_choice(exact[step * heads + h], replayed.tokens_of(h), rows[h]);
            add_error(exact[step * heads + h], out.subspan(h * d, d), rows[h]);
        }
    }
    const auto n = static_cast<double>(layer.queries);
    for (size_t h = 0; h < heads; ++h) {
        const fidelity_row& r = rows[h];
        rows[h] = {layer.layer, h,           name,          r.recall / n,          r.mass / n,
                   r.share / n, r.error / n, r.worst_error, replayed.bytes_share()};
    }
    return rows;
}

}  // namespace

std::vector<recorded_layer> read_layers(const fs::path& folder) {
    std::vector<std::string> stems;
    for (const auto& entry : fs::directory_iterator(folder)) {
        const std::string name = entry.path().filename().string();
        if (name.starts_with("layer") && name.ends_with("_q.npy"))
            stems.push_back(name.substr(0, name.size() - 6));
    }
    if (stems.empty()) throw std::runtime_error(folder.string() + ": no layerNN_q.npy");
    std::sort(stems.begin(), stems.end());
    std::vector<recorded_layer> layers;
    for (const std::string& stem : stems) layers.push_back(read_layer(folder, stem));
    return layers;
}

void write_layer(const fs::path& folder, const recorded_layer& layer) {
    fs::create_directories(folder);
    const std::string number = std::to_string(layer.layer);
    const std::string stem = "layer" + std::string(number.size() < 2 ? "0" : "") + number;
    const model_shape& s = layer.shape;
    write_npy(folder / (stem + "_q.npy"), {layer.queries, s.heads_q, s.head_dim}, layer.q);
    write_npy(folder / (stem + "_k.npy"), {layer.seq_len, s.heads_kv, s.head_dim}, layer.keys);
    write_npy(folder / (stem + "_v.npy"), {layer.seq_len, s.heads_kv, s.head_dim}, layer.values);
}

std::vector<fidelity_row> replay(const recorded_layer& layer,
                                 std::span<const std::string> methods) {
    std::vector<exact_attention> exact;  // [queries, heads_q]
    for (size_t step = 0; step < layer.queries; ++step)
        for (size_t h = 0; h < layer.shape.heads_q; ++h)
            exact.push_back(attend_exactly(layer, step, h));
    std::vector<fidelity_row> rows;
    for (const std::string& method : methods)
        for (const fidelity_row& row : replay_method(layer, exact, method)) rows.push_back(row);
    return rows;
}

}  // namespace quality
