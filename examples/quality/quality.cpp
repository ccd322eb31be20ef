// SPDX-License-Identifier: MIT
// quality: what sparse attention costs a real model, task by task. See README.md.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine.hpp"
#include "fidelity.hpp"
#include "results.hpp"
#include "run_plan.hpp"
#include "scoring.hpp"
#include "statistics.hpp"

namespace {

using namespace quality;
using std::size_t;

struct model_options {
    std::string model, text_file, folder;
    size_t context = 2048, queries = 64;
    int threads = 1;
};

std::vector<llama_token> first_tokens(const loaded_model& model, const model_options& options) {
    const std::string text = read_text(options.text_file).substr(0, options.context * 16);
    auto tokens = model.tokens_of(text);
    if (tokens.size() < options.context) throw std::runtime_error("the text is too short");
    tokens.resize(options.context);
    return tokens;
}

double mean_divergence(const std::vector<std::vector<float>>& a,
                       const std::vector<std::vector<float>>& b) {
    double sum = 0.0;
    for (size_t i = 0; i < a.size(); ++i) sum += kl_divergence(a[i], b[i]);
    return sum / static_cast<double>(a.size());
}

/// Is it our attention that the model uses, and is it right? 48 forced tokens; mean KL
/// divergence from the model left alone.
int check(const model_options& options) {
    const loaded_model model(options.model);
    constexpr size_t steps = 48;
    const auto tokens = first_tokens(model, options);
    const std::span all(tokens);
    engine runner(model, {}, tokens.size() + 16, options.threads);
    runner.prefill(all.first(all.size() - steps));
    const auto divergence = [&, forced = all.last(steps)](const char* name) {
        static const auto untouched = forced_logits(runner, forced, nullptr);
        const auto chosen = make_method(name);
        return mean_divergence(untouched, forced_logits(runner, forced, chosen.get()));
    };
    const double dense = divergence("dense"), zeros = divergence("zeros"),
                 few = divergence("sparq:r=16,k=128,tail=none");
    runner.begin(nullptr);
    const double again = mean_divergence(forced_logits(runner, all.last(steps), nullptr),
                                         forced_logits(runner, all.last(steps), nullptr));
    const bool right = dense < 0.01 && zeros > 1.0 && again == 0.0;
    std::printf(
        "mean KL to the untouched model over %zu steps after %zu tokens:\n"
        "  untouched again %.5f (must be 0)\n  dense %.5f (must be below 0.01)\n"
        "  zeros %.3f (must be above 1)\n  SparQ r = 16, k = 128 %.4f\n%s\n",
        steps, all.size() - steps, again, dense, zeros, few, right ? "right" : "WRONG");
    return right ? 0 : 1;
}

void copy_rows(const token_cache& cache, recorded_layer& layer) {
    const size_t heads = cache.heads_kv(), d = cache.head_dim();
    layer.keys.resize(cache.seq_len() * heads * d);
    layer.values.resize(layer.keys.size());
    for (size_t g = 0; g < heads; ++g) {
        sparq::steps::token_cursor cursor(cache.view(), g);
        for (size_t t = 0; t < cache.seq_len(); ++t) {
            cursor.seek(t);
            const auto at = static_cast<std::ptrdiff_t>((t * heads + g) * d);
            std::copy_n(cursor.key_row(), d, layer.keys.begin() + at);
            std::copy_n(cursor.value_row(), d, layer.values.begin() + at);
        }
    }
}

/// Queries, keys and values of the text's first tokens, a dense prompt, for `fidelity`.
void dump(const model_options& options) {
    const loaded_model model(options.model);
    const auto tokens = first_tokens(model, options);
    engine runner(model, {}, tokens.size() + 16, options.threads);
    runner.prefill(tokens, false, options.queries);
    model_shape shape = model.shape();
    const size_t layers = std::exchange(shape.layers, 1);
    for (size_t l = 0; l < layers; ++l) {
        recorded_layer layer{l, shape, tokens.size(), options.queries, {}, {}, {}};
        for (const float x : runner.queries(l)) layer.q.emplace_back(x);
        copy_rows(runner.attention().layer(l).tokens, layer);
        write_layer(options.folder, layer);
    }
    std::printf("%zu layers, %zu tokens in %s\n", layers, tokens.size(), options.folder.c_str());
}

void fidelity(const std::string& folder, const std::vector<std::string>& methods,
              const std::string& file) {
    std::ofstream out(file);
    out.precision(5);
    out << "layer,head,method,recall,mass,share,error,worst_error,bytes\n";
    const auto layers = read_layers(folder);
    for (size_t i = 0; i < layers.size(); ++i) {
        std::fprintf(stderr, "layer %zu, %zu of %zu\n", layers[i].layer, i + 1, layers.size());
        for (const fidelity_row& r : replay(layers[i], methods))
            out << r.layer << ',' << r.head << ",\"" << r.method << "\"," << r.recall << ','
                << r.mass << ',' << r.share << ',' << r.error << ',' << r.worst_error << ','
                << r.bytes << '\n';
    }
    if (!out) throw std::runtime_error("cannot write " + file);
}

void summarise_file(const std::string& results, const std::string& file, const std::string& about) {
    if (!std::filesystem::exists(results)) throw std::runtime_error(results + ": no file");
    const nlohmann::json summary = {{"about", about},
                                    {"groups", summarise(results_file(results).rows())}};
    std::ofstream out(file);
    out << summary.dump(1) << '\n';
    if (!out) throw std::runtime_error("cannot write " + file);
}

void add_model(CLI::App* app, model_options& options) {
    app->add_option("--model", options.model, "a .gguf file")->required();
    app->add_option("--text", options.text_file, "a long text")->required();
    app->add_option("--context", options.context, "tokens")->capture_default_str();
    app->add_option("--threads", options.threads, "threads of llama.cpp")->capture_default_str();
}

void add_run(CLI::App* app, run_options& options) {
    app->add_option("--model", options.model, "a .gguf file")->required();
    app->add_option("--text", options.text_file, "a long text")->required();
    app->add_option("--text-name", options.text_name, "its name")->capture_default_str();
    app->add_option("--results", options.results, "CSV file to add to")->required();
    app->add_option("--tasks", options.tasks, "bits copy repetition needle")->capture_default_str();
    app->add_option("--contexts", options.contexts, "tokens")->capture_default_str();
    app->add_option("--depths", options.depths, "of needles")->capture_default_str();
    app->add_option("--methods", options.methods,
                    "methods, or @main @small @tiers @long @grid @whole")
        ->capture_default_str();
    app->add_option("--examples", options.examples, "of each task and context")
        ->capture_default_str();
    app->add_option("--first", options.first, "the first of them")->capture_default_str();
    app->add_option("--part", options.part, "for several processes: 0 .. parts - 1")
        ->capture_default_str();
    app->add_option("--parts", options.parts, "how many there are")->capture_default_str();
    app->add_option("--seed", options.seed, "of what is copied and hidden")->capture_default_str();
    app->add_option("--threads", options.threads, "threads of llama.cpp")->capture_default_str();
}

int command_line(int argc, char** argv) {
    CLI::App app("What sparse decode attention costs a language model");
    app.require_subcommand(1);
    model_options model;
    run_options runs;
    std::string folder, results, file, about;
    std::vector<std::string> methods = {"@main"};

    auto* checks = app.add_subcommand("check", "is the model's attention ours, and right?");
    add_model(checks, model);
    auto* running = app.add_subcommand("run", "run tasks, go on where it was left");
    add_run(running, runs);
    auto* dumping = app.add_subcommand("dump", "write q, K and V of all layers");
    add_model(dumping, model);
    dumping->add_option("--out", model.folder, "folder")->required();
    dumping->add_option("--queries", model.queries, "the last so many")->capture_default_str();
    auto* replaying = app.add_subcommand("fidelity", "replay q, K and V");
    replaying->add_option("--data", folder, "folder of layerNN_{q,k,v}.npy")->required();
    replaying->add_option("--methods", methods, "methods")->capture_default_str();
    replaying->add_option("--out", file, "CSV file")->required();
    auto* summing = app.add_subcommand("summary", "means and errors of a file of results");
    summing->add_option("--results", results, "CSV file")->required();
    summing->add_option("--out", file, "JSON file")->required();
    summing->add_option("--about", about, "machine, date, versions");
    CLI11_PARSE(app, argc, argv);

    if (*checks) return check(model);
    if (*running) run(runs);
    if (*dumping) dump(model);
    if (*replaying) fidelity(folder, replayable(expand_methods(methods)), file);
    if (*summing) summarise_file(results, file, about);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return command_line(argc, argv);
    } catch (const std::exception& problem) {
        std::fprintf(stderr, "quality: %s\n", problem.what());
        return 2;
    }
}
