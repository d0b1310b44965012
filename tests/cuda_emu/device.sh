#!/bin/sh
# sh tests/cuda_emu/device.sh [BUILD_FOLDER]: on a machine with a GPU, builds the CUDA kernels, runs
# their tests on the device, under compute-sanitizer too where that is installed, and measures
# them. Writes tests/bench/results/ops-GPU.tsv, and a log of each test beside the programs. Exit 0
# if every test passed and the measurements were written; 77 where there is no GPU.
set -u

cd "$(dirname "$0")/../.." || exit 1
build=${1:-build/device}
command -v nvidia-smi > /dev/null && nvidia-smi -L > /dev/null 2>&1 || {
    echo "skip: no NVIDIA GPU here"
    exit 77
}
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
commit=$(git rev-parse --short HEAD 2> /dev/null || echo unknown)
echo "== $gpu, driver $driver, commit $commit"

cmake -S . -B "$build" -DTARN_CUDA=ON -DTARN_EXAMPLES=OFF || exit 1
cmake --build "$build" --target tarn_cuda_device -j "$(nproc)" > "$build/build.log" 2>&1 || {
    tail -n 40 "$build/build.log"
    exit 1
}

failed=0
run() # NAME COMMAND...
{
    name=$1
    shift
    if timeout 300 "$@" > "$build/device/$name.log" 2>&1; then
        echo "passed $name"
    else
        echo "FAILED $name"
        tail -n 15 "$build/device/$name.log"
        failed=$((failed + 1))
    fi
}

for stem in pointwise norm matmul conv1d kda mla moe native step invariance; do
    run "$stem" "$build/device/cuda_$stem"
done
if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck; do
        for stem in norm conv1d moe native; do
            run "$tool-$stem" compute-sanitizer --tool "$tool" --error-exitcode 9 \
                "$build/device/cuda_$stem"
        done
    done
else
    echo "compute-sanitizer is not here: memcheck and racecheck were not run"
fi

mkdir -p tests/bench/results
out=tests/bench/results/ops-$(echo "$gpu" | tr ' /' '--').tsv
"$build/device/bench_ops_cuda" --tsv "$out" --commit "$commit" --driver "$driver" ||
    failed=$((failed + 1))
echo "$failed failed; measurements in $out"
[ "$failed" -eq 0 ]
