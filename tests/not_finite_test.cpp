// SPDX-License-Identifier: MIT
// NaN and infinity: NaN in the heads that read it, every other head the same bits.
#include <limits>

#include "problem.hpp"

namespace {

using sparq::half;
using sparq::sparq_params;
using sparq::tail_estimate;
using test::answer;
using test::problem;

constexpr float inf = std::numeric_limits<float>::infinity();
const float poisons[] = {std::numeric_limits<float>::quiet_NaN(), inf, -inf};
const test::shape dims{3, 2, 20, 12, 300};

/// Whether query heads [begin, end) are NaN in column `c` (all if c >= d_v), and all other
/// numbers have the bits of `clean`.
bool only_these(const answer& got, const answer& clean, size_t begin, size_t end, size_t c) {
    for (size_t h = 0; h < dims.heads_q(); ++h)
        for (size_t i = 0; i < dims.value_dim; ++i) {
            const float x = got.out[h * dims.value_dim + i];
            const bool hit = h >= begin && h < end && (c >= dims.value_dim || c == i);
            const float was = clean.out[h * dims.value_dim + i];
            if (hit ? !std::isnan(x) : !test::same_bits({&x, 1}, {&was, 1})) return false;
        }
    return true;
}

/// The tokens of the heads that read nothing bad are the same, those of the others legal.
bool tokens_are_legal(const answer& got, const answer& clean, size_t bad_kv) {
    const size_t n = got.report.tokens_per_head;
    for (size_t g = 0; g < dims.heads_kv; ++g)
        for (size_t i = 0; i < n; ++i) {
            const auto token = got.report.tokens[g * n + i];
            if (token >= dims.seq_len) return false;
            if (i > 0 && token <= got.report.tokens[g * n + i - 1]) return false;
            if (g != bad_kv && token != clean.report.tokens[g * n + i]) return false;
        }
    return true;
}

template <class T>
void check(const problem& spoilt, const answer& clean, const answer& clean_dense,
           const sparq_params& params, size_t begin, size_t end, size_t c, size_t bad_kv) {
    const auto cache = test::make_cache<T>(spoilt);
    const auto got = test::run_sparq(spoilt, cache.view(), params);
    CHECK(only_these(got, clean, begin, end, c));
    CHECK(tokens_are_legal(got, clean, bad_kv));
    CHECK(only_these(test::run_dense(spoilt, cache.view()), clean_dense, begin, end, c));
}

}  // namespace

TEMPLATE_TEST_CASE("not finite in the keys of one head", "[not_finite]", float, half,
                   sparq::bfloat16) {
    const problem p = test::make_problem(dims, 151);
    const auto cache = test::make_cache<TestType>(p);
    for (auto ranking : {sparq::group_ranking::softmax_sum, sparq::group_ranking::logit_sum}) {
        const sparq_params params{.r = 20, .k = 30, .local = 4, .ranking = ranking};
        const auto clean = test::run_sparq(p, cache.view(), params);
        const auto clean_dense = test::run_dense(p, cache.view());
        for (float poison : poisons)
            for (size_t token : test::sizes{0, 63, 64, 150, 256, 299})
                for (size_t c : test::sizes{0, 7, 19}) {
                    problem bad = p;
                    bad.keys[(token * 3 + 1) * 20 + c] = poison;
                    INFO(poison << " in token " << token << ", component " << c);
                    check<TestType>(bad, clean, clean_dense, params, 2, 4, 99, 1);
                }
    }
}

TEMPLATE_TEST_CASE("not finite in one component of V", "[not_finite]", float, half) {
    const problem p = test::make_problem(dims, 152);
    const auto cache = test::make_cache<TestType>(p);
    const sparq_params params{.r = 8, .k = 30, .local = 4, .tail = tail_estimate::mean_value};
    const auto clean = test::run_sparq(p, cache.view(), params);
    const auto clean_dense = test::run_dense(p, cache.view());
    for (float poison : poisons)
        for (size_t token : test::sizes{0, 64, 150, 299})  // chosen or not: the mean reads all
            for (size_t c : test::sizes{0, 5, 11}) {
                problem bad = p;
                bad.values[(token * 3 + 2) * 12 + c] = poison;
                INFO(poison << " in token " << token << ", component " << c);
                check<TestType>(bad, clean, clean_dense, params, 4, 6, c, 2);
            }
}

TEST_CASE("not finite in q", "[not_finite]") {
    const problem p = test::make_problem(dims, 153);
    const auto cache = test::make_cache<half>(p);
    const sparq_params params{.r = 8, .k = 30, .local = 4, .tail = tail_estimate::mean_value};
    const auto clean = test::run_sparq(p, cache.view(), params);
    const auto clean_dense = test::run_dense(p, cache.view());
    for (float poison : poisons)
        for (size_t h = 0; h < 6; ++h)
            for (size_t c : test::sizes{0, 13, 19}) {
                problem bad = p;
                bad.q[h * 20 + c] = poison;
                INFO(poison << " in query head " << h << ", component " << c);
                const auto got = test::run_sparq(bad, cache.view(), params);
                CHECK(tokens_are_legal(got, clean, h / 2));
                const auto dense = test::run_dense(bad, cache.view());
                CHECK(only_these(dense, clean_dense, h, h + 1, 99));
                // Its sibling shares i1 and i2 with it and may attend other tokens.
                for (size_t j = 0; j < 6; ++j)
                    for (size_t i = 0; i < 12; ++i) {
                        if (j == h) CHECK(std::isnan(got.out[j * 12 + i]));
                        if (j / 2 != h / 2)
                            CHECK(test::same_bits({&got.out[j * 12 + i], 1},
                                                  {&clean.out[j * 12 + i], 1}));
                    }
            }
}

TEST_CASE("not finite where nobody reads changes no bit", "[not_finite]") {
    problem p = test::make_problem({1, 1, 20, 12, 300}, 154);
    for (size_t c = 0; c < 20; ++c) p.q[c] = c < 4 ? 3.0f + static_cast<float>(c) : 0.01f;
    // Token 100 ranks last, so neither its rows nor its other channels are read.
    for (size_t c = 0; c < 4; ++c) p.keys[100 * 20 + c] = -9.0f;
    const sparq_params params{.r = 4, .k = 30, .local = 4, .tail = tail_estimate::none};
    const auto clean = test::run_sparq(p, test::make_cache<float>(p).view(), params);
    for (float poison : poisons) {
        problem bad = p;
        bad.keys[100 * 20 + 10] = poison;
        bad.values[100 * 12 + 3] = poison;
        CHECK(test::same_answer(test::run_sparq(bad, test::make_cache<float>(bad).view(), params),
                                clean));
    }
}

TEST_CASE("all of a head not finite is no crash and no hang", "[not_finite]") {
    const problem p = test::make_problem(dims, 155);
    const auto cache = test::make_cache<half>(p);
    const sparq_params params{.r = 8, .k = 30, .local = 4};
    const auto clean = test::run_sparq(p, cache.view(), params);
    const auto clean_dense = test::run_dense(p, cache.view());
    for (float poison : poisons) {
        problem bad = p;
        for (size_t t = 0; t < 300; ++t)
            for (size_t c = 0; c < 20; ++c) bad.keys[(t * 3 + 1) * 20 + c] = poison;
        check<half>(bad, clean, clean_dense, params, 2, 4, 99, 1);
    }
}

TEST_CASE("truncating a NaN away leaves nothing of it", "[not_finite]") {
    const problem p = test::make_problem({1, 1, 20, 12, 300}, 156);
    auto cache = test::make_cache<float>(p);
    const sparq_params params{.r = 8, .k = 30, .local = 4};
    const auto clean = test::run_sparq(p, cache.view(), params);
    for (float poison : poisons) {
        const std::vector<float> keys(90 * 20, poison), values(90 * 12, poison);
        test::calls<float>::append(cache, keys, values);
        test::calls<float>::truncate(cache, 300);
        CHECK(test::same_answer(test::run_sparq(p, cache.view(), params), clean));
    }
}
