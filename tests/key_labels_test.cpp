// SPDX-License-Identifier: MIT
// key_labels beside an engine's memory: after any history the same as made afresh.
#include "engine_memory.hpp"

namespace {

using sparq::half;
using sparq::key_labels;
using sparq::token_range;

const sparq::sparq_params params{
    .r = 9, .k = 33, .local = 7, .tail = sparq::tail_estimate::mean_value};

template <class T, class Label>
test::answer answer_of(const test::problem& p, const test::engine_memory<T>& memory,
                       key_labels<T, Label>& labels, const std::vector<token_range>& visible) {
    sparq::kv_view_storage<T, Label> storage;
    const auto part = test::visible_part(p, visible);
    const auto view = labels.view(memory.template strided<Label>(), visible, storage);
    CHECK(test::check_sparq(part, view, params) == "");
    CHECK(test::check_dense(part, view) == "");
    return test::run_sparq(part, view, params);
}

}  // namespace

TEST_CASE("labels beside an engine's cells equal those of a fresh build", "[key_labels]") {
    const std::uint64_t seed = 111;
    test::random_source source(seed);
    INFO("seed " << seed);
    for (size_t types = 0; types < 3; ++types)
        test::with_few_types(types, [&]<class T, class Label>() {
            test::problem p = test::make_problem({2, 2, 24, 20, 700}, seed + types);
            const test::problem other = test::make_problem({2, 2, 24, 20, 700}, seed + 50 + types);
            test::engine_memory<T> memory(p.dims, 1024);
            key_labels<T, Label> labels(2, 24, 20);
            size_t size = 0;
            const auto append = [&](size_t n, const test::problem& from) {
                for (size_t t = size; t < size + n; ++t) memory.write(t, from, t);
                labels.append(memory.template strided<Label>(), n);
                size += n;
            };
            append(1, p);
            append(200, p);
            append(63, other);
            labels.truncate(201);  // the engine drops a rejected draft
            size = 201;
            append(700 - 201, p);
            CHECK(labels.size() == 700);
            answer_of(p, memory, labels, {{0, 700}});  // nothing of the draft is left
            for (int i = 0; i < 40; ++i) {             // and writes single cells anew
                const size_t cell = source.below(700);
                for (size_t c = 0; c < 2 * 24; ++c)
                    p.keys[cell * 48 + c] = other.keys[cell * 48 + c];
                for (size_t c = 0; c < 2 * 20; ++c)
                    p.values[cell * 40 + c] = other.values[cell * 40 + c];
                memory.write(cell, p, cell);
                labels.rewrite(memory.template strided<Label>(), cell);
            }
            key_labels<T, Label> fresh(2, 24, 20);
            fresh.append(memory.template strided<Label>(), 700);
            const std::vector<std::vector<token_range>> cases{{{0, 700}},
                                                              {{0, 699}},
                                                              {{64, 700}},
                                                              {{3, 60}, {100, 128}, {300, 650}},
                                                              {{699, 700}}};
            for (const auto& visible : cases) {
                INFO("types " << types << ", first " << visible[0].begin);
                CHECK(test::same_answer(answer_of(p, memory, labels, visible),
                                        answer_of(p, memory, fresh, visible)));
            }
        });
}

TEST_CASE("labels cleared and truncated to nothing start again", "[key_labels]") {
    const test::problem p = test::make_problem({1, 1, 16, 16, 300}, 112);
    test::engine_memory<half> memory(p.dims, 300);
    for (size_t t = 0; t < 300; ++t) memory.write(t, p, t);
    key_labels<half> labels(1, 16, 16);
    labels.append(memory.strided(), 300);
    const auto want = answer_of(p, memory, labels, {{0, 300}});
    labels.clear();
    CHECK(labels.size() == 0);
    labels.append(memory.strided(), 300);
    CHECK(test::same_answer(answer_of(p, memory, labels, {{0, 300}}), want));
    labels.truncate(0);
    labels.append(memory.strided(), 123);
    labels.append(memory.strided(), 177);
    CHECK(test::same_answer(answer_of(p, memory, labels, {{0, 300}}), want));
}

TEST_CASE("a rewritten cell's labels are what the scan sees", "[key_labels]") {
    // A key made to win: chosen only if its labels were rewritten in the d_h-major copy.
    test::problem p = test::make_problem({1, 1, 16, 16, 256}, 113);
    test::engine_memory<float> memory(p.dims, 256);
    for (size_t t = 0; t < 256; ++t) memory.write(t, p, t);
    key_labels<float> labels(1, 16, 16);
    labels.append(memory.strided(), 256);
    for (size_t cell : test::sizes{0, 63, 64, 130, 255}) {
        for (size_t c = 0; c < 16; ++c) p.keys[cell * 16 + c] = 9.0f * p.q[c];
        memory.write(cell, p, cell);
        labels.rewrite(memory.strided(), cell);
        sparq::kv_view_storage<float> storage;
        const std::vector<token_range> all{{0, 256}};
        const auto a = test::run_sparq(p, labels.view(memory.strided(), all, storage),
                                       {.r = 8, .k = 6, .local = 0});
        CHECK(std::count(a.report.tokens.begin(), a.report.tokens.end(), cell) == 1);
    }
}

TEST_CASE("a view without sums of the values answers the same", "[key_labels]") {
    const test::problem p = test::make_problem({2, 2, 16, 16, 300}, 114);
    test::engine_memory<half> memory(p.dims, 300);
    for (size_t t = 0; t < 300; ++t) memory.write(t, p, t);
    key_labels<half> labels(2, 16, 16);
    labels.append(memory.strided(), 300);
    const std::vector<token_range> visible{{3, 100}, {128, 300}};
    const auto part = test::visible_part(p, visible);
    sparq::kv_view_storage<half> with_storage, without_storage;
    const auto with = labels.view(memory.strided(), visible, with_storage);
    const auto without = labels.view(memory.strided(), visible, without_storage, false);
    CHECK(with.value_sum(1) != nullptr);
    CHECK(without.value_sum(1) == nullptr);
    // Without a tail the sums are not read: the same bits. With one they are made from V.
    auto no_tail = params;
    no_tail.tail = sparq::tail_estimate::none;
    CHECK(test::same_answer(test::run_sparq(part, without, no_tail),
                            test::run_sparq(part, with, no_tail)));
    CHECK(test::check_sparq(part, without, params) == "");
}
