#!/bin/sh
# sh tests/cuda_emu/device.sh [BUILD_FOLDER [STEP...]]: on a machine with a GPU and a CUDA toolkit,
# all of it in one go, or one step at a time where a command may not take long:
#     build       the CUDA kernels, their tests and the benchmark, for every architecture
#     test        the tests of the kernels on the device
#     memcheck    the same under compute-sanitizer, where that is installed
#     racecheck   likewise
#     bench       measures; writes tests/bench/results/ops-GPU.tsv
#     sessions    device_sessions.sh: the tests of sessions on the device, and what steps of the 48B
#                 model and sessions of it cost, beside the rates that `bench` has measured; this
#                 one takes half an hour and has steps of its own, to be called singly
# Each step takes minutes and can be run again. Logs lie beside the programs, in
# BUILD_FOLDER/device. Exit 0 if all that ran passed; 77 where there is no GPU.
# TARN_COMMIT names the commit where git cannot; TARN_RESULTS is another folder for the TSV;
# TARN_BENCH_FLAGS go to the benchmark; TARN_DEVICE_TESTS are tests to run instead of all.
set -u

cd "$(dirname "$0")/../.." || exit 1
build=${1:-build/device}
[ $# -gt 0 ] && shift
steps=${*:-build test memcheck racecheck bench sessions}
tests=${TARN_DEVICE_TESTS:-pointwise norm matmul conv1d kda mla moe native step invariance}
command -v nvidia-smi > /dev/null && nvidia-smi -L > /dev/null 2>&1 || {
    echo "skip: no NVIDIA GPU here"
    exit 77
}
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
commit=${TARN_COMMIT:-$(git rev-parse --short HEAD 2> /dev/null || echo unknown)}
cores=$(nproc)
failed=0
echo "== $gpu, driver $driver, commit $commit"

step_build()
{
    generator=
    command -v ninja > /dev/null && [ ! -e "$build/CMakeCache.txt" ] && generator="-G Ninja"
    mkdir -p "$build/device"
    # shellcheck disable=SC2086
    cmake -S . -B "$build" $generator -DTARN_CUDA=ON -DTARN_EXAMPLES=OFF \
        -DCMAKE_BUILD_TYPE=Release > "$build/device/configure.log" 2>&1 &&
        cmake --build "$build" --target tarn_cuda_device -j "$cores" \
            > "$build/device/build.log" 2>&1 && return
    tail -n 40 "$build/device/configure.log" "$build/device/build.log"
    failed=$((failed + 1))
}

# one NAME SECONDS COMMAND...: its log, and its exit status in NAME.rc
one()
{
    name=$1 seconds=$2
    shift 2
    timeout "$seconds" "$@" > "$build/device/$name.log" 2>&1
    echo $? > "$build/device/$name.rc"
}

# all PREFIX SECONDS COMMAND...: the tests behind COMMAND, five at a time
all()
{
    prefix=$1 seconds=$2
    shift 2
    n=0
    for stem in $tests; do
        one "$prefix$stem" "$seconds" "$@" "$build/device/cuda_$stem" &
        n=$((n + 1))
        [ $((n % 5)) -eq 0 ] && wait
    done
    wait
    for stem in $tests; do
        status=$(cat "$build/device/$prefix$stem.rc")
        case $status in
        0) echo "passed $prefix$stem" ;;
        *)
            echo "FAILED $prefix$stem: exit status $status (124: no end in $seconds s)"
            tail -n 15 "$build/device/$prefix$stem.log"
            failed=$((failed + 1))
            ;;
        esac
    done
}

sanitize() # TOOL
{
    if command -v compute-sanitizer > /dev/null; then
        all "$1-" 270 compute-sanitizer --tool "$1" --error-exitcode 9
    else
        echo "compute-sanitizer is not here: $1 was not run"
    fi
}

step_bench()
{
    results=${TARN_RESULTS:-tests/bench/results}
    out=$results/ops-$(echo "$gpu" | tr ' /' '--').tsv
    mkdir -p "$results"
    # shellcheck disable=SC2086
    if timeout 500 "$build/device/bench_ops_cuda" --tsv "$out" --commit "$commit" \
        --driver "$driver" ${TARN_BENCH_FLAGS:-} > "$build/device/bench.log" 2>&1; then
        cat "$build/device/bench.log"
        echo "measurements in $out"
    else
        tail -n 40 "$build/device/bench.log"
        failed=$((failed + 1))
    fi
}

for step in $steps; do
    echo "== $step"
    case $step in
    build) step_build ;;
    test) all "" 270 ;;
    memcheck | racecheck) sanitize "$step" ;;
    bench) step_bench ;;
    sessions) sh tests/cuda_emu/device_sessions.sh "$build" || failed=$((failed + 1)) ;;
    *) echo "no such step: $step" && exit 2 ;;
    esac
    [ "$step" = build ] && [ "$failed" -gt 0 ] && exit 1
done
echo "$failed failed"
[ "$failed" -eq 0 ]
