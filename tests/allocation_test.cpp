// SPDX-License-Identifier: MIT
// Every allocation of this program is counted, and fails on request: calls with a warm
// workspace allocate nothing, and an append that runs out of memory changes nothing.
#include <atomic>
#include <cstdlib>
#include <new>
#include <sparq/baselines.hpp>

#include "engine_memory.hpp"
#include "tier_problem.hpp"

namespace {

using test::quick;

std::atomic<size_t> allocations{0}, allocated_bytes{0};
std::atomic<long> allowed{-1};  // allocations until one fails; -1: none does
constexpr size_t any_size = ~size_t{0};
std::atomic<size_t> largest{any_size};  // those of more bytes fail

void* allocate(size_t bytes, size_t alignment) {
    ++allocations;
    if (allowed >= 0 && allowed-- == 0) {
        allowed = -1;
        throw std::bad_alloc();
    }
    if (bytes > largest) throw std::bad_alloc();
    const size_t rounded = (std::max(bytes, size_t{1}) + alignment - 1) / alignment * alignment;
    allocated_bytes += rounded;
    void* memory = std::aligned_alloc(alignment, rounded);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

}  // namespace

void* operator new(size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new[](size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, std::align_val_t align) {
    return allocate(bytes, static_cast<size_t>(align));
}
void* operator new[](size_t bytes, std::align_val_t align) {
    return allocate(bytes, static_cast<size_t>(align));
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
    try {
        return allocate(bytes, alignof(std::max_align_t));
    } catch (...) {
        return nullptr;
    }
}
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { std::free(p); }

namespace {

using sparq::half;
using sparq::kv_cache;
using test::calls;

/// Allocations of the second call, the first of which warmed up workspace and report.
template <class Call>
size_t allocations_when_warm(const Call& call) {
    call();
    const size_t before = allocations;
    call();
    return allocations - before;
}

}  // namespace

TEST_CASE("a call with a warm workspace allocates nothing", "[allocation]") {
    for (test::shape dims : {test::shape{2, 1, 64, 64, 1000}, test::shape{1, 4, 64, 48, 5000}}) {
        const test::problem p = test::make_problem(dims, 171);
        const auto cache = test::make_cache<half>(p);
        std::vector<float> out(dims.heads_q() * dims.value_dim);
        sparq::workspace work;
        sparq::attention_report report;
        sparq::call_options options;
        options.work = &work;
        const sparq::sparq_params params{.r = 16, .k = 128, .local = 32};
        const auto sparq_call = [&] {
            calls<half>::sparq(p.q, cache.view(), params, out, options);
        };
        const auto dense_call = [&] { calls<half>::dense(p.q, cache.view(), 0, out, options); };
        INFO(dims);
        CHECK(allocations_when_warm(sparq_call) == 0);
        CHECK(allocations_when_warm(dense_call) == 0);
        report.keep_tokens = true;
        options.report = &report;
        CHECK(allocations_when_warm(sparq_call) == 0);
        CHECK(allocations_when_warm(dense_call) == 0);
        // Both kinds alternate on one workspace, and a shorter history needs no more.
        CHECK(allocations_when_warm([&] { sparq_call(), dense_call(); }) == 0);
        CHECK(work.bytes() > 0);
        test::problem part = p;
        part.dims.seq_len = 300;
        const auto shorter = test::make_cache<half>(part);
        const size_t before = allocations;
        calls<half>::sparq(p.q, shorter.view(), params, out, options);
        CHECK(allocations == before);
    }
}

TEST_CASE("steps of a decode loop allocate nothing within reserved room", "[allocation]") {
    const test::problem p = test::make_problem({2, 2, 32, 32, 600}, 172);
    kv_cache<half> cache(2, 32);
    cache.reserve(600);
    std::vector<float> out(4 * 32);
    sparq::workspace work;
    sparq::call_options options;
    options.work = &work;
    {
        const auto full = test::make_cache<half>(p);
        calls<half>::sparq(p.q, full.view(), {.r = 8, .k = 64, .local = 16}, out, options);
    }
    test::append_rows(cache, p, 0, 100);
    const size_t before = allocations;
    for (size_t t = 100; t < 600; ++t) {
        test::append_rows(cache, p, t, t + 1);
        calls<half>::sparq(p.q, cache.view(), {.r = 8, .k = 64, .local = 16}, out, options);
        if (t % 50 == 0) calls<half>::truncate(cache, t);
        if (t % 50 == 0) test::append_rows(cache, p, t, t + 1);
    }
    CHECK(allocations == before);
}

TEST_CASE("a view storage and a planned step allocate nothing once grown", "[allocation]") {
    const test::problem p = test::make_problem({2, 1, 16, 16, 200}, 173);
    test::engine_memory<half> memory(p.dims, 200);
    for (size_t t = 0; t < 200; ++t) memory.write(t, p, t);
    sparq::key_labels<half> labels(2, 16, 16);
    labels.append(memory.strided(), 200);
    sparq::kv_view_storage<half> storage;
    sparq::workspace work;
    sparq::call_options options;
    options.work = &work;
    std::vector<float> out(2 * 16);
    const sparq::token_range visible[] = {{3, 70}, {80, 200}};
    CHECK(allocations_when_warm([&] {
              const auto view = labels.view(memory.strided(), visible, storage);
              const sparq::sparq_params params{.r = 4, .k = 30, .local = 5};
              auto plan = sparq::plan_sparq<test::arch>(p.q, view, params, out, options);
              plan.run(0, 1, [] {});
          }) == 0);
}

TEST_CASE("an append that runs out of memory leaves the cache as it was", "[allocation]") {
    const test::problem p = test::make_problem({2, 2, 24, 20, 2000}, 174);
    const sparq::sparq_params params{.r = 8, .k = 40, .local = 5};
    for (size_t start : test::sizes{0, 10, 250, 500}) {
        size_t failures = 0;
        for (long n = 0; n < 200; ++n) {
            kv_cache<half> cache(2, 24, 20);
            test::problem part = p;
            part.dims.seq_len = start;
            test::answer before;
            if (start > 0) {
                test::append_rows(cache, p, 0, start);
                before = test::run_sparq(part, cache.view(), params);
            }
            const size_t capacity = cache.capacity();
            bool failed = false;
            allowed = n;
            try {
                test::append_rows(cache, p, start, 2000);
            } catch (const std::bad_alloc&) {
                failed = true;
            }
            allowed = -1;
            if (!failed) break;
            ++failures;
            INFO("start " << start << ", failing allocation " << n);
            CHECK(cache.seq_len() == start);
            CHECK(cache.capacity() >= capacity);
            if (start > 0)
                CHECK(test::same_answer(test::run_sparq(part, cache.view(), params), before));
            // And it can go on from there.
            test::append_rows(cache, p, start, 2000);
            if (!quick || n % 4 == 0) CHECK(test::check_sparq(p, cache.view(), params) == "");
            CHECK(cache.seq_len() == 2000);
        }
        CHECK(failures > 0);
        CHECK(failures < 200);
    }
}

TEST_CASE("a call that runs out of memory throws and can be repeated", "[allocation]") {
    const test::problem p = test::make_problem({1, 1, 24, 20, 300}, 175);
    const auto cache = test::make_cache<half>(p);
    const sparq::sparq_params params{.r = 8, .k = 40, .local = 5};
    const auto want = test::run_sparq(p, cache.view(), params);
    std::vector<float> out(20, 5.5f);
    sparq::workspace work;
    sparq::call_options options;
    options.work = &work;
    allowed = 0;
    CHECK_THROWS_AS(calls<half>::sparq(p.q, cache.view(), params, out, options), std::bad_alloc);
    allowed = -1;
    CHECK(out == std::vector<float>(20, 5.5f));
    calls<half>::sparq(p.q, cache.view(), params, out, options);
    CHECK(test::same_bits(out, want.out));
}

TEST_CASE("a call that runs out of memory leaves its report as it was", "[allocation]") {
    const test::problem p = test::make_problem({2, 1, 24, 20, 300}, 177);
    const auto cache = test::make_cache<half>(p);
    std::vector<float> out(40, 5.5f);
    size_t failures = 0;
    for (long n = 0; n < 10; ++n) {
        sparq::attention_report report;
        report.keep_tokens = true;
        sparq::call_options options;
        options.report = &report;
        bool failed = false;
        allowed = n;
        try {
            calls<half>::sparq(p.q, cache.view(), {.r = 8, .k = 40, .local = 5}, out, options);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
        allowed = -1;
        if (!failed) break;
        ++failures;
        INFO("failing allocation " << n);
        CHECK(report.heads.empty());
        CHECK(report.tokens.empty());
        CHECK(out == std::vector<float>(40, 5.5f));
    }
    CHECK(failures > 0);
    CHECK(failures < 10);
}

TEST_CASE("a baseline with a warm workspace allocates nothing", "[allocation]") {
    const test::problem p = test::make_problem({2, 2, 64, 48, 700}, 178);
    const auto cache = test::make_cache<half>(p);
    const auto view = cache.view();
    std::vector<float> out(p.dims.heads_q() * p.dims.value_dim);
    sparq::workspace work;
    const sparq::call_options options{.work = &work};
    sparq::baselines::quest_pages<half> pages(2, 64);
    pages.append<test::arch>(view);
    CHECK(allocations_when_warm([&] {
              sparq::baselines::flexgen_attention<test::arch>(p.q, view, {.k = 40}, out, options);
          }) == 0);
    CHECK(allocations_when_warm([&] {
              sparq::baselines::quest_attention<test::arch>(p.q, view, pages, {.k = 64}, out,
                                                            options);
          }) == 0);
    CHECK(allocations_when_warm([&] {
              sparq::baselines::lm_infinite_attention<test::arch>(p.q, view, {.k = 64}, out,
                                                                  options);
          }) == 0);
}

TEST_CASE("key_labels that run out of memory stay as they were", "[allocation]") {
    const test::problem p = test::make_problem({2, 1, 16, 16, 900}, 176);
    test::engine_memory<half> memory(p.dims, 900);
    for (size_t t = 0; t < 900; ++t) memory.write(t, p, t);
    size_t failures = 0;
    for (long n = 0; n < 100; ++n) {
        sparq::key_labels<half> labels(2, 16, 16);
        labels.append(memory.strided(), 100);
        bool failed = false;
        allowed = n;
        try {
            labels.append(memory.strided(), 800);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
        allowed = -1;
        if (!failed) break;
        ++failures;
        CHECK(labels.size() == 100);
        labels.append(memory.strided(), 800);
        sparq::kv_view_storage<half> storage;
        const sparq::token_range all[] = {{0, 900}};
        CHECK(test::check_sparq(p, labels.view(memory.strided(), all, storage),
                                {.r = 4, .k = 30, .local = 5}) == "");
    }
    CHECK(failures > 0);
    CHECK(failures < 100);
}

TEST_CASE("tiers beside an engine allocate nothing once warm", "[allocation]") {
    const test::problem p = test::tier_problem({2, 1, 24, 20, 900}, 177, 3.0f);
    test::engine_memory<half> memory(p.dims, 900);
    for (size_t t = 0; t < 900; ++t) memory.write(t, p, t);
    sparq::tier_codes<half> codes(2, 24, 20);
    codes.append<test::arch>(memory.strided(), 900);
    sparq::tiered_view_storage<half> storage;
    sparq::workspace work;
    sparq::call_options options;
    options.work = &work;
    std::vector<float> out(2 * 20);
    const sparq::token_range visible[] = {{3, 70}, {80, 900}};
    CHECK(allocations_when_warm([&] {
              codes.truncate(500);
              codes.rewrite<test::arch>(memory.strided(), 17);
              codes.append<test::arch>(memory.strided(), 400);
              codes.rewrite<test::arch>(memory.strided(), 600);
              const auto view = codes.view<test::arch>(memory.strided(), visible, storage);
              test::tier_calls<half>::make_plan(p.q, view, {.tolerance = 0.1f}, out, options)
                  .run(0, 1, [] {});
          }) == 0);
}

TEST_CASE("tiers beside an engine that run out of memory stay as they were", "[allocation]") {
    const test::problem p = test::tier_problem({2, 2, 24, 20, 2000}, 178, 3.0f);
    test::engine_memory<half> memory(p.dims, 2000);
    for (size_t t = 0; t < 2000; ++t) memory.write(t, p, t);
    const sparq::tiered_params params{.tolerance = 0.2f};
    const auto answer = [&](sparq::tier_codes<half>& codes, size_t end) {
        sparq::tiered_view_storage<half> storage;
        const sparq::token_range visible[] = {{0, end}};
        return test::run_tiers(p, codes.view<test::arch>(memory.strided(), visible, storage),
                               params);
    };
    sparq::tier_codes<half> at_once(2, 24, 20);
    at_once.append<test::arch>(memory.strided(), 2000);
    const auto want = answer(at_once, 2000);
    size_t failures = 0;
    for (long n = 0; n < 200; ++n) {
        sparq::tier_codes<half> codes(2, 24, 20);
        codes.append<test::arch>(memory.strided(), 600);
        const auto before = answer(codes, 600);
        bool failed = false;
        allowed = n;
        try {
            codes.append<test::arch>(memory.strided(), 1400);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
        allowed = -1;
        if (!failed) break;
        ++failures;
        CHECK(codes.size() == 600);
        CHECK(test::same_tiers(answer(codes, 600), before));
        codes.append<test::arch>(memory.strided(), 1400);
        CHECK(test::same_tiers(answer(codes, 2000), want));
    }
    CHECK(failures > 3);
    CHECK(failures < 200);
}

namespace {

template <class T>
void check_warm_tiers() {
    for (test::shape dims : {test::shape{2, 1, 64, 64, 1000}, test::shape{1, 4, 64, 48, 5000}}) {
        const test::problem p = test::tier_problem(dims, 181, 0.4f);
        sparq::tiered_cache<T> cache(dims.heads_kv, dims.head_dim, dims.value_dim);
        cache.reserve(dims.seq_len);
        test::append_tiers(cache, p, 0, dims.seq_len);
        std::vector<float> out(dims.heads_q() * dims.value_dim);
        sparq::workspace work;
        sparq::attention_report report;
        sparq::call_options options;
        options.work = &work;
        options.report = &report;
        INFO(dims);
        for (const sparq::tiered_params& params :
             {sparq::tiered_params{.tolerance = 0.1f}, sparq::tiered_params{.tolerance = 0.0f},
              sparq::tiered_params{.refined = 100, .exact = 9}})
            CHECK(allocations_when_warm([&] {
                      test::tier_calls<T>::tiered(p.q, cache.view(), params, out, options);
                      const auto plan =
                          test::tier_calls<T>::make_plan(p.q, cache.view(), params, out, options);
                      plan.run(0, 1, [] {});
                  }) == 0);
        const size_t before = allocations;
        for (size_t t = dims.seq_len - 200; t < dims.seq_len; t += quick ? 7 : 1) {
            test::tier_calls<T>::truncate(cache, t);
            test::append_tiers(cache, p, t, dims.seq_len);
            test::tier_calls<T>::tiered(p.q, cache.view(), {.tolerance = 0.1f}, out, options);
        }
        cache.clear();
        test::append_tiers(cache, p, 0, dims.seq_len);
        CHECK(allocations == before);
    }
}

}  // namespace

TEST_CASE("attention in tiers allocates nothing once warm", "[allocation]") {
    check_warm_tiers<half>();
    check_warm_tiers<sparq::int8_row>();
}

TEST_CASE("a tiered cache that runs out of memory stays as it was", "[allocation]") {
    const test::problem p = test::tier_problem({2, 2, 24, 20, 2000}, 182, 0.4f);
    const sparq::tiered_params params{.tolerance = 0.2f};
    const auto at_once = test::make_tiers<half>(p);
    const auto want = test::run_tiers(p, at_once.view(), params);
    for (size_t start : test::sizes{0, 10, 500, 700}) {
        size_t failures = 0;
        for (long n = 0; n < 200; ++n) {
            sparq::tiered_cache<half> cache(2, 24, 20);
            test::answer before;
            if (start > 0) {
                test::append_tiers(cache, p, 0, start);
                before = test::run_tiers(p, cache.view(), params);
            }
            bool failed = false;
            allowed = n;
            try {
                test::append_tiers(cache, p, start, 2000);
            } catch (const std::bad_alloc&) {
                failed = true;
            }
            allowed = -1;
            if (!failed) break;
            ++failures;
            INFO("start " << start << ", failing allocation " << n);
            CHECK(cache.seq_len() == start);
            if (start > 0)
                CHECK(test::same_tiers(test::run_tiers(p, cache.view(), params), before));
            test::append_tiers(cache, p, start, 2000);
            CHECK(test::same_tiers(test::run_tiers(p, cache.view(), params), want));
        }
        CHECK(failures > 0);
        CHECK(failures < 200);
    }
}

namespace {

/// Whether call() runs out of memory.
template <class Call>
bool fails(const Call& call) {
    try {
        call();
    } catch (const std::bad_alloc&) {
        return true;
    }
    return false;
}

/// The same where no allocation may be of more than `most` bytes.
template <class Call>
bool fails_within(size_t most, const Call& call) {
    largest = most;
    const bool failed = fails(call);
    largest = any_size;
    return failed;
}

/// The same where allocation n fails.
template <class Call>
bool fails_at(long n, const Call& call) {
    allowed = n;
    const bool failed = fails(call);
    allowed = -1;
    return failed;
}

}  // namespace

TEST_CASE("a tiered cache with room takes tokens where there is no memory", "[allocation]") {
    const test::problem p = test::tier_problem({2, 2, 24, 20, 300}, 183, 0.4f);
    const sparq::tiered_params params{.tolerance = 0.2f};
    const auto want = test::run_tiers(p, test::make_tiers<half>(p, 300).view(), params);
    // From the 193rd token on the next segment is made ahead, as far as there is memory.
    for (size_t start : test::sizes{100, 190, 200}) {
        bool failed = true;
        long n = 0;
        for (; failed; ++n) {
            INFO("start " << start << ", failing allocation " << n);
            auto cache = test::make_tiers<half>(p, start);
            failed = fails_at(n, [&] { cache.reserve(50000); });
            if (failed) CHECK(cache.capacity() < 50000);  // codes too are wanting
            const bool short_of_memory =
                fails_within(0, [&] { test::append_tiers(cache, p, start, 256); });
            CHECK_FALSE(short_of_memory);
            test::append_tiers(cache, p, cache.seq_len(), 300);
            CHECK(test::same_tiers(test::run_tiers(p, cache.view(), params), want));
        }
        CHECK(n > 3);
        for (n = 0; n < 20; ++n) {  // what is made ahead is not needed yet
            auto cache = test::make_tiers<half>(p, start);
            const bool short_of_memory =
                fails_at(n, [&] { test::append_tiers(cache, p, start, 256); });
            INFO("start " << start << ", failing allocation " << n);
            CHECK_FALSE(short_of_memory);
        }
    }
}

TEST_CASE("a tiered cache that could not become long can still grow", "[allocation]") {
    const test::problem p = test::tier_problem({2, 2, 24, 20, 300}, 183, 0.4f);
    const std::vector<float> many(size_t{2} * 24 * 50000, 1.0f);
    const std::span<const float> keys(many), values(keys.first(size_t{2} * 20 * 50000));
    const auto check = [&](size_t start, const auto& lengthen) {
        bool failed = true;
        long n = 0;
        for (; failed; ++n) {
            INFO("start " << start << ", failing allocation " << n);
            sparq::tiered_cache<half> cache(2, 24, 20);
            if (start != 0) test::append_tiers(cache, p, 0, start);
            failed = fails_at(n, [&] { lengthen(cache); });
            if (!failed) break;
            CHECK(cache.seq_len() == start);
            const bool stuck =
                fails_within(200000, [&] { test::append_tiers(cache, p, start, 300); });
            CHECK_FALSE(stuck);
        }
        CHECK(n > 3);
    };
    for (size_t start : test::sizes{0, 100, 200}) {
        check(start, [](auto& cache) { cache.reserve(50000); });
        check(start, [&](auto& cache) { cache.template append<test::arch>(keys, values); });
    }
}

TEST_CASE("tiers beside an engine that could not become many can still grow", "[allocation]") {
    const test::problem p = test::tier_problem({2, 1, 24, 20, 300}, 184, 3.0f);
    test::engine_memory<half> memory(p.dims, 50000);
    for (size_t t = 0; t < 300; ++t) memory.write(t, p, t);
    for (size_t start : test::sizes{0, 100}) {
        long n = 0;
        for (;; ++n) {
            INFO("start " << start << ", failing allocation " << n);
            sparq::tier_codes<half> codes(2, 24, 20);
            const auto append = [&](size_t end) {
                codes.append<test::arch>(memory.strided(), end - codes.size());
            };
            if (start != 0) append(start);
            if (!fails_at(n, [&] { append(50000); })) break;
            CHECK(codes.size() == start);
            const bool stuck = fails_within(400000, [&] { append(300); });
            CHECK_FALSE(stuck);
        }
        CHECK(n > 3);
    }
}

TEST_CASE("what a tiered cache of 8-bit rows takes a token", "[allocation]") {
    const size_t heads = 2, tokens = 8192;
    for (size_t d : test::sizes{64, 128}) {
        const auto per_token = [&]<class T>(const T&) {
            const size_t before = allocated_bytes;
            T cache(heads, d, d);
            cache.reserve(tokens);
            const auto all = static_cast<double>(allocated_bytes - before);
            CHECK(cache.capacity() == tokens);
            CHECK(cache.code_bytes() >= heads * tokens * (d / 4 + d + 8));
            return std::pair{all / (heads * tokens), cache.row_bytes() / (heads * tokens)};
        };
        const auto [half_all, half_rows] = per_token(sparq::tiered_cache<half>(heads, d, d));
        const auto [all, rows] = per_token(sparq::tiered_cache<sparq::int8_row>(heads, d, d));
        INFO("d_h " << d << ": " << all << " bytes a token and KV head, half " << half_all);
        CHECK(half_rows == 4 * d);
        CHECK(rows == 2 * (d + 8));
        // Codes and ranges, sums, room between the heads: the same beside both.
        CHECK(std::abs(half_all - all - static_cast<double>(half_rows - rows)) < 2);
        CHECK(all < static_cast<double>(2 * (d + 8) + 3 * d / 2 + 20));
    }
}
