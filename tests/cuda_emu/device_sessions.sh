#!/bin/sh
# sh tests/cuda_emu/device_sessions.sh [BUILD_FOLDER [STEP...]]: on a machine with a GPU and a CUDA
# toolkit, everything of sessions on it, in one go or a step at a time; no step takes 9 minutes:
#     build      the library, the command, and the tests of sessions in full size
#     tests1 tests2 tests3   those tests, a third of them each
#     decode     the 48B's shapes with random weights made on the device: 1, 8 and 64 sessions
#     append     appends of 100, 512 and 8192 tokens
#     context    2048 tokens behind 100,000, a token behind 131,072
#     sessions   rates, forks, commits beside a generation, parked sessions
#     resume     a session of 32768 tokens that comes back from pinned memory and from the store
#     bits       the same rows of logits among 63 others, after coming back, in a fork
#     soak       8 minutes of many sessions at full rate; what grew?
#     checkpoint a checkpoint in MODEL=DIR, where one is given
#     report     each figure beside its floor and what is wanted of it
# Each can be run again: of rows of one metric the last counts. Floors of decode, append and context
# need the rates that device.sh has measured. Writes TARN_RESULTS (tests/bench/results)
# /engine-GPU.tsv, the rows as measured, and wanted-GPU.tsv, the report. Logs lie in
# BUILD_FOLDER/device. Exit 0 if everything that ran passed and was measured; 77 without a GPU.
# TARN_BENCH_OF (--shape 48b), TARN_BENCH_FLAGS (--quick), TARN_SOAK_SECONDS: of another model, or
# shorter.
set -u

cd "$(dirname "$0")/../.." || exit 1
build=${1:-build/device}
[ $# -gt 0 ] && shift
steps=${*:-build tests1 tests2 tests3 decode append context sessions resume bits soak checkpoint
    report}
command -v nvidia-smi > /dev/null && nvidia-smi -L > /dev/null 2>&1 || {
    echo "skip: no NVIDIA GPU here"
    exit 77
}
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
label=$(echo "$gpu" | tr ' /' '--')
results=${TARN_RESULTS:-tests/bench/results}
rows=$results/engine-$label.tsv
machine=$results/ops-$label.tsv
of=${TARN_BENCH_OF:---shape 48b}
seconds=${TARN_SOAK_SECONDS:-480}
limit=530
failed=0
from=
mkdir -p "$results" "$build/device"

step_build()
{
    generator=
    command -v ninja > /dev/null && [ ! -e "$build/CMakeCache.txt" ] && generator="-G Ninja"
    # shellcheck disable=SC2086
    timeout $limit cmake -S . -B "$build" $generator -DCMAKE_BUILD_TYPE=Release -DTARN_CUDA=ON \
        -DTARN_EXAMPLES=ON > "$build/device/sessions-configure.log" 2>&1 &&
        timeout $limit cmake --build "$build" --target tarn_command tarn_cuda_device_sessions \
            -j "$(nproc)" > "$build/device/sessions-build.log" 2>&1 && return
    tail -n 40 "$build/device/sessions-configure.log" "$build/device/sessions-build.log"
    exit 1
}

# run SECONDS NAME COMMAND...
run()
{
    most=$1 name=$2
    shift 2
    timeout "$most" "$@" > "$build/device/$name.log" 2>&1
    status=$?
    if [ $status -eq 0 ]; then
        echo "passed $name"
    else
        echo "FAILED $name: exit status $status (124: no end in $most s)"
        tail -n 15 "$build/device/$name.log"
        failed=$((failed + 1))
    fi
}

# every third of the programs, from number $1 on, side by side
step_tests()
{
    number=0 names=
    for program in "$build"/device/session_*; do
        case $program in *.log | *.rc | *soak_long) continue ;; esac
        number=$((number + 1))
        [ $((number % 3)) -eq $(($1 % 3)) ] || continue
        name=$(basename "$program")
        names="$names $name"
        (
            timeout $limit "$program" > "$build/device/$name.log" 2>&1
            echo $? > "$build/device/$name.rc"
        ) &
    done
    wait
    for name in $names; do
        status=$(cat "$build/device/$name.rc")
        [ "$status" -eq 0 ] && echo "passed $name" && continue
        echo "FAILED $name: exit status $status (124: no end in $limit s)"
        tail -n 15 "$build/device/$name.log"
        failed=$((failed + 1))
    done
}

# bench NAME VERB OPTION...
bench()
{
    name=$1 verb=$2
    shift 2
    tarn=${TARN_COMMAND:-$build/examples/tarn}
    [ "$verb" = model ] && [ -f "$machine" ] && set -- "$@" --machine "$machine"
    # shellcheck disable=SC2086
    run $limit "bench-$name" "$tarn" bench "$verb" --device cuda:0 --tsv "$rows" ${from:-$of} "$@" \
        ${TARN_BENCH_FLAGS:-}
    grep -v '^$' "$build/device/bench-$name.log"
}

# The most memory of the device that was in use in the second and in the last quarter of the looks.
step_soak()
{
    used=$build/device/soak-memory
    : > "$used"
    (
        while :; do
            nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -n 1 >> "$used"
            sleep 2
        done
    ) &
    looking=$!
    bench soak soak --seconds "$seconds"
    kill $looking
    wait $looking 2> /dev/null
    awk -v rows="$rows" '{ used[NR] = $1 + 0 }
        END {
            for (i = 1; i <= NR; i++) {
                quarter = int(4 * (i - 1) / NR)
                most[quarter] = used[i] > most[quarter] ? used[i] : most[quarter]
            }
            printf "soak_device_growth_mib\t%d\tMiB\t\t\t\t\t\t\t\n", most[3] - most[1] >> rows
        }' "$used"
}

# metric, comparison, wanted
wanted()
{
    cat << 'END'
decode_ms_b1 <= 1.75
decode_ms_b8 <= 7.0
decode_ms_b64 <= 24
decode_ms_added_by_ctx128k <= 0.35
append_ms_100 <= 26
prefill_tok_s_8k >= 90000
append_ms_2k_ctx100k <= 130
fork_us <= 1000
fork_state_bytes <= 0
fork_next_token_pct <= 2
commit_stall_pct <= 2
resume_ms_32k_pinned <= 10
resume_ms_32k_store <= 100
resume_32k_replayed <= 0
bits_among_others <= 0
bits_after_park <= 0
bits_after_resume <= 0
bits_of_fork <= 0
soak_over_ceiling <= 0
soak_left_on_device <= 0
soak_device_growth_mib <= 0
soak_resident_growth_pct <= 5
soak_host_growth_bytes <= 4194304
soak_file_growth_pct <= 25
END
}

# Shorter runs say so in the names of their rows.
step_report()
{
    table=$results/wanted-$label.tsv
    wanted | awk -v rows="$rows" '
        BEGIN {
            FS = "\t"
            while ((getline < rows) > 0) {
                sub(/^quick_/, "", $1)
                value[$1] = $2
                unit[$1] = $3
                floor[$1] = $4
            }
            if ("decode_ms_b1" in value && "decode_ms_b1_ctx128k" in value) {
                added = "decode_ms_added_by_ctx128k"
                value[added] = value["decode_ms_b1_ctx128k"] - value["decode_ms_b1"]
                unit[added] = "ms"
                if (floor["decode_ms_b1"] != "")
                    floor[added] = floor["decode_ms_b1_ctx128k"] - floor["decode_ms_b1"]
            }
            FS = " "
            print "metric\tvalue\tunit\tfloor\twanted\tverdict"
        }
        {
            verdict = "not measured"
            if ($1 in value)
                verdict = ($2 == "<=" ? value[$1] + 0 <= $3 : value[$1] + 0 >= $3) ? \
                    "met" : "missed"
            printf "%s\t%s\t%s\t%s\t%s %s\t%s\n", $1, value[$1], unit[$1], floor[$1], $2, $3,
                verdict
        }' > "$table"
    cat "$table"
    missing=$(grep -c 'not measured$' "$table")
    [ "$missing" -eq 0 ] || failed=$((failed + 1))
}

for step in $steps; do
    echo "== $step"
    case $step in
    build) step_build ;;
    tests1 | tests2 | tests3) step_tests "${step#tests}" ;;
    decode | append) bench "$step" model --only "$step" ;;
    context) bench "$step" model --only long ;;
    sessions) bench "$step" sessions --only rates,store,commits,parked ;;
    resume) bench "$step" sessions --only long ;;
    bits) bench "$step" bits ;;
    soak) step_soak ;;
    checkpoint)
        from="--model ${MODEL:-}"
        [ -z "${MODEL:-}" ] || bench "$step" model --only decode,append
        from=
        ;;
    report) step_report ;;
    *) echo "no such step: $step" && exit 2 ;;
    esac
done
echo "$failed failed; measurements in $results"
[ "$failed" -eq 0 ]
