// SPDX-License-Identifier: MIT
// What a tiered_cache holds after any history: rows of codes, moments and sums against double
// precision, and the same bits as a cache that was filled at once.
#include "tier_codes.hpp"

namespace {

using sparq::half;
using sparq::tiered_cache;
using sparq::tiered_view;
using std::size_t;
using test::shape;
using tier_codes::half_step;

/// How far a channel's stored middle and width may be from the exact ones: rounded, at worst
/// down and up to the next halves.
double middle_error(const tier_codes::strip_moments& m, size_t c) {
    return 1.5 * half_step(m.middle[c] - 2 * m.width[c]) + 2 * half_step(m.width[c]);
}
double width_error(const tier_codes::strip_moments& m, size_t c) {
    return half_step(m.width[c]) + half_step(m.middle[c] - 2 * m.width[c]) / 4;
}

/// How far a decoded row may lie from the exact one, from what encoding does: a grid of 15
/// steps over the row's z = (key - middle) / width, moved by what halves make of the
/// channel's middle and width, the row's minimum and its step.
struct key_grid {
    double step = 0, slack = 0;
};

key_grid grid_of(const double* key, const tier_codes::strip_moments& m) {
    double low = INFINITY, high = -INFINITY, moved = 0;
    for (size_t c = 0; c < m.width.size(); ++c) {
        const double s = m.width[c];
        const double z = s > 0 ? (key[c] - m.middle[c]) / s : 0.0;
        low = std::min(low, z), high = std::max(high, z);
        if (s > 0)
            moved = std::max(moved, middle_error(m, c) / s +
                                        std::abs(z) * (width_error(m, c) / s + 0x1p-17) + 0x1p-17);
    }
    const double range = high - low;
    return {range / 15, 2 * moved + 0x1p-10 * (std::abs(low) + range) + 0x1p-24};
}

std::string check_key(const double* key, const tier_codes::strip_moments& m,
                      const tier_codes::code_row& row) {
    const key_grid grid = grid_of(key, m);
    if (std::abs(row.key_step - grid.step) > grid.slack / 7 + 0x1p-10 * grid.step)
        return "step of K is " + std::to_string(row.key_step) + ", not " +
               std::to_string(grid.step);
    for (size_t c = 0; c < m.width.size(); ++c) {
        const double s = m.width[c];
        const double limit = s * (grid.step / 2 * (1 + 0x1p-9) + 2 * grid.slack) +
                             middle_error(m, c) + 0x1p-22 * std::abs(key[c]);
        if (!(std::abs(row.key[c] - key[c]) <= limit))
            return "channel " + std::to_string(c) + " of K: " + std::to_string(row.key[c]) +
                   " for " + std::to_string(key[c]) + ", limit " + std::to_string(limit);
    }
    return {};
}

/// V: a grid of 14 steps over the row, begun a fraction of a step below its minimum. The
/// fraction is the token's: ((t + 1) * 3242174889 mod 2^32) / 2^32.
std::string check_value(const double* value, size_t width, size_t token,
                        const tier_codes::code_row& row) {
    const double low = *std::min_element(value, value + width);
    const double range = *std::max_element(value, value + width) - low;
    const double dither = static_cast<double>((token + 1) * 3242174889u % 0x100000000u) * 0x1p-32;
    const double minimum = low - dither * range / 14;
    const double off = 0.51 * half_step(minimum) + 0x1p-20 * (std::abs(low) + range);
    if (!(std::abs(row.value_minimum - minimum) <= off)) return "minimum of V";
    const double step_off = 0.51 * half_step(range / 14) + off / 14 + 0x1p-20 * range;
    if (!(std::abs(row.value_step - range / 14) <= step_off)) return "step of V";
    const double limit = row.value_step / 2 + off + 15 * step_off;
    for (size_t c = 0; c < width; ++c)
        if (!(std::abs(row.value[c] - value[c]) <= limit)) return "V, column " + std::to_string(c);
    return {};
}

using strip_list = std::vector<std::pair<size_t, tier_codes::strip_moments>>;

/// Means and variances are sums over the blocks of 64, each measured in float about its first
/// key; the squares of widths over the strips.
std::string check_moments(const strip_list& blocks, const strip_list& strips,
                          const sparq::channel_moments& got, size_t head_dim) {
    for (size_t c = 0; c < head_dim; ++c) {
        double n = 0, mean = 0, variance = 0, square_width = 0, span = 0, off = 0;
        for (const auto& block : blocks) n += static_cast<double>(block.first);
        for (const auto& [tokens, m] : blocks) mean += static_cast<double>(tokens) / n * m.mean[c];
        for (const auto& [tokens, m] : blocks) {
            const double from_mean = m.mean[c] - mean;
            variance += static_cast<double>(tokens) / n * (m.variance[c] + from_mean * from_mean);
            span = std::max(span, m.span[c] + std::abs(from_mean));
        }
        for (const auto& [tokens, m] : strips) {
            const double share = static_cast<double>(tokens) / n, error = width_error(m, c);
            square_width += share * m.width[c] * m.width[c];
            off += share * (2 * m.width[c] + error) * (error + 1e-5 * m.width[c]);
        }
        const double mean_off = 67 * 0x1p-23 * span + 0x1p-22 * std::abs(mean);
        const double variance_off =
            200 * 0x1p-23 * span * span + 2 * span * mean_off + 1e-12 * mean * mean;
        if (!(std::abs(double{got.mean[c]} - mean) <= mean_off)) return "mean";
        if (!(std::abs(double{got.variance[c]} - variance) <= variance_off)) return "variance";
        if (!(std::abs(double{got.square_width[c]} - square_width) <= off + 1e-6 * square_width))
            return "square_width";
    }
    return {};
}

template <class T>
std::string check_head(const test::problem& p, const tiered_view<T>& view, size_t g) {
    const auto exact = tier_codes::rows_of<T>(p, g, view.seq_len());
    const auto places = tier_codes::places(view, g);
    if (places.size() != view.seq_len()) return "seq_len";
    strip_list blocks, strips;
    double squares = 0;
    for (size_t t = 0; t < places.size(); ++t) {
        const tier_codes::place& at = places[t];
        if (at.labelled && at.begin == t)
            strips.emplace_back(at.tokens, exact.moments(at.begin, at.tokens));
        if (at.labelled && (t - at.begin) % 64 == 0) blocks.emplace_back(64, exact.moments(t, 64));
        const auto row = tier_codes::decode_row(view, g, at);
        std::string wrong = check_value(exact.value(t), p.dims.value_dim, t, row);
        // Open tokens follow the last strip, which is the last one in the list.
        if (wrong.empty() && at.coded) wrong = check_key(exact.key(t), strips.back().second, row);
        if (at.coded != (view.of_head(g).open_ranges != nullptr)) wrong = "open_ranges";
        if (!wrong.empty()) return wrong + ", token " + std::to_string(t);
        const double length = test::norm(exact.value(t), p.dims.value_dim);
        squares += length * length;
    }
    const double rounding = (static_cast<double>(p.dims.value_dim) + 4) * 0x1p-24;
    if (!(std::abs(view.of_head(g).value_squares - squares) <= rounding * squares))
        return "value_squares";
    return check_moments(blocks, strips, view.of_head(g).moments, p.dims.head_dim);
}

template <class T>
std::string check_storage(const test::problem& p, const tiered_view<T>& view) {
    for (size_t g = 0; g < p.dims.heads_kv; ++g) {
        const std::string wrong = check_head(p, view, g);
        if (!wrong.empty()) return wrong + ", KV head " + std::to_string(g);
    }
    return {};
}

bool same_floats(const float* a, const float* b, size_t n) {
    return test::same_bits({a, n}, {b, n});
}

/// Whether two caches of the same tokens hold the same codes, whatever their segments.
template <class T>
std::string compare(const tiered_view<T>& a, const tiered_view<T>& b) {
    const size_t d = a.head_dim(), pitch = a.code_row_pitch();
    const size_t key_bytes = (d + 31) / 32 * 16 + 4;
    if (a.seq_len() != b.seq_len()) return "seq_len";
    for (size_t g = 0; g < a.heads_kv(); ++g) {
        const auto& x = a.of_head(g);
        const auto& y = b.of_head(g);
        if (!same_floats(x.moments.mean, y.moments.mean, d)) return "mean";
        if (!same_floats(x.moments.variance, y.moments.variance, d)) return "variance";
        if (!same_floats(x.moments.square_width, y.moments.square_width, d)) return "square_width";
        if (x.value_squares != y.value_squares) return "value_squares";
        if ((x.open_ranges == nullptr) != (y.open_ranges == nullptr)) return "no open_ranges";
        if (x.open_ranges != nullptr &&
            std::memcmp(x.open_ranges, y.open_ranges, d * sizeof(sparq::code_range)) != 0)
            return "open_ranges";
        const auto of_a = tier_codes::places(a, g), of_b = tier_codes::places(b, g);
        for (size_t t = 0; t < of_a.size(); ++t) {
            if (of_a[t].begin != of_b[t].begin || of_a[t].tokens != of_b[t].tokens) return "strips";
            const size_t skipped = of_a[t].coded ? 0 : key_bytes;
            if (std::memcmp(a.code_rows(of_a[t].segment, g) + of_a[t].offset * pitch + skipped,
                            b.code_rows(of_b[t].segment, g) + of_b[t].offset * pitch + skipped,
                            pitch - skipped) != 0)
                return "code row of token " + std::to_string(t);
        }
    }
    return {};
}

}  // namespace

TEST_CASE("code rows, moments and sums are those of the rows", "[tier_codes]") {
    size_t n = 0;
    for (size_t seq_len :
         test::sizes{1, 3, 5, 63, 64, 65, 128, 130, 511, 512, 513, 640, 1100, 1600})
        for (size_t head_dim : test::sizes{1, 24, 64, 80, 128}) {
            const size_t value_dim = n % 2 == 0 ? head_dim : 1 + n * 17 % 130;
            const test::problem p =
                test::tier_problem({1 + n % 3, 1, head_dim, value_dim, seq_len}, 2100 + n);
            INFO(p.dims << ", seed " << p.seed);
            test::with_elements(n, [&]<class T>() {
                CHECK(check_storage(p, test::make_tiers<T>(p).view()) == "");
            });
            ++n;
        }
}

TEST_CASE("codes depend on the tokens only, not on the history", "[tier_codes]") {
    const size_t rounds = test::quick ? 3 : 9;
    for (size_t round = 0; round < rounds; ++round) {
        const std::uint64_t seed = 2300 + round;
        test::random_source source(seed);
        const shape dims{1 + round % 3, 2, round % 2 == 0 ? 24u : 65u, 20, 2300};
        const test::problem p = test::tier_problem(dims, seed);
        test::with_elements(round, [&]<class T>() {
            tiered_cache<T> cache(dims.heads_kv, dims.head_dim, dims.value_dim);
            if (round % 4 == 3) cache.reserve(1500);
            for (size_t step = 0; step < 25; ++step) {
                if (source.below(12) == 0) cache.clear();
                // Truncates near to the end, where strips open, and anywhere.
                const size_t len = cache.seq_len();
                const size_t drop =
                    source.below(step % 3 == 0 ? len + 1 : std::min(len + 1, size_t{90}));
                test::tier_calls<T>::truncate(cache, len - drop);
                const size_t begin = cache.seq_len();
                const size_t more = 1 + source.below(step % 4 == 0 ? dims.seq_len : 300);
                const size_t end = std::min(dims.seq_len, begin + more);
                for (size_t t = begin; t < end;) {  // in pieces
                    const size_t next = std::min(end, t + 1 + source.below(200));
                    test::append_tiers(cache, p, t, next);
                    t = next;
                }
                INFO("seed " << seed << ", step " << step << ", truncated to " << begin << ", end "
                             << end << ", " << dims);
                if (cache.seq_len() == 0) continue;
                const auto at_once = test::make_tiers<T>(p, cache.seq_len());
                CHECK(compare(cache.view(), at_once.view()) == "");
                const sparq::tiered_params params{.tolerance = 0.2f};
                CHECK(test::same_tiers(test::run_tiers(p, cache.view(), params),
                                       test::run_tiers(p, at_once.view(), params)));
                if (step % 6 == 5) CHECK(check_storage(p, cache.view()) == "");
            }
        });
    }
}

TEST_CASE("code rows follow a truncate to any length", "[tier_codes]") {
    const test::problem p = test::tier_problem({2, 1, 24, 24, 1200}, 2400);
    for (size_t n = 1; n < 1200; n += n < 660 ? 31 : 73) {
        auto cache = test::make_tiers<half>(p);
        test::tier_calls<half>::truncate(cache, n);
        INFO("truncated to " << n);
        CHECK(compare(cache.view(), test::make_tiers<half>(p, n).view()) == "");
        CHECK(check_storage(p, cache.view()) == "");
        // And other tokens may follow than there were.
        test::problem other = test::tier_problem({2, 1, 24, 24, 1200}, 2401);
        std::copy_n(p.keys.begin(), n * 48, other.keys.begin());
        std::copy_n(p.values.begin(), n * 48, other.values.begin());
        test::append_tiers(cache, other, n, 1200);
        CHECK(compare(cache.view(), test::make_tiers<half>(other).view()) == "");
    }
    auto cache = test::make_tiers<half>(p);
    test::tier_calls<half>::truncate(cache, 0);
    CHECK(cache.seq_len() == 0);
    test::append_tiers(cache, p, 0, 700);
    CHECK(compare(cache.view(), test::make_tiers<half>(p, 700).view()) == "");
}

TEST_CASE("moments follow a truncate of a long history", "[tier_codes]") {
    const size_t seq_len = 9300;
    const test::problem p = test::tier_problem({2, 1, 5, 3, seq_len}, 2420);
    for (size_t n : test::sizes{9216, 9100, 8705, 8200, 8192, 8190, 5000, 4097, 4095, 700}) {
        auto cache = test::make_tiers<half>(p);
        test::tier_calls<half>::truncate(cache, n);
        INFO("truncated to " << n);
        CHECK(compare(cache.view(), test::make_tiers<half>(p, n).view()) == "");
        test::append_tiers(cache, p, n, seq_len);
        CHECK(compare(cache.view(), test::make_tiers<half>(p).view()) == "");
    }
}

TEST_CASE("elements that are rounded already give the same cache", "[tier_codes]") {
    const test::problem p = test::tier_problem({2, 1, 24, 20, 700}, 2450);
    const auto rounded = [](const std::vector<float>& x) {
        std::vector<half> halves;
        for (float value : x) halves.emplace_back(value);
        return halves;
    };
    tiered_cache<half> cache(2, 24, 20);
    test::tier_calls<half>::append_rounded(cache, rounded(p.keys), rounded(p.values));
    CHECK(compare(cache.view(), test::make_tiers<half>(p).view()) == "");
}

TEST_CASE("codes of constant channels and constant values", "[tier_codes]") {
    test::problem p = test::tier_problem({1, 1, 6, 5, 700}, 2460);
    for (size_t t = 0; t < 700; ++t) {
        p.keys[t * 6] = 1.5f;
        p.keys[t * 6 + 1] = 0.1f;
        p.keys[t * 6 + 2] = 0.0f;
        if (t % 3 == 0) std::fill_n(p.values.begin() + static_cast<std::ptrdiff_t>(t * 5), 5, 0.3f);
        if (t % 3 == 1) std::fill_n(p.values.begin() + static_cast<std::ptrdiff_t>(t * 5), 5, 0.0f);
    }
    CHECK(check_storage(p, test::make_tiers<float>(p).view()) == "");
    CHECK(check_storage(p, test::make_tiers<half>(p).view()) == "");
    CHECK(check_storage(p, test::make_tiers<sparq::bfloat16>(p).view()) == "");
}

TEST_CASE("codes take a third of K and V at half", "[tier_codes]") {
    const size_t tokens = 8192;
    for (size_t head_dim : test::sizes{64, 128}) {
        tiered_cache<half> cache(1, head_dim);
        cache.reserve(tokens);
        const double rows = static_cast<double>(2 * tokens * head_dim * sizeof(half));
        const double share = static_cast<double>(cache.code_bytes()) / rows;
        // 2 + 4 + 4 bits of 32, 8 bytes of ranges a row, 4 bytes a channel and block of 64; and
        // the gaps between channels.
        const double d = static_cast<double>(head_dim);
        const double claimed = 10.0 / 32 + 8 / (4 * d) + 1.0 / 64;
        INFO("d_h " << head_dim << ": codes take " << share << " of K and V");
        CHECK(share >= claimed);
        CHECK(share <= claimed + 0.005);
        if (head_dim == 128) CHECK(share <= 0.348);
        const size_t before = cache.code_bytes(), capacity = cache.capacity();
        const test::problem p = test::make_problem({1, 1, head_dim, head_dim, 8000}, 2470);
        test::append_tiers(cache, p, 0, 8000);
        CHECK(cache.code_bytes() == before);
        CHECK(cache.capacity() == capacity);
    }
}

TEST_CASE("a tiered cache refuses what a cache refuses, and stays as it was", "[tier_codes]") {
    using cache_of_half = tiered_cache<half>;
    CHECK_THROWS_AS(cache_of_half(0, 8), std::invalid_argument);
    CHECK_THROWS_AS(cache_of_half(1, 0), std::invalid_argument);
    CHECK_THROWS_AS(cache_of_half(1, 8, 0), std::invalid_argument);
    CHECK_THROWS_AS(cache_of_half(1, ~size_t{0} / 2), std::invalid_argument);
    const test::problem p = test::tier_problem({2, 1, 24, 20, 300}, 2480);
    auto cache = test::make_tiers<half>(p);
    const auto first = [](const std::vector<float>& x, size_t n) { return std::span(x).first(n); };
    const auto append = [&](size_t keys, size_t values) {
        test::tier_calls<half>::append(cache, first(p.keys, keys), first(p.values, values));
    };
    CHECK_THROWS_AS(append(0, 0), std::invalid_argument);
    CHECK_THROWS_AS(append(47, 40), std::invalid_argument);
    CHECK_THROWS_AS(append(48, 39), std::invalid_argument);
    CHECK_THROWS_AS(append(96, 40), std::invalid_argument);
    CHECK_THROWS_AS(test::tier_calls<half>::truncate(cache, 301), std::invalid_argument);
    CHECK_THROWS_AS(cache.reserve(~size_t{0}), std::invalid_argument);
    CHECK(compare(cache.view(), test::make_tiers<half>(p).view()) == "");
}
