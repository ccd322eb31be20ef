// SPDX-License-Identifier: MIT
// kv_cache: what it holds, however it was filled, cut and filled again.
#include <utility>

#include "problem.hpp"

namespace {

using sparq::half;
using sparq::kv_cache;
using test::shape;

const sparq::sparq_params params{.r = 9, .k = 33, .local = 7};

/// The rows, labels and sums that the view shows are the rounded input; "" if so.
template <class T, class Label>
std::string check_contents(const test::problem& p, const sparq::kv_view<T, Label>& view) {
    const shape& d = p.dims;
    if (view.seq_len() != d.seq_len || view.heads_kv() != d.heads_kv ||
        view.head_dim() != d.head_dim || view.value_dim() != d.value_dim)
        return "shape";
    for (size_t g = 0; g < d.heads_kv; ++g) {
        size_t token = 0;
        std::vector<double> sums(d.value_dim, 0.0);
        for (size_t s = 0; s < view.segments_per_head(); ++s) {
            const auto& segment = view.segment(s, g);
            for (size_t t = 0; t < segment.tokens; ++t, ++token) {
                for (size_t c = 0; c < d.head_dim; ++c) {
                    const double key =
                        test::nearest<T>(p.keys[(token * d.heads_kv + g) * d.head_dim + c]);
                    if (test::decode(segment.keys[t * segment.key_stride + c]) != key) return "key";
                    if (t < segment.labelled &&
                        test::decode(segment.keys_t[c * segment.channel_stride + t]) !=
                            test::nearest<Label>(key))
                        return "label of token " + std::to_string(token);
                }
                for (size_t c = 0; c < d.value_dim; ++c) {
                    const double value =
                        test::nearest<T>(p.values[(token * d.heads_kv + g) * d.value_dim + c]);
                    if (test::decode(segment.values[t * segment.value_stride + c]) != value)
                        return "value";
                    sums[c] += value;
                }
            }
        }
        if (token != d.seq_len) return "tokens of the segments";
        for (size_t c = 0; c < d.value_dim && view.value_sum(g) != nullptr; ++c)
            if (std::abs(view.value_sum(g)[c] - sums[c]) > 1e-9 * static_cast<double>(d.seq_len))
                return "value sum";
    }
    return {};
}

}  // namespace

TEST_CASE("a cache holds the rounded input, its labels and its sums", "[cache]") {
    size_t n = 0;
    for (size_t seq_len :
         test::sizes{1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 513, 768, 769, 1800})
        for (size_t head_dim : test::sizes{1, 8, 13, 64}) {
            const test::problem p =
                test::make_problem({1 + n % 3, 1, head_dim, 1 + n % 21, seq_len}, 80 + n);
            INFO(p.dims << ", seed " << p.seed);
            test::with_types(n, [&]<class T, class Label>() {
                const auto cache = test::make_cache<T, Label>(p);
                CHECK(check_contents(p, cache.view()) == "");
                CHECK(cache.seq_len() == seq_len);
                CHECK(cache.capacity() >= seq_len);
            });
            ++n;
        }
}

TEST_CASE("appending cut in any way gives the same bits", "[cache]") {
    const std::uint64_t seed = 81;
    test::random_source source(seed);
    for (size_t seq_len : test::sizes{100, 700, 1900, 9000}) {
        const test::problem p = test::make_problem({2, 2, 40, 24, seq_len}, seed);
        test::with_types(seq_len, [&]<class T, class Label>() {
            const auto whole = test::make_cache<T, Label>(p);
            const auto want = test::run_sparq(p, whole.view(), params);
            const auto want_dense = test::run_dense(p, whole.view());
            for (size_t most : test::sizes{1, 2, 64, 65, 300, 5000}) {
                if (seq_len > 2000 && most < 64) continue;
                kv_cache<T, Label> cache(2, 40, 24);
                for (size_t done = 0; done < seq_len;) {
                    const size_t n = std::min(1 + source.below(most), seq_len - done);
                    test::append_rows(cache, p, done, done + n);
                    done += n;
                }
                INFO("seed " << seed << ", S " << seq_len << ", at most " << most << " at once");
                CHECK(check_contents(p, cache.view()) == "");
                CHECK(test::same_answer(test::run_sparq(p, cache.view(), params), want));
                CHECK(test::same_answer(test::run_dense(p, cache.view()), want_dense));
            }
        });
    }
}

TEST_CASE("truncate and append again gives the same bits", "[cache]") {
    const size_t seq_len = 1400;
    const test::problem p = test::make_problem({2, 1, 40, 24, seq_len}, 82);
    const test::problem other = test::make_problem({2, 1, 40, 24, 900}, 83);
    test::with_types(5, [&]<class T, class Label>() {
        const auto whole = test::make_cache<T, Label>(p);
        const auto want = test::run_sparq(p, whole.view(), params);
        for (size_t keep :
             test::sizes{0, 1, 63, 64, 65, 200, 255, 256, 257, 767, 768, 769, 1023, 1399, 1400}) {
            INFO("keep " << keep);
            // Other tokens first: nothing of them may stay behind.
            kv_cache<T, Label> cache(2, 40, 24);
            if (keep > 0) test::append_rows(cache, p, 0, keep);
            test::append_rows(cache, other, 0, 900);
            test::calls<T, Label>::truncate(cache, keep);
            CHECK(cache.seq_len() == keep);
            if (keep > 0) {
                test::problem part = p;
                part.dims.seq_len = keep;
                CHECK(check_contents(part, cache.view()) == "");
                kv_cache<T, Label> fresh(2, 40, 24);
                test::append_rows(fresh, p, 0, keep);
                CHECK(test::same_answer(
                    test::run_sparq(part, cache.view(), {.r = 4, .k = 9, .local = 2}),
                    test::run_sparq(part, fresh.view(), {.r = 4, .k = 9, .local = 2})));
            }
            if (keep < seq_len) test::append_rows(cache, p, keep, seq_len);
            CHECK(check_contents(p, cache.view()) == "");
            CHECK(test::same_answer(test::run_sparq(p, cache.view(), params), want));
        }
    });
}

TEST_CASE("many truncates do not let the mean drift", "[cache]") {
    const test::problem p = test::make_problem({1, 1, 8, 16, 400}, 84);
    kv_cache<float> cache(1, 8, 16);
    test::append_rows(cache, p, 0, 400);
    const auto want = test::run_sparq(p, cache.view(), {.r = 3, .k = 5, .local = 1});
    // Huge values come and go; their rounding must not stay in the sums.
    std::vector<float> keys(50 * 8, 1.0f), values(50 * 16, 1e30f);
    for (int round = 0; round < 40; ++round) {
        test::calls<float>::append(cache, keys, values);
        test::calls<float>::truncate(cache, 400);
    }
    CHECK(check_contents(p, cache.view()) == "");
    CHECK(test::same_answer(test::run_sparq(p, cache.view(), {.r = 3, .k = 5, .local = 1}), want));
}

TEST_CASE("clear empties, reserve keeps the contents, moves take them along", "[cache]") {
    const test::problem p = test::make_problem({2, 1, 24, 24, 300}, 85);
    auto cache = test::make_cache<half>(p);
    const auto want = test::run_sparq(p, cache.view(), params);
    cache.reserve(5000);
    CHECK(cache.capacity() >= 5000);
    CHECK(cache.seq_len() == 300);
    CHECK(test::same_answer(test::run_sparq(p, cache.view(), params), want));
    const size_t capacity = cache.capacity();
    cache.clear();
    CHECK(cache.seq_len() == 0);
    CHECK(cache.capacity() == capacity);
    test::append_rows(cache, p, 0, 300);
    CHECK(test::same_answer(test::run_sparq(p, cache.view(), params), want));
    const kv_cache<half> moved = std::move(cache);
    CHECK(test::same_answer(test::run_sparq(p, moved.view(), params), want));
}

TEST_CASE("appending spans of T stores their bits", "[cache]") {
    const test::problem p = test::make_problem({2, 1, 24, 20, 150}, 86);
    std::vector<half> keys, values;
    for (float x : p.keys) keys.push_back(half(x));
    for (float x : p.values) values.push_back(half(x));
    kv_cache<half> cache(2, 24, 20);
    cache.append<test::arch>(std::span<const half>(keys).first(2 * 24 * 70),
                             std::span<const half>(values).first(2 * 20 * 70));
    cache.append<test::arch>(std::span<const half>(keys).subspan(2 * 24 * 70),
                             std::span<const half>(values).subspan(2 * 20 * 70));
    CHECK(check_contents(p, cache.view()) == "");
    CHECK(test::same_answer(test::run_sparq(p, cache.view(), params),
                            test::run_sparq(p, test::make_cache<half>(p).view(), params)));
}

TEST_CASE("subnormal, huge and special values are stored as scalar conversion has them",
          "[cache]") {
    // Every class of float next to each other, so that vector conversions meet them too.
    std::vector<float> special;
    test::random_source source(87);
    for (int i = 0; i < 64 * 128; ++i)
        special.push_back(std::ldexp(source.normal(), static_cast<int>(source.below(60)) - 40));
    special[3] = INFINITY;
    special[40] = -INFINITY;
    special[77] = 65519.0f;
    special[78] = 65520.0f;
    special[99] = NAN;
    special[130] = -0.0f;
    kv_cache<half, sparq::bfloat16> halves(1, 64);
    kv_cache<sparq::bfloat16, half> bfloats(1, 64);
    test::calls<half, sparq::bfloat16>::append(halves, special, special);
    test::calls<sparq::bfloat16, half>::append(bfloats, special, special);
    size_t wrong = 0;
    const auto a = halves.view().segment(0, 0);
    const auto b = bfloats.view().segment(0, 0);
    REQUIRE(a.labelled == 128);
    for (size_t t = 0; t < 128; ++t)
        for (size_t c = 0; c < 64; ++c) {
            const float x = special[t * 64 + c];
            const half stored(x);
            const sparq::bfloat16 stored_b(x);
            wrong += a.keys[t * a.key_stride + c].bits != stored.bits;
            wrong += a.values[t * a.value_stride + c].bits != stored.bits;
            wrong += a.keys_t[c * a.channel_stride + t].bits != sparq::bfloat16(float(stored)).bits;
            wrong += b.keys[t * b.key_stride + c].bits != stored_b.bits;
            wrong += b.keys_t[c * b.channel_stride + t].bits != half(float(stored_b)).bits;
        }
    CHECK(wrong == 0);
}

TEST_CASE("a cache on huge pages grows and answers as any other", "[cache]") {
    // 16 heads of 8192 tokens: segments that are long enough for pages of 2 MiB.
    const test::problem p = test::make_problem({16, 1, 32, 32, 600}, 88);
    kv_cache<half> usual(16, 32, 32), huge(16, 32, 32, sparq::memory_policy::huge_pages);
    huge.reserve(8192 + 256);
    usual.reserve(8192 + 256);
    for (size_t n = 0; n < 14; ++n) {
        test::append_rows(usual, p, 0, 600);
        test::append_rows(huge, p, 0, 600);
    }
    const auto at = reinterpret_cast<std::uintptr_t>(huge.view().segment(0, 0).keys);
    CHECK(at % (std::uintptr_t{2} << 20) == 0);
    CHECK(huge.seq_len() == 14 * 600);
    CHECK(test::same_answer(test::run_sparq(p, huge.view(), params),
                            test::run_sparq(p, usual.view(), params)));
    huge.truncate(599);
    usual.truncate(599);
    CHECK(test::same_answer(test::run_sparq(p, huge.view(), params),
                            test::run_sparq(p, usual.view(), params)));
}
