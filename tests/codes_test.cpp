// SPDX-License-Identifier: MIT
// Labels of few bits: the codes and ranges of a cache, and scans of them, against double
// precision.
#include <cmath>

#include <sparq/steps/approximate_scores.hpp>

#include "problem.hpp"

namespace {

using sparq::code_range;
using sparq::half;
using sparq::kv_cache;
using sparq::kv_view;
using test::quick;
using test::shape;

/// Calls body<T, Label>() for the n-th pair of types with coded labels, counted round.
template <class Body>
void with_code_types(size_t n, const Body& body) {
    if (n % 5 == 0) body.template operator()<half, sparq::int2_label>();
    if (n % 5 == 1) body.template operator()<half, sparq::int4_label>();
    if (n % 5 == 2) body.template operator()<half, sparq::int8_label>();
    if (n % 5 == 3) body.template operator()<float, sparq::int2_label>();
    if (n % 5 == 4) body.template operator()<sparq::bfloat16, sparq::int4_label>();
}

/// A channel of a strip in double: the keys, and how many of the first have no say.
struct column {
    std::vector<double> keys;
    size_t skipped = 0;
};

/// Distance of neighbouring halves around x.
double half_step(double x) {
    int exponent = 0;
    std::frexp(std::max(std::abs(x), 0x1p-14), &exponent);
    return std::ldexp(1.0, exponent - 11);
}

/// Whether the range reaches from the least to the greatest key, by directed rounding.
std::string check_reach(double least, double greatest, double codes, const code_range& range) {
    const double minimum = test::decode(range.minimum), width = test::decode(range.width);
    if (!(minimum <= least && minimum >= least - half_step(least))) return "minimum";
    const double reach = (greatest - minimum) / codes;
    if (!(width >= reach * (1 - 1e-6) && width <= reach + 1.001 * half_step(reach))) return "width";
    return {};
}

/// Whether the range is that of the channel; "" if so.
template <class Label>
std::string check_range(const column& c, const code_range& range) {
    const double minimum = test::decode(range.minimum), width = test::decode(range.width);
    double sum = 0, least = INFINITY, greatest = -INFINITY;
    const double n = static_cast<double>(c.keys.size() - c.skipped);
    for (size_t t = c.skipped; t < c.keys.size(); ++t) {
        sum += c.keys[t];
        least = std::min(least, c.keys[t]);
        greatest = std::max(greatest, c.keys[t]);
    }
    const double codes = std::ldexp(1.0, Label::bits);
    if (Label::bits > 2) return check_reach(least, greatest, codes, range);
    double squares = 0;
    for (size_t t = c.skipped; t < c.keys.size(); ++t) squares += std::pow(c.keys[t] - sum / n, 2);
    const double deviation = std::sqrt(squares / n);
    // A float sum of n terms about the first key, then a rounding to half.
    const double noise = n * 0x1p-22 * (std::abs(greatest) + std::abs(least) + deviation);
    const double far = (greatest - least) / 4 - 1.7 * deviation;
    // Where float may see the other side, either will do.
    if (far > -2 * noise && check_reach(least, greatest, codes, range).empty()) return {};
    if (far > 2 * noise) return "reach";
    if (std::abs(width - deviation) > 0.5 * half_step(deviation) + noise) return "width";
    const double low = sum / n - 2 * width;
    if (std::abs(minimum - low) > 0.5 * half_step(low) + noise) return "minimum";
    return {};
}

/// Whether what a code stands for is as near to the key as the labels promise. Halves of the
/// range, rounded to nearest at 2 bits, may leave a key outside.
template <class Label>
bool is_near(unsigned code, double key, const code_range& range) {
    const double minimum = test::decode(range.minimum), width = test::decode(range.width);
    const double distance = std::abs(key - (minimum + (code + 0.5) * width));
    const double slack = half_step(key) + 4 * half_step(width);
    const bool is_far = std::abs(key - (minimum + 2 * width)) > 2 * width;
    return distance <= (Label::bits == 2 && is_far ? 5.3 : 0.5) * width + slack;
}

/// Whether a code is the key's, given the stored range.
template <class Label>
bool is_code_of(unsigned code, double key, const code_range& range) {
    const double minimum = test::decode(range.minimum), width = test::decode(range.width);
    const double greatest = std::ldexp(1.0, Label::bits) - 1;
    if (width == 0) return code == 0;
    const double place = (key - minimum) / width;
    // Where float may see the other side of a step.
    const double slack = 0x1p-21 * (std::abs(place) + 1 + std::abs(minimum) / width);
    const double low = std::clamp(std::floor(place - slack), 0.0, greatest);
    const double high = std::clamp(std::floor(place + slack), 0.0, greatest);
    return low <= code && code <= high;
}

/// Every strip of the view: its length, ranges and codes; "" if they are those of the keys.
template <class T, class Label>
std::string check_codes(const test::problem& p, const kv_view<T, Label>& view) {
    const shape& d = p.dims;
    for (size_t g = 0; g < d.heads_kv; ++g) {
        size_t before = 0;
        for (size_t s = 0; s < view.segments_per_head(); ++s) {
            const auto& part = view.segment(s, g);
            std::string wrong;
            size_t end = 0;
            sparq::for_code_strips(
                part, 0, part.labelled, d.head_dim, [&](const auto& strip, size_t first, size_t n) {
                    if (first != 0 || n != strip.tokens || strip.begin != end) wrong = "strip";
                    end += n;
                    if (n != (strip.begin < part.closed ? 512u : 64u)) wrong = "length";
                    for (size_t c = 0; c < d.head_dim && wrong.empty(); ++c) {
                        column keys;
                        const size_t token = before + strip.begin;
                        keys.skipped = token < 4 ? 4 - token : 0;
                        for (size_t t = 0; t < n; ++t)
                            keys.keys.push_back(test::nearest<T>(
                                p.keys[((token + t) * d.heads_kv + g) * d.head_dim + c]));
                        wrong = check_range<Label>(keys, strip.ranges[c]);
                        const Label* codes = strip.codes + c * strip.channel_stride;
                        for (size_t t = 0; t < n && wrong.empty(); ++t) {
                            const unsigned code = sparq::code_at(codes, t);
                            if (!is_code_of<Label>(code, keys.keys[t], strip.ranges[c]))
                                wrong = "code of token " + std::to_string(token + t);
                            if (t >= keys.skipped &&
                                !is_near<Label>(code, keys.keys[t], strip.ranges[c]))
                                wrong = "distance of token " + std::to_string(token + t);
                        }
                    }
                });
            if (end != part.labelled) wrong = "labelled";
            // Fewer than a block and the head's lag are left to their rows.
            if (s + 1 == view.segments_per_head() && part.tokens - part.labelled >= 128)
                wrong = "too few labelled";
            if (s + 1 < view.segments_per_head() && part.labelled + 128 < part.tokens)
                wrong = "too few labelled in the middle";
            if (part.closed != part.labelled / 512 * 512) wrong = "closed";
            if (!wrong.empty())
                return wrong + " in segment " + std::to_string(s) + ", head " + std::to_string(g);
            before += part.tokens;
        }
    }
    return {};
}

template <class T, class Label>
kv_cache<T, Label> coded_cache(const test::problem& p, size_t end) {
    kv_cache<T, Label> cache(p.dims.heads_kv, p.dims.head_dim, p.dims.value_dim);
    cache.template append<test::arch>(
        test::rows(p.keys, p.dims.heads_kv * p.dims.head_dim, 0, end),
        test::rows(p.values, p.dims.heads_kv * p.dims.value_dim, 0, end));
    return cache;
}

/// Keys with channels of different mean and spread, as real ones have; a third of them with a
/// few keys that lie far out, on one side.
test::problem coded_problem(const shape& dims, std::uint64_t seed) {
    test::problem p = test::make_problem(dims, seed);
    for (size_t i = 0; i < p.keys.size(); ++i) {
        const size_t c = i % dims.head_dim, t = i / (dims.head_dim * dims.heads_kv);
        if (c % 3 == 2 && t % 59 == 7) p.keys[i] = 9.0f + std::abs(p.keys[i]);
        p.keys[i] = p.keys[i] * std::ldexp(1.0f, static_cast<int>(c % 7) - 3) +
                    static_cast<float>(c % 5) - 2.0f;
    }
    // The sinks are outliers.
    for (size_t i = 0; i < std::min(p.keys.size(), 4 * dims.heads_kv * dims.head_dim); ++i)
        p.keys[i] *= 20.0f;
    return p;
}

/// One head's logits from codes (or rows where there are none), and how far off they may be.
template <class T, class Label>
void reference_scan(const test::problem& p, const kv_view<T, Label>& view, size_t g, size_t h,
                    const std::vector<std::uint32_t>& components, float inverse_tau,
                    std::vector<double>& logits, std::vector<double>& limits) {
    const shape& d = p.dims;
    const float* q = p.q.data() + (g * d.group + h) * d.head_dim;
    for (size_t s = 0; s < view.segments_per_head(); ++s) {
        const auto& part = view.segment(s, g);
        const auto add = [&](size_t token, const auto& value, const auto& spread) {
            (void)token;
            double logit = 0, size = 0, step = 0;
            for (const std::uint32_t c : components) {
                const double w = static_cast<double>(q[c] * inverse_tau);
                logit += w * value(c);
                size += std::abs(w) * (std::abs(value(c)) + 4 * spread(c));
                step = std::max(step, std::abs(w) * spread(c));
            }
            // Entries: the largest pair's (or channel's) span in 127 steps, of which each
            // entry may be off by 0.52; codes of 8 bits: weights in 32767 steps.
            const double r = static_cast<double>(components.size());
            const double codes = std::ldexp(1.0, Label::bits) - 1;
            const double entries = Label::bits == 8   ? r * 255 * 0.51 * step / 32767
                                   : Label::bits == 4 ? r * 0.52 * codes * step / 127
                                                      : (r + 1) / 2 * 0.52 * 2 * codes * step / 127;
            logits.push_back(logit);
            limits.push_back(entries + size * (r + 300) * 0x1p-23);
        };
        sparq::for_code_strips(
            part, 0, part.labelled, d.head_dim, [&](const auto& strip, size_t first, size_t n) {
                for (size_t t = first; t < first + n; ++t) {
                    const size_t token = strip.begin + t - part.offset;
                    if (s == 0 && token < 4) {  // the sinks, from their rows
                        add(
                            token,
                            [&](std::uint32_t c) {
                                return test::decode(part.keys[token * part.key_stride + c]);
                            },
                            [](std::uint32_t) { return 0.0; });
                        continue;
                    }
                    add(
                        t,
                        [&](std::uint32_t c) {
                            const unsigned code =
                                sparq::code_at(strip.codes + c * strip.channel_stride, t);
                            return test::decode(strip.ranges[c].minimum) +
                                   (code + 0.5) * test::decode(strip.ranges[c].width);
                        },
                        [&](std::uint32_t c) { return test::decode(strip.ranges[c].width); });
                }
            });
        for (size_t t = part.labelled; t < part.tokens; ++t)
            add(
                t,
                [&](std::uint32_t c) { return test::decode(part.keys[t * part.key_stride + c]); },
                [](std::uint32_t) { return 0.0; });
    }
}

template <class T, class Label>
std::string check_scan(const test::problem& p, const kv_view<T, Label>& view, size_t r) {
    const shape& d = p.dims;
    const size_t n = view.seq_len();
    for (size_t g = 0; g < d.heads_kv; ++g) {
        const std::span<const float> q(p.q.data() + g * d.group * d.head_dim, d.group * d.head_dim);
        std::vector<std::uint32_t> components(r);
        sparq::choose_components<test::arch>(q, d.group, components);
        const std::vector<float> inverse_tau(d.group, 0.37f);
        std::vector<float> logits(d.group * n), lse(d.group);
        sparq::approximate_scores<test::arch>(view, g, q, components, inverse_tau, logits, lse);
        for (size_t h = 0; h < d.group; ++h) {
            std::vector<double> want, limits;
            reference_scan(p, view, g, h, components, 0.37f, want, limits);
            const std::string wrong =
                test::outside(logits.data() + h * n, want.data(), limits.data(), n);
            if (!wrong.empty())
                return "head " + std::to_string(g) + "." + std::to_string(h) + ": " + wrong;
        }
    }
    return {};
}

}  // namespace

TEST_CASE("codes and ranges are those of the keys", "[codes]") {
    size_t n = 0;
    for (size_t seq_len : test::sizes{1, 63, 64, 65, 127, 128, 255, 256, 257, 320, 511, 513, 575,
                                      800, 1023, 1024, 1600, 2113})
        for (size_t head_dim : test::sizes{1, 8, 13, 40, 128}) {
            const test::problem p = coded_problem({1 + n % 3, 1, head_dim, 3, seq_len}, 300 + n);
            INFO(p.dims << ", seed " << p.seed);
            with_code_types(n, [&]<class T, class Label>() {
                CHECK(check_codes(p, coded_cache<T, Label>(p, seq_len).view()) == "");
            });
            ++n;
        }
}

TEST_CASE("a scan of codes is within its bound", "[codes]") {
    size_t n = 0;
    for (size_t seq_len : test::sizes{1, 64, 127, 300, 700, 1100, 1900, 8700})
        for (size_t group : test::sizes{1, 2, 3, 4, 7, 8, 9}) {
            if (quick && seq_len > 2000 && group != 1 && group != 4) {
                ++n;
                continue;
            }
            const size_t head_dim = n % 6 == 5 ? 300 : 1 + n * 11 % 140;
            const test::problem p =
                coded_problem({1 + n % 2, group, head_dim, 2, seq_len}, 400 + n);
            const size_t r = 1 + n * 7 % head_dim;
            INFO(p.dims << ", r " << r << ", seed " << p.seed);
            with_code_types(n, [&]<class T, class Label>() {
                CHECK(check_scan(p, coded_cache<T, Label>(p, seq_len).view(), r) == "");
            });
            ++n;
        }
}

TEST_CASE("codes depend on the tokens only, not on appends and truncates", "[codes]") {
    const size_t seq_len = 2400;
    const std::uint64_t seed = 500;
    test::random_source source(seed);
    const test::problem p = coded_problem({3, 2, 24, 8, seq_len}, seed);
    const sparq::sparq_params params{.r = 9, .k = 33, .local = 7};
    // Five rounds have every pair of types.
    for (size_t round = 0; round < (quick ? 5u : 10u); ++round)
        with_code_types(round, [&]<class T, class Label>() {
            auto cache = coded_cache<T, Label>(p, 1 + source.below(seq_len));
            for (size_t step = 0; step < 30; ++step) {
                const size_t keep = source.below(cache.seq_len() + 1);
                cache.template truncate<test::arch>(keep);
                const size_t most = step % 2 == 0 ? 70 : seq_len;
                const size_t end = std::min(seq_len, keep + 1 + source.below(most));
                if (end > keep)
                    cache.template append<test::arch>(test::rows(p.keys, 3 * 24, keep, end),
                                                      test::rows(p.values, 3 * 8, keep, end));
                INFO("seed " << seed << ", round " << round << ", step " << step << ", keep "
                             << keep << ", end " << end);
                CHECK(check_codes(p, cache.view()) == "");
                test::problem part = p;
                part.dims.seq_len = end;
                const auto run = [&](const kv_view<T, Label>& view) {
                    test::answer a;
                    a.out.assign(6 * 8, -1.0f);
                    a.report.keep_tokens = true;
                    sparq::call_options options;
                    options.report = &a.report;
                    sparq::sparq_attention<test::arch>(p.q, view, params, a.out, options);
                    return a;
                };
                if (step % 5 == 0)
                    CHECK(test::same_answer(run(cache.view()),
                                            run(coded_cache<T, Label>(p, end).view())));
            }
        });
}

TEST_CASE("codes of 2 bits reach far keys", "[codes]") {
    // Keys of +-1 and, in channel 1, one that lies too far out for codes by deviations, in
    // channel 2 one that does not.
    test::problem p = test::make_problem({1, 1, 3, 1, 640}, 550);
    for (size_t t = 0; t < 640; ++t) std::fill_n(&p.keys[t * 3], 3, t % 2 == 0 ? 1.0f : -1.0f);
    p.keys[100 * 3 + 1] = 16.0f;
    p.keys[100 * 3 + 2] = 5.0f;
    const auto cache = coded_cache<float, sparq::int2_label>(p, 640);
    const sparq::kv_view<float, sparq::int2_label> view = cache.view();
    const auto strip = sparq::code_strip_of(view.segment(0, 0), 0, 3);
    CHECK(strip.tokens == 512);
    CHECK(test::decode(strip.ranges[0].width) == 1.0);
    CHECK(test::decode(strip.ranges[0].minimum) == -2.0);
    CHECK(test::decode(strip.ranges[1].width) == 4.25);
    CHECK(test::decode(strip.ranges[1].minimum) == -1.0);
    CHECK(sparq::code_at(strip.codes + strip.channel_stride, 100) == 3);
    CHECK(sparq::code_at(strip.codes + strip.channel_stride, 101) == 0);
    CHECK(std::abs(test::decode(strip.ranges[2].width) - 1.02) < 0.01);
}

TEST_CASE("channels that are constant, huge or not finite", "[codes]") {
    test::problem p = coded_problem({1, 1, 6, 2, 700}, 600);
    for (size_t t = 0; t < 700; ++t) {
        p.keys[t * 6 + 0] = 1.5f;                         // exact in half
        p.keys[t * 6 + 1] = 0.1f;                         // not exact
        p.keys[t * 6 + 2] = t % 2 == 0 ? 3e38f : -3e38f;  // beyond half
        p.keys[t * 6 + 3] = 1e-30f;
    }
    p.keys[600 * 6 + 4] = INFINITY;
    p.keys[600 * 6 + 5] = NAN;
    const auto check = [&]<class Label>() {
        const auto cache = coded_cache<float, Label>(p, 700);
        const auto view = cache.view();
        for (size_t s = 0; s < view.segments_per_head(); ++s)
            sparq::for_code_strips(
                view.segment(s, 0), 0, view.segment(s, 0).labelled, 6,
                [&](const auto& strip, size_t, size_t n) {
                    const auto value = [&](size_t c, size_t t) {
                        return test::decode(strip.ranges[c].minimum) +
                               (sparq::code_at(strip.codes + c * strip.channel_stride, t) + 0.5) *
                                   test::decode(strip.ranges[c].width);
                    };
                    for (size_t t = 0; t < n; ++t) {
                        CHECK(value(0, t) == 1.5);
                        CHECK(std::abs(value(1, t) - 0.1) < 1e-4);
                        CHECK(std::isfinite(value(2, t)));
                        CHECK(std::abs(value(3, t)) < 1e-6);
                    }
                    const bool spoilt = s == 1 && strip.begin <= 88 && strip.begin + n > 88;
                    CHECK(std::isnan(test::decode(strip.ranges[4].minimum)) == spoilt);
                    CHECK(std::isnan(test::decode(strip.ranges[5].minimum)) == spoilt);
                });
    };
    check.operator()<sparq::int2_label>();
    check.operator()<sparq::int4_label>();
    check.operator()<sparq::int8_label>();
}

TEST_CASE("components may be ranked by magnitude times spread, without a temperature", "[codes]") {
    // Channel c has deviation 2^(c % 3) about a large mean; all of q is alike but for the sign.
    const size_t seq_len = 1500, head_dim = 24;
    test::problem p = test::make_problem({1, 2, head_dim, 4, seq_len}, 700);
    for (size_t i = 0; i < p.keys.size(); ++i)
        p.keys[i] = p.keys[i] * std::ldexp(1.0f, static_cast<int>(i % head_dim % 3)) + 10.0f;
    for (size_t i = 0; i < p.q.size(); ++i) p.q[i] = i % 2 == 0 ? 0.5f : -0.5f;
    p.q[0] = 0.51f;  // by magnitude alone channel 0 would be the first
    const auto check = [&]<class Label>() {
        const auto cache = coded_cache<float, Label>(p, seq_len);
        const sparq::sparq_params params{
            .r = 8,
            .k = 20,
            .local = 3,
            .components = sparq::component_ranking::magnitude_times_spread,
            .tau = sparq::temperature::none};
        test::answer a;
        a.out.assign(2 * 4, 0.0f);
        a.report.keep_tokens = true;
        sparq::call_options options;
        options.report = &a.report;
        sparq::sparq_attention<test::arch>(p.q, cache.view(), params, a.out, options);
        // The eight channels with c % 3 == 2, at the exact logits' temperature.
        const std::vector<std::uint32_t> widest{2, 5, 8, 11, 14, 17, 20, 23};
        const std::vector<float> scale(2, 1.0f / std::sqrt(float(head_dim)));
        std::vector<float> logits(2 * seq_len), lse(2), ranking(seq_len);
        sparq::approximate_scores<test::arch>(cache.view(), 0, p.q, widest, scale, logits, lse);
        sparq::rank_tokens<test::arch>(std::span<const float>(logits), std::span<const float>(lse),
                                       params.ranking, std::span(ranking));
        std::vector<std::uint32_t> tokens(20);
        sparq::select_tokens<test::arch>(std::span<const float>(ranking), 3, tokens);
        CHECK(a.report.tokens == tokens);
    };
    check.operator()<sparq::int2_label>();
    check.operator()<sparq::int4_label>();
    check.operator()<sparq::int8_label>();

    const auto plain = [&] {
        sparq::kv_cache<float> cache(1, head_dim, 4);
        cache.append<test::arch>(p.keys, p.values);
        return cache;
    }();
    std::vector<float> out(8);
    sparq::sparq_params params{.r = 4, .k = 9, .local = 1};
    params.components = sparq::component_ranking::magnitude_times_spread;
    CHECK_THROWS_AS(sparq::sparq_attention<test::arch>(p.q, plain.view(), params, out),
                    std::invalid_argument);
    params.components = static_cast<sparq::component_ranking>(2);
    const auto coded = coded_cache<float, sparq::int2_label>(p, 600);
    CHECK_THROWS_AS(sparq::sparq_attention<test::arch>(p.q, coded.view(), params, out),
                    std::invalid_argument);
    params = {.r = 4, .k = 9, .local = 1, .tau = static_cast<sparq::temperature>(2)};
    CHECK_THROWS_AS(sparq::sparq_attention<test::arch>(p.q, coded.view(), params, out),
                    std::invalid_argument);
}
