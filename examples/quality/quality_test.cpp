// SPDX-License-Identifier: MIT
// The parts that need no model: cutting text, building tasks, statistics, results, methods
// with their bytes, and the replay of recorded layers. Prints what is wrong.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>

#include "fidelity.hpp"
#include "results.hpp"
#include "run_plan.hpp"
#include "statistics.hpp"
#include "tasks.hpp"

namespace {

using namespace quality;
using std::size_t;

int failures = 0;

void check(bool right, const std::string& what) {
    if (right) return;
    ++failures;
    std::printf("wrong: %s\n", what.c_str());
}

void check_near(double got, double wanted, double tolerance, const std::string& what) {
    check(std::abs(got - wanted) <= tolerance,
          what + ": " + std::to_string(got) + ", expected " + std::to_string(wanted));
}

template <class Call>
void check_refused(const Call& call, const std::string& part) {
    try {
        call();
        check(false, "accepted, should be refused with: " + part);
    } catch (const std::invalid_argument& refusal) {
        check(std::string(refusal.what()).find(part) != std::string::npos,
              std::string("refused with '") + refusal.what() + "', which lacks: " + part);
    }
}

/// Words of 1 to 9 letters, now and then on a new line.
std::string made_up_text(size_t words) {
    std::mt19937_64 random(7);
    std::string text = "Start";
    for (size_t i = 0; i < words; ++i) {
        text += random() % 30 == 0 ? '\n' : ' ';
        for (size_t letter = random() % 9 + 1; letter-- != 0;)
            text += static_cast<char>('a' + random() % 26);
    }
    return text;
}

/// A tokenizer whose tokens have four characters.
size_t four(std::string_view text, size_t tokens) { return std::min(text.size(), 4 * tokens); }

bool is_space(char c) { return c == ' ' || c == '\n'; }

void test_text() {
    check(next_space("ab cd", 0) == 2 && next_space("ab cd", 2) == 2, "next_space");
    check(next_space("ab cd", 3) == 5, "next_space where none follows");
    check(previous_space("ab cd", 4) == 2 && previous_space("ab cd", 1) == 0, "previous_space");
    check(without_leading_space(" \n a b ") == "a b ", "without_leading_space");
    check(without_leading_space("  ").empty(), "without_leading_space of white space alone");
    check(common_prefix("abcd", "abxd") == 2 && common_prefix("ab", "abc") == 2, "common_prefix");

    const std::string text = made_up_text(4000);
    std::string joined;
    for (size_t e = 0; e < 10; ++e) {
        const std::string_view part = chunk(text, e, 100, four);
        check(part.size() <= 400 && part.size() > 380, "a chunk's length");
        check(is_space(text[joined.size() + part.size()]), "a chunk ends before white space");
        joined += part;
    }
    check(text.starts_with(joined), "chunks are consecutive");
    check_refused([&] { (void)chunk(text, 1000, 100, four); }, "wanted is chunk 1000");
}

void test_bits() {
    const std::string text = made_up_text(8000);
    const task first = build_task({task_kind::bits, 500, 0, 0.0}, text, 1, four);
    const task second = build_task({task_kind::bits, 500, 1, 0.0}, text, 1, four);
    check(first.reference.size() >= 600 && first.reference.size() < 610, "reference of 600");
    check(is_space(first.reference.front()), "the reference begins with white space");
    check(text.starts_with(first.prompt + first.reference + second.prompt),
          "prompt, reference and the next example follow one another");
    check_refused([&] { build_task({task_kind::bits, 100, 0, 0.0}, text, 1, four); }, "context");
    check_refused([&] { build_task({task_kind::bits, 500, 99, 0.0}, text, 1, four); }, "chunk");
}

void test_copy() {
    const std::string text = made_up_text(8000);
    for (size_t e = 0; e < 8; ++e) {
        const task copy = build_task({task_kind::copy, 500, e, 0.0}, text, 1, four);
        const size_t line = copy.prompt.rfind('\n');
        const std::string before = copy.prompt.substr(0, line),
                          begun = copy.prompt.substr(line + 1);
        check(before.find(begun + copy.reference) != std::string::npos, "it is a copy");
        check(begun.size() >= 128 && begun.size() < 140, "128 characters are given");
        check(copy.reference.size() >= 256 && copy.reference.size() < 270, "256 are expected");
        check(!is_space(begun.front()) && is_space(copy.reference.front()), "cut at words");
        check((copy.prompt.size() + copy.reference.size()) / 4 <= 500, "within the context");
        const task other = build_task({task_kind::repetition, 500, e, 0.0}, text, 2, four);
        check(other.prompt != copy.prompt, "the seed chooses the passage");
    }
}

void test_needle() {
    const std::string text = made_up_text(8000);
    double last = -1.0;
    for (const double depth : {0.0, 0.5, 1.0}) {
        const task t = build_task({task_kind::needle, 500, 0, depth}, text, 1, four);
        const size_t at = t.prompt.find(" The secret number of ");
        check(at != std::string::npos, "the fact is in the haystack");
        const double found = static_cast<double>(at) / static_cast<double>(t.prompt.size());
        check(found > last && std::abs(found - depth) < 0.05, "at its depth");
        last = found;
        check(t.prompt.find(" is" + t.reference + ".") != std::string::npos, "the answer too");
        check(t.forced.find(t.reference) == std::string::npos, "the question does not tell it");
        check(t.reference.size() == 5, "four digits");
    }
    check_refused([&] { build_task({task_kind::needle, 500, 0, 2.0}, text, 1, four); }, "depth");
    check(task_of("needle") == task_kind::needle, "task_of");
    check_refused([] { (void)task_of("nothing"); }, "allowed: bits");
}

void test_statistics() {
    const estimate e = estimate_of(std::vector{1.0, 2.0, 4.0, 9.0});
    check(e.count == 4, "count");
    check_near(e.mean, 4.0, 1e-12, "mean");
    check_near(e.standard_error, std::sqrt(38.0 / 3.0 / 4.0), 1e-12, "standard error");
    check(std::isnan(estimate_of(std::vector{1.0}).standard_error), "one value has no error");
    check(std::isnan(estimate_of({}).mean), "no values have no mean");

    // softmax of ln(1), ln(3), ln(4): 1/8, 3/8, 4/8, whatever is added
    const std::vector<float> a = {100.0f, 100.0f + std::log(3.0f), 100.0f + std::log(4.0f)};
    const std::vector<float> b = {std::log(4.0f), std::log(3.0f), 0.0f};
    check_near(log_probability(a, 1), std::log(3.0 / 8.0), 1e-5, "log_probability");
    check_near(kl_divergence(a, b), (1.0 / 8.0) * std::log(1.0 / 4.0) + 0.5 * std::log(4.0), 1e-5,
               "kl_divergence");
    check(kl_divergence(a, a) == 0.0, "kl_divergence of equals");
    check(most_likely(a) == 2 && most_likely(b) == 0, "most_likely");
}

result_row made_row(size_t example, const std::string& method, double score) {
    return {"kjv",
            {task_kind::bits, 2048, example, 0.0},
            method,
            {score, 0.5, 0.25, 1900, 149, 600, 2.5}};
}

void test_results() {
    const std::string method = "sparq:r=16,k=128,tail=none";
    const result_row row = made_row(3, method, 0.625);
    const result_row back = from_csv(to_csv(row));
    check(back.text == "kjv" && back.key == row.key && back.method == method, "CSV, what");
    check(back.result.score == 0.625 && back.result.steps == 149, "CSV, figures");
    check_refused([] { (void)from_csv("a,b,c"); }, "a,b,c");

    const auto file = std::filesystem::temp_directory_path() /
                      ("sparq_quality_test_" + std::to_string(std::random_device()()) + ".csv");
    {
        results_file one(file.string()), other(file.string());
        for (const auto& [e, dense] : {std::pair{0u, 0.5}, {1u, 1.0}, {2u, 2.0}})
            one.append(made_row(e, "dense", dense));
        other.append(made_row(0, method, 0.75));
        other.append(made_row(1, method, 1.0));
        check(!one.contains("kjv", row.key, method), "example 3 is missing");
        one.refresh();
        check(one.contains("kjv", {task_kind::bits, 2048, 1, 0.0}, method), "example 1 is there");
        check(one.rows().size() == 5, "both files' rows");
        one.append(made_row(1, method, 99.0));
        one.refresh();
        check(one.rows().size() == 5, "of two equal rows the first counts");

        const nlohmann::json groups = summarise(one.rows());
        check(groups.size() == 2, "a group for each method");
        const nlohmann::json& sparse = groups[1];
        check(sparse["method"] == method && sparse["score"]["examples"] == 2, "its examples");
        check_near(sparse["score"]["mean"], 0.875, 1e-12, "its mean");
        check_near(sparse["difference"]["mean"], 0.125, 1e-12, "paired with dense of the same");
        check_near(sparse["difference"]["standard_error"], 0.125, 1e-12, "and the error of that");
    }
    std::filesystem::remove(file);
}

void test_plan() {
    run_options options;
    options.tasks = {"bits", "needle"};
    options.contexts = {500, 1000};
    options.depths = {0.0, 1.0};
    options.examples = 3;
    const auto all = examples_of(options);
    check(all.size() == 2 * 3 + 2 * 3 * 2, "examples of a run");
    options.parts = 2;
    auto halves = examples_of(options);
    options.part = 1;
    for (const task_key& key : examples_of(options)) halves.push_back(key);
    check(halves.size() == all.size(), "two processes do as many together");
    for (const task_key& key : all)
        check(std::find(halves.begin(), halves.end(), key) != halves.end(), "and the same");
}

void test_specs() {
    for (const std::string& text :
         expand_methods(std::vector<std::string>{"@main", "@small", "@tiers", "@long", "@whole"}))
        if (!engine_cache_of(text)) check(make_method(text) != nullptr, text);
    check(expand_methods(std::vector<std::string>{"@grid", "dense", "@grid"}).size() == 28,
          "each method once");  // dense, 20, and 8 of which one is in the 20
    check(make_method("sparq:dense_layers=2")->dense_layers == 2, "dense_layers");
    check(engine_cache_of("q4_0:rotation=off").value().bytes == 18.0 / 64.0, "q4_0");
    check(!engine_cache_of("q4_0:rotation=off").value().rotation, "rotation=off");
    check_refused([] { make_method("nothing"); }, "allowed: dense");
    check_refused([] { make_method("sparq:r=x"); }, "r = x; allowed: a whole number");
    check_refused([] { make_method("sparq:tail=half"); }, "allowed: auto, none, mean");
    check_refused([] { make_method("h2o:r=3"); }, "h2o has no option r");
    check_refused([] { make_method("sparq:r=1,r=2"); }, "each option once");
    check_refused([] { make_method("h2o:k=3,share=0.5"); }, "either k or share");
    check_refused([] { make_method("h2o:share=2"); }, "above 0, at most 1");
    check_refused([] { (void)expand_methods(std::vector<std::string>{"@all"}); }, "@grid");
}

/// A decoder of two layers whose prompt is random, and one more token in each.
struct small_decoder {
    static constexpr size_t prompt = 512, heads_q = 4, heads_kv = 2, d = 64;
    explicit small_decoder(const std::string& name)
        : chosen(make_method(name)), attention({2, heads_q, heads_kv, d}) {
        std::mt19937 random(11);
        std::normal_distribution<float> normal;
        const auto fill = [&](auto& all) {
            for (auto& x : all) x = std::decay_t<decltype(x)>(normal(random));
        };
        keys.resize((prompt + 1) * heads_kv * d), values.resize(keys.size());
        queries.resize((prompt + 1) * heads_q * d);
        fill(keys), fill(values), fill(queries);
        attention.clear(chosen->wants_prompt_weights());
        append(0, prompt);
        attention.use(*chosen);
    }
    void append(size_t begin, size_t n) {
        const size_t row = heads_kv * d, q_row = heads_q * d;
        for (size_t l = 0; l < 2; ++l)
            attention.append(l, std::span(keys).subspan(begin * row, n * row),
                             std::span(values).subspan(begin * row, n * row),
                             std::span(queries).subspan(begin * q_row, n * q_row));
    }
    /// The outputs of both layers.
    std::vector<float> step() {
        append(prompt, 1);
        std::vector<float> out(2 * heads_q * d);
        for (size_t l = 0; l < 2; ++l)
            attention.attend(l, std::span(queries).last(heads_q * d),
                             std::span(out).subspan(l * heads_q * d, heads_q * d));
        return out;
    }
    std::unique_ptr<method> chosen;
    decoder_attention attention;
    std::vector<sparq::half> keys, values;
    std::vector<float> queries;
};

/// Bytes of K and V by the formulas of the methods, of dense attention's.
void test_bytes() {
    const double tokens = small_decoder::prompt + 1, d = 64;
    const auto share_of = [](const std::string& name) {
        small_decoder decoder(name);
        decoder.step();
        return decoder.attention.bytes_share();
    };
    check(share_of("dense") == 1.0, "dense reads all");
    check(share_of("zeros") == 0.0, "zeros read nothing");
    // The newest tokens are not yet labelled: their whole rows are scanned, 48 at most.
    const double scan = share_of("sparq:r=16,k=64,tail=none") - 64.0 / tokens;
    check(scan >= 16.0 / (2 * d) - 1e-9 && scan <= 16.0 / (2 * d) + 48.0 / tokens / 2,
          "sparq reads S r + 2 k d_h");
    check_near(share_of("sparq:k=64,dense_layers=1,tail=none"), (1.0 + scan + 64.0 / tokens) / 2,
               1e-9, "one of two layers dense");
    check_near(share_of("lm_infinite:k=128"), 128.0 / tokens, 1e-9, "lm_infinite");
    check_near(share_of("flexgen:k=64"), 0.5 + 32.0 / tokens, 1e-9, "flexgen");
    check_near(share_of("quest:k=64"), 64.0 / tokens + 33.0 / tokens, 16.0 / tokens, "quest");
    check_near(share_of("h2o:k=64"), 65.0 / tokens, 12.0 / (4 * d) + 1e-9, "h2o, with scores");
    for (const char* name : {"sparq", "h2o", "lm_infinite", "quest"})
        for (const char* share : {"0.25", "0.5"})
            check_near(share_of(std::string(name) + ":share=" + share), std::stod(share),
                       name == std::string("h2o") ? 0.06 : 0.05, std::string("share of ") + name);
}

/// Every method gives the same again after a rollback to the prompt; the ones that attend
/// all tokens give dense attention's output.
void test_rollback() {
    const std::vector<float> dense = small_decoder("dense").step();
    for (const char* name : {"dense", "sparq", "sparq:tail=mean", "h2o", "lm_infinite", "flexgen",
                             "quest", "sparq:r=64,k=600", "h2o:k=600", "lm_infinite:k=600",
                             "flexgen:k=600", "quest:k=600", "zeros:dense_layers=2"}) {
        small_decoder decoder(name);
        const std::vector<float> first = decoder.step();
        decoder.attention.truncate(small_decoder::prompt);
        decoder.attention.use(*decoder.chosen);
        check(decoder.step() == first, std::string(name) + " after a rollback");
        double difference = 0.0;
        for (size_t i = 0; i < dense.size(); ++i)
            difference = std::max(difference, double(std::abs(first[i] - dense[i])));
        const bool whole = std::string(name).find("600") != std::string::npos ||
                           std::string(name).find("dense") != std::string::npos;
        // Sums of 513 weights that add up to 1, of values up to 5: some roundings of float.
        check((difference < 1e-4) == whole, std::string(name) + " beside dense");
    }
}

void test_fidelity() {
    const auto layers = read_layers(SPARQ_EXAMPLE_DATA);
    check(layers.size() == 3 && layers[1].layer == 13 && layers[1].shape.heads_q == 3, "layers");
    const std::vector<std::string> methods = {"dense", "flexgen:k=128,dropped=renormalise",
                                              "sparq:r=16,k=128,tail=none"};
    const auto rows = replay(layers[1], methods);
    check(rows.size() == 9, "a row for each method and head");
    for (size_t h = 0; h < 3; ++h) {
        check(rows[h].recall == 1.0 && rows[h].error < 1e-4, "dense finds all");
        check_near(rows[h].mass, 1.0, 1e-6, "dense has all the weight");
        check(rows[6 + h].mass < 1.0 && rows[6 + h].share <= 1.0 + 1e-9, "no more than the best");
        check(rows[6 + h].error > rows[h].error, "an approximation has an error");
    }
    // The README's row of this layer: mass 0.974, error 0.031.
    double mass = 0.0, error = 0.0;
    for (size_t h = 0; h < 3; ++h) mass += rows[6 + h].mass / 3, error += rows[6 + h].error / 3;
    check_near(mass, 0.974, 0.003, "mass of layer 13");
    check_near(error, 0.031, 0.003, "error of layer 13");
    check_refused([&] { (void)replay(layers[1], std::vector<std::string>{"h2o"}); }, "queries");

    const auto folder = std::filesystem::temp_directory_path() /
                        ("sparq_quality_test_" + std::to_string(std::random_device()()));
    write_layer(folder, layers[0]);
    const auto again = read_layers(folder);
    check(again.size() == 1 && again[0].seq_len == layers[0].seq_len, "written and read again");
    check(std::equal(again[0].q.begin(), again[0].q.end(), layers[0].q.begin(), layers[0].q.end(),
                     [](auto a, auto b) { return float(a) == float(b); }),
          "the same queries");
    std::filesystem::remove_all(folder);
}

}  // namespace

int main() {
    test_text();
    test_bits();
    test_copy();
    test_needle();
    test_statistics();
    test_results();
    test_plan();
    test_specs();
    test_bytes();
    test_rollback();
    test_fidelity();
    std::printf(failures == 0 ? "all right\n" : "%d wrong\n", failures);
    return failures == 0 ? 0 : 1;
}
