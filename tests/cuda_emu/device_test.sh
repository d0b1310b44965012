#!/bin/sh
# device_test.sh PROGRAMS_FOLDER: runs device.sh with a GPU that is not there: tests and benchmark
# of the emulator in place of the device's, and compute-sanitizer as a program that fails one of
# them.
set -eu

programs=$1
source=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/bin" "$scratch/build/device"
cat > "$scratch/bin/nvidia-smi" <<'END'
#!/bin/sh
case $* in
*name*) echo "Emulated GPU/1" ;;
*driver*) echo "1.2.3" ;;
*) echo "GPU 0" ;;
esac
END
cat > "$scratch/bin/compute-sanitizer" <<'END'
#!/bin/sh
[ "$1 $3 $4" = "--tool --error-exitcode 9" ] || exit 8
case "$2 $5" in
racecheck*norm) echo "a planted race" && exit 9 ;;
esac
exec "$5"
END
chmod +x "$scratch/bin/nvidia-smi" "$scratch/bin/compute-sanitizer"
for stem in norm pointwise; do
    ln -s "$programs/cuda_emu_${stem}_test" "$scratch/build/device/cuda_$stem"
done
ln -s "$programs/cuda_emu_bench" "$scratch/build/device/bench_ops_cuda"
export PATH="$scratch/bin:$PATH" TARN_DEVICE_TESTS="norm pointwise" TARN_BENCH_FLAGS=--small
export TARN_RESULTS="$scratch/results" TARN_COMMIT=abc1234

fail()
{
    echo "$1"
    cat "$scratch/out"
    exit 1
}

sh "$source/device.sh" "$scratch/build" test memcheck bench > "$scratch/out" 2>&1 ||
    fail "it failed"
grep -q "^passed memcheck-norm" "$scratch/out" || fail "memcheck did not run"
tsv=$scratch/results/ops-Emulated-GPU-1.tsv
[ "$(head -n 1 "$tsv" | tr '\t' ' ')" = \
    "metric value unit floor ratio model numerics threads device commit" ] || fail "other columns"
for metric in kda_step_us_b1 kda_step_us_b8 kda_step_us_b64 kda_append_ms_layer_8k \
    mla_decode_bw_pct_32k moe_gate_up_us_b1 moe_down_us_b1 lm_head_us mla_append_tflops; do
    [ "$(cut -f 1 "$tsv" | grep -cx "$metric")" -eq 1 ] || fail "no row of $metric"
done
awk -F '\t' 'NF != 10 || (NR > 1 && ($2 + 0 <= 0 || $4 + 0 <= 0 || $10 != "abc1234"))' "$tsv" \
    > "$scratch/odd"
[ ! -s "$scratch/odd" ] || fail "odd rows: $(cat "$scratch/odd")"
grep -q "emulated, driver 1.2.3" "$tsv" || fail "no driver"

sh "$source/device.sh" "$scratch/build" racecheck > "$scratch/out" 2>&1 && fail "a race passed"
grep -q "^FAILED racecheck-norm: exit status 9" "$scratch/out" || fail "the race is not named"
grep -q "^passed racecheck-pointwise" "$scratch/out" || fail "the other test did not pass"
rm "$scratch/bin/nvidia-smi"
status=0
PATH="$scratch/bin:/usr/bin:/bin" sh "$source/device.sh" "$scratch/build" test \
    > "$scratch/out" 2>&1 || status=$?
command -v nvidia-smi > /dev/null || [ "$status" -eq 77 ] || fail "without a GPU: $status"
