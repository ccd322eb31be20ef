// SPDX-License-Identifier: MIT
#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <new>
#include <string>

namespace bench {
namespace {

constexpr std::size_t line_bytes = 64, prefetch_bytes = 1024;

#if defined(__AVX512F__)
constexpr std::size_t register_bytes = 64;
#elif defined(__AVX__)
constexpr std::size_t register_bytes = 32;
#else
constexpr std::size_t register_bytes = 16;
#endif
constexpr std::size_t registers_per_line = line_bytes / register_bytes;

// A register of the machine, by the extension that g++ and clang share.
using wide = std::uint64_t __attribute__((vector_size(register_bytes)));

constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;
std::atomic<bool> wants_huge_pages = false;

// Where a digest ends up, so that no read can be left out.
std::atomic<std::uint64_t> digest = 0;

std::size_t sysfs_cache_bytes() {
    std::size_t largest = 0;
    for (int index = 0; index < 8; ++index) {
        std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) +
                           "/size");
        std::size_t size = 0;
        char unit = 'K';
        if (file >> size >> unit) largest = std::max(largest, size << (unit == 'M' ? 20 : 10));
    }
    return largest;
}

double seconds_of(clockid_t clock) noexcept {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Locality: what __builtin_prefetch wants for L1 (3) and L2 (2); 0 for no prefetch.
template <std::size_t Streams, int Locality>
std::uint64_t read_by(byte_span bytes) noexcept {
    const std::size_t stream_bytes = bytes.size() / Streams / line_bytes * line_bytes;
    wide sums[Streams][registers_per_line] = {};
    for (std::size_t offset = 0; offset < stream_bytes; offset += line_bytes)
        for (std::size_t s = 0; s < Streams; ++s) {
            const std::byte* line = bytes.data() + s * stream_bytes + offset;
            if constexpr (Locality != 0) __builtin_prefetch(line + prefetch_bytes, 0, Locality);
            for (std::size_t i = 0; i < registers_per_line; ++i) {
                wide word;
                std::memcpy(&word, line + i * register_bytes, register_bytes);
                sums[s][i] ^= word;
            }
        }
    std::uint64_t total = 0;
    for (const auto& stream : sums)
        for (const wide& sum : stream)
            for (std::size_t i = 0; i < register_bytes / sizeof(total); ++i) total ^= sum[i];
    return total;
}

constexpr read_pattern patterns[] = {{"1 stream, not asked for", read_by<1, 0>},
                                     {"4 streams, not asked for", read_by<4, 0>},
                                     {"4 streams, asked for into L1", read_by<4, 3>},
                                     {"4 streams, asked for into L2", read_by<4, 2>}};

// So much that what was read first is in no cache any longer.
std::size_t uncached_bytes() {
    constexpr std::size_t least = std::size_t{256} << 20, most = std::size_t{1} << 30;
    const std::size_t cache = last_level_cache_bytes();
    return cache == 0 ? most : std::clamp(2 * cache, least, most);
}

std::vector<byte_span> pieces_of(byte_span bytes, std::size_t piece) {
    std::vector<byte_span> pieces;
    for (std::size_t begin = 0; begin < bytes.size(); begin += piece)
        pieces.push_back(bytes.subspan(begin, std::min(piece, bytes.size() - begin)));
    return pieces;
}

void read_all(const read_pattern& pattern, std::span<const byte_span> spans, thread_pool* pool) {
    const auto read = [&](std::size_t i) noexcept {
        digest.fetch_xor(pattern.read(spans[i]), std::memory_order_relaxed);
    };
    if (pool != nullptr)
        (*pool)(spans.size(), read);
    else
        for (std::size_t i = 0; i < spans.size(); ++i) read(i);
}

// Pieces as long as a segment's rows, of a block too large for a cache.
const read_pattern& find_fastest_read() {
    constexpr std::size_t piece = std::size_t{1} << 20, rounds = 3;
    const std::size_t bytes = uncached_bytes();
    const untouched_bytes memory = allocate_untouched(bytes);
    std::fill_n(memory.get(), bytes, std::byte{1});
    const std::vector<byte_span> pieces = pieces_of({memory.get(), bytes}, piece);
    const read_pattern* fastest = nullptr;
    double least = 0;
    for (std::size_t round = 0; round < rounds; ++round)
        for (const read_pattern& pattern : patterns) {
            const double start = processor_seconds();
            read_all(pattern, pieces, nullptr);
            const double time = processor_seconds() - start;
            if (fastest == nullptr || time < least) fastest = &pattern, least = time;
        }
    return *fastest;
}

}  // namespace

const read_pattern& fastest_read() {
    static const read_pattern& fastest = find_fastest_read();
    return fastest;
}

std::uint64_t streaming_read(std::span<const byte_span> spans, thread_pool* pool) {
    read_all(fastest_read(), spans, pool);
    return digest;
}

std::size_t last_level_cache_bytes() {
    long reported = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    reported = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return reported > 0 ? static_cast<std::size_t>(reported) : sysfs_cache_bytes();
}

cache_flusher::cache_flusher() {
    buffer_.assign(uncached_bytes(), std::byte{1});
    pieces_ = pieces_of(buffer_, std::size_t{16} << 20);
}

void cache_flusher::operator()(thread_pool* pool) const { streaming_read(pieces_, pool); }

double processor_seconds() noexcept { return seconds_of(CLOCK_PROCESS_CPUTIME_ID); }
double processor_clock_cost() noexcept {
    constexpr int reads = 1000;
    const double start = processor_seconds();
    for (int i = 0; i < reads; ++i) processor_seconds();
    return (processor_seconds() - start) / reads;
}
double wall_seconds() noexcept { return seconds_of(CLOCK_MONOTONIC); }

void request_huge_pages() noexcept { wants_huge_pages = true; }
bool huge_pages_requested() noexcept { return wants_huge_pages; }

namespace {

void* allocate(std::size_t bytes, std::size_t alignment) {
    const bool large = wants_huge_pages && bytes >= 2 * huge_page_bytes;
    const std::size_t boundary = large ? std::max(alignment, huge_page_bytes) : alignment;
    if (bytes > SIZE_MAX - boundary) throw std::bad_alloc();
    const std::size_t whole = std::max(boundary, (bytes + boundary - 1) / boundary * boundary);
    void* memory = std::aligned_alloc(boundary, whole);
    if (memory == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (large) madvise(memory, whole, MADV_HUGEPAGE);
#endif
    return memory;
}

}  // namespace
}  // namespace bench

// The program's own allocation of aligned blocks, which is what the library's caches and
// workspaces come from: the place to choose pages for everybody alike.
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return bench::allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
