// SPDX-License-Identifier: MIT
#include "coded_methods.hpp"

#include <algorithm>
#include <array>

namespace quality {
namespace {

using sparq::half;
using std::size_t;

/// A cache for each layer, with the tokens of its history.
template <class Cache>
class followers {
   public:
    void begin(size_t layer, const layer_history& history) {
        while (caches_.size() <= layer)
            caches_.emplace_back(history.tokens.heads_kv(), history.tokens.head_dim(),
                                 history.tokens.value_dim());
        caches_[layer].clear();
        follow(layer, history);
    }
    const Cache& follow(size_t layer, const layer_history& history) {
        Cache& cache = caches_[layer];
        if (history.tokens.seq_len() == cache.seq_len()) return cache;
        copy_from(history.tokens.view(), cache.seq_len());
        cache.append(std::span<const half>(keys_), std::span<const half>(values_));
        return cache;
    }

   private:
    void copy_from(const sparq::kv_view<half>& view, size_t begin) {
        keys_.clear();
        values_.clear();
        for (size_t s = 0, first = 0; s < view.segments_per_head(); ++s) {
            const size_t tokens = view.segment(s, 0).tokens;
            for (size_t t = begin > first ? begin - first : 0; t < tokens; ++t)
                for (size_t g = 0; g < view.heads_kv(); ++g) {
                    const auto& part = view.segment(s, g);
                    const half* key = part.keys + t * part.key_stride;
                    const half* value = part.values + t * part.value_stride;
                    keys_.insert(keys_.end(), key, key + view.head_dim());
                    values_.insert(values_.end(), value, value + view.value_dim());
                }
            first += tokens;
        }
    }

    std::vector<Cache> caches_;
    std::vector<half> keys_, values_;
};

template <class Cache, class Params>
class coded_method : public method {
   public:
    explicit coded_method(const Params& params) : params_(params) {}
    void begin(size_t layer, const layer_history& history) override {
        caches_.begin(layer, history);
    }
    void attend(size_t layer, const layer_history& history, std::span<const float> q,
                std::span<float> out, const sparq::call_options& options) override {
        sparq::sparq_attention(q, caches_.follow(layer, history), params_, out, options);
    }

   private:
    Params params_;
    followers<Cache> caches_;
};

template <class Label>
std::unique_ptr<method> over_labels(const sparq::sparq_params& params) {
    return std::make_unique<coded_method<sparq::kv_cache<half, Label>, sparq::sparq_params>>(
        params);
}

}  // namespace

std::unique_ptr<method> make_tiers(method_spec& spec) {
    sparq::tiered_params params;
    params.tolerance = static_cast<float>(spec.fraction("tolerance", 0.05));
    params.scan_channels = spec.number("channels", 0);
    params.refined = spec.number("refined", 0);
    params.exact = spec.number("exact", 0);
    return std::make_unique<coded_method<sparq::tiered_cache<half>, sparq::tiered_params>>(params);
}

std::unique_ptr<method> make_sparq_codes(method_spec& spec) {
    static constexpr std::array<std::string_view, 3> widths = {"4", "2", "8"};
    static constexpr std::array<std::string_view, 3> tails = {"auto", "none", "mean"};
    static constexpr std::array<std::string_view, 2> rankings = {"magnitude", "spread"};
    static constexpr std::array<std::string_view, 2> temperatures = {"paper", "none"};
    sparq::sparq_params params;
    params.r = spec.number("r", 16);
    params.k = spec.number("k", 128);
    params.local = spec.number("local", params.k / 4);
    params.tail = static_cast<sparq::tail_estimate>(spec.one_of("tail", tails));
    params.components = static_cast<sparq::component_ranking>(spec.one_of("components", rankings));
    params.tau = static_cast<sparq::temperature>(spec.one_of("temperature", temperatures));
    switch (spec.one_of("bits", widths)) {
        case 0:
            return over_labels<sparq::int4_label>(params);
        case 1:
            return over_labels<sparq::int2_label>(params);
        default:
            return over_labels<sparq::int8_label>(params);
    }
}

}  // namespace quality
