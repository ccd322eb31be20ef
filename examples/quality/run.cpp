// SPDX-License-Identifier: MIT
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>

#include "engine.hpp"
#include "results.hpp"
#include "run_plan.hpp"
#include "scoring.hpp"

namespace quality {
namespace {

using std::size_t;

/// How long what is left will take, from what was done: in units of a prompt's token, of
/// which a step takes about three.
class progress {
   public:
    explicit progress(double units) : left_(units) {}
    void skip(double units) { left_ -= units; }
    void done(double units) { left_ -= units, done_ += units; }
    [[nodiscard]] std::string left() const {
        if (done_ <= 0.0) return "?";
        const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start_;
        const auto seconds = static_cast<long>(spent.count() / done_ * left_);
        char text[32];
        std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", seconds / 3600, seconds / 60 % 60,
                      seconds % 60);
        return text;
    }
    static double prompt(const task_key& key) { return static_cast<double>(key.context); }
    static double steps(const task_key& key) {
        return key.kind == task_kind::bits ? 450.0 : key.kind == task_kind::needle ? 90.0 : 180.0;
    }

   private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    double done_ = 0.0, left_;
};

class runner {
   public:
    explicit runner(const run_options& options)
        : options_(options),
          methods_(expand_methods(options.methods)),
          examples_(examples_of(options)),
          text_(read_text(options.text_file)),
          results_(options.results),
          model_(options.model),
          progress_(0.0) {
        for (const std::string& method : methods_)
            if (!engine_cache_of(method)) make_method(method);  // to refuse it now
        double units = 0.0;
        for (const task_key& key : examples_)
            for (const auto& group : missing(key))
                units += progress::prompt(key) +
                         progress::steps(key) * static_cast<double>(group.second.size());
        progress_ = progress(units);
    }
    void operator()() {
        for (const task_key& key : examples_) {
            results_.refresh();  // another process may have been here
            const auto left = missing(key);
            if (left.empty()) continue;
            const auto measure = [this](std::string_view text, size_t tokens) {
                return model_.measure(text, tokens);
            };
            const tokenised_task task =
                tokenise(build_task(key, text_, options_.seed, measure), key.kind, model_);
            for (const auto& [cache, methods] : left) run_group(key, task, methods);
        }
    }

   private:
    /// Methods that one prompt serves: those of sparq and llama.cpp's own f16 cache
    /// together, each quantised cache by itself. By name, only those not yet done.
    using groups = std::map<std::string, std::vector<std::string>>;
    [[nodiscard]] groups missing(const task_key& key) const {
        groups all;
        for (const std::string& method : methods_) {
            if (results_.contains(options_.text_name, key, method)) continue;
            const auto cache = engine_cache_of(method);
            all[!cache || cache->type == "f16" ? "" : method].push_back(method);
        }
        return all;
    }

    void run_group(const task_key& key, const tokenised_task& task,
                   const std::vector<std::string>& methods) {
        const engine_cache cache = engine_cache_of(methods.front()).value_or(engine_cache{});
        engine decoder(model_, cache, task.most_tokens() + 16, options_.threads);
        bool wants_weights = false;
        for (const std::string& method : methods)
            wants_weights |=
                !engine_cache_of(method) && make_method(method)->wants_prompt_weights();
        std::fprintf(stderr, "%s %zu, example %zu: prompt of %zu tokens; %s left\n",
                     name_of(key.kind), key.context, key.example, task.prompt.size(),
                     progress_.left().c_str());
        decoder.prefill(task.prompt, wants_weights);
        progress_.done(progress::prompt(key));
        for (const std::string& method : methods) run_method(key, task, method, decoder);
    }

    void run_method(const task_key& key, const tokenised_task& task, const std::string& method,
                    engine& decoder) {
        const auto own_cache = engine_cache_of(method);
        const auto chosen = own_cache ? nullptr : make_method(method);
        result_row row{options_.text_name, key, method, score(decoder, model_, task, chosen.get())};
        if (own_cache) row.result.bytes = own_cache->bytes;
        results_.append(row);
        progress_.done(progress::steps(key));
        std::printf("%s %5zu %2zu %4.2f  %-52s %9.4f %6.3f  1/%.2f bytes  %5.1f s; %s left\n",
                    name_of(key.kind), key.context, key.example, key.depth, method.c_str(),
                    row.result.score, row.result.accuracy, 1.0 / row.result.bytes,
                    row.result.seconds, progress_.left().c_str());
        std::fflush(stdout);
    }

    const run_options& options_;
    std::vector<std::string> methods_;
    std::vector<task_key> examples_;
    std::string text_;
    results_file results_;
    loaded_model model_;
    progress progress_;
};

}  // namespace

void run(const run_options& options) { runner{options}(); }

}  // namespace quality
