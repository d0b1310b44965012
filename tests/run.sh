#!/bin/sh
# sh tests/run.sh [fast]: installs what the tests need (Debian 12), builds and runs them.
#
# Suites, each in its own folder below build/:
#   release  what users build, with warnings as errors: every test but those labelled `full`
#   clang    the second compiler: the fast tests, one of which holds the kernels' bits to those
#            every build must compute
#   asan     all but the longest under the address and undefined behaviour sanitizers, without
#            `emulated`
#   tsan     what has threads under the thread sanitizer: half a minute of it
# With `fast` only release. The last line is the sum: "N passed, N failed, N skipped". Exit 0 only
# if tests ran and none failed. A suite that does not build counts as one failed test.
set -u

cd "$(dirname "$0")/.." || exit 1
jobs=2
passed=0
failed=0
skipped=0

count()
{
    passed=$((passed + $1))
    failed=$((failed + $2))
    skipped=$((skipped + $3))
}

finish()
{
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
    exit
}

install_packages()
{
    command -v dpkg-query > /dev/null || return 0 # not Debian: what is there must do
    missing=
    for package in "$@"; do
        state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null)
        [ "$state" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    echo "== installing:$missing"
    root=
    [ "$(id -u)" -eq 0 ] || root=sudo
    # Unquoted: lists of words.
    # shellcheck disable=SC2086
    $root apt-get update -qq &&
        $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            $missing
}

# build PRESET [cmake option...]; on failure the compiler's output is shown and counted.
build()
{
    preset=$1
    shift
    echo "== $preset: build"
    mkdir -p build
    log=build/$preset.log
    if cmake --preset "$preset" "$@" > "$log" 2>&1 &&
        cmake --build --preset "$preset" > "$log" 2>&1; then
        return 0
    fi
    cat "$log"
    echo "== $preset: does not build"
    count 0 1 0
    return 1
}

# One attribute of the <testsuite> element that ctest writes.
attribute()
{
    sed -n '1,20s/^[[:space:]]*'"$1"'="\([0-9]*\)".*/\1/p' "$2" | head -n 1
}

# run PRESET [ctest option...]: shows what failed with its output, and what was skipped and why.
run()
{
    preset=$1
    shift
    echo "== $preset: tests"
    log=build/$preset.log
    junit=$PWD/build/$preset.xml
    rm -f "$junit"
    ctest --preset "$preset" -j "$jobs" --output-junit "$junit" "$@" > "$log" 2>&1
    status=$?
    grep -vE '^ *Start +[0-9]+:|^ *[0-9]+/[0-9]+ Test +#.* Passed ' "$log"
    if [ ! -s "$junit" ]; then
        count 0 1 0
        return
    fi
    sed -n 's/.*<system-out>\(skip.*\)/\1/p' "$junit"
    tests=$(attribute tests "$junit")
    bad=$(attribute failures "$junit")
    not_run=$(($(attribute skipped "$junit") + $(attribute disabled "$junit")))
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1 # ctest itself failed, or a program could not be started
    fi
    count $((tests - bad - not_run)) "$bad" "$not_run"
}

# run_program PRESET TARGET: builds and runs one test program of a preset.
run_program()
{
    echo "== $1: $2"
    log=build/$1.log
    mkdir -p build
    if ! { cmake --preset "$1" && cmake --build --preset "$1" --target "$2"; } > "$log" 2>&1; then
        cat "$log"
        count 0 1 0
        return
    fi
    "$(find "build/$1/tests" -name "$2" -type f)" > "$log" 2>&1
    status=$?
    bad=$(grep -c '^FAIL ' "$log")
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1 # it crashed, or the sanitizer ended it
    fi
    [ "$bad" -eq 0 ] || cat "$log"
    count "$(grep -c '^ok ' "$log")" "$bad" "$(grep -c '^skip ' "$log")"
}

case ${1:-} in
'' | fast) ;;
*)
    echo "usage: sh tests/run.sh [fast]" >&2
    exit 2
    ;;
esac

packages="gcc g++ libc6-dev make cmake pkg-config binutils python3 liblmdb-dev libzstd-dev
    libpcre2-dev libjansson-dev libxxhash-dev libsodium-dev libedit-dev"
[ "${1:-}" = fast ] || packages="$packages clang libclang-rt-dev clang-format"
# shellcheck disable=SC2086
if ! install_packages $packages; then
    echo "== packages could not be installed"
    count 0 1 0
    finish
fi

# Labels: `full` are the sessions' tests on the emulated GPU in their full sizes, half an hour;
# `emulated` the same tests in sizes of their own, for which one compiler is enough.
build release -DTARN_WERROR=ON && run release -LE '^full$'
[ "${1:-}" = fast ] && finish

# What no compiler of ours makes is tested once; where a sanitizer takes minutes for a case that
# differs from its neighbours in number alone, the neighbours do.
build clang && run clang -L fast -LE '^(emulated|full)$' -E '^(tidy|cuda_emu\.ptxas)\.'
build asan && run asan -LE '^(emulated|full)$' \
    -E '^(session\.soak_long|cuda_emu\.invariance\.(token_by_token|one_batch_of_all_sessions))'
for program in base_threads base_filemap persist_commit persist_ticket persist_durability \
    session_threads session_background session_cancel; do
    run_program tsan "${program}_test"
done
finish
