# SPDX-License-Identifier: MIT

# sparq_add_kernels(<target> [TYPES float|half|bfloat16 ...]): compiles the kernels for every
# instruction set of the processor family into the target, which links sparq::sparq, for
# sparq/dispatch.hpp to choose from at run time. The target's own sources keep the flags they
# have. Once for each program or shared library.
#
# TYPES are the element types of K and V that the program dispatches; all three unless given.
# One alone takes 0.4 of the time and of the code of three (g++ 12, -O3, unit for AVX2: 33 and
# 85 s, 0.48 and 1.24 MB, Zen 3). A call for another type does not compile.
#
# The flags come last on the command line, behind those of the configuration and the target,
# and hold in every one of them: optimised, with NaN and infinity, nothing that is inline is
# left in these units for the linker to share with others. SPARQ_KERNELS_OPTIMIZATION is the
# level, -O3 unless it is set: with g++ 12 and -O2 they compile in half the time and groups of
# four heads and more take 2 to 6 % longer.
function(sparq_add_kernels target)
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "INTERFACE_LIBRARY")
    message(FATAL_ERROR "sparq_add_kernels(${target}): an interface library compiles nothing; "
      "name the program or library that links it")
  endif()
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
    message(FATAL_ERROR "sparq_add_kernels needs g++ or clang, not ${CMAKE_CXX_COMPILER_ID}")
  endif()
  set(types float half bfloat16)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" TYPES)
  foreach(type IN LISTS arg_TYPES)
    if(NOT type IN_LIST types)
      message(FATAL_ERROR "sparq_add_kernels(${target}): TYPES has '${type}', allowed is ${types}")
    endif()
  endforeach()
  if(arg_UNPARSED_ARGUMENTS OR "TYPES" IN_LIST arg_KEYWORDS_MISSING_VALUES)
    message(FATAL_ERROR "sparq_add_kernels(${target}): what may follow is TYPES and some of ${types}")
  endif()
  set(left_out "")
  if(arg_TYPES)
    set(left_out ${types})
    list(REMOVE_ITEM left_out ${arg_TYPES})
  endif()
  if(left_out)
    # For the target's sources too: they see the same table. It has a name of its own, so that
    # what does not see it does not link.
    list(REMOVE_ITEM types ${left_out})
    list(JOIN types "_" name)
    list(TRANSFORM left_out TOUPPER)
    list(TRANSFORM left_out PREPEND SPARQ_NO_KERNELS_)
    target_compile_definitions(${target} PUBLIC SPARQ_KERNEL_TYPES=only_${name} ${left_out})
  endif()
  set(level -O3)
  if(SPARQ_KERNELS_OPTIMIZATION)
    set(level ${SPARQ_KERNELS_OPTIMIZATION})
  endif()
  set(common ${level} -finline -fno-fast-math -fno-lto -Wno-attributes)
  set(units baseline)
  set(flags_baseline ${common})
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
    set(units baseline avx2 avx512)
    # -march and -mno- undo what the project compiles its own sources for.
    set(flags_baseline ${common} -march=x86-64 -mno-avx)
    set(flags_avx2 ${common} -march=x86-64 -mavx2 -mfma -mf16c -mno-avx512f)
    set(flags_avx512 ${common} -march=x86-64-v4)
  endif()

  set(folder "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/kernels")
  set(sources "${folder}/dispatch.cpp")
  foreach(unit IN LISTS units)
    set(source "${folder}/kernels_${unit}.cpp")
    list(APPEND sources "${source}")
    set_source_files_properties("${source}" TARGET_DIRECTORY ${target} PROPERTIES
      COMPILE_OPTIONS "${flags_${unit}}")
  endforeach()
  if("avx2" IN_LIST units)
    set_source_files_properties("${folder}/dispatch.cpp"
      TARGET_DIRECTORY ${target} PROPERTIES COMPILE_DEFINITIONS SPARQ_DISPATCH_X86)
  endif()
  set_source_files_properties(${sources} TARGET_DIRECTORY ${target} PROPERTIES
    SKIP_PRECOMPILE_HEADERS ON SKIP_UNITY_BUILD_INCLUSION ON)
  target_sources(${target} PRIVATE ${sources})
endfunction()
