# SPDX-License-Identifier: MIT
# Provides the target `xsimd`, in this source tree and (installed) in sparqConfig.cmake.
#
# Taken in this order: a target `xsimd` that the project has already; the headers in
# SPARQ_XSIMD_INCLUDE_DIR; an xsimd package; headers on the search path without a package.
# xsimd before 9.0 (Debian 12 has 8.1) names xtl in its exported target and neither looks
# for it nor needs it: linking then fails with "cannot find -lxtl". The entry is dropped
# unless the project has an xtl target.

set(SPARQ_XSIMD_MINIMUM 8.1.0)

if(NOT TARGET xsimd)
  if(NOT SPARQ_XSIMD_INCLUDE_DIR)
    find_package(xsimd CONFIG QUIET)
  endif()
  if(TARGET xsimd)
    # Visible also to the project that includes this one and links sparq::sparq.
    set_target_properties(xsimd PROPERTIES IMPORTED_GLOBAL TRUE)
  else()
    find_path(SPARQ_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp
      DOC "Folder with xsimd/xsimd.hpp; empty: find_package(xsimd)")
    if(SPARQ_XSIMD_INCLUDE_DIR)
      add_library(xsimd INTERFACE IMPORTED GLOBAL)
      target_include_directories(xsimd INTERFACE "${SPARQ_XSIMD_INCLUDE_DIR}")
    endif()
  endif()
endif()

if(TARGET xsimd AND NOT TARGET xtl)
  get_target_property(sparq_xsimd_links xsimd INTERFACE_LINK_LIBRARIES)
  if("xtl" IN_LIST sparq_xsimd_links)
    list(REMOVE_ITEM sparq_xsimd_links xtl)
    set_target_properties(xsimd PROPERTIES INTERFACE_LINK_LIBRARIES "${sparq_xsimd_links}")
  endif()
  unset(sparq_xsimd_links)
endif()

# The version is read from the headers: a folder of headers has no other.
set(SPARQ_XSIMD_VERSION "")
if(TARGET xsimd)
  get_target_property(sparq_xsimd_folders xsimd INTERFACE_INCLUDE_DIRECTORIES)
  foreach(folder IN LISTS sparq_xsimd_folders)
    string(REGEX REPLACE "^\\$<BUILD_INTERFACE:(.*)>$" "\\1" folder "${folder}")
    if(EXISTS "${folder}/xsimd/config/xsimd_config.hpp")
      file(READ "${folder}/xsimd/config/xsimd_config.hpp" sparq_xsimd_config)
      string(REGEX REPLACE
        ".*XSIMD_VERSION_MAJOR ([0-9]+).*XSIMD_VERSION_MINOR ([0-9]+).*XSIMD_VERSION_PATCH ([0-9]+).*"
        "\\1.\\2.\\3" SPARQ_XSIMD_VERSION "${sparq_xsimd_config}")
      unset(sparq_xsimd_config)
      break()
    endif()
  endforeach()
  unset(sparq_xsimd_folders)
endif()
