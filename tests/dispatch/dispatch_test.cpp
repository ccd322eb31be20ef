// SPDX-License-Identifier: MIT
// Kernels chosen at run time have the bits of code compiled for their instruction set, and
// are the ones that were asked for: sums are taken in another order on each, so that equal
// bits tell which ran.
#include <catch2/catch.hpp>

#include <cstdlib>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

#include <sparq/dispatch.hpp>
#include <sparq/sparq.hpp>

#include "../numbers.hpp"
#include "calls.hpp"

namespace {

using namespace dispatch_calls;
using sparq::dispatch::isa;
using sparq::dispatch::use;

struct direct_unit {
    isa set;
    attend_function* attend;
};

/// What the processor can run, asked independently of the library; the widest last.
std::vector<direct_unit> runnable() {
#if defined(__x86_64__)
    std::vector<direct_unit> units{{isa::sse2, baseline::attend}};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        units.push_back({isa::avx2, avx2::attend});
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512vl"))
        units.push_back({isa::avx512, avx512::attend});
    return units;
#elif defined(__aarch64__)
    return {{isa::neon, baseline::attend}};
#else
    return {{isa::plain, baseline::attend}};
#endif
}

direct_unit unit_named(const std::string& name) {
    for (const direct_unit& unit : runnable())
        if (sparq::dispatch::name(unit.set) == name) return unit;
    throw std::runtime_error("no such instruction set here: " + name);
}

std::string environment() {
    const char* value = std::getenv("SPARQ_ISA");
    return value != nullptr ? value : "";
}

problem make_problem(std::size_t heads_kv, std::size_t group, std::size_t head_dim,
                     std::size_t value_dim, std::size_t seq_len) {
    problem p{heads_kv, group, head_dim, value_dim, seq_len, {}, {}, {}};
    p.q = test::grid_normals(heads_kv * group * head_dim, 401);
    p.keys = test::normals(seq_len * heads_kv * head_dim, 402);
    p.values = test::normals(seq_len * heads_kv * value_dim, 403);
    return p;
}

/// One and several query heads a group, whole vectors and tails, one chunk and two.
std::vector<problem> problems() {
    return {make_problem(2, 4, 64, 64, 700), make_problem(3, 1, 40, 24, 8300),
            make_problem(1, 2, 17, 5, 300), make_problem(17, 1, 16, 16, 257)};
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

void check_same(const std::vector<result>& got, const std::vector<result>& want) {
    REQUIRE(got.size() == want.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
        INFO("call " << i);
        CHECK(same(got[i].out, want[i].out));
        CHECK(same(got[i].covered, want[i].covered));
        CHECK(same(got[i].log_sum_exp, want[i].log_sum_exp));
        CHECK(same(got[i].tokens, want[i].tokens));
        CHECK(got[i].bytes_read == want[i].bytes_read);
    }
}

void check_every_problem(attend_function* want) {
    for (const problem& p : problems())
        for (const element type : {element::float_, element::half, element::bfloat16}) {
            INFO("heads_kv " << p.heads_kv << ", G " << p.group << ", d_h " << p.head_dim << ", S "
                             << p.seq_len << ", element " << int(type) << ", seeds 401 to 403");
            check_same(dispatched(p, type), want(p, type));
        }
}

}  // namespace

TEST_CASE("the environment chooses the kernels", "[dispatch]") {
    const direct_unit wanted = unit_named(environment());
    CHECK(sparq::dispatch::active() == wanted.set);
    CHECK(sparq::dispatch::is_available(wanted.set));
    check_every_problem(wanted.attend);
}

TEST_CASE("each instruction set has bits of its own", "[dispatch]") {
    const direct_unit wanted = unit_named(environment());
    const problem p = problems()[0];
    for (const direct_unit& other : runnable()) {
        if (other.set == wanted.set) continue;
        INFO("as " << sparq::dispatch::name(other.set));
        for (const element type : {element::float_, element::half, element::bfloat16}) {
            const auto got = dispatched(p, type), different = other.attend(p, type);
            for (std::size_t i = 0; i < got.size(); ++i)
                CHECK_FALSE(same(got[i].out, different[i].out));
        }
    }
}

TEST_CASE("use() changes the kernels of the calls that follow", "[dispatch]") {
    const problem p = problems()[0];
    for (const direct_unit& unit : runnable()) {
        use(unit.set);
        CHECK(sparq::dispatch::active() == unit.set);
        check_same(dispatched(p, element::half), unit.attend(p, element::half));
    }
    use(unit_named(environment()).set);
}

TEST_CASE("a plan keeps the kernels it was made with", "[dispatch]") {
    const problem p = problems()[0];
    sparq::kv_cache<float> cache(p.heads_kv, p.head_dim, p.value_dim);
    cache.append(p.keys, p.values);
    std::vector<float> out(p.heads_kv * p.group * p.value_dim);
    for (const direct_unit& unit : runnable()) {
        use(unit.set);
        auto made = sparq::plan_dense<sparq::arch::dispatched>(p.q, cache.view(), out);
        use(runnable().front().set);
        const auto plan = std::move(made);
        plan.run(sparq::serial_executor{});
        CHECK(same(out, unit.attend(p, element::float_)[1].out));
    }
    use(unit_named(environment()).set);
}

TEST_CASE("what is not there is refused", "[dispatch]") {
#if defined(__x86_64__)
    const isa missing = isa::neon;
#else
    const isa missing = isa::avx2;
#endif
    const isa before = sparq::dispatch::active();
    CHECK_FALSE(sparq::dispatch::is_available(missing));
    CHECK_THROWS_WITH(use(missing),
                      Catch::Contains("isa is") && Catch::Contains(sparq::dispatch::name(before)));
    CHECK(sparq::dispatch::active() == before);
}

TEST_CASE("dispatched calls refuse what direct ones do", "[dispatch]") {
    const problem p = problems()[0];
    sparq::kv_cache<float> cache(p.heads_kv, p.head_dim, p.value_dim);
    using sparq::arch::dispatched;
    std::vector<float> out(p.heads_kv * p.group * p.value_dim);
    CHECK_THROWS_AS(sparq::dense_attention<dispatched>(p.q, cache, out), std::invalid_argument);
    cache.append<dispatched>(p.keys, p.values);
    CHECK_THROWS_AS(sparq::sparq_attention<dispatched>(p.q, cache, {.r = 65}, out),
                    std::invalid_argument);
}

TEST_CASE("a kernel unit's own overflow check reaches the caller", "[dispatch]") {
    const problem p = problems()[0];
    sparq::kv_cache<float> cache(p.heads_kv, p.head_dim, p.value_dim);
    cache.append(p.keys, p.values);
    // Arguments in real memory are never so large: heads that do not exist.
    const std::size_t heads = std::size_t{1} << 60;
    const sparq::detail::attention_request<float, float> request{
        cache.view(), p.q.data(), nullptr, heads, p.head_dim, p.value_dim, 1.0f, nullptr};
    alignas(16) std::byte state[1024];
    for (const direct_unit& unit : runnable()) {
        use(unit.set);
        CHECK_THROWS_AS(sparq::detail::choose_kernels().of_float.steps.make_dense(request, state),
                        std::invalid_argument);
    }
    use(unit_named(environment()).set);
}

TEST_CASE("without SPARQ_ISA the widest set runs", "[widest]") {
    CHECK(environment().empty());
    CHECK(sparq::dispatch::active() == runnable().back().set);
    check_every_problem(runnable().back().attend);
}

TEST_CASE("SPARQ_ISA does not raise the choice", "[lowered]") {
    CHECK(environment() == "avx512");
    CHECK(sparq::dispatch::active() == runnable().back().set);
}

TEST_CASE("an unknown SPARQ_ISA is refused by the first call", "[unknown]") {
    CHECK(environment() == "AVX2");
    using sparq::arch::dispatched;
    const auto message = Catch::Contains("SPARQ_ISA is AVX2, allowed is ");
    const problem p = problems()[0];
    sparq::kv_cache<sparq::half> cache(p.heads_kv, p.head_dim, p.value_dim);
    CHECK_THROWS_WITH(cache.append<dispatched>(p.keys, p.values), message);
    CHECK(cache.seq_len() == 0);
    cache.append(p.keys, p.values);
    CHECK_THROWS_WITH(cache.truncate<dispatched>(1), message);
    CHECK(cache.seq_len() == p.seq_len);
    std::vector<float> out(p.heads_kv * p.group * p.value_dim, 7.0f);
    const std::vector<float> before = out;
    sparq::attention_report report;
    CHECK_THROWS_WITH(sparq::sparq_attention<dispatched>(p.q, cache, {}, out, {.report = &report}),
                      message);
    CHECK_THROWS_WITH(sparq::dense_attention<dispatched>(p.q, cache, out, {.report = &report}),
                      message);
    CHECK(same(out, before));
    CHECK(report.heads.empty());
    CHECK_THROWS_WITH(static_cast<void>(sparq::dispatch::active()), message);

    use(runnable().front().set);  // the program's own word counts
    sparq::sparq_attention<dispatched>(p.q, cache, {}, out);
    CHECK_FALSE(same(out, before));
}
