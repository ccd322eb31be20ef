#!/bin/sh
# SPDX-License-Identifier: MIT
# sh tests/run.sh: installs what is missing, builds and runs the whole test suite: for this
# machine's instruction sets and, on x86-64, for aarch64 under qemu. Closes with
# "N passed, N failed" and fails when a test does.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
. cmake/bootstrap.sh

sparq_require_packages g++ cmake ninja-build pkg-config libxsimd-dev libeigen3-dev catch2 \
    libtbb-dev nlohmann-json3-dev python3
presets=tests
if [ "$(uname -m)" = x86_64 ]; then
    sparq_require_packages g++-aarch64-linux-gnu qemu-user
    presets="tests tests-aarch64"
fi

# quietly LOG COMMAND...: shows the output only of a command that fails.
quietly() {
    log=$1
    shift
    "$@" >"$log" 2>&1 || { cat "$log"; return 1; }
}

# lacks FLAG...: whether this x86-64 processor lacks one of them.
lacks() {
    for flag in "$@"; do
        grep -qw "$flag" /proc/cpuinfo || return 0
    done
    return 1
}

# Prints the instruction sets that this x86-64 processor can run.
available() {
    printf 'sse2;plain'
    lacks avx2 fma f16c || printf ';avx2'
    lacks avx512f avx512bw avx512cd avx512dq avx512vl || printf ';avx512'
}

passed=0 failed=0
mkdir -p build
for preset in $presets; do
    set --
    if [ "$preset $(uname -m)" = "tests x86_64" ]; then
        set -- "-DSPARQ_TESTS_ISAS=$(available)"
        echo "== $preset: for $(available), which this processor can run"
    fi
    echo "== $preset: building"
    if ! quietly "build/$preset.configure.log" cmake --preset "$preset" "$@" ||
        ! quietly "build/$preset.build.log" cmake --build --preset "$preset"; then
        echo "== $preset: not built"
        failed=$((failed + 1))
        continue
    fi
    echo "== $preset: running"
    log=$root/build/$preset.ctest.log
    rm -f "$log"
    ctest --preset "$preset" -j "$(nproc)" --output-log "$log" || echo "== $preset: ctest failed"

    # ctest's own closing line; without one the run counts as a failure. What can be skipped
    # was not built, so a test that is skipped has failed.
    total=$(sed -n 's/.* tests failed out of \([0-9]*\)$/\1/p' "$log")
    broken=$(sed -n 's/.* \([0-9]*\) tests failed out of [0-9]*$/\1/p' "$log")
    left_out=$(grep -c '\*\*\*Skipped' "$log" || true)
    passed=$((passed + ${total:-0} - ${broken:-0} - left_out))
    failed=$((failed + ${broken:-1} + left_out))
done

echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
