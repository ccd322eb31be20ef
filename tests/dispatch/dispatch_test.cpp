// SPDX-License-Identifier: MIT
// Kernels chosen at run time have the bits of code compiled for their instruction set, and
// are the ones that were asked for: sums are taken in another order on each, so that equal
// bits tell which ran.
#include <catch2/catch.hpp>

#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
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
    attend_function *attend, *attend_tiers;
};

/// The widest set that the processor can run, asked independently of the library.
isa widest() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512vl"))
        return isa::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return isa::avx2;
    return isa::sse2;
#elif defined(__aarch64__)
    return isa::neon;
#else
    return isa::plain;
#endif
}

/// The units of this program that the processor can run, the widest last. That for avx512 is in
/// programs for avx512 alone: it takes long to compile.
std::vector<direct_unit> runnable() {
#if defined(__x86_64__)
    std::vector<direct_unit> units{{isa::sse2, baseline::attend, baseline::attend_tiers}};
    if (widest() >= isa::avx2) units.push_back({isa::avx2, avx2::attend, avx2::attend_tiers});
#if defined(SPARQ_TEST_DIRECT_AVX512)
    if (widest() == isa::avx512)
        units.push_back({isa::avx512, avx512::attend, avx512::attend_tiers});
#endif
    return units;
#else
    return {{widest(), baseline::attend, baseline::attend_tiers}};
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

/// One and several query heads a group, whole vectors and tails, one chunk and several, heads that
/// three threads share.
std::vector<problem> problems() {
    return {make_problem(2, 4, 64, 64, 700), make_problem(3, 1, 40, 24, 8300),
            make_problem(1, 2, 17, 5, 300), make_problem(17, 1, 16, 16, 257),
            make_problem(2, 2, 16, 16, 8400)};
}

/// In tiers: beyond what a truncate may have to measure again (not under an emulator, where that
/// takes minutes), whole strips, and none.
std::vector<problem> tier_problems() {
    return {make_problem(2, 4, 64, 64, test::quick ? 2000 : 5000), make_problem(3, 1, 40, 24, 1300),
            make_problem(1, 2, 17, 5, 300), make_problem(2, 1, 24, 8, 40)};
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
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
        CHECK(same(got[i].expected_error, want[i].expected_error));
        CHECK(got[i].exact == want[i].exact);
        CHECK(got[i].refined == want[i].refined);
        CHECK(got[i].dense_heads == want[i].dense_heads);
        CHECK(same(got[i].moments, want[i].moments));
        CHECK(same(got[i].value_squares, want[i].value_squares));
        CHECK(same(got[i].rows, want[i].rows));
    }
}

constexpr element all_types[] = {element::float_, element::half, element::bfloat16};
/// Compiling calls in tiers takes long, and what they do with rows of bfloat16 others do too.
constexpr element tier_type_list[] = {element::half, element::float_};
constexpr std::span<const element> tier_types(tier_type_list, test::quick ? 1 : 2);

void check_problems(const std::vector<problem>& all, std::span<const element> types,
                    attend_function* attend, attend_function* want) {
    for (const problem& p : all)
        for (const element type : types) {
            INFO("heads_kv " << p.heads_kv << ", G " << p.group << ", d_h " << p.head_dim << ", S "
                             << p.seq_len << ", element " << int(type) << ", seeds 401 to 403");
            check_same(attend(p, type), want(p, type));
        }
}

void check_every_problem(const direct_unit& want) {
    check_problems(problems(), all_types, dispatched, want.attend);
    check_problems(tier_problems(), tier_types, dispatched_tiers, want.attend_tiers);
}

}  // namespace

TEST_CASE("the environment chooses the kernels", "[dispatch]") {
    const direct_unit wanted = unit_named(environment());
    CHECK(sparq::dispatch::active() == wanted.set);
    CHECK(sparq::dispatch::is_available(wanted.set));
    check_every_problem(wanted);
}

TEST_CASE("each instruction set has bits of its own", "[dispatch]") {
    const auto is_fused = [](sparq::dispatch::isa set) {
        using enum sparq::dispatch::isa;
        return set == neon || set == avx2 || set == avx512;
    };
    const direct_unit wanted = unit_named(environment());
    const problem p = problems()[0];
    for (const direct_unit& other : runnable()) {
        if (other.set == wanted.set) continue;
        INFO("as " << sparq::dispatch::name(other.set));
        for (const element type : all_types) {
            const auto got = dispatched(p, type), different = other.attend(p, type);
            for (std::size_t i = 0; i < got.size(); ++i)
                CHECK_FALSE(same(got[i].out, different[i].out));
        }
        for (const element type : tier_types) {
            const auto tiers = dispatched_tiers(p, type), others = other.attend_tiers(p, type);
            for (std::size_t i = 0; i < tiers.size(); ++i) {
                INFO("call " << i << " in tiers");
                CHECK_FALSE(same(tiers[i].out, others[i].out));
                if (tiers[i].rows.empty()) continue;
                CHECK_FALSE(same(tiers[i].value_squares, others[i].value_squares));
                // Of a channel alone: the same where both multiply and add in one rounding.
                if (is_fused(other.set) != is_fused(wanted.set))
                    CHECK_FALSE(same(tiers[i].moments, others[i].moments));
            }
        }
    }
}

TEST_CASE("calls in tiers that are compared are no dense ones", "[dispatch]") {
    for (const element type : tier_types) {
        const auto tiers = dispatched_tiers(tier_problems()[0], type);
        for (const std::size_t i : {0u, 1u, 3u, 5u}) {
            INFO("call " << i);
            CHECK(tiers[i].dense_heads == 0);
            for (const std::size_t refined : tiers[i].refined) CHECK(refined > 0);
        }
        CHECK(tiers[2].dense_heads == 8);
        CHECK(tiers[4].dense_heads == 8);
    }
}

TEST_CASE("use() changes the kernels of the calls that follow", "[dispatch]") {
    const problem p = problems()[0];
    for (const direct_unit& unit : runnable()) {
        use(unit.set);
        CHECK(sparq::dispatch::active() == unit.set);
        check_same(dispatched(p, element::half), unit.attend(p, element::half));
        check_same(dispatched_tiers(p, element::half), unit.attend_tiers(p, element::half));
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

TEST_CASE("a plan in tiers keeps the kernels it was made with", "[dispatch]") {
    const problem p = problems()[0];
    std::vector<float> out(p.heads_kv * p.group * p.value_dim);
    for (const direct_unit& unit : runnable()) {
        use(unit.set);
        sparq::tiered_cache<float> cache(p.heads_kv, p.head_dim, p.value_dim);
        cache.append<sparq::arch::dispatched>(p.keys, p.values);
        auto made = sparq::plan_tiered<sparq::arch::dispatched>(p.q, cache.view(),
                                                                {.tolerance = 0.0f}, out);
        use(runnable().front().set);
        const auto plan = std::move(made);
        plan.run(sparq::serial_executor{});
        CHECK(same(out, unit.attend_tiers(p, element::float_)[4].out));
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
    sparq::tiered_cache<float> tiers(p.heads_kv, p.head_dim, p.value_dim);
    const sparq::tiered_params how;
    CHECK_THROWS_AS(sparq::sparq_attention<dispatched>(p.q, tiers, how, out),
                    std::invalid_argument);
    tiers.append<dispatched>(p.keys, p.values);
    CHECK_THROWS_AS(sparq::plan_tiered<dispatched>(p.q, tiers.view(), {.scan_channels = 65}, out),
                    std::invalid_argument);
    CHECK_THROWS_AS(tiers.truncate<dispatched>(p.seq_len + 1), std::invalid_argument);
    CHECK(tiers.seq_len() == p.seq_len);
}

TEST_CASE("a kernel unit's own overflow check reaches the caller", "[dispatch]") {
    const problem p = problems()[0];
    sparq::kv_cache<float> cache(p.heads_kv, p.head_dim, p.value_dim);
    cache.append(p.keys, p.values);
    // Arguments in real memory are never so large: heads that do not exist.
    const std::size_t heads = std::size_t{1} << 60;
    const sparq::detail::attention_request<float, float> request{
        cache.view(), p.q.data(), nullptr, heads, p.head_dim, p.value_dim, 1.0f, nullptr};
    sparq::tiered_cache<float> tiers(p.heads_kv, p.head_dim, p.value_dim);
    tiers.append(p.keys, p.values);
    const sparq::detail::attention_request<float, sparq::int2_label> in_tiers{
        tiers.view().rows(), p.q.data(), nullptr, heads, p.head_dim, p.value_dim, 1.0f, nullptr};
    alignas(16) std::byte state[1024];
    for (const direct_unit& unit : runnable()) {
        use(unit.set);
        const auto& kernels = sparq::detail::choose_kernels().of_float;
        CHECK_THROWS_AS(kernels.steps.make_dense(request, state), std::invalid_argument);
        CHECK_THROWS_AS(kernels.tiers.make(in_tiers, tiers.view(), {}, state),
                        std::invalid_argument);
    }
    use(unit_named(environment()).set);
}

TEST_CASE("without SPARQ_ISA the widest set runs", "[widest]") {
    CHECK(environment().empty());
    CHECK(sparq::dispatch::active() == widest());
    const direct_unit want = runnable().back();
    if (want.set != widest()) use(want.set);
    // The others are compared where SPARQ_ISA names this set.
    check_problems({problems()[0]}, all_types, dispatched, want.attend);
    check_problems({tier_problems()[2]}, tier_types, dispatched_tiers, want.attend_tiers);
}

TEST_CASE("SPARQ_ISA does not raise the choice", "[lowered]") {
    CHECK(environment() == "avx512");
    CHECK(sparq::dispatch::active() == widest());
}

namespace {

template <class Message>
void check_tiers_refuse(const problem& p, const Message& message) {
    using sparq::arch::dispatched;
    const std::size_t key_width = p.heads_kv * p.head_dim, value_width = p.heads_kv * p.value_dim;
    sparq::tiered_cache<float> cache(p.heads_kv, p.head_dim, p.value_dim);
    CHECK_THROWS_WITH(cache.append<dispatched>(p.keys, p.values), message);
    CHECK(cache.seq_len() == 0);
    cache.append(p.keys, p.values);
    CHECK_THROWS_WITH(cache.truncate<dispatched>(1), message);
    CHECK(cache.seq_len() == p.seq_len);
    std::vector<float> out(p.q.size() / p.head_dim * p.value_dim, 7.0f);
    const std::vector<float> before = out;
    sparq::attention_report report;
    const sparq::tiered_params how;
    CHECK_THROWS_WITH(sparq::sparq_attention<dispatched>(p.q, cache, how, out, {.report = &report}),
                      message);
    CHECK_THROWS_WITH(
        sparq::plan_tiered<dispatched>(p.q, cache.view(), how, out, {.report = &report}), message);
    CHECK(same(out, before));
    CHECK(report.heads.empty());

    const sparq::strided_kv<float> engine{p.keys.data(), p.values.data(), nullptr,    p.heads_kv,
                                          p.head_dim,    p.value_dim,     p.seq_len,  key_width,
                                          p.head_dim,    value_width,     p.value_dim};
    sparq::tier_codes<float> codes(p.heads_kv, p.head_dim, p.value_dim);
    CHECK_THROWS_WITH(codes.append<dispatched>(engine, 1), message);
    CHECK(codes.size() == 0);
    codes.append(engine, p.seq_len);
    CHECK_THROWS_WITH(codes.rewrite<dispatched>(engine, 0), message);
    sparq::tiered_view_storage<float> storage;
    const sparq::token_range all{0, p.seq_len};
    CHECK_THROWS_WITH(codes.view<dispatched>(engine, {&all, 1}, storage), message);
}

}  // namespace

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
    check_tiers_refuse(p, message);
    CHECK(same(out, before));
    CHECK(report.heads.empty());
    CHECK_THROWS_WITH(static_cast<void>(sparq::dispatch::active()), message);

    use(runnable().front().set);  // the program's own word counts
    sparq::sparq_attention<dispatched>(p.q, cache, {}, out);
    CHECK_FALSE(same(out, before));
}
