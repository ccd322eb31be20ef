// SPDX-License-Identifier: MIT
// The version of the library: the single source that CMake, pkg-config and the
// inline namespace are taken from.
#pragma once

#define SPARQ_VERSION_MAJOR 0
#define SPARQ_VERSION_MINOR 1
#define SPARQ_VERSION_PATCH 0
#define SPARQ_VERSION_STRING "0.1.0"

/// Opens the versioned namespace. Two minor versions can be linked into one
/// program: their symbols differ.
#define SPARQ_NAMESPACE_BEGIN \
    namespace sparq {         \
    inline namespace v0_1 {
#define SPARQ_NAMESPACE_END \
    }                       \
    }
