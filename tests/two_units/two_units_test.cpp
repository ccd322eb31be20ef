// SPDX-License-Identifier: MIT
// Units of different instruction sets in one program: each agrees with the reference, and
// the baseline unit runs no wider code (shared_symbols.py looks at that in the objects).
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <vector>

#include "../bounds.hpp"
#include "../numbers.hpp"
#include "../reference.hpp"
#include "unit.hpp"

namespace {

using attend_function = bool(const float*, const float*, const float*, std::size_t, std::size_t,
                             float*);
constexpr std::size_t seq_len = 700, row = units::heads_kv * units::dim,
                      out_size = units::heads_kv * units::group * units::dim;

struct data {
    std::vector<float> q = test::grid_normals(out_size, 301),
                       keys = test::normals(seq_len * row, 302),
                       values = test::normals(seq_len * row, 303);
};

reference::head head_of(const data& d, std::size_t g) {
    reference::head h{units::group, units::dim, units::dim, seq_len, {}, {}, {}, {}};
    for (std::size_t i = 0; i < units::group * units::dim; ++i)
        h.q.push_back(static_cast<double>(d.q[g * units::group * units::dim + i]));
    for (std::size_t t = 0; t < seq_len; ++t)
        for (std::size_t c = 0; c < units::dim; ++c) {
            h.keys.push_back(test::nearest<sparq::half>(
                static_cast<double>(d.keys[t * row + g * units::dim + c])));
            h.values.push_back(test::nearest<sparq::half>(
                static_cast<double>(d.values[t * row + g * units::dim + c])));
        }
    h.scanned = h.keys;
    return h;
}

void check(attend_function* attend, std::size_t r) {
    const data d;
    std::vector<float> out(out_size, -1.0f);
    CHECK(attend(d.q.data(), d.keys.data(), d.values.data(), seq_len, r, out.data()));
    for (std::size_t g = 0; g < units::heads_kv; ++g) {
        const reference::head h = head_of(d, g);
        const reference::settings s{r, units::k, units::local};
        const auto res = r == 0 ? reference::dense(h) : reference::sparq(h, s);
        const auto lim = r == 0 ? bounds::dense(h, res) : bounds::sparq(h, s, res);
        for (std::size_t i = 0; i < res.out.size(); ++i) {
            const double got = static_cast<double>(out[g * res.out.size() + i]);
            INFO("seeds 301 to 303, r " << r << ", KV head " << g << ", entry " << i);
            CHECK(std::abs(got - res.out[i]) <= lim.out[i]);
        }
    }
}

using tiers_function = void(const float*, const float*, const float*, std::size_t, float*);

/// The expected error is the tolerance; no head here exceeds it threefold.
void check_tiers(tiers_function* attend) {
    const data d;
    std::vector<float> out(2 * out_size, -1.0f);
    attend(d.q.data(), d.keys.data(), d.values.data(), seq_len, out.data());
    for (std::size_t g = 0; g < 2 * units::heads_kv; ++g) {
        const auto want = reference::dense(head_of(d, g % units::heads_kv)).out;
        double error = 0.0, norm = 0.0;
        for (std::size_t i = 0; i < want.size(); ++i) {
            const double got = static_cast<double>(out[g * want.size() + i]);
            error += (got - want[i]) * (got - want[i]);
            norm += want[i] * want[i];
        }
        INFO("seeds 301 to 303, KV head " << g << " of both");
        CHECK(std::sqrt(error / norm) <= 3.0 * static_cast<double>(units::tolerance));
    }
}

}  // namespace

TEST_CASE("units of different instruction sets work side by side", "[two_units]") {
    CHECK(units::baseline::lanes() == 4);
    for (std::size_t r : {std::size_t{0}, std::size_t{16}}) check(units::baseline::attend, r);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        CHECK(units::avx2::lanes() == 8);
        for (std::size_t r : {std::size_t{0}, std::size_t{16}}) check(units::avx2::attend, r);
    } else {
        WARN("skipped: this processor has no AVX2");
    }
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        CHECK(units::avx512::lanes() == 16);
        for (std::size_t r : {std::size_t{0}, std::size_t{16}}) check(units::avx512::attend, r);
    } else {
        WARN("skipped: this processor has no AVX-512");
    }
    // And the narrow one again, after the wide ones have run.
    check(units::baseline::attend, 16);
}

TEST_CASE("units attend in tiers side by side", "[two_units]") {
    check_tiers(units::baseline::attend_tiers);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        check_tiers(units::avx2::attend_tiers);
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        check_tiers(units::avx512::attend_tiers);
    check_tiers(units::baseline::attend_tiers);
}
