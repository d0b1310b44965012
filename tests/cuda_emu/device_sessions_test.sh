#!/bin/sh
# device_sessions_test.sh PROGRAMS_FOLDER COMMAND: runs device_sessions.sh with a GPU that is not
# there: the tests and the command of the emulated device, the tiny shape, short lengths. A step
# that was made to fail and a figure that was not measured are told.
set -eu

programs=$1
source=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/bin" "$scratch/build/device" "$scratch/results"
cat > "$scratch/bin/nvidia-smi" <<'END'
#!/bin/sh
case $* in
*name*) echo "Emulated GPU/1" ;;
*memory.used*) echo "1234" ;;
*) echo "GPU 0" ;;
esac
END
cat > "$scratch/fails" <<'END'
#!/bin/sh
echo "a planted failure"
exit 3
END
chmod +x "$scratch/bin/nvidia-smi" "$scratch/fails"
printf 'copy_gbps\t100\tGB/s\nlibrary_matmul_tflops\t2\tTFLOP/s\n' \
    > "$scratch/results/ops-Emulated-GPU-1.tsv"
for stem in identity lease writes; do
    ln -s "$programs/cuda_session_${stem}_test" "$scratch/build/device/session_$stem"
done
export PATH="$scratch/bin:$PATH" TARN_COMMAND="$2" TARN_BENCH_SHAPE=tiny TARN_BENCH_FLAGS=--quick
export TARN_SOAK_SECONDS=8 TARN_RESULTS="$scratch/results" TMPDIR="$scratch"

fail()
{
    echo "$1"
    cat "$scratch/out"
    exit 1
}

sh "$source/device_sessions.sh" "$scratch/build" tests1 tests2 tests3 decode append context \
    sessions resume bits soak checkpoint report > "$scratch/out" 2>&1 || fail "it failed"
for stem in identity lease writes; do
    grep -q "^passed session_$stem" "$scratch/out" || fail "session_$stem did not run"
done
for step in decode append context sessions resume bits soak; do
    grep -q "^passed bench-$step" "$scratch/out" || fail "$step did not run"
done
table=$scratch/results/wanted-Emulated-GPU-1.tsv
[ "$(head -n 1 "$table" | tr '\t' ' ')" = "metric value unit floor wanted verdict" ] ||
    fail "other columns"
[ "$(wc -l < "$table")" -eq 25 ] || fail "other rows"
awk -F '\t' 'NF != 6 || (NR > 1 && ($2 == "" || $6 !~ /^(met|missed)$/))' "$table" \
    > "$scratch/odd"
[ ! -s "$scratch/odd" ] || fail "odd rows: $(cat "$scratch/odd")"
for metric in decode_ms_b1 decode_ms_b8 decode_ms_b64 decode_ms_added_by_ctx128k append_ms_100 \
    prefill_tok_s_8k append_ms_2k_ctx100k resume_ms_32k_pinned; do
    awk -F '\t' -v m=$metric '$1 == m && $4 != ""' "$table" | grep -q . ||
        fail "no floor of $metric"
done
for metric in fork_state_bytes resume_32k_replayed bits_among_others bits_after_park \
    bits_after_resume bits_of_fork soak_over_ceiling soak_left_on_device soak_device_growth_mib; do
    awk -F '\t' -v m=$metric '$1 == m && $6 == "met"' "$table" | grep -q . ||
        fail "$metric is not as it must be"
done
awk -F '\t' 'NF != 10' "$scratch/results/engine-Emulated-GPU-1.tsv" > "$scratch/odd"
[ ! -s "$scratch/odd" ] || fail "odd rows as measured: $(cat "$scratch/odd")"

ln -s "$scratch/fails" "$scratch/build/device/session_zz"
rm "$scratch/results/engine-Emulated-GPU-1.tsv"
sh "$source/device_sessions.sh" "$scratch/build" tests1 tests2 tests3 > "$scratch/out" 2>&1 &&
    fail "a failing test passed"
grep -q "^FAILED session_zz: exit status 3" "$scratch/out" || fail "the failure is not named"
TARN_COMMAND=$scratch/fails sh "$source/device_sessions.sh" "$scratch/build" bits \
    > "$scratch/out" 2>&1 && fail "a benchmark that failed passed"
sh "$source/device_sessions.sh" "$scratch/build" report > "$scratch/out" 2>&1 &&
    fail "figures that nobody measured passed"
grep -q "not measured" "$scratch/out" || fail "what is missing is not named"
sh "$source/device_sessions.sh" "$scratch/build" everything > "$scratch/out" 2>&1 && fail "any step"
rm "$scratch/bin/nvidia-smi"
status=0
PATH="$scratch/bin:/usr/bin:/bin" sh "$source/device_sessions.sh" "$scratch/build" report \
    > "$scratch/out" 2>&1 || status=$?
command -v nvidia-smi > /dev/null || [ "$status" -eq 77 ] || fail "without a GPU: $status"
