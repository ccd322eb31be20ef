// SPDX-License-Identifier: MIT
// Attention in tiers: fixed tiers against double precision, what the report says, and what
// holds for any data.
#include <barrier>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <thread>

#include "tier_reference.hpp"

namespace {

using sparq::half;
using sparq::tiered_params;
using std::size_t;
using test::answer;
using test::classes_problem;
using test::problem;
using test::shape;

struct tally {
    size_t compared = 0, skipped = 0;
};

template <class T>
void check_fixed(const problem& p, const tiered_params& params, tally& count) {
    const auto cache = test::make_tiers<T>(p);
    const auto view = cache.view();
    const answer got = test::run_tiers(p, view, params);
    const size_t width = p.dims.group * p.dims.value_dim;
    for (size_t g = 0; g < p.dims.heads_kv; ++g) {
        const auto want = tier_reference::fixed_tiers<T>(p, view, g, params).run();
        INFO(p.dims << ", KV head " << g << ", seed " << p.seed << ", refined " << params.refined
                    << ", exact " << params.exact << ", scan_channels " << params.scan_channels
                    << ", sinks " << params.sinks << ", recent " << params.recent);
        if (want.near_tie) {
            ++count.skipped;
            continue;
        }
        ++count.compared;
        const auto& head = got.report.heads[g * p.dims.group];
        CHECK(!head.dense);
        CHECK(head.exact == want.exact);
        CHECK(head.refined == want.refined);
        CHECK(test::outside(got.out.data() + g * width, want.out.data(), want.limit.data(),
                            width) == "");
    }
}

/// The tokens of a KV head that are scanned, and the strips that they lie in.
struct scanned_count {
    size_t tokens = 0, strips = 0;

    /// What a scan of r channels reads: codes, ranges, and the first four rows of K.
    [[nodiscard]] size_t bytes(size_t r, size_t key_row) const {
        return tokens * r / 4 + strips * 4 * r + std::min(tokens, size_t{4}) * key_row;
    }
};

template <class T>
scanned_count count_scanned(const sparq::tiered_view<T>& view, size_t g) {
    const auto places = tier_codes::places(view, g);
    scanned_count found;
    for (size_t t = 0; t < places.size(); ++t) {
        found.tokens += places[t].labelled ? 1u : 0u;
        found.strips += places[t].labelled && places[t].begin == t ? 1u : 0u;
    }
    return found;
}

/// Bytes of a call's heads from the report's own numbers and the sizes.
template <class T>
size_t recount(const problem& p, const sparq::tiered_view<T>& view, const tiered_params& params,
               const answer& a, size_t scanned_channels) {
    const shape& d = p.dims;
    size_t bytes = d.heads_kv * d.value_dim * sizeof(double);
    for (size_t g = 0; g < d.heads_kv; ++g) {
        const auto found = count_scanned(view, g);
        const size_t row = (d.head_dim + d.value_dim) * sizeof(T);
        const size_t code_row = (d.head_dim + 31) / 32 * 16 + (d.value_dim + 31) / 32 * 16 + 8;
        const auto& head = a.report.heads[g * d.group];
        const size_t always = std::min(params.sinks + params.recent, d.seq_len);
        const size_t refined = head.refined + head.exact - always;  // exact ones are refined first
        bytes += found.bytes(scanned_channels, d.head_dim * sizeof(T));
        bytes += found.strips * 4 * d.head_dim + refined * code_row + head.exact * row;
    }
    return bytes;
}

bool all_nan(const float* x, size_t n) {
    return std::all_of(x, x + n, [](float value) { return std::isnan(value); });
}

}  // namespace

TEST_CASE("fixed tiers are the formulas", "[tiers]") {
    tally count;
    size_t n = 0;
    for (size_t group : test::sizes{1, 2, 3, 9})
        for (size_t seq_len : test::sizes{200, 700, 1100}) {
            const shape dims{1 + n % 2, group, n % 2 == 0 ? 64u : 128u, n % 3 == 0 ? 80u : 64u,
                             seq_len};
            const size_t k = 7 + n % 5, m = 30 + n % 7;
            const problem p = classes_problem(dims, 2500 + n, k, m - k);
            test::with_elements(n, [&]<class T>() {
                const size_t all = dims.head_dim;
                check_fixed<T>(p, {.scan_channels = all, .refined = m - k, .exact = k}, count);
                check_fixed<T>(p, {.refined = m - k, .exact = k}, count);
                check_fixed<T>(p, {.scan_channels = all, .refined = m, .exact = 0}, count);
                check_fixed<T>(p, {.scan_channels = all, .refined = 0, .exact = m}, count);
                check_fixed<T>(p, {.refined = m, .exact = 0, .sinks = 1, .recent = 3}, count);
                check_fixed<T>(p, {.refined = seq_len, .exact = 0, .scale = 0.07f}, count);
                // Nearly the scan alone.
                const problem needle = classes_problem(dims, 2500 + n, 1, 0);
                check_fixed<T>(needle, {.refined = 0, .exact = 1, .sinks = 0, .recent = 0}, count);
                check_fixed<T>(needle, {.refined = 1, .exact = 0, .sinks = 0, .recent = 0}, count);
            });
            ++n;
        }
    std::printf("fixed tiers: %zu heads compared, %zu left out for near ties\n", count.compared,
                count.skipped);
    CHECK(count.compared >= 100);
    CHECK(count.skipped * 4 < count.compared + count.skipped);
}

TEST_CASE("fixed tiers find the best where their weights are next to nothing", "[tiers]") {
    tally count;
    size_t n = 0;
    for (size_t group : test::sizes{1, 3})
        for (size_t head_dim : test::sizes{64, 128}) {
            const shape dims{1, group, head_dim, 64, 900};
            const size_t k = 5, m = 40;
            const problem p = classes_problem(dims, 2590 + n, k, m - k);
            // Logits 5.2 apart become 52: the 40th weight is e^-52 of the first, the 41st 0.
            const float scale = 10.0f / std::sqrt(static_cast<float>(head_dim));
            test::with_elements(n, [&]<class T>() {
                check_fixed<T>(
                    p, {.scan_channels = head_dim, .refined = m - k, .exact = k, .scale = scale},
                    count);
            });
            ++n;
        }
    CHECK(count.compared >= 2);
}

TEST_CASE("all tokens at 4 bits, whatever the data", "[tiers]") {
    tally count;
    size_t n = 0;
    for (size_t head_dim : test::sizes{1, 24, 64, 80, 128})
        for (size_t seq_len : test::sizes{130, 577, 1300}) {
            const problem p = test::tier_problem(
                {1 + n % 3, 1 + n % 4, head_dim, 1 + n * 13 % 100 + 16, seq_len}, 2550 + n, 0.3f);
            // Float rows: the codes save bytes at any width.
            check_fixed<float>(p, {.refined = seq_len, .exact = 0, .sinks = 3, .recent = 5}, count);
            ++n;
        }
    CHECK(count.compared >= 30);
    CHECK(count.skipped == 0);
}

TEST_CASE("fixed tiers read as many tokens as they say, ties or not", "[tiers]") {
    problem p = test::make_problem({1, 2, 64, 64, 1500}, 2600);
    const auto check = [&](const std::string& what) {
        const auto cache = test::make_tiers<half>(p);
        for (size_t exact : test::sizes{0, 1, 10, 100}) {
            const answer a = test::run_tiers(p, cache.view(), {.refined = 150, .exact = exact});
            const size_t open = 1500 % 64 > 16 ? 1500 % 64 - 16 : 0;  // no 2-bit codes yet
            INFO(what << ", exact " << exact);
            CHECK(!a.report.heads[0].dense);
            CHECK(a.report.heads[0].exact == exact + 20);
            CHECK(a.report.heads[0].refined == 150 + open);
        }
    };
    check("random");
    for (float& x : p.q) x *= 30.0f;
    check("weights that vanish");
    for (size_t i = 0; i < p.keys.size(); ++i)
        p.keys[i] = p.keys[i % 64], p.values[i] = p.values[i % 64];
    check("equal tokens");
    const auto cache = test::make_tiers<half>(p);
    const size_t most = std::numeric_limits<size_t>::max();
    // Sums of the two numbers may not come round to small ones.
    for (auto [refined, exact] : {std::pair{most, size_t{1}}, std::pair{most, most}}) {
        const answer a = test::run_tiers(p, cache.view(), {.refined = refined, .exact = exact});
        CHECK((a.report.heads[0].dense ||
               a.report.heads[0].refined + a.report.heads[0].exact == 1500));
    }
}

TEST_CASE("tolerance 0 and tiers that hold everything are dense attention", "[tiers]") {
    size_t n = 0;
    for (size_t seq_len : test::sizes{1, 5, 63, 64, 130, 700, 9000})
        for (size_t group : test::sizes{1, 3}) {
            const problem p = test::tier_problem({2, group, 24, 20, seq_len}, 2650 + n, 0.5f);
            test::with_elements(n, [&]<class T>() {
                const auto cache = test::make_tiers<T>(p);
                const answer want = test::run_tiers_dense(p, cache.view());
                const answer got = test::run_tiers(p, cache.view(), {.tolerance = 0.0f});
                INFO(p.dims);
                CHECK(test::same_bits(got.out, want.out));
                for (const auto& head : got.report.heads) CHECK(head.dense);
                std::vector<float> planned(want.out.size());
                const auto plan =
                    test::tier_calls<T>::make_plan(p.q, cache.view(), {.tolerance = 0.0f}, planned);
                test::tier_calls<T>::run_plan(plan, 0, 1, [] {});
                CHECK(test::same_bits(planned, want.out));
                const answer all =
                    test::run_tiers(p, cache.view(), {.refined = 10, .exact = seq_len});
                CHECK(test::same_bits(all.out, want.out));
                const answer scaled = test::run_tiers_dense(p, cache.view(), 0.3f);
                const answer exact =
                    test::run_tiers(p, cache.view(), {.exact = seq_len, .scale = 0.3f});
                CHECK(test::same_bits(exact.out, scaled.out));
            });
            ++n;
        }
}

TEST_CASE("the report counts what was read", "[tiers]") {
    size_t n = 0;
    for (size_t seq_len : test::sizes{600, 1500, 5000})
        for (size_t group : test::sizes{1, 4}) {
            const shape dims{2, group, n % 2 == 0 ? 64u : 128u, n % 3 == 0 ? 48u : 64u, seq_len};
            const problem p = test::tier_problem(dims, 2700 + n, 0.5f);
            test::with_elements(n, [&]<class T>() {
                const auto cache = test::make_tiers<T>(p);
                for (tiered_params params : {tiered_params{.tolerance = 0.2f},
                                             tiered_params{.tolerance = 0.1f, .sinks = 0},
                                             tiered_params{.refined = 90, .exact = 11}}) {
                    params.scan_channels = dims.head_dim;
                    const answer a = test::run_tiers(p, cache.view(), params);
                    INFO(dims << ", tolerance " << params.tolerance << ", sinks " << params.sinks);
                    CHECK(a.report.bytes_read ==
                          a.report.bytes.scan + a.report.bytes.selected + a.report.bytes.tail);
                    bool any_dense = false;
                    for (const auto& head : a.report.heads) {
                        any_dense = any_dense || head.dense;
                        CHECK(head.tail_weight >= 0.0f);
                        CHECK(head.tail_weight <= 1.0f);
                        CHECK(std::abs(head.covered + head.tail_weight - 1.0f) <= 1e-6f);
                        CHECK(head.expected_error >= 0.0f);
                        if (head.dense) CHECK(head.expected_error == 0.0f);
                        if (!head.dense) CHECK(std::isfinite(head.log_sum_exp));
                        CHECK(head.exact + head.refined <= seq_len);
                    }
                    if (!any_dense)
                        CHECK(a.report.bytes_read ==
                              recount(p, cache.view(), params, a, dims.head_dim));
                    if (params.has_fixed_tiers()) CHECK(!any_dense);
                }
            });
            ++n;
        }
}

TEST_CASE("heads that turn out dense count what was read before as well", "[tiers]") {
    constexpr size_t n = 1984, row = (64 + 48) * 2, code_row = 2 * 16 + 2 * 16 + 8;
    const problem clean = test::tier_problem({2, 2, 64, 48, n}, 2725, 0.5f);
    problem spoilt = clean;
    for (size_t g : test::sizes{0, 1}) spoilt.keys[(300 * 2 + g) * 64 + 5] = NAN;
    const auto check = [](const sparq::tiered_view<half>& view, const tiered_params& params,
                          const answer& a, size_t exact, size_t picked) {
        size_t scan = 0, selected = 0;
        for (size_t g : test::sizes{0, 1}) {
            const auto found = count_scanned(view, g);
            scan += found.bytes(64, 64 * 2);
            selected += (exact + n) * row;
            if (picked == 0) continue;  // as 4-bit rows, with what has no labels
            selected +=
                (picked + n - params.recent - std::min(found.tokens, n - params.recent)) * code_row;
            selected += found.strips * 4 * 64;
        }
        INFO("tolerance " << params.tolerance << ", sinks " << params.sinks << ", recent "
                          << params.recent << ", exact " << params.exact);
        for (const auto& head : a.report.heads) CHECK(head.dense);
        CHECK(a.report.bytes.scan == scan);
        CHECK(a.report.bytes.selected == selected);
        CHECK(a.report.bytes_read == scan + selected + a.report.bytes.tail);
    };
    const auto cache = test::make_tiers<half>(clean), bad = test::make_tiers<half>(spoilt);
    const auto run = [&](bool is_bad, const tiered_params& params, size_t exact, size_t picked) {
        const auto view = (is_bad ? bad : cache).view();
        check(view, params, test::run_tiers(is_bad ? spoilt : clean, view, params), exact, picked);
    };
    // Nothing between sinks and recent tokens.
    run(false, {.scan_channels = 64, .sinks = 0, .recent = 5000}, 0, 0);
    run(false, {.scan_channels = 64, .sinks = 5000}, 0, 0);
    // A logit that is not finite, once sinks and recent tokens have been read.
    run(true, {.scan_channels = 64, .sinks = 1, .recent = 7}, 8, 0);
    // Too many exact rows, once all of them have been read at 4 bits.
    run(false, {.scan_channels = 64, .exact = 1500}, 20, 1500);
    run(false, {.scan_channels = 64, .exact = 1500, .sinks = 0, .recent = 9}, 9, 1500);
    // A plan scans before it knows that the tolerance is 0.
    const tiered_params none{.tolerance = 0.0f, .scan_channels = 64};
    answer a{std::vector<float>(4 * 48), {}};
    sparq::call_options options;
    options.report = &a.report;
    const auto plan =
        test::tier_calls<half>::make_plan(clean.q, cache.view(), none, a.out, options);
    test::tier_calls<half>::run_plan(plan, 0, 1, [] {});
    check(cache.view(), none, a, 0, 0);
}

TEST_CASE("the same bits for any executor, plan, workspace, report and stride", "[tiers]") {
    size_t n = 0;
    for (const shape& dims : {shape{1, 2, 32, 32, 20000}, shape{5, 1, 32, 24, 700},
                              shape{3, 9, 64, 64, 2500}, shape{7, 1, 8, 8, 300}})
        for (const tiered_params& params :
             {tiered_params{.tolerance = 0.1f}, tiered_params{.refined = 60, .exact = 9}}) {
            const problem p = test::tier_problem(dims, 2750 + n++, 0.4f);
            const auto cache = test::make_tiers<half>(p);
            const auto view = cache.view();
            using calls = test::tier_calls<half>;
            const answer want = test::run_tiers(p, view, params);
            INFO(dims << ", tolerance " << params.tolerance << ", refined " << params.refined);
            std::vector<float> out(want.out.size(), -1.0f);
            calls::tiered(p.q, view, params, out);
            CHECK(test::same_bits(out, want.out));
            sparq::workspace work;
            for (size_t round = 0; round < 2; ++round) {
                answer got{std::vector<float>(out.size(), -1.0f), {}};
                sparq::call_options options;
                options.work = &work;
                options.report = &got.report;
                calls::tiered(p.q, view, params, got.out, options);
                CHECK(test::same_tiers(got, want));
            }
            const auto backwards = [](size_t count, const test::any_body& body) {
                while (count-- > 0) body(count);
            };
            const auto threads = [](size_t count, const test::any_body& body) {
                std::vector<std::thread> pool;
                for (size_t i = 0; i < 3; ++i)
                    pool.emplace_back([&, i] {
                        for (size_t j = count; j-- > 0;)
                            if (j % 3 == i) body(j);
                    });
                for (std::thread& thread : pool) thread.join();
            };
            for (const test::any_executor& executor :
                 {test::any_executor(backwards), test::any_executor(threads)}) {
                answer got{std::vector<float>(out.size(), -1.0f), {}};
                sparq::call_options options;
                options.report = &got.report;
                calls::tiered_on(executor, p.q, view, params, got.out, options);
                CHECK(test::same_tiers(got, want));
            }
            for (size_t nth = 1; nth <= 5; ++nth) {
                answer got{std::vector<float>(out.size(), -1.0f), {}};
                sparq::call_options options;
                options.work = &work;
                options.report = &got.report;
                const auto plan = calls::make_plan(p.q, view, params, got.out, options);
                std::barrier sync(static_cast<std::ptrdiff_t>(nth));
                std::vector<std::thread> pool;
                for (size_t ith = 0; ith < nth; ++ith)
                    pool.emplace_back([&, ith] {
                        calls::run_plan(plan, ith, nth, [&] { sync.arrive_and_wait(); });
                    });
                for (std::thread& thread : pool) thread.join();
                INFO("threads " << nth);
                CHECK(test::same_tiers(got, want));
            }
            // Rows of q and out with gaps.
            const size_t d = dims.head_dim, v = dims.value_dim, heads = dims.heads_q();
            std::vector<float> q(heads * (d + 3), NAN), wide(heads * (v + 5), 7.0f);
            for (size_t h = 0; h < heads; ++h) std::copy_n(&p.q[h * d], d, &q[h * (d + 3)]);
            sparq::call_options options;
            options.q_stride = d + 3;
            options.out_stride = v + 5;
            calls::tiered(q, view, params, wide, options);
            for (size_t h = 0; h < heads; ++h) {
                CHECK(test::same_bits({&wide[h * (v + 5)], v}, {&want.out[h * v], v}));
                CHECK(wide[h * (v + 5) + v] == 7.0f);
            }
        }
}

TEST_CASE("a plan in tiers that runs again reports its last run", "[tiers]") {
    using calls = test::tier_calls<half>;
    size_t n = 0;
    for (const shape& dims : {shape{1, 2, 32, 32, 20000}, shape{4, 1, 32, 24, 700}}) {
        const problem first = test::tier_problem(dims, 2780 + n++, 0.4f);
        const auto cache = test::make_tiers<half>(first);
        problem flat = first;  // queries to which all tokens are alike
        for (float& x : flat.q) x *= 0.01f;
        const tiered_params params{.tolerance = 0.1f};
        std::vector<float> q = first.q;
        answer got{std::vector<float>(dims.heads_q() * dims.value_dim), {}};
        sparq::call_options options;
        options.report = &got.report;
        const auto plan = calls::make_plan(q, cache.view(), params, got.out, options);
        const problem* const runs[] = {&first, &first, &flat, &first};
        for (const problem* p : runs) {
            std::copy(p->q.begin(), p->q.end(), q.begin());
            INFO(dims << ", share of the queries " << p->q[0] / first.q[0]);
            const answer want = test::run_tiers(*p, cache.view(), params);
            calls::run_plan(plan, 0, 1, [] {});
            CHECK(test::same_tiers(got, want));
            plan.run(sparq::serial_executor{});
            CHECK(test::same_tiers(got, want));
            std::barrier sync(2);
            std::thread other(
                [&] { calls::run_plan(plan, 1, 2, [&] { sync.arrive_and_wait(); }); });
            calls::run_plan(plan, 0, 2, [&] { sync.arrive_and_wait(); });
            other.join();
            CHECK(test::same_tiers(got, want));
        }
    }
}

TEST_CASE("NaN and infinity give what dense attention gives, in their head", "[tiers]") {
    const shape dims{3, 2, 24, 20, 900};
    const problem clean = test::tier_problem(dims, 2800, 0.4f);
    for (const tiered_params& params :
         {tiered_params{.tolerance = 0.2f}, tiered_params{.refined = 50, .exact = 5}}) {
        const answer good = test::run_tiers(clean, test::make_tiers<float>(clean).view(), params);
        for (float bad : {NAN, INFINITY, -INFINITY})
            for (size_t what : test::sizes{0, 1, 2})
                // A sink, a token of a strip, of a block, without codes, and the newest.
                for (size_t t : test::sizes{1, 300, 540, 880, 882, 899}) {
                    if (what == 2 && t > 1) continue;
                    problem p = clean;
                    if (what == 0) p.keys[(t * 3 + 1) * 24 + 7] = bad;
                    if (what == 1) p.values[(t * 3 + 1) * 20 + 7] = bad;
                    if (what == 2) p.q[2 * 24 + 7] = bad;
                    const auto cache = test::make_tiers<float>(p);
                    const answer got = test::run_tiers(p, cache.view(), params);
                    const answer want = test::run_tiers_dense(p, cache.view());
                    INFO((what == 0   ? "K"
                          : what == 1 ? "V"
                                      : "q")
                         << " is " << bad << ", token " << t << ", refined " << params.refined);
                    for (size_t h = 0; h < 6; ++h) {
                        INFO("query head " << h);
                        const float* row = &got.out[h * 20];
                        if (h / 2 != 1) {
                            CHECK(test::same_bits({row, 20}, {&good.out[h * 20], 20}));
                            continue;
                        }
                        size_t wrong = 0;
                        for (size_t c = 0; c < 20; ++c)
                            if (std::isnan(row[c]) != std::isnan(want.out[h * 20 + c])) ++wrong;
                        CHECK(wrong == 0);
                        if (what == 0 && bad != bad) CHECK(all_nan(row, 20));
                    }
                }
    }
}

TEST_CASE("what does not fit is refused and nothing changes", "[tiers]") {
    const problem p = test::tier_problem({2, 2, 24, 20, 300}, 2850);
    const auto cache = test::make_tiers<half>(p);
    std::vector<float> out(80, 5.5f), big(200, 1.0f);
    sparq::attention_report report;
    report.bytes_read = 4711;
    report.heads = {{.covered = 0.25f, .log_sum_exp = 3.0f}};
    sparq::call_options options;
    options.report = &report;
    const auto refused = [&](std::span<const float> q, const tiered_params& params,
                             std::span<float> to, const std::string& word) {
        const auto is_refusal = [&](const auto& call) {
            try {
                call();
            } catch (const std::invalid_argument& refusal) {
                return std::string(refusal.what()).find(word) != std::string::npos;
            }
            return false;
        };
        INFO(word);
        using calls = test::tier_calls<half>;
        CHECK(is_refusal([&] { calls::tiered(q, cache.view(), params, to, options); }));
        CHECK(is_refusal([&] { (void)calls::make_plan(q, cache.view(), params, to, options); }));
        CHECK(report.bytes_read == 4711);
        CHECK(report.heads.size() == 1);
        CHECK(report.heads[0].covered == 0.25f);
        CHECK(out == std::vector<float>(80, 5.5f));
    };
    for (float tolerance : {-0.1f, NAN, INFINITY, -INFINITY})
        refused(p.q, {.tolerance = tolerance}, out, "tolerance");
    refused(p.q, {.scan_channels = 25}, out, "scan_channels");
    refused(p.q, {.scan_channels = 25, .refined = 3}, out, "scan_channels");
    refused(p.q, {.scan_channels = ~size_t{0}}, out, "scan_channels");
    refused(p.q, {.scale = NAN}, out, "scale");
    refused(p.q, {.tolerance = 0.0f, .scale = INFINITY}, out, "scale");
    refused(std::span(p.q).first(95), {}, out, "q");
    refused(std::span(p.q).first(72), {}, out, "q");
    refused(std::span(p.q).first(0), {}, out, "q");
    refused(p.q, {}, std::span(out).first(79), "out");
    refused(p.q, {.tolerance = 0.0f}, std::span(out).first(60), "out");
    refused(std::span(big).first(96), {}, std::span(big).subspan(90, 80), "out");
    const sparq::tiered_cache<half> empty(2, 24, 20);
    CHECK_THROWS_AS(test::tier_calls<half>::tiered(p.q, empty.view(), {}, out),
                    std::invalid_argument);
    CHECK(out == std::vector<float>(80, 5.5f));
}

TEST_CASE("short histories, and sinks and recent tokens beyond the history", "[tiers]") {
    const problem p = test::tier_problem({2, 3, 24, 20, 130}, 2900, 0.4f);
    sparq::tiered_cache<half> cache(2, 24, 20);
    for (size_t t = 0; t < 130; ++t) {
        test::append_tiers(cache, p, t, t + 1);
        if (test::quick && t > 20 && t % 6 != 3) continue;
        const answer want = test::run_tiers_dense(p, cache.view());
        for (const tiered_params& params :
             {tiered_params{}, tiered_params{.tolerance = 0.5f, .sinks = 0, .recent = 0},
              tiered_params{.sinks = 1000, .recent = 1000},
              tiered_params{.sinks = ~size_t{0}, .recent = ~size_t{0}},
              tiered_params{.refined = 5, .exact = 2, .sinks = 0, .recent = 0},
              tiered_params{.scan_channels = 24, .refined = 200, .recent = 3}}) {
            const answer got = test::run_tiers(p, cache.view(), params);
            INFO("tokens " << t + 1 << ", tolerance " << params.tolerance << ", sinks "
                           << params.sinks << ", refined " << params.refined);
            for (size_t h = 0; h < 6; ++h) {
                const auto& head = got.report.heads[h];
                if (head.dense)
                    CHECK(test::same_bits({&got.out[h * 20], 20}, {&want.out[h * 20], 20}));
                if (params.sinks > t) CHECK(head.dense);
                size_t not_finite = 0;
                for (size_t c = 0; c < 20; ++c)
                    not_finite += std::isfinite(got.out[h * 20 + c]) ? 0u : 1u;
                CHECK(not_finite == 0);
            }
        }
    }
}

TEST_CASE("keys that differ from the equal ones before them are not taken for these", "[tiers]") {
    // The range of the last whole block has no width, and open tokens' codes are in widths.
    const shape dims{1, 1, 64, 64, 191};
    problem p = test::make_problem(dims, 2960);
    std::vector<float> same(p.keys.begin(), p.keys.begin() + 64);
    for (size_t i = 0; i < 128 * 64; ++i) p.keys[i] = same[i % 64];
    for (size_t c = 0; c < 64; ++c) p.keys[150 * 64 + c] = 2.0f * p.q[c];
    for (const std::uint32_t sinks : {4u, 0u}) {
        INFO("sinks " << sinks << ", seed 2960");
        const answer got = test::run_tiers(p, test::make_tiers<float>(p).view(),
                                           {.tolerance = 0.05f, .sinks = sinks});
        const auto want = reference::dense(test::reference_head<float, float>(p, 0));
        CHECK(test::relative_error(got.out.data(), want.out.data(), 64) <= 0.1);
    }
}

TEST_CASE("an exact token whose scanned logit is far too high hides no others", "[tiers]") {
    // Scanned channels say 300 of one token, the others take it away: its logit is 0.
    const auto one_of = [](size_t token) {
        problem p = test::make_problem({1, 1, 64, 64, 1984}, 2975);
        for (size_t c = 0; c < 64; ++c) p.q[c] = 0.25f;
        for (size_t i = 0; i < p.keys.size(); ++i) p.keys[i] *= i % 64 < 16 ? 1.0f : 0.01f;
        for (size_t c = 0; c < 64; ++c)
            p.keys[token * 64 + c] = c == 0 ? 1200.0f : c < 16 ? 0.0f : -25.0f;
        return p;
    };
    for (size_t token : test::sizes{0, 3}) {
        const problem p = one_of(token);
        const auto cache = test::make_tiers<half>(p);
        const answer want = test::run_tiers_dense(p, cache.view(), 1.0f);
        const std::vector<double> y(want.out.begin(), want.out.end());
        for (const tiered_params& params :
             {tiered_params{.tolerance = 0.1f, .scale = 1.0f},
              tiered_params{.scan_channels = 16, .refined = 300, .exact = 100, .scale = 1.0f}}) {
            const answer got = test::run_tiers(p, cache.view(), params);
            const auto& head = got.report.heads[0];
            INFO("token " << token << ", refined " << params.refined << ", dense " << head.dense);
            CHECK(test::relative_error(got.out.data(), y.data(), 64) <= 0.3);
            CHECK(std::abs(head.log_sum_exp - want.report.heads[0].log_sum_exp) <= 0.1f);
        }
    }
}

TEST_CASE("huge and tiny keys and values keep the tolerance", "[tiers]") {
    const shape dims{1, 2, 64, 64, 1500};
    const problem base = test::tier_problem(dims, 2950, 0.5f);
    for (float key_size : {1e4f, 1.0f, 1e-4f})
        for (float value_size : {1e4f, 1.0f, 1e-2f}) {
            problem p = base;
            for (float& x : p.keys) x *= key_size;
            for (float& x : p.q) x /= key_size;
            for (float& x : p.values) x *= value_size;
            const auto cache = test::make_tiers<float>(p);
            const answer got = test::run_tiers(p, cache.view(), {.tolerance = 0.1f});
            const auto want = reference::dense(test::reference_head<float, float>(p, 0));
            for (size_t h = 0; h < 2; ++h) {
                INFO("keys " << key_size << ", values " << value_size << ", head " << h);
                // Random data: no outlier of the expected error is near 4 times it.
                CHECK(test::relative_error(&got.out[h * 64], &want.out[h * 64], 64) <= 0.4);
            }
        }
    // Beyond what ranges in half resolve, results stay finite.
    for (float size : {1e-6f, 1e-20f, 1e6f, 1e18f}) {
        problem p = base;
        for (float& x : p.values) x *= size;
        const answer values =
            test::run_tiers(p, test::make_tiers<float>(p).view(), {.tolerance = 0.1f});
        p = base;
        for (float& x : p.keys) x *= size;
        const answer keys =
            test::run_tiers(p, test::make_tiers<float>(p).view(), {.tolerance = 0.1f});
        size_t not_finite = 0;
        for (float x : values.out) not_finite += std::isfinite(x) ? 0u : 1u;
        for (float x : keys.out) not_finite += std::isfinite(x) ? 0u : 1u;
        INFO("size " << size);
        CHECK(not_finite == 0);
    }
}
