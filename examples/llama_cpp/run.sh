#!/bin/sh
# SPDX-License-Identifier: MIT
# sh examples/llama_cpp/run.sh: gets llama.cpp and a small model, builds both, then
#   - a table of ms a token and closeness to ggml, at several depths of a long text, on one
#     thread and on two
#   - llama.cpp's own llama-bench, unmodified, without the plugin and with it: tokens, prompts
#   - its llama-server, unmodified, with the plugin: two requests at a time
# sh examples/llama_cpp/run.sh prompts [PAIRS]: the prompts alone.
# sh examples/llama_cpp/run.sh build: gets and builds, and ends there.
# sh examples/llama_cpp/run.sh table ...: instead, the table with these options (--help).
# sh examples/llama_cpp/run.sh states ...: instead, the plugin against untouched runs in every
# state a cache gets into (--threads 2, --case rollback). With SPARQ_OPENMP=1 ggml's threads are
# those of OpenMP, which do not spin at barriers where they are more than the processors.
# Needs Debian 12 and 1 GB of disk. On two processors all is done in eleven minutes, the tables in
# six (twenty and eleven on a slow host). Prints the seconds at each part's start. What is built,
# and the processed text, is kept for the next run.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
build=${SPARQ_BUILD_DIR:-$root/build/llama_cpp}
llama=${SPARQ_LLAMA_CPP:-$build/engine}
jobs=${SPARQ_JOBS:-$(nproc)}

began=$(date +%s)
say() { echo "== $(($(date +%s) - began)) s: $1"; }

. "$root/cmake/bootstrap.sh"
sparq_require_packages g++ cmake ninja-build libxsimd-dev python3-pip bible-kjv curl libcli11-dev

sh "$root/examples/llama_cpp/fetch.sh" "$llama"

# AMX tiles end in an illegal instruction in some virtual machines that list them. With
# AVX512-FP16 ggml's flash attention falls into a scalar loop for 64 channels and takes twice
# the time: without it the comparison is fair.
if [ "$(uname -m)" = x86_64 ]; then
    flags="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16 -mno-avx512fp16"
fi
# configure FOLDER OPENMP
configure() {
    [ ! -f "$llama/$1/build.ninja" ] || return 0
    cmake -S "$llama/llama.cpp" -B "$llama/$1" -G Ninja -DCMAKE_BUILD_TYPE=Release \
        "-DCMAKE_C_FLAGS=${flags:-}" "-DCMAKE_CXX_FLAGS=${flags:-}" -DBUILD_SHARED_LIBS=ON \
        "-DGGML_OPENMP=$2" -DGGML_CCACHE=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF >"$llama/configure.log" 2>&1 || {
        tail -n 20 "$llama/configure.log" >&2
        exit 1
    }
}
configure build OFF
say "building llama.cpp's library and the plugin"
cmake --build "$llama/build" --target llama -j "$jobs"
cmake -S "$root" -B "$build/plugin" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPARQ_BUILD_TESTS=OFF \
    -DSPARQ_BUILD_BENCHMARKS=OFF -DSPARQ_BUILD_EXAMPLES=ON "-DSPARQ_LLAMA_CPP=$llama" >/dev/null
cmake --build "$build/plugin" -j "$jobs" \
    --target ggml-sparq sparq_llama_states sparq_llama_table

programs=$build/plugin/examples/llama_cpp
plugin=$programs/libggml-sparq.so
model=$llama/model.gguf
text=$build/text.txt
# Genesis and Exodus, a verse a line, without the verses' numbers.
bible -l 99999 -f gen1:1-exo40:38 2>/dev/null </dev/null | sed 's/^[A-Za-z0-9]*:[0-9]* //' >"$text"

# Twice the work of the library: what does not need them comes first.
build_programs() {
    say "building llama-bench and llama-server"
    cmake --build "$llama/build" --target llama-bench llama-server -j "$jobs"
}
table() { "$programs/table" "$plugin" "$model" "$text" --prompt "$build/prompt.state" "$@"; }
# prompts [PAIRS]: a prompt of 1024 tokens in llama-bench, one thread, PAIRS times without the
# plugin and with it, by turns; and how many times as long it takes with it, the median.
prompts() {
    for pair in $(seq "${1:-2}"); do
        [ $((pair % 2)) = 0 ] && order="$plugin -" || order="- $plugin"
        for loaded in $order; do
            (
                [ "$loaded" = - ] || export GGML_BACKEND_PATH="$loaded"
                "$llama/build/bin/llama-bench" -m "$model" -t 1 -fa 1 -r 1 --no-warmup -p 1024 -n 0 \
                    -o jsonl \
                    2>"$build/bench.log"
            )
        done
    done | /usr/bin/python3 -c 'import json, statistics, sys
ms = [json.loads(line)["avg_ns"] / 1e6 for line in sys.stdin]
pairs = [(a, b) if i % 2 == 0 else (b, a) for i, (a, b) in enumerate(zip(ms[::2], ms[1::2]))]
for alone, loaded in pairs:
    print(f"{alone:.0f} ms without, {loaded:.0f} ms with the plugin: {loaded / alone:.3f}")
print(f"median {statistics.median(b / a for a, b in pairs):.3f}")'
}
case ${1:-} in
build)
    build_programs
    exit
    ;;
states)
    shift
    if [ "${SPARQ_OPENMP:-0}" = 1 ]; then
        configure openmp ON
        cmake --build "$llama/openmp" --target ggml-cpu -j "$jobs"
        export LD_PRELOAD="$llama/openmp/bin/libggml-cpu.so"
    fi
    exec "$programs/states" "$plugin" "$model" "$text" "$@"
    ;;
table)
    shift
    table "$@"
    exit
    ;;
prompts)
    shift
    build_programs
    prompts "$@"
    exit
    ;;
esac

for threads in 1 2; do
    [ "$threads" -le "$(nproc)" ] || continue
    echo
    say "decode at several depths, threads: $threads"
    table --threads "$threads"
done

echo
build_programs
echo
say "llama-bench: a prompt of 1024 tokens, one thread; alone and with the plugin"
prompts
echo
say "llama-bench: 32 tokens at depth 2048, one thread; alone, then with the plugin"
bench() {
    "$llama/build/bin/llama-bench" -m "$model" -t 1 -fa 1 -r 1 -p 0 -n 32 -d 2048 -o md
}
bench 2>/dev/null
export GGML_BACKEND_PATH="$plugin"
bench

echo
say "llama-server with the plugin: two requests at a time"
port=${SPARQ_PORT:-18437}
# Where the CPU backend is linked in, as here, llama-server loads others only when an option
# may name one: -ot does, and this one matches no tensor.
"$llama/build/bin/llama-server" -m "$model" -c 8192 -np 2 -t 1 --port "$port" -ot nothing=CPU \
    >"$build/server.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || :' EXIT
for second in $(seq 120); do
    curl -fs "http://127.0.0.1:$port/health" >/dev/null && break
    sleep 1
done
# ask LINES OF THE TEXT: goes on with that part of the text; prints the answer alone.
ask() {
    sed -n "$1p" "$text" | /usr/bin/python3 -c 'import json, sys
print(json.dumps({"prompt": sys.stdin.read(), "n_predict": 16, "temperature": 0}))' |
        curl -fs "http://127.0.0.1:$port/completion" -H 'Content-Type: application/json' -d @- |
        /usr/bin/python3 -c 'import json, sys
a = json.load(sys.stdin)
print(a["tokens_evaluated"], "tokens read, goes on:", repr(a["content"]))'
}
ask 1,30 >"$build/answer1" &
first=$!
ask 400,425 >"$build/answer2" &
second=$!
wait $first
wait $second
cat "$build/answer1" "$build/answer2"
kill -INT $server
wait $server || :
trap - EXIT
grep '^sparq' "$build/server.log"
grep -q '^sparq: [1-9][0-9]* attention nodes answered' "$build/server.log"
say "done"
