// SPDX-License-Identifier: MIT
// The worked example: d_h = 4, S = 6, r = 2, k = 3, l = 1, with figures to nine places.
#include "problem.hpp"

namespace {

test::problem example() {
    test::problem p;
    p.dims = {1, 1, 4, 4, 6};
    p.q = {0.8f, -0.2f, -1.3f, 0.4f};
    p.keys = {1, 0.5f, -1, 0,  0.5f, -1, 2,     1, -1,    2,     -2,   0.5f,
              2, 0,    1,  -1, 0,    1,  -0.5f, 2, -0.5f, -0.5f, 1.5f, 1};
    p.values = {1, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 3, 1, 1, 0, 4, 0, 1, 1, 5, 2, 0, 1, 6};
    return p;
}

void check_row(const std::vector<float>& got, const std::vector<double>& want) {
    REQUIRE(got.size() == want.size());
    // Four products of magnitude up to 6 and a softmax over six: 40 roundings of 8 suffice.
    for (size_t i = 0; i < got.size(); ++i)
        CHECK(std::abs(static_cast<double>(got[i]) - want[i]) < 40 * 8 * bounds::u);
}

}  // namespace

TEST_CASE("the worked example, with and without the tail, and dense", "[worked_example]") {
    const test::problem p = example();
    const auto cache = test::make_cache<float>(p);
    sparq::sparq_params params{.r = 2, .k = 3, .local = 1};

    const test::answer with_tail = test::run_sparq(p, cache.view(), params);
    check_row(with_tail.out, {.660401234, .157817197, .493835385, 2.613568689});
    CHECK(with_tail.report.tokens == std::vector<std::uint32_t>{0, 2, 5});
    CHECK(with_tail.report.heads[0].covered == Approx(.684365607).epsilon(1e-6));

    params.tail = sparq::tail_estimate::none;
    check_row(test::run_sparq(p, cache.view(), params).out,
              {.657511571, 0, .490992219, 2.204740124});
    check_row(test::run_dense(p, cache.view()).out,
              {.518351948, .379689181, .521574588, 2.999003733});
}

TEST_CASE("the two rankings of a group choose different tokens", "[worked_example]") {
    test::problem p;
    p.dims = {1, 2, 2, 1, 4};
    p.q = {6, 0, 0, 1};
    p.keys = {1, -8, 0, 2, .4f, 1.5f, -1, 0};
    p.values = {10, 20, 30, 40};
    const auto cache = test::make_cache<float>(p);
    sparq::sparq_params params{.r = 2, .k = 1, .local = 0};
    const auto softmax_sum = test::run_sparq(p, cache.view(), params);
    CHECK(softmax_sum.report.tokens == std::vector<std::uint32_t>{0});
    CHECK(softmax_sum.out == std::vector<float>{10, 10});
    params.ranking = sparq::group_ranking::logit_sum;
    const auto logit_sum = test::run_sparq(p, cache.view(), params);
    CHECK(logit_sum.report.tokens == std::vector<std::uint32_t>{2});
    CHECK(logit_sum.out == std::vector<float>{30, 30});
}
