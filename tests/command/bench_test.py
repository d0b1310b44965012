"""tarn bench model: each metric once, as a line of JSON and as a row of a table."""

import json
import os

import harness
from harness import BUNDLED, case, check, equal, run

METRICS = [
    "machine_read_gb_s",
    "machine_fma_gflop_s",
    "machine_bf16_gflop_s",
    "first_token_ms_cold",
    "first_token_ms_warm",
    "decode_tok_s",
    "decode_tok_s_b8",
    "decode_tok_s_b16",
    "prefill_tok_s_512",
    "append_tok_s_64",
    "decode_tok_s_busy",
]


@case
def metrics_stand_beside_their_floors(folder):
    table = os.path.join(folder, "rows.tsv")
    peers = os.path.join(folder, "peers.tsv")
    name = os.path.basename(BUNDLED)
    with open(peers, "w") as f:
        f.write("llama.%s.bf16.prefill512.t1\t1000\ttok/s\n" % name)
        f.write("llama.other.bf16.prefill512.t1\t1000\ttok/s\n")
        f.write("machine.cores\t2\t\n")
    r = run("bench", "model", "--model", BUNDLED, "--quick", "--threads", "1", "--json",
            "--tsv", table, "--peers", peers)
    equal(r.code, 0, "exit code, stderr %r" % r.err[:300])
    rows = [json.loads(line) for line in r.out.splitlines()]
    compared = [row for row in rows if "peer" in row]
    rows = [row for row in rows if "peer" not in row]
    equal([row["metric"] for row in rows], METRICS, "metrics")
    for row in rows:
        check(row["value"] >= 0, "a value: %r" % row)
        equal(row["threads"], 1, "threads")
        if not row["metric"].startswith("machine"):
            check(row["floor"] > 0 and row["ratio"] > 0, "a floor: %r" % row)
    equal(len(compared), 1, "peers")
    prefill = [row for row in rows if row["metric"] == "prefill_tok_s_512"][0]
    check(abs(compared[0]["ratio"] - prefill["value"] / 1000) < 1e-6 * compared[0]["ratio"],
          "the ratio to the peer: %r" % compared)
    with open(table) as f:
        equal([line.split("\t")[0] for line in f], ["metric"] + METRICS, "rows of the table")


@case
def a_model_is_needed(folder):
    equal(run("bench", "model").code, 2, "exit code without a model")
    equal(run("bench", "model", "--model", os.path.join(folder, "none")).code, 1, "of no folder")


harness.main()
