// SPDX-License-Identifier: MIT
// Cross-attention: a cache filled once, read by many queries, no newest token of its own.
#include "problem.hpp"

TEST_CASE("a static cache with local = 0 serves many queries", "[cross_attention]") {
    test::problem p = test::make_problem({4, 1, 64, 64, 1500}, 121);
    const auto cache = test::make_cache<sparq::half>(p);
    for (std::uint64_t step = 0; step < 6; ++step) {
        p.q = test::grid_normals(p.q.size(), 500 + step, 2.0f);
        INFO("seed " << 500 + step);
        CHECK(test::check_sparq(p, cache.view(), {.r = 16, .k = 100, .local = 0}) == "");
        CHECK(test::check_dense(p, cache.view()) == "");
    }
}

TEST_CASE("with local = 0 the newest token is chosen only when it ranks", "[cross_attention]") {
    test::problem p = test::make_problem({1, 1, 16, 16, 300}, 122);
    for (size_t c = 0; c < 16; ++c) p.keys[299 * 16 + c] = -9.0f * p.q[c];
    const auto cache = test::make_cache<float>(p);
    const auto without = test::run_sparq(p, cache.view(), {.r = 16, .k = 20, .local = 0});
    CHECK(without.report.tokens.back() != 299);
    const auto with = test::run_sparq(p, cache.view(), {.r = 16, .k = 20, .local = 1});
    CHECK(with.report.tokens.back() == 299);
}
