#!/bin/sh
# Branch coverage of the store and of sessions, by their own tests. Needs clang and llvm 14.
#
#     sh tests/coverage.sh            builds in build/coverage, runs the tests, prints a table
#     sh tests/coverage.sh FILE...    the same, and the lines of these files with branches not taken
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
        -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" \
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
ctest --test-dir "$build" -j "${TARN_JOBS:-2}" -R "${TARN_TESTS:-^(persist|trust|session|fuzz)\.}" \
    > "$build.log" 2>&1 || grep -A 20 'tests FAILED' "$build.log"
for what in memory calls; do # every point, of which ctest tries some
    for program in points points_live; do
        TARN_TRUST_COUNT=1000000 "$build/tests/trust/trust_${program}_test" $what || exit 1
    done
done > "$build.points.log" 2>&1 || grep -B 5 FAIL "$build.points.log"
"$merge" merge -sparse "$build"/profiles/*.profraw -o "$build/all.profdata" || exit 2
objects=$(find "$build/tests" -type f -perm -100 \( -name 'persist_*' -o -name 'trust_*' \
    -o -name 'session_*' -o -name 'replay_*' \) | sed 's/^/-object /')
# shellcheck disable=SC2086
"$cov" export -summary-only -instr-profile="$build/all.profdata" $objects 2> /dev/null |
    python3 -c '
import json, sys
rows = {}
for f in json.load(sys.stdin)["data"][0]["files"]:
    name = f["filename"]
    for room in ("persist/", "lib/session/"):
        at = name.find("/" + room)
        if at >= 0 and "/tests/" not in name and name.endswith(".c"):
            b, l = f["summary"]["branches"], f["summary"]["lines"]
            rows[name[at + 1:]] = (b["count"], b["covered"], l["count"], l["covered"])
def line(name, r):
    share = lambda n, all: 100.0 * n / all if all else 100.0
    print("%-32s branches %5d of %5d %6.2f %%   lines %5d of %5d %6.2f %%"
          % (name, r[1], r[0], share(r[1], r[0]), r[3], r[2], share(r[3], r[2])))
for name in sorted(rows):
    line(name, rows[name])
for room in ("persist/", "lib/session/"):
    line("all of " + room, [sum(r[i] for n, r in rows.items() if n.startswith(room))
                            for i in range(4)])
'
[ $# -gt 0 ] || exit 0
# shellcheck disable=SC2086
"$cov" show -show-branches=count -instr-profile="$build/all.profdata" ${objects#-object } \
    2> /dev/null | python3 -c '
import re, sys
name, source, taken = None, {}, {}
for line in sys.stdin:
    if line.startswith("/") and line.rstrip().endswith(":"):
        name = line.strip()[:-1]
    m = re.match(r"\s+(\d+)\|\s*[\d.kMG]*\|(.*)", line)
    if m:
        source[name, int(m[1])] = m[2]
    m = re.search(r"Branch \((\d+):(\d+)\): \[True: (\S+), False: (\S+)\]", line)
    for side, n in (("true", m[3]), ("false", m[4])) if m else ():
        at = name, int(m[1]), int(m[2]), side
        taken[at] = taken.get(at, False) or n != "0"
for at in sorted(at for at in taken if not taken[at]):
    if any(at[0].endswith("/" + wanted) for wanted in sys.argv[1:]):
        print("%s:%d never %s: %s" % (at[0].split("/")[-1], at[1], at[3],
                                       source.get(at[:2], "").strip()))
' "$@"
