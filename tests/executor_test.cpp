// SPDX-License-Identifier: MIT
// The same bits for any executor, any number of threads and any order of tasks.
#include <atomic>
#include <barrier>
#include <numeric>
#include <thread>

#include "engine_memory.hpp"
#include "problem.hpp"
#ifdef SPARQ_TEST_OPENMP
#include <sparq/openmp.hpp>
#endif
#ifdef SPARQ_TEST_ONETBB
#include <oneapi/tbb/task_arena.h>
#include <sparq/onetbb.hpp>
#endif

namespace {

using sparq::half;

/// Tasks in a shuffled order, dealt to threads as they come.
struct shuffled_threads {
    size_t threads;
    std::uint64_t seed;

    template <class Body>
    void operator()(size_t count, const Body& body) const {
        std::vector<size_t> order(count);
        std::iota(order.begin(), order.end(), size_t{0});
        test::random_source source(seed);
        for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[source.below(i)]);
        std::atomic<size_t> next{0};
        std::vector<std::thread> pool;
        for (size_t n = 0; n < threads; ++n)
            pool.emplace_back([&] {
                for (size_t i = next++; i < count; i = next++) body(order[i]);
            });
        for (std::thread& thread : pool) thread.join();
    }
};

/// The same, saying how many threads there are.
struct counted_threads : shuffled_threads {
    [[nodiscard]] size_t workers() const noexcept { return threads; }
};

struct backwards {
    template <class Body>
    void operator()(size_t count, const Body& body) const {
        while (count-- > 0) body(count);
    }
};

struct setting {
    test::problem p;
    sparq::kv_cache<half> cache;
    sparq::sparq_params params;
};

/// One head and many, a chunk and several, heads that go round evenly and not.
std::vector<setting> settings() {
    std::vector<setting> all;
    for (test::shape dims : {test::shape{1, 2, 16, 16, 20000}, test::shape{5, 1, 32, 32, 700},
                             test::shape{3, 2, 16, 16, 9000}, test::shape{70, 1, 8, 8, 300},
                             test::shape{5, 1, 8, 8, 5000}, test::shape{17, 1, 8, 8, 2100}}) {
        test::problem p = test::make_problem(dims, 91);
        auto cache = test::make_cache<half>(p);
        all.push_back({std::move(p),
                       std::move(cache),
                       {.r = 8,
                        // The 64 of 9000 are selected by the maxima that ranking leaves.
                        .k = dims.seq_len == 9000 ? 64 : dims.seq_len / 2,
                        .local = 30,
                        .tail = sparq::tail_estimate::mean_value}});
    }
    return all;
}

template <class Executor>
void check_executor(Executor&& executor) {
    for (const setting& s : settings()) {
        const auto want = test::run_sparq(s.p, s.cache.view(), s.params);
        const auto want_dense = test::run_dense(s.p, s.cache.view());
        test::answer got{std::vector<float>(want.out.size()), {}};
        got.report.keep_tokens = true;
        sparq::call_options options;
        options.report = &got.report;
        sparq::sparq_attention<test::arch>(s.p.q, s.cache.view(), s.params, got.out, options,
                                           executor);
        INFO(s.p.dims);
        CHECK(test::same_answer(got, want));
        sparq::dense_attention<test::arch>(s.p.q, s.cache, got.out, options, executor);
        CHECK(test::same_bits(got.out, want_dense.out));
    }
}

/// Tasks that note what becomes of each head, and in what order.
struct recording_tasks {
    size_t heads_, chunks_;
    std::atomic<int>* prepared;
    std::atomic<int>* scanned;
    std::atomic<int>* ranked;
    std::atomic<int>* finished;
    std::atomic<int>* whole;
    std::atomic<int>* faults;

    [[nodiscard]] size_t heads() const noexcept { return heads_; }
    [[nodiscard]] size_t seq_len() const noexcept { return 2048 * chunks_; }
    [[nodiscard]] size_t chunks() const noexcept { return chunks_; }
    [[nodiscard]] size_t scratch_bytes() const noexcept { return 64; }
    void prepare(size_t g, std::byte* block) const noexcept {
        ++prepared[g];
        *reinterpret_cast<size_t*>(block) = g;
    }
    void check(size_t g, const std::byte* block) const noexcept {
        if (prepared[g] != 1 || *reinterpret_cast<const size_t*>(block) != g) ++*faults;
    }
    void chunk(size_t g, std::byte* block, size_t) const noexcept {
        check(g, block);
        ++scanned[g];
    }
    void all_chunks(size_t g, std::byte* block) const noexcept {
        check(g, block);
        scanned[g] += static_cast<int>(chunks_);
        ranked[g] += static_cast<int>(chunks_);
        ++*whole;
    }
    [[nodiscard]] size_t rank_parts() const noexcept { return chunks_; }
    void rank(size_t g, std::byte* block, size_t) const noexcept {
        check(g, block);
        if (scanned[g] != static_cast<int>(chunks_)) ++*faults;
        ++ranked[g];
    }
    void finish(size_t g, std::byte* block) const noexcept {
        check(g, block);
        if (ranked[g] != static_cast<int>(chunks_)) ++*faults;
        ++finished[g];
    }
};

}  // namespace

TEST_CASE("any order of tasks on any number of threads gives the same bits", "[executor]") {
    check_executor(sparq::serial_executor{});
    check_executor(backwards{});
    for (size_t threads : test::sizes{1, 2, 3, 8})
        check_executor(shuffled_threads{threads, 900 + threads});
}

TEST_CASE("an executor that says how many workers it has gives the same bits", "[executor]") {
    for (size_t threads : test::sizes{1, 2, 3, 4, 8, 64})
        check_executor(counted_threads{{threads, 950 + threads}});
}

TEMPLATE_TEST_CASE("heads over labels of few bits are shared with the same bits", "[executor]",
                   sparq::int8_label, sparq::int4_label, sparq::int2_label) {
    for (test::shape dims : {test::shape{3, 2, 16, 16, 9000}, test::shape{2, 1, 16, 16, 20000}}) {
        const test::problem p = test::make_problem(dims, 94);
        sparq::kv_cache<half, TestType> cache(dims.heads_kv, dims.head_dim, dims.value_dim);
        cache.template append<test::arch>(p.keys, p.values);
        const sparq::sparq_params params{.r = 8, .k = 100, .local = 30};
        std::vector<float> want(p.q.size()), got(p.q.size());
        sparq::sparq_attention<test::arch>(p.q, cache, params, want);
        for (size_t threads : test::sizes{2, 3, 8}) {
            INFO(dims << ", threads " << threads);
            std::fill(got.begin(), got.end(), 0.0f);
            sparq::sparq_attention<test::arch>(p.q, cache, params, got, {},
                                               counted_threads{{threads, 980 + threads}});
            CHECK(test::same_bits(got, want));
        }
    }
}

TEST_CASE("workers take heads whole as far as they go round, and share the others", "[executor]") {
    for (size_t heads : test::sizes{1, 2, 3, 5, 8, 17, 70})
        for (size_t workers : test::sizes{1, 2, 3, 4, 8})
            for (size_t chunks : test::sizes{1, 3}) {
                INFO(heads << " heads of " << chunks << " chunks, workers " << workers);
                std::vector<std::atomic<int>> counts(4 * heads);
                std::atomic<int> whole{0}, faults{0};
                std::atomic<int>* const of = counts.data();
                const recording_tasks tasks{heads,          chunks,         of,     of + heads,
                                            of + 2 * heads, of + 3 * heads, &whole, &faults};
                std::vector<std::byte> memory(64 * heads);
                const auto check = [&](size_t want_whole) {
                    CHECK(faults == 0);
                    CHECK(static_cast<size_t>(whole) == want_whole);
                    for (size_t g = 0; g < heads; ++g) {
                        CHECK(counts[heads + g] == static_cast<int>(chunks));
                        CHECK(counts[3 * heads + g] == 1);
                    }
                    for (auto& count : counts) count = 0;
                    whole = 0;
                };
                const size_t even =
                    chunks == 1 || heads >= 8 * workers ? heads : heads / workers * workers;
                const counted_threads executor{{workers, 970}};
                sparq::detail::run_tasks(tasks, memory.data(), executor);
                check(heads > 64 ? heads : even);

                std::barrier sync(static_cast<std::ptrdiff_t>(workers));
                std::vector<std::thread> pool;
                for (size_t ith = 0; ith < workers; ++ith)
                    pool.emplace_back([&, ith] {
                        auto meet = [&] { sync.arrive_and_wait(); };
                        sparq::detail::run_share(tasks, memory.data(), ith, workers, meet);
                    });
                for (std::thread& thread : pool) thread.join();
                check(even);
            }
}

#ifdef SPARQ_TEST_OPENMP
TEST_CASE("OpenMP gives the same bits", "[executor]") {
    for (int threads : {1, 2, 3}) check_executor(sparq::openmp_executor{threads});
}
#endif

#ifdef SPARQ_TEST_ONETBB
TEST_CASE("oneTBB gives the same bits", "[executor]") {
    check_executor(sparq::onetbb_executor{});
    oneapi::tbb::task_arena(2).execute([] { check_executor(sparq::onetbb_executor{}); });
}
#endif

TEST_CASE("a plan run by threads of one's own gives the same bits", "[executor]") {
    for (const setting& s : settings()) {
        const auto want = test::run_sparq(s.p, s.cache.view(), s.params);
        const auto want_dense = test::run_dense(s.p, s.cache.view());
        const auto view = s.cache.view();
        for (size_t nth = 1; nth <= 8; ++nth) {
            INFO(s.p.dims << ", threads " << nth);
            sparq::workspace work;
            test::answer got{std::vector<float>(want.out.size()), {}};
            got.report.keep_tokens = true;
            sparq::call_options options;
            options.report = &got.report;
            options.work = &work;
            std::barrier sync(static_cast<std::ptrdiff_t>(nth));
            const auto on_all = [&](auto& plan) {
                std::vector<std::thread> pool;
                for (size_t ith = 0; ith < nth; ++ith)
                    pool.emplace_back(
                        [&, ith] { plan.run(ith, nth, [&] { sync.arrive_and_wait(); }); });
                for (std::thread& thread : pool) thread.join();
            };
            auto plan = sparq::plan_sparq<test::arch>(s.p.q, view, s.params, got.out, options);
            on_all(plan);
            CHECK(test::same_answer(got, want));
            auto dense = sparq::plan_dense<test::arch>(s.p.q, view, got.out, options);
            on_all(dense);
            CHECK(test::same_bits(got.out, want_dense.out));
        }
    }
}

TEST_CASE("heads side by side in an engine's rows give the same bits however they take turns",
          "[executor]") {
    // Chunks of such rows are of at most 1024 tokens: several, and a part of one. Without AVX-512
    // groups of up to three heads ask for the rows of a chunk to come, others not; and neither do
    // long rows.
    for (test::shape dims : {test::shape{3, 3, 16, 16, 2500}, test::shape{70, 1, 8, 8, 1300},
                             test::shape{2, 4, 16, 16, 2500}, test::shape{2, 1, 80, 80, 1300}}) {
        const test::problem p = test::make_problem(dims, 92);
        test::engine_memory<half> memory(dims, dims.seq_len);
        for (size_t t = 0; t < dims.seq_len; ++t) memory.write(t, p, t);
        sparq::kv_view_storage<half> storage;
        const sparq::token_range all[]{{0, 133}, {133, dims.seq_len}};
        const auto view = storage.assign(memory.strided(), all);
        std::vector<float> got(p.q.size());
        sparq::dense_attention<test::arch>(p.q, view, got);
        const std::vector<float> want = got;
        const auto cache = test::make_cache<half>(p);
        const auto other = test::run_dense(p, cache.view());
        // Each within (32 + 160 blocks) eps * sum of s |V| of the formula (attend_selected.hpp),
        // and |V| < 5.
        for (size_t i = 0; i < got.size(); ++i)
            CHECK(got[i] == Approx(other.out[i]).margin(1.1e-4));

        for (size_t threads : test::sizes{1, 2, 3, 8}) {
            INFO(dims << ", threads " << threads);
            std::fill(got.begin(), got.end(), 0.0f);
            sparq::dense_attention<test::arch>(p.q, view, got, {},
                                               shuffled_threads{threads, 800 + threads});
            CHECK(test::same_bits(got, want));
            std::fill(got.begin(), got.end(), 0.0f);
            const auto plan = sparq::plan_dense<test::arch>(p.q, view, got);
            std::barrier sync(static_cast<std::ptrdiff_t>(threads));
            std::vector<std::thread> pool;
            for (size_t ith = 0; ith < threads; ++ith)
                pool.emplace_back(
                    [&, ith] { plan.run(ith, threads, [&] { sync.arrive_and_wait(); }); });
            for (std::thread& thread : pool) thread.join();
            CHECK(test::same_bits(got, want));
        }
    }
}
