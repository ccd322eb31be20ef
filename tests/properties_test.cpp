// SPDX-License-Identifier: MIT
// What must hold for any data, and the effect of every parameter.
#include "problem.hpp"

namespace {

using sparq::half;
using sparq::sparq_params;
using sparq::tail_estimate;
using test::shape;

/// Rows of `data` [n, heads, width] with the heads in another order.
std::vector<float> reorder_heads(const std::vector<float>& data, size_t heads, size_t width,
                                 const std::vector<size_t>& order) {
    std::vector<float> out;
    for (size_t row = 0; row < data.size() / (heads * width); ++row)
        for (size_t h : order)
            for (size_t i = 0; i < width; ++i) out.push_back(data[(row * heads + h) * width + i]);
    return out;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i)
        sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    return std::sqrt(sum);
}

double mean_covered(const test::answer& a) {
    double sum = 0;
    for (const auto& head : a.report.heads) sum += static_cast<double>(head.covered);
    return sum / static_cast<double>(a.report.heads.size());
}

}  // namespace

TEST_CASE("k >= S is the dense call, bit for bit, for any r, tail and ranking", "[properties]") {
    for (size_t seq_len : test::sizes{1, 5, 64, 300}) {
        const test::problem p = test::make_problem({2, 3, 32, 24, seq_len}, 41);
        const auto cache = test::make_cache<half>(p);
        const test::answer dense = test::run_dense(p, cache.view());
        for (size_t k : test::sizes{seq_len, seq_len + 1, 10 * seq_len, ~size_t{0}})
            for (auto tail : {tail_estimate::none, tail_estimate::mean_value}) {
                sparq_params params{.r = 3, .k = k, .local = 1, .tail = tail};
                const test::answer got = test::run_sparq(p, cache.view(), params);
                INFO("S " << seq_len << ", k " << k);
                CHECK(test::same_bits(got.out, dense.out));
                CHECK(got.report.dense);
                CHECK(got.report.tokens_per_head == seq_len);
                CHECK(got.report.tokens.size() == 2 * seq_len);
                for (const auto& head : got.report.heads) CHECK(head.covered == 1.0f);
            }
    }
}

TEST_CASE("r = d_h and k = S - 1 differ from dense by the one token left out", "[properties]") {
    const test::problem p = test::make_problem({1, 1, 32, 32, 200}, 42, 2.0f);
    const auto cache = test::make_cache<float>(p);
    const auto h = test::reference_head<float, float>(p, 0);
    const test::answer a = test::run_sparq(
        p, cache.view(), {.r = 32, .k = 199, .local = 0, .tail = tail_estimate::none});
    const auto dense = reference::dense(h);
    // The exact scores rank, so the least of the exact weights is what is left out.
    const auto least = std::min_element(dense.weights.begin(), dense.weights.end());
    CHECK(1.0 - static_cast<double>(a.report.heads[0].covered) ==
          Approx(*least).margin(200 * bounds::u));
    const auto lim = bounds::dense(h, dense);
    for (size_t c = 0; c < 32; ++c)
        CHECK(std::abs(static_cast<double>(a.out[c]) - dense.out[c]) <= lim.out[c] + 8 * *least);
}

TEST_CASE("alpha lies in [0, 1] and grows with k", "[properties]") {
    for (std::uint64_t seed = 50; seed < 60; ++seed) {
        INFO("seed " << seed);
        const test::problem p = test::make_problem({2, 2, 64, 64, 400}, seed, 3.0f);
        const auto cache = test::make_cache<sparq::bfloat16>(p);
        std::vector<float> last(4, 0.0f);
        for (size_t k : test::sizes{1, 2, 7, 64, 200, 399}) {
            const auto a = test::run_sparq(p, cache.view(), {.r = 64, .k = k, .local = 0});
            for (size_t h = 0; h < 4; ++h) {
                const float alpha = a.report.heads[h].covered;
                CHECK(alpha >= 0.0f);
                CHECK(alpha <= 1.0f);
                CHECK(alpha >= last[h] - static_cast<float>(400 * bounds::u));
                last[h] = alpha;
            }
        }
        CHECK(last[0] > 0.99f);
    }
}

TEST_CASE("permuting heads permutes outputs bit for bit", "[properties]") {
    const test::problem p = test::make_problem({3, 1, 48, 40, 333}, 61);
    const std::vector<size_t> order{2, 0, 1};
    test::problem moved = p;
    moved.q = reorder_heads(p.q, 3, 48, order);
    moved.keys = reorder_heads(p.keys, 3, 48, order);
    moved.values = reorder_heads(p.values, 3, 40, order);
    const sparq_params params{.r = 12, .k = 30, .local = 6};
    const auto a = test::run_sparq(p, test::make_cache<half>(p).view(), params);
    const auto b = test::run_sparq(moved, test::make_cache<half>(moved).view(), params);
    CHECK(test::same_bits(reorder_heads(a.out, 3, 40, order), b.out));
    const auto c = test::run_dense(p, test::make_cache<half>(p).view());
    const auto d = test::run_dense(moved, test::make_cache<half>(moved).view());
    CHECK(test::same_bits(reorder_heads(c.out, 3, 40, order), d.out));
}

TEST_CASE("permuting the query heads of a group permutes outputs", "[properties]") {
    test::problem p = test::make_problem({1, 4, 48, 40, 333}, 62);
    const auto cache = test::make_cache<half>(p);
    // All tokens attended or ranked alike: sums over the group may round differently.
    const sparq_params params{.r = 48, .k = 30, .local = 30};
    const auto a = test::run_sparq(p, cache.view(), params);
    const std::vector<size_t> order{3, 1, 0, 2};
    p.q = reorder_heads(p.q, 4, 48, order);
    const auto b = test::run_sparq(p, cache.view(), params);
    CHECK(test::same_bits(reorder_heads(a.out, 4, 40, order), b.out));
}

TEST_CASE("scaling V by a power of two scales y exactly", "[properties]") {
    test::problem p = test::make_problem({2, 1, 32, 32, 500}, 63);
    const sparq_params params{.r = 8, .k = 40, .local = 8};
    const auto one = test::run_sparq(p, test::make_cache<sparq::bfloat16>(p).view(), params);
    for (float& x : p.values) x *= 64.0f;
    auto scaled = test::run_sparq(p, test::make_cache<sparq::bfloat16>(p).view(), params);
    for (float& x : scaled.out) x /= 64.0f;
    CHECK(test::same_bits(one.out, scaled.out));
}

TEST_CASE("a power of two moved from K to q changes nothing", "[properties]") {
    test::problem p = test::make_problem({1, 2, 32, 32, 300}, 64);
    const sparq_params params{.r = 8, .k = 40, .local = 8};
    const auto one = test::run_sparq(p, test::make_cache<float>(p).view(), params);
    for (float& x : p.keys) x *= 4.0f;
    for (float& x : p.q) x /= 4.0f;
    CHECK(test::same_answer(one, test::run_sparq(p, test::make_cache<float>(p).view(), params)));
}

TEST_CASE("constant V comes out as it went in", "[properties]") {
    test::problem p = test::make_problem({1, 1, 32, 8, 777}, 65);
    for (size_t i = 0; i < p.values.size(); ++i) p.values[i] = static_cast<float>(i % 8) - 3.0f;
    const auto cache = test::make_cache<half>(p);
    for (auto tail : {tail_estimate::none, tail_estimate::mean_value}) {
        const auto a =
            test::run_sparq(p, cache.view(), {.r = 8, .k = 50, .local = 5, .tail = tail});
        for (size_t c = 0; c < 8; ++c)
            CHECK(std::abs(static_cast<double>(a.out[c]) - (static_cast<double>(c) - 3.0)) <
                  4 * 60 * bounds::u);
    }
}

TEST_CASE("equal scores: the older token first, on every side of a boundary", "[properties]") {
    for (size_t seq_len : test::sizes{7, 64, 65, 130, 257, 700}) {
        test::problem p = test::make_problem({1, 2, 16, 4, seq_len}, 66);
        for (size_t t = 1; t < seq_len; ++t)
            std::copy_n(p.keys.begin(), 16, p.keys.begin() + static_cast<std::ptrdiff_t>(t * 16));
        const auto cache = test::make_cache<half>(p);
        for (auto ranking : {sparq::group_ranking::softmax_sum, sparq::group_ranking::logit_sum})
            for (size_t local : test::sizes{0, 2}) {
                const size_t k = std::min<size_t>(seq_len - 1, 70);
                const auto a = test::run_sparq(
                    p, cache.view(), {.r = 5, .k = k, .local = local, .ranking = ranking});
                INFO("S " << seq_len << ", local " << local);
                for (size_t i = 0; i < k; ++i)
                    CHECK(a.report.tokens[i] == (i < k - local ? i : seq_len - k + i));
            }
    }
}

TEST_CASE("every parameter changes the output as predicted", "[properties]") {
    const test::problem p = test::make_problem({2, 1, 64, 64, 600}, 67, 2.0f);
    const auto cache = test::make_cache<float>(p);
    const auto dense = test::run_dense(p, cache.view());
    const auto run = [&](sparq_params params) { return test::run_sparq(p, cache.view(), params); };
    const sparq_params base{.r = 16, .k = 64, .local = 8};
    const auto a = run(base);

    SECTION("r: more components guess better; other components, other tokens") {
        sparq_params full = base, few = base;
        full.r = 64;
        few.r = 2;
        CHECK(distance(run(full).out, dense.out) < distance(run(few).out, dense.out));
        CHECK(run(full).report.tokens != a.report.tokens);
        CHECK(run(full).report.bytes.scan > 3 * a.report.bytes.scan);
    }
    SECTION("k: more tokens cover more and come closer to dense") {
        sparq_params more = base;
        more.k = 400;
        CHECK(mean_covered(run(more)) > mean_covered(a));
        CHECK(distance(run(more).out, dense.out) < distance(a.out, dense.out));
    }
    SECTION("local: exactly the newest are inside") {
        for (size_t local : test::sizes{0, 1, 30, 64}) {
            sparq_params some = base;
            some.local = local;
            const auto tokens = run(some).report.tokens;
            CHECK(tokens.size() == 128);
            for (size_t i = 0; i < local; ++i) CHECK(tokens[64 - local + i] == 600 - local + i);
        }
        sparq_params none = base, all = base;
        none.local = 0;
        all.local = 64;
        CHECK(mean_covered(run(none)) >= mean_covered(run(all)));
        CHECK(run(none).out != run(all).out);
    }
    SECTION("tail: automatic is mean_value for G = 1, and none is its attended part") {
        sparq_params mean = base, none = base;
        mean.tail = tail_estimate::mean_value;
        none.tail = tail_estimate::none;
        CHECK(test::same_bits(run(mean).out, a.out));
        const auto without = run(none);
        CHECK(without.report.tokens == a.report.tokens);
        CHECK(without.out != a.out);
        const auto h = test::reference_head<float, float>(p, 0);
        const auto mean_value = reference::mean_value(h);
        for (size_t c = 0; c < 64; ++c) {
            const auto alpha = static_cast<double>(a.report.heads[0].covered);
            const double want =
                alpha * static_cast<double>(without.out[c]) + (1 - alpha) * mean_value[c];
            CHECK(std::abs(static_cast<double>(a.out[c]) - want) < 64 * bounds::u);
        }
    }
    SECTION("scale: 0 is 1 / sqrt(d_h); a large one sharpens, a negative one inverts") {
        sparq_params eighth = base, sharp = base, inverted = base;
        eighth.scale = 0.125f;
        sharp.scale = 1.0f;
        inverted.scale = -0.125f;
        CHECK(test::same_answer(run(eighth), a));
        CHECK(mean_covered(run(sharp)) > mean_covered(a));
        CHECK(run(inverted).report.tokens != a.report.tokens);
        CHECK(test::check_sparq(p, cache.view(), inverted) == "");
    }
}

TEST_CASE("automatic tail is none for a group", "[properties]") {
    const test::problem p = test::make_problem({1, 2, 32, 32, 300}, 68);
    const auto cache = test::make_cache<float>(p);
    sparq_params params{.r = 8, .k = 40, .local = 8};
    const auto automatic = test::run_sparq(p, cache.view(), params);
    params.tail = tail_estimate::none;
    CHECK(test::same_bits(test::run_sparq(p, cache.view(), params).out, automatic.out));
    params.tail = tail_estimate::mean_value;
    CHECK_FALSE(test::same_bits(test::run_sparq(p, cache.view(), params).out, automatic.out));
}

TEST_CASE("ranking matters for groups and not for single heads", "[properties]") {
    for (size_t group : test::sizes{1, 4}) {
        const test::problem p = test::make_problem({1, group, 32, 32, 400}, 69, 3.0f);
        const auto cache = test::make_cache<float>(p);
        sparq_params params{.r = 16, .k = 60, .local = 0};
        const auto softmax_sum = test::run_sparq(p, cache.view(), params);
        params.ranking = sparq::group_ranking::logit_sum;
        const auto logit_sum = test::run_sparq(p, cache.view(), params);
        CHECK((softmax_sum.report.tokens == logit_sum.report.tokens) == (group == 1));
    }
}

TEST_CASE("q = 0 gives the mean of the attended values, finite", "[properties]") {
    test::problem p = test::make_problem({1, 2, 32, 32, 300}, 70);
    std::fill(p.q.begin(), p.q.begin() + 32, 0.0f);  // one head of the group
    const auto cache = test::make_cache<half>(p);
    for (auto tail : {tail_estimate::none, tail_estimate::mean_value}) {
        const sparq_params params{.r = 8, .k = 40, .local = 8, .tail = tail};
        CHECK(test::check_sparq(p, cache.view(), params) == "");
        test::problem zero = p;
        std::fill(zero.q.begin(), zero.q.end(), -0.0f);
        const auto a = test::run_sparq(zero, cache.view(), params);
        for (float x : a.out) CHECK(std::isfinite(x));
        CHECK(a.report.heads[0].covered == Approx(40.0 / 300.0));
        CHECK(test::check_sparq(zero, cache.view(), params) == "");
    }
}

TEST_CASE("a head that is zero on the components of its group takes tau = sqrt(d_h)",
          "[properties]") {
    test::problem p = test::make_problem({1, 2, 16, 16, 200}, 71);
    for (size_t i = 0; i < 16; ++i) {
        p.q[i] = i < 4 ? 8.0f + static_cast<float>(i) : 0.0f;  // decides i1
        p.q[16 + i] = i < 4 ? 0.0f : 1.0f;                     // zero on i1
    }
    const auto cache = test::make_cache<float>(p);
    CHECK(test::check_sparq(p, cache.view(), {.r = 4, .k = 20, .local = 2}) == "");
    const auto a = test::run_sparq(p, cache.view(), {.r = 4, .k = 20, .local = 2});
    CHECK(a.report.heads[1].covered == Approx(20.0 / 200.0));
}
