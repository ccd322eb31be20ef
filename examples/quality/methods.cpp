// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "coded_methods.hpp"
#include "method.hpp"

namespace quality {
namespace {

using sparq::call_options;
using std::size_t;
namespace baselines = sparq::baselines;

size_t part_of(double share, size_t n) {
    return std::max<size_t>(1, static_cast<size_t>(std::lround(share * static_cast<double>(n))));
}

/// k, or the part of the prompt's tokens that share asks for: fixed when a prompt begins.
class token_budget {
   public:
    explicit token_budget(method_spec& spec, double times = 1.0, double less = 0.0)
        : times_(times), less_(less) {
        if (spec.has("share") && spec.has("k"))
            throw std::invalid_argument("method = " + spec.text() + ": either k or share");
        share_ = spec.has("share") ? spec.fraction("share", 1.0) : 0.0;
        k_ = spec.number("k", 128);
    }
    void begin(size_t tokens) {
        if (share_ != 0.0) k_ = part_of(std::max(0.0, times_ * (share_ - less_)), tokens);
    }
    [[nodiscard]] size_t k() const { return k_; }
    [[nodiscard]] double share() const { return share_; }

   private:
    double times_, less_, share_ = 0.0;
    size_t k_ = 0;
};

class dense_method : public method {
   public:
    explicit dense_method(method_spec&) {}
    void attend(size_t, const layer_history& history, std::span<const float> q,
                std::span<float> out, const call_options& options) override {
        sparq::dense_attention(q, history.tokens, out, options);
    }
};

/// To see that the answers are used at all.
class zeros_method : public method {
   public:
    explicit zeros_method(method_spec&) {}
    void attend(size_t, const layer_history&, std::span<const float>, std::span<float> out,
                const call_options& options) override {
        std::fill(out.begin(), out.end(), 0.0f);
        if (options.report != nullptr) *options.report = {};
    }
};

class sparq_method : public method {
   public:
    explicit sparq_method(method_spec& spec) : budget_(spec, 0.5) {
        static constexpr std::array<std::string_view, 3> tails = {"auto", "none", "mean"};
        static constexpr std::array<std::string_view, 2> rankings = {"softmax", "logit"};
        params_.r = budget_.share() == 0.0 ? spec.number("r", 16) : 0;
        local_is_given_ = spec.has("local");
        params_.local = spec.number("local", 0);
        params_.tail = static_cast<sparq::tail_estimate>(spec.one_of("tail", tails));
        params_.ranking = static_cast<sparq::group_ranking>(spec.one_of("ranking", rankings));
        params_.k = budget_.k();
        set_local();
    }
    void begin(size_t, const layer_history& history) override {
        budget_.begin(history.tokens.seq_len());
        params_.k = budget_.k();
        if (budget_.share() != 0.0) params_.r = part_of(budget_.share(), history.tokens.head_dim());
        set_local();
    }
    void attend(size_t, const layer_history& history, std::span<const float> q,
                std::span<float> out, const call_options& options) override {
        sparq::sparq_attention(q, history.tokens, params_, out, options);
    }

   private:
    void set_local() {
        if (!local_is_given_) params_.local = params_.k / 4;
    }
    token_budget budget_;
    bool local_is_given_ = false;
    sparq::sparq_params params_;
};

class h2o_method : public method {
   public:
    explicit h2o_method(method_spec& spec)
        : budget_(spec), local_is_given_(spec.has("local")), local_(spec.number("local", 0)) {}
    [[nodiscard]] bool wants_prompt_weights() const override { return true; }
    void begin(size_t layer, const layer_history& history) override {
        budget_.begin(history.tokens.seq_len());
        const size_t k = budget_.k();
        if (layer >= states_.size()) states_.resize(layer + 1);
        states_[layer].emplace(history.prompt_weights.value(),
                               baselines::h2o_params{k, local_is_given_ ? local_ : k / 4});
    }
    void attend(size_t layer, const layer_history& history, std::span<const float> q,
                std::span<float> out, const call_options& options) override {
        states_[layer]->step(q, history.tokens.view(), out, options);
    }

   private:
    token_budget budget_;
    bool local_is_given_;
    size_t local_;
    std::vector<std::optional<baselines::h2o_state>> states_;
};

class lm_infinite_method : public method {
   public:
    explicit lm_infinite_method(method_spec& spec)
        : budget_(spec), initial_(spec.number("initial", 16)) {}
    void begin(size_t, const layer_history& history) override {
        budget_.begin(history.tokens.seq_len());
    }
    void attend(size_t, const layer_history& history, std::span<const float> q,
                std::span<float> out, const call_options& options) override {
        baselines::lm_infinite_attention(
            q, history.tokens.view(), {budget_.k(), std::min(initial_, budget_.k())}, out, options);
    }

   private:
    token_budget budget_;
    size_t initial_;
};

class flexgen_method : public method {
   public:
    explicit flexgen_method(method_spec& spec) {
        static constexpr std::array<std::string_view, 3> dropped = {"lost", "renormalise",
                                                                    "spread"};
        params_.k = spec.number("k", 128);
        params_.dropped = static_cast<baselines::dropped_mass>(spec.one_of("dropped", dropped));
    }
    void attend(size_t, const layer_history& history, std::span<const float> q,
                std::span<float> out, const call_options& options) override {
        baselines::flexgen_attention(q, history.tokens.view(), params_, out, options);
    }

   private:
    baselines::flexgen_params params_;
};

class quest_method : public method {
   public:
    /// A page's bounds are two rows for 16 tokens of two rows each.
    explicit quest_method(method_spec& spec)
        : budget_(spec, 1.0, 1.0 / static_cast<double>(baselines::quest_page_tokens)) {
        static constexpr std::array<std::string_view, 2> switches = {"off", "on"};
        newest_page_ = spec.one_of("newest", switches) == 1;
    }
    void begin(size_t layer, const layer_history& history) override {
        budget_.begin(history.tokens.seq_len());
        while (pages_.size() <= layer)
            pages_.emplace_back(history.tokens.heads_kv(), history.tokens.head_dim());
        pages_[layer].clear();
        pages_[layer].append(history.tokens.view());
    }
    void attend(size_t layer, const layer_history& history, std::span<const float> q,
                std::span<float> out, const call_options& options) override {
        pages_[layer].append(history.tokens.view());
        baselines::quest_attention(q, history.tokens.view(), pages_[layer],
                                   {budget_.k(), 0.0f, newest_page_}, out, options);
    }

   private:
    token_budget budget_;
    bool newest_page_ = false;
    std::vector<baselines::quest_pages<sparq::half>> pages_;
};

template <class Method>
std::unique_ptr<method> make(method_spec& spec) {
    return std::make_unique<Method>(spec);
}

using maker = std::unique_ptr<method> (*)(method_spec&);
const std::map<std::string, maker>& makers() {
    static const std::map<std::string, maker> all = {
        {"dense", make<dense_method>},
        {"zeros", make<zeros_method>},
        {"sparq", make<sparq_method>},
        {"h2o", make<h2o_method>},
        {"lm_infinite", make<lm_infinite_method>},
        {"flexgen", make<flexgen_method>},
        {"quest", make<quest_method>},
        {"sparq_codes", make_sparq_codes},
        {"tiers", make_tiers},
    };
    return all;
}

}  // namespace

void method::begin(std::size_t, const layer_history&) {}

std::unique_ptr<method> make_method(const std::string& text) {
    method_spec spec(text);
    const auto found = makers().find(spec.name());
    if (found == makers().end()) {
        std::string names;
        for (const auto& [name, function] : makers()) names += name + ", ";
        throw std::invalid_argument("method = " + text + "; allowed: " + names +
                                    "ggml, q8_0, q4_0");
    }
    auto made = found->second(spec);
    made->dense_layers = spec.number("dense_layers", 0);
    spec.finish();
    return made;
}

std::vector<std::string> replayable(const std::vector<std::string>& methods) {
    std::vector<std::string> some;
    for (const std::string& text : methods)
        if (!engine_cache_of(text) && !make_method(text)->wants_prompt_weights())
            some.push_back(text);
    return some;
}

std::optional<engine_cache> engine_cache_of(const std::string& text) {
    method_spec spec(text);
    // Blocks of 32 elements: a half, and 32 or 16 bytes.
    if (spec.name() == "ggml") return spec.finish(), engine_cache{"f16", true, 1.0};
    engine_cache cache{spec.name(), true, spec.name() == "q8_0" ? 34.0 / 64.0 : 18.0 / 64.0};
    if (spec.name() != "q8_0" && spec.name() != "q4_0") return std::nullopt;
    static constexpr std::array<std::string_view, 2> switches = {"on", "off"};
    cache.rotation = spec.one_of("rotation", switches) == 0;
    spec.finish();
    return cache;
}

}  // namespace quality
