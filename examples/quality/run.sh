#!/bin/sh
# SPDX-License-Identifier: MIT
# sh examples/quality/run.sh          a small run: 10 minutes on two processors, with the builds
#                                     of llama.cpp and of the program
# sh examples/quality/run.sh whole    all tasks, methods and lengths: 17 hours of one processor
#                                     (estimated)
# sh examples/quality/run.sh run --tasks copy --examples 2 ..    what you choose: run --help
# sh examples/quality/run.sh report   tables and pictures of what is there
#
# --text kjv|austen|FILE before these words takes another text than the King James Bible: Jane
# Austen's novels, or a file.
#
# Results stay in build/quality (or SPARQ_BUILD_DIR) and a run goes on where it was left. It is
# shared by two processes of one thread each (SPARQ_PROCESSES=1: by one).
# Needs Debian 12 and 1 GB of disk.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
build=${SPARQ_BUILD_DIR:-$root/build/quality}
llama=${SPARQ_LLAMA_CPP:-$build/engine}
jobs=${SPARQ_JOBS:-$(nproc)}

. "$root/cmake/bootstrap.sh"
sparq_require_packages g++ cmake ninja-build libxsimd-dev python3-pip nlohmann-json3-dev \
    libcli11-dev python3-matplotlib

text=kjv
if [ "${1:-}" = --text ]; then
    text=${2:?--text kjv, austen or a file}
    shift 2
fi

sh "$root/examples/llama_cpp/fetch.sh" "$llama"

# AMX tiles end in an illegal instruction in some virtual machines that list them, and with
# AVX512-FP16 ggml's flash attention is slow for 64 channels.
if [ "$(uname -m)" = x86_64 ]; then
    flags="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16 -mno-avx512fp16"
fi
mkdir -p "$build"
if [ ! -f "$llama/build/bin/libllama.so" ]; then
    echo "building llama.cpp: 3 minutes of one processor"
    [ -f "$llama/build/build.ninja" ] || cmake -S "$llama/llama.cpp" -B "$llama/build" -G Ninja \
        -DCMAKE_BUILD_TYPE=Release "-DCMAKE_C_FLAGS=${flags:-}" "-DCMAKE_CXX_FLAGS=${flags:-}" \
        -DBUILD_SHARED_LIBS=ON -DGGML_OPENMP=OFF -DGGML_CCACHE=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        >"$build/llama.log" 2>&1
    cmake --build "$llama/build" --target llama -j "$jobs" >>"$build/llama.log" 2>&1 || {
        tail -n 50 "$build/llama.log" >&2
        exit 1
    }
fi
cmake -S "$root" -B "$build/program" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPARQ_BUILD_TESTS=OFF \
    -DSPARQ_BUILD_BENCHMARKS=OFF -DSPARQ_BUILD_EXAMPLES=ON "-DSPARQ_LLAMA_CPP=$llama" >/dev/null
cmake --build "$build/program" -j "$jobs" --target sparq_quality >"$build/build.log" 2>&1 || {
    cat "$build/build.log" >&2
    exit 1
}

quality=$build/program/examples/quality/quality
# use_text NAME: what the commands that follow read.
use_text() {
    text_name=$1
    case $1 in
        kjv) sparq_require_packages bible-kjv ;;
        austen) sparq_require_packages r-cran-janeaustenr ;;
        *)
            text_name=$(basename "$1" .txt)
            [ "$1" -ef "$build/$text_name.txt" ] || cp "$1" "$build/$text_name.txt"
            ;;
    esac
    [ -s "$build/$text_name.txt" ] ||
        sh "$root/examples/quality/$1.sh" >"$build/$text_name.txt"
    with_model="--model $llama/model.gguf --text $build/$text_name.txt"
}
use_text "$text"

# run ARGUMENTS...: adds to the results, every process its part of the examples.
processes=${SPARQ_PROCESSES:-2}
run() {
    running=
    for part in $(seq 0 $((processes - 1))); do
        "$quality" run $with_model --text-name "$text_name" --results "$build/results.csv" "$@" \
            --part "$part" --parts "$processes" &
        running="$running $!"
    done
    # Background processes of a script do not get the interrupt of the keyboard.
    trap 'kill $running 2>/dev/null; exit 130' INT TERM
    for process in $running; do wait "$process"; done
    trap - INT TERM
}
# replay METHODS...: fidelity of all layers at 2048 tokens.
replay() {
    [ -f "$build/layers/layer00_q.npy" ] ||
        "$quality" dump $with_model --context 2048 --out "$build/layers"
    "$quality" fidelity --data "$build/layers" --out "$build/fidelity.csv" --methods "$@"
}
report() {
    processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
    "$quality" summary --results "$build/results.csv" --out "$build/summary.json" --about \
        "SmolLM2-135M-Instruct Q4_1, seed 1; ${processor:-$(uname -m)}, $(date +%F)"
    "${PYTHON:-/usr/bin/python3}" "$root/examples/quality/plot.py" "$build"
    cat "$build/tables.md"
}

case ${1:-small} in
    small)
        "$quality" check $with_model --context 600
        run --tasks bits --contexts 2048 --examples 3 --methods @small
        run --tasks copy --contexts 2048 --examples 2 --methods @small
        run --tasks needle --contexts 512 --examples 1 --methods @small
        replay sparq:r=16,k=128,tail=none sparq:r=16,k=128,tail=mean tiers:tolerance=0.05
        report
        ;;
    whole)
        "$quality" check $with_model --context 600
        run --tasks bits copy --contexts 500 2048 4096 8000 --examples 8 --methods @main @tiers @grid
        run --tasks repetition --contexts 2048 --examples 16 --methods @main
        run --tasks needle --contexts 512 1024 2048 4096 8000 --examples 4 --methods @main
        run --tasks bits --contexts 500 2048 4096 8000 --examples 8 --methods @whole
        replay @main
        use_text austen
        run --tasks bits --contexts 2048 4096 8000 --examples 8 --methods @main @tiers
        report
        ;;
    report) report ;;
    run)
        shift
        run "$@"
        ;;
    *) exec "$quality" "$@" ;;
esac
