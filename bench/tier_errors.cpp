// SPDX-License-Identifier: MIT
// Error against bytes on recorded queries, keys and values: attention in tiers to a tolerance,
// over rows as they are and over rows of 8 bits, beside fixed tiers, SparQ over its whole r, k
// grid, and labels of few bits.
// docs/tiers.md quotes what it prints.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "machine.hpp"
#include "tier_replay.hpp"

namespace {

using namespace bench;
using json = nlohmann::ordered_json;

struct options {
    std::string data = SPARQ_EXAMPLE_DATA, json_path;
    std::size_t rows = 0;
};

/// The figures of all methods, for a layer or for all of them.
struct layer_figures {
    std::string name;
    std::vector<replay_figures> methods;
};

/// True over claimed error, of heads that were not attended whole.
struct calibration {
    std::vector<double> of_tolerance, of_expected;
    double dense_share = 0;
};

calibration calibration_of(const replay_figures& figures, double tolerance) {
    calibration result;
    std::size_t whole = 0;
    for (std::size_t i = 0; i < figures.errors.size(); ++i) {
        if (figures.is_dense[i]) {
            ++whole;
            continue;
        }
        result.of_tolerance.push_back(figures.errors[i] / tolerance);
        if (figures.expected[i] > 0)
            result.of_expected.push_back(figures.errors[i] / figures.expected[i]);
    }
    result.dense_share = double(whole) / double(figures.errors.size());
    return result;
}

void print_methods(const std::vector<replay_method>& methods, const layer_figures& all) {
    std::printf("| method | settings | fewer bytes | mean error | 95th percentile |\n");
    std::printf("|---|---|---|---|---|\n");
    for (std::size_t i = 0; i < methods.size(); ++i) {
        const replay_figures& figures = all.methods[i];
        std::printf("| %s | %s | %.1fx | %.4f | %.3f |\n", methods[i].family.c_str(),
                    methods[i].settings.c_str(), figures.fewer_bytes(), figures.mean_error(),
                    percentile(figures.errors, 0.95));
    }
}

void print_calibration(const replay_method& method, const layer_figures& layer,
                       const replay_figures& figures) {
    const calibration c = calibration_of(figures, method.tolerance);
    std::printf(
        "| %s%s | %s | %.1fx | %.4f | %.3f | %.2f, %.2f | %.2f, %.2f | %.0f | %.0f | %.2f |\n",
        method.settings.c_str(), method.family == "tolerance" ? "" : ", 8-bit rows",
        layer.name.c_str(), figures.fewer_bytes(), figures.mean_error(),
        percentile(figures.errors, 0.95), percentile(c.of_tolerance, 0.5),
        percentile(c.of_tolerance, 0.95), percentile(c.of_expected, 0.5),
        percentile(c.of_expected, 0.95), mean_of(figures.refined), mean_of(figures.exact),
        c.dense_share);
}

void print_tolerances(const std::vector<replay_method>& methods,
                      const std::vector<layer_figures>& layers) {
    std::printf(
        "\nError over tolerance and over the expected error: median, 95th percentile, of heads "
        "not attended whole. Rows a head: mean.\n\n"
        "| tolerance | layer | fewer bytes | mean error | 95th percentile | error / tolerance "
        "| error / expected | 4-bit rows | exact rows | share dense |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n");
    for (std::size_t i = 0; i < methods.size(); ++i)
        if (methods[i].tolerance > 0)
            for (const layer_figures& layer : layers)
                print_calibration(methods[i], layer, layer.methods[i]);
}

/// How many points of the other methods lie on or below the curve of the tolerances: no more
/// error at no fewer bytes saved, interpolated in logarithms.
std::size_t points_below(const std::vector<replay_method>& methods, const layer_figures& all,
                         const std::string& family, std::size_t& points) {
    std::map<double, double> curve;  // log fewer bytes -> log error
    for (std::size_t i = 0; i < methods.size(); ++i)
        if (methods[i].family == "tolerance")
            curve[std::log(all.methods[i].fewer_bytes())] = std::log(all.methods[i].mean_error());
    std::size_t below = 0;
    points = 0;
    for (std::size_t i = 0; i < methods.size(); ++i) {
        if (methods[i].family != family) continue;
        const double x = std::log(all.methods[i].fewer_bytes());
        const auto right = curve.lower_bound(x);
        if (right == curve.begin() || right == curve.end()) continue;
        const auto left = std::prev(right);
        const double t = (x - left->first) / (right->first - left->first);
        ++points;
        below += std::log(all.methods[i].mean_error()) <=
                 left->second + t * (right->second - left->second);
    }
    return below;
}

void print_comparison(const std::vector<replay_method>& methods, const layer_figures& all) {
    std::printf("\n");
    for (const char* family :
         {"SparQ", "int8 labels", "int4 labels", "int2 labels", "fixed tiers"}) {
        std::size_t points = 0;
        const std::size_t below = points_below(methods, all, family, points);
        std::printf("%s: %zu of %zu points within the curve's range lie on or below it\n", family,
                    below, points);
    }
}

json to_json(const std::vector<replay_method>& methods, const std::vector<layer_figures>& layers) {
    json rows = json::array();
    for (const layer_figures& layer : layers)
        for (std::size_t i = 0; i < methods.size(); ++i) {
            const replay_figures& figures = layer.methods[i];
            json row = {{"layer", layer.name},
                        {"family", methods[i].family},
                        {"settings", methods[i].settings},
                        {"fewer_bytes", figures.fewer_bytes()},
                        {"error", figures.mean_error()},
                        {"error_p95", percentile(figures.errors, 0.95)}};
            if (methods[i].tolerance > 0) {
                const calibration c = calibration_of(figures, methods[i].tolerance);
                row["tolerance"] = methods[i].tolerance;
                row["of_tolerance"] = {percentile(c.of_tolerance, 0.5),
                                       percentile(c.of_tolerance, 0.95)};
                row["of_expected"] = {percentile(c.of_expected, 0.5),
                                      percentile(c.of_expected, 0.95)};
                row["dense_share"] = c.dense_share;
            }
            rows.push_back(row);
        }
    return rows;
}

void run(const options& chosen) {
    const std::vector<recorded_layer> recorded = read_layers(chosen.data);
    const auto methods = replay_methods(recorded[0].head_dim());
    std::vector<layer_figures> layers{{"all", std::vector<replay_figures>(methods.size())}};
    std::size_t longest = 0;
    for (const recorded_layer& layer : recorded) {
        std::fprintf(stderr, "replaying %s\n", layer.name.c_str());
        layers.push_back({layer.name, replay(layer, methods, chosen.rows)});
        for (std::size_t i = 0; i < methods.size(); ++i)
            layers[0].methods[i].add(layers.back().methods[i]);
        longest = std::max(longest, layer.seq_len());
    }
    std::printf("%zu layers, %zu tokens, %zu heads and rows in all; %s, %s, %s\n\n",
                recorded.size(), longest, layers[0].methods[0].errors.size(), cpu_name().c_str(),
                instruction_set().c_str(), compiler().c_str());
    print_methods(methods, layers[0]);
    print_tolerances(methods, layers);
    print_comparison(methods, layers[0]);
    if (chosen.json_path.empty()) return;
    std::ofstream file(chosen.json_path);
    file << json{{"tokens", longest},
                 {"layers", recorded.size()},
                 {"rows", to_json(methods, layers)}}
                .dump(1)
         << '\n';
    if (!file.flush()) throw std::runtime_error("cannot write " + chosen.json_path);
}

}  // namespace

int main(int argc, char** argv) {
    options chosen;
    CLI::App app("Error against bytes of attention in tiers, SparQ and labels of few bits");
    app.add_option("--data", chosen.data, "folder of NAME_q.npy, NAME_k.npy, NAME_v.npy")
        ->check(CLI::ExistingDirectory);
    app.add_option("--rows", chosen.rows, "queries of each layer, evenly spaced; 0: all");
    app.add_option("--json", chosen.json_path, "write the figures there as well");
    CLI11_PARSE(app, argc, argv);
    try {
        run(chosen);
    } catch (const std::exception& problem) {
        std::fprintf(stderr, "sparq_tier_errors: %s\n", problem.what());
        return 1;
    }
}
