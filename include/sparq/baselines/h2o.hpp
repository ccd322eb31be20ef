// SPDX-License-Identifier: MIT
// H2O as a baseline: tokens that past queries gave little weight to are dropped for good.
//
// Zhang et al., "H2O: Heavy-Hitter Oracle", arXiv 2306.14048, in the setting of the SparQ
// paper. A KV head's score of a token is the sum, over all queries so far, of the weight
// that they gave it (mean over the group), prompt queries included. Before a step the best
// k + 1 live tokens stay, the local + 1 newest forced in; dense softmax over these; then
// the step's own weights are added. Scores in double; ranked as floats.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "../detail/baseline_call.hpp"
#include "../detail/h2o_call.hpp"
#include "../detail/isa_vector.hpp"

SPARQ_NAMESPACE_BEGIN
namespace baselines {

/// What H2O remembers of one history: the live tokens of each KV head and their scores.
/// Memory: 12 bytes a live token. One thread at a time.
class h2o_state {
   public:
    /// @throws std::invalid_argument for heads_kv = 0, k = 0, local > k, a scale that is
    ///         not finite
    SPARQ_PER_ISA h2o_state(std::size_t heads_kv, const h2o_params& params)
        : params_(params), live_(heads_kv) {
        detail::require_at_least_one("heads_kv", heads_kv);
        detail::require_at_least_one("k", params.k);
        if (params.local > params.k)
            detail::refuse("local", params.local, detail::text("0 .. k = ", params.k));
        detail::check_scale(params.scale);
    }

    /// The same history with other parameters from here on: a prompt's scores do not depend
    /// on them (but for the scale), so one pass over it serves several.
    /// @throws std::invalid_argument as above, and for another scale; std::bad_alloc
    SPARQ_PER_ISA h2o_state(const h2o_state& history, const h2o_params& params)
        : h2o_state(history.live_.size(), params) {
        if (params.scale != history.params_.scale)
            detail::refuse("scale", std::to_string(params.scale),
                           "the history's " + std::to_string(history.params_.scale));
        live_ = history.live_;
        size_ = history.size_;
    }

    /// Tokens known, live or not.
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    /// The live tokens of KV head g < heads_kv, ascending: after a step the ones it attended.
    [[nodiscard]] SPARQ_PER_ISA std::span<const std::uint32_t> live(std::size_t g) const noexcept {
        return live_[g].tokens;
    }
    /// [live(g).size()], beside live(g).
    [[nodiscard]] SPARQ_PER_ISA std::span<const double> scores(std::size_t g) const noexcept {
        return live_[g].scores;
    }

    /// A prompt, or a part of it: the n tokens from size() on become live, and each one's
    /// query gives its weights to the live tokens up to itself. Drops nothing. K is read
    /// once for 16 queries.
    ///
    /// @param q  [n, heads_q, d_h], queries of tokens [size(), size() + n)
    /// @throws std::invalid_argument for q of another size, or n beyond the view;
    ///         std::bad_alloc. Either leaves the state as it was.
    template <class Arch = default_arch, class T, class Label>
    void append(std::span<const float> q, std::size_t n, const kv_view<T, Label>& view);

    /// One decode step: the tokens from size() to S become live, the live ones but the best
    /// k + 1 are dropped for good, q attends the rest, and its weights are added.
    ///
    /// Reads min(k + 1, S) * (d_h + value_dim) elements a KV head, and scores. Error bound:
    /// attend_selected's. Allocates nothing with a workspace that has seen the shape, once
    /// the state has held k + 2 tokens.
    ///
    /// @param q    [heads_q, d_h]; heads_q is a multiple of heads_kv
    /// @param out  [heads_q, value_dim], overwritten; must not overlap q
    /// @throws std::invalid_argument when the view has no token beyond size(), other
    ///         heads, or for what dense_attention refuses; std::bad_alloc. Nothing is
    ///         changed then.
    ///
    /// The report: `bytes.scan` the scores and token numbers of the live tokens,
    /// `bytes.selected` their K and V; `covered` is not known, NaN, unless all tokens are
    /// live. Heads differ in their number of tokens after a truncate only; shorter lists
    /// then end in no_token. A NaN or an infinity makes the heads that read it NaN, and no
    /// other; such a head adds nothing to the scores.
    template <class Arch = default_arch, class T, class Label>
    void step(std::span<const float> q, const kv_view<T, Label>& view, std::span<float> out,
              const call_options& options = {});

    /// Forgets tokens from n on. What they did stays done: their queries' weights stay in
    /// the scores, and what was dropped for their sake stays dropped.
    /// @throws std::invalid_argument when n exceeds size()
    SPARQ_PER_ISA void truncate(std::size_t n) {
        if (n > size_) detail::refuse("n", n, detail::text("at most size() = ", size_));
        for (detail::live_tokens& head : live_) {
            const std::size_t left = head.before(n);
            head.tokens.resize(left), head.scores.resize(left);
        }
        size_ = n;
    }
    /// Forgets everything and keeps the memory.
    SPARQ_PER_ISA void clear() noexcept {
        for (detail::live_tokens& head : live_) head.tokens.clear(), head.scores.clear();
        size_ = 0;
    }

   private:
    template <class T, class Label>
    SPARQ_PER_ISA void check_heads(const kv_view<T, Label>& view) const {
        if (view.heads_kv() != live_.size())
            detail::refuse("view.heads_kv()", view.heads_kv(),
                           detail::text("the state's ", live_.size()));
    }
    SPARQ_PER_ISA void begin(std::size_t added) {
        for (detail::live_tokens& head : live_) head.reserve(head.tokens.size() + added);
    }
    [[nodiscard]] SPARQ_PER_ISA std::size_t most_live() const noexcept {
        std::size_t most = 0;
        for (const auto& head : live_) most = std::max(most, head.tokens.size());
        return most;
    }

    h2o_params params_;
    detail::isa_vector<detail::live_tokens> live_;  ///< [heads_kv]
    std::size_t size_ = 0;
};

template <class Arch, class T, class Label>
void h2o_state::append(std::span<const float> q, std::size_t n, const kv_view<T, Label>& view) {
    check_heads(view);
    const std::size_t heads = view.heads_kv(), head_dim = view.head_dim();
    if (n == 0 || size_ > view.seq_len() || n > view.seq_len() - size_)
        detail::refuse(
            "n", n,
            detail::text("1 .. S - size() with S = ", view.seq_len(), ", size() = ", size_));
    if (q.empty() || q.size() % (n * heads * head_dim) != 0)
        detail::refuse("q", detail::text("of size ", q.size()),
                       detail::text("a multiple of n * heads_kv * d_h = ", n * heads * head_dim));
    const std::size_t group = q.size() / (n * heads * head_dim);
    constexpr std::size_t at_once = detail::prompt_queries_at_once;
    const std::size_t stride = detail::simd::padded<Arch>(head_dim), most = most_live() + n;
    detail::scratch_layout layout;
    const std::size_t queries_at = layout.take<float>(at_once * group * stride);
    const std::size_t logits_at =
        layout.take<float>(detail::checked_product("logits", at_once * group, most));
    workspace work;
    std::byte* memory = work.prepare(layout.bytes());
    auto* queries = reinterpret_cast<float*>(memory + queries_at);
    auto* logits = reinterpret_cast<float*>(memory + logits_at);
    begin(n);
    for (std::size_t g = 0; g < heads; ++g)
        for (std::size_t first = 0; first < n; first += at_once) {
            detail::live_tokens& live = live_[g];
            const std::size_t count = std::min(at_once, n - first), older = live.tokens.size();
            live.add(size_ + first, size_ + first + count);
            for (std::size_t i = 0; i < count; ++i)
                steps::scale_queries<Arch>({q.data() + ((first + i) * heads + g) * group * head_dim,
                                            group, head_dim, head_dim},
                                           steps::resolve_scale(params_.scale, head_dim),
                                           queries + i * group * stride);
            const std::size_t row = older + count;
            detail::score_rows<Arch, T>(
                {queries, count * group, stride},
                steps::listed_rows<T, Label>(view, g, live.tokens.data(), row), head_dim, logits,
                row);
            for (std::size_t j = 0; j < count * group; ++j)  // each as far as its own token
                detail::score_weights<Arch>(logits + j * row, older + j / group + 1, group,
                                            live.scores.data());
        }
    size_ += n;
}

template <class Arch, class T, class Label>
void h2o_state::step(std::span<const float> q, const kv_view<T, Label>& view, std::span<float> out,
                     const call_options& options) {
    const auto request = detail::check_request(q, view, params_.scale, out, options);
    check_heads(view);
    const std::size_t seq_len = view.seq_len();
    if (seq_len <= size_)
        detail::refuse("seq_len", seq_len, detail::text("more than size() = ", size_));
    const std::size_t added = seq_len - size_, most = most_live() + added;
    detail::scratch_layout layout;
    const detail::h2o_call<Arch, T, Label> call(request, params_, most, layout);
    detail::call_scratch memory(options.work);
    std::byte* scratch = memory.prepare(layout);
    begin(added);
    std::size_t ranked = 0, attended = 0, least = seq_len;
    for (const auto& head : live_) {
        const std::size_t live = head.tokens.size() + added, kept = std::min(live, params_.k + 1);
        ranked += live, attended += kept, least = std::min(least, kept);
    }
    detail::begin_report(request,
                         {ranked * (sizeof(double) + sizeof(std::uint32_t)),
                          attended * (view.head_dim() + view.value_dim()) * sizeof(T), 0},
                         std::min(most, params_.k + 1), least == seq_len);
    for (std::size_t g = 0; g < view.heads_kv(); ++g) {
        live_[g].add(size_, seq_len);
        call.head(g, live_[g], scratch);
    }
    size_ = seq_len;
}

}  // namespace baselines
SPARQ_NAMESPACE_END
