#!/bin/sh
# SPDX-License-Identifier: MIT
# sh bench/peers/run.sh [--quick] [OPTION ..]: downloads what sparq is compared with, builds,
# measures, and prints the table. It and two pictures are left in build/peers.
# --quick: short caches and few rounds, a minute or two. Other options go to
# sparq_speed_of_peers (--rounds N, --huge_pages).
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
build=${SPARQ_BUILD_DIR:-$root/build/peers}
peers=$build/downloads
python=${SPARQ_PYTHON:-/usr/bin/python3}

quick=
for option; do
    case $option in
    --quick) quick=--quick ;;
    --help)
        sed -n '3,6s/^# //p' "$0"
        exit 0
        ;;
    esac
done
if [ "$(uname -m)" != x86_64 ]; then
    echo "bench/peers: the prebuilt libraries it downloads are for x86-64" >&2
    exit 1
fi

. "$root/cmake/bootstrap.sh"
packages="g++ cmake ninja-build libxsimd-dev nlohmann-json3-dev libcli11-dev libopenblas-dev"
packages="$packages python3-onnx python3-matplotlib"
# These three often come from elsewhere than Debian.
for command in git npm go; do
    command -v "$command" >/dev/null || case $command in
    go) packages="$packages golang-go ca-certificates" ;;
    *) packages="$packages $command" ;;
    esac
done
# Unquoted on purpose: a list of words.
sparq_require_packages $packages

mkdir -p "$peers"

# check_sum SHA256 FILE: ends the script if the file is another one.
check_sum() {
    [ "$(sha256sum "$2" | cut -d ' ' -f 1)" = "$1" ] && return
    echo "bench/peers: $2 is not the file that was expected (SHA-256 $1)" >&2
    exit 1
}

# from_npm PACKAGE VERSION SHA256 FOLDER PATH: the part of a package that is below PATH.
# Nothing of it is run.
from_npm() {
    [ ! -f "$peers/$4/.complete-$2" ] || return 0
    echo "downloading: $1 $2" >&2
    rm -rf "${peers:?}/$4" "$peers/pack"
    mkdir -p "$peers/$4" "$peers/pack"
    npm pack --silent --pack-destination "$peers/pack" "$1@$2" >/dev/null
    check_sum "$3" "$peers/pack"/*.tgz
    tar -xzf "$peers/pack"/*.tgz -C "$peers/$4" --strip-components=1 "package/$5"
    rm -rf "$peers/pack"
    : >"$peers/$4/.complete-$2"
}

llama=3.22.1 ort=1.30.0 ort_header=v1.27.0
from_npm @node-llama-cpp/linux-x64 $llama \
    0d953e1503d5ab4608d8ed5b739132308c81ac05ffeb760d2a7f30e08a9f90e0 ggml bins/linux-x64
from_npm node-llama-cpp $llama \
    a0d9dd80eacd2ab1cfe71aee57ac8a806487fd70b3d2a38fbec637752d9e5c5f llama llama/gitRelease.bundle
from_npm onnxruntime-node $ort \
    6e3390d6b783e7be946fad629292799da28d0b42f84856e50d2c1b0383291e75 ort bin/napi-v6/linux/x64

# The headers of the same ggml lie in a git bundle.
if [ ! -f "$peers/llama/ggml/include/ggml.h" ]; then
    rm -rf "$peers/llama/source"
    git clone -q --no-checkout "$peers/llama/llama/gitRelease.bundle" "$peers/llama/source"
    git -C "$peers/llama/source" archive HEAD ggml/include | tar -x -C "$peers/llama"
    rm -rf "$peers/llama/source"
fi

# ONNX Runtime's package has no header. Its interface only grows, so an older one fits; this
# Go module carries it.
module=github.com/yalue/onnxruntime_go@$ort_header
ort_include=$peers/go/pkg/mod/$module
if [ ! -f "$ort_include/onnxruntime_c_api.h" ]; then
    echo "downloading: $module" >&2
    (cd "$peers" && GOPATH=$peers/go GOMODCACHE=$peers/go/pkg/mod GOFLAGS=-modcacherw \
        GO111MODULE=on go mod download "$module")
fi
check_sum 9ed0d7054a4e74249467365b25b415d36f51a44a6349e2a994a1812e4723d1e2 "$ort_include/onnxruntime_c_api.h"
check_sum e94ac3490697bdb107844fa9d403952ee7136134132a057eae5c1207b57ce352 "$ort_include/onnxruntime_ep_c_api.h"

"$python" "$root/bench/peers/make_models.py" "$peers/models"

{
    cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPARQ_BUILD_TESTS=OFF \
        -DSPARQ_BUILD_EXAMPLES=OFF -DSPARQ_BUILD_BENCHMARKS=ON -DSPARQ_BUILD_PEERS=ON \
        -DBLA_VENDOR=OpenBLAS \
        -DSPARQ_PEERS_GGML_DIR="$peers/ggml/bins/linux-x64" \
        -DSPARQ_PEERS_GGML_INCLUDE="$peers/llama/ggml/include" \
        -DSPARQ_PEERS_ORT_LIBRARY="$peers/ort/bin/napi-v6/linux/x64/libonnxruntime.so.1" \
        -DSPARQ_PEERS_ORT_INCLUDE="$ort_include" &&
        cmake --build "$build" --target sparq_speed_of_peers sparq_peers_probe
} >"$build/build.log" 2>&1 || {
    cat "$build/build.log" >&2
    exit 1
}

# Either of them, set for another version, makes OpenBLAS choose badly. GGML_BACKEND_PATH
# would add a second ggml backend.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE GGML_BACKEND_PATH
export OPENBLAS_NUM_THREADS=1

status=0
"$build/bench/peers/sparq_speed_of_peers" --models "$peers/models" --json "$build/peers.json" "$@" ||
    status=$?
[ "$status" -le 1 ] || exit "$status"

rm -f "$build/torch.json"
if "$python" -c 'import torch' 2>/dev/null; then
    "$python" "$root/bench/peers/torch_peer.py" $quick \
        --probe "$build/bench/peers/libsparq_peers_probe.so" --json "$build/torch.json" || status=1
else
    echo "PyTorch: left out, $python cannot import torch (SPARQ_PYTHON names another one)"
fi

"$python" "$root/bench/peers/report.py" --folder "$build" \
    --command "sh bench/peers/run.sh${*:+ $*}" >"$build/results.md"
echo
cat "$build/results.md"
echo
echo "Table:    $build/results.md"
echo "Figures:  $build/peers.json"
echo "Pictures: $build/time.png, $build/efficiency.png"
exit "$status"
