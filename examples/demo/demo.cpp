// SPDX-License-Identifier: MIT
// The demo. First real queries, keys and values: what SparQ reads, and how near it comes
// to dense attention. Then a long cache: what that is worth in time.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "accuracy.hpp"
#include "speed.hpp"
#include "tables.hpp"

namespace {

using nlohmann::json;

struct demo_options {
    std::filesystem::path data = SPARQ_EXAMPLE_DATA;
    std::filesystem::path out = "demo.json";
    speed_options speed;
    bool skip_speed = false;
};

/// Bytes halve, roughly, every two rows: r / (2 d_h) + k / S of dense attention's.
std::vector<sparq::sparq_params> choices() {
    std::vector<sparq::sparq_params> all;
    using enum sparq::tail_estimate;
    for (const auto& [r, k] :
         {std::pair{4u, 64u}, {8, 64}, {8, 128}, {16, 128}, {16, 256}, {32, 256}, {32, 512}})
        for (const auto tail : {none, mean_value})
            all.push_back({.r = r, .k = k, .local = k / 4, .tail = tail});
    return all;
}

const char* name_of(sparq::tail_estimate tail) {
    return tail == sparq::tail_estimate::none ? "none" : "mean_value";
}

json to_json(const recorded_layer& layer, const accuracy& result) {
    json heads = json::array();
    for (const head_accuracy& head : result.heads)
        heads.push_back({{"error", head.error}, {"mass", head.mass}, {"covered", head.covered}});
    return {{"layer", layer.name},
            {"seq_len", layer.seq_len()},
            {"r", result.params.r},
            {"k", result.params.k},
            {"local", result.params.local},
            {"tail", name_of(result.params.tail)},
            {"bytes_share", result.bytes_share},
            {"error", result.mean_error()},
            {"worst_head_error", result.worst_error()},
            {"mass", result.mean_mass()},
            {"heads", heads}};
}

json to_json(const speed_options& options, const speed_result& result) {
    const auto cost = [](const step_cost& step) {
        return json{{"milliseconds", step.milliseconds},
                    {"bytes", step.bytes},
                    {"gigabytes_per_second", step.gigabytes_per_second()}};
    };
    return {{"heads", options.heads},       {"head_dim", options.head_dim},
            {"seq_len", options.seq_len},   {"r", options.params.r},
            {"k", options.params.k},        {"roof", cost(result.roof)},
            {"dense", cost(result.dense)},  {"sparq", cost(result.sparq)},
            {"speedup", result.speedup},    {"efficiency", result.efficiency()},
            {"deviation", result.deviation}};
}

/// Compares with the figures of data/reference.py where the folder holds them.
bool agrees_with_reference(const std::filesystem::path& folder, const json& measured) {
    std::ifstream file(folder / "expected.json");
    if (!file) return true;
    double largest = 0;
    std::size_t compared = 0;
    for (const json& expected : json::parse(file))
        for (const json& row : measured) {
            const auto is_equal = [&](const char* key) { return row[key] == expected[key]; };
            if (!is_equal("layer") || !is_equal("r") || !is_equal("k") || !is_equal("tail"))
                continue;
            for (const char* key : {"error", "mass"})
                largest = std::max(largest,
                                   std::abs(row[key].get<double>() - expected[key].get<double>()));
            ++compared;
        }
    // Scores that differ by rounding only may swap a token; 2e-4 allows for that.
    const bool agrees = compared > 0 && largest < 2e-4;
    std::printf("%s the NumPy reference in double precision: %zu rows, largest difference %.1e\n",
                agrees ? "Agrees with" : "DIFFERS FROM", compared, largest);
    return agrees;
}

json run_accuracy(const demo_options& options) {
    const std::vector<recorded_layer> layers = read_layers(options.data);
    std::vector<std::vector<accuracy>> results;
    json rows = json::array();
    for (const recorded_layer& layer : layers) {
        results.push_back(measure_accuracy(layer, choices()));
        for (const accuracy& result : results.back()) rows.push_back(to_json(layer, result));
    }
    print_accuracy(layers, results);
    print_heads(layers, results, 16, 128);
    return rows;
}

demo_options parse(int argc, char** argv) {
    demo_options options;
    CLI::App app("SparQ attention on real data, and its speed on a long cache");
    app.add_option("--data", options.data, "folder with *_q.npy, *_k.npy and *_v.npy");
    app.add_option("--out", options.out, "where to write the figures (JSON)");
    app.add_option("--heads", options.speed.heads, "heads of the long cache");
    app.add_option("--seq-len", options.speed.seq_len, "tokens of the long cache");
    app.add_option("--rounds", options.speed.rounds, "timed rounds")->check(CLI::PositiveNumber);
    app.add_flag("--skip-speed", options.skip_speed, "leave the long cache out");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        std::exit(app.exit(error));
    }
    return options;
}

int run(const demo_options& options) {
    json figures{{"cpu", cpu_name()}, {"instruction_set", instruction_set()}};
    figures["accuracy"] = run_accuracy(options);
    const bool agrees = agrees_with_reference(options.data, figures["accuracy"]);
    if (!options.skip_speed) {
        const speed_result speed = measure_speed(options.speed);
        print_speed(options.speed, speed);
        figures["speed"] = to_json(options.speed, speed);
    }
    std::ofstream file(options.out);
    file << figures.dump(1) << '\n';
    if (!file) throw std::runtime_error("cannot write " + options.out.string());
    return agrees ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(parse(argc, argv));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "demo: %s\n", error.what());
        return 2;
    }
}
