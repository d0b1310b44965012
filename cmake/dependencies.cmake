# What the library links, all of it from the system. One list: the build, the installed package file
# for CMake and the one for pkg-config are made from it.

# PREFIX:MODULE, giving the target PkgConfig::PREFIX
set(TARN_PKG_MODULES LMDB:lmdb ZSTD:libzstd JANSSON:jansson XXHASH:libxxhash SODIUM:libsodium)

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
set(TARN_LIBRARIES Threads::Threads m) # of libtarn itself
set(TARN_PC_REQUIRES)
foreach(pair IN LISTS TARN_PKG_MODULES)
    string(REPLACE ":" ";" pair "${pair}")
    list(GET pair 0 prefix)
    list(GET pair 1 module)
    pkg_check_modules(${prefix} REQUIRED IMPORTED_TARGET ${module})
    list(APPEND TARN_LIBRARIES PkgConfig::${prefix})
    list(APPEND TARN_PC_REQUIRES ${module})
endforeach()
list(JOIN TARN_PC_REQUIRES " " TARN_PC_REQUIRES)
