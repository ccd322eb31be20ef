// SPDX-License-Identifier: MIT
// sparq_attention and dense_attention against the reference over lengths, shapes, types.
#include "problem.hpp"

namespace {

using test::quick;
using test::shape;

/// Lengths around every block boundary: of vectors, strips, chunks and segments.
std::vector<size_t> lengths() {
    std::vector<size_t> all;
    for (size_t s = 1; s <= 200; s += (quick && s > 20) ? 7 : 1) all.push_back(s);
    for (size_t edge : test::sizes{256, 320, 512, 768, 1024, 1792, 2048, 4096})
        for (size_t s : test::sizes{edge - 1, edge, edge + 1}) all.push_back(s);
    if (!quick)
        for (size_t s :
             test::sizes{3840, 6143, 6144, 8191, 8192, 8193, 8200, 16383, 16384, 16385, 24600})
            all.push_back(s);
    return all;
}

/// Parameters that depend on the length, so that all of small, middling and full occur.
sparq::sparq_params params_for(const shape& d, size_t n) {
    sparq::sparq_params p;
    p.r = n % 3 == 0 ? d.head_dim : 1 + (n * 7) % d.head_dim;
    p.k = 1 + (n * 5) % (d.seq_len + 2);
    if (n % 4 == 1) p.k = std::min<size_t>(p.k, 17);
    p.local = n % 5 == 0 ? 0 : std::min(p.k, n % 9);
    if (n % 11 == 0) p.local = p.k;
    p.tail = static_cast<sparq::tail_estimate>(n % 3);
    p.ranking = static_cast<sparq::group_ranking>(n % 2);
    p.scale = n % 7 == 0 ? 0.11f : 0.0f;
    return p;
}

std::string describe(const sparq::sparq_params& p) {
    return "r " + std::to_string(p.r) + ", k " + std::to_string(p.k) + ", local " +
           std::to_string(p.local) + ", tail " + std::to_string(static_cast<int>(p.tail)) +
           ", ranking " + std::to_string(static_cast<int>(p.ranking)) + ", scale " +
           std::to_string(p.scale);
}

template <class T, class Label>
void check_both(const shape& dims, const sparq::sparq_params& params, std::uint64_t seed) {
    const test::problem p = test::make_problem(dims, seed, 1.5f);
    const auto cache = test::make_cache<T, Label>(p);
    const std::string about = std::string("seed ") + std::to_string(seed) + ", types " +
                              std::to_string(sizeof(T)) + "/" + std::to_string(sizeof(Label));
    INFO(about);
    INFO(dims);
    INFO(describe(params));
    CHECK(test::check_sparq(p, cache.view(), params) == "");
    CHECK(test::check_dense(p, cache.view(), params.scale) == "");
}

}  // namespace

TEST_CASE("every length around a block boundary agrees with the reference", "[whole_call]") {
    const std::vector<size_t> all = lengths();
    const size_t head_dims[] = {64, 16, 80, 7, 128, 33, 1, 96};
    for (size_t n = 0; n < all.size(); ++n) {
        shape dims{1 + n % 2, 1 + n % 4, head_dims[n % 8], head_dims[(n / 3) % 8], all[n]};
        if (all[n] > 1000) dims.heads_kv = 1;
        test::with_types(n, [&]<class T, class Label>() {
            check_both<T, Label>(dims, params_for(dims, n), 100 + n);
        });
    }
}

TEST_CASE("every head dimension agrees with the reference", "[whole_call]") {
    size_t n = 0;
    for (size_t head_dim :
         test::sizes{1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 64, 80, 96, 112, 127, 128, 192, 256})
        for (size_t seq_len : test::sizes{70, 331}) {
            const shape dims{2, 1 + n % 3, head_dim, n % 3 == 0 ? head_dim : 1 + (n * 37) % 200,
                             seq_len};
            for (size_t types = 0; types < 9; types += quick ? 4 : 2)
                test::with_types(types + n, [&]<class T, class Label>() {
                    check_both<T, Label>(dims, params_for(dims, 3 * n + types), 1000 + n);
                });
            ++n;
        }
}

TEST_CASE("every group size agrees with the reference", "[whole_call]") {
    size_t n = 0;
    for (size_t group : test::sizes{1, 2, 3, 4, 5, 6, 7, 8, 9, 16})
        for (size_t types = 0; types < 9; ++types) {
            // Quick: each pair of types with every third group, each group with three pairs.
            if (quick && (types + group) % 3 != 0) {
                ++n;
                continue;
            }
            const shape dims{1 + n % 3, group, 64, 64, 200 + 13 * n};
            test::with_types(types, [&]<class T, class Label>() {
                check_both<T, Label>(dims, params_for(dims, n), 2000 + n);
            });
            ++n;
        }
}

TEST_CASE("every pair of types agrees over the paper's setting", "[whole_call]") {
    for (size_t types = 0; types < 9; ++types)
        for (size_t group : test::sizes{1, 4}) {
            const shape dims{1, group, 128, 128, quick ? size_t{700} : size_t{4500}};
            test::with_types(types, [&]<class T, class Label>() {
                check_both<T, Label>(dims, {.r = 32, .k = 128, .local = 32}, 3000 + types);
            });
        }
}

TEST_CASE("misaligned q and out give the same bits", "[whole_call]") {
    const test::problem p = test::make_problem({2, 2, 48, 40, 300}, 31);
    const auto cache = test::make_cache<float>(p);
    const sparq::sparq_params params{.r = 9, .k = 20, .local = 4};
    const test::answer want = test::run_sparq(p, cache.view(), params);
    for (size_t shift = 1; shift < 16; ++shift) {
        std::vector<float> q(p.q.size() + 16), out(want.out.size() + 16, 7.0f);
        std::copy(p.q.begin(), p.q.end(), q.begin() + static_cast<std::ptrdiff_t>(shift));
        const std::span<float> shifted = std::span(out).subspan(shift, want.out.size());
        test::calls<float>::sparq(std::span(q).subspan(shift, p.q.size()), cache.view(), params,
                                  shifted);
        INFO("shift " << shift);
        CHECK(test::same_bits(shifted, want.out));
        CHECK(out[shift - 1] == 7.0f);
        CHECK(out[shift + want.out.size()] == 7.0f);
    }
}

TEST_CASE("strides of q and out are honoured and the gaps left alone", "[whole_call]") {
    const test::problem p = test::make_problem({2, 3, 40, 24, 150}, 32);
    const auto cache = test::make_cache<sparq::half>(p);
    const sparq::sparq_params params{.r = 9, .k = 20, .local = 4};
    const test::answer want = test::run_sparq(p, cache.view(), params);
    const test::answer want_dense = test::run_dense(p, cache.view());
    const size_t q_stride = 43, out_stride = 31, heads = p.dims.heads_q();
    std::vector<float> q((heads - 1) * q_stride + 40, NAN);
    for (size_t h = 0; h < heads; ++h)
        for (size_t i = 0; i < 40; ++i) q[h * q_stride + i] = p.q[h * 40 + i];
    for (const bool dense : {false, true}) {
        std::vector<float> out((heads - 1) * out_stride + 24, 7.0f);
        sparq::call_options options;
        options.q_stride = q_stride;
        options.out_stride = out_stride;
        if (dense)
            test::calls<sparq::half>::dense(q, cache.view(), 0.0f, out, options);
        else
            test::calls<sparq::half>::sparq(q, cache.view(), params, out, options);
        const std::vector<float>& expected = dense ? want_dense.out : want.out;
        for (size_t h = 0; h < heads; ++h) {
            CHECK(test::same_bits(std::span(out).subspan(h * out_stride, 24),
                                  std::span(expected).subspan(h * 24, 24)));
            for (size_t i = 24; h + 1 < heads && i < out_stride; ++i)
                CHECK(out[h * out_stride + i] == 7.0f);
        }
    }
}

TEST_CASE("the report counts the bytes that were read", "[whole_call]") {
    const test::problem p = test::make_problem({2, 2, 64, 48, 1000}, 33);
    const auto cache = test::make_cache<sparq::half>(p);
    sparq::sparq_params params{.r = 16, .k = 50, .local = 10};
    const auto bytes = test::run_sparq(p, cache.view(), params).report;
    // r labels a token, or a whole row of keys where the labels are not made yet.
    size_t scan = 0;
    for (size_t s = 0; s < cache.view().segments_per_head(); ++s)
        for (size_t g = 0; g < 2; ++g) {
            const auto& part = cache.view().segment(s, g);
            scan += 2 * (16 * part.labelled + 64 * (part.tokens - part.labelled));
        }
    CHECK(bytes.bytes.scan == scan);
    CHECK(scan >= 2 * 1000 * 16 * 2);                        // heads * S * r * bytes
    CHECK(scan <= 2 * 1000 * 16 * 2 + 2 * 2 * 64 * 64 * 2);  // under two strips a head
    CHECK(bytes.bytes.selected == 2 * 50 * (64 + 48) * 2);   // heads * k * (d_h + d_v) * bytes
    CHECK(bytes.bytes.tail == 0);                            // automatic, G = 2: no tail
    CHECK(bytes.bytes_read == bytes.bytes.scan + bytes.bytes.selected);
    CHECK_FALSE(bytes.dense);
    params.tail = sparq::tail_estimate::mean_value;
    const auto tail = test::run_sparq(p, cache.view(), params).report;
    CHECK(tail.bytes.tail > 0);
    CHECK(tail.bytes.tail <= 2 * 48 * sizeof(double));
    CHECK(tail.bytes_read == tail.bytes.scan + tail.bytes.selected + tail.bytes.tail);
    const auto dense = test::run_dense(p, cache.view()).report;
    CHECK(dense.bytes_read == 2 * 1000 * (64 + 48) * 2);
    CHECK(dense.dense);
}

TEST_CASE("histories shorter than dense_below are attended whole, and the report says so",
          "[whole_call]") {
    for (const size_t seq_len : test::sizes{1, 40, 299, 300, 301}) {
        const test::problem p = test::make_problem({2, 2, 24, 16, seq_len}, 150 + seq_len);
        const auto cache = test::make_cache<sparq::half>(p);
        sparq::sparq_params params{.r = 6, .k = 10, .local = 3, .dense_below = 300};
        const auto answer = test::run_sparq(p, cache.view(), params);
        INFO("seed " << 150 + seq_len << ", S " << seq_len);
        CHECK(answer.report.dense == (seq_len < 300));
        params.dense_below = 0;
        if (seq_len < 300) params.k = seq_len, params.local = 0;
        CHECK(test::same_answer(answer, test::run_sparq(p, cache.view(), params)));
    }
}
