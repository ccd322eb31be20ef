// SPDX-License-Identifier: MIT
// Ends the program before anything else runs where the processor lacks the instruction
// set that the tests are compiled for. Compiled for the baseline. ctest counts the exit
// code as skipped, never as passed.
#include <cstdio>
#include <cstdlib>

namespace {

bool processor_can_run() {
#if defined(__x86_64__)
    __builtin_cpu_init();  // what cpu_supports reads is not set up this early
#endif
#if defined(SPARQ_TEST_NEEDS_AVX2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#elif defined(SPARQ_TEST_NEEDS_AVX512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512vl");
#else
    return true;
#endif
}

// Priority 101: before the constructors of the test files, which may use the instructions.
__attribute__((constructor(101))) void skip_without_instructions() {
    if (processor_can_run()) return;
    std::fputs("SKIPPED: this processor lacks the instruction set of these tests\n", stderr);
    std::_Exit(77);
}

}  // namespace
