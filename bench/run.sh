#!/bin/sh
# SPDX-License-Identifier: MIT
# sh bench/run.sh [--quick] [OPTION ..]: installs what is missing, builds the programs,
# prints the speed table and writes speed_table.json and steps.json to the build folder.
# --quick: small caches and few rounds, a minute. Other options go to sparq_speed_table.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
build=${SPARQ_BUILD_DIR:-$root/build/bench}

quick=
pages=
for option; do
    case $option in
    --quick) quick=1 ;;
    --huge_pages) pages=--huge_pages ;;
    --help)
        sed -n '3,5s/^# //p' "$0"
        exit 0
        ;;
    esac
done

. "$root/cmake/bootstrap.sh"
sparq_require_packages g++ cmake ninja-build libxsimd-dev libbenchmark-dev nlohmann-json3-dev \
    libcli11-dev

if [ ! -f "$build/build.ninja" ]; then
    cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPARQ_BUILD_TESTS=OFF \
        -DSPARQ_BUILD_BENCHMARKS=ON -DSPARQ_BUILD_EXAMPLES=OFF >/dev/null
fi
cmake --build "$build" --target sparq_bench sparq_speed_table \
    sparq_tier_errors >"$build/build.log" 2>&1 || {
    cat "$build/build.log" >&2
    exit 1
}

# The steps: half at every length, the other types at the lengths of the table.
steps=$build/steps.json
if [ "$quick" ]; then
    set_of_rows='^(half/d:128/S:4096/G:[14]/|(half|float)/d:64/S:1024/G:1/|half/d:128/append)'
    measure="--rounds=1 --cache_mib=32"
else
    set_of_rows='^(half/|(float|bfloat16)/d:[0-9]+/S:(4096|16384|65536)/|.*/append)'
    measure="--rounds=3 --cache_mib=256"
fi
status=0
"$build/bench/sparq_speed_table" --json="$build/speed_table.json" "$@" || status=$?
[ "$status" -le 1 ] || exit "$status"

echo
echo "measuring: steps of other shapes" >&2
# Unquoted on purpose: lists of options.
"$build/bench/sparq_bench" $measure $pages --benchmark_filter="$set_of_rows" \
    --benchmark_out="$steps" --benchmark_out_format=json >"$build/steps.txt" 2>"$build/steps.log" || {
    cat "$build/steps.log" >&2
    exit 1
}
if grep -q 'ERROR OCCURRED' "$build/steps.txt"; then
    grep 'ERROR OCCURRED' "$build/steps.txt" >&2
    status=1
fi
# Errors of attention in tiers on the recorded layers.
rows=0
[ ! "$quick" ] || rows=4
errors=$build/tier_errors
"$build/bench/sparq_tier_errors" --rows="$rows" --json="$errors.json" >"$errors.txt" || status=$?
sed -n '/^| tolerance | [0-9]/p; /lie on or below/p' "$errors.txt"
echo "Speed table: $build/speed_table.json"
echo "Every step:  $build/steps.txt, $steps"
echo "Errors:      $errors.txt, $errors.json"
exit "$status"
