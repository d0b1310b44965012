# Layers: one object library a folder. A layer sees its own folder and, through its links, those
# below it; an include that points up finds no file. Folders are searched for quoted includes only,
# so that our memory.h or threads.h never stands in front of the system's.

set(TARN_WARNINGS -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes
    -Wmissing-prototypes -Wvla)

# Flags of everything compiled here. No contraction: gcc and clang must round alike.
add_library(tarn_flags INTERFACE)
target_compile_features(tarn_flags INTERFACE c_std_11)
target_compile_definitions(tarn_flags INTERFACE _GNU_SOURCE)
target_compile_options(tarn_flags INTERFACE -ffp-contract=off -fvisibility=hidden
                       ${TARN_WARNINGS} $<$<BOOL:${TARN_WERROR}>:-Werror>)
if(TARN_SANITIZE)
    target_compile_options(tarn_flags INTERFACE -fsanitize=${TARN_SANITIZE} -fno-omit-frame-pointer
                           -fno-sanitize-recover=all)
    target_link_options(tarn_flags INTERFACE -fsanitize=${TARN_SANITIZE})
endif()

# tarn_layer(NAME SOURCES file... LINKS target...)
function(tarn_layer name)
    cmake_parse_arguments(LAYER "" "" "SOURCES;LINKS" ${ARGN})
    add_library(${name} OBJECT ${LAYER_SOURCES})
    set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    target_compile_options(${name} PUBLIC "SHELL:-iquote ${CMAKE_CURRENT_SOURCE_DIR}")
    target_link_libraries(${name} PUBLIC ${LAYER_LINKS} PRIVATE tarn_flags)
endfunction()
