#!/bin/sh
# What the store is trusted for, tried many times over; prints a table with seeds and counts.
#
#     sh tests/trust.sh            every run for 20 seconds
#     sh tests/trust.sh SECONDS    every run for so long
#     sh tests/trust.sh full       the full counts (see below)
#
# Environment: TARN_TRUST_SEED    first seed, default 1
#              TARN_TRUST_ONLY    only runs whose name begins so
#              TARN_BUILD         a build folder with tests, default build/release (made if absent)
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

# one PROGRAM CASE COUNT: a run of a program of tests/trust, COUNT cases in full.
one()
{
    case trust.$1.$2 in
    "trust.${TARN_TRUST_ONLY:-}"*) ;;
    *) return ;;
    esac
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
    grep '^trust ' "$log" | awk -v s=$(($(date +%s) - start)) '{
        printf "%-20s seeds %-14s cases %9s  bad %3s  crashes %3s  %5d s ", $2, $4, $6, $8, $10, s
        for (i = 11; i <= NF; i++) printf " %s", $i
        print "" }'
}

one images durable 100000
one images relaxed 100000
one images torn 100000
one flips bits 100000
one flips spoilt 100000
one flips bundles 100000
one random operations 1000000
one kills processes 10000
one points memory 1000000
one points calls 1000000
exit "$bad"
