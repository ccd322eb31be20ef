// SPDX-License-Identifier: MIT
// tiered_tasks: attention in tiers as tasks (task_phases.hpp). prepare and chunk are the scan,
// finish the rest.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "../steps/approximate_scores.hpp"
#include "../steps/tiers/scan_channels.hpp"
#include "../tiered_params.hpp"
#include "../tiered_view.hpp"
#include "attention_request.hpp"
#include "tiered_head.hpp"
#include "tiered_scratch.hpp"

SPARQ_NAMESPACE_BEGIN
namespace detail {

template <class Arch, class T>
class tiered_tasks {
    /// Tokens scanned as one run where a head is not shared.
    static constexpr std::size_t run_tokens =
        std::max(chunk_tokens, steps::scan_tokens<int2_label>);

   public:
    /// @param params  checked
    tiered_tasks(const attention_request<T, int2_label>& request, const tiered_view<T>& view,
                 const tiered_params& params)
        : request_(request),
          view_(view),
          params_(params),
          channels_(params.scan_channels != 0 ? params.scan_channels : (view.head_dim() + 3) / 4),
          chunk_(shared_chunk_tokens(view.seq_len(), run_tokens)),
          chunks_((view.seq_len() + chunk_ - 1) / chunk_),
          layout_(request.group, view.head_dim(), view.value_dim(), view.seq_len()) {}

    [[nodiscard]] std::size_t heads() const noexcept { return view_.heads_kv(); }
    [[nodiscard]] std::size_t seq_len() const noexcept { return view_.seq_len(); }
    [[nodiscard]] std::size_t chunks() const noexcept { return chunks_; }
    [[nodiscard]] std::size_t scratch_bytes() const noexcept { return layout_.bytes(); }

    void begin_report() const {
        const std::size_t sums = heads() * view_.value_dim() * sizeof(double);
        detail::begin_report(request_, {0, 0, sums}, 0, false);
    }

    /// Which channels are scanned.
    void prepare(std::size_t g, std::byte* scratch) const noexcept {
        const tiered_scratch s = layout_.at(scratch);
        const auto queries =
            steps::scale_queries<Arch>(request_.queries(g), request_.scale, s.queries);
        const auto chosen = steps::choose_channels<Arch>(
            queries, view_.head_dim(), view_.of_head(g).moments, channels_, s.channel_scratch,
            {s.channels, s.scan_weights, s.unread});
        *s.scan = {chosen.r, chosen.noise};
    }

    /// Scanned logits of a chunk of tokens, as far as they have labels. The bits do not depend
    /// on where chunks begin (steps::block_states).
    void chunk(std::size_t g, std::byte* scratch, std::size_t c) const noexcept {
        const std::size_t scanned = labelled(g);
        scan(g, scratch, c * chunk_, std::min(scanned, (c + 1) * chunk_), scanned);
    }
    void all_chunks(std::size_t g, std::byte* scratch) const noexcept {
        const std::size_t scanned = labelled(g);
        for (std::size_t begin = 0; begin < scanned; begin += run_tokens)
            scan(g, scratch, begin, std::min(scanned, begin + run_tokens), scanned);
    }

    void finish(std::size_t g, std::byte* scratch) const noexcept {
        const tiered_scratch s = layout_.at(scratch);
        tiered_head<Arch, T> head(request_, view_, params_, g, labelled(g), layout_.columns(), s);
        const bool dense = !head.finish();
        if (dense) attend_all(g, s);
        if (request_.report == nullptr) return;
        const std::size_t rows = row_bytes(view_.rows(), view_.seq_len()) / heads();
        report_bytes(head.scan_bytes(), head.selected_bytes() + (dense ? rows : 0));
    }

   private:
    /// Of tokens [begin, end) of the `scanned` ones, if there are any.
    void scan(std::size_t g, std::byte* scratch, std::size_t begin, std::size_t end,
              std::size_t scanned) const noexcept {
        if (begin >= end) return;
        const tiered_scratch s = layout_.at(scratch);
        steps::scan_chunk<Arch>(
            view_.rows(), g, {s.scan_weights, request_.group, s.scan->channels, s.channels}, begin,
            end,
            {s.scores, request_.group, view_.seq_len(), scanned, s.maximum, s.sum, nullptr, true});
    }

    /// What the heads of a run have read so far.
    struct byte_sums {
        std::size_t scan = 0, selected = 0, heads = 0;
    };

    /// Heads end in any order; the last one writes what all have read, and leaves zeros for
    /// the next run.
    void report_bytes(std::size_t scan, std::size_t selected) const noexcept {
        using counter = std::atomic_ref<std::size_t>;
        counter(sums_.scan).fetch_add(scan, std::memory_order_relaxed);
        counter(sums_.selected).fetch_add(selected, std::memory_order_relaxed);
        if (counter(sums_.heads).fetch_add(1, std::memory_order_acq_rel) + 1 != heads()) return;
        step_bytes& bytes = request_.report->bytes;
        bytes.scan = sums_.scan;
        bytes.selected = sums_.selected;
        request_.report->bytes_read = bytes.scan + bytes.selected + bytes.tail;
        sums_ = {};
    }

    [[nodiscard]] std::size_t labelled(std::size_t g) const noexcept {
        std::size_t tokens = 0;
        for (std::size_t s = 0; s < view_.rows().segments_per_head(); ++s) {
            const auto& part = view_.rows().segment(s, g);
            tokens += part.labelled;
            if (part.labelled != part.tokens) break;
        }
        return tokens;
    }

    /// Dense attention of one KV head, in the order in which dense_attention merges.
    void attend_all(std::size_t g, const tiered_scratch& s) const noexcept {
        const std::size_t width = view_.value_dim();
        const steps::scaled_queries queries{s.queries, request_.group,
                                            simd::padded<Arch>(view_.head_dim())};
        const auto all = steps::place_partial<Arch>(s.partials, request_.group, width);
        const auto part = steps::place_partial<Arch>(
            s.partials + steps::partial_floats<Arch>(request_.group, width), request_.group, width);
        for (std::size_t begin = 0; begin < view_.seq_len(); begin += chunk_tokens) {
            const auto& result = begin == 0 ? all : part;
            result.clear();
            steps::attend_rows<Arch, T>(queries,
                                        steps::streamed_rows<T, int2_label>(
                                            view_.rows(), g, request_.group, begin,
                                            std::min(begin + chunk_tokens, view_.seq_len())),
                                        view_.head_dim(), width, result);
            if (begin != 0) steps::merge_attention(all, part);
        }
        for (std::size_t h = 0; h < request_.group; ++h) {
            steps::finish_attention(all, h, width, request_.out_row(g, h));
            request_.report_head(g, h, 1.0f, kernels::log_sum_exp(all.state[h]));
            if (request_.report != nullptr)
                request_.report->heads[g * request_.group + h].dense = true;
        }
    }

    attention_request<T, int2_label> request_;
    tiered_view<T> view_;
    tiered_params params_;
    std::size_t channels_, chunk_, chunks_;
    tiered_layout<Arch> layout_;
    mutable byte_sums sums_;
};

}  // namespace detail
SPARQ_NAMESPACE_END
