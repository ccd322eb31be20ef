// SPDX-License-Identifier: MIT
// Quest as a baseline: the pages of 16 tokens whose keys might score highest.
//
//   bound[page] = sum over the group and over c of max(q_c * min_c, q_c * max_c)
//
// min and max are those of the page's keys, channel by channel. With q+ = max(q, 0) and
// q- = min(q, 0) this is q+ . max + q- . min, which is linear: a group's bound is one dot
// product of width 2 * d_h.
//
// Tang et al., "Quest", arXiv 2406.10774. The paper has one query head a KV head; the sum
// over the group is what makes one choice for all of it here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "../detail/baseline_call.hpp"
#include "../detail/isa_vector.hpp"
#include "../kernels/convert.hpp"
#include "../kernels/top_k.hpp"

SPARQ_NAMESPACE_BEGIN
namespace baselines {

/// Tokens of a page.
inline constexpr std::size_t quest_page_tokens = 16;

/// The bounds of the pages of one history, kept up to date as it grows. Memory: 2 * d_h
/// elements of T a page and KV head. One thread at a time may change it.
template <cache_element T>
class quest_pages {
   public:
    /// @throws std::invalid_argument for a zero or overflowing size
    SPARQ_PER_ISA quest_pages(std::size_t heads_kv, std::size_t head_dim)
        : heads_kv_(heads_kv),
          width_(detail::checked_product("head_dim", head_dim, 2 * sizeof(float)) / sizeof(float)),
          bounds_(heads_kv) {
        detail::require_at_least_one("heads_kv", heads_kv);
        detail::require_at_least_one("head_dim", head_dim);
        floats_.resize(width_ + head_dim);
    }

    /// Tokens known. A page that is not full counts with the tokens it has.
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] SPARQ_PER_ISA std::size_t pages() const noexcept {
        return (size_ + quest_page_tokens - 1) / quest_page_tokens;
    }
    /// [2 * d_h] of a page: the maxima, then the minima. NaN in a key is passed over.
    [[nodiscard]] SPARQ_PER_ISA const T* bounds(std::size_t g, std::size_t page) const noexcept {
        return bounds_[g].data() + page * width_;
    }

    /// Makes room for n tokens, so that appends up to there allocate nothing.
    SPARQ_PER_ISA void reserve(std::size_t n) {
        const std::size_t wanted = (n + quest_page_tokens - 1) / quest_page_tokens;
        for (auto& head : bounds_) head.reserve(detail::checked_product("n", wanted, width_));
    }

    /// Takes in the keys of tokens [size(), view.seq_len()); reads each once. Tokens that
    /// are known are not looked at again: they must not have changed.
    /// @throws std::invalid_argument for other dims or fewer tokens than are known;
    ///         std::bad_alloc. Either leaves all as it was.
    template <class Arch = default_arch, class Label>
    void append(const kv_view<T, Label>& view) {
        check_dims(view);
        const std::size_t end = view.seq_len();
        if (end < size_) detail::refuse("seq_len", end, detail::text("at least size() = ", size_));
        const std::size_t wanted = (end + quest_page_tokens - 1) / quest_page_tokens * width_;
        for (auto& head : bounds_)
            if (wanted > head.capacity()) head.reserve(std::max(wanted, 2 * head.capacity()));
        for (std::size_t g = 0; g < heads_kv_; ++g) {
            bounds_[g].resize(std::max(wanted, bounds_[g].size()));
            steps::token_cursor<T, Label> cursor(view, g);
            for (std::size_t t = size_; t < end;) {
                const std::size_t page = t / quest_page_tokens;
                const std::size_t stop = std::min(end, (page + 1) * quest_page_tokens);
                widen<Arch>(bounds_[g].data() + page * width_, cursor, t, stop);
                t = stop;
            }
        }
        size_ = end;
    }

    /// Forgets tokens from n on. What it leaves of the page that it cuts is forgotten too:
    /// the next append reads these (up to 15) tokens again. size() becomes the whole pages.
    /// @throws std::invalid_argument when n exceeds size()
    SPARQ_PER_ISA void truncate(std::size_t n) {
        if (n > size_) detail::refuse("n", n, detail::text("at most size() = ", size_));
        if (n != size_) size_ = n / quest_page_tokens * quest_page_tokens;
    }
    /// Forgets all tokens and keeps the memory.
    void clear() noexcept { size_ = 0; }

    /// @throws std::invalid_argument when the view has other dims
    template <class Label>
    SPARQ_PER_ISA void check_dims(const kv_view<T, Label>& view) const {
        if (view.heads_kv() != heads_kv_ || 2 * view.head_dim() != width_)
            detail::refuse("view", detail::text(view.heads_kv(), " x ", view.head_dim()),
                           detail::text("heads_kv x d_h = ", heads_kv_, " x ", width_ / 2));
    }

   private:
    /// Takes tokens [begin, end) of one page into its bounds.
    template <class Arch, class Label>
    void widen(T* page, steps::token_cursor<T, Label>& cursor, std::size_t begin,
               std::size_t end) noexcept {
        constexpr float infinity = std::numeric_limits<float>::infinity();
        const std::size_t head_dim = width_ / 2;
        float *const most = floats_.data(), *const least = most + head_dim;
        float* const key = least + head_dim;
        if (begin % quest_page_tokens == 0) {
            std::fill_n(most, head_dim, -infinity);
            std::fill_n(least, head_dim, infinity);
        } else {
            kernels::convert_row<Arch>(page, width_, most);
        }
        for (std::size_t t = begin; t < end; ++t) {
            cursor.seek(t);
            kernels::convert_row<Arch>(cursor.key_row(), head_dim, key);
            for (std::size_t c = 0; c < head_dim; ++c) {
                most[c] = key[c] > most[c] ? key[c] : most[c];
                least[c] = key[c] < least[c] ? key[c] : least[c];
            }
        }
        kernels::convert_row<Arch>(static_cast<const float*>(most), width_, page);
    }

    std::size_t heads_kv_, width_;
    detail::isa_vector<detail::isa_vector<T>> bounds_;  ///< [heads_kv][pages, 2 * d_h]
    detail::isa_vector<float> floats_;  ///< [3 * d_h]: bounds and a key in the making
    std::size_t size_ = 0;
};

struct quest_params {
    /// Tokens attended: k / 16 pages, rounded up; at least 1. k >= S gives the dense result.
    std::size_t k = 128;
    float scale = 0.0f;  ///< factor on q . k; 0 for 1 / sqrt(d_h)
    /// The newest page is one of them, whatever its bound: while it fills up its bound is
    /// that of few keys, and it loses to pages whose tokens weigh less.
    bool newest_page = false;
};

}  // namespace baselines

namespace detail {

/// The sums over the group of max(q, 0) and of min(q, 0), one behind the other, where q is
/// turned round if the scale is negative: the logits are then as well. A head that holds
/// something not finite has no say.
SPARQ_PER_ISA inline void signed_query_sums(const steps::query_group& q, float scale,
                                            float* sums) noexcept {
    std::fill_n(sums, 2 * q.head_dim, 0.0f);
    for (std::size_t h = 0; h < q.heads; ++h) {
        const float* head = q.head(h);
        if (!std::all_of(head, head + q.head_dim, [](float x) { return std::isfinite(x); }))
            continue;
        for (std::size_t c = 0; c < q.head_dim; ++c) {
            const float x = scale < 0.0f ? -head[c] : head[c];
            sums[x > 0.0f ? c : q.head_dim + c] += x;
        }
    }
}

template <class Arch, class T, class Label>
class quest_call {
   public:
    quest_call(const attention_request<T, Label>& request, const baselines::quest_pages<T>& pages,
               std::size_t wanted, bool newest_page, scratch_layout& layout)
        : request_(request),
          pages_(pages),
          wanted_(wanted),
          newest_page_(newest_page),
          attend_(request, layout) {
        query_ = layout.take<float>(width());
        bounds_ = layout.take<float>(pages.pages());
        scratch_ = layout.take<float>(kernels::top_k_scratch_floats(pages.pages()));
        chosen_ = layout.take<std::uint32_t>(pages.pages());
        tokens_ = layout.take<std::uint32_t>(wanted * baselines::quest_page_tokens);
    }

    /// @return  how many tokens were attended
    std::size_t head(std::size_t g, std::byte* memory) const noexcept {
        auto* chosen = reinterpret_cast<std::uint32_t*>(memory + chosen_);
        auto* tokens = reinterpret_cast<std::uint32_t*>(memory + tokens_);
        choose(g, memory, chosen);
        std::size_t count = 0;
        for (std::size_t i = 0; i < wanted_; ++i) {
            const std::size_t first = chosen[i] * baselines::quest_page_tokens;
            const std::size_t end =
                std::min(first + baselines::quest_page_tokens, request_.view.seq_len());
            for (std::size_t t = first; t < end; ++t)
                tokens[count++] = static_cast<std::uint32_t>(t);
        }
        attend_.attend(g, tokens, count, count == request_.view.seq_len() ? 1.0f : NAN, memory);
        return count;
    }

   private:
    [[nodiscard]] std::size_t width() const noexcept {
        return simd::padded<Arch>(2 * request_.view.head_dim());
    }

    void choose(std::size_t g, std::byte* memory, std::uint32_t* chosen) const noexcept {
        const std::size_t pages = pages_.pages(), head_dim = request_.view.head_dim();
        auto* query = reinterpret_cast<float*>(memory + query_);
        auto* bounds = reinterpret_cast<float*>(memory + bounds_);
        std::fill_n(query, width(), 0.0f);
        signed_query_sums(request_.queries(g), request_.scale, query);
        const T* rows[2 * attend_block_tokens];  // of a block, and of the next to ask for
        for (std::size_t p = 0; p < pages; p += attend_block_tokens) {
            const std::size_t count = std::min(attend_block_tokens, pages - p);
            const std::size_t known = std::min(2 * attend_block_tokens, pages - p);
            for (std::size_t i = 0; i < known; ++i) rows[i] = pages_.bounds(g, p + i);
            const kernels::upcoming_rows<T> next{rows + count, known - count, 2 * head_dim};
            kernels::dot_rows<Arch>(query, 1, width(), rows, count, 2 * head_dim, bounds + p, pages,
                                    next);
        }
        if (newest_page_) bounds[pages - 1] = std::numeric_limits<float>::infinity();
        kernels::top_k<Arch>(bounds, pages, wanted_, nullptr,
                             reinterpret_cast<float*>(memory + scratch_), chosen);
    }

    attention_request<T, Label> request_;
    const baselines::quest_pages<T>& pages_;
    std::size_t wanted_;
    bool newest_page_;
    baseline_call<Arch, T, Label> attend_;
    std::size_t query_ = 0, bounds_ = 0, scratch_ = 0, chosen_ = 0, tokens_ = 0;
};

}  // namespace detail

namespace baselines {

/// Attends the k / 16 pages (rounded up) with the greatest bounds, renormalised over them;
/// equal bounds: the older page. No page is forced in but the newest, on request.
///
/// Reads 2 * d_h elements for each page and k * (d_h + value_dim) of K and V a KV head.
/// Error bound: attend_selected's. One thread; allocates nothing with a workspace that has
/// seen the shape.
///
/// @param q      [heads_q, d_h]; heads_q is a multiple of heads_kv
/// @param pages  of this very history: pages.size() = S
/// @param out    [heads_q, value_dim], overwritten; must not overlap q
/// @throws std::invalid_argument for k = 0, pages of another size and what dense_attention
///         refuses; std::bad_alloc. Nothing is changed then.
///
/// The report: `bytes.scan` the bounds, `bytes.selected` K and V; `covered` is not known,
/// NaN, unless dense. tokens_per_head is 16 a page: a head that attends the last page and
/// finds fewer has no_token in the places left. A NaN or an infinity in q or V makes the
/// heads that read it NaN, and no other; a page with an infinite key may rank last.
template <class Arch = default_arch, class T, class Label>
void quest_attention(std::span<const float> q, const kv_view<T, Label>& view,
                     const quest_pages<T>& pages, const quest_params& params, std::span<float> out,
                     const call_options& options = {}) {
    detail::require_at_least_one("k", params.k);
    const auto request = detail::check_request(q, view, params.scale, out, options);
    pages.check_dims(view);
    const std::size_t seq_len = view.seq_len(), heads = view.heads_kv();
    if (pages.size() != seq_len)
        detail::refuse("pages.size()", pages.size(), detail::text("S = ", seq_len));
    const std::size_t wanted = std::min((params.k - 1) / quest_page_tokens + 1, pages.pages());
    detail::scratch_layout layout;
    const detail::quest_call<Arch, T, Label> call(request, pages, wanted, params.newest_page,
                                                  layout);
    detail::call_scratch memory(options.work);
    std::byte* scratch = memory.prepare(layout);
    const std::size_t most = std::min(wanted * quest_page_tokens, seq_len);
    detail::begin_report(request, {}, most, wanted == pages.pages());
    std::size_t attended = 0;
    for (std::size_t g = 0; g < heads; ++g) attended += call.head(g, scratch);
    if (request.report == nullptr) return;
    step_bytes& bytes = request.report->bytes;
    bytes.scan = heads * pages.pages() * 2 * view.head_dim() * sizeof(T);
    bytes.selected = attended * (view.head_dim() + view.value_dim()) * sizeof(T);
    request.report->bytes_read = bytes.scan + bytes.selected;
}

}  // namespace baselines
SPARQ_NAMESPACE_END
