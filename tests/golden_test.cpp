// SPDX-License-Identifier: MIT
// Golden vectors: results of an independent implementation in another language.
#include "golden_data.hpp"
#include "problem.hpp"

namespace {

using reference::numbers;
using test::golden_case;

std::vector<golden_case> cases() {
    const auto all = test::read_golden_cases(SPARQ_TEST_DATA "/golden.json");
    REQUIRE(all.size() == 33);
    return all;
}

void append(std::vector<float>& to, const test::row& from) {
    for (double x : from) to.push_back(static_cast<float>(x));
}

/// A golden case over its valid tokens only.
struct compact {
    test::problem p;
    sparq::sparq_params params;
    std::vector<size_t> position;  // of each valid token among the cells
};

compact make_compact(const golden_case& c) {
    compact g;
    for (size_t t = 0; t < c.valid.size(); ++t)
        if (c.valid[t]) g.position.push_back(t);
    const size_t heads_kv = c.keys.size();
    g.p.dims = {heads_kv, c.q.size() / heads_kv, c.q[0].size(), c.values[0][0].size(),
                g.position.size()};
    for (const test::row& head : c.q) append(g.p.q, head);
    for (size_t t : g.position)
        for (size_t h = 0; h < heads_kv; ++h) {
            append(g.p.keys, c.keys[h][t]);
            append(g.p.values, c.values[h][t]);
        }
    const size_t current = c.released ? 1 : 0;
    g.params = {.r = c.r, .k = c.k + current, .local = c.local + current};
    g.params.ranking =
        c.released ? sparq::group_ranking::logit_sum : sparq::group_ranking::softmax_sum;
    g.params.tail = c.reallocate ? sparq::tail_estimate::mean_value : sparq::tail_estimate::none;
    return g;
}

/// KV head h of the case in double, without the rounding of inputs to float.
reference::head exact_head(const golden_case& c, const compact& g, size_t h) {
    const test::shape& d = g.p.dims;
    reference::head head{d.group, d.head_dim, d.value_dim, d.seq_len, {}, {}, {}, {}};
    const auto add = [](numbers& to, const test::row& from) {
        to.insert(to.end(), from.begin(), from.end());
    };
    for (size_t j = 0; j < d.group; ++j) add(head.q, c.q[h * d.group + j]);
    for (size_t t : g.position) {
        add(head.keys, c.keys[h][t]);
        add(head.values, c.values[h][t]);
    }
    head.scanned = head.keys;
    return head;
}

reference::indices sorted(reference::indices list) {
    std::sort(list.begin(), list.end());
    return list;
}

std::string far(const double* got, const test::row& want) {
    const numbers limit(want.size(), 1e-12);
    return test::outside(got, want.data(), limit.data(), want.size());
}

}  // namespace

TEST_CASE("the reference agrees with the golden vectors in every step", "[golden]") {
    for (const golden_case& c : cases()) {
        INFO(c.name);
        const compact g = make_compact(c);
        for (size_t h = 0; h < g.p.dims.heads_kv; ++h) {
            const reference::head head = exact_head(c, g, h);
            const auto res = reference::sparq(head, test::reference_settings(g.params, head.group));
            const auto dense = reference::dense(head);
            CHECK(res.components == sorted(c.components[h]));
            CHECK(far(res.covered.data(), c.covered[h]) == "");
            CHECK(far(res.mean.data(), c.mean[h]) == "");
            reference::indices tokens;
            for (size_t t : res.tokens) tokens.push_back(g.position[t]);
            CHECK(tokens == sorted(c.tokens[h]));
            for (size_t j = 0; j < head.group; ++j) {
                CHECK(std::abs(1 / res.inverse_tau[j] - c.tau[h][j]) < 1e-12);
                CHECK(far(&res.out[j * head.value_dim], c.out[h * head.group + j]) == "");
                CHECK(far(&dense.out[j * head.value_dim], c.dense[h * head.group + j]) == "");
                for (size_t t = 0; t < head.seq_len; ++t)
                    CHECK(std::abs(std::exp(res.logits[j * head.seq_len + t] - res.scan_lse[j]) -
                                   c.weights[h][j][g.position[t]]) < 1e-12);
            }
        }
    }
}

TEST_CASE("the library agrees with the golden vectors", "[golden]") {
    // One rounding of q and one of K and V on the way to float.
    const bounds::assumptions assume{.input_roundings = 3};
    for (const golden_case& c : cases()) {
        INFO(c.name);
        const compact g = make_compact(c);
        const auto cache = test::make_cache<float>(g.p);
        const test::answer got = test::run_sparq(g.p, cache.view(), g.params);
        const test::answer dense = test::run_dense(g.p, cache.view());
        const size_t n = got.report.tokens_per_head, width = g.p.dims.value_dim;
        for (size_t h = 0; h < g.p.dims.heads_kv; ++h) {
            const reference::head head = exact_head(c, g, h);
            const auto s = test::reference_settings(g.params, head.group);
            const auto lim = bounds::sparq(head, s, reference::sparq(head, s), assume);
            const auto dense_lim = bounds::dense(head, reference::dense(head), 0, assume);
            reference::indices tokens;
            for (size_t i = 0; i < n; ++i)
                tokens.push_back(g.position[got.report.tokens[h * n + i]]);
            CHECK(tokens == sorted(c.tokens[h]));
            for (size_t j = 0; j < head.group; ++j) {
                const size_t q_head = h * head.group + j;
                CHECK(test::outside(&got.out[q_head * width], c.out[q_head].data(),
                                    &lim.out[j * width], width) == "");
                CHECK(test::outside(&dense.out[q_head * width], c.dense[q_head].data(),
                                    &dense_lim.out[j * width], width) == "");
                CHECK(std::abs(static_cast<double>(got.report.heads[q_head].covered) -
                               c.covered[h][j]) <= lim.covered[j]);
            }
        }
    }
}

TEST_CASE("padding as holes in the ranges of a view gives the golden result", "[golden]") {
    size_t padded = 0;
    for (const golden_case& c : cases()) {
        const size_t cells = c.valid.size(), heads = c.keys.size();
        const compact g = make_compact(c);
        if (g.position.size() == cells) continue;
        ++padded;
        INFO(c.name);
        // K and V [heads_kv, cells, d] with every cell, the padded ones poisoned.
        std::vector<float> keys, values;
        for (size_t h = 0; h < heads; ++h)
            for (size_t t = 0; t < cells; ++t) {
                const bool valid = c.valid[t];
                append(keys, valid ? c.keys[h][t] : test::row(c.keys[h][t].size(), NAN));
                append(values, valid ? c.values[h][t] : test::row(c.values[h][t].size(), NAN));
            }
        const size_t d = g.p.dims.head_dim, dv = g.p.dims.value_dim;
        sparq::strided_kv<float> engine{};
        engine.keys = keys.data();
        engine.values = values.data();
        engine.heads_kv = heads;
        engine.head_dim = d;
        engine.value_dim = dv;
        engine.cells = cells;
        engine.key_token_stride = d;
        engine.key_head_stride = cells * d;
        engine.value_token_stride = dv;
        engine.value_head_stride = cells * dv;
        std::vector<sparq::token_range> visible;
        for (size_t t : g.position)
            if (!visible.empty() && visible.back().end == t)
                ++visible.back().end;
            else
                visible.push_back({t, t + 1});
        sparq::kv_view_storage<float> storage;
        CHECK(test::check_sparq(g.p, storage.assign(engine, visible), g.params) == "");
    }
    CHECK(padded > 0);
}
