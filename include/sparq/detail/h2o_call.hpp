// SPDX-License-Identifier: MIT
// h2o_call: the work of an H2O step on one KV head, and the live tokens it works on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "../steps/select_tokens.hpp"
#include "baseline_call.hpp"
#include "isa_vector.hpp"

SPARQ_NAMESPACE_BEGIN
namespace baselines {

struct h2o_params {
    std::size_t k = 128;     ///< older tokens that stay beside the current one, at least 1
    std::size_t local = 32;  ///< how many of the k are the newest, 0 .. k
    float scale = 0.0f;      ///< factor on q . k; 0 for 1 / sqrt(d_h)
};

}  // namespace baselines

namespace detail {

/// The live tokens of one KV head, ascending, and what they were given so far.
struct live_tokens {
    isa_vector<std::uint32_t> tokens;
    isa_vector<double> scores;

    SPARQ_PER_ISA void reserve(std::size_t n) {
        if (n <= tokens.capacity() && n <= scores.capacity()) return;
        const std::size_t room = std::max(n, 2 * tokens.size());
        tokens.reserve(room), scores.reserve(room);
    }
    SPARQ_PER_ISA void add(std::size_t begin, std::size_t end) noexcept {  // room is reserved
        for (std::size_t t = begin; t < end; ++t) {
            tokens.push_back(static_cast<std::uint32_t>(t));
            scores.push_back(0.0);
        }
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t before(std::size_t n) const noexcept {
        return static_cast<std::size_t>(std::lower_bound(tokens.begin(), tokens.end(), n) -
                                        tokens.begin());
    }
    /// Keeps those at the ascending positions alone.
    SPARQ_PER_ISA void keep(const std::uint32_t* positions, std::size_t n) noexcept {
        for (std::size_t i = 0; i < n; ++i) {
            tokens[i] = tokens[positions[i]];
            scores[i] = scores[positions[i]];
        }
        tokens.resize(n), scores.resize(n);
    }
};

/// Makes weights of one query head's logits and adds 1/G of them to the scores. A head that
/// is not finite has no say.
/// @return  ln of the sum of exp(logits)
template <class Arch>
float score_weights(float* logits, std::size_t n, std::size_t group, double* scores) noexcept {
    const float lse = kernels::log_sum_exp(kernels::softmax_of<Arch>(logits, n));
    make_weights<Arch>(logits, n, lse);
    if (std::isfinite(lse))
        for (std::size_t i = 0; i < n; ++i)
            scores[i] += static_cast<double>(logits[i]) / static_cast<double>(group);
    return lse;
}

/// Prompt queries whose logits are computed together: K is read once for so many.
inline constexpr std::size_t prompt_queries_at_once = 16;

template <class Arch, class T, class Label>
class h2o_call {
   public:
    /// @param most  live tokens of a head before the step, at most
    h2o_call(const attention_request<T, Label>& request, const baselines::h2o_params& params,
             std::size_t most, scratch_layout& layout)
        : request_(request), params_(params), attend_(request, layout) {
        kept_ = std::min(most, params.k + 1);
        logits_ = layout.take<float>(checked_product("logits", request.group, kept_));
        log_sum_exp_ = layout.take<float>(request.group);
        ranking_ = layout.take<float>(most);
        scratch_ = layout.take<float>(kernels::top_k_scratch_floats(most));
        chosen_ = layout.take<std::uint32_t>(most);
    }

    /// Drops, attends and scores.
    void head(std::size_t g, live_tokens& live, std::byte* memory) const noexcept {
        if (live.tokens.size() > kept_) drop(live, memory);
        const std::size_t n = live.tokens.size();
        auto* logits = reinterpret_cast<float*>(memory + logits_);
        auto* log_sum_exp = reinterpret_cast<float*>(memory + log_sum_exp_);
        score_rows<Arch, T>(attend_.queries(g, memory),
                            steps::listed_rows<T, Label>(request_.view, g, live.tokens.data(), n),
                            request_.view.head_dim(), logits, n);
        for (std::size_t h = 0; h < request_.group; ++h)
            log_sum_exp[h] =
                score_weights<Arch>(logits + h * n, n, request_.group, live.scores.data());
        const steps::partial_attention result = attend_.empty_result(memory);
        attend_.weigh(g, logits, n, log_sum_exp, live.tokens.data(), n, result);
        for (std::size_t h = 0; h < request_.group; ++h)
            attend_.finish(g, h, result, n == request_.view.seq_len() ? 1.0f : NAN);
    }

   private:
    void drop(live_tokens& live, std::byte* memory) const noexcept {
        const std::size_t n = live.tokens.size(), seq_len = request_.view.seq_len();
        const std::size_t newest = std::min(params_.local + 1, seq_len);
        const std::size_t forced = n - live.before(seq_len - newest);
        auto* ranking = reinterpret_cast<float*>(memory + ranking_);
        auto* chosen = reinterpret_cast<std::uint32_t*>(memory + chosen_);
        for (std::size_t i = 0; i < n; ++i) ranking[i] = static_cast<float>(live.scores[i]);
        steps::select_tokens<Arch>(ranking, n, kept_, forced, nullptr,
                                   reinterpret_cast<float*>(memory + scratch_), chosen);
        live.keep(chosen, kept_);
    }

    attention_request<T, Label> request_;
    baselines::h2o_params params_;
    baseline_call<Arch, T, Label> attend_;
    std::size_t kept_ = 0, logits_ = 0, log_sum_exp_ = 0, ranking_ = 0, scratch_ = 0, chosen_ = 0;
};

}  // namespace detail
SPARQ_NAMESPACE_END
