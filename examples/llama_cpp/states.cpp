// SPDX-License-Identifier: MIT
// states PLUGIN MODEL TEXT: is the plugin right in every state a cache gets into?
//
// Each case is run with forced tokens and compared by its logits:
//   off twice      the same bits: the case itself is deterministic
//   dense : off    every decode node answered, and mean KL below 0.01 or twice that of ggml
//                  without flash attention against ggml with it in the same case: rounding, which
//                  the model's quantised activations make larger or smaller as it falls.
//   zeros : off    mean KL above 1: the comparison can fail
//   sparq : sparq with all copies made anew before every step: the same bits. So the
//                  d_h-major copy followed whatever happened to the cache.
//   int4, tiers : labels of 4 bits, and tiers, with all codes made anew before every step: mean
//                  KL below 0.01, and every decode node answered. Bits may differ: blocks of
//                  cells that no step sees any longer are still coded until they are written,
//                  and made anew they are not.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <thread>

#include "model_run.hpp"

namespace sparq_llama {
namespace {

using all_logits = std::vector<std::vector<float>>;

/// One run of a case under one setting.
class run {
   public:
    run(llama_model* model, std::span<const llama_token> text, const loaded_plugin& plugin,
        bool invalidate, bool flash_attention, int threads)
        : model_(model),
          text_(text),
          plugin_(plugin),
          invalidate_(invalidate),
          flash_attention_(flash_attention),
          threads_(threads) {}

    context_ptr context(context_options options = {}) const {
        options.threads = threads_;
        options.flash_attention = flash_attention_;
        return make_context(model_, options);
    }
    /// Appends n tokens of the text from `first` on: a prompt, or a draft if n <= 8.
    void prompt(const context_ptr& c, const std::vector<int>& sequences, std::size_t first,
                std::size_t n) {
        if (n * sequences.size() <= 8) ++small_batches;
        before();
        append(c.get(), sequences, text_.subspan(first, n));
        keep(c, sequences.size());
    }
    /// n steps, each sequence with tokens of its own.
    void steps(const context_ptr& c, const std::vector<int>& sequences, std::size_t n) {
        for (std::size_t i = 0; i < n; ++i) {
            std::vector<llama_token> tokens;
            for (std::size_t s = 0; s < sequences.size(); ++s)
                tokens.push_back(text_[700 + 31 * s + steps_++ % 200]);
            ++small_batches;
            before();
            step(c.get(), sequences, tokens);
            keep(c, sequences.size());
        }
    }
    all_logits logits;
    std::uint64_t small_batches = 0;

   private:
    void before() const {
        if (invalidate_) plugin_.invalidate();
    }
    void keep(const context_ptr& c, std::size_t sequences) {
        for (std::size_t s = 0; s < sequences; ++s)
            logits.push_back(logits_of(c.get(), s, sequences));
    }

    llama_model* model_;
    std::span<const llama_token> text_;
    const loaded_plugin& plugin_;
    bool invalidate_, flash_attention_;
    int threads_;
    std::size_t steps_ = 0;
};

llama_memory_t memory(const context_ptr& c) { return llama_get_memory(c.get()); }

void prompt_and_steps(run& r) {
    const auto c = r.context();
    r.prompt(c, {0}, 0, 530);  // two batches
    r.steps(c, {0}, 20);
}
void rollback(run& r) {
    const auto c = r.context();
    r.prompt(c, {0}, 0, 250);
    r.steps(c, {0}, 3);
    llama_memory_seq_rm(memory(c), 0, 150, -1);
    r.steps(c, {0}, 4);
}
void rejected_drafts(run& r) {
    const auto c = r.context();
    r.prompt(c, {0}, 0, 200);
    r.steps(c, {0}, 1);
    for (int i = 0; i < 3; ++i) {
        r.prompt(c, {0}, 300, 5);
        llama_memory_seq_rm(memory(c), 0, llama_memory_seq_pos_max(memory(c), 0) - 2, -1);
        r.steps(c, {0}, 1);
    }
}
void reused_cells(run& r) {
    const auto c = r.context({.tokens = 256});
    r.prompt(c, {0}, 0, 240);
    r.steps(c, {0}, 2);
    llama_memory_seq_rm(memory(c), 0, 20, 60);  // a hole: later steps run out of other cells
    r.steps(c, {0}, 24);
}
void context_shift(run& r) {
    const auto c = r.context();
    r.prompt(c, {0}, 0, 220);
    r.steps(c, {0}, 2);
    for (int i = 0; i < 2; ++i) {
        llama_memory_seq_rm(memory(c), 0, 4, 44);
        llama_memory_seq_add(memory(c), 0, 44, -1, -40);
        r.steps(c, {0}, 3);
    }
}
void clear_and_new_prompt(run& r) {
    const auto c = r.context();
    for (const bool data : {true, false}) {
        r.prompt(c, {0}, data ? 0 : 400, 200);
        r.steps(c, {0}, 2);
        llama_memory_clear(memory(c), data);
    }
    r.prompt(c, {0}, 100, 150);
    r.steps(c, {0}, 3);
}
void state_load(run& r) {
    const auto c = r.context();
    r.prompt(c, {0}, 0, 200);
    r.steps(c, {0}, 2);
    std::vector<std::uint8_t> state(llama_state_seq_get_size(c.get(), 0));
    llama_state_seq_get_data(c.get(), state.data(), state.size(), 0);
    llama_memory_clear(memory(c), false);
    r.prompt(c, {0}, 450, 230);
    r.steps(c, {0}, 2);
    llama_memory_clear(memory(c), false);
    llama_state_seq_set_data(c.get(), state.data(), state.size(), 0);
    r.steps(c, {0}, 4);
}
void unified_sequences(run& r) {
    const auto c = r.context({.tokens = 400, .sequences = 3, .unified = true});
    r.prompt(c, {0}, 0, 150);
    llama_memory_seq_cp(memory(c), 0, 1, -1, -1);  // a fork: it shares the cells
    r.prompt(c, {2}, 500, 120);
    r.steps(c, {0, 1, 2}, 4);
    llama_memory_seq_rm(memory(c), 0, -1, -1);
    r.prompt(c, {0}, 300, 140);
    r.steps(c, {0, 1, 2}, 4);
    r.steps(c, {1}, 2);
}
void streams(run& r) {
    const auto c = r.context({.tokens = 400, .sequences = 2});
    r.prompt(c, {0}, 0, 180);
    r.prompt(c, {1}, 500, 120);
    r.steps(c, {0, 1}, 4);
    r.steps(c, {1}, 3);
    llama_memory_seq_rm(memory(c), 1, -1, -1);
    llama_memory_seq_cp(memory(c), 0, 1, -1, -1);  // copies the other stream's cells
    r.steps(c, {0, 1}, 3);
}
void many_contexts(run& r) {
    for (std::size_t i = 0; i < 4; ++i) {
        const auto c = r.context({.tokens = i % 2 == 0 ? 512u : 768u});
        r.prompt(c, {0}, 130 * i, 150);
        r.steps(c, {0}, 2);
    }
}
void two_contexts(run& r) {
    run other = r;
    std::thread beside([&] {
        const auto c = other.context();
        other.prompt(c, {0}, 400, 180);
        other.steps(c, {0}, 6);
    });
    const auto c = r.context();
    r.prompt(c, {0}, 0, 200);
    r.steps(c, {0}, 6);
    beside.join();
    r.logits.insert(r.logits.end(), other.logits.begin(), other.logits.end());
    r.small_batches += other.small_batches;
}
void quantised_cache(run& r) {
    const auto c = r.context({.cache_type = GGML_TYPE_Q8_0});
    r.prompt(c, {0}, 0, 150);
    r.steps(c, {0}, 3);
}

struct named_case {
    const char* name;
    void (*body)(run&);
    bool answered = true;
};
constexpr named_case cases[]{
    {"prompt in batches, steps", prompt_and_steps},
    {"rollback", rollback},
    {"drafts, partly rejected", rejected_drafts},
    {"holes and reused cells", reused_cells},
    {"context shift, twice", context_shift},
    {"clear and new prompts", clear_and_new_prompt},
    {"state loaded", state_load},
    {"three sequences, unified, one a fork", unified_sequences},
    {"two streams, copied", streams},
    {"contexts made and freed", many_contexts},
    {"two contexts at once", two_contexts},
    {"quantised cache: left to ggml", quantised_cache, false},
};

struct difference {
    double mean_kl = 0.0;
    std::size_t equal_argmax = 0, rows = 0;
    bool same_bits = true;
};
difference compare(const all_logits& a, const all_logits& b) {
    difference d;
    d.rows = a.size();
    for (std::size_t i = 0; i < a.size(); ++i) {
        d.mean_kl += kl_divergence(a[i], b[i]) / static_cast<double>(a.size());
        d.equal_argmax += most_likely(a[i]) == most_likely(b[i]);
        d.same_bits = d.same_bits && a[i] == b[i];
    }
    return d;
}

struct approximation {
    const char* name;
    const char* settings;
    bool same_bits;  ///< as with all copies made anew before every step
};
constexpr approximation approximations[]{
    {"sparq", "SPARQ_METHOD=sparq SPARQ_LABEL_BITS=16", true},
    {"int4", "SPARQ_METHOD=sparq SPARQ_LABEL_BITS=4", false},
    {"tiers", "SPARQ_METHOD=tiers", false},
};

int failures = 0;
void expect(bool holds, const char* what) {
    if (holds) return;
    ++failures;
    std::printf("\n    FAILED: %s\n", what);
}

void check(const named_case& c, llama_model* model, std::span<const llama_token> text,
           const loaded_plugin& plugin, int threads) {
    const auto under = [&](const std::string& settings, bool invalidate = false,
                           bool flash_attention = true) {
        plugin.configure(settings);
        const std::uint64_t before = plugin.counts().answered;
        run r(model, text, plugin, invalidate, flash_attention, threads);
        c.body(r);
        const auto nodes = static_cast<std::uint64_t>(llama_model_n_layer(model)) *
                           (c.answered && settings != "SPARQ_METHOD=off" ? r.small_batches : 0);
        expect(plugin.counts().answered - before == nodes, "the number of nodes answered");
        return r.logits;
    };
    const all_logits off = under("SPARQ_METHOD=off");
    const all_logits dense = under("SPARQ_METHOD=dense");
    const auto report = [&](const char* name, const all_logits& logits) {
        const difference d = compare(off, logits);
        std::printf("; %s: KL %.4f, argmax %zu", name, d.mean_kl, d.equal_argmax);
        return d;
    };
    std::printf("%-38s %zu rows", c.name, off.size());
    expect(compare(off, under("SPARQ_METHOD=off")).same_bits, "off twice: the same bits");
    const double rounding =
        c.answered ? compare(off, under("SPARQ_METHOD=off", false, false)).mean_kl : 0.0;
    std::printf("; ggml's ways: KL %.4f", rounding);
    expect(rounding < 0.03, "ggml's two ways near each other");
    expect(report("dense", dense).mean_kl < std::max(0.01, 2.0 * rounding),
           "dense against off: as ggml's two ways");
    for (const auto& [name, settings, same_bits] : approximations) {
        const all_logits followed = under(settings);
        expect(!c.answered || !report(name, followed).same_bits, "an approximation here");
        const difference to_anew = compare(followed, under(settings, true));
        if (!same_bits) std::printf(", to those made anew %.4f", to_anew.mean_kl);
        expect(same_bits ? to_anew.same_bits : to_anew.mean_kl < 0.01, "as with all made anew");
    }
    std::printf("\n");
    if (c.answered)
        expect(compare(off, under("SPARQ_METHOD=zeros")).mean_kl > 1.0, "zeros: KL above 1");
    std::fflush(stdout);
}

}  // namespace
}  // namespace sparq_llama

int main(int argc, char** argv) {
    using namespace sparq_llama;
    std::string file, model_file, text_file, only;
    int threads = 1;
    CLI::App app("the plugin against untouched runs, in every state a cache gets into");
    app.add_option("PLUGIN", file)->required()->check(CLI::ExistingFile);
    app.add_option("MODEL", model_file)->required()->check(CLI::ExistingFile);
    app.add_option("TEXT", text_file)->required()->check(CLI::ExistingFile);
    app.add_option("--threads", threads)->check(CLI::Range(1, 64));
    app.add_option("--case", only, "begins so: those cases alone");
    CLI11_PARSE(app, argc, argv);

    const loaded_plugin plugin(file);
    const model_ptr model = load_model(model_file);
    const auto text = tokens_of_file(model.get(), text_file, 2000);
    expect(plugin.try_configure("SPARQ_R=0") != nullptr, "SPARQ_R=0 is refused");
    plugin.configure("SPARQ_R=16 SPARQ_K=64 SPARQ_LOCAL=16 SPARQ_DENSE_BELOW=0");
    for (const named_case& c : cases)
        if (std::string(c.name).rfind(only, 0) == 0) check(c, model.get(), text, plugin, threads);
    std::printf("%d threads, %d failures\n", threads, failures);
    return failures == 0 ? 0 : 1;
}
