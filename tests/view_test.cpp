// SPDX-License-Identifier: MIT
// kv_view: attention over memory that others own, contiguous, strided, in ranges.
#include "engine_memory.hpp"

namespace {

using sparq::half;
using sparq::token_range;
using test::shape;

const sparq::sparq_params params{
    .r = 9, .k = 33, .local = 7, .tail = sparq::tail_estimate::mean_value};

/// The d_h-major copy [heads, d_h, cells] of a problem's keys.
template <class Label>
std::vector<Label> transposed(const test::problem& p) {
    const shape& d = p.dims;
    std::vector<Label> out(d.heads_kv * d.head_dim * d.seq_len);
    for (size_t t = 0; t < d.seq_len; ++t)
        for (size_t i = 0; i < d.heads_kv * d.head_dim; ++i)
            out[i * d.seq_len + t] = Label(p.keys[t * d.heads_kv * d.head_dim + i]);
    return out;
}

}  // namespace

TEST_CASE("a view over contiguous memory, with and without keys_t, equals the cache", "[view]") {
    for (size_t seq_len : test::sizes{1, 63, 64, 200, 1100, 9000}) {
        const test::problem p = test::make_problem({1, 2, 24, 20, seq_len}, 101);
        const auto labels = transposed<float>(p);
        const auto cache = test::make_cache<float>(p);
        const auto want = test::run_sparq(p, cache.view(), params);
        for (size_t labelled : test::sizes{0, seq_len / 64 * 64, seq_len}) {
            const sparq::kv_segment<float> segment{p.keys.data(),
                                                   p.values.data(),
                                                   labelled == 0 ? nullptr : labels.data(),
                                                   24,
                                                   20,
                                                   seq_len,
                                                   seq_len,
                                                   labelled};
            const sparq::kv_view<float> view(1, 24, 20, std::span(&segment, 1));
            INFO("S " << seq_len << ", labelled " << labelled);
            CHECK(view.seq_len() == seq_len);
            CHECK(view.value_sum(0) == nullptr);
            CHECK(test::check_sparq(p, view, params) == "");
            CHECK(test::check_dense(p, view) == "");
            CHECK(test::run_sparq(p, view, params).report.tokens == want.report.tokens);
        }
    }
}

TEST_CASE("scanning rows and scanning channels give the same bits", "[view]") {
    for (size_t head_dim : test::sizes{8, 24, 64, 77}) {
        const test::problem p = test::make_problem({1, 3, head_dim, 20, 500}, 102);
        const auto labels = transposed<float>(p);
        std::vector<test::answer> answers;
        for (size_t labelled : test::sizes{0, 64, 320, 448, 500}) {
            const sparq::kv_segment<float> segment{
                p.keys.data(), p.values.data(), labels.data(), head_dim, 20, 500, 500, labelled};
            const sparq::kv_view<float> view(1, head_dim, 20, std::span(&segment, 1));
            answers.push_back(test::run_sparq(p, view, {.r = 5, .k = 60, .local = 3}));
            INFO("d_h " << head_dim << ", labelled " << labelled);
            CHECK(test::same_answer(answers.front(), answers.back()));
        }
    }
}

TEST_CASE("segments of uneven length are one history", "[view]") {
    const test::problem p = test::make_problem({2, 2, 24, 20, 700}, 103);
    const auto labels = transposed<half>(p);
    std::vector<half> keys, values;
    for (float x : p.keys) keys.push_back(half(x));
    for (float x : p.values) values.push_back(half(x));
    std::vector<sparq::kv_segment<half>> table;
    size_t begin = 0;
    for (size_t n : test::sizes{1, 64, 3, 100, 128, 29, 375}) {
        for (size_t g = 0; g < 2; ++g)
            table.push_back({keys.data() + (begin * 2 + g) * 24,
                             values.data() + (begin * 2 + g) * 20,
                             labels.data() + g * 24 * 700 + begin, 48, 40, 700, n, n / 2});
        begin += n;
    }
    REQUIRE(begin == 700);
    const sparq::kv_view<half> view(2, 24, 20, table);
    CHECK(view.segments_per_head() == 7);
    CHECK(test::check_sparq(p, view, params) == "");
    CHECK(test::check_dense(p, view) == "");
    for (auto ranking : {sparq::group_ranking::softmax_sum, sparq::group_ranking::logit_sum})
        CHECK(test::check_sparq(p, view,
                                {.r = 24,
                                 .k = 333,
                                 .local = 100,
                                 .tail = sparq::tail_estimate::mean_value,
                                 .ranking = ranking}) == "");
}

TEST_CASE("ranges of visible cells: what is hidden does not count", "[view]") {
    const std::uint64_t seed = 104;
    const test::problem p = test::make_problem({3, 2, 24, 20, 600}, seed);
    const std::vector<std::vector<token_range>> cases{{{0, 600}},
                                                      {{5, 600}},
                                                      {{0, 1}},
                                                      {{599, 600}},
                                                      {{3, 70}, {70, 71}},
                                                      {{0, 64}, {128, 192}, {500, 600}},
                                                      {{1, 2}, {3, 4}, {5, 6}, {300, 431}},
                                                      {{17, 81}, {82, 83}, {200, 456}}};
    for (const auto& visible : cases) {
        test::engine_memory<half> memory(p.dims, 640);
        for (const auto& range : visible)
            for (size_t t = range.begin; t < range.end; ++t) memory.write(t, p, t);
        const test::problem part = test::visible_part(p, visible);
        sparq::kv_view_storage<half> storage;
        const auto view = storage.assign(memory.strided(), visible);
        INFO("seed " << seed << ", first range " << visible[0].begin << ".." << visible[0].end);
        CHECK(view.seq_len() == part.dims.seq_len);
        CHECK(test::check_sparq(part, view, params) == "");
        CHECK(test::check_dense(part, view) == "");
        // The same storage again for another shape of the table.
        const auto again = storage.assign(memory.strided(), std::span(visible).first(1));
        CHECK(again.seq_len() == visible[0].end - visible[0].begin);
    }
}

TEST_CASE("value sums handed to a view stand for the mean", "[view]") {
    const test::problem p = test::make_problem({1, 1, 24, 20, 300}, 105);
    const sparq::kv_segment<float> segment{
        p.keys.data(), p.values.data(), nullptr, 24, 20, 0, 300, 0};
    // Sums that are plainly not those of V: the tail must be made of them.
    const std::vector<double> sums(20, 300.0 * 1000.0);
    const sparq::kv_view<float> view(1, 24, 20, std::span(&segment, 1), sums);
    const auto a = test::run_sparq(p, view, params);
    auto none = params;
    none.tail = sparq::tail_estimate::none;
    const auto b = test::run_sparq(p, view, none);
    const double alpha = static_cast<double>(a.report.heads[0].covered);
    for (size_t c = 0; c < 20; ++c)
        CHECK(static_cast<double>(a.out[c]) ==
              Approx(alpha * static_cast<double>(b.out[c]) + (1 - alpha) * 1000.0).epsilon(1e-5));
}

TEST_CASE("a view without value sums reads V for the tail and says so", "[view]") {
    const test::problem p = test::make_problem({1, 1, 24, 20, 300}, 106);
    const sparq::kv_segment<float> segment{
        p.keys.data(), p.values.data(), nullptr, 24, 20, 0, 300, 0};
    const sparq::kv_view<float> view(1, 24, 20, std::span(&segment, 1));
    CHECK(test::run_sparq(p, view, params).report.bytes.tail >= 300 * 20 * 4);
}
