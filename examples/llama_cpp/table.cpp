// SPDX-License-Identifier: MIT
// table PLUGIN MODEL TEXT: time of a token and closeness to ggml, at several depths of one
// text; and how each goes on with the text.
//
// The text is processed once; then each method decodes the same tokens of it from the same
// cache. Times are of the processor on one thread, of the clock on more. The methods take
// turns of a few steps; what is printed is the median over the turns of a turn's median, and
// of the ratios within a turn.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <thread>

#include "model_run.hpp"
#include "prefill.hpp"

namespace sparq_llama {
namespace {

constexpr std::size_t compared = 17, steps_of_turn = 5, turns = 10, continued = 24;

struct method_row {
    const char* name;
    bool flash_attention;
    std::string settings;
    std::vector<double> ms{};  ///< a token, of each turn
    std::vector<std::vector<float>> logits{};
    std::vector<llama_token> continuation{};
};

std::string sparq_settings(int r, int k, int label_bits) {
    return "SPARQ_METHOD=sparq SPARQ_R=" + std::to_string(r) + " SPARQ_K=" + std::to_string(k) +
           " SPARQ_LABEL_BITS=" + std::to_string(label_bits);
}
std::vector<method_row> methods() {
    return {{"ggml, flash attention", true, "SPARQ_METHOD=off"},
            {"ggml, without", false, "SPARQ_METHOD=off"},
            {"sparq dense", true, "SPARQ_METHOD=dense"},
            {"SparQ r 16, k 128", true, sparq_settings(16, 128, 16)},
            {"SparQ r 32, k 256", true, sparq_settings(32, 256, 16)},
            {"SparQ r 32, k 512", true, sparq_settings(32, 512, 16)},
            {"int4 labels, r 16, k 128", true, sparq_settings(16, 128, 4)},
            {"tiers, tolerance 0.05", true, "SPARQ_METHOD=tiers SPARQ_TOLERANCE=0.05"},
            {"tiers, tolerance 0.1", true, "SPARQ_METHOD=tiers SPARQ_TOLERANCE=0.1"},
            {"(no attention: zeros)", true, "SPARQ_METHOD=zeros"}};
}

/// Other work on the machine does not count where one thread can be told from it.
double now_ms(int threads) {
    timespec now;
    clock_gettime(threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}
double median(std::vector<double> x) {
    std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
    return x[x.size() / 2];
}

class bench {
   public:
    bench(const loaded_plugin& plugin, llama_model* model, std::span<const llama_token> text,
          int threads)
        : plugin_(plugin), text_(text), threads_(threads) {
        const int all = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
        for (const bool flash : {true, false}) {
            contexts_[flash] = make_context(model, {.tokens = 8192, .flash_attention = flash});
            llama_set_n_threads(contexts_[flash].get(), threads, all);
        }
    }

    /// Both caches filled with the first `tokens` of the text.
    void prefill(std::size_t tokens, const std::string& file) {
        plugin_.configure("SPARQ_METHOD=off");
        fill_from_file(contexts_[true].get(), text_.first(tokens), file);
        fill_transposed(contexts_[false].get(), contexts_[true].get());
    }

    void compare(method_row& row, std::size_t depth) {
        llama_context* c = begin(row, depth);
        for (std::size_t i = 0; i < compared; ++i) {
            step(c, only, text_.subspan(depth + i, 1));
            row.logits.push_back(logits_of(c, 0, 1));
        }
    }

    void time_a_turn(method_row& row, std::size_t depth) {
        llama_context* c = begin(row, depth);
        step(c, only, text_.subspan(depth, 1));  // copies keys: not timed
        std::vector<double> ms;
        for (std::size_t i = 1; i <= steps_of_turn; ++i) {
            const double before = now_ms(threads_);
            step(c, only, text_.subspan(depth + i, 1));
            ms.push_back(now_ms(threads_) - before);
        }
        row.ms.push_back(median(ms));
    }

    void go_on(method_row& row, std::size_t depth) {
        llama_context* c = begin(row, depth);
        llama_token token = text_[depth];
        for (std::size_t i = 0; i < continued; ++i) {
            step(c, only, {&token, 1});
            token = static_cast<llama_token>(most_likely(logits_of(c, 0, 1)));
            row.continuation.push_back(token);
        }
    }

   private:
    llama_context* begin(const method_row& row, std::size_t depth) {
        plugin_.configure(row.settings);
        llama_context* c = contexts_[row.flash_attention].get();
        llama_memory_seq_rm(llama_get_memory(c), 0, static_cast<llama_pos>(depth), -1);
        return c;
    }

    static constexpr int only[]{0};
    const loaded_plugin& plugin_;
    std::span<const llama_token> text_;
    int threads_;
    context_ptr contexts_[2];
};

/// Medians over the turns of a row's attention, and of ggml's as many times that.
struct shares {
    double attention, of_flash, of_better;
};
shares shares_of(const std::vector<method_row>& rows, const method_row& row) {
    std::vector<double> attention, of_flash, of_better;
    for (std::size_t turn = 0; turn < turns; ++turn) {
        const double bare = rows.back().ms[turn], share = row.ms[turn] - bare;
        const double flash = rows[0].ms[turn] - bare, without = rows[1].ms[turn] - bare;
        attention.push_back(share);
        of_flash.push_back(flash / share);
        of_better.push_back(std::min(flash, without) / share);
    }
    return {median(attention), median(of_flash), median(of_better)};
}

void print_heading(std::size_t depth) {
    std::printf("\ndepth %zu\n%-24s %9s %9s %10s %12s %12s %9s %8s\n", depth, "", "ms/token",
                "tokens/s", "attention", "of flash", "of better", "mean KL", "argmax");
    std::fflush(stdout);
}

void print(const std::vector<method_row>& rows) {
    for (const method_row& row : rows) {
        const double ms = median(row.ms);
        std::printf("%-24s %9.2f %9.1f", row.name, ms, 1e3 / ms);
        if (&row == &rows.back()) break;
        double kl = 0.0;
        std::size_t equal = 0;
        for (std::size_t i = 0; i < row.logits.size(); ++i) {
            kl += kl_divergence(rows[0].logits[i], row.logits[i]);
            equal += most_likely(rows[0].logits[i]) == most_likely(row.logits[i]);
        }
        const shares share = shares_of(rows, row);
        std::printf(" %10.2f %11.2fx %11.2fx %9.4f %5zu/%zu\n", share.attention, share.of_flash,
                    share.of_better, kl / static_cast<double>(row.logits.size()), equal,
                    row.logits.size());
    }
    std::printf("\n");
    std::fflush(stdout);
}

void print_words(const char* name, std::string words) {
    std::replace(words.begin(), words.end(), '\n', '|');
    std::printf("%-24s %s\n", name, words.c_str());
    std::fflush(stdout);
}

struct options {
    std::string plugin, model, text, prompt;
    int threads = 1;
    std::vector<std::size_t> depths{512, 2048, 4096, 8000};
};

void print_table(const options& with) {
    const std::size_t deepest = *std::max_element(with.depths.begin(), with.depths.end());
    const loaded_plugin plugin(with.plugin);
    const model_ptr model = load_model(with.model);
    const std::size_t tokens = deepest + compared;
    const auto text = tokens_of_file(model.get(), with.text, tokens);
    if (text.size() != tokens)
        throw CLI::ValidationError("TEXT", "only " + std::to_string(text.size()) + " tokens");
    plugin.configure("SPARQ_DENSE_BELOW=0 SPARQ_OFF_BELOW=0");
    bench run(plugin, model.get(), text, with.threads);
    run.prefill(deepest, with.prompt);
    std::vector<std::size_t> depths = with.depths;
    std::sort(depths.rbegin(), depths.rend());  // a cache is cut back, never filled again
    for (const std::size_t depth : depths) {
        std::vector<method_row> rows = methods();
        print_heading(depth);
        for (method_row& row : rows) run.compare(row, depth);
        for (std::size_t turn = 0; turn < turns; ++turn)
            for (method_row& row : rows) run.time_a_turn(row, depth);
        print(rows);
        if (depth != depths[depths.size() / 2]) continue;
        std::printf("after %zu tokens each goes on:\n", depth);
        for (method_row& row : rows) {
            run.go_on(row, depth);
            print_words(row.name, text_of(model.get(), row.continuation));
        }
    }
    std::printf(
        "\nattention: ms a token less those of the model whose attention writes zeros;\n"
        "of flash, of better: how many times ggml's share, with flash attention and at\n"
        "its better setting; KL and argmax: against ggml with flash attention.\n");
}

}  // namespace
}  // namespace sparq_llama

int main(int argc, char** argv) {
    CLI::App app("ms a token and closeness to ggml, at several depths of a text");
    sparq_llama::options with;
    app.add_option("PLUGIN", with.plugin)->required()->check(CLI::ExistingFile);
    app.add_option("MODEL", with.model)->required()->check(CLI::ExistingFile);
    app.add_option("TEXT", with.text)->required()->check(CLI::ExistingFile);
    app.add_option("--prompt", with.prompt, "file that keeps the processed text")->required();
    app.add_option("--threads", with.threads)->check(CLI::Range(1, 64));
    app.add_option("--depths", with.depths)->check(CLI::Range(1, 8000));
    CLI11_PARSE(app, argc, argv);
    try {
        sparq_llama::print_table(with);
    } catch (const CLI::Error& error) {
        return app.exit(error);
    }
    return 0;
}
