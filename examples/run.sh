#!/bin/sh
# SPDX-License-Identifier: MIT
# sh examples/run.sh: installs what is missing, builds, runs the demo and draws its picture.
# Arguments go to the demo: sh examples/run.sh --help
# SPARQ_CMAKE_ARGUMENTS: words, more arguments for cmake.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
build=${SPARQ_BUILD_DIR:-$root/build/examples}

. "$root/cmake/bootstrap.sh"
sparq_require_packages g++ cmake ninja-build libxsimd-dev libeigen3-dev nlohmann-json3-dev \
    libcli11-dev python3-matplotlib

if [ ! -f "$build/build.ninja" ]; then
    cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPARQ_BUILD_TESTS=OFF \
        -DSPARQ_BUILD_BENCHMARKS=OFF -DSPARQ_BUILD_EXAMPLES=ON \
        -DSPARQ_KERNELS_OPTIMIZATION=-O2 ${SPARQ_CMAKE_ARGUMENTS:-} >/dev/null
fi
cmake --build "$build" >"$build/build.log" 2>&1 || {
    cat "$build/build.log" >&2
    exit 1
}

for example in quickstart decode_loop cross_attention strided_engine own_threads one_binary eigen_small; do
    echo "== $example"
    "$build/examples/$example"
done
echo "== demo"
"$build/examples/demo" --out "$build/demo.json" "$@"
"${PYTHON:-/usr/bin/python3}" "$root/examples/plot_demo.py" "$build/demo.json" "$build/demo.png"
echo
echo "Picture: $build/demo.png   Figures: $build/demo.json"
