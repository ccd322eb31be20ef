#!/bin/sh
# SPDX-License-Identifier: MIT
# Consumes sparq in one way, as a user's project would, and runs the program:
#     run.sh add_subdirectory|fetch_content|find_package|pkg_config SOURCE BUILD WORK [-D...]
# SOURCE and BUILD are sparq's own trees (BUILD configured with SPARQ_INSTALL), WORK is
# emptied and used, what follows goes to the consumer's cmake. CXX is the compiler.
set -eu
way=$1 source=$2 build=$3 work=$4
shift 4
here=$(cd "$(dirname "$0")" && pwd)
: "${CXX:=g++}"
export CXX
version=$(sed -n 's/^#define SPARQ_VERSION_STRING "\(.*\)"/\1/p' "$source/include/sparq/version.hpp")
rm -rf "$work"
mkdir -p "$work"

install_sparq() { cmake --install "$build" --prefix "$work/prefix" >"$work/install.log"; }

# run PROGRAM: it must succeed and have been compiled with these headers' version.
run() {
    "$1" >"$work/output"
    cat "$work/output"
    grep -qx "sparq $version" "$work/output"
}

# build_and_run FOLDER CMAKE-ARGUMENTS...: unoptimised, where these do not say otherwise.
build_and_run() {
    folder=$1
    shift
    cmake -S "$here/$folder" -B "$work/build" -DCMAKE_BUILD_TYPE=Debug "$@"
    cmake --build "$work/build"
    run "$work/build/consumer"
}

# run_dispatched: the program with kernels chosen at run time, which take long to compile: one
# way of taking sparq in has it. Each processor can run the narrowest set of its family.
run_dispatched() {
    run "$work/build/dispatched"
    case $(uname -m) in
    x86_64) narrowest=sse2 ;;
    aarch64) narrowest=neon ;;
    *) narrowest=plain ;;
    esac
    SPARQ_ISA=$narrowest "$work/build/dispatched" | grep -qx "kernels for $narrowest"
}

# refuses_other_types: what TYPES of sparq_add_kernels leaves out does not compile, and a source
# that does not know of them does not link.
refuses_other_types() {
    flags="-std=c++20 $(PKG_CONFIG_PATH="$work/prefix/share/pkgconfig" pkg-config --cflags sparq)"
    $CXX $flags -fsyntax-only -DSPARQ_NO_KERNELS_HALF "$here/consumer/dispatched.cpp" \
        2>"$work/refusal" && return 1
    grep -q 'leave this element type out' "$work/refusal"
    $CXX $flags -c "$here/consumer/dispatched.cpp" -o "$work/other.o"
    kernels=$(find "$work/build/CMakeFiles/dispatched.dir" -path '*/kernels/*.o')
    $CXX "$work/other.o" $kernels -o "$work/other" 2>"$work/refusal" && return 1
    grep -q 'undefined reference to .*chosen_kernels' "$work/refusal"
}

case $way in
add_subdirectory)
    build_and_run add_subdirectory "-DSPARQ_SOURCE=$source" "$@"
    ;;
fetch_content)
    # FetchContent copies the whole folder: give it what a release would hold.
    mkdir "$work/release"
    cp -R "$source/CMakeLists.txt" "$source/cmake" "$source/include" "$source/LICENSE" "$work/release"
    build_and_run fetch_content "-DSPARQ_SOURCE=$work/release" "$@"
    ;;
find_package)
    install_sparq
    build_and_run find_package "-DCMAKE_PREFIX_PATH=$work/prefix" "-DSPARQ_VERSION=$version" \
        -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DSPARQ_KERNELS_OPTIMIZATION=-O1 "$@"
    run_dispatched
    refuses_other_types
    ;;
pkg_config)
    install_sparq
    PKG_CONFIG_PATH="$work/prefix/share/pkgconfig"
    export PKG_CONFIG_PATH
    [ "$(pkg-config --modversion sparq)" = "$version" ]
    # Unquoted on purpose: the flags are words.
    $CXX -std=c++20 -O1 "$here/consumer/main.cpp" $(pkg-config --cflags --libs sparq) -o "$work/consumer"
    run "$work/consumer"
    ;;
*)
    echo "run.sh: no such way: $way" >&2
    exit 2
    ;;
esac
