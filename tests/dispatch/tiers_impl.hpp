// SPDX-License-Identifier: MIT
// The calls in tiers of calls.hpp on the instruction set Arch. Nothing here has external linkage.
#pragma once

#include "calls_impl.hpp"

namespace dispatch_calls {
namespace {

constexpr sparq::tiered_params to_tolerance{.tolerance = 0.1f};
constexpr sparq::tiered_params fixed_tiers{.refined = 90, .exact = 40};
constexpr sparq::tiered_params all_exact{.tolerance = 0.0f};

/// Like make_cache: truncated behind a whole strip, and tokens that came one by one.
template <class Arch, class T>
sparq::tiered_cache<T> make_tiered_cache(const problem& p) {
    sparq::tiered_cache<T> cache(p.heads_kv, p.head_dim, p.value_dim);
    const auto append = [&](std::size_t begin, std::size_t end) {
        cache.template append<Arch>(rows(p.keys, p.heads_kv * p.head_dim, begin, end),
                                    rows(p.values, p.heads_kv * p.value_dim, begin, end));
    };
    append(0, p.seq_len - 1);
    cache.template truncate<Arch>(p.seq_len / 2);
    append(p.seq_len / 2, p.seq_len - 3);
    for (std::size_t t = p.seq_len - 3; t < p.seq_len; ++t) append(t, t + 1);
    return cache;
}

/// What a view knows beside K, V and labels.
template <class T>
void take_codes(const problem& p, const sparq::tiered_view<T>& view, result& r) {
    const std::size_t pitch = view.code_row_pitch();
    for (std::size_t g = 0; g < p.heads_kv; ++g) {
        const auto& head = view.of_head(g);
        for (const float* moment :
             {head.moments.mean, head.moments.variance, head.moments.square_width})
            r.moments.insert(r.moments.end(), moment, moment + p.head_dim);
        r.value_squares.push_back(head.value_squares);
        for (std::size_t s = 0; s < view.rows().segments_per_head(); ++s)
            if (head.open_ranges != nullptr)
                r.rows.insert(r.rows.end(), view.code_rows(s, g),
                              view.code_rows(s, g) + view.rows().segment(s, g).tokens * pitch);
    }
}

template <class Arch, class T>
result in_tiers(const problem& p, const sparq::tiered_view<T>& view,
                const sparq::tiered_params& how) {
    recorder to(p);
    sparq::sparq_attention<Arch>(p.q, view, how, to.out, {.report = &to.report});
    return to.take();
}

template <class Arch, class T>
result planned_tiers(const problem& p, const sparq::tiered_view<T>& view,
                     const sparq::tiered_params& how) {
    recorder to(p);
    run_on_threads(sparq::plan_tiered<Arch>(p.q, view, how, to.out, {.report = &to.report}));
    return to.take();
}

/// A token of the oldest strip, one of the newest, and one behind it are written anew.
template <class Arch, class T>
result beside_engine(const problem& p) {
    engine_memory<T> memory(p);
    const sparq::strided_kv<T> engine = memory.rows(p);
    sparq::tier_codes<T> codes(p.heads_kv, p.head_dim, p.value_dim);
    codes.template append<Arch>(engine, p.seq_len - 1);
    codes.truncate(p.seq_len / 2);
    codes.template append<Arch>(engine, p.seq_len - p.seq_len / 2);
    for (const std::size_t cell : {std::size_t{3}, p.seq_len - p.seq_len / 9, p.seq_len - 2}) {
        for (std::size_t c = 0; c < engine.key_token_stride; ++c)
            memory.keys[cell * engine.key_token_stride + c] = T(p.keys[c] * 1.5f);
        for (std::size_t c = 0; c < engine.value_token_stride; ++c)
            memory.values[cell * engine.value_token_stride + c] = T(p.values[c] * 0.75f);
        codes.template rewrite<Arch>(engine, cell);
    }
    const std::vector<sparq::token_range> visible{{0, p.seq_len / 3},
                                                  {p.seq_len / 2 - 5, p.seq_len}};
    sparq::tiered_view_storage<T> storage;
    const auto view = codes.template view<Arch>(engine, visible, storage);
    result r = in_tiers<Arch>(p, view, to_tolerance);
    take_codes(p, view, r);
    return r;
}

template <class Arch, class T>
std::vector<result> attend_tiers_as(const problem& p) {
    const sparq::tiered_cache<T> cache = make_tiered_cache<Arch, T>(p);
    const sparq::tiered_view<T> view = cache.view();
    recorder of_cache(p);
    sparq::sparq_attention<Arch>(p.q, cache, to_tolerance, of_cache.out,
                                 {.report = &of_cache.report});
    std::vector<result> all{of_cache.take(),
                            in_tiers<Arch>(p, view, fixed_tiers),
                            in_tiers<Arch>(p, view, all_exact),
                            planned_tiers<Arch>(p, view, to_tolerance),
                            planned_tiers<Arch>(p, view, all_exact),
                            beside_engine<Arch, T>(p)};
    take_codes(p, view, all.front());
    return all;
}

/// @param type  float_ or half
template <class Arch>
std::vector<result> attend_tiers_on(const problem& p, element type) {
    return type == element::float_ ? attend_tiers_as<Arch, float>(p)
                                   : attend_tiers_as<Arch, sparq::half>(p);
}

}  // namespace
}  // namespace dispatch_calls
