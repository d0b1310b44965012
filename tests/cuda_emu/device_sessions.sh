#!/bin/sh
# sh tests/cuda_emu/device_sessions.sh [BUILD_FOLDER]: on a machine with a GPU, builds the library
# and the command with CUDA, runs the tests of sessions on the device in full size, measures the
# 48B's shapes with random weights and what sessions of them cost, and keeps it busy for some
# minutes (SOAK=0: not). Writes tests/bench/results/model-GPU.tsv and sessions-GPU.tsv. Floors need
# the rates that device.sh has measured. MODEL=DIR: a checkpoint to measure too. Exit 0 if every
# test passed and everything was measured; 77 where there is no GPU.
set -u

cd "$(dirname "$0")/../.." || exit 1
build=${1:-build/device}
command -v nvidia-smi > /dev/null && nvidia-smi -L > /dev/null 2>&1 || {
    echo "skip: no NVIDIA GPU here"
    exit 77
}
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
label=$(echo "$gpu" | tr ' /' '--')
results=tests/bench/results

cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DTARN_CUDA=ON -DTARN_EXAMPLES=ON || exit 1
cmake --build "$build" --target tarn_command tarn_cuda_device_sessions -j "$(nproc)" \
    > "$build/sessions-build.log" 2>&1 || {
    tail -n 40 "$build/sessions-build.log"
    exit 1
}

failed=0
run() # SECONDS NAME COMMAND...
{
    limit=$1
    name=$2
    shift 2
    if timeout "$limit" "$@" > "$build/device/$name.log" 2>&1; then
        echo "passed $name"
    else
        echo "FAILED $name"
        tail -n 15 "$build/device/$name.log"
        failed=$((failed + 1))
    fi
}

for program in "$build"/device/session_*; do
    case $program in
    *.log | *session_soak_long) ;;
    *) run 900 "$(basename "$program")" "$program" ;;
    esac
done

mkdir -p "$results"
tarn=$build/examples/tarn
[ -x "$tarn" ] || tarn=$(find "$build/examples" -type f -name tarn | head -n 1)
machine=$results/ops-$label.tsv
set -- --device cuda:0 --tsv "$results/model-$label.tsv"
[ -f "$machine" ] && set -- "$@" --machine "$machine"
run 1200 bench-model "$tarn" bench model --shape 48b "$@"
run 1200 bench-sessions "$tarn" bench sessions --shape 48b --device cuda:0 \
    --tsv "$results/sessions-$label.tsv"
if [ -n "${MODEL:-}" ]; then
    run 1200 bench-checkpoint "$tarn" bench model --model "$MODEL" "$@"
fi
[ "${SOAK:-1}" = 0 ] || run 3600 soak "$build/device/session_soak_long"
cat "$build/device/bench-model.log" "$build/device/bench-sessions.log"
echo "$failed failed; measurements in $results"
[ "$failed" -eq 0 ]
