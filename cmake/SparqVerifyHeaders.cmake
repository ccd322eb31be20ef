# SPDX-License-Identifier: MIT
# With CMAKE_VERIFY_INTERFACE_HEADER_SETS the target all_verify_interface_header_sets compiles
# every public header alone. The adaptors need other libraries: each is verified through a
# target of its own, and what it needs must be there.

set_target_properties(sparq PROPERTIES INTERFACE_HEADER_SETS_TO_VERIFY HEADERS)

function(sparq_verify_adaptor header package library)
  find_package(${package} REQUIRED)
  add_library(sparq_adaptor_${header} INTERFACE)
  target_link_libraries(sparq_adaptor_${header} INTERFACE sparq ${library})
  target_sources(sparq_adaptor_${header} INTERFACE FILE_SET HEADERS
    BASE_DIRS "${PROJECT_SOURCE_DIR}/include"
    FILES "${PROJECT_SOURCE_DIR}/include/sparq/${header}.hpp")
endfunction()

sparq_verify_adaptor(eigen Eigen3 Eigen3::Eigen)
sparq_verify_adaptor(openmp OpenMP OpenMP::OpenMP_CXX)
sparq_verify_adaptor(onetbb TBB TBB::tbb)
