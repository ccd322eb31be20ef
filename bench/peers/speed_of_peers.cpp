// SPDX-License-Identifier: MIT
// Times one decode step of attention in several libraries, interleaved, and writes the
// figures as JSON; report.py makes the table and the pictures. README.md says how and why.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "../checks.hpp"
#include "../machine.hpp"
#include "../statistics.hpp"
#include "../synthetic.hpp"
#include "background.hpp"
#include "peer.hpp"

namespace bench::peers {
namespace {

using json = nlohmann::ordered_json;
using half_cache = sparq::kv_cache<sparq::half>;
using named_times = std::map<std::string, seconds>;

struct run_settings {
    bool quick = false;
    std::size_t rounds = 0;
    double patience = 0;
    std::string models, json_path;
};

/// A shape, and whether it is in the table (one and two threads) or only in the pictures.
struct shape_to_run {
    attention_shape shape;
    bool in_table;
};

std::vector<shape_to_run> shapes_to_run(bool quick) {
    constexpr std::size_t k = 1024;
    std::vector<shape_to_run> shapes;
    if (quick)
        shapes = {
            {{4 * k, 32, 32, 128}, true}, {{4 * k, 32, 8, 128}, true}, {{4 * k, 9, 3, 64}, true}};
    else
        shapes = {{{4 * k, 32, 32, 128}, true},
                  {{16 * k, 32, 32, 128}, true},
                  {{16 * k, 32, 8, 128}, true},
                  {{64 * k, 32, 8, 128}, true},
                  {{16 * k, 9, 3, 64}, true}};
    for (const std::size_t heads_q : {8u, 32u})
        for (std::size_t seq_len = k; seq_len <= (quick ? 4 * k : 64 * k); seq_len *= 2) {
            const attention_shape shape{seq_len, heads_q, 8, 128};
            if (std::none_of(shapes.begin(), shapes.end(),
                             [&](const shape_to_run& other) { return other.shape == shape; }))
                shapes.push_back({shape, false});
        }
    return shapes;
}

float_rows to_float(const half_cache& cache) {
    const std::size_t d = cache.head_dim(), size = cache.heads_kv() * cache.seq_len() * d;
    float_rows rows{aligned_buffer<float>(size), aligned_buffer<float>(size)};
    for (std::size_t g = 0; g < cache.heads_kv(); ++g) {
        float* keys = rows.keys.data() + g * cache.seq_len() * d;
        float* values = rows.values.data() + g * cache.seq_len() * d;
        exact::for_each_token(
            cache.view(), g,
            [&](std::size_t token, const sparq::half* key, const sparq::half* value) {
                std::transform(key, key + d, keys + token * d,
                               [](sparq::half x) { return float(x); });
                std::transform(value, value + d, values + token * d,
                               [](sparq::half x) { return float(x); });
            });
    }
    return rows;
}

/// Dense attention of all query heads in double precision.
std::vector<exact::numbers> exact_outputs(const half_cache& cache, const attention_shape& shape,
                                          std::span<const float> q) {
    std::vector<exact::numbers> outputs(shape.heads_q);
    thread_pool pool(std::max(1u, std::thread::hardware_concurrency()));
    pool(shape.heads_q, [&](std::size_t h) noexcept {
        outputs[h] = exact::attention(cache.view(), h / shape.group(),
                                      q.subspan(h * shape.head_dim, shape.head_dim),
                                      [](std::size_t) { return true; });
    });
    return outputs;
}

/// The largest deviation of any head.
double worst_deviation(std::span<const float> output, const std::vector<exact::numbers>& expected) {
    double worst = 0;
    const std::size_t d = output.size() / expected.size();
    for (std::size_t h = 0; h < expected.size(); ++h)
        worst = std::max(worst, exact::deviation(output.subspan(h * d, d), expected[h]));
    return worst;
}

std::string roof_of(const peer& one) { return "roof of " + one.name(); }

named_times time_peers(const peer_list& peers, std::size_t threads, interleaving how) {
    const auto pool = threads == 1 ? nullptr : std::make_unique<thread_pool>(threads);
    std::vector<std::vector<byte_span>> spans;
    for (const auto& one : peers) spans.push_back(one->cache_spans());
    std::vector<candidate> candidates;
    for (std::size_t i = 0; i < peers.size(); ++i) {
        peers[i]->use_threads(threads);
        candidates.push_back(
            {roof_of(*peers[i]), [&, i] { streaming_read(spans[i], pool.get()); }});
        candidates.push_back({peers[i]->name(), [&, i] { peers[i]->run(); }});
    }
    how.clock = threads == 1 ? processor_seconds : wall_seconds;
    named_times times = time_interleaved(how, candidates);
    for (const auto& one : peers) one->use_threads(1);  // no thread stays for the next
    return times;
}

json json_of(const spread& value, double factor) {
    return {{"median", factor * value.median},
            {"low", factor * value.low},
            {"high", factor * value.high}};
}

json row_of(const peer& one, const attention_shape& shape, const named_times& times) {
    const seconds &own = times.at(one.name()), &roof = times.at(roof_of(one));
    double cache_bytes = 0;
    for (const byte_span span : one.cache_spans()) cache_bytes += double(span.size());
    const double share = double(one.bytes_read()) / cache_bytes;
    return {{"method", one.name()},
            {"us", json_of(spread_of(own), 1e6)},
            {"ns_per_token_and_kv_head",
             1e9 * spread_of(own).median / double(shape.seq_len * shape.heads_kv)},
            {"bytes", one.bytes_read()},
            {"roof_us", 1e6 * spread_of(roof).median},
            {"share_of_roof", json_of(spread_of(ratios(roof, own, share)), 1)},
            {"of_dense", json_of(spread_of(ratios(own, times.at("sparq dense, half"))), 1)},
            {"of_sparq", json_of(spread_of(ratios(own, times.at("SparQ, half"))), 1)}};
}

json json_of(const attention_shape& shape) {
    return {{"seq_len", shape.seq_len},
            {"heads_q", shape.heads_q},
            {"heads_kv", shape.heads_kv},
            {"head_dim", shape.head_dim}};
}

class measurement {
   public:
    explicit measurement(run_settings settings) : settings_(std::move(settings)) {
        root_["machine"] = {{"cpu", cpu_name()},
                            {"processors", std::thread::hardware_concurrency()},
                            {"l3_bytes", last_level_cache_bytes()},
                            {"instruction_set", instruction_set()},
                            {"compiler", compiler()},
                            {"date", date()},
                            {"load_before", load()}};
        root_["versions"] = {"sparq " + std::string(SPARQ_PEERS_OWN_VERSION), ggml_version_text(),
                             onnxruntime_version_text(), openblas_version_text()};
        root_["method"] = {{"quick", settings_.quick},
                           {"rounds", settings_.rounds},
                           {"flush_bytes", flush_.bytes()},
                           {"pages", huge_pages_requested() ? "huge" : "default"}};
        root_["rows"] = json::array();
        for (const json& version : root_["versions"])
            std::printf("%s\n", version.get<std::string>().c_str());
    }

    void run(const shape_to_run& what);
    /// @return  whether all results were right
    bool finish();

   private:
    /// Empties L3; where the clock is the wall's, in a quiet moment if there is one.
    [[nodiscard]] std::function<void()> before_each(std::size_t threads) {
        if (threads == 1) return [this] { flush_(); };
        return [this] {
            (*wait_for_quiet_)();
            flush_();
        };
    }
    void check(const peer& one, const attention_shape& shape, double deviation);

    run_settings settings_;
    cache_flusher flush_;
    std::optional<quiet_waiter> wait_for_quiet_;
    json root_, complaints_ = json::array();
};

void measurement::check(const peer& one, const attention_shape& shape, double deviation) {
    if (deviation <= one.tolerance()) return;
    complaints_.push_back(one.name() + " at " + json_of(shape).dump() + " deviates by " +
                          std::to_string(deviation));
}

void measurement::run(const shape_to_run& what) {
    const attention_shape& shape = what.shape;
    std::fprintf(stderr, "measuring: %s\n", json_of(shape).dump().c_str());
    const half_cache cache = make_cache<sparq::half>(shape.heads_kv, shape.head_dim, shape.seq_len);
    const auto step = std::make_shared<decode_case<sparq::half>>(cache, shape.group(),
                                                                 usual_params(shape.head_dim));
    const std::vector<float> q = make_queries(shape.heads_q, shape.head_dim);
    const auto expected = exact_outputs(cache, shape, q);
    float_rows rows = to_float(cache);
    peer_list peers;
    add_sparq(peers, cache, step);
    add_ggml(peers, shape, q, rows);
    add_onnxruntime(peers, shape, q, rows, settings_.models);
    add_openblas(peers, shape, q, rows);
    for (const std::size_t threads : {1u, 2u}) {
        if (threads > 1 && (!what.in_table || std::thread::hardware_concurrency() < threads)) break;
        wait_for_quiet_.emplace(settings_.patience);
        const background_clock background;
        const named_times times =
            time_peers(peers, threads, {settings_.rounds, before_each(threads), {}});
        const double others = background.busy();
        for (const auto& one : peers) {
            const double deviation = worst_deviation(one->output(), expected);
            check(*one, shape, deviation);
            json row = {
                {"shape", json_of(shape)}, {"threads", threads}, {"in_table", what.in_table}};
            row["processors_used_by_others"] = others;
            row.update(row_of(*one, shape, times));
            row["deviation"] = deviation;
            if (one->tolerance() < HUGE_VAL) row["tolerance"] = one->tolerance();
            root_["rows"].push_back(row);
        }
    }
    // SparQ's arithmetic and choice of tokens, in double precision.
    if (const std::string complaint = step->complaint(); !complaint.empty())
        complaints_.push_back(step->shape() + ": " + complaint);
}

bool measurement::finish() {
    root_["machine"]["load_after"] = load();
    root_["wrong_results"] = complaints_;
    std::ofstream file(settings_.json_path);
    file << root_.dump(2) << '\n';
    if (!file.flush()) throw std::runtime_error("cannot write " + settings_.json_path);
    for (const json& complaint : complaints_)
        std::fprintf(stderr, "WRONG RESULT: %s\n", complaint.get<std::string>().c_str());
    return complaints_.empty();
}

int run(int argc, char** argv) {
    run_settings settings;
    bool huge_pages = false;
    CLI::App app("Times a decode step of attention in several libraries");
    app.add_option("--models", settings.models, "folder that make_models.py filled")->required();
    app.add_option("--json", settings.json_path, "file for the figures")->required();
    app.add_option("--rounds", settings.rounds, "of each measurement; 15, or 3 with --quick")
        ->check(CLI::Range(1, 1000));
    app.add_option("--patience", settings.patience,
                   "seconds that the rounds on two threads may wait, for each shape, for moments "
                   "when no other process is busy; 0")
        ->check(CLI::NonNegativeNumber);
    app.add_flag("--quick", settings.quick, "short caches: that it works, not how fast it is");
    app.add_flag("--huge_pages", huge_pages, "ask the system for huge pages, for all caches");
    CLI11_PARSE(app, argc, argv);
    if (settings.rounds == 0) settings.rounds = settings.quick ? 3 : 15;
    if (huge_pages) request_huge_pages();
    measurement all(settings);
    for (const shape_to_run& shape : shapes_to_run(settings.quick)) all.run(shape);
    return all.finish() ? 0 : 1;
}

}  // namespace
}  // namespace bench::peers

int main(int argc, char** argv) {
    try {
        return bench::peers::run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sparq_speed_of_peers: %s\n", error.what());
        return 2;
    }
}
