// SPDX-License-Identifier: MIT
// The core of the plugin against an engine of a few lines: cells written anew, holes, forks,
// streams, changes behind its back. After every event its answers must be those of a cache of
// the visible tokens alone, and of attention in double precision. Needs no llama.cpp.
#include <algorithm>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>
#include <sparq/sparq.hpp>
#include <stdexcept>
#include <thread>

#include "../synthetic.hpp"
#include "engine_cache.hpp"
#include "visible_cells.hpp"

namespace {

std::atomic<std::size_t> allocations{0};

constexpr std::size_t cells = 640, streams = 2, heads_kv = 3, group = 3, dim = 64;
constexpr std::size_t heads_q = heads_kv * group, row_size = heads_kv * dim, most_rows = 3;
constexpr std::uint16_t hidden = 0xfc00;

int failures = 0;
void expect(bool holds, const char* what) {
    if (holds) return;
    ++failures;
    std::printf("FAILED: %s\n", what);
}

using ranges = std::vector<sparq::token_range>;

/// True errors of answers in tiers. A tolerance is what the root mean square of them is to keep
/// to, not a bound of each.
struct error_tally {
    double squares = 0.0, answers = 0.0, not_dense = 0.0;

    void add(double error) {
        squares += error * error;
        answers += 1.0;
        not_dense += error > 1e-4 ? 1.0 : 0.0;
    }
    [[nodiscard]] double rms() const { return std::sqrt(squares / answers); }
};
error_tally tiers_answers;
constexpr float tiers_tolerance = 0.2f;

class engine {
   public:
    explicit engine(unsigned seed)
        : random_(seed),
          keys_(streams * cells * row_size),
          values_(keys_.size()),
          mask_(streams * most_rows * cells),
          q_(streams * most_rows * heads_q * dim),
          out_(q_.size()) {}

    std::mt19937& random() { return random_; }
    std::size_t below(std::size_t n) {
        return std::uniform_int_distribution<std::size_t>(0, n - 1)(random_);
    }

    /// New keys and values in cells of a stream; the core is told or not.
    void write(sparq_llama::engine_cache& core, std::size_t stream, std::size_t first,
               std::size_t n, bool tell = true) {
        std::vector<std::int64_t> rows;
        for (std::size_t cell = first; cell < first + n; ++cell) {
            rows.push_back(static_cast<std::int64_t>(stream * cells + cell));
            fill(keys_, stream, cell);
            fill(values_, stream, cell);
        }
        if (tell) core.wrote(keys_.data(), rows.data(), rows.size());
    }
    void rotate_keys() {
        for (sparq::half& key : keys_) key = sparq::half(-static_cast<float>(key));
    }

    /// A node of `rows` queries in streams [first, first + count), all over the same cells.
    sparq_llama::attention_node node(std::size_t first, std::size_t count, std::size_t rows,
                                     const ranges& visible) {
        const std::vector<float> q = peaked_query(random_, q_.size());
        std::copy(q.begin(), q.end(), q_.begin());
        std::fill(mask_.begin(), mask_.end(), hidden);
        for (std::size_t r = 0; r < count * rows; ++r)
            for (const auto [begin, end] : visible)
                std::fill(mask_.begin() + std::ptrdiff_t(r * cells + begin),
                          mask_.begin() + std::ptrdiff_t(r * cells + end), std::uint16_t{0});
        sparq_llama::attention_node n;
        n.cache = {keys_.data(), cells, streams, row_size, 5};
        n.first_stream = first;
        n.streams = count;
        n.rows = rows;
        n.cells = cells;
        n.heads_q = heads_q;
        n.heads_kv = heads_kv;
        n.head_dim = n.value_dim = dim;
        n.scale = 0.11f;
        n.q = q_.data();
        n.out = out_.data();
        n.q_head_stride = n.out_head_stride = dim;
        n.q_row_stride = n.out_row_stride = heads_q * dim;
        n.q_stream_stride = n.out_stream_stride = rows * heads_q * dim;
        n.keys = keys_.data() + first * cells * row_size;
        n.values = values_.data() + first * cells * row_size;
        n.key_token_stride = n.value_token_stride = row_size;
        n.key_head_stride = n.value_head_stride = dim;
        n.key_stream_stride = n.value_stream_stride = cells * row_size;
        n.mask = mask_.data();
        n.mask_row_stride = cells;
        n.mask_stream_stride = rows * cells;
        return n;
    }
    std::uint16_t& mask(std::size_t cell) { return mask_[cell]; }
    std::span<const float> q(std::size_t row) const {
        return std::span(q_).subspan(row * heads_q * dim, heads_q * dim);
    }
    std::span<const float> out(std::size_t row) const {
        return std::span(out_).subspan(row * heads_q * dim, heads_q * dim);
    }

    /// What the library says of the visible cells in a cache of their own.
    std::vector<float> library(std::size_t stream, std::span<const float> query,
                               const ranges& visible, const sparq::sparq_params& params) const {
        sparq::kv_cache<sparq::half> cache(heads_kv, dim);
        for (const auto [begin, end] : visible) {
            const std::size_t first = (stream * cells + begin) * row_size;
            const std::size_t count = (end - begin) * row_size;
            cache.append(std::span(keys_).subspan(first, count),
                         std::span(values_).subspan(first, count));
        }
        std::vector<float> y(query.size());
        sparq::sparq_attention(query, cache, params, y);
        return y;
    }
    /// What a method says of the visible cells with codes that are made afresh of the first
    /// `kept` cells as they are now.
    template <class Codes, class Storage, class Params>
    std::vector<float> afresh(std::size_t stream, std::span<const float> query,
                              const ranges& visible, const Params& params, std::size_t kept) const {
        sparq::strided_kv<sparq::half> rows;
        rows.keys = keys_.data() + stream * cells * row_size;
        rows.values = values_.data() + stream * cells * row_size;
        rows.heads_kv = heads_kv;
        rows.head_dim = rows.value_dim = rows.key_head_stride = rows.value_head_stride = dim;
        rows.cells = cells;
        rows.key_token_stride = rows.value_token_stride = row_size;
        Codes codes(heads_kv, dim, dim);
        codes.append(rows, kept);
        Storage storage;
        std::vector<float> y(query.size());
        sparq::sparq_attention(query, codes.view(rows, visible, storage), params, y);
        return y;
    }
    /// Attention over the visible cells by its formula.
    std::vector<float> formula(std::size_t stream, std::span<const float> query,
                               const ranges& visible, double scale) const {
        std::vector<float> y;
        for (std::size_t h = 0; h < heads_q; ++h) {
            std::vector<double> sum(dim);
            double total = 0.0;
            for (const auto [begin, end] : visible)
                for (std::size_t cell = begin; cell < end; ++cell) {
                    const std::size_t at = (stream * cells + cell) * row_size + h / group * dim;
                    double logit = 0.0;
                    for (std::size_t c = 0; c < dim; ++c)
                        logit += double(query[h * dim + c]) * float(keys_[at + c]);
                    const double weight = std::exp(scale * logit);  // logits here are under 100
                    total += weight;
                    for (std::size_t c = 0; c < dim; ++c) sum[c] += weight * float(values_[at + c]);
                }
            for (const double s : sum) y.push_back(static_cast<float>(s / total));
        }
        return y;
    }

   private:
    void fill(std::vector<sparq::half>& to, std::size_t stream, std::size_t cell) {
        const std::vector<float> numbers = normal_numbers(random_, row_size);
        std::transform(numbers.begin(), numbers.end(),
                       to.begin() + std::ptrdiff_t((stream * cells + cell) * row_size),
                       [](float x) { return sparq::half(x); });
    }

    std::mt19937 random_;
    std::vector<sparq::half> keys_, values_;
    std::vector<std::uint16_t> mask_;
    std::vector<float> q_, out_;
};

/// As an engine computes a node: thread 0 prepares, all meet, each does its share.
sparq_llama::answer compute(sparq_llama::engine_cache& core,
                            const sparq_llama::attention_node& node,
                            const sparq_llama::settings& with, std::size_t threads) {
    if (threads == 1) {
        core.prepare(node, with);
        return core.run(0, 1, [] {});
    }
    std::barrier meet(static_cast<std::ptrdiff_t>(threads));
    std::vector<sparq_llama::answer> answers(threads);
    {
        std::vector<std::jthread> pool;
        for (std::size_t ith = 0; ith < threads; ++ith)
            pool.emplace_back([&, ith] {
                if (ith == 0) core.prepare(node, with);
                meet.arrive_and_wait();
                answers[ith] = core.run(ith, threads, [&] { meet.arrive_and_wait(); });
            });
    }
    expect(std::count(answers.begin(), answers.end(), answers[0]) == std::ptrdiff_t(threads),
           "all threads know the same answer");
    return answers[0];
}

sparq_llama::settings test_settings() {
    sparq_llama::settings with;
    with.set_all("SPARQ_R=16 SPARQ_K=48 SPARQ_LOCAL=8 SPARQ_DENSE_BELOW=64");
    return with;
}

ranges some_cells(engine& self, std::size_t end) {
    const std::size_t begin = self.below(std::min<std::size_t>(end, 30));
    const std::size_t cut = begin + (end - begin) / 2;
    const std::size_t hole = self.below(3) * self.below(40);
    if (hole == 0 || cut + hole >= end) return {{begin, end}};
    return {{begin, cut}, {cut + hole, end}};
}

/// Tiers: the bits that codes made afresh of the same cells give.
void check_tiers(engine& self, sparq_llama::engine_cache& core,
                 const sparq_llama::attention_node& node, const ranges& visible, std::size_t tokens,
                 std::size_t threads) {
    sparq_llama::settings with = test_settings();
    with.set_all("SPARQ_METHOD=tiers SPARQ_TOLERANCE=0.2");
    sparq::tiered_params params;
    params.tolerance = tiers_tolerance;
    params.scale = node.scale;
    expect(compute(core, node, with, threads) == sparq_llama::answer::given, "tiers answer");
    for (std::size_t r = 0; tokens >= with.dense_below && r < node.streams * node.rows; ++r) {
        const std::size_t stream = node.first_stream + r / node.rows;
        const auto y =
            self.afresh<sparq::tier_codes<sparq::half>, sparq::tiered_view_storage<sparq::half>>(
                stream, self.q(r), visible, params, core.cells_kept(node.cache.keys, stream));
        expect(std::equal(y.begin(), y.end(), self.out(r).begin()),
               "tiers: the bits of codes made afresh");
        tiers_answers.add(
            relative_error(self.out(r), self.formula(stream, self.q(r), visible, node.scale)));
    }
}

/// SparQ over labels of few bits: the bits that labels made afresh of the same cells give.
template <class Label>
void check_labels(engine& self, sparq_llama::engine_cache& core,
                  const sparq_llama::attention_node& node, const ranges& visible,
                  std::size_t tokens, std::size_t threads) {
    using sparq::half;
    sparq_llama::settings with = test_settings();
    with.set_all("SPARQ_LABEL_BITS=" + std::to_string(Label::bits));
    sparq::sparq_params params = with.params;
    params.scale = node.scale;
    expect(compute(core, node, with, threads) == sparq_llama::answer::given, "labels answer");
    for (std::size_t r = 0; tokens >= with.dense_below && r < node.streams * node.rows; ++r) {
        const std::size_t stream = node.first_stream + r / node.rows;
        const auto y =
            self.afresh<sparq::key_labels<half, Label>, sparq::kv_view_storage<half, Label>>(
                stream, self.q(r), visible, params, core.cells_kept(node.cache.keys, stream));
        expect(std::equal(y.begin(), y.end(), self.out(r).begin()),
               "labels of few bits: the bits of labels made afresh");
    }
}

/// Compares the answers to one node, SparQ, labels of few bits, tiers and dense, with those of
/// others.
void check_answers(engine& self, sparq_llama::engine_cache& core, std::size_t first,
                   std::size_t count, std::size_t rows, const ranges& visible,
                   std::size_t threads) {
    sparq_llama::settings with = test_settings();
    const auto node = self.node(first, count, rows, visible);
    sparq::sparq_params params = with.params;
    params.scale = node.scale;
    std::size_t tokens = 0;
    for (const auto [begin, end] : visible) tokens += end - begin;

    expect(compute(core, node, with, threads) == sparq_llama::answer::given, "SparQ answers");
    for (std::size_t r = 0; tokens >= with.dense_below && r < count * rows; ++r) {
        const auto y = self.library(first + r / rows, self.q(r), visible, params);
        expect(std::equal(y.begin(), y.end(), self.out(r).begin()),
               "SparQ: the bits of a cache of the visible tokens");
    }
    check_labels<sparq::int4_label>(self, core, node, visible, tokens, threads);
    check_tiers(self, core, node, visible, tokens, threads);
    with.use = sparq_llama::method::dense;
    expect(compute(core, node, with, threads) == sparq_llama::answer::given, "dense answers");
    for (std::size_t r = 0; r < count * rows; ++r)
        // Float sums over 640 tokens and 64 products: well below 1e-4 of the result's norm.
        expect(relative_error(self.out(r), self.formula(first + r / rows, self.q(r), visible,
                                                        node.scale)) < 1e-4,
               "dense: the formula's result");
}

void random_history(unsigned seed) {
    std::printf("history of seed %u\n", seed);
    engine self(seed);
    sparq_llama::engine_cache core;
    std::size_t used = 200;
    for (std::size_t s = 0; s < streams; ++s) self.write(core, s, 0, cells);
    for (int event = 0; event < 40; ++event) {
        const std::size_t stream = self.below(streams);
        switch (self.below(7)) {
            case 0:  // a prompt, or a prompt over old cells
                used = 100 + self.below(cells - 100);
                self.write(core, stream, self.below(90), used - 90);
                break;
            case 1:  // reused slots
                for (int i = 0; i < 5; ++i) self.write(core, stream, self.below(used), 1);
                break;
            case 2:  // rollback, then other tokens
                used = 90 + self.below(used - 80);
                self.write(core, stream, used - 20, 20);
                break;
            case 3:  // a shift of the context
                self.rotate_keys();
                core.changed(self.node(0, 1, 1, {{0, 1}}).cache.keys);
                break;
            case 4:  // a state loaded
                self.write(core, stream, 10, 80, false);
                core.changed_outside();
                break;
            default:  // a step
                used = std::min(used + 1, cells);
                self.write(core, stream, used - 1, 1);
        }
        const std::size_t count = 1 + self.below(2), rows = 1 + self.below(most_rows);
        check_answers(self, core, count == 2 ? 0 : stream, count, rows, some_cells(self, used),
                      1 + self.below(4));
    }
}

void what_is_left_to_the_engine() {
    using sparq_llama::answer;
    engine self(9);
    sparq_llama::engine_cache core;
    self.write(core, 0, 0, cells);
    sparq_llama::settings with = test_settings();
    const ranges all{{0, cells}};
    auto node = self.node(0, 1, 1, all);
    self.mask(77) = 0x3c00;  // 1.0
    expect(compute(core, node, with, 2) == answer::biased, "a mask with a bias is left");
    node = self.node(0, 1, 2, {});
    expect(compute(core, node, with, 2) == answer::blind, "a query that sees nothing is left");
    ranges alternate;
    for (std::size_t cell = 0; cell < cells; cell += 2) alternate.push_back({cell, cell + 1});
    node = self.node(0, 1, 1, alternate);
    expect(compute(core, node, with, 2) == answer::scattered, "alternating cells are left");
    node = self.node(0, 1, 3, all);
    with.most_rows = 2;
    expect(compute(core, node, with, 2) == answer::none, "more rows than allowed are left");
    with = test_settings();
    with.off_below = cells;
    expect(compute(core, node, with, 2) == answer::none, "a short cache is left");
    with = test_settings();
    with.params.r = 100;
    expect(compute(core, node, with, 2) == answer::refused, "r above the head size is left");
    with.use = sparq_llama::method::off;
    expect(compute(core, node, with, 1) == answer::none, "off: left");
    with.use = sparq_llama::method::zeros;
    expect(compute(core, node, with, 3) == answer::given, "zeros: given");
    expect(norm(self.out(0)) == 0.0, "zeros: zeros");
}

void dense_layers_need_no_copy() {
    engine self(10);
    sparq_llama::engine_cache core;
    self.write(core, 0, 0, cells);
    sparq_llama::settings with = test_settings();
    with.set_all("SPARQ_DENSE_LAYERS=2,4-6");
    const auto node = self.node(0, 1, 1, {{0, cells}});  // layer 5
    compute(core, node, with, 1);
    expect(relative_error(self.out(0), self.formula(0, self.q(0), {{0, cells}}, node.scale)) < 1e-4,
           "a dense layer is computed exactly");
}

/// Each width is one of its own: 8 bits rank these keys as the keys themselves do, fewer do
/// worse.
void labels_have_the_bits_asked_for() {
    engine self(11);
    sparq_llama::engine_cache core;
    self.write(core, 0, 0, cells);
    const auto node = self.node(0, 1, 1, {{0, cells}});
    auto error_of = [&, exact = std::vector<float>()](const char* bits) mutable {
        sparq_llama::settings with = test_settings();
        with.set_all(std::string("SPARQ_LABEL_BITS=") + bits);
        expect(compute(core, node, with, 1) == sparq_llama::answer::given, "a width is answered");
        if (exact.empty()) exact.assign(self.out(0).begin(), self.out(0).end());
        return relative_error(self.out(0), exact);
    };
    const double of[]{error_of("16"), error_of("8"), error_of("4"), error_of("2")};
    expect(of[0] == 0.0 && of[1] < of[2] && of[2] < of[3], "fewer bits are further from the keys");
}

void steps_allocate_nothing(const char* method) {
    engine self(12);
    sparq_llama::engine_cache core;
    self.write(core, 0, 0, cells);
    sparq_llama::settings with = test_settings();
    with.set_all(method);
    const auto node = self.node(0, 1, 2, {{0, 300}, {310, cells}});
    compute(core, node, with, 1);
    const std::int64_t row = 320;
    const std::size_t before = allocations;
    for (int i = 0; i < 3; ++i) {
        core.wrote(node.cache.keys, &row, 1);
        core.prepare(node, with);
        core.run(0, 1, [] {});
    }
    expect(allocations == before, "a step that has seen the shape allocates nothing");
}

void changes_from_outside_during_a_node_leave_it_answered() {
    engine self(13);
    sparq_llama::engine_cache core;
    self.write(core, 0, 0, cells);
    const auto node = self.node(0, 1, most_rows, {{0, cells}});
    std::jthread beside([&](const std::stop_token& stop) {
        while (!stop.stop_requested()) core.changed_outside();
    });
    int given = 0;
    for (int i = 0; i < 300; ++i)
        given += compute(core, node, test_settings(), 1) == sparq_llama::answer::given;
    expect(given == 300, "a node is answered while another thread changes the cache");
}

void wrong_settings_are_refused_by_name() {
    for (const char* wrong : {"SPARQ_R=0",
                              "SPARQ_R=x",
                              "SPARQ_R=",
                              "SPARQ_K=0",
                              "SPARQ_K=-1",
                              "SPARQ_LOCAL=9 SPARQ_K=8",
                              "SPARQ_METHOD=sparse",
                              "SPARQ_TAIL=mean",
                              "SPARQ_DENSE_LAYERS=3-1",
                              "SPARQ_DENSE_LAYERS=a",
                              "SPARQ_LABEL_BITS=3",
                              "SPARQ_LABEL_BITS=32",
                              "SPARQ_LABEL_BITS=",
                              "SPARQ_LABEL_BITS=int4",
                              "SPARQ_TOLERANCE=0",
                              "SPARQ_TOLERANCE=-1",
                              "SPARQ_TOLERANCE=1.01",
                              "SPARQ_TOLERANCE=nan",
                              "SPARQ_TOLERANCE=5%",
                              "SPARQ_TOLERANCE=",
                              "SPARQ_METHOD=tier",
                              "SPARQ_DENSE_BELOW=1.5",
                              "SPARQ_MOST_ROWS=65",
                              "SPARQ_OFF_BELOW"}) {
        sparq_llama::settings with = test_settings();
        const std::string before = with.text();
        try {
            with.set_all(wrong);
            expect(false, wrong);
        } catch (const std::invalid_argument& e) {
            expect(std::string_view(e.what()).substr(0, 7) == std::string_view(wrong).substr(0, 7),
                   e.what());
            expect(with.text() == before, "a refused list changes nothing");
        }
    }
}

}  // namespace

// Not inlined: g++ 12 would take malloc and free for a mismatched pair.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
    ++allocations;
    if (void* memory = std::malloc(bytes); memory != nullptr) return memory;
    throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
    ++allocations;
    const auto a = static_cast<std::size_t>(alignment);
    if (void* memory = std::aligned_alloc(a, (bytes + a - 1) / a * a); memory != nullptr)
        return memory;
    throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}

int main() {
    for (const unsigned seed : {1u, 2u, 3u}) random_history(seed);
    what_is_left_to_the_engine();
    dense_layers_need_no_copy();
    steps_allocate_nothing("SPARQ_METHOD=sparq");
    steps_allocate_nothing("SPARQ_LABEL_BITS=4");
    steps_allocate_nothing("SPARQ_METHOD=tiers");
    labels_have_the_bits_asked_for();
    changes_from_outside_during_a_node_leave_it_answered();
    std::printf("tiers: %g answers, rms error %.2f\n", tiers_answers.answers, tiers_answers.rms());
    expect(tiers_answers.not_dense > 0.9 * tiers_answers.answers, "tiers are not just dense");
    expect(tiers_answers.rms() < 1.5 * double(tiers_tolerance), "tiers: near their tolerance");
    wrong_settings_are_refused_by_name();
    std::printf("%d failures\n", failures);
    return failures == 0 ? 0 : 1;
}
