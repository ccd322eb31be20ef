// SPDX-License-Identifier: MIT
// A tiered cache whose rows of K and V are codes of 8 bits: the codes against what was appended,
// all else against a float cache of what the codes stand for, attention against double.
#include <array>
#include <barrier>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <thread>

#include "../examples/demo/npy.hpp"
#include "tier_reference.hpp"

namespace {

using sparq::half;
using sparq::int8_row;
using sparq::tiered_cache;
using sparq::tiered_params;
using sparq::tiered_view;
using std::size_t;
using test::answer;
using test::problem;
using test::shape;
using calls = test::tier_calls<int8_row>;

/// A stored row: code i stands for minimum + step * code[i]. The range lies before the codes.
struct stored_row {
    float minimum = 0, step = 0;
    std::vector<unsigned> codes;

    stored_row(const int8_row* row, size_t width) {
        const auto* bytes = reinterpret_cast<const unsigned char*>(row);
        std::memcpy(&minimum, bytes - 8, 4);
        std::memcpy(&step, bytes - 4, 4);
        codes.assign(bytes, bytes + width);
    }
    [[nodiscard]] double value(size_t i) const {
        return double{minimum} + double{step} * static_cast<double>(codes[i]);
    }
    /// As the library has it in floats: fused or not, as the instruction set does.
    [[nodiscard]] float decoded(size_t i) const {
#if (defined(__FMA__) || defined(__aarch64__)) && !defined(SPARQ_TEST_PLAIN)
        return std::fma(step, static_cast<float>(codes[i]), minimum);
#else
        const volatile float product = step * static_cast<float>(codes[i]);
        return minimum + product;
#endif
    }
    [[nodiscard]] double magnitude() const {
        return std::abs(double{minimum}) + 255 * double{step};
    }
};

struct stored_rows {
    stored_row key, value;
};

/// Those of every token of KV head g.
std::vector<stored_rows> rows_of(const tiered_view<int8_row>& view, size_t g) {
    std::vector<stored_rows> all;
    for (size_t s = 0; s < view.rows().segments_per_head(); ++s) {
        const auto& part = view.rows().segment(s, g);
        for (size_t t = 0; t < part.tokens; ++t)
            all.push_back({{part.keys + t * part.key_stride, view.head_dim()},
                           {part.values + t * part.value_stride, view.value_dim()}});
    }
    return all;
}

/// The problem with K and V as the cache's codes have them.
problem decoded_problem(const problem& p, const tiered_view<int8_row>& view) {
    problem result = p;
    const shape& d = p.dims;
    for (size_t g = 0; g < d.heads_kv; ++g) {
        const auto rows = rows_of(view, g);
        for (size_t t = 0; t < rows.size(); ++t) {
            for (size_t c = 0; c < d.head_dim; ++c)
                result.keys[(t * d.heads_kv + g) * d.head_dim + c] = rows[t].key.decoded(c);
            for (size_t c = 0; c < d.value_dim; ++c)
                result.values[(t * d.heads_kv + g) * d.value_dim + c] = rows[t].value.decoded(c);
        }
    }
    return result;
}

/// In [0, 1): ((t + 1) * 3242174889 mod 2^32) / 2^32.
double dither_of(size_t token) {
    return static_cast<double>((token + 1) * 3242174889u % 0x100000000u) * 0x1p-32;
}

/// Whether the row is coded as it should be: minimum and step but for roundings, and every code
/// the nearest to its value (either, next to a tie).
/// @param begin  fraction of a step that the grid begins below the least value
std::string check_row(const stored_row& row, const double* x, size_t n, double steps,
                      double begin) {
    const double least = *std::min_element(x, x + n), greatest = *std::max_element(x, x + n);
    const double size = std::max(std::abs(least), std::abs(greatest));
    double step = (greatest - least) / steps;
    if (step < 0x1p-126) step = 0;
    if (!(std::abs(double{row.step} - step) <= 0x1p-22 * step + 0x1p-24 * size / steps))
        return "step";
    const double minimum = least - begin * step;
    if (!(std::abs(double{row.minimum} - minimum) <= 0x1p-22 * (std::abs(least) + step)))
        return "minimum";
    for (size_t i = 0; i < n; ++i) {
        const double place = row.step > 0 ? (x[i] - double{row.minimum}) / double{row.step} : 0.0;
        const double slack = 0x1p-21 * (256 + size / std::max(double{row.step}, 1e-300));
        if (!(std::abs(static_cast<double>(row.codes[i]) - place) <= 0.5 + std::min(slack, 0.1)))
            return "code of element " + std::to_string(i);
    }
    return {};
}

template <class From>
std::string check_rows(const problem& p, const tiered_view<int8_row>& view) {
    const shape& d = p.dims;
    for (size_t g = 0; g < d.heads_kv; ++g) {
        const auto exact = tier_codes::rows_of<From>(p, g, d.seq_len);
        const auto rows = rows_of(view, g);
        for (size_t t = 0; t < d.seq_len; ++t) {
            std::string wrong = check_row(rows[t].key, exact.key(t), d.head_dim, 255, 0);
            if (wrong.empty())
                wrong = check_row(rows[t].value, exact.value(t), d.value_dim, 254, dither_of(t));
            if (!wrong.empty()) return wrong + ", token " + std::to_string(t);
        }
    }
    return {};
}

template <class From>
tiered_cache<int8_row> make_of(const problem& p) {
    tiered_cache<int8_row> cache(p.dims.heads_kv, p.dims.head_dim, p.dims.value_dim);
    std::vector<From> keys, values;
    for (float x : p.keys) keys.push_back(From(x));
    for (float x : p.values) values.push_back(From(x));
    cache.append<test::arch>(std::span<const From>(keys), std::span<const From>(values));
    return cache;
}

/// Whether two caches agree in all but their rows: 2-bit codes, ranges, 4-bit rows, moments, sums.
std::string compare_codes(const tiered_view<int8_row>& a, const tiered_view<float>& b) {
    for (size_t g = 0; g < a.heads_kv(); ++g) {
        const auto of_a = tier_codes::places(a, g), of_b = tier_codes::places(b, g);
        if (of_a.size() != of_b.size()) return "seq_len";
        const auto& x = a.of_head(g).moments;
        const auto& y = b.of_head(g).moments;
        for (size_t c = 0; c < a.head_dim(); ++c)
            if (x.mean[c] != y.mean[c] || x.variance[c] != y.variance[c] ||
                x.square_width[c] != y.square_width[c])
                return "moments";
        if (a.of_head(g).value_squares != b.of_head(g).value_squares) return "value_squares";
        for (size_t c = 0; c < a.value_dim(); ++c)
            if (a.rows().value_sum(g)[c] != b.rows().value_sum(g)[c]) return "value_sum";
        for (size_t t = 0; t < of_a.size(); ++t) {
            const auto row = tier_codes::decode_row(a, g, of_a[t]);
            const auto same = tier_codes::decode_row(b, g, of_b[t]);
            if (row.key != same.key || row.value != same.value)
                return "code row of token " + std::to_string(t);
            for (size_t c = 0; c < a.head_dim() && of_a[t].labelled; ++c)
                if (tier_codes::scanned_key(a, g, of_a[t], c) !=
                    tier_codes::scanned_key(b, g, of_b[t], c))
                    return "label of token " + std::to_string(t);
        }
    }
    return {};
}

/// Same codes of 8 bits and ranges.
std::string compare_rows(const tiered_view<int8_row>& a, const tiered_view<int8_row>& b) {
    for (size_t g = 0; g < a.heads_kv(); ++g) {
        const auto x = rows_of(a, g), y = rows_of(b, g);
        if (x.size() != y.size()) return "seq_len";
        const auto same = [](const stored_row& one, const stored_row& other) {
            return one.minimum == other.minimum && one.step == other.step &&
                   one.codes == other.codes;
        };
        for (size_t t = 0; t < x.size(); ++t)
            if (!same(x[t].key, y[t].key) || !same(x[t].value, y[t].value))
                return "row of token " + std::to_string(t);
    }
    return {};
}

/// How far a logit, and a weighted mean of V, may be off: sums of codes in float, in units of
/// the rows' magnitudes.
struct row_bounds {
    double logit = 0, value = 0, largest = 0;

    row_bounds(const problem& p, const tiered_view<int8_row>& view, size_t g, double scale) {
        const shape& d = p.dims;
        double q = 0;
        for (size_t h = 0; h < d.group; ++h) {
            double sum = 0;
            for (size_t c = 0; c < d.head_dim; ++c)
                sum += std::abs(double{p.q[(g * d.group + h) * d.head_dim + c]}) * scale;
            q = std::max(q, sum);
        }
        const double blocks = static_cast<double>(view.seq_len() / 16 + 1);
        for (const stored_rows& row : rows_of(view, g)) {
            logit = std::max(
                logit, (static_cast<double>(d.head_dim) + 16) * 0x1p-24 * q * row.key.magnitude());
            value = std::max(value, (32 + 8 * blocks) * 0x1p-24 * row.value.magnitude());
            largest = std::max(largest, row.value.magnitude());
        }
        logit += 0x1p-20;
    }
    /// Of an output.
    [[nodiscard]] double output() const { return std::expm1(2 * logit) * 2 * largest + value; }
};

}  // namespace

TEST_CASE("codes of 8 bits are the nearest to what was appended", "[int8_rows]") {
    size_t n = 0;
    for (size_t head_dim : test::sizes{1, 3, 16, 24, 33, 64, 80, 128})
        for (size_t seq_len : test::sizes{1, 65, 600}) {
            const size_t value_dim = n % 2 == 0 ? head_dim : 1 + n * 17 % 130;
            const problem p =
                test::tier_problem({1 + n % 3, 1, head_dim, value_dim, seq_len}, 5100 + n);
            INFO(p.dims << ", seed " << p.seed);
            CHECK(check_rows<float>(p, test::make_tiers<int8_row>(p).view()) == "");
            CHECK(check_rows<half>(p, make_of<half>(p).view()) == "");
            CHECK(check_rows<sparq::bfloat16>(p, make_of<sparq::bfloat16>(p).view()) == "");
            ++n;
        }
}

TEST_CASE("rows of 8 bits of any size, and rows that are not finite", "[int8_rows]") {
    for (float size : {0.0f, 1e-42f, 1e-37f, 1e-20f, 1.0f, 1e20f, 9e36f}) {
        problem p = test::make_problem({1, 1, 24, 20, 70}, 5200);
        for (float& x : p.keys) x *= size;
        for (float& x : p.values) x *= size;
        for (size_t c = 0; c < 24; ++c) p.keys[5 * 24 + c] = size;  // constant
        INFO("size " << size);
        const auto cache = test::make_tiers<int8_row>(p);
        if (size == 0.0f || size > 1e-36f) CHECK(check_rows<float>(p, cache.view()) == "");
        for (const stored_rows& row : rows_of(cache.view(), 0))
            CHECK((std::isfinite(row.key.minimum) && std::isfinite(row.value.step)));
        CHECK(rows_of(cache.view(), 0)[5].key.step == 0.0f);
        CHECK(rows_of(cache.view(), 0)[5].key.minimum == size);
    }
    for (float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity(), 2e38f})
        for (size_t place : test::sizes{0, 7, 23}) {
            problem p = test::make_problem({1, 2, 24, 24, 700}, 5210);
            p.keys[9 * 24 + place] = bad;
            p.values[650 * 24 + place] = bad;
            const auto cache = test::make_tiers<int8_row>(p);
            const auto rows = rows_of(cache.view(), 0);
            CHECK(std::isnan(rows[9].key.minimum));
            CHECK(std::isnan(rows[650].value.minimum));
            CHECK(std::isfinite(rows[9].value.minimum));
            const answer a = test::run_tiers(p, cache.view(), {.tolerance = 0.1f});
            for (size_t h = 0; h < 2; ++h) {
                CHECK(a.report.heads[h].dense);
                CHECK(std::all_of(&a.out[h * 24], &a.out[h * 24] + 24,
                                  [](float x) { return std::isnan(x); }));
            }
        }
}

TEST_CASE("labels, 4-bit rows and sums are those of what 8 bits stand for", "[int8_rows]") {
    size_t n = 0;
    for (size_t seq_len : test::sizes{1, 63, 64, 130, 512, 640, 1100})
        for (size_t head_dim : test::sizes{1, 24, 64, 80, 128}) {
            const size_t value_dim = n % 2 == 0 ? head_dim : 1 + n * 17 % 130;
            const problem p =
                test::tier_problem({1 + n % 3, 1, head_dim, value_dim, seq_len}, 5300 + n);
            const auto cache = test::make_tiers<int8_row>(p);
            const problem decoded = decoded_problem(p, cache.view());
            INFO(p.dims << ", seed " << p.seed);
            CHECK(compare_codes(cache.view(), test::make_tiers<float>(decoded).view()) == "");
            ++n;
        }
}

TEST_CASE("rows of 8 bits depend on the tokens only, not on the history", "[int8_rows]") {
    const size_t rounds = test::quick ? 2 : 5;
    for (size_t round = 0; round < rounds; ++round) {
        const std::uint64_t seed = 5400 + round;
        test::random_source source(seed);
        const shape dims{1 + round % 3, 2, round % 2 == 0 ? 24u : 65u, 20, 1900};
        const problem p = test::tier_problem(dims, seed);
        tiered_cache<int8_row> cache(dims.heads_kv, dims.head_dim, dims.value_dim);
        if (round % 2 == 1) cache.reserve(1500);
        for (size_t step = 0; step < 16; ++step) {
            if (source.below(12) == 0) cache.clear();
            const size_t len = cache.seq_len();
            const size_t drop =
                source.below(step % 3 == 0 ? len + 1 : std::min(len + 1, size_t{90}));
            calls::truncate(cache, len - drop);
            const size_t begin = cache.seq_len();
            const size_t end = std::min(dims.seq_len, begin + 1 + source.below(600));
            for (size_t t = begin; t < end;) {
                const size_t next = std::min(end, t + 1 + source.below(200));
                test::append_tiers(cache, p, t, next);
                t = next;
            }
            INFO("seed " << seed << ", step " << step << ", truncated to " << begin << ", end "
                         << end << ", " << dims);
            if (cache.seq_len() == 0) continue;
            const auto at_once = test::make_tiers<int8_row>(p, cache.seq_len());
            CHECK(compare_rows(cache.view(), at_once.view()) == "");
            const problem decoded = decoded_problem(p, cache.view());
            CHECK(compare_codes(cache.view(),
                                test::make_tiers<float>(decoded, cache.seq_len()).view()) == "");
            for (const tiered_params& params :
                 {tiered_params{.tolerance = 0.2f}, tiered_params{.tolerance = 0.0f}})
                CHECK(test::same_tiers(test::run_tiers(p, cache.view(), params),
                                       test::run_tiers(p, at_once.view(), params)));
        }
    }
}

TEST_CASE("dense attention over rows of 8 bits", "[int8_rows]") {
    size_t n = 0;
    for (size_t head_dim : test::sizes{1, 7, 24, 64, 80, 128, 200})
        for (size_t group : test::sizes{1, 2, 3, 4, 5, 9})
            for (size_t seq_len : test::sizes{1, 15, 17, 100, 600}) {
                if (n++ % 3 != 0) continue;
                const size_t value_dim = n % 2 == 0 ? head_dim : 1 + n * 13 % 140;
                const problem p = test::tier_problem(
                    {1 + n % 3, group, head_dim, value_dim, seq_len}, 5500 + n, 0.3f);
                const auto cache = test::make_tiers<int8_row>(p);
                const problem decoded = decoded_problem(p, cache.view());
                const answer direct = test::run_tiers_dense(p, cache.view());
                const answer got = test::run_tiers(p, cache.view(), {.tolerance = 0.0f});
                INFO(p.dims << ", seed " << p.seed);
                CHECK(test::same_bits(got.out, direct.out));
                CHECK(got.report.bytes_read ==
                      p.dims.heads_kv * seq_len * (head_dim + value_dim + 16));
                const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
                for (size_t g = 0; g < p.dims.heads_kv; ++g) {
                    const auto want =
                        reference::dense(test::reference_head<float, float>(decoded, g));
                    const row_bounds bound(p, cache.view(), g, scale);
                    const std::vector<double> limit(want.out.size(), bound.output());
                    CHECK(test::outside(&got.out[g * group * value_dim], want.out.data(),
                                        limit.data(), limit.size()) == "");
                }
            }
}

TEST_CASE("fixed tiers over rows of 8 bits are the formulas", "[int8_rows]") {
    size_t n = 0, compared = 0;
    for (size_t group : test::sizes{1, 2, 3, 9})
        for (size_t seq_len : test::sizes{200, 700, 1100}) {
            const shape dims{1 + n % 2, group, n % 2 == 0 ? 64u : 128u, n % 3 == 0 ? 80u : 64u,
                             seq_len};
            const size_t k = 7 + n % 5, m = 30 + n % 7;
            const problem p = test::classes_problem(dims, 5600 + n++, k, m - k);
            const auto cache = test::make_tiers<int8_row>(p);
            const problem decoded = decoded_problem(p, cache.view());
            const size_t all = dims.head_dim;
            for (const tiered_params& params :
                 {tiered_params{.scan_channels = all, .refined = m - k, .exact = k},
                  tiered_params{.refined = m - k, .exact = k},
                  tiered_params{.scan_channels = all, .refined = 0, .exact = m},
                  tiered_params{.refined = m, .exact = 0, .sinks = 1, .recent = 3}}) {
                const answer got = test::run_tiers(p, cache.view(), params);
                for (size_t g = 0; g < dims.heads_kv; ++g) {
                    auto want =
                        tier_reference::fixed_tiers<int8_row>(decoded, cache.view(), g, params)
                            .run();
                    if (want.near_tie) continue;
                    ++compared;
                    const double scale = 1 / std::sqrt(static_cast<double>(dims.head_dim));
                    const row_bounds bound(p, cache.view(), g, scale);
                    for (double& limit : want.limit) limit += bound.output();
                    const auto& head = got.report.heads[g * group];
                    INFO(dims << ", KV head " << g << ", seed " << p.seed << ", refined "
                              << params.refined << ", exact " << params.exact);
                    CHECK(!head.dense);
                    CHECK(head.exact == want.exact);
                    CHECK(head.refined == want.refined);
                    CHECK(test::outside(&got.out[g * group * dims.value_dim], want.out.data(),
                                        want.limit.data(), want.limit.size()) == "");
                }
            }
        }
    std::printf("fixed tiers over 8-bit rows: %zu heads compared\n", compared);
    CHECK(compared >= (test::quick ? 8 : 40));
}

TEST_CASE("rows of 8 bits are chosen and counted like others", "[int8_rows]") {
    // The same codes beside float rows of the same values: the same tokens are read as precisely,
    // and only the bytes of the rows differ.
    size_t n = 0;
    for (size_t seq_len : test::sizes{900, 3000, 9000})
        for (size_t group : test::sizes{1, 3}) {
            const shape dims{2, group, n % 2 == 0 ? 64u : 128u, n % 3 == 0 ? 48u : 64u, seq_len};
            const problem p = test::tier_problem(dims, 5700 + n++, 0.5f);
            const auto cache = test::make_tiers<int8_row>(p);
            const problem decoded = decoded_problem(p, cache.view());
            const auto floats = test::make_tiers<float>(decoded);
            const tiered_params params{.refined = 90, .exact = 11};
            const answer got = test::run_tiers(p, cache.view(), params);
            const answer want = test::run_tiers(p, floats.view(), params);
            INFO(dims);
            // The scan takes the first four tokens from their rows of K.
            const size_t scan_rows = dims.heads_kv * 4 * (4 * dims.head_dim - (dims.head_dim + 8));
            size_t row_bytes = scan_rows;
            for (size_t h = 0; h < dims.heads_q(); ++h) {
                const auto& head = got.report.heads[h];
                CHECK(!head.dense);
                CHECK(head.exact == want.report.heads[h].exact);
                CHECK(head.refined == want.report.heads[h].refined);
                CHECK(head.expected_error >= want.report.heads[h].expected_error * 0.999f);
                if (h % group == 0)
                    row_bytes += head.exact * (4 * (dims.head_dim + dims.value_dim) -
                                               (dims.head_dim + dims.value_dim + 16));
            }
            CHECK(got.report.bytes_read + row_bytes == want.report.bytes_read);
            CHECK(got.report.bytes.scan + scan_rows == want.report.bytes.scan);
        }
}

TEST_CASE("rows of more than 256 codes are scanned like others", "[int8_rows]") {
    // The scan takes the first tokens from their rows, which it multiplies in parts: the result
    // is that of float rows of the same values.
    size_t n = 0;
    for (size_t head_dim : test::sizes{256, 320, 576})
        for (size_t group : test::sizes{1, 3})
            for (size_t sinks : test::sizes{0, 4}) {
                const shape dims{2, group, head_dim, 48, 900};
                const problem p = test::tier_problem(dims, 5750 + n++, 0.3f);
                const auto cache = test::make_tiers<int8_row>(p);
                const auto floats = test::make_tiers<float>(decoded_problem(p, cache.view()));
                const tiered_params params{.refined = 90, .exact = 11, .sinks = sinks};
                const answer got = test::run_tiers(p, cache.view(), params);
                const answer want = test::run_tiers(p, floats.view(), params);
                for (size_t h = 0; h < dims.heads_q(); ++h) {
                    INFO(dims << ", sinks " << sinks << ", query head " << h);
                    const auto &head = got.report.heads[h], &same = want.report.heads[h];
                    CHECK(!head.dense);
                    CHECK(head.exact == same.exact);
                    CHECK(head.refined == same.refined);
                    CHECK(std::abs(head.log_sum_exp - same.log_sum_exp) <= 1e-4f);
                    CHECK(std::abs(head.tail_weight - same.tail_weight) <= 1e-4f);
                    const std::vector<double> y(&want.out[h * 48], &want.out[h * 48] + 48);
                    CHECK(test::relative_error(&got.out[h * 48], y.data(), 48) <= 1e-4);
                }
            }
}

TEST_CASE("rows of 8 bits: the same bits for any executor, plan and workspace", "[int8_rows]") {
    size_t n = 0;
    for (const shape& dims : {shape{1, 2, 32, 32, 20000}, shape{3, 9, 64, 64, 2500}})
        for (const tiered_params& params :
             {tiered_params{.tolerance = 0.1f}, tiered_params{.tolerance = 0.0f}}) {
            const problem p = test::tier_problem(dims, 5800 + n++, 0.4f);
            const auto cache = test::make_tiers<int8_row>(p);
            const auto view = cache.view();
            const answer want = test::run_tiers(p, view, params);
            INFO(dims << ", tolerance " << params.tolerance);
            sparq::workspace work;
            const auto threads = [](size_t count, const test::any_body& body) {
                std::vector<std::thread> pool;
                for (size_t i = 0; i < 3; ++i)
                    pool.emplace_back([&, i] {
                        for (size_t j = count; j-- > 0;)
                            if (j % 3 == i) body(j);
                    });
                for (std::thread& thread : pool) thread.join();
            };
            for (size_t round = 0; round < 2; ++round) {
                answer got{std::vector<float>(want.out.size(), -1.0f), {}};
                sparq::call_options options;
                options.work = &work;
                options.report = &got.report;
                calls::tiered_on(threads, p.q, view, params, got.out, options);
                CHECK(test::same_tiers(got, want));
            }
            std::vector<float> without_report(want.out.size());
            calls::tiered(p.q, view, params, without_report);
            CHECK(test::same_bits(without_report, want.out));
            if (params.tolerance == 0.0f) continue;
            for (size_t nth : test::sizes{1, 2, 5}) {
                answer got{std::vector<float>(want.out.size(), -1.0f), {}};
                sparq::call_options options;
                options.report = &got.report;
                const auto plan = calls::make_plan(p.q, view, params, got.out, options);
                std::barrier sync(static_cast<std::ptrdiff_t>(nth));
                std::vector<std::thread> pool;
                for (size_t ith = 0; ith < nth; ++ith)
                    pool.emplace_back([&, ith] {
                        calls::run_plan(plan, ith, nth, [&] { sync.arrive_and_wait(); });
                    });
                for (std::thread& thread : pool) thread.join();
                CHECK(test::same_tiers(got, want));
            }
        }
}

TEST_CASE("what a cache of 8-bit rows refuses leaves it as it was", "[int8_rows]") {
    CHECK_THROWS_AS(tiered_cache<int8_row>(0, 64), std::invalid_argument);
    CHECK_THROWS_AS(tiered_cache<int8_row>(1, 0), std::invalid_argument);
    CHECK_THROWS_AS(tiered_cache<int8_row>(1, 64, 0), std::invalid_argument);
    CHECK_THROWS_AS(tiered_cache<int8_row>(1, std::numeric_limits<size_t>::max()),
                    std::invalid_argument);
    const problem p = test::tier_problem({2, 1, 24, 20, 700}, 5900);
    auto cache = test::make_tiers<int8_row>(p, 600);
    const answer before = test::run_tiers(p, cache.view(), {.tolerance = 0.1f});
    const std::vector<float> keys(48, 1.0f), values(40, 1.0f);
    const auto refused = [&](std::span<const float> k, std::span<const float> v) {
        CHECK_THROWS_AS(calls::append(cache, k, v), std::invalid_argument);
    };
    refused({}, {});
    refused(std::span(keys).first(47), values);
    refused(keys, std::span(values).first(20));
    CHECK_THROWS_AS(calls::truncate(cache, 601), std::invalid_argument);
    CHECK(test::same_tiers(test::run_tiers(p, cache.view(), {.tolerance = 0.1f}), before));
    CHECK(cache.row_bytes() == 2 * cache.capacity() * (24 + 20 + 16));
    const auto halves = test::make_tiers<half>(p, 600);
    CHECK(cache.code_bytes() == halves.code_bytes());
    CHECK(halves.row_bytes() == 2 * halves.capacity() * 2 * (24 + 20));
}

TEST_CASE("recorded attention over rows of 8 bits errs as expected", "[int8_rows]") {
    const std::string folder = SPARQ_EXAMPLE_DATA;
    std::printf("8-bit rows: layer, tolerance: error / expected median, p95; mean error; dense\n");
    for (const std::string name : {"layer00", "layer13_head0", "layer20"}) {
        const auto read = [&](const char* part) { return read_npy(folder + "/" + name + part); };
        const npy_array q = read("_q.npy"), k = read("_k.npy"), v = read("_v.npy");
        const size_t rows = q.shape[0], all = k.shape[0], heads_kv = k.shape[1], d = k.shape[2];
        problem p{{heads_kv, q.shape[1] / heads_kv, d, v.shape[2], all}, 0, {}, {}, {}};
        for (half x : k.values) p.keys.push_back(static_cast<float>(x));
        for (half x : v.values) p.values.push_back(static_cast<float>(x));
        tiered_cache<int8_row> cache(heads_kv, d, v.shape[2]);
        std::array<std::vector<double>, 2> of_expected, errors;
        std::vector<double> floor;
        for (size_t row = 0; row < rows; row += test::quick ? 16 : 8) {
            p.dims.seq_len = all - rows + row + 1;
            test::append_tiers(cache, p, cache.seq_len(), p.dims.seq_len);
            p.q.clear();
            const size_t width = q.shape[1] * d;
            for (size_t i = 0; i < width; ++i)
                p.q.push_back(static_cast<float>(q.values[row * width + i]));
            const answer dense = test::run_tiers_dense(p, cache.view());
            for (size_t i = 0; i < 2; ++i) {
                const auto got =
                    test::run_tiers(p, cache.view(), {.tolerance = i == 0 ? 0.01f : 0.05f});
                for (size_t h = 0; h < p.dims.heads_q(); ++h) {
                    const auto want =
                        reference::dense(test::reference_head<half, half>(p, h / p.dims.group));
                    const double* y = &want.out[h % p.dims.group * v.shape[2]];
                    const double off =
                        test::relative_error(&got.out[h * v.shape[2]], y, v.shape[2]);
                    errors[i].push_back(off);
                    if (!got.report.heads[h].dense)
                        of_expected[i].push_back(off / double{got.report.heads[h].expected_error});
                    if (i == 0)
                        floor.push_back(
                            test::relative_error(&dense.out[h * v.shape[2]], y, v.shape[2]));
                }
            }
        }
        for (size_t i = 0; i < 2; ++i) {
            const double median = test::quantile(of_expected[i], 0.5);
            const double high = test::quantile(of_expected[i], 0.95);
            std::printf("%-14s %.2f: %.2f, %.2f; %.4f; %.4f\n", name.c_str(), i == 0 ? 0.01 : 0.05,
                        median, high, test::quantile(errors[i], 0.5), test::quantile(floor, 0.5));
            INFO(name << ", tolerance " << (i == 0 ? 0.01 : 0.05));
            CHECK(median > 0.3);
            CHECK(median < 1.3);
            CHECK(high < 2.5);
        }
        CHECK(test::quantile(floor, 0.5) < 0.03);
        CHECK(test::quantile(floor, 0.5) > 0.0003);
    }
}
