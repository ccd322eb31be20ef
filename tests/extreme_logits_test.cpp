// SPDX-License-Identifier: MIT
// Scores so far apart that most weights are 0 in float: the ranking must not see that.
#include "problem.hpp"

namespace {

const sparq::group_ranking rankings[] = {sparq::group_ranking::softmax_sum,
                                         sparq::group_ranking::logit_sum};

}

TEST_CASE("scores a thousand times as large keep the order of the reference", "[extreme_logits]") {
    for (size_t group : test::sizes{1, 2, 4})
        for (const auto ranking : rankings)
            for (float size : {100.0f, 1000.0f, 30000.0f}) {
                const test::problem p = test::make_problem({1, group, 32, 32, 500}, 131, size);
                const auto cache = test::make_cache<float>(p);
                INFO("seed 131, G " << group << ", size " << size);
                for (size_t k : test::sizes{5, 100, 400})
                    CHECK(test::check_sparq(p, cache.view(),
                                            {.r = 16, .k = k, .local = 2, .ranking = ranking}) ==
                          "");
                CHECK(test::check_dense(p, cache.view()) == "");
            }
}

TEST_CASE("huge finite scores stay finite", "[extreme_logits]") {
    const test::problem p = test::make_problem({1, 2, 32, 32, 200}, 132, 1e30f);
    const auto cache = test::make_cache<float>(p);
    for (const auto ranking : rankings) {
        const auto a =
            test::run_sparq(p, cache.view(), {.r = 8, .k = 20, .local = 2, .ranking = ranking});
        for (float x : a.out) CHECK(std::isfinite(x));
        for (const auto& head : a.report.heads) CHECK(std::isfinite(head.log_sum_exp));
    }
    for (float x : test::run_dense(p, cache.view()).out) CHECK(std::isfinite(x));
}

TEST_CASE("tiny q is uniform, not broken", "[extreme_logits]") {
    for (float size : {1e-20f, 1e-38f, 1e-44f}) {
        test::problem p = test::make_problem({1, 1, 32, 32, 200}, 133);
        for (float& x : p.q) x *= size;
        const auto cache = test::make_cache<float>(p);
        const auto a = test::run_sparq(p, cache.view(), {.r = 8, .k = 20, .local = 2});
        for (float x : a.out) CHECK(std::isfinite(x));
        CHECK(a.report.heads[0].covered == Approx(0.1).epsilon(1e-4));
    }
}

TEST_CASE("a far older maximum and a rising history keep the softmax stable", "[extreme_logits]") {
    // Logits that rise with every token rescale a running softmax at every step.
    test::problem p;
    p.dims = {1, 1, 1, 2, 20000};
    p.q = {1.0f};
    for (size_t t = 0; t < 20000; ++t) {
        p.keys.push_back(static_cast<float>(t) * 0.02f);
        p.values.push_back(static_cast<float>(t % 7));
        p.values.push_back(1.0f);
    }
    for (const bool reversed : {false, true}) {
        if (reversed) std::reverse(p.keys.begin(), p.keys.end());
        const auto cache = test::make_cache<float>(p);
        CHECK(test::check_dense(p, cache.view()) == "");
        CHECK(test::check_sparq(p, cache.view(), {.r = 1, .k = 19000, .local = 3}) == "");
    }
}
