// SPDX-License-Identifier: MIT
// Each public step alone against the reference, all of them in a row against the whole
// call, and what each refuses.
#include <functional>
#include <numeric>
#include <stdexcept>

#include "problem.hpp"

namespace {

using sparq::group_ranking;
using sparq::half;
using test::arch;
using test::shape;
using token_list = std::vector<std::uint32_t>;

reference::indices wide(const token_list& list) { return {list.begin(), list.end()}; }

/// Query heads of KV head g.
std::span<const float> group_of(const test::problem& p, size_t g) {
    const size_t n = p.dims.group * p.dims.head_dim;
    return std::span<const float>(p.q).subspan(g * n, n);
}

/// Everything the steps give for one KV head, one call each.
struct step_results {
    token_list components, tokens;
    std::vector<float> inverse_tau, logits, scan_lse, ranking, covered, out, lse, mean;
};

template <class T, class Label>
step_results run_steps(const test::problem& p, const sparq::kv_view<T, Label>& view, size_t g,
                       const sparq::sparq_params& params) {
    const shape& d = p.dims;
    const std::span<const float> q = group_of(p, g);
    step_results r;
    r.components.resize(params.r);
    sparq::choose_components<arch>(q, d.group, r.components);
    for (size_t j = 0; j < d.group; ++j)
        r.inverse_tau.push_back(sparq::inverse_temperature<arch>(
            q.subspan(j * d.head_dim, d.head_dim), r.components, params.scale));
    r.logits.resize(d.group * d.seq_len);
    r.scan_lse.resize(d.group);
    sparq::approximate_scores<arch>(view, g, q, r.components, r.inverse_tau, r.logits, r.scan_lse);
    r.ranking.resize(d.seq_len);
    sparq::rank_tokens<arch>(r.logits, r.scan_lse, params.ranking, r.ranking);
    r.tokens.resize(std::min(params.k, d.seq_len));
    sparq::select_tokens<arch>(r.ranking, params.local, r.tokens);
    r.covered.resize(d.group);
    sparq::covered_mass<arch>(r.logits, r.scan_lse, r.tokens, r.covered);
    r.out.resize(d.group * d.value_dim);
    r.lse.resize(d.group);
    sparq::attend_selected<arch>(view, g, q, r.tokens, params.scale, r.out, r.lse);
    r.mean.resize(d.value_dim);
    sparq::mean_value<arch>(view, g, r.mean);
    if (params.tail == sparq::tail_estimate::mean_value)
        sparq::add_tail<arch>(r.mean, r.covered, r.out);
    return r;
}

std::string compare(const std::vector<float>& got, const reference::numbers& want,
                    const reference::numbers& limit) {
    if (got.size() != want.size()) return "size";
    return test::outside(got, want.data(), limit.data(), want.size());
}

/// "" when `call` is refused with a sentence that holds all of `words`.
std::string not_refused(const std::function<void()>& call, const std::vector<std::string>& words) {
    try {
        call();
    } catch (const std::invalid_argument& refusal) {
        for (const std::string& word : words)
            if (std::string(refusal.what()).find(word) == std::string::npos)
                return "no '" + word + "' in: " + refusal.what();
        return {};
    }
    return "no exception";
}

}  // namespace

TEST_CASE("every step agrees with the reference", "[steps]") {
    size_t n = 0;
    for (size_t seq_len : test::sizes{1, 40, 333, 1100, 8300})
        for (size_t group : test::sizes{1, 2, 5})
            test::with_few_types(n++, [&]<class T, class Label>() {
                const shape d{2, group, 40 + n % 30, 24, seq_len};
                const test::problem p = test::make_problem(d, 200 + n, 1.5f);
                const auto cache = test::make_cache<T, Label>(p);
                sparq::sparq_params params{.r = 11,
                                           .k = 1 + seq_len / 3,
                                           .local = seq_len > 3 ? 1u : 0u,
                                           .tail = sparq::tail_estimate::mean_value};
                params.ranking = static_cast<group_ranking>(n % 2);
                params.scale = n % 3 == 0 ? 0.2f : 0.0f;
                for (size_t g = 0; g < 2; ++g) {
                    INFO(d << ", seed " << p.seed);
                    const auto h = test::reference_head<T, Label>(p, g);
                    const auto s = test::reference_settings(params, group);
                    reference::result res = reference::scan(h, s);
                    const step_results r = run_steps(p, cache.view(), g, params);
                    CHECK(wide(r.components) == res.components);
                    for (size_t j = 0; j < group; ++j)
                        CHECK(
                            std::abs(static_cast<double>(r.inverse_tau[j]) - res.inverse_tau[j]) <=
                            bounds::inverse_tau_error * res.inverse_tau[j]);
                    bounds::limits lim;
                    bounds::scan(h, s, res, {}, lim);
                    CHECK(bounds::is_valid_choice(wide(r.tokens), res.ranking, lim.ranking,
                                                  params.k, params.local));
                    reference::finish(h, s, wide(r.tokens), res);
                    lim = bounds::sparq(h, s, res);
                    CHECK(compare(r.logits, res.logits, lim.logits) == "");
                    CHECK(compare(r.scan_lse, res.scan_lse, lim.scan_lse) == "");
                    CHECK(compare(r.covered, res.covered, lim.covered) == "");
                    CHECK(compare(r.lse, res.log_sum_exp, lim.log_sum_exp) == "");
                    CHECK(compare(r.mean, res.mean, lim.mean) == "");
                    CHECK(compare(r.out, res.out, lim.out) == "");
                }
            });
}

TEST_CASE("the steps in a row are the whole call, bit for bit", "[steps]") {
    for (size_t group : test::sizes{1, 3})
        for (size_t seq_len : test::sizes{50, 900, 9000}) {
            const test::problem p = test::make_problem({2, group, 64, 48, seq_len}, 231);
            const auto cache = test::make_cache<half>(p);
            const sparq::sparq_params params{
                .r = 16, .k = seq_len / 4, .local = 5, .tail = sparq::tail_estimate::mean_value};
            const auto whole = test::run_sparq(p, cache.view(), params);
            for (size_t g = 0; g < 2; ++g) {
                const step_results r = run_steps(p, cache.view(), g, params);
                const auto first =
                    whole.report.tokens.begin() + static_cast<std::ptrdiff_t>(g * params.k);
                INFO("G " << group << ", S " << seq_len << ", KV head " << g);
                CHECK(std::equal(r.tokens.begin(), r.tokens.end(), first));
                for (size_t j = 0; j < group; ++j)
                    CHECK(r.covered[j] == whole.report.heads[g * group + j].covered);
                CHECK(test::same_bits(r.out,
                                      std::span(whole.out).subspan(g * group * 48, group * 48)));
            }
        }
}

TEST_CASE("components: the largest sums of |q|, ties to the lower one", "[steps]") {
    token_list two(2);
    const std::vector<float> q{0.5f, -3.0f, 2.0f, 3.0f};
    sparq::choose_components<arch>(q, 1, two);
    CHECK(two == token_list{1, 3});
    sparq::choose_components<arch>(q, 2, std::span(two).first(1));  // sums 2.5, 6
    CHECK(two[0] == 1);
    const std::vector<float> equal(130, -1.5f);
    for (size_t r : test::sizes{1, 3, 16, 64, 129, 130}) {
        token_list components(r), want(r);
        std::iota(want.begin(), want.end(), 0u);
        sparq::choose_components<arch>(equal, 1, components);
        CHECK(components == want);
    }
    std::vector<float> few(130, 0.0f);
    few[77] = few[129] = -1e-30f;
    token_list components(4);
    sparq::choose_components<arch>(few, 1, components);
    CHECK(components == token_list{0, 1, 77, 129});
}

TEST_CASE("select: exactly the k best of any floats, for every n, k and local", "[steps]") {
    const std::uint64_t seed = 241;
    INFO("seed " << seed);
    test::random_source source(seed);
    for (size_t n : test::sizes{1, 2, 3, 15, 16, 17, 64, 100, 255, 256, 257, 600, 2049, 5000})
        for (int kind = 0; kind < 5; ++kind) {
            std::vector<float> ranking(n);
            for (size_t i = 0; i < n; ++i) {
                const float x = source.normal();
                if (kind == 0) ranking[i] = x;
                if (kind == 1) ranking[i] = std::nearbyint(x);               // many ties
                if (kind == 2) ranking[i] = static_cast<float>(i) * 1e-38f;  // subnormal, rising
                if (kind == 3) ranking[i] = -static_cast<float>(i);          // falling
                if (kind == 4)
                    ranking[i] = std::ldexp(x, static_cast<int>(source.below(250)) - 140);
            }
            if (kind == 1 && n > 20) ranking[7] = -0.0f, ranking[9] = 0.0f;
            if (kind == 4 && n > 20) ranking[3] = INFINITY, ranking[11] = -INFINITY;
            const reference::numbers order(ranking.begin(), ranking.end());
            for (size_t k : test::sizes{1, 2, n / 16 + 1, n / 3 + 1, n - n / 5, n})
                for (size_t local : test::sizes{0, 1, k / 2, k}) {
                    if (k > n || local > k) continue;
                    token_list tokens(k);
                    sparq::select_tokens<arch>(ranking, local, tokens);
                    // k = n: the reference takes all; otherwise the same rule.
                    INFO("n " << n << ", kind " << kind << ", k " << k << ", local " << local);
                    CHECK(wide(tokens) == reference::select_tokens(order, k, local));
                }
        }
}

TEST_CASE("select: what the chosen tokens reach is known where no other is a candidate",
          "[steps]") {
    // One large score in each block: just k maxima are above all others.
    const size_t k = 96, n = (k + 1) * sparq::score_block_tokens;
    std::vector<float> ranking(n, 0.25f), scratch(sparq::kernels::top_k_scratch_floats(n));
    for (size_t i = 0; i < k; ++i)
        ranking[i * sparq::score_block_tokens + 7 * i % 256] = 1.0f + static_cast<float>(i);
    token_list chosen(n);
    size_t candidates = 0;
    const float reached = sparq::kernels::top_k<arch>(ranking.data(), n, k, nullptr, scratch.data(),
                                                      chosen.data(), [&](size_t) { ++candidates; });
    CHECK(candidates == k);
    CHECK(reached > 0.25f);
    CHECK(reached <= 1.0f);
}

TEST_CASE("select: NaN ranks last, the oldest of them first", "[steps]") {
    std::vector<float> ranking(100, NAN);
    ranking[50] = 1.0f;
    ranking[60] = -INFINITY;
    token_list tokens(4);
    sparq::select_tokens<arch>(ranking, 0, tokens);
    CHECK(tokens == token_list{0, 1, 50, 60});
    sparq::select_tokens<arch>(ranking, 2, tokens);
    CHECK(tokens == token_list{50, 60, 98, 99});
}

TEST_CASE("attending somebody else's tokens", "[steps]") {
    const test::problem p = test::make_problem({2, 3, 48, 40, 1300}, 251);
    const auto cache = test::make_cache<sparq::bfloat16>(p);
    const auto h = test::reference_head<sparq::bfloat16, sparq::bfloat16>(p, 1);
    token_list all(1300);
    std::iota(all.begin(), all.end(), 0u);
    for (const token_list& tokens : {token_list{0}, token_list{1299}, token_list{255, 256, 257},
                                     token_list{3, 64, 500, 767, 768, 1298}, all}) {
        std::vector<float> out(3 * 40), lse(3);
        sparq::attend_selected<arch>(cache.view(), 1, group_of(p, 1), tokens, 0.0f, out, lse);
        reference::result res;
        reference::attend(h, wide(tokens), 0, res);
        bounds::limits lim;
        bounds::attend(h, res, 0, {}, lim);
        CHECK(compare(out, res.out, lim.out) == "");
        CHECK(compare(lse, res.log_sum_exp, lim.log_sum_exp) == "");
        if (tokens.size() == 1)  // one token: its value, exactly
            for (size_t c = 0; c < 40; ++c)
                CHECK(static_cast<double>(out[c]) == h.values[tokens[0] * 40 + c]);
    }
}

TEST_CASE("partial results merge by their log-sum-exp", "[steps]") {
    const test::problem p = test::make_problem({1, 1, 32, 16, 400}, 252);
    const auto cache = test::make_cache<float>(p);
    token_list first(150), second(250);
    std::iota(first.begin(), first.end(), 0u);
    std::iota(second.begin(), second.end(), 150u);
    std::vector<float> a(16), b(16), la(1), lb(1);
    sparq::attend_selected<arch>(cache.view(), 0, p.q, first, 0.0f, a, la);
    sparq::attend_selected<arch>(cache.view(), 0, p.q, second, 0.0f, b, lb);
    const double share = 1.0 / (1.0 + std::exp(static_cast<double>(lb[0] - la[0])));
    const auto h = test::reference_head<float, float>(p, 0);
    const auto dense = reference::dense(h);
    const auto lim = bounds::dense(h, dense);
    for (size_t c = 0; c < 16; ++c)
        CHECK(std::abs(share * static_cast<double>(a[c]) + (1 - share) * static_cast<double>(b[c]) -
                       dense.out[c]) <= 4 * lim.out[c]);
}

TEST_CASE("the ranking of tokens of weights far under the smallest float", "[steps]") {
    // Two heads, both of whose weights underflow on tokens 0 .. 3 in this order of merit.
    const std::vector<float> logits{-203, -202, -201, -200, 0, -200, -200, -200, -200, 0};
    const std::vector<float> lse{0, 0};
    std::vector<float> ranking(5);
    token_list tokens(3);
    sparq::rank_tokens<arch>(logits, lse, group_ranking::logit_sum, ranking);
    sparq::select_tokens<arch>(ranking, 0, tokens);
    CHECK(tokens == token_list{2, 3, 4});
    sparq::rank_tokens<arch>(logits, lse, group_ranking::softmax_sum, ranking);
    sparq::select_tokens<arch>(ranking, 0, tokens);
    CHECK(tokens == token_list{2, 3, 4});
}

TEST_CASE("every step refuses what does not fit", "[steps]") {
    const test::problem p = test::make_problem({2, 2, 8, 4, 30}, 261);
    const auto cache = test::make_cache<float>(p);
    const auto view = cache.view();
    const std::span<const float> q = group_of(p, 0);
    token_list none, three(3), nine(9), tokens{1, 4, 9};
    std::vector<float> out(8), lse(2), logits(60), ranking(30), tau(2), mean(4);
    using strings = std::vector<std::string>;
    const auto refused = [](const std::function<void()>& call, const strings& words) {
        CHECK(not_refused(call, words) == "");
    };
    refused([&] { sparq::choose_components<arch>(q, 0, three); }, {"group is 0"});
    refused([&] { sparq::choose_components<arch>(q, 3, three); }, {"q", "16"});
    refused([&] { sparq::choose_components<arch>(q, 2, none); }, {"r is 0"});
    refused([&] { sparq::choose_components<arch>(q, 2, nine); }, {"r is 9", "8"});
    refused([&] { sparq::inverse_temperature<arch>(q.first(8), none); }, {"r is 0"});
    refused([&] { sparq::inverse_temperature<arch>(q.first(4), tokens); }, {"component is 4", "4"});
    refused([&] { sparq::inverse_temperature<arch>(q.first(8), three, NAN); }, {"scale", "nan"});
    const token_list good{1, 4, 7};
    refused([&] { sparq::approximate_scores<arch>(view, 2, q, good, tau, logits, lse); },
            {"g is 2", "2"});
    refused([&] { sparq::approximate_scores<arch>(view, 0, q.first(15), good, tau, logits, lse); },
            {"q", "15", "16"});
    refused([&] { sparq::approximate_scores<arch>(view, 0, q, tokens, tau, logits, lse); },
            {"component is 9"});
    refused(
        [&] {
            sparq::approximate_scores<arch>(view, 0, q, good, tau, std::span(logits).first(59),
                                            lse);
        },
        {"logits", "59", "60"});
    refused(
        [&] {
            sparq::approximate_scores<arch>(view, 0, q, good, tau, logits, std::span(lse).first(1));
        },
        {"log_sum_exp", "1", "2"});
    refused([&] { sparq::rank_tokens<arch>(logits, lse, {}, std::span(ranking).first(29)); },
            {"ranking", "29", "30"});
    refused([&] { sparq::rank_tokens<arch>(std::span(logits).first(59), lse, {}, ranking); },
            {"logits", "59"});
    refused([&] { sparq::select_tokens<arch>(ranking, 0, none); }, {"k is 0", "30"});
    refused([&] { sparq::select_tokens<arch>(std::span(ranking).first(2), 0, three); },
            {"k is 3", "2"});
    refused([&] { sparq::select_tokens<arch>(ranking, 4, three); }, {"local is 4", "3"});
    refused([&] { sparq::covered_mass<arch>(logits, lse, none, tau); }, {"tokens"});
    refused([&] { sparq::covered_mass<arch>(logits, lse, tokens, std::span(tau).first(1)); },
            {"covered", "1", "2"});
    const token_list beyond{1, 30}, falling{4, 1}, twice{4, 4};
    refused([&] { sparq::attend_selected<arch>(view, 0, q, beyond, 0, out, lse); },
            {"tokens[1] is 30", "30"});
    refused([&] { sparq::attend_selected<arch>(view, 0, q, falling, 0, out, lse); },
            {"tokens[1] is 1"});
    refused([&] { sparq::attend_selected<arch>(view, 0, q, twice, 0, out, lse); },
            {"tokens[1] is 4"});
    refused([&] { sparq::attend_selected<arch>(view, 0, q, none, 0, out, lse); }, {"tokens"});
    refused([&] { sparq::attend_selected<arch>(view, 5, q, tokens, 0, out, lse); }, {"g is 5"});
    refused([&] { sparq::attend_selected<arch>(view, 0, q, tokens, INFINITY, out, lse); },
            {"scale", "inf"});
    refused(
        [&] { sparq::attend_selected<arch>(view, 0, q, tokens, 0, std::span(out).first(7), lse); },
        {"out", "7", "8"});
    refused([&] { sparq::mean_value<arch>(view, 2, mean); }, {"g is 2"});
    refused([&] { sparq::mean_value<arch>(view, 0, std::span(mean).first(3)); },
            {"mean", "3", "4"});
    refused([&] { sparq::add_tail<arch>(mean, tau, std::span(out).first(7)); }, {"out", "7", "8"});
}
