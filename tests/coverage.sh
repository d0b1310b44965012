#!/bin/sh
# Branch coverage of the store and of sessions, by their own tests. Needs clang and llvm 14.
#
#     sh tests/coverage.sh            builds in build/coverage, runs the tests, prints a table
#     sh tests/coverage.sh FILE...    the same, and the branches of these files never taken
#
# What is counted: both sides of every condition as it is written, each operand of && and || on its
# own, each case of a switch, and those that macros write. This is what clang counts where it reads
# the source; gcc counts jumps of the code it made, some of them of its own invention. Functions of
# a header count for the header, which is not in the table. Not counted are asserts: the other side
# of one ends the process, and that none is taken is what all tests together show.
#
# Processes that are killed write nothing, so what only they run is not counted.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${TARN_BUILD:-build/coverage}
cov=$(command -v llvm-cov-14 || command -v llvm-cov) &&
    merge=$(command -v llvm-profdata-14 || command -v llvm-profdata) || {
    echo "llvm-cov and llvm-profdata are not there" >&2
    exit 77
}
flags="-fprofile-instr-generate -fcoverage-mapping"
{
    cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=clang \
        -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_C_FLAGS="$flags" \
        -DCMAKE_EXE_LINKER_FLAGS="$flags" -DTARN_CUDA=OFF -DTARN_EXAMPLES=OFF &&
        cmake --build "$build" -j "${TARN_JOBS:-2}"
} > "$build.log" 2>&1 || {
    tail -n 30 "$build.log"
    exit 2
}
rm -rf "$build/profiles"
mkdir -p "$build/profiles"
LLVM_PROFILE_FILE="$PWD/$build/profiles/%m.profraw"
case $build in /*) LLVM_PROFILE_FILE="$build/profiles/%m.profraw" ;; esac
export LLVM_PROFILE_FILE
tests=${TARN_TESTS:-'^(persist|trust|(cuda_)?session|fuzz)\.'}
ctest --test-dir "$build" -j "${TARN_JOBS:-2}" -R "$tests" > "$build.log" 2>&1 ||
    grep -A 20 'tests FAILED' "$build.log"
trust="$build/tests/trust/trust"
{ # every point, of which ctest tries some, and more lies
    TARN_TRUST_COUNT=1000000
    export TARN_TRUST_COUNT
    "${trust}_points_test" && TARN_TEST_KEY=1 "${trust}_points_test" &&
        "${trust}_points_live_test" && TARN_TRUST_COUNT=50000 "${trust}_records_test" &&
        TARN_TRUST_COUNT=50000 "${trust}_records_live_test"
} > "$build.points.log" 2>&1 || grep -B 5 FAIL "$build.points.log"
"$merge" merge -sparse "$build"/profiles/*.profraw -o "$build/all.profdata" || exit 2
objects=$(find "$build/tests" -type f -perm -100 \( -name 'persist_*' -o -name 'trust_*' \
    -o -name 'session_*' -o -name 'cuda_session_*' -o -name 'replay_*' \) | sed 's/^/-object /')
# shellcheck disable=SC2086
"$cov" export -instr-profile="$build/all.profdata" $objects 2> /dev/null |
    python3 tests/coverage.py "$PWD" "$@"
