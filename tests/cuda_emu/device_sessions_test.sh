#!/bin/sh
# device_sessions_test.sh PROGRAMS_FOLDER COMMAND: runs device_sessions.sh with a GPU that is not
# there: the tests and the command of the emulated device, a tiny model, short lengths. A step
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
cat > "$scratch/config.json" <<'END'
{"architectures": ["KimiLinearForCausalLM"], "model_type": "kimi_linear", "dtype": "bfloat16",
"hidden_size": 64, "vocab_size": 160, "num_hidden_layers": 5, "linear_attn_config":
{"full_attn_layers": [3, 5], "kda_layers": [1, 2, 4], "head_dim": 16, "num_heads": 4,
"short_conv_kernel_size": 4}, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim":
16, "kv_lora_rank": 24, "q_lora_rank": null, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
"v_head_dim": 12, "mla_use_nope": true, "intermediate_size": 96, "moe_intermediate_size": 24,
"num_experts": 8, "num_experts_per_token": 2, "num_shared_experts": 1, "num_expert_group": 1,
"topk_group": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1, "moe_renormalize": true,
"moe_router_activation_func": "sigmoid", "routed_scaling_factor": 2.446, "use_grouped_topk":
true, "hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings":
false, "model_max_length": 4096, "num_nextn_predict_layers": 0, "bos_token_id": 156,
"eos_token_id": 157, "pad_token_id": 159}
END
"$2" model synth "$scratch/model" --config "$scratch/config.json" > "$scratch/out"
printf 'copy_gbps\t100\tGB/s\nlibrary_matmul_tflops\t2\tTFLOP/s\n' \
    > "$scratch/results/ops-Emulated-GPU-1.tsv"
for stem in identity lease writes; do
    ln -s "$programs/cuda_session_${stem}_test" "$scratch/build/device/session_$stem"
done
export PATH="$scratch/bin:$PATH" TARN_COMMAND="$2" TARN_BENCH_FLAGS=--quick
export TARN_BENCH_OF="--model $scratch/model"
export TARN_SOAK_SECONDS=6 TARN_RESULTS="$scratch/results" TMPDIR="$scratch"

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
