# SPDX-License-Identifier: MIT
# Catch2 for a target that Debian has no library for: main() compiled from the header.

# Catch.cmake (catch_discover_tests) is the host package's.
find_path(SPARQ_CATCH2_MODULE_DIR Catch.cmake PATHS /usr/lib/cmake/Catch2 REQUIRED NO_DEFAULT_PATH)
list(APPEND CMAKE_MODULE_PATH "${SPARQ_CATCH2_MODULE_DIR}")

find_path(SPARQ_CATCH2_INCLUDE_DIR catch2/catch.hpp REQUIRED)
if(NOT TARGET Catch2::Catch2)
  add_library(Catch2::Catch2 INTERFACE IMPORTED GLOBAL)
  target_include_directories(Catch2::Catch2 INTERFACE "${SPARQ_CATCH2_INCLUDE_DIR}")

  file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/catch2_main.cpp" CONTENT
    "#define CATCH_CONFIG_MAIN\n#include <catch2/catch.hpp>\n")
  add_library(sparq_catch2_main STATIC "${CMAKE_CURRENT_BINARY_DIR}/catch2_main.cpp")
  target_link_libraries(sparq_catch2_main PUBLIC Catch2::Catch2)
  add_library(Catch2::Catch2WithMain ALIAS sparq_catch2_main)
endif()
