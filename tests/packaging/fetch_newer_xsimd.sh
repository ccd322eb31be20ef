#!/bin/sh
# SPDX-License-Identifier: MIT
# fetch_newer_xsimd.sh FOLDER: puts the headers of xsimd 14.1.0 into FOLDER/xsimd. The wheel
# of pythran on PyPI carries them; nothing of it is installed. Needs python3-pip.
set -eu
rm -rf "$1"
mkdir -p "$1"
cd "$1"
# Pinned, so that a failure is ours.
python3 -m pip download -q --no-deps --only-binary=:all: pythran==0.19.0
cmake -E tar xf pythran-0.19.0-*.whl pythran/xsimd
mv pythran/xsimd xsimd
rm -r pythran pythran-0.19.0-*.whl
grep -q '#define XSIMD_VERSION_MAJOR 14' xsimd/config/xsimd_config.hpp
