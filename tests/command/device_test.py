"""The command on a device: what it measures, and sessions that change between device and CPU."""

import json
import os

import harness
from harness import BUNDLED, case, check, equal, run

MODEL = ["decode_ms_b1", "decode_ms_b8", "decode_ms_b64", "append_ms_100", "prefill_tok_s_512"]


def rows_of(r):
    equal(r.code, 0, "exit code, stderr %r" % r.err[-300:])
    return [json.loads(line) for line in r.out.splitlines()]


@case
def shapes_are_measured_beside_the_floors_of_the_device(folder):
    machine = os.path.join(folder, "ops.tsv")
    with open(machine, "w") as f:
        f.write("copy_gbps\t100\tGB/s\nlibrary_matmul_tflops\t2\tTFLOP/s\n")
    rows = rows_of(run("bench", "model", "--shape", "tiny", "--device", "cuda:0", "--quick",
                       "--only", "decode,append", "--json", "--machine", machine))
    # Shorter than the names say, and called so.
    equal([row["metric"] for row in rows],
          ["quick_" + name for name in MODEL + ["prefill_tok_s_8k"]], "metrics")
    for row in rows:
        check(row["value"] > 0 and row["floor"] > 0 and row["ratio"] > 0, "a floor: %r" % row)
        check(row["device"].startswith("cuda:0"), "device: %r" % row)
        equal(row["model"], "tiny", "model")
    one, eight = [row["floor"] for row in rows[:2]]
    check(one < eight < 8 * one, "eight sessions read the weights once: %r, %r" % (one, eight))


@case
def a_part_that_is_not_there_is_refused(folder):
    for verb, part in (("model", "rates"), ("sessions", "rates,decode"), ("sessions", ",")):
        r = run("bench", verb, "--shape", "tiny", "--device", "cuda:0", "--only", part)
        equal(r.code, 2, "exit code of --only %s" % part)
        check(b"there is no part" in r.err, "%r" % r.err)


@case
def rates_that_are_not_there_are_refused(folder):
    empty = os.path.join(folder, "none.tsv")
    with open(empty, "w") as f:
        f.write("metric\tvalue\n")
    for path, part in ((empty, b"copy_gbps"), (empty + "x", b"cannot be read")):
        r = run("bench", "model", "--shape", "tiny", "--device", "cuda:0", "--quick",
                "--machine", path)
        equal(r.code, 2, "exit code")
        check(part in r.err, "%r" % r.err)


@case
def a_shape_needs_a_device(folder):
    harness.refused("UNSUPPORTED", "CUDA device", "bench", "model", "--shape", "tiny",
                    "--device", "cpu")
    harness.refused("NO_DEVICE", "there are 1", "bench", "model", "--shape", "tiny",
                    "--device", "cuda:1")


@case
def a_session_goes_from_the_cpu_to_the_device_and_back(folder):
    store = ["--store", os.path.join(folder, "store"), "--model", BUNDLED, "--threads", "1"]
    ask = harness.ask
    ask("new", "work", "--device", "cpu", *store)
    at = ask("append", "work", "--tokens", "5,6,7,8,9", "--device", "cpu", *store)["at"]
    check(at["bit_exact"], "on the CPU: %r" % at)
    r = ask("append", "work", "--tokens", "10,11", "--device", "cuda:0", *store)
    equal(r["reuse"]["reason"], "numerics", "reason")
    equal(r["reuse"]["replayed"], 0, "replayed")
    equal((r["at"]["position"], r["at"]["bit_exact"]), (7, False), "on the device")
    r = ask("generate", "work", "-n", "1", "--device", "cpu", *store)
    equal((r["reuse"]["reused"], r["reuse"]["reason"]), (7, "numerics"), "reuse")
    check(not r["at"]["bit_exact"], "back on the CPU: %r" % r["at"])


# Heads of 128: appends of 64 tokens and more have forms of their own.
WIDE = {
    "architectures": ["KimiLinearForCausalLM"], "model_type": "kimi_linear", "dtype": "bfloat16",
    "hidden_size": 64, "vocab_size": 160, "num_hidden_layers": 2,
    "linear_attn_config": {"full_attn_layers": [2], "kda_layers": [1], "head_dim": 128,
                           "num_heads": 1, "short_conv_kernel_size": 4},
    "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 128, "kv_lora_rank": 512,
    "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "mla_use_nope": True, "intermediate_size": 96, "moe_intermediate_size": 24, "num_experts": 8,
    "num_experts_per_token": 2, "num_shared_experts": 1, "num_expert_group": 1, "topk_group": 1,
    "first_k_dense_replace": 2, "moe_layer_freq": 1, "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid", "routed_scaling_factor": 2.446,
    "use_grouped_topk": True, "hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "model_max_length": 4096, "num_nextn_predict_layers": 0,
    "bos_token_id": 156, "eos_token_id": 157, "pad_token_id": 159,
}


@case
def exact_is_a_numerics_of_its_own(folder):
    config, model = os.path.join(folder, "wide.json"), os.path.join(folder, "wide")
    with open(config, "w") as f:
        json.dump(WIDE, f)
    harness.ask("model", "synth", model, "--config", config)
    options = ["--store", os.path.join(folder, "store"), "--model", model, "--threads", "1",
               "--device", "cuda:0"]
    ids = ",".join(str(i) for i in range(70))
    harness.ask("new", "work", *options)
    harness.ask("append", "work", "--tokens", ids, "--exact", *options)
    r = harness.ask("append", "work", "--tokens", "1", "--exact", *options)
    equal((r["reuse"]["reason"], r["at"]["bit_exact"]), ("exact", True), "exact again")
    r = harness.ask("append", "work", "--tokens", "2", *options)
    equal((r["reuse"]["reason"], r["at"]["bit_exact"]), ("numerics", False), "fast after exact")


harness.main()
