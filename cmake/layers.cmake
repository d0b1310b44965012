# Layers: one object library a folder. A layer sees its own folder and, through its links, those
# below it; an include that points up finds no file. Folders are searched for quoted includes only,
# so that our memory.h or threads.h never stands in front of the system's.

set(c_warnings -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla)
set(TARN_WARNINGS -Wall -Wextra $<$<COMPILE_LANGUAGE:C>:${c_warnings}>)

# Flags of everything compiled here. No contraction: gcc and clang must round alike. The names of
# files in messages begin at the root of the tree, wherever it was built.
add_library(tarn_flags INTERFACE)
target_compile_features(tarn_flags INTERFACE c_std_11)
target_compile_definitions(tarn_flags INTERFACE _GNU_SOURCE)
set(flags -ffp-contract=off -fvisibility=hidden -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=
    ${TARN_WARNINGS} $<$<BOOL:${TARN_WERROR}>:-Werror>)
target_compile_options(tarn_flags INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:${flags}>")
if(TARN_FUZZ)
    target_compile_options(tarn_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(TARN_SANITIZE)
    target_compile_options(tarn_flags INTERFACE -fsanitize=${TARN_SANITIZE} -fno-omit-frame-pointer
                           -fno-sanitize-recover=all)
    target_link_options(tarn_flags INTERFACE -fsanitize=${TARN_SANITIZE})
endif()

# tarn_layer(NAME SOURCES file... [LINKS target...] [PARTS target...])
# PARTS are object libraries that belong to the layer but are compiled with flags of their own.
function(tarn_layer name)
    cmake_parse_arguments(LAYER "" "" "SOURCES;LINKS;PARTS" ${ARGN})
    add_library(${name} OBJECT ${LAYER_SOURCES})
    set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON
                          TARN_PARTS "${LAYER_PARTS}")
    target_compile_options(${name} PUBLIC "SHELL:-iquote ${CMAKE_CURRENT_SOURCE_DIR}")
    target_link_libraries(${name} PUBLIC ${LAYER_LINKS} PRIVATE tarn_flags)
    foreach(part IN LISTS LAYER_PARTS)
        target_link_libraries(${name} INTERFACE $<TARGET_OBJECTS:${part}>)
        add_dependencies(${name} ${part})
    endforeach()
endfunction()

# tarn_layers_below(OUT target...): these targets and every layer they stand on. Search folders come
# along through links, objects do not: a program must link each layer by name.
function(tarn_layers_below out)
    set(all ${ARGN})
    set(unread ${ARGN})
    while(unread)
        list(POP_FRONT unread target)
        if(target MATCHES "^tarn_layer_")
            get_target_property(links ${target} INTERFACE_LINK_LIBRARIES)
            list(FILTER links INCLUDE REGEX "^tarn_layer_")
            list(APPEND unread ${links})
            list(APPEND all ${links})
        endif()
    endwhile()
    list(REMOVE_DUPLICATES all)
    set(${out} ${all} PARENT_SCOPE)
endfunction()
