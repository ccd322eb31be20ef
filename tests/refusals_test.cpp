// SPDX-License-Identifier: MIT
// Every refusal: std::invalid_argument that names the argument and its value, and nothing
// changed, bit for bit.
#include <functional>
#include <limits>
#include <stdexcept>

#include "engine_memory.hpp"

namespace {

using sparq::half;
using sparq::kv_cache;
using sparq::sparq_params;
using std::string;

constexpr size_t huge = std::numeric_limits<size_t>::max();

/// "" when `call` is refused with a sentence that holds all of `words`.
string not_refused(const std::function<void()>& call, const std::vector<string>& words) {
    try {
        call();
    } catch (const std::invalid_argument& refusal) {
        const string text = refusal.what();
        for (const string& word : words)
            if (text.find(word) == string::npos) return "no '" + word + "' in: " + text;
        return {};
    } catch (const std::exception& other) {
        return string("another exception: ") + other.what();
    }
    return "no exception";
}

/// A good problem with everything that a refused call must leave alone.
struct fixture {
    test::problem p = test::make_problem({2, 2, 32, 24, 100}, 141);
    kv_cache<half> cache = test::make_cache<half>(p);
    sparq::workspace work;
    sparq::attention_report report;
    std::vector<float> out = std::vector<float>(4 * 24, 5.5f);
    test::answer before = test::run_sparq(p, cache.view(), {.r = 8, .k = 20, .local = 4});

    fixture() {
        report.bytes_read = 4711;
        report.heads = {{.covered = 0.25f, .log_sum_exp = 3.0f}};
        report.tokens = {9};
        report.tokens_per_head = 1;
        report.keep_tokens = true;
    }

    sparq::call_options options() {
        sparq::call_options o;
        o.work = &work;
        o.report = &report;
        return o;
    }

    void sparq_call(const sparq_params& params) {
        test::calls<half>::sparq(p.q, cache.view(), params, out, options());
    }

    /// Whether out, the report and the cache are as they were.
    bool untouched() {
        const std::vector<float> was(4 * 24, 5.5f);
        return test::same_bits(out, was) && report.bytes_read == 4711 && report.heads.size() == 1 &&
               report.heads[0].covered == 0.25f && report.tokens == std::vector<std::uint32_t>{9} &&
               report.tokens_per_head == 1 && !report.dense && cache.seq_len() == 100 &&
               test::same_answer(test::run_sparq(p, cache.view(), {.r = 8, .k = 20, .local = 4}),
                                 before);
    }
};

}  // namespace

TEST_CASE("parameters out of range are refused", "[refusals]") {
    fixture f;
    const auto refused = [&](const sparq_params& params, const std::vector<string>& words) {
        CHECK(not_refused([&] { f.sparq_call(params); }, words) == "");
        CHECK(f.untouched());
    };
    refused({.r = 0, .k = 20, .local = 4}, {"r is 0", "32"});
    refused({.r = 33, .k = 20, .local = 4}, {"r is 33", "32"});
    refused({.r = huge, .k = 20, .local = 4}, {"r is 18446744073709551615"});
    refused({.r = 8, .k = 0, .local = 0}, {"k is 0"});
    refused({.r = 8, .k = 20, .local = 21}, {"local is 21", "20"});
    refused({.r = 8, .k = 20, .local = huge}, {"local is 18446744073709551615"});
    refused({.r = 8, .k = 200, .local = 201}, {"local is 201"});  // also when dense
    refused({.r = 0, .k = 200, .local = 4}, {"r is 0"});
    const float inf = std::numeric_limits<float>::infinity();
    refused({.r = 8, .k = 20, .local = 4, .scale = NAN}, {"scale", "nan"});
    refused({.r = 8, .k = 20, .local = 4, .scale = inf}, {"scale", "inf"});
    refused({.r = 8, .k = 20, .local = 4, .scale = -inf}, {"scale", "-inf"});
    const auto no_tail = static_cast<sparq::tail_estimate>(3);
    const auto no_ranking = static_cast<sparq::group_ranking>(-1);
    refused({.r = 8, .k = 20, .local = 4, .tail = no_tail}, {"tail is 3"});
    refused({.r = 8, .k = 20, .local = 4, .ranking = no_ranking}, {"ranking is -1"});
}

TEST_CASE("sizes of q and out that do not fit are refused", "[refusals]") {
    fixture f;
    const sparq_params params{.r = 8, .k = 20, .local = 4};
    std::vector<float> big(5 * 32, 1.0f);
    for (size_t n : test::sizes{0, 1, 32, 96, 127, 129, 160}) {
        const auto q = std::span<const float>(big).first(n);
        const string value = std::to_string(n);
        INFO("size of q " << n);
        CHECK(not_refused(
                  [&] { test::calls<half>::sparq(q, f.cache.view(), params, f.out, f.options()); },
                  {"q", n == 32 || n % 32 != 0 || n == 0 ? value : "q"}) == "");
        CHECK(
            not_refused([&] { test::calls<half>::dense(q, f.cache.view(), 0, f.out, f.options()); },
                        {"q"}) == "");
        CHECK(f.untouched());
    }
    for (size_t n : test::sizes{0, 95, 97, 48}) {
        std::vector<float> out(n, 5.5f);
        INFO("size of out " << n);
        CHECK(
            not_refused(
                [&] { test::calls<half>::sparq(f.p.q, f.cache.view(), params, out, f.options()); },
                {"out", std::to_string(n), "96"}) == "");
        CHECK(not_refused(
                  [&] { test::calls<half>::dense(f.p.q, f.cache.view(), 0, out, f.options()); },
                  {"out", std::to_string(n), "96"}) == "");
        CHECK(test::same_bits(out, std::vector<float>(n, 5.5f)));
        CHECK(f.untouched());
    }
}

TEST_CASE("strides shorter than a row are refused", "[refusals]") {
    fixture f;
    const sparq_params params{.r = 8, .k = 20, .local = 4};
    sparq::call_options options = f.options();
    options.q_stride = 31;
    CHECK(not_refused(
              [&] { test::calls<half>::sparq(f.p.q, f.cache.view(), params, f.out, options); },
              {"q_stride", "31", "32"}) == "");
    options.q_stride = 0;
    options.out_stride = 23;
    CHECK(not_refused([&] { test::calls<half>::dense(f.p.q, f.cache.view(), 0, f.out, options); },
                      {"out_stride", "23", "24"}) == "");
    options.out_stride = huge / 2;
    CHECK(not_refused([&] { test::calls<half>::dense(f.p.q, f.cache.view(), 0, f.out, options); },
                      {"out"}) == "");
    CHECK(f.untouched());
    // Sizes and strides whose products come round to what fits.
    options.out_stride = 0;
    for (size_t stride : test::sizes{huge, huge - 31, huge / 2 + 1, huge / 4 + 1})
        for (size_t n : test::sizes{32, 33, 64, 128}) {
            options.q_stride = stride;
            std::vector<float> none;
            INFO("q_stride " << stride << ", size of q " << n);
            CHECK(not_refused(
                      [&] {
                          test::calls<half>::dense(std::span(f.p.q).first(n), f.cache.view(), 0,
                                                   none, options);
                      },
                      {}) == "");
        }
    CHECK(f.untouched());
}

TEST_CASE("out that overlaps q is refused", "[refusals]") {
    fixture f;
    test::problem p = test::make_problem({2, 1, 32, 32, 100}, 142);
    const auto cache = test::make_cache<half>(p);
    const sparq_params params{.r = 8, .k = 20, .local = 4};
    std::vector<float> both(64 + 64, 1.5f);
    const auto was = both;
    for (size_t shift : test::sizes{0, 1, 32, 63}) {
        INFO("shift " << shift);
        const auto q = std::span(both).first(64);
        const auto out = std::span(both).subspan(shift, 64);
        CHECK(not_refused([&] { test::calls<half>::sparq(q, cache.view(), params, out); },
                          {"out", "q"}) == "");
        CHECK(not_refused([&] { test::calls<half>::dense(q, cache.view(), 0, out); },
                          {"out", "q"}) == "");
        CHECK(test::same_bits(both, was));
    }
    // Next to each other is not overlapping.
    test::calls<half>::sparq(std::span(both).first(64), cache.view(), params,
                             std::span(both).subspan(64));
    CHECK(test::same_bits(std::span(both).first(64), std::span(was).first(64)));
}

TEST_CASE("an empty cache is refused", "[refusals]") {
    const kv_cache<float> cache(1, 8);
    const std::vector<float> q(8, 1.0f);
    std::vector<float> out(8, 5.5f);
    CHECK(
        not_refused(
            [&] { test::calls<float>::sparq(q, cache.view(), {.r = 2, .k = 3, .local = 1}, out); },
            {"empty", "at least one token"}) == "");
    CHECK(not_refused([&] { test::calls<float>::dense(q, cache.view(), 0, out); },
                      {"empty", "at least one token"}) == "");
    CHECK(test::same_bits(out, std::vector<float>(8, 5.5f)));
}

TEST_CASE("a dense scale that is not finite is refused", "[refusals]") {
    fixture f;
    CHECK(not_refused(
              [&] { test::calls<half>::dense(f.p.q, f.cache.view(), NAN, f.out, f.options()); },
              {"scale", "nan"}) == "");
    CHECK(
        not_refused(
            [&] { test::calls<half>::dense(f.p.q, f.cache.view(), INFINITY, f.out, f.options()); },
            {"scale", "inf"}) == "");
    CHECK(f.untouched());
}

TEST_CASE("caches of no size, or of one too large to count, are refused", "[refusals]") {
    CHECK(not_refused([] { kv_cache<float>(0, 8); }, {"heads_kv is 0"}) == "");
    CHECK(not_refused([] { kv_cache<float>(1, 0); }, {"head_dim is 0"}) == "");
    CHECK(not_refused([] { kv_cache<float>(1, 8, 0); }, {"value_dim is 0"}) == "");
    CHECK(not_refused([] { kv_cache<float>(huge / 4, 8); }, {"head"}) == "");
    CHECK(not_refused([] { kv_cache<half>(1, huge / 2); }, {"head_dim"}) == "");
    CHECK(not_refused([] { kv_cache<half>(1, 8, huge / 2); }, {"value_dim"}) == "");
    CHECK(not_refused([] { sparq::key_labels<half>(0, 8, 8); }, {"heads_kv is 0"}) == "");
    CHECK(not_refused([] { sparq::key_labels<half>(1, 0, 8); }, {"head_dim is 0"}) == "");
    CHECK(not_refused([] { sparq::key_labels<half>(1, 8, 0); }, {"value_dim is 0"}) == "");
}

TEST_CASE("appends that do not fit are refused", "[refusals]") {
    fixture f;
    const std::vector<float> data(2 * 32 * 4, 1.0f);
    const auto first = [&](size_t n) { return std::span<const float>(data).first(n); };
    const auto refused = [&](size_t keys, size_t values, const std::vector<string>& words) {
        INFO(keys << " and " << values);
        CHECK(not_refused([&] { f.cache.append(first(keys), first(values)); }, words) == "");
        CHECK(f.untouched());
    };
    refused(0, 0, {"keys", "0"});  // n >= 1
    refused(0, 48, {"keys", "0"});
    refused(64, 0, {"values", "0"});
    refused(63, 48, {"keys", "63", "64"});  // ragged
    refused(65, 48, {"keys", "65", "64"});
    refused(64, 47, {"values", "47", "48"});
    refused(128, 48, {"values", "48", "2 tokens"});  // unequal
    refused(64, 96, {"values", "96", "48"});
    const std::vector<half> halves(2 * 32 * 4, half(1.0f));
    CHECK(not_refused(
              [&] {
                  f.cache.append(std::span<const half>(halves).first(63),
                                 std::span<const half>(halves).first(48));
              },
              {"keys", "63"}) == "");
    CHECK(f.untouched());
}

TEST_CASE("truncate past the end and reserve past all memory are refused", "[refusals]") {
    fixture f;
    CHECK(not_refused([&] { f.cache.truncate(101); }, {"101", "100"}) == "");
    CHECK(not_refused([&] { f.cache.truncate(huge); }, {"18446744073709551615", "100"}) == "");
    CHECK(not_refused([&] { f.cache.reserve(huge); }, {"18446744073709551615"}) == "");
    CHECK(not_refused([&] { f.cache.reserve(huge / 64); }, {std::to_string(huge / 64)}) == "");
    CHECK(f.untouched());
    f.cache.truncate(100);
    CHECK(f.untouched());
}

TEST_CASE("views that make no sense are refused", "[refusals]") {
    using segment = sparq::kv_segment<float>;
    using view = sparq::kv_view<float>;
    const std::vector<float> data(1000, 1.0f);
    const float* p = data.data();
    const segment good{p, p, p, 8, 4, 16, 16, 16};
    const auto refused = [&](const std::function<void(segment&)>& spoil,
                             const std::vector<string>& words) {
        segment s = good;
        spoil(s);
        CHECK(not_refused([&] { view(1, 8, 4, std::span(&s, 1)); }, words) == "");
    };
    CHECK(view(1, 8, 4, std::span(&good, 1)).seq_len() == 16);
    CHECK(not_refused([&] { view(0, 8, 4, std::span(&good, 1)); }, {"heads_kv is 0"}) == "");
    CHECK(not_refused([&] { view(1, 0, 4, std::span(&good, 1)); }, {"head_dim is 0"}) == "");
    CHECK(not_refused([&] { view(1, 8, 0, std::span(&good, 1)); }, {"value_dim is 0"}) == "");
    CHECK(not_refused([&] { view(2, 8, 4, std::span(&good, 1)); }, {"segments", "1", "2"}) == "");
    refused([](segment& s) { s.keys = nullptr; }, {"keys"});
    refused([](segment& s) { s.values = nullptr; }, {"values"});
    refused([](segment& s) { s.keys_t = nullptr; }, {"keys_t"});
    refused([](segment& s) { s.key_stride = 7; }, {"key_stride", "7", "head_dim"});
    refused([](segment& s) { s.value_stride = 3; }, {"value_stride", "3", "value_dim"});
    refused([](segment& s) { s.channel_stride = 15; }, {"channel_stride", "15", "labelled"});
    refused([](segment& s) { s.labelled = 17; }, {"labelled", "17", "16"});
    const std::vector<double> sums(5, 0.0);
    CHECK(not_refused([&] { view(1, 8, 4, std::span(&good, 1), sums); },
                      {"value_sums", "5", "4"}) == "");
    segment shorter = good;
    shorter.tokens = shorter.labelled = 15;
    const segment two[] = {good, shorter};
    CHECK(not_refused([&] { view(2, 8, 4, two); }, {"tokens", "15", "same"}) == "");
    // Keys_t may be missing where nothing is labelled.
    segment rows_only = good;
    rows_only.keys_t = nullptr;
    rows_only.labelled = 0;
    CHECK(view(1, 8, 4, std::span(&rows_only, 1)).seq_len() == 16);
}

TEST_CASE("ranges outside an engine's cells are refused", "[refusals]") {
    const test::problem p = test::make_problem({1, 1, 8, 8, 50}, 143);
    const test::engine_memory<float> memory(p.dims, 50);
    sparq::kv_view_storage<float> storage;
    const auto refused = [&](std::vector<sparq::token_range> ranges,
                             const std::vector<string>& words) {
        CHECK(not_refused([&] { storage.assign(memory.strided(), ranges); }, words) == "");
    };
    refused({{0, 51}}, {"51", "50"});
    refused({{10, 9}}, {"10", "9"});
    refused({{60, 70}}, {"70", "50"});
    auto strided = memory.strided();
    const std::vector<sparq::token_range> all{{0, 50}};
    strided.keys = nullptr;
    CHECK(not_refused([&] { storage.assign(strided, all); }, {"keys"}) == "");
    strided = memory.strided();
    strided.heads_kv = 0;
    CHECK(not_refused([&] { storage.assign(strided, all); }, {"heads_kv is 0"}) == "");
    refused({}, {"visible", "empty"});
    refused({{4, 4}}, {"4"});
    refused({{10, 20}, {19, 30}}, {"19", "30"});  // overlapping
    refused({{10, 20}, {0, 5}}, {"0", "5"});      // out of order
}

TEST_CASE("key_labels refuses what the engine does not have", "[refusals]") {
    const test::problem p = test::make_problem({2, 1, 8, 8, 50}, 144);
    test::engine_memory<half> memory(p.dims, 50);
    for (size_t t = 0; t < 50; ++t) memory.write(t, p, t);
    sparq::key_labels<half> labels(2, 8, 8);
    labels.append(memory.strided(), 40);
    CHECK(not_refused([&] { labels.append(memory.strided(), 11); }, {"n is 11", "50", "40"}) == "");
    CHECK(not_refused([&] { labels.append(memory.strided(), huge); }, {"18446744073709551615"}) ==
          "");
    CHECK(not_refused([&] { labels.rewrite(memory.strided(), 40); }, {"cell", "40"}) == "");
    CHECK(not_refused([&] { labels.truncate(41); }, {"41", "40"}) == "");
    auto fewer = memory.strided();
    fewer.cells = 10;
    CHECK(not_refused([&] { labels.rewrite(fewer, 10); }, {"cell is 10", "engine.cells = 10"}) ==
          "");
    labels.rewrite(fewer, 9);
    sparq::key_labels<half, sparq::int8_label> codes(2, 8, 8);
    codes.append(memory.strided(), 40);
    CHECK(not_refused([&] { codes.rewrite(fewer, 9); }, {"engine.cells is 10", "size() = 40"}) ==
          "");
    auto other = memory.strided();
    other.head_dim = 4;
    CHECK(not_refused([&] { labels.append(other, 1); }, {"head_dim", "4", "8"}) == "");
    other = memory.strided();
    other.heads_kv = 1;
    CHECK(not_refused([&] { labels.rewrite(other, 3); }, {"heads_kv", "1", "2"}) == "");
    sparq::kv_view_storage<half> storage;
    const std::vector<sparq::token_range> beyond{{0, 51}};
    CHECK(not_refused([&] { labels.view(memory.strided(), beyond, storage); }, {"51", "40"}) == "");
    CHECK(labels.size() == 40);
}
