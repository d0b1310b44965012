# tarn_library(TOP): libtarn, the target `tarn`, out of the objects of layer TOP and all below it.
#
# Only objects are taken from the layers, not their usage requirements: those (search folders,
# warnings) end here, so the installed target names no layer, and a program that links tarn::tarn
# in the build tree finds the two public headers and nothing else of the project.
#
# tarn_objects(LIBRARY TOP DEVICE...): the objects, with these in place of tarn_device_none.
function(tarn_objects library top)
    tarn_layers_below(layers ${top})
    foreach(layer IN LISTS layers)
        get_target_property(parts ${layer} TARN_PARTS)
        list(TRANSFORM parts REPLACE "^tarn_device_none$" "${ARGN}")
        foreach(objects IN LISTS layer parts)
            target_sources(${library} PRIVATE $<TARGET_OBJECTS:${objects}>)
        endforeach()
    endforeach()
endfunction()

function(tarn_library top)
    add_library(tarn)
    add_library(tarn::tarn ALIAS tarn)
    if(TARN_CUDA_FOUND) # the runtime comes along; the driver is found when a device is opened
        tarn_objects(tarn ${top} tarn_device_cuda)
        target_sources(tarn PRIVATE $<TARGET_OBJECTS:tarn_layer_cuda>)
        target_link_libraries(tarn PRIVATE CUDA::cudart_static)
    else()
        tarn_objects(tarn ${top} tarn_device_none)
    endif()
    target_link_libraries(tarn PRIVATE ${TARN_LIBRARIES})

    # Same number, same ABI: the major version, and while that is 0 the minor too.
    set(abi ${PROJECT_VERSION_MAJOR})
    if(abi EQUAL 0)
        set(abi 0.${PROJECT_VERSION_MINOR})
    endif()
    set_target_properties(tarn PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${abi}
                          LINKER_LANGUAGE C EXPORT_NAME tarn)

    # The objects hide what is not TARN_API; the script hides what came in with static libraries.
    set(script ${PROJECT_SOURCE_DIR}/cmake/tarn.map)
    target_link_options(tarn PRIVATE $<TARGET_PROPERTY:tarn_flags,INTERFACE_LINK_OPTIONS>
                        LINKER:--version-script=${script})
    set_property(TARGET tarn APPEND PROPERTY LINK_DEPENDS ${script})
    if(NOT TARN_SANITIZE) # clang leaves the sanitizer's own symbols to the program
        target_link_options(tarn PRIVATE LINKER:--no-undefined)
    endif()

    foreach(header lib/tarn.h lib/base/tarn_base.h)
        cmake_path(GET header FILENAME name)
        configure_file(${PROJECT_SOURCE_DIR}/${header} ${PROJECT_BINARY_DIR}/include/${name}
                       COPYONLY)
    endforeach()
    target_include_directories(tarn INTERFACE $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>
                               $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    target_compile_features(tarn INTERFACE c_std_11)
endfunction()
