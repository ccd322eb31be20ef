// SPDX-License-Identifier: MIT
// Codes beside an engine's own K and V: after any history those that the cells ask for.
#include <cmath>
#include <stdexcept>

#include "engine_memory.hpp"

namespace {

using sparq::half;
using sparq::int2_label;
using sparq::int4_label;
using sparq::int8_label;
using sparq::key_labels;
using sparq::token_range;
using std::size_t;
using ranges = std::vector<token_range>;

const sparq::sparq_params params{.r = 9, .k = 33, .local = 7, .tail = sparq::tail_estimate::none};

/// Calls body<T, Label>() for the n-th pair of types with coded labels, counted round.
template <class Body>
void with_code_types(size_t n, const Body& body) {
    if (n % 4 == 0) body.template operator()<half, int2_label>();
    if (n % 4 == 1) body.template operator()<half, int4_label>();
    if (n % 4 == 2) body.template operator()<sparq::bfloat16, int8_label>();
    if (n % 4 == 3) body.template operator()<float, int2_label>();
}

template <class T, class Label>
using coded_engine = test::engine_beside<T, key_labels<T, Label>>;

template <class T, class Label>
test::answer answer_of(const test::problem& p, const sparq::kv_view<T, Label>& view,
                       const sparq::sparq_params& with = params) {
    test::answer a;
    a.out.assign(p.dims.heads_q() * p.dims.value_dim, -12345.0f);
    a.report.keep_tokens = true;
    sparq::call_options options;
    options.report = &a.report;
    sparq::sparq_attention<test::arch>(p.q, view, with, a.out, options);
    return a;
}

/// The codes of a view by their definition, in double: a strip is coded with the least and
/// greatest key (2 bits: mean and deviation) of all its cells but the first four, visible or
/// not; each code stands for its key within half a width where the range covers it.
template <class T, class Label>
std::string check_codes(const test::problem& p, const sparq::kv_view<T, Label>& view,
                        const ranges& visible) {
    const size_t d = p.dims.head_dim, heads = p.dims.heads_kv;
    for (size_t g = 0; g < heads; ++g) {
        size_t checked = 0, s = 0, cell = 0, end = 0, range = 0;
        for (; s < view.segments_per_head(); ++s) {
            const auto& part = view.segment(s, g);
            if (cell == end) cell = visible[range].begin, end = visible[range++].end;
            const auto key = [&](size_t at, size_t c) {
                return test::nearest<T>(double{p.keys[(at * heads + g) * d + c]});
            };
            std::string wrong;
            sparq::for_code_strips(
                part, 0, part.labelled, d, [&](const auto& strip, size_t first, size_t n) {
                    const size_t begin = cell - first;  // the strip's first cell
                    for (size_t c = 0; c < d; ++c) {
                        double least = INFINITY, greatest = -INFINITY, sum = 0, squares = 0;
                        const size_t from = std::max(begin, size_t{4});
                        const double count = static_cast<double>(begin + strip.tokens - from);
                        for (size_t t = from; t < begin + strip.tokens; ++t) {
                            least = std::min(least, key(t, c));
                            greatest = std::max(greatest, key(t, c));
                            sum += key(t, c) / count;
                        }
                        for (size_t t = from; t < begin + strip.tokens; ++t)
                            squares += std::pow(key(t, c) - sum, 2) / count;
                        const double width = test::decode(strip.ranges[c].width);
                        const double low = test::decode(strip.ranges[c].minimum);
                        const double size = std::max(std::abs(least), std::abs(greatest));
                        const bool two = Label::bits == 2;
                        const double want = two ? std::sqrt(squares)
                                                : (greatest - least) / std::ldexp(1, Label::bits);
                        // Ranges are halves: 2^-11 of each number, and of width what the
                        // rounding of the minimum adds.
                        if (!(std::abs(width - want) <= 0x1p-10 * (want + size / 4)))
                            wrong = "width";
                        if (!(std::abs(low - (two ? sum - 2 * want : least)) <=
                              0x1p-9 * (size + 2 * want)))
                            wrong = "minimum";
                        for (size_t t = 0; t < n; ++t) {
                            const double exact = key(cell + t, c);
                            const double code =
                                sparq::code_at(strip.codes + c * strip.channel_stride, first + t);
                            const double stands = low + (code + 0.5) * width;
                            const bool covered =
                                exact >= low && exact <= low + std::ldexp(width, Label::bits);
                            const double off = std::abs(exact - stands) - 0x1p-18 * size;
                            if (covered
                                    ? off > width / 2
                                    : code != (exact < low ? 0 : std::ldexp(1, Label::bits) - 1))
                                wrong = "code";
                            ++checked;
                        }
                    }
                    cell += n;
                });
            cell += part.tokens - part.labelled;
            if (!wrong.empty())
                return wrong + ", KV head " + std::to_string(g) + ", before cell " +
                       std::to_string(cell);
        }
        // Under 128 known cells are not coded, which is what the test's histories leave.
        if (visible.back().end > 300 && checked == 0) return "nothing is coded";
    }
    return {};
}

ranges some_ranges(test::random_source& source, size_t size) {
    ranges visible;
    for (size_t begin = source.below(std::min<size_t>(size, 90)); begin < size;) {
        const size_t end = std::min(size, begin + 1 + source.below(400));
        visible.push_back({begin, end});
        begin = end + 1 + source.below(60);
    }
    return visible;
}

}  // namespace

TEST_CASE("codes beside an engine's cells are those that the cells ask for", "[engine_codes]") {
    const size_t rounds = test::quick ? 4 : 8;
    for (size_t round = 0; round < rounds; ++round) {
        const std::uint64_t seed = 3100 + round;
        test::random_source source(seed);
        const test::shape dims{1 + round % 3, 2, round % 2 == 0 ? 24u : 17u, 12, 1900};
        const test::problem other = test::make_problem(dims, seed + 50, 1.0f);
        with_code_types(round, [&]<class T, class Label>() {
            coded_engine<T, Label> engine(test::make_problem(dims, seed));
            for (size_t step = 0; step < 24; ++step) {
                if (source.below(9) == 0) engine.codes.clear();
                size_t size = engine.codes.size();
                if (size != 0 && source.below(2) == 0) {
                    size -= source.below(step % 3 == 0 ? size : std::min(size, size_t{150}));
                    engine.codes.truncate(size);
                }
                if (size < dims.seq_len)
                    engine.append(1 + source.below(std::min<size_t>(dims.seq_len - size,
                                                                    step % 2 == 0 ? 900 : 120)));
                size = engine.codes.size();
                for (size_t i = source.below(6); i != 0; --i) {
                    const size_t cell = source.below(size);
                    engine.write(cell, other, source.below(dims.seq_len));
                    engine.tell(cell);
                }
                INFO("seed " << seed << ", step " << step << ", " << size << " cells, " << dims);
                sparq::kv_view_storage<T, Label> storage, fresh_storage;
                for (const ranges& visible : {ranges{{0, size}}, some_ranges(source, size)}) {
                    if (visible.empty()) continue;
                    const auto view = engine.view(visible, storage);
                    CHECK(check_codes(engine.p, view, visible) == "");
                    coded_engine<T, Label> fresh(engine.p);
                    fresh.append(size);
                    auto with = params;
                    with.tail = sparq::tail_estimate::mean_value;
                    CHECK(test::same_answer(
                        answer_of(engine.p, view, with),
                        answer_of(engine.p, fresh.view(visible, fresh_storage), with)));
                }
            }
        });
    }
}

TEST_CASE("codes beside an engine are a cache's where all cells are in sight", "[engine_codes]") {
    for (size_t n = 0; n < 8; ++n) {
        const size_t lengths[]{1, 63, 64, 127, 128, 700, 1100, 2300};
        const test::shape dims{1 + n % 3, 1 + n % 2, 33, 8, lengths[n]};
        const test::problem p = test::make_problem(dims, 3200 + n);
        INFO(p.dims << ", seed " << p.seed);
        with_code_types(n, [&]<class T, class Label>() {
            coded_engine<T, Label> engine(p);
            engine.append(dims.seq_len);
            sparq::kv_view_storage<T, Label> storage;
            sparq::kv_cache<T, Label> cache(dims.heads_kv, dims.head_dim, dims.value_dim);
            cache.template append<test::arch>(p.keys, p.values);
            CHECK(test::same_answer(answer_of(p, engine.view({{0, dims.seq_len}}, storage)),
                                    answer_of(p, cache.view())));
        });
    }
}

TEST_CASE("ranges of visible cells score as the same tokens of all", "[engine_codes]") {
    // A token's scanned logit depends on its strip only: with k above the visible tokens all
    // are attended, and the scan's weights say how.
    const test::problem p = test::make_problem({2, 3, 40, 8, 1400}, 3300);
    const ranges visible{{0, 3}, {70, 71}, {90, 600}, {640, 1030}, {1100, 1399}};
    const auto part = test::visible_part(p, visible);
    with_code_types(1, [&]<class T, class Label>() {
        coded_engine<T, Label> engine(p);
        engine.append(1400);
        sparq::kv_view_storage<T, Label> all_storage, storage;
        const auto all = engine.view({{0, 1400}}, all_storage);
        const auto some = engine.view(visible, storage);
        const std::vector<std::uint32_t> components{1, 4, 6, 20, 21, 39};
        const std::vector<float> tau{0.3f, 0.5f, 0.7f};
        for (size_t g = 0; g < 2; ++g) {
            const auto q = std::span(p.q).subspan(g * 120, 120);
            std::vector<float> of_all(3 * 1400), of_some(3 * part.dims.seq_len), lse(3);
            sparq::approximate_scores<test::arch>(all, g, q, components, tau, of_all, lse);
            sparq::approximate_scores<test::arch>(some, g, q, components, tau, of_some, lse);
            size_t different = 0;
            for (size_t h = 0; h < 3; ++h) {
                size_t t = 0;
                for (const auto& [begin, end] : visible)
                    for (size_t cell = begin; cell < end; ++cell, ++t)
                        different += of_all[h * 1400 + cell] != of_some[h * part.dims.seq_len + t];
            }
            CHECK(different == 0);
        }
    });
}

TEST_CASE("a cell is coded anew only when it was told of", "[engine_codes]") {
    // That the comparison above can fail: without rewrite() the code is the old key's.
    const test::problem p = test::make_problem({1, 1, 16, 16, 700}, 3400);
    const test::problem other = test::make_problem({1, 1, 16, 16, 700}, 3401);
    coded_engine<half, int8_label> engine(p);
    engine.append(700);
    sparq::kv_view_storage<half, int8_label> storage;
    const ranges all{{0, 700}};
    CHECK(check_codes(engine.p, engine.view(all, storage), all) == "");
    for (const size_t cell : test::sizes{100, 520}) {
        engine.write(cell, other, cell);
        CHECK(check_codes(engine.p, engine.view(all, storage), all) != "");
        engine.tell(cell);
        CHECK(check_codes(engine.p, engine.view(all, storage), all) == "");
    }
}

TEST_CASE("codes beside an engine refuse what labels refuse", "[engine_codes]") {
    const test::problem p = test::make_problem({2, 1, 16, 8, 300}, 3500);
    coded_engine<half, int4_label> engine(p);
    engine.append(200);
    sparq::kv_view_storage<half, int4_label> storage;
    const auto refuses = [](const auto& call) { CHECK_THROWS_AS(call(), std::invalid_argument); };
    refuses([&] { engine.tell(200); });
    refuses([&] { engine.append(0); });
    refuses([&] { engine.codes.append<test::arch>(engine.memory.strided(), 101); });
    refuses([&] { engine.codes.truncate(201); });
    refuses([&] { (void)engine.view({}, storage); });
    refuses([&] { (void)engine.view({{0, 201}}, storage); });
    refuses([&] { (void)engine.view({{5, 9}, {8, 20}}, storage); });
    auto fewer = engine.memory.strided();
    fewer.cells = 199;  // stale codes may need the row of any known cell
    const ranges visible{{0, 100}};
    refuses([&] { (void)engine.codes.view<test::arch>(fewer, visible, storage); });
    auto narrow = engine.memory.strided();
    narrow.head_dim = 15;
    refuses([&] { (void)engine.codes.view<test::arch>(narrow, visible, storage); });
    CHECK(engine.codes.size() == 200);
    CHECK(check_codes(p, engine.view({{0, 200}}, storage), {{0, 200}}) == "");
}
