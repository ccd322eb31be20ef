# SPDX-License-Identifier: MIT
# Cross-compiling for aarch64 on Debian (g++-aarch64-linux-gnu) and running under qemu-user.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)

# Debian's package of Catch2 holds a library for the host only; its header serves both.
set(Catch2_DIR "${CMAKE_CURRENT_LIST_DIR}/catch2" CACHE PATH "")
