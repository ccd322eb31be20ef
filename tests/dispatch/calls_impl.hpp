// SPDX-License-Identifier: MIT
// The calls of calls.hpp on the instruction set Arch. Nothing here has external linkage.
#pragma once

#include "calls.hpp"

#include <barrier>
#include <span>
#include <thread>
#include <type_traits>
#include <utility>

#include <sparq/sparq.hpp>

namespace dispatch_calls {
namespace {

constexpr sparq::sparq_params params{.r = 12, .k = 70, .local = 9};

std::span<const float> rows(const std::vector<float>& data, std::size_t width, std::size_t begin,
                            std::size_t end) {
    return std::span<const float>(data).subspan(begin * width, (end - begin) * width);
}

/// A cache that was also truncated, and has tokens without labels.
template <class Arch, class T, class Label = T>
sparq::kv_cache<T, Label> make_cache(const problem& p) {
    sparq::kv_cache<T, Label> cache(p.heads_kv, p.head_dim, p.value_dim);
    const auto append = [&](std::size_t begin, std::size_t end) {
        cache.template append<Arch>(rows(p.keys, p.heads_kv * p.head_dim, begin, end),
                                    rows(p.values, p.heads_kv * p.value_dim, begin, end));
    };
    append(0, p.seq_len - 1);
    cache.template truncate<Arch>(p.seq_len / 2);
    append(p.seq_len / 2, p.seq_len - 3);
    for (std::size_t t = p.seq_len - 3; t < p.seq_len; ++t) append(t, t + 1);
    return cache;
}

struct recorder {
    std::vector<float> out;
    sparq::attention_report report;

    explicit recorder(const problem& p) : out(p.heads_kv * p.group * p.value_dim, -1.0f) {
        report.keep_tokens = true;
    }
    [[nodiscard]] result take() const {
        result r;
        r.out = out;
        r.tokens = report.tokens;
        r.bytes_read = report.bytes_read;
        for (const sparq::head_report& head : report.heads) {
            r.covered.push_back(head.covered);
            r.log_sum_exp.push_back(head.log_sum_exp);
            r.expected_error.push_back(head.expected_error);
            r.exact.push_back(head.exact);
            r.refined.push_back(head.refined);
            r.dense_heads += head.dense;
        }
        return r;
    }
};

template <class Arch, class T, class Label>
result sparse(const problem& p, const sparq::kv_view<T, Label>& view) {
    recorder to(p);
    sparq::sparq_attention<Arch>(p.q, view, params, to.out, {.report = &to.report});
    return to.take();
}

template <class Arch, class T>
result dense(const problem& p, const sparq::kv_view<T>& view) {
    recorder to(p);
    sparq::dense_attention<Arch>(p.q, view, to.out, {.report = &to.report});
    return to.take();
}

template <class Plan>
void run_on_threads(const Plan& plan) {
    constexpr std::size_t threads = 3;
    std::barrier all(std::ptrdiff_t{threads});
    std::vector<std::thread> pool;
    for (std::size_t i = 0; i < threads; ++i)
        pool.emplace_back([&, i] { plan.run(i, threads, [&all] { all.arrive_and_wait(); }); });
    for (std::thread& thread : pool) thread.join();
}

template <class Arch, class T>
result planned(const problem& p, const sparq::kv_view<T>& view) {
    recorder to(p);
    run_on_threads(sparq::plan_sparq<Arch>(p.q, view, params, to.out, {.report = &to.report}));
    return to.take();
}

/// K and V of a problem as an engine owns them.
template <class T>
struct engine_memory {
    std::vector<T> keys, values;

    explicit engine_memory(const problem& p) {
        for (const float x : p.keys) keys.push_back(T(x));
        for (const float x : p.values) values.push_back(T(x));
    }
    [[nodiscard]] sparq::strided_kv<T> rows(const problem& p) const {
        sparq::strided_kv<T> engine;
        engine.keys = keys.data();
        engine.values = values.data();
        engine.heads_kv = p.heads_kv;
        engine.head_dim = engine.key_head_stride = p.head_dim;
        engine.value_dim = engine.value_head_stride = p.value_dim;
        engine.cells = p.seq_len;
        engine.key_token_stride = p.heads_kv * p.head_dim;
        engine.value_token_stride = p.heads_kv * p.value_dim;
        return engine;
    }
};

template <class Arch, class T>
result labelled(const problem& p) {
    const engine_memory<T> memory(p);
    const sparq::strided_kv<T> engine = memory.rows(p);
    sparq::key_labels<T> labels(p.heads_kv, p.head_dim, p.value_dim);
    labels.template append<Arch>(engine, p.seq_len - 1);
    labels.template append<Arch>(engine, 1);
    labels.template rewrite<Arch>(engine, 3);
    const std::vector<sparq::token_range> visible{{0, p.seq_len / 3}, {p.seq_len / 2, p.seq_len}};
    sparq::kv_view_storage<T> storage;
    return sparse<Arch>(p, labels.template view<Arch>(engine, visible, storage));
}

/// Dense attention over an engine's rows, where chunks depend on the instruction set.
template <class Arch, class T>
result dense_beside(const problem& p) {
    const engine_memory<T> memory(p);
    const sparq::token_range all{0, p.seq_len};
    sparq::kv_view_storage<T> storage;
    return dense<Arch, T>(p, storage.assign(memory.rows(p), {&all, 1}));
}

/// Each element type with one kind of codes.
template <class T>
using codes_beside = std::conditional_t<
    std::is_same_v<T, float>, sparq::int8_label,
    std::conditional_t<std::is_same_v<T, sparq::half>, sparq::int2_label, sparq::int4_label>>;

template <class Arch, class T>
result coded(const problem& p) {
    return sparse<Arch>(p, make_cache<Arch, T, codes_beside<T>>(p).view());
}

template <class Arch, class T>
std::vector<result> attend_as(const problem& p) {
    const sparq::kv_cache<T> cache = make_cache<Arch, T>(p);
    return {sparse<Arch>(p, cache.view()),
            dense<Arch, T>(p, cache.view()),
            planned<Arch, T>(p, cache.view()),
            labelled<Arch, T>(p),
            coded<Arch, T>(p),
            dense_beside<Arch, T>(p)};
}

template <class Arch>
std::vector<result> attend_on(const problem& p, element type) {
    if (type == element::float_) return attend_as<Arch, float>(p);
    if (type == element::half) return attend_as<Arch, sparq::half>(p);
    return attend_as<Arch, sparq::bfloat16>(p);
}

}  // namespace
}  // namespace dispatch_calls
