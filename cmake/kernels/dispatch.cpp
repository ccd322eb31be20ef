// SPDX-License-Identifier: MIT
// The choice among the kernel units. Compiled for any processor.
#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>

#include <sparq/detail/check.hpp>
#include <sparq/dispatch.hpp>

#if defined(SPARQ_DISPATCH_X86)
#include <cpuid.h>
#endif

SPARQ_NAMESPACE_BEGIN

namespace {

using detail::kernel_table;
using dispatch::isa;

constinit std::atomic<const kernel_table*> chosen{nullptr};

#if defined(SPARQ_DISPATCH_X86)

/// Bits of x86-64-v3 that __builtin_cpu_supports does not know in every compiler.
bool has_f16c_movbe_lzcnt() noexcept {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned f16c = 1u << 29, movbe = 1u << 22, lzcnt = 1u << 5;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & f16c) == 0 || (c & movbe) == 0) return false;
    return __get_cpuid(0x80000001, &a, &b, &c, &d) != 0 && (c & lzcnt) != 0;
}

/// __builtin_cpu_supports also asks (XCR0) whether the system keeps the registers.
bool can_run(isa set) noexcept {
    __builtin_cpu_init();
    if (set == isa::avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               has_f16c_movbe_lzcnt();
    if (set == isa::avx512)
        return can_run(isa::avx2) && __builtin_cpu_supports("bmi") &&
               __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
    return true;
}
/// The widest first.
constexpr const kernel_table* units[] = {&detail::kernels_avx512, &detail::kernels_avx2,
                                         &detail::kernels_baseline};
#else
bool can_run(isa) noexcept { return true; }
constexpr const kernel_table* units[] = {&detail::kernels_baseline};
#endif

/// The kernels of `set`, or nullptr when they cannot run.
const kernel_table* find(isa set) noexcept {
    for (const kernel_table* unit : units)
        if (unit->isa == set && can_run(set)) return unit;
    return nullptr;
}

/// The names of what the program has kernels for, or of what can run.
std::string names(bool only_available) {
    std::string result;
    for (const kernel_table* unit : units) {
        if (only_available && !can_run(unit->isa)) continue;
        if (!result.empty()) result += ", ";
        result += dispatch::name(unit->isa);
    }
    return result;
}

/// The widest set that SPARQ_ISA allows.
isa widest_allowed() {
    const char* variable = std::getenv("SPARQ_ISA");
    if (variable == nullptr || *variable == '\0') return units[0]->isa;
    for (const kernel_table* unit : units)
        if (std::string_view(variable) == dispatch::name(unit->isa)) return unit->isa;
    detail::refuse("the environment variable SPARQ_ISA", variable, names(false));
}

const kernel_table* choose() {
    const isa widest = widest_allowed();
    for (const kernel_table* unit : units)
        if (unit->isa <= widest && can_run(unit->isa)) return unit;
    return &detail::kernels_baseline;
}

}  // namespace

namespace dispatch {

const char* name(isa set) noexcept {
    switch (set) {
        case isa::plain:
            return "plain";
        case isa::neon:
            return "neon";
        case isa::sse2:
            return "sse2";
        case isa::avx2:
            return "avx2";
        case isa::avx512:
            return "avx512";
    }
    return "unknown";
}

bool is_available(isa set) noexcept { return find(set) != nullptr; }

isa active() { return detail::choose_kernels().isa; }

void use(isa set) {
    const kernel_table* kernels = find(set);
    if (kernels == nullptr) detail::refuse("isa", name(set), names(true));
    chosen.store(kernels, std::memory_order_relaxed);
}

}  // namespace dispatch

namespace detail {

SPARQ_KERNELS_BEGIN
const kernel_table& chosen_kernels() noexcept { return *chosen.load(std::memory_order_relaxed); }

const kernel_table& choose_kernels() {
    const kernel_table* kernels = chosen.load(std::memory_order_relaxed);
    if (kernels != nullptr) return *kernels;
    const kernel_table* first = choose();
    // A choice that another thread has made meanwhile stands.
    return chosen.compare_exchange_strong(kernels, first) ? *first : *kernels;
}
SPARQ_KERNELS_END

void refuse_product(const char* argument, std::size_t a, std::size_t b) {
    static_cast<void>(checked_product(argument, a, b));
    std::abort();  // it has thrown
}

}  // namespace detail
SPARQ_NAMESPACE_END
