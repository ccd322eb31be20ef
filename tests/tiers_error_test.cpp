// SPDX-License-Identifier: MIT
// How far attention in tiers is off, against the tolerance and against the error it reports:
// on recorded queries, keys and values, and on made-up ones that are hard.
#include <array>
#include <cstdio>
#include <functional>

#include "../examples/demo/npy.hpp"
#include "tier_problem.hpp"

namespace {

using sparq::half;
using std::size_t;
using test::problem;
using test::shape;

constexpr size_t row_step = test::quick ? 16 : 4;
constexpr std::array<float, 4> tolerances{0.02f, 0.05f, 0.1f, 0.2f};

/// Ratios of the true error, over many heads and steps.
struct errors {
    std::vector<double> of_tolerance, of_expected;
    double bytes = 0, dense_bytes = 0;
    size_t dense_heads = 0;

    void print(const std::string& name, float tolerance) const {
        std::printf("%-26s %5.2f  %5zu  %6.2f %6.2f  %6.2f %6.2f  %5.2f  %6.1f\n", name.c_str(),
                    double{tolerance}, of_tolerance.size(), test::quantile(of_tolerance, 0.5),
                    test::quantile(of_tolerance, 0.95), test::quantile(of_expected, 0.5),
                    test::quantile(of_expected, 0.95),
                    static_cast<double>(dense_heads) / static_cast<double>(of_tolerance.size()),
                    dense_bytes / bytes);
    }
};

void print_header() {
    std::printf("%-26s %5s  %5s  %13s  %13s  %5s  %6s\n%-26s %5s  %5s  %6s %6s  %6s %6s\n", "data",
                "tol", "heads", "true/tolerance", "true/expected", "dense", "fewer", "", "", "",
                "median", "p95", "median", "p95");
}

/// One call, compared with dense attention in double.
void measure(const problem& p, const sparq::tiered_view<half>& view, float tolerance,
             const std::vector<reference::result>& dense, errors& found) {
    const auto got = test::run_tiers(p, view, {.tolerance = tolerance});
    const size_t d = p.dims.value_dim;
    for (size_t h = 0; h < p.dims.heads_q(); ++h) {
        const auto& head = got.report.heads[h];
        const double* want = &dense[h / p.dims.group].out[h % p.dims.group * d];
        const double off = test::relative_error(&got.out[h * d], want, d);
        found.of_tolerance.push_back(off / double{tolerance});
        found.dense_heads += head.dense ? 1u : 0u;
        if (!head.dense)
            found.of_expected.push_back(off / std::max(double{head.expected_error}, 1e-6));
    }
    found.bytes += static_cast<double>(got.report.bytes_read);
    found.dense_bytes += static_cast<double>(view.seq_len() * p.dims.heads_kv *
                                             (p.dims.head_dim + d) * sizeof(half));
}

std::vector<reference::result> dense_of(const problem& p) {
    std::vector<reference::result> all;
    for (size_t g = 0; g < p.dims.heads_kv; ++g)
        all.push_back(reference::dense(test::reference_head<half, half>(p, g)));
    return all;
}

/// Steps of a recorded layer: row i attends to the tokens up to S - rows + i.
void measure_layer(const std::string& name, std::array<errors, 4>& pooled) {
    const std::string folder = SPARQ_EXAMPLE_DATA;
    const auto read = [&](const char* part) { return read_npy(folder + "/" + name + part); };
    const npy_array q = read("_q.npy"), k = read("_k.npy"), v = read("_v.npy");
    const size_t rows = q.shape[0], all = k.shape[0], heads_kv = k.shape[1], d = k.shape[2];
    problem p{{heads_kv, q.shape[1] / heads_kv, d, v.shape[2], all}, 0, {}, {}, {}};
    for (half x : k.values) p.keys.push_back(static_cast<float>(x));
    for (half x : v.values) p.values.push_back(static_cast<float>(x));
    std::array<errors, 4> found;
    sparq::tiered_cache<half> cache(heads_kv, d, v.shape[2]);
    for (size_t row = 0; row < rows; row += row_step) {
        p.dims.seq_len = all - rows + row + 1;
        test::append_tiers(cache, p, cache.seq_len(), p.dims.seq_len);
        p.q.clear();
        const size_t width = q.shape[1] * d;
        for (size_t i = 0; i < width; ++i)
            p.q.push_back(static_cast<float>(q.values[row * width + i]));
        const auto dense = dense_of(p);
        for (size_t i = 0; i < tolerances.size(); ++i)
            measure(p, cache.view(), tolerances[i], dense, found[i]);
    }
    for (size_t i = 0; i < tolerances.size(); ++i) {
        found[i].print(name, tolerances[i]);
        const auto join = [](std::vector<double>& to, const std::vector<double>& from) {
            to.insert(to.end(), from.begin(), from.end());
        };
        join(pooled[i].of_tolerance, found[i].of_tolerance);
        join(pooled[i].of_expected, found[i].of_expected);
        pooled[i].bytes += found[i].bytes;
        pooled[i].dense_bytes += found[i].dense_bytes;
        pooled[i].dense_heads += found[i].dense_heads;
    }
}

/// Made-up data, each hard in its own way.
struct hard_set {
    const char* name;
    float q_size;
    std::function<void(problem&)> spoil;
};

void for_rows(std::vector<float>& x, size_t width,
              const std::function<void(size_t, float*)>& body) {
    for (size_t t = 0; t * width < x.size(); ++t) body(t, &x[t * width]);
}

std::vector<hard_set> hard_sets() {
    return {
        {"all logits equal", 1.0f,
         [](problem& p) {
             for_rows(p.keys, p.dims.head_dim, [&](size_t, float* key) {
                 std::copy_n(p.keys.begin(), p.dims.head_dim, key);
             });
         }},
        {"one needle", 1.0f,
         [](problem& p) {
             const size_t d = p.dims.head_dim, t = p.dims.seq_len / 3;
             for (size_t c = 0; c < d; ++c)
                 p.keys[t * d + c] = 12 * p.q[c] / std::sqrt(static_cast<float>(d));
         }},
        {"heavy-tailed V", 1.0f,
         [](problem& p) {
             test::random_source source(p.seed);
             for_rows(p.values, p.dims.value_dim, [&](size_t, float* value) {
                 const auto size =
                     static_cast<float>(1 / std::sqrt(std::abs(source.uniform()) + 1e-3));
                 for (size_t c = 0; c < p.dims.value_dim; ++c) value[c] *= size;
             });
         }},
        {"outlier channels", 0.3f,
         [](problem& p) {
             for_rows(p.keys, p.dims.head_dim, [&](size_t, float* key) {
                 for (size_t c = 3; c < p.dims.head_dim; c += 29) key[c] *= 20;
             });
         }},
        {"sinks", 1.0f,
         [](problem& p) {
             const size_t d = p.dims.head_dim;
             for (size_t t = 0; t < 4; ++t)
                 for (size_t c = 0; c < d; ++c)
                     p.keys[t * d + c] = 8 * p.q[c] / std::sqrt(static_cast<float>(d)),
                                    p.values[t * p.dims.value_dim + c % p.dims.value_dim] *= 0.1f;
         }},
        {"random", 1.0f, [](problem&) {}},
        {"random, hot", 2.5f, [](problem&) {}},
    };
}

}  // namespace

TEST_CASE("recorded attention keeps the tolerance", "[tiers_error]") {
    std::array<errors, 4> pooled;
    print_header();
    for (const char* name : {"layer00", "layer13_head0", "layer20"}) measure_layer(name, pooled);
    for (size_t i = 0; i < tolerances.size(); ++i) {
        pooled[i].print("pooled", tolerances[i]);
        INFO("tolerance " << tolerances[i]);
        CHECK(test::quantile(pooled[i].of_tolerance, 0.5) <= 1.0);
        CHECK(test::quantile(pooled[i].of_tolerance, 0.95) <= 2.5);
        // And it is worth it: fewer bytes than dense attention reads.
        CHECK(pooled[i].dense_bytes > 1.3 * pooled[i].bytes);
    }
}

TEST_CASE("the expected error is near the true one on hard data", "[tiers_error]") {
    print_header();
    for (const hard_set& set : hard_sets()) {
        std::array<errors, 2> found;
        size_t n = 0;
        for (size_t head_dim : test::sizes{64, 128})
            for (size_t group : test::sizes{1, 4})
                for (size_t seq_len : test::sizes{500, 2000, 8000}) {
                    if (test::quick && seq_len > 2000) continue;
                    problem p = test::make_problem({1, group, head_dim, head_dim, seq_len},
                                                   3000 + n++, set.q_size);
                    set.spoil(p);
                    const auto cache = test::make_tiers<half>(p);
                    const auto dense = dense_of(p);
                    measure(p, cache.view(), 0.05f, dense, found[0]);
                    measure(p, cache.view(), 0.2f, dense, found[1]);
                }
        for (size_t i = 0; i < 2; ++i) {
            found[i].print(set.name, i == 0 ? 0.05f : 0.2f);
            INFO(set.name << ", tolerance " << (i == 0 ? 0.05 : 0.2));
            if (!found[i].of_expected.empty())
                CHECK(test::quantile(found[i].of_expected, 0.95) <= 4.0);
            CHECK(test::quantile(found[i].of_tolerance, 0.5) <= 2.0);
        }
    }
}
