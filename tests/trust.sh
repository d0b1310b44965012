#!/bin/sh
# What the store is trusted for, tried many times over; prints a table with seeds and counts.
#
#     sh tests/trust.sh            every run for 20 seconds
#     sh tests/trust.sh SECONDS    every run for so long
#     sh tests/trust.sh full       the full counts (see below): more than a day
#
# Environment: TARN_TRUST_SEED    first seed, default 1
#              TARN_TRUST_ONLY    only runs whose name begins so: trust.NAME, fuzz.NAME, suite.NAME
#              TARN_BUILD         a build folder with tests, default build/release (made if absent)
#              TARN_BUILD_FUZZ    one with fuzzers, default build/fuzz (made if absent; needs clang)
#              TARN_BUILD_ASAN, TARN_BUILD_TSAN  one with each sanitizer, default build/asan and
#                                 build/tsan
#              TARN_TRUST_CORPUS  where the fuzzers keep what they find, default nowhere
#
# The rows: images of power cuts; bits turned over; random operations on stores, and on sessions
# against a replay from the first token; processes that are killed; every point at which memory or
# a file is refused; records that lie; the fuzzers, whose counts add up over seeds; the store's
# tests under valgrind, all tests under the address sanitizer, and those that have threads, all of
# sessions among them, under the thread sanitizer. Totals so far: tests/trust/README.md.
#
# Stores are made below TMPDIR, by default /dev/shm: what is tried is the order of writes and syncs,
# not the disk. Exit 0 if nothing was bad.
set -u
cd "$(dirname "$0")/.." || exit 2
how=${1:-20}
case $how in
full) seconds=0 ;;
*[!0-9]* | '')
    echo "usage: sh tests/trust.sh [SECONDS|full]" >&2
    exit 2
    ;;
*) seconds=$how ;;
esac
build=${TARN_BUILD:-build/release}
fuzzers=${TARN_BUILD_FUZZ:-build/fuzz}
if [ ! -d "$build/tests/trust" ]; then
    { cmake --preset release && cmake --build --preset release; } > /dev/null || exit 2
fi
[ -n "${TMPDIR:-}" ] || { [ -d /dev/shm ] && TMPDIR=/dev/shm; }
export TMPDIR
TARN_TRUST_SEED=${TARN_TRUST_SEED:-1}
export TARN_TRUST_SEED
log=$(mktemp) || exit 2
trap 'rm -f "$log"' EXIT
bad=0

wanted()
{
    case $1 in
    "${TARN_TRUST_ONLY:-}"*) return 0 ;;
    *) return 1 ;;
    esac
}

# row NAME SEEDS CASES BAD CRASHES SECONDS [more]
row()
{
    printf '%-20s seeds %-14s cases %10s  bad %3s  crashes %3s  %5d s  %s\n' "$@"
}

# one PROGRAM CASE COUNT: a run of a program of tests/trust, COUNT cases in full.
one()
{
    wanted "trust.$1.$2" || return
    if [ "$seconds" -gt 0 ]; then
        TARN_TRUST_COUNT=1000000000 TARN_TRUST_SECONDS=$seconds
    else
        TARN_TRUST_COUNT=$3 TARN_TRUST_SECONDS=0
    fi
    export TARN_TRUST_COUNT TARN_TRUST_SECONDS
    start=$(date +%s)
    "$build/tests/trust/trust_$1_test" "$2" > "$log" 2>&1 || {
        bad=1
        grep -v '^trust ' "$log"
    }
    now=$(date +%s)
    grep '^trust ' "$log" | while read -r _ name _ seeds _ cases _ n_bad _ crashes more; do
        row "$name" "$seeds" "$cases" "$n_bad" "$crashes" $((now - start)) "$more"
    done
}

# fuzz TARGET COUNT: libFuzzer for so many inputs in full, beginning with the ones in tests/data.
fuzz()
{
    wanted "fuzz.$1" || return
    command -v clang > /dev/null || return
    if [ ! -x "$fuzzers/tests/fuzz/fuzz_$1" ]; then
        { cmake --preset fuzz -DTARN_CUDA=OFF && cmake --build --preset fuzz --target "fuzz_$1"; } \
            > "$log" 2>&1 || {
            cat "$log"
            bad=1
            return
        }
    fi
    corpus=${TARN_TRUST_CORPUS:-$(mktemp -d)}/$1
    mkdir -p "$corpus"
    limit=-runs=$2
    [ "$seconds" -eq 0 ] || limit=-max_total_time=$seconds
    start=$(date +%s)
    n_bad=0
    "$fuzzers/tests/fuzz/fuzz_$1" "$limit" -seed="$TARN_TRUST_SEED" -timeout=600 \
        -print_final_stats=1 -artifact_prefix="$corpus/" "$corpus" "tests/data/fuzz/$1" \
        > "$log" 2>&1 || {
        n_bad=1
        bad=1
        tail -n 30 "$log"
    }
    row "fuzz.$1" "$TARN_TRUST_SEED" \
        "$(sed -n 's/.*number_of_executed_units: *//p' "$log")" "$n_bad" "$n_bad" \
        $(($(date +%s) - start)) "kept $(find "$corpus" -type f | wc -l)"
    [ -n "${TARN_TRUST_CORPUS:-}" ] || rm -rf "${corpus%/*}"
}

# The cases of tests/persist under valgrind, in place of a sanitizer of uninitialised memory: LMDB
# and zstd are not built for one. Left out are those that try every bit, length or place of a
# file, or thousands of nodes, which say no more here and take hours; and it has no room for the
# 1 TiB of address space that is the default: cases that open stores with that fail by themselves,
# only its own errors count.
under_valgrind()
{
    wanted suite.valgrind || return
    command -v valgrind > /dev/null || return
    start=$(date +%s)
    n=0 n_bad=0 n_part=0
    for program in "$build"/tests/persist/persist_*_test; do
        for name in $("$program" --ctest x x |
            sed -n 's/^add_test.* \[=\[\(.*\)\]=\])$/\1/p'); do
            case $name in
            *every_* | *_anywhere* | *thousand* | *more_than_one_round* | *damaged_payloads* | \
                *killed* | *random* | *ten_thousand* | *flip* | *full_size* | *images*) continue ;;
            esac
            if [ "$seconds" -gt 0 ] && [ $(($(date +%s) - start)) -ge "$seconds" ]; then
                break 2
            fi
            n=$((n + 1))
            valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
                --errors-for-leak-kinds=definite "$program" "$name" > "$log" 2>&1
            status=$?
            if [ "$status" -eq 9 ]; then
                n_bad=$((n_bad + 1))
                bad=1
                grep '^==' "$log" | head -n 30
            elif [ "$status" -ne 0 ]; then
                n_part=$((n_part + 1))
            fi
        done
    done
    row suite.valgrind - "$n" "$n_bad" 0 $(($(date +%s) - start)) \
        "cases of tests/persist, $n_part of them in part"
}

# suite PRESET BUILD TESTS: tests whose names match, of a build with sanitizers; only in full.
suite()
{
    wanted "suite.$1" && [ "$seconds" -eq 0 ] || return
    start=$(date +%s)
    if ! { { [ -d "$2" ] || cmake --preset "$1"; } && cmake --build "$2" -j 2; } > "$log" 2>&1; then
        tail -n 30 "$log"
        bad=1
        return
    fi
    ctest --test-dir "$2" -j 2 -LE '^(emulated|full)$' -E '^tidy\.' -R "$3" \
        --output-on-failure > "$log" 2>&1 || bad=1
    n=$(sed -n 's/.*tests failed out of \([0-9]*\).*/\1/p' "$log")
    n_bad=$(sed -n 's/.* \([0-9]*\) tests failed out of.*/\1/p' "$log")
    [ "$n_bad" = 0 ] || grep -v ' Passed ' "$log"
    row "suite.$1" - "$n" "$n_bad" 0 $(($(date +%s) - start)) tests
}

one images durable 100000
one images relaxed 100000
one images torn 100000
one flips bits 100000
one flips spoilt 100000
one flips bundles 100000
one random operations 1000000
one live ids 1000000
one live talk 1000000
one kills processes 10000
one kills_live engines 10000
one points memory 1000000
one points calls 1000000
one points search 1000000
one records records 1000000
one points_live memory 1000000
one points_live calls 1000000
one records_live sessions 1000000
for target in calls chat config header names node stream; do
    fuzz "$target" 100000000
done
for target in ranks text; do
    fuzz "$target" 10000000
done
for target in import store; do
    fuzz "$target" 1000000
done
fuzz ops 100000
under_valgrind
suite asan "${TARN_BUILD_ASAN:-build/asan}" .
stores='persist\.(commit|ticket|durability|lease|crash|faults)\.'
suite tsan "${TARN_BUILD_TSAN:-build/tsan}" \
    "^(session\.|base\.(threads|filemap)\.|$stores|trust\.(kills|live|points))"
exit "$bad"
