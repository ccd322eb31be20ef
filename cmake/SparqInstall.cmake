# SPDX-License-Identifier: MIT
# Installs the headers, the CMake package and the pkg-config file. All of it is independent
# of the processor and goes below share/.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(sparq_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/sparq")

install(TARGETS sparq EXPORT sparq FILE_SET HEADERS FILE_SET adaptors)
install(EXPORT sparq FILE sparqTargets.cmake NAMESPACE sparq:: DESTINATION "${sparq_package_dir}")

configure_package_config_file(cmake/sparqConfig.cmake.in sparqConfig.cmake
  INSTALL_DESTINATION "${sparq_package_dir}"
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may break: 0.1.x is compatible with 0.1.y only.
write_basic_package_version_file(sparqConfigVersion.cmake
  COMPATIBILITY SameMinorVersion
  ARCH_INDEPENDENT)
install(FILES
  "${CMAKE_CURRENT_BINARY_DIR}/sparqConfig.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/sparqConfigVersion.cmake"
  cmake/SparqXsimd.cmake
  cmake/SparqKernels.cmake
  DESTINATION "${sparq_package_dir}")
# What sparq_add_kernels compiles into the user's targets.
install(DIRECTORY cmake/kernels DESTINATION "${sparq_package_dir}")

configure_file(cmake/sparq.pc.in sparq.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/sparq.pc" DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
