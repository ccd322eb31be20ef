// SPDX-License-Identifier: MIT
// tier_codes beside an engine's own K and V: the codes of a tiered_cache, after any history, and
// views of some of the cells.
#include <cmath>
#include <stdexcept>

#include <sparq/tier_codes.hpp>

#include "engine_memory.hpp"
#include "tier_codes.hpp"

namespace {

using sparq::half;
using sparq::tiered_view;
using sparq::token_range;
using std::size_t;
using ranges = std::vector<token_range>;

template <class T>
using tiered_engine = test::engine_beside<T, sparq::tier_codes<T>>;

double relative(double got, double want) { return std::abs(got - want) / (std::abs(want) + 1e-30); }

bool same_moments(const sparq::channel_moments& a, const sparq::channel_moments& b, size_t d) {
    return test::same_bits({a.mean, d}, {b.mean, d}) &&
           test::same_bits({a.variance, d}, {b.variance, d}) &&
           test::same_bits({a.square_width, d}, {b.square_width, d});
}

/// Whether a view of all cells holds what a cache of the same tokens does: the same bits in
/// codes, ranges and moments, and sums up to the order of their additions in double.
template <class T>
std::string compare_with_cache(const tiered_view<T>& a, const tiered_view<T>& b) {
    const size_t d = a.head_dim(), pitch = a.code_row_pitch();
    const size_t key_bytes = (d + 31) / 32 * 16 + 4;
    if (a.seq_len() != b.seq_len()) return "seq_len";
    for (size_t g = 0; g < a.heads_kv(); ++g) {
        const auto& x = a.of_head(g);
        const auto& y = b.of_head(g);
        if (!same_moments(x.moments, y.moments, d)) return "moments";
        if (relative(x.value_squares, y.value_squares) > 1e-13) return "value_squares";
        for (size_t c = 0; c < a.value_dim(); ++c)
            if (std::abs(a.rows().value_sum(g)[c] - b.rows().value_sum(g)[c]) >
                1e-13 * (1 + std::sqrt(y.value_squares * static_cast<double>(a.seq_len()))))
                return "value_sum";
        if ((x.open_ranges == nullptr) != (y.open_ranges == nullptr)) return "no open_ranges";
        if (x.open_ranges != nullptr &&
            std::memcmp(x.open_ranges, y.open_ranges, d * sizeof(sparq::code_range)) != 0)
            return "open_ranges";
        const auto of_a = tier_codes::places(a, g), of_b = tier_codes::places(b, g);
        for (size_t t = 0; t < of_a.size(); ++t) {
            if (of_a[t].begin != of_b[t].begin || of_a[t].tokens != of_b[t].tokens) return "strips";
            if (of_a[t].labelled != of_b[t].labelled) return "labelled";
            for (size_t c = 0; of_a[t].labelled && c < d; ++c)
                if (tier_codes::scanned_key(a, g, of_a[t], c) !=
                    tier_codes::scanned_key(b, g, of_b[t], c))
                    return "2-bit code of token " + std::to_string(t);
            const size_t skipped = of_a[t].coded ? 0 : key_bytes;
            if (std::memcmp(a.code_rows(of_a[t].segment, g) + of_a[t].offset * pitch + skipped,
                            b.code_rows(of_b[t].segment, g) + of_b[t].offset * pitch + skipped,
                            pitch - skipped) != 0)
                return "code row of token " + std::to_string(t);
        }
    }
    return {};
}

/// A token of a view over ranges: the ranges of K's codes, and its codes decoded.
template <class T>
struct token_codes {
    const sparq::code_range* code_ranges;
    tier_codes::code_row row;
};

template <class T>
token_codes<T> codes_of(const tiered_view<T>& view, size_t g, size_t s, size_t t) {
    const auto& part = view.rows().segment(s, g);
    const size_t at = part.offset + t, length = at < part.closed ? 512 : 64;
    const bool labelled = t < part.labelled;
    token_codes<T> out{view.of_head(g).open_ranges, {}};
    if (labelled) out.code_ranges = part.ranges + at / length * view.head_dim();
    // As tier_codes::decode_row, with these ranges.
    const size_t d = view.head_dim(), v = view.value_dim();
    const size_t key_bytes = (d + 31) / 32 * 16, value_bytes = (v + 31) / 32 * 16;
    const std::uint8_t* row = view.code_rows(s, g) + t * (key_bytes + value_bytes + 8);
    const std::uint8_t* values = row + key_bytes + 4;
    out.row.key_minimum = tier_codes::half_at(row + key_bytes);
    out.row.key_step = tier_codes::half_at(row + key_bytes + 2);
    out.row.value_minimum = tier_codes::half_at(values + value_bytes);
    out.row.value_step = tier_codes::half_at(values + value_bytes + 2);
    for (size_t c = 0; out.code_ranges != nullptr && c < d; ++c) {
        const double spread = test::decode(out.code_ranges[c].width);
        out.row.key.push_back(
            test::decode(out.code_ranges[c].minimum) + 2 * spread +
            spread * (out.row.key_minimum + out.row.key_step * tier_codes::nibble(row, c)));
    }
    for (size_t c = 0; c < v; ++c)
        out.row.value.push_back(out.row.value_minimum +
                                out.row.value_step * tier_codes::nibble(values, c));
    return out;
}

/// Every visible token's codes and the sums, in double, from the engine's rows.
template <class T>
std::string check_view(const test::problem& p, const tiered_view<T>& view, const ranges& visible,
                       size_t cells) {
    const size_t d = p.dims.head_dim, v = p.dims.value_dim;
    for (size_t g = 0; g < p.dims.heads_kv; ++g) {
        const auto exact = tier_codes::rows_of<T>(p, g, cells);
        std::vector<double> sums(v);
        double squares = 0, size = 0;
        size_t s = 0, t = 0;
        for (const auto& [begin, end] : visible)
            for (size_t cell = begin; cell < end; ++cell, ++t) {
                if (t == view.rows().segment(s, g).tokens) ++s, t = 0;
                const auto got = codes_of(view, g, s, t);
                const std::string where = ", cell " + std::to_string(cell);
                for (size_t c = 0; c < v; ++c) {
                    const double x = exact.value(cell)[c];
                    // Half a step of the grid, and what halves make of its ends.
                    const double limit = got.row.value_step * 0.51 +
                                         0x1p-10 * std::abs(got.row.value_minimum) + 1e-6;
                    if (!(std::abs(got.row.value[c] - x) <= limit)) return "V" + where;
                    sums[c] += x;
                    squares += x * x;
                }
                size += test::norm(exact.value(cell), v);
                for (size_t c = 0; got.code_ranges != nullptr && c < d; ++c) {
                    const double spread = test::decode(got.code_ranges[c].width);
                    const double off = std::abs(got.row.key[c] - exact.key(cell)[c]);
                    const double limit = spread * (0.52 * got.row.key_step +
                                                   0x1p-9 * std::abs(got.row.key_minimum)) +
                                         0x1p-20 * std::abs(exact.key(cell)[c]);
                    if (!(off <= limit)) return "K, channel " + std::to_string(c) + where;
                }
            }
        const auto& head = view.of_head(g);
        if (relative(head.value_squares, squares) > 1e-5) return "value_squares";
        for (size_t c = 0; c < v; ++c)
            if (std::abs(view.rows().value_sum(g)[c] - sums[c]) > 1e-12 * size) return "value_sum";
    }
    return {};
}

ranges some_ranges(test::random_source& source, size_t size) {
    ranges visible;
    for (size_t begin = source.below(std::min<size_t>(size, 90)); begin < size;) {
        const size_t end = std::min(size, begin + 1 + source.below(700));
        visible.push_back({begin, end});
        begin = end + 1 + source.below(60);
    }
    return visible;
}

/// |y - y_dense| of the whole answer over |y_dense|, against dense attention in double over the
/// visible tokens.
template <class T>
double true_error(const test::problem& part, const test::answer& a) {
    double off = 0, all = 0;
    for (size_t g = 0; g < part.dims.heads_kv; ++g) {
        const auto h = test::reference_head<T, T>(part, g);
        for (size_t j = 0; j < part.dims.group; ++j) {
            std::vector<double> y(part.dims.value_dim);
            double total = 0;
            for (size_t t = 0; t < part.dims.seq_len; ++t) {
                double logit = 0;
                for (size_t c = 0; c < part.dims.head_dim; ++c)
                    logit += h.q[j * part.dims.head_dim + c] * h.keys[t * part.dims.head_dim + c];
                const double e = std::exp(logit / std::sqrt(double(part.dims.head_dim)));
                total += e;
                for (size_t c = 0; c < y.size(); ++c) y[c] += e * h.values[t * y.size() + c];
            }
            for (size_t c = 0; c < y.size(); ++c) {
                const double got = double{a.out[(g * part.dims.group + j) * y.size() + c]};
                off += std::pow(got - y[c] / total, 2);
                all += std::pow(y[c] / total, 2);
            }
        }
    }
    return std::sqrt(off / all);
}

}  // namespace

TEST_CASE("tiers beside an engine are a cache's where all cells are in sight", "[engine_tiers]") {
    size_t n = 0;
    for (size_t seq_len : test::sizes{1, 63, 64, 127, 200, 511, 513, 1100, 2300}) {
        const test::shape dims{1 + n % 3, 1 + n % 2, n % 2 == 0 ? 24u : 65u, 20, seq_len};
        const test::problem p = test::tier_problem(dims, 3600 + n, 3.0f);
        INFO(p.dims << ", seed " << p.seed);
        test::with_elements(n++, [&]<class T>() {
            tiered_engine<T> engine(p);
            engine.append(seq_len);
            sparq::tiered_view_storage<T> storage;
            const auto view = engine.view({{0, seq_len}}, storage);
            const auto cache = test::make_tiers<T>(p);
            CHECK(compare_with_cache(view, cache.view()) == "");
            for (const sparq::tiered_params params :
                 {sparq::tiered_params{.tolerance = 0.1f},
                  sparq::tiered_params{.refined = 100, .exact = 20}}) {
                const auto a = test::run_tiers(p, view, params);
                const auto b = test::run_tiers(p, cache.view(), params);
                CHECK(a.report.bytes_read == b.report.bytes_read);
                for (size_t i = 0; i < a.out.size(); ++i)
                    CHECK(std::abs(a.out[i] - b.out[i]) <= 2e-6f);
            }
        });
    }
}

TEST_CASE("tiers beside an engine follow any history", "[engine_tiers]") {
    const size_t rounds = test::quick ? 3 : 6;
    for (size_t round = 0; round < rounds; ++round) {
        const std::uint64_t seed = 3700 + round;
        test::random_source source(seed);
        const test::shape dims{1 + round % 3, 2, round % 2 == 0 ? 24u : 33u, 20, 2000};
        const test::problem other = test::tier_problem(dims, seed + 50);
        test::with_elements(round, [&]<class T>() {
            tiered_engine<T> engine(test::tier_problem(dims, seed, 3.0f));
            for (size_t step = 0; step < 24; ++step) {
                if (source.below(9) == 0) engine.codes.clear();
                size_t size = engine.codes.size();
                if (size != 0 && source.below(2) == 0) {
                    size -= source.below(step % 3 == 0 ? size + 1 : std::min(size, size_t{150}));
                    engine.codes.truncate(size);
                }
                if (size < dims.seq_len)
                    engine.append(1 + source.below(std::min<size_t>(dims.seq_len - size,
                                                                    step % 2 == 0 ? 900 : 120)));
                size = engine.codes.size();
                for (size_t i = source.below(6); i != 0; --i) {
                    // Near the end too, where cells have no labels.
                    const size_t cell = i % 2 == 0
                                            ? size - 1 - source.below(std::min<size_t>(size, 130))
                                            : source.below(size);
                    engine.write(cell, other, source.below(dims.seq_len));
                    engine.tell(cell);
                }
                INFO("seed " << seed << ", step " << step << ", " << size << " cells, " << dims);
                tiered_engine<T> fresh(engine.p);
                fresh.append(size);
                sparq::tiered_view_storage<T> storage, fresh_storage;
                for (const ranges& visible : {ranges{{0, size}}, some_ranges(source, size)}) {
                    if (visible.empty()) continue;
                    const auto view = engine.view(visible, storage);
                    const auto want = fresh.view(visible, fresh_storage);
                    const sparq::tiered_params params{.tolerance = 0.2f};
                    CHECK(test::same_tiers(test::run_tiers(engine.p, view, params),
                                           test::run_tiers(engine.p, want, params)));
                    const auto cache = test::make_tiers<T>(engine.p, size);
                    if (visible.size() == 1 && visible[0].end - visible[0].begin == size)
                        CHECK(compare_with_cache(view, cache.view()) == "");
                    for (size_t g = 0; g < dims.heads_kv; ++g)  // of all cells, whatever is visible
                        CHECK(same_moments(view.of_head(g).moments, cache.view().of_head(g).moments,
                                           dims.head_dim));
                    if (step % 3 == 2) CHECK(check_view(engine.p, view, visible, size) == "");
                }
            }
        });
    }
}

TEST_CASE("tiers beside a long history in an engine follow what is written anew",
          "[engine_tiers]") {
    const test::shape dims{2, 1, 24, 20, 9600};
    tiered_engine<half> engine(test::tier_problem(dims, 3760, 3.0f));
    const test::problem other = test::tier_problem(dims, 3761);
    sparq::tiered_view_storage<half> storage;
    size_t size = 9500;
    engine.append(size);
    const auto check = [&](const char* what) {
        INFO(what << ", " << size << " cells, seeds 3760 and 3761");
        CHECK(compare_with_cache(engine.view({{0, size}}, storage),
                                 test::make_tiers<half>(engine.p, size).view()) == "");
    };
    check("as appended");
    for (size_t cell : test::sizes{8300, 5000, 4095, 4096, 17, 9490}) {
        engine.write(cell, other, cell);
        engine.tell(cell);
        check("one cell written");
    }
    engine.codes.truncate(size = 6000);
    engine.write(4500, other, 3);
    engine.tell(4500);
    check("truncated, and one written");
    engine.append(3000);
    size += 3000;
    check("appended again");
}

TEST_CASE("tiers over ranges of cells keep to the tolerance", "[engine_tiers]") {
    // Few tokens with much of the weight, so that there is something to save; the visible cells
    // begin and end within blocks. With 8 seeds the root mean square of errors that are 0.7 of
    // the tolerance on average stays below it.
    double squares = 0;
    size_t saved = 0;
    for (std::uint64_t seed = 3800; seed < 3808; ++seed) {
        test::problem p = test::tier_problem({2, 2, 64, 32, 3000}, seed, 1.0f);
        tiered_engine<half> engine(p);
        engine.append(3000);
        const ranges visible{{2, 700}, {760, 1333}, {1340, 1341}, {1500, 2990}};
        sparq::tiered_view_storage<half> storage;
        const auto view = engine.view(visible, storage);
        CHECK(check_view(engine.p, view, visible, 3000) == "");
        const auto part = test::visible_part(p, visible);
        const auto a = test::run_tiers(part, view, {.tolerance = 0.1f});
        const auto dense = test::run_tiers_dense(part, view);
        CHECK(true_error<half>(part, dense) < 1e-4);
        squares += std::pow(true_error<half>(part, a), 2) / 8;
        saved += a.report.bytes_read < dense.report.bytes_read / 2;
        INFO("seed " << seed);
        const auto all = test::run_tiers(part, view, {.refined = 0, .exact = 2762});
        CHECK(true_error<half>(part, all) < 1e-4);
    }
    INFO("rms error " << std::sqrt(squares) << ", saved in " << saved << " of 8");
    CHECK(std::sqrt(squares) < 0.1);
    CHECK(saved == 8);
}

TEST_CASE("a cell's tiers are made anew only when it was told of", "[engine_tiers]") {
    // That the comparisons above can fail.
    const test::problem p = test::tier_problem({2, 1, 24, 20, 700}, 3900);
    const test::problem other = test::tier_problem({2, 1, 24, 20, 700}, 3901);
    tiered_engine<half> engine(p);
    engine.append(700);
    sparq::tiered_view_storage<half> storage;
    const ranges all{{0, 700}};
    for (const size_t cell : test::sizes{100, 600, 699}) {
        engine.write(cell, other, cell);
        CHECK(check_view(engine.p, engine.view(all, storage), all, 700) != "");
        engine.tell(cell);
        CHECK(check_view(engine.p, engine.view(all, storage), all, 700) == "");
    }
}

TEST_CASE("tiers beside an engine refuse what they cannot hold", "[engine_tiers]") {
    using codes_of_half = sparq::tier_codes<half>;
    CHECK_THROWS_AS(codes_of_half(0, 8, 8), std::invalid_argument);
    CHECK_THROWS_AS(codes_of_half(1, 0, 8), std::invalid_argument);
    CHECK_THROWS_AS(codes_of_half(1, 8, 0), std::invalid_argument);
    CHECK_THROWS_AS(codes_of_half(1, ~size_t{0} / 2, 8), std::invalid_argument);
    const test::problem p = test::tier_problem({2, 1, 24, 20, 300}, 3950);
    tiered_engine<half> engine(p);
    engine.append(200);
    sparq::tiered_view_storage<half> storage;
    const ranges all{{0, 200}};
    const auto refuses = [](const auto& call) { CHECK_THROWS_AS(call(), std::invalid_argument); };
    const auto with = [&](const auto& change) {
        auto rows = engine.memory.strided();
        change(rows);
        refuses([&] { (void)engine.codes.view<test::arch>(rows, all, storage); });
        refuses([&] { engine.codes.append<test::arch>(rows, 1); });
        refuses([&] { engine.codes.rewrite<test::arch>(rows, 7); });
    };
    with([](auto& rows) { rows.head_dim = 23; });
    with([](auto& rows) { rows.value_dim = 21; });
    with([](auto& rows) { rows.heads_kv = 1; });
    with([](auto& rows) { rows.keys = nullptr; });
    with([](auto& rows) { rows.value_token_stride = 19; });
    with([](auto& rows) { rows.cells = 199; });
    with([](auto& rows) {  // strides of a single cell's rows are not looked at
        rows.cells = 1;
        rows.key_token_stride = rows.value_token_stride = 0;
    });
    refuses([&] { engine.append(0); });
    refuses([&] { engine.codes.append<test::arch>(engine.memory.strided(), 101); });
    refuses([&] { engine.tell(200); });
    refuses([&] { engine.codes.truncate(201); });
    for (const ranges& wrong :
         {ranges{}, ranges{{0, 201}}, ranges{{5, 5}}, ranges{{9, 12}, {3, 5}}})
        refuses([&] { (void)engine.view(wrong, storage); });
    CHECK(engine.codes.size() == 200);
    CHECK(engine.codes.code_bytes() > 0);
    CHECK(compare_with_cache(engine.view(all, storage), test::make_tiers<half>(p, 200).view()) ==
          "");
}
