// SPDX-License-Identifier: MIT
// The methods that SparQ is compared with, against golden vectors, the definitions in double
// and what each promises about its state, its report and bad input.
#include <array>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>

#include <sparq/baselines.hpp>

#include "baselines_reference.hpp"
#include "golden_data.hpp"
#include "problem.hpp"

namespace {

using namespace sparq::baselines;
using reference::indices;
using reference::mass;
using reference::numbers;
using sparq::half;
using test::answer;
using test::arch;
using test::problem;
using test::shape;

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr std::array masses{dropped_mass::lost, dropped_mass::renormalise, dropped_mass::spread};
constexpr std::array reference_masses{mass::lost, mass::renormalise, mass::spread};

/// Runs call(out, options) with a report that keeps the tokens.
template <class Call>
answer ask(const shape& dims, const Call& call) {
    answer a;
    a.out.assign(dims.heads_q() * dims.value_dim, -12345.0f);
    a.report.keep_tokens = true;
    sparq::call_options options;
    options.report = &a.report;
    call(std::span<float>(a.out), options);
    return a;
}

template <class T, class Label>
answer run_lm_infinite(const problem& p, const sparq::kv_view<T, Label>& view,
                       const lm_infinite_params& params) {
    return ask(p.dims, [&](std::span<float> out, const sparq::call_options& options) {
        lm_infinite_attention<arch>(p.q, view, params, out, options);
    });
}

template <class T, class Label>
answer run_flexgen(const problem& p, const sparq::kv_view<T, Label>& view,
                   const flexgen_params& params) {
    return ask(p.dims, [&](std::span<float> out, const sparq::call_options& options) {
        flexgen_attention<arch>(p.q, view, params, out, options);
    });
}

template <class T, class Label>
answer run_quest(const problem& p, const sparq::kv_view<T, Label>& view,
                 const quest_params& params) {
    quest_pages<T> pages(p.dims.heads_kv, p.dims.head_dim);
    pages.template append<arch>(view);
    return ask(p.dims, [&](std::span<float> out, const sparq::call_options& options) {
        quest_attention<arch>(p.q, view, pages, params, out, options);
    });
}

template <class T, class Label>
answer run_h2o(h2o_state& state, const shape& dims, std::span<const float> q,
               const sparq::kv_view<T, Label>& view) {
    return ask(dims, [&](std::span<float> out, const sparq::call_options& options) {
        state.step<arch>(q, view, out, options);
    });
}

/// The tokens that KV head g attended.
indices tokens_of(const answer& a, size_t g) {
    const size_t n = a.report.tokens_per_head;
    indices tokens;
    for (size_t i = 0; i < n; ++i)
        if (a.report.tokens[g * n + i] != no_token) tokens.push_back(a.report.tokens[g * n + i]);
    return tokens;
}

/// "" when head g is exact attention over the tokens that the report names.
std::string check_attended(const reference::head& h, const answer& a, size_t g, double scale = 0,
                           const bounds::assumptions& assume = {}) {
    reference::result res;
    reference::attend(h, tokens_of(a, g), scale, res);
    bounds::limits lim;
    bounds::attend(h, res, scale, assume, lim);
    // Weights that are not divided by their sum carry the error of its logarithm.
    for (size_t j = 0; j < h.group; ++j) {
        const double extra = 8 * bounds::u * (1 + std::abs(res.log_sum_exp[j]));
        for (size_t c = 0; c < h.value_dim; ++c)
            for (size_t i = 0; i < res.tokens.size(); ++i)
                lim.out[j * h.value_dim + c] += extra * res.weights[j * res.tokens.size() + i] *
                                                std::abs(h.values[res.tokens[i] * h.value_dim + c]);
    }
    const float* out = a.out.data() + g * h.group * h.value_dim;
    const std::string wrong = test::outside(out, res.out.data(), lim.out.data(), res.out.size());
    if (!wrong.empty()) return "out, " + wrong;
    for (size_t j = 0; j < h.group; ++j)
        if (!(std::abs(static_cast<double>(a.report.heads[g * h.group + j].log_sum_exp) -
                       res.log_sum_exp[j]) <= 2 * lim.log_sum_exp[j]))
            return "log_sum_exp of head " + std::to_string(j);
    return {};
}

std::string check_flexgen(const reference::head& h, const answer& a, size_t g, mass what,
                          double scale = 0) {
    const indices tokens = tokens_of(a, g);
    const auto ranking = reference::flexgen_ranking(h, scale);
    if (!bounds::is_valid_choice(tokens, ranking.ranking, ranking.error, tokens.size(), 0))
        return "the choice";
    const auto want = reference::flexgen(h, tokens, what, scale);
    const float* out = a.out.data() + g * h.group * h.value_dim;
    const std::string wrong =
        test::outside(out, want.out.data(), want.limit.data(), want.out.size());
    if (!wrong.empty()) return "out, " + wrong;
    for (size_t j = 0; j < h.group; ++j)
        if (!(std::abs(static_cast<double>(a.report.heads[g * h.group + j].covered) -
                       want.covered[j]) <= want.covered_limit[j]))
            return "covered of head " + std::to_string(j);
    return {};
}

std::string check_quest(const reference::head& h, const answer& a, size_t g, size_t k,
                        double scale = 0) {
    const indices tokens = tokens_of(a, g);
    indices pages, whole;
    for (size_t t : tokens)
        if (pages.empty() || pages.back() != t / 16) pages.push_back(t / 16);
    for (size_t page : pages)
        for (size_t t = page * 16; t < std::min(page * 16 + 16, h.seq_len); ++t) whole.push_back(t);
    if (tokens != whole) return "a page in part";
    const auto bound = reference::quest_bounds(h, scale < 0 ? -1 : 1);
    if (!bounds::is_valid_choice(pages, bound.ranking, bound.error, (k + 15) / 16, 0))
        return "the choice";
    return check_attended(h, a, g, scale);
}

/// Query token t of [n, heads_q, d_h].
std::span<const float> query(const std::vector<float>& q, const shape& d, size_t t) {
    const size_t width = d.heads_q() * d.head_dim;
    return std::span<const float>(q).subspan(t * width, width);
}

/// Gives head h the query of token t in KV head g.
void set_query(reference::head& h, const std::vector<float>& q, const shape& d, size_t t,
               size_t g) {
    const auto from = query(q, d, t).subspan(g * d.group * d.head_dim, d.group * d.head_dim);
    h.q.assign(from.begin(), from.end());
}

/// The first n tokens of a problem.
template <class T, class Label>
sparq::kv_cache<T, Label> cache_of(const problem& p, size_t n) {
    sparq::kv_cache<T, Label> cache(p.dims.heads_kv, p.dims.head_dim, p.dims.value_dim);
    test::append_rows(cache, p, 0, n);
    return cache;
}

std::string not_refused(const std::function<void()>& call, const std::string& words) {
    try {
        call();
    } catch (const std::invalid_argument& refusal) {
        return std::string(refusal.what()).find(words) != std::string::npos ? "" : refusal.what();
    }
    return "no exception";
}

}  // namespace

TEST_CASE("LM-Infinite, FlexGen and Quest agree with their definitions", "[baselines]") {
    size_t n = 0;
    for (size_t seq_len : test::sizes{1, 15, 33, 260, 1100})
        for (size_t group : test::sizes{1, 2, 9})
            for (size_t k : test::sizes{1, 20, 64, seq_len})
                test::with_few_types(n++, [&]<class T, class Label>() {
                    const shape d{2, group, 30 + n % 37, 24 - n % 5, seq_len};
                    const problem p = test::make_problem(d, 500 + n, 1.5f);
                    const auto cache = test::make_cache<T, Label>(p);
                    const float scale = n % 4 == 0 ? -0.15f : 0.0f;
                    const size_t initial = k / 3;
                    INFO(d << ", k " << k << ", seed " << p.seed);
                    const auto ends = run_lm_infinite(p, cache.view(), {k, initial, scale});
                    const auto top = run_flexgen(p, cache.view(), {k, masses[n / 2 % 3], scale});
                    const auto pages = run_quest(p, cache.view(), {k, scale});
                    for (size_t g = 0; g < 2; ++g) {
                        const auto h = test::reference_head<T, Label>(p, g);
                        const auto s = static_cast<double>(scale);
                        CHECK(tokens_of(ends, g) == reference::lm_infinite(seq_len, k, initial));
                        CHECK(check_attended(h, ends, g, s) == "");
                        CHECK(tokens_of(top, g).size() == std::min(k, seq_len));
                        CHECK(check_flexgen(h, top, g, reference_masses[n / 2 % 3], s) == "");
                        CHECK(check_quest(h, pages, g, k, s) == "");
                        if (k < seq_len) continue;
                        const auto dense = reference::dense(h, s);
                        for (const answer* a : {&ends, &top, &pages}) {
                            CHECK(a->report.dense);
                            for (size_t j = 0; j < group; ++j)
                                CHECK(a->report.heads[g * group + j].covered == 1.0f);
                            CHECK(tokens_of(*a, g) == reference::all_tokens(h));
                        }
                    }
                });
}

TEST_CASE("H2O agrees with its definition at every step", "[baselines]") {
    size_t n = 0;
    for (size_t prompt : test::sizes{0, 1, 40, 333})
        for (size_t group : test::sizes{1, 3, 9})
            test::with_few_types(n++, [&]<class T, class Label>() {
                const shape d{2, group, 30 + n % 11, 24, prompt + 40};
                const problem p = test::make_problem(d, 600 + n);
                const auto queries =
                    test::grid_normals(d.seq_len * d.heads_q() * d.head_dim, 700 + n, 1.5f);
                const h2o_params params{1 + n * 7 % 30, n % 2 == 0 ? 0 : 1 + n * 7 % 30 / 4, 0.0f};
                INFO(d << ", k " << params.k << ", local " << params.local << ", seed " << p.seed);
                auto cache = cache_of<T, Label>(p, std::max<size_t>(prompt, 1));
                h2o_state state(2, params);
                if (prompt != 0)
                    state.append<arch>(
                        std::span<const float>(queries).first(prompt * d.heads_q() * d.head_dim),
                        prompt, cache.view());
                reference::h2o want[2];
                reference::head heads[2];
                for (size_t g = 0; g < 2; ++g) {
                    heads[g] = test::reference_head<T, Label>(p, g);
                    for (size_t t = 0; t < prompt; ++t) {
                        want[g].add();
                        set_query(heads[g], queries, d, t, g);
                        want[g].take_query(heads[g]);
                    }
                }
                for (size_t t = prompt; t < d.seq_len; ++t) {
                    if (t >= cache.seq_len()) test::append_rows(cache, p, t, t + 1);
                    const answer got = run_h2o(state, d, query(queries, d, t), cache.view());
                    CHECK(got.report.dense == (t + 1 <= params.k + 1));
                    for (size_t g = 0; g < 2; ++g) {
                        want[g].add();
                        const indices live = tokens_of(got, g);
                        CHECK(indices(state.live(g).begin(), state.live(g).end()) == live);
                        REQUIRE(want[g].allows(live, params.k, params.local));
                        want[g].keep(live);
                        set_query(heads[g], queries, d, t, g);
                        CHECK(check_attended(heads[g], got, g) == "");
                        want[g].take_query(heads[g]);
                        for (size_t i = 0; i < live.size(); ++i)
                            CHECK(std::abs(state.scores(g)[i] - want[g].score[live[i]]) <=
                                  want[g].error[live[i]] + 1e-12 * want[g].score[live[i]]);
                    }
                }
            });
}

TEST_CASE("the baselines and their reference agree with the golden vectors", "[baselines]") {
    const auto c = test::read_golden_baselines(SPARQ_TEST_DATA "/baselines.json");
    const bounds::assumptions assume{.input_roundings = 3};
    std::vector<size_t> cells;
    for (size_t t = 0; t < c.valid.size(); ++t)
        if (c.valid[t]) cells.push_back(t);
    REQUIRE(cells.size() == 12);
    problem p{{2, 2, 8, 8, cells.size()}, 0, {}, {}, {}};
    const auto add = [](auto& to, const test::row& from) {
        for (double x : from) to.push_back(static_cast<float>(x));
    };
    for (const test::row& head : c.q) add(p.q, head);
    for (size_t t : cells)
        for (size_t g = 0; g < 2; ++g) add(p.keys, c.keys[g][t]), add(p.values, c.values[g][t]);
    const auto cache = test::make_cache<float>(p);
    const auto ends = run_lm_infinite(p, cache.view(), {6, 2, 0.0f});
    const std::array<const test::matrix*, 3> golden{&c.flexgen, &c.flexgen_renormalised,
                                                    &c.flexgen_spread};
    for (size_t g = 0; g < 2; ++g) {
        // In double without the rounding of inputs to float.
        reference::head h{2, 8, 8, 12, {}, {}, {}, {}};
        for (size_t j = 0; j < 2; ++j)
            h.q.insert(h.q.end(), c.q[2 * g + j].begin(), c.q[2 * g + j].end());
        for (size_t t : cells) {
            h.keys.insert(h.keys.end(), c.keys[g][t].begin(), c.keys[g][t].end());
            h.values.insert(h.values.end(), c.values[g][t].begin(), c.values[g][t].end());
        }
        reference::result res;
        reference::attend(h, reference::lm_infinite(12, 6, 2), 0, res);
        const indices best = reference::largest(reference::flexgen_ranking(h).ranking, 5);
        CHECK(tokens_of(ends, g) == res.tokens);
        CHECK(check_attended(h, ends, g, 0, assume) == "");
        const numbers close(8, 1e-12);
        for (size_t j = 0; j < 2; ++j)
            CHECK(test::outside(&res.out[j * 8], c.lm_infinite[2 * g + j].data(), close.data(),
                                8) == "");
        for (size_t m = 0; m < 3; ++m) {
            const auto want = reference::flexgen(h, best, reference_masses[m], 0, 3);
            const auto top = run_flexgen(p, cache.view(), {5, masses[m], 0.0f});
            CHECK(tokens_of(top, g) == best);
            for (size_t j = 0; j < 2; ++j) {
                const test::row& row = (*golden[m])[2 * g + j];
                CHECK(test::outside(&want.out[j * 8], row.data(), close.data(), 8) == "");
                CHECK(test::outside(&top.out[(2 * g + j) * 8], row.data(), &want.limit[j * 8], 8) ==
                      "");
            }
        }
    }
}

TEST_CASE("H2O agrees with the golden vectors", "[baselines]") {
    const auto c = test::read_golden_baselines(SPARQ_TEST_DATA "/baselines.json");
    REQUIRE(c.out.size() == 6);
    problem p{{2, 2, 8, 8, 14}, 0, {}, {}, {}};
    std::vector<float> queries;
    const auto add = [](auto& to, const test::row& from) {
        for (double x : from) to.push_back(static_cast<float>(x));
    };
    for (size_t t = 0; t < 14; ++t)
        for (size_t g = 0; g < 2; ++g) {
            add(p.keys, c.keys[g][t]), add(p.values, c.values[g][t]);
            for (size_t j = 0; j < 2; ++j) add(queries, c.prompt_and_steps[2 * g + j][t]);
        }
    p.q.assign(queries.begin(), queries.begin() + 32);
    auto cache = cache_of<float, float>(p, c.prompt);
    h2o_state state(2, {c.k, c.local, 0.0f});
    state.append<arch>(std::span<const float>(queries).first(c.prompt * 32), c.prompt,
                       cache.view());
    for (size_t s = 0; s < c.out.size(); ++s) {
        const size_t t = c.prompt + s;
        test::append_rows(cache, p, t, t + 1);
        const answer got = run_h2o(state, p.dims, query(queries, p.dims, t), cache.view());
        for (size_t g = 0; g < 2; ++g) {
            indices kept;
            for (size_t i = 0; i <= t; ++i)
                if (c.kept[s][g][i]) kept.push_back(i);
            CHECK(tokens_of(got, g) == kept);
            reference::head h = test::reference_head<float, float>(p, g);
            set_query(h, queries, p.dims, t, g);
            CHECK(check_attended(h, got, g) == "");
            // Values of unit size whose inputs were rounded to float; another choice is 1e-2 off.
            for (size_t j = 0; j < 2; ++j)
                for (size_t i = 0; i < 8; ++i)
                    CHECK(std::abs(static_cast<double>(got.out[(2 * g + j) * 8 + i]) -
                                   c.out[s][2 * g + j][i]) < 1e-5);
        }
    }
}

TEST_CASE("the reported tokens are a choice for attend_selected", "[baselines]") {
    const problem p = test::make_problem({2, 3, 48, 40, 700}, 801);
    const auto cache = test::make_cache<half>(p);
    for (const answer& a : {run_lm_infinite(p, cache.view(), {100, 16, 0.0f}),
                            run_quest(p, cache.view(), {100, 0.0f})})
        for (size_t g = 0; g < 2; ++g) {
            std::vector<std::uint32_t> tokens;
            for (size_t t : tokens_of(a, g)) tokens.push_back(static_cast<std::uint32_t>(t));
            std::vector<float> out(3 * 40), lse(3);
            sparq::attend_selected<arch>(cache.view(), g,
                                         std::span(p.q).subspan(g * 3 * 48, 3 * 48), tokens, 0.0f,
                                         out, lse);
            CHECK(test::same_bits(out, std::span(a.out).subspan(g * 120, 120)));
        }
}

TEST_CASE("the baselines count the bytes that they read", "[baselines]") {
    // Two KV heads, d_h 48, d_v 40, two bytes an element; 100 tokens are 7 pages, the last
    // of 4 tokens.
    const problem p = test::make_problem({2, 3, 48, 40, 100}, 802);
    const auto cache = test::make_cache<half>(p);
    const auto lm = run_lm_infinite(p, cache.view(), {30, 16, 0.0f}).report;
    CHECK(lm.bytes_read == 2 * 30 * 88 * 2);
    const auto lost = run_flexgen(p, cache.view(), {30, dropped_mass::lost, 0.0f}).report;
    CHECK(lost.bytes.scan == 2 * 100 * 48 * 2);
    CHECK(lost.bytes.selected == 2 * 30 * 40 * 2);
    CHECK(lost.bytes_read == lost.bytes.scan + lost.bytes.selected);
    const auto spread = run_flexgen(p, cache.view(), {30, dropped_mass::spread, 0.0f}).report;
    CHECK(spread.bytes_read == lost.bytes_read + 2 * 40 * sizeof(double));
    const answer quest = run_quest(p, cache.view(), {30, 0.0f});
    CHECK(quest.report.bytes.scan == 2 * 7 * 2 * 48 * 2);
    CHECK(quest.report.bytes.selected ==
          (tokens_of(quest, 0).size() + tokens_of(quest, 1).size()) * 88 * 2);
    h2o_state state(2, {30, 5, 0.0f});
    const auto h2o = run_h2o(state, p.dims, p.q, cache.view()).report;
    CHECK(h2o.bytes.scan == 2 * 100 * 12);
    CHECK(h2o.bytes.selected == 2 * 31 * 88 * 2);
    CHECK(h2o.tokens_per_head == 31);
}

TEST_CASE("equal scores: the older token, the older page", "[baselines]") {
    problem p = test::make_problem({1, 2, 16, 8, 100}, 803);
    for (size_t t = 1; t < 100; ++t)
        std::copy_n(p.keys.begin(), 16, p.keys.begin() + static_cast<std::ptrdiff_t>(t * 16));
    const auto cache = test::make_cache<float>(p);
    indices first(20), pages(32), fresh{0, 1, 2, 98, 99};
    std::iota(first.begin(), first.end(), size_t{0});
    std::iota(pages.begin(), pages.end(), size_t{0});
    CHECK(tokens_of(run_flexgen(p, cache.view(), {20, {}, 0.0f}), 0) == first);
    CHECK(tokens_of(run_quest(p, cache.view(), {20, 0.0f}), 0) == pages);
    std::iota(pages.begin() + 16, pages.end(), size_t{96});  // the newest page has 4 tokens
    pages.resize(20);
    CHECK(tokens_of(run_quest(p, cache.view(), {20, 0.0f, true}), 0) == pages);
    h2o_state state(1, {4, 1, 0.0f});  // no query has been seen: all scores are 0
    CHECK(tokens_of(run_h2o(state, p.dims, p.q, cache.view()), 0) == fresh);
}

TEST_CASE("Quest's bounds are the same however the tokens came and went", "[baselines]") {
    const problem p = test::make_problem({2, 1, 21, 8, 150}, 804);
    const auto whole = cache_of<half, half>(p, 150);
    quest_pages<half> fresh(2, 21), grown(2, 21);
    fresh.append<arch>(whole.view());
    sparq::kv_cache<half> cache(2, 21, 8);
    size_t n = 0;
    for (size_t next : test::sizes{1, 15, 16, 17, 60, 61, 100}) {
        test::append_rows(cache, p, n, next);
        grown.append<arch>(cache.view());
        n = next;
    }
    // Other tokens come and are taken back, within a page and on its border.
    for (size_t back : test::sizes{90, 80, 70}) {
        test::append_rows(cache, p, 0, 30);
        grown.append<arch>(cache.view());
        test::calls<half>::truncate(cache, back);
        grown.truncate(back);
        CHECK(grown.size() == back / 16 * 16);
        test::append_rows(cache, p, back, 100);
    }
    test::append_rows(cache, p, 100, 150);
    grown.append<arch>(cache.view());
    REQUIRE(grown.pages() == fresh.pages());
    for (size_t g = 0; g < 2; ++g)
        for (size_t page = 0; page < fresh.pages(); ++page)
            CHECK(std::memcmp(grown.bounds(g, page), fresh.bounds(g, page), 42 * 2) == 0);
    grown.clear();
    CHECK(grown.size() == 0);
    grown.append<arch>(whole.view());
    CHECK(std::memcmp(grown.bounds(1, 9), fresh.bounds(1, 9), 42 * 2) == 0);
}

TEST_CASE("H2O: a prompt in parts, a truncate and a clear", "[baselines]") {
    const shape d{2, 2, 16, 8, 120};
    const problem p = test::make_problem(d, 805);
    const auto queries = test::grid_normals(d.seq_len * d.heads_q() * d.head_dim, 806, 1.5f);
    const auto part = [&](size_t begin, size_t end) {
        return std::span<const float>(queries).subspan(begin * 64, (end - begin) * 64);
    };
    const auto cache = cache_of<half, half>(p, 100);
    h2o_state whole(2, {20, 5, 0.0f}), parts(2, {20, 5, 0.0f});
    whole.append<arch>(part(0, 100), 100, cache.view());
    parts.append<arch>(part(0, 1), 1, cache.view());
    parts.append<arch>(part(1, 38), 37, cache.view());
    parts.append<arch>(part(38, 100), 62, cache.view());
    for (size_t g = 0; g < 2; ++g)
        CHECK(std::equal(whole.scores(g).begin(), whole.scores(g).end(), parts.scores(g).begin()));

    auto longer = cache_of<half, half>(p, 101);
    // The scores of a prompt do not depend on k: a history serves every k.
    h2o_state other(2, {90, 0, 0.0f});
    other.append<arch>(part(0, 100), 100, cache.view());
    h2o_state copied(other, {20, 5, 0.0f});
    CHECK(other.size() == 100);
    const answer from_copy = run_h2o(copied, d, query(queries, d, 100), longer.view());
    const answer first = run_h2o(whole, d, query(queries, d, 100), longer.view());
    const std::vector<std::uint32_t> live(whole.live(0).begin(), whole.live(0).end());
    CHECK(live.size() == 21);
    CHECK(live.back() == 100);
    CHECK(test::same_answer(first, from_copy));
    CHECK(other.live(0).size() == 100);
    const std::vector<double> scores(whole.scores(0).begin(), whole.scores(0).end());
    whole.truncate(99);  // tokens 99 and 100 go; nothing that was dropped comes back
    CHECK(whole.size() == 99);
    REQUIRE(whole.live(0).size() == 19);
    for (size_t i = 0; i < 19; ++i) {
        CHECK(whole.live(0)[i] == live[i]);
        CHECK(whole.scores(0)[i] == scores[i]);
    }
    const answer again = run_h2o(whole, d, query(queries, d, 100), longer.view());
    CHECK(tokens_of(again, 0) == indices(live.begin(), live.end()));
    CHECK(test::same_bits(first.out, again.out));
    whole.truncate(0);
    CHECK(whole.live(1).empty());
    CHECK(whole.size() == 0);

    parts.clear();
    CHECK(parts.size() == 0);
    parts.append<arch>(part(0, 100), 100, cache.view());
    const answer cleared = run_h2o(parts, d, query(queries, d, 100), longer.view());
    CHECK(test::same_answer(first, cleared));
}

TEST_CASE("after a truncate H2O's heads may differ in their tokens", "[baselines]") {
    const shape d{2, 1, 8, 8, 60};
    problem p = test::make_problem(d, 807);
    const auto queries = test::grid_normals(d.seq_len * d.heads_q() * d.head_dim, 808, 4.0f);
    const auto cache = cache_of<float, float>(p, 50);
    h2o_state state(2, {10, 2, 0.0f});
    state.append<arch>(std::span<const float>(queries).first(49 * 16), 49, cache.view());
    run_h2o(state, d, query(queries, d, 49), cache.view());
    size_t cut = 49;
    const auto left = [&](size_t g) {
        const auto live = state.live(g);
        return static_cast<size_t>(std::lower_bound(live.begin(), live.end(), cut) - live.begin());
    };
    while (cut > 1 && left(0) == left(1)) --cut;
    REQUIRE(left(0) != left(1));
    const size_t most = std::max(left(0), left(1)) + 1;
    const indices live[2] = {
        {state.live(0).begin(), state.live(0).begin() + std::ptrdiff_t(left(0))},
        {state.live(1).begin(), state.live(1).begin() + std::ptrdiff_t(left(1))}};
    state.truncate(cut);
    const auto next = cache_of<float, float>(p, cut + 1);
    const answer got = run_h2o(state, d, query(queries, d, cut), next.view());
    CHECK(got.report.tokens_per_head == most);
    for (size_t g = 0; g < 2; ++g) {
        indices want = live[g];
        want.push_back(cut);
        CHECK(tokens_of(got, g) == want);
        reference::head h = test::reference_head<float, float>(p, g);
        set_query(h, queries, d, cut, g);
        CHECK(check_attended(h, got, g) == "");
    }
    CHECK(got.report.bytes.selected == (left(0) + left(1) + 2) * 16 * sizeof(float));
}

TEST_CASE("NaN and infinity in the baselines stay in the heads that read them", "[baselines]") {
    const shape d{2, 2, 20, 12, 90};
    const problem clean = test::make_problem(d, 809);
    const auto good = test::make_cache<float>(clean);
    const auto only = [&](const answer& a, size_t begin, size_t end) {
        for (size_t h = 0; h < 4; ++h)
            for (size_t c = 0; c < 12; ++c)
                if (std::isnan(a.out[h * 12 + c]) != (h >= begin && h < end)) return false;
        return true;
    };
    const auto all = [&](const problem& p, const auto& view) {
        h2o_state state(2, {30, 8, 0.0f});
        return std::array{run_lm_infinite(p, view, {30, 16, 0.0f}),
                          run_flexgen(p, view, {30, dropped_mass::spread, 0.0f}),
                          run_quest(p, view, {30, 0.0f}), run_h2o(state, d, p.q, view)};
    };
    const auto want = all(clean, good.view());
    for (float poison : {not_a_number, INFINITY, -INFINITY}) {
        problem bad_query = clean;  // query head 1, of the first KV head
        bad_query.q[20 + 7] = poison;
        const auto got = all(bad_query, good.view());
        for (size_t i = 0; i < got.size(); ++i) {
            INFO("method " << i << ", " << poison);
            CHECK(only(got[i], 1, 2));
            CHECK(test::same_bits(std::span(got[i].out).subspan(24),
                                  std::span(want[i].out).subspan(24)));
        }
        problem bad_key = clean;  // the newest token's key in the second KV head
        bad_key.keys[(89 * 2 + 1) * 20 + 3] = poison;
        const auto cache = test::make_cache<float>(bad_key);
        const auto after = all(bad_key, cache.view());
        for (size_t i = 0; i < after.size(); ++i) {
            INFO("method " << i << ", " << poison);
            if (i != 2) CHECK(only(after[i], 2, 4));  // Quest need not read the last page
            CHECK(test::same_bits(std::span(after[i].out).first(24),
                                  std::span(want[i].out).first(24)));
        }
    }
    // A head that was NaN once leaves nothing behind in the scores.
    h2o_state state(2, {30, 8, 0.0f});
    const auto shorter = cache_of<float, float>(clean, 89);
    problem bad_query = clean;
    bad_query.q[5] = not_a_number;
    run_h2o(state, d, bad_query.q, shorter.view());
    CHECK(only(run_h2o(state, d, clean.q, good.view()), 0, 0));
    for (double score : state.scores(0)) CHECK(std::isfinite(score));
}

TEST_CASE("the baselines refuse what does not fit, and change nothing", "[baselines]") {
    const problem p = test::make_problem({2, 2, 8, 4, 40}, 810);
    const auto cache = test::make_cache<float>(p);
    const auto view = cache.view();
    const sparq::kv_cache<float> empty(2, 8, 4);
    std::vector<float> out(16, 5.0f);
    const auto refused = [&](const std::function<void()>& call, const std::string& words) {
        CHECK(not_refused(call, words) == "");
        CHECK(out == std::vector<float>(16, 5.0f));
    };
    refused([&] { lm_infinite_attention<arch>(p.q, view, {0, 0, 0.0f}, out); }, "k is 0");
    refused([&] { lm_infinite_attention<arch>(p.q, view, {8, 9, 0.0f}, out); }, "initial is 9");
    refused([&] { lm_infinite_attention<arch>(p.q, empty.view(), {}, out); }, "empty");
    refused([&] { flexgen_attention<arch>(p.q, view, {0, {}, 0.0f}, out); }, "k is 0");
    refused([&] { flexgen_attention<arch>(p.q, view, {5, {}, not_a_number}, out); }, "scale");
    refused(
        [&] { flexgen_attention<arch>(p.q, view, {5, static_cast<dropped_mass>(3), 0.0f}, out); },
        "dropped is 3");
    refused([&] { flexgen_attention<arch>(p.q, view, {}, std::span(out).first(15)); }, "out");
    quest_pages<float> pages(2, 8), other(2, 9);
    refused([&] { quest_attention<arch>(p.q, view, pages, {}, out); }, "pages.size() is 0");
    pages.append<arch>(view);
    refused([&] { quest_attention<arch>(p.q, view, pages, {0, 0.0f}, out); }, "k is 0");
    refused([&] { other.append<arch>(view); }, "view is 2 x 8");
    refused([&] { pages.append<arch>(cache_of<float, float>(p, 39).view()); }, "seq_len is 39");
    refused([&] { pages.truncate(41); }, "n is 41");
    CHECK(pages.size() == 40);
    refused([&] { quest_pages<float>(0, 8); }, "heads_kv is 0");
    refused([&] { h2o_state(2, {0, 0, 0.0f}); }, "k is 0");
    refused([&] { h2o_state(2, {4, 5, 0.0f}); }, "local is 5");
    h2o_state state(2, {4, 1, 0.0f}), three(3, {4, 1, 0.0f});
    refused([&] { three.step<arch>(p.q, view, out); }, "heads_kv() is 2");
    refused([&] { h2o_state(state, {4, 5, 0.0f}); }, "local is 5");
    refused([&] { h2o_state(state, {4, 1, 2.0f}); }, "scale is 2");
    refused([&] { state.append<arch>(p.q, 41, view); }, "n is 41");
    refused([&] { state.append<arch>(p.q, 0, view); }, "n is 0");
    refused([&] { state.append<arch>(std::span(p.q).first(31), 1, view); }, "q is of size 31");
    refused([&] { state.truncate(1); }, "n is 1");
    CHECK(state.size() == 0);
    run_h2o(state, p.dims, p.q, view);
    refused([&] { state.step<arch>(p.q, view, out); }, "seq_len is 40");
    CHECK(state.size() == 40);
}
