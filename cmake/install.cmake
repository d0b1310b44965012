# What is installed: the library, its two headers, and how to find them from CMake and pkg-config.
# The tarn command installs itself where it is built. Everything is relative to the prefix, so an
# installed tree can be moved.
include(CMakePackageConfigHelpers)

install(TARGETS tarn EXPORT tarnTargets)
install(FILES lib/tarn.h lib/base/tarn_base.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/tarn)
install(EXPORT tarnTargets NAMESPACE tarn:: DESTINATION ${package_dir})
configure_package_config_file(cmake/tarnConfig.cmake.in ${PROJECT_BINARY_DIR}/tarnConfig.cmake
                              INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
# While the major version is 0 each minor version may break: 0.2 does not serve who asks for 0.1.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tarnConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tarnConfig.cmake ${PROJECT_BINARY_DIR}/tarnConfigVersion.cmake
        DESTINATION ${package_dir})

# A folder given as an absolute path is taken as it is; the package cannot be moved then.
set(pc_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
cmake_path(ABSOLUTE_PATH pc_dir BASE_DIRECTORY ${CMAKE_INSTALL_PREFIX} OUTPUT_VARIABLE pc_from)
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY ${pc_from} OUTPUT_VARIABLE pc_up)
set(TARN_PC_PREFIX "\${pcfiledir}/${pc_up}")
set(TARN_PC_LIBDIR "\${prefix}")
cmake_path(APPEND TARN_PC_LIBDIR ${CMAKE_INSTALL_LIBDIR})
set(TARN_PC_INCLUDEDIR "\${prefix}")
cmake_path(APPEND TARN_PC_INCLUDEDIR ${CMAKE_INSTALL_INCLUDEDIR})
configure_file(cmake/tarn.pc.in ${PROJECT_BINARY_DIR}/tarn.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/tarn.pc DESTINATION ${pc_dir})
