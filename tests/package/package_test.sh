#!/bin/sh
# package_test.sh CASE: consumers of the library as it is installed. The build sets
#   TARN_SOURCE, TARN_BUILD   the tree and the build folder under test
#   TARN_WORK                 a folder of ours, emptied by the cases that install
#   CMAKE, CC                 the tools the build used
# Exit 0 passed, 1 failed, 77 skipped.
set -eu

here=$TARN_SOURCE/tests/package
shared=$TARN_WORK/shared
staged=$TARN_WORK/staged
static=$TARN_WORK/static

fail()
{
    echo "$*"
    exit 1
}

skip()
{
    echo "skipped: $*"
    exit 77
}

empty_folder()
{
    rm -rf "$1"
    mkdir -p "$1"
}

# The folder of the .pc file, which tells where the library went below a prefix.
pc_folder()
{
    dirname "$(find "$1" -name tarn.pc)"
}

# The header's version: 0.1.0
header_version()
{
    for part in MAJOR MINOR PATCH; do
        sed -n "s/^#define TARN_VERSION_$part \([0-9]*\)$/\1/p" "$TARN_SOURCE/lib/tarn.h"
    done | paste -sd .
}

run_program()
{
    printed=$("$1") || fail "$1 failed: $printed"
    [ "$printed" = "$(header_version)" ] || fail "$1 printed '$printed', not $(header_version)"
}

# build_consumer PROJECT PREFIX [cmake options]: from an empty folder, then runs it.
build_consumer()
{
    project=$1
    prefix=$2
    shift 2
    folder=$TARN_WORK/consumer-$case_name
    empty_folder "$folder"
    "$CMAKE" -S "$here/$project" -B "$folder" -DCMAKE_PREFIX_PATH="$prefix" "$@"
    "$CMAKE" --build "$folder" -j 2
    run_program "$folder/program"
}

# compile_with_pkg_config PREFIX [pkg-config option]: no CMake at all.
compile_with_pkg_config()
{
    folder=$TARN_WORK/consumer-$case_name
    empty_folder "$folder"
    PKG_CONFIG_PATH=$(pc_folder "$1")
    export PKG_CONFIG_PATH
    [ "$(pkg-config --modversion tarn)" = "$(header_version)" ] || fail "tarn.pc: wrong version"
    # Unquoted: lists of flags.
    # shellcheck disable=SC2046,SC2086
    "$CC" -o "$folder/program" "$here/program.c" $(pkg-config --cflags --libs ${2:-} tarn) \
        "-Wl,-rpath,$(pkg-config --variable=libdir tarn)"
    run_program "$folder/program"
}

is_shared()
{
    [ -e "$TARN_BUILD/lib/libtarn.so" ] || skip "this build makes libtarn.a"
}

links_no_libtarn_so()
{
    if ldd "$1" | grep libtarn; then
        fail "$1 loads libtarn.so"
    fi
}

# Public functions as the headers declare them, one a line.
declared_functions()
{
    cat "$TARN_SOURCE/lib/tarn.h" "$TARN_SOURCE/lib/base/tarn_base.h" |
        sed -n 's/^TARN_API .*[ *]\(tarn_[a-z0-9_]*\)(.*/\1/p' | sort
}

case_install()
{
    empty_folder "$shared"
    "$CMAKE" --install "$TARN_BUILD" --prefix "$shared"
}

case_install_static()
{
    empty_folder "$static"
    "$CMAKE" -S "$TARN_SOURCE" -B "$static/build" -DCMAKE_C_COMPILER="$CC" \
        -DCMAKE_BUILD_TYPE=Debug -DBUILD_SHARED_LIBS=OFF -DTARN_TESTS=OFF -DTARN_EXAMPLES=OFF
    "$CMAKE" --build "$static/build" -j 2
    "$CMAKE" --install "$static/build" --prefix "$static/installed"
    rm -rf "$static/build"
}

# Just these names, with the prefix's own library folder taken as lib.
case_installed_files()
{
    cat > "$TARN_WORK/allowed" << 'END'
bin/tarn
include/tarn.h
include/tarn_base.h
lib/cmake/tarn/tarnConfig.cmake
lib/cmake/tarn/tarnConfigVersion.cmake
lib/cmake/tarn/tarnTargets.cmake
lib/cmake/tarn/tarnTargets-[a-z]*.cmake
lib/libtarn.a
lib/libtarn.so
lib/libtarn.so.[0-9.]*
lib/pkgconfig/tarn.pc
END
    (cd "$shared" && find . ! -type d) | sed -e 's,^\./,,' -e 's,^lib/[a-z0-9_]*-linux-gnu/,lib/,' |
        sort > "$TARN_WORK/files"
    if grep -vx -f "$TARN_WORK/allowed" "$TARN_WORK/files"; then
        fail "installed, and should not be"
    fi
    # shellcheck disable=SC2013 # one word a line
    for name in $(grep -v -e 'lib/libtarn' -e 'bin/' -e '\[' "$TARN_WORK/allowed"); do
        grep -qx "$name" "$TARN_WORK/files" || fail "not installed: $name"
    done
    if grep -rIlF -e "$TARN_SOURCE/" -e "$TARN_BUILD/" "$shared"; then
        fail "an installed file names a folder of the build"
    fi
}

# The command finds the library beside it, not in the build folder.
case_installed_command()
{
    [ -x "$shared/bin/tarn" ] || skip "this build makes no command"
    empty_folder "$TARN_WORK/moved"
    cp -R "$shared/." "$TARN_WORK/moved"
    if ldd "$TARN_WORK/moved/bin/tarn" | grep 'libtarn' | grep -v "$TARN_WORK/moved"; then
        fail "the installed command loads a library from elsewhere"
    fi
    "$TARN_WORK/moved/bin/tarn" --help > "$TARN_WORK/help"
    grep -q generate "$TARN_WORK/help" || fail "tarn --help does not name its verbs"
}

case_exported_symbols()
{
    is_shared
    declared_functions > "$TARN_WORK/declared"
    nm -D --defined-only --format=posix "$(pc_folder "$shared")/../libtarn.so" | cut -d' ' -f1 |
        sort > "$TARN_WORK/exported"
    [ "$(wc -l < "$TARN_WORK/declared")" -gt 20 ] || fail "cannot read the headers"
    diff "$TARN_WORK/declared" "$TARN_WORK/exported" ||
        fail "libtarn.so exports not just what the headers declare (< declared, > exported)"
}

case_soname()
{
    is_shared
    soname=$(objdump -p "$TARN_BUILD/lib/libtarn.so" | sed -n 's/^ *SONAME *//p')
    abi=$(header_version | sed -e 's/^\(0\.[0-9]*\)\..*/\1/' -e 's/^\([1-9][0-9]*\)\..*/\1/')
    wanted=libtarn.so.$abi
    [ "$soname" = "$wanted" ] || fail "the soname is $soname, should be $wanted"
}

case_headers_alone_in_c()
{
    for name in tarn.h tarn_base.h; do
        echo "#include <$name>" | "$CC" -std=c11 -pedantic -Wall -Wextra -Wconversion -Werror \
            -fsyntax-only -I "$shared/include" -x c -
    done
}

case_headers_alone_in_cxx()
{
    command -v c++ > /dev/null || skip "no C++ compiler"
    for name in tarn.h tarn_base.h; do
        echo "#include <$name>" | c++ -std=c++17 -pedantic -Wall -Wextra -Wconversion -Werror \
            -fsyntax-only -I "$shared/include" -x c++ -
    done
}

case_find_package_in_c()
{
    build_consumer find_package_c "$shared" -DCMAKE_C_COMPILER="$CC"
}

case_find_package_in_cxx()
{
    command -v c++ > /dev/null || skip "no C++ compiler"
    build_consumer find_package_cxx "$shared"
}

# A tree staged for a distribution's package, used from where it lies.
case_find_package_when_moved()
{
    empty_folder "$staged"
    DESTDIR=$staged "$CMAKE" --install "$TARN_BUILD" --prefix /usr
    build_consumer find_package_c "$staged/usr" -DCMAKE_C_COMPILER="$CC"
}

case_another_version_is_refused()
{
    major_minor=$(header_version | sed 's/\.[0-9]*$//')
    next=${major_minor%.*}.$((${major_minor#*.} + 1))
    folder=$TARN_WORK/consumer-$case_name
    empty_folder "$folder"
    if "$CMAKE" -S "$here/find_package_c" -B "$folder" -DCMAKE_PREFIX_PATH="$shared" \
        -DCMAKE_C_COMPILER="$CC" -DWANTED="$next" > "$folder/log" 2>&1; then
        fail "find_package(tarn $next) took $major_minor"
    fi
    grep -q 'considered but not accepted' "$folder/log" || {
        cat "$folder/log"
        fail "find_package(tarn $next) failed for another reason"
    }
}

case_pkg_config()
{
    compile_with_pkg_config "$shared"
}

case_static_find_package()
{
    build_consumer find_package_c "$static/installed" -DCMAKE_C_COMPILER="$CC"
    links_no_libtarn_so "$folder/program"
}

case_static_pkg_config()
{
    compile_with_pkg_config "$static/installed" --static
    links_no_libtarn_so "$folder/program"
}

case_subproject()
{
    build_consumer subproject / -DCMAKE_C_COMPILER="$CC" -DCMAKE_BUILD_TYPE=Debug \
        -DTARN_SOURCE="$TARN_SOURCE"
    links_no_libtarn_so "$folder/program"
    rm -rf "$folder"
}

case_name=$1
mkdir -p "$TARN_WORK"
"case_$case_name"
