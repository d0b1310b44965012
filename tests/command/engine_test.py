"""What fits into a device, and what sessions cost on this machine."""

import json
import os

import harness
from harness import BUNDLED, ask, case, check, equal, refused, require, run


@case
def plan_says_what_fits(folder):
    told = ask("plan", "--model", BUNDLED, "--context", "1000", "--sessions", "3")
    check(not told["fits"] and told["sessions"] == 0, "no device, no sessions: %s" % told)
    for wanted, bytes_more, sessions in ((3, 0, 3), (3, -1, 2), (1, 0, 3)):
        size = told["wanted_bytes"] + bytes_more
        got = ask("plan", "--model", BUNDLED, "--context", "1000", "--sessions", str(wanted),
                  "--device-bytes", str(size))
        equal(got["sessions"], sessions, "sessions in %d bytes" % size)
        equal(got["fits"], sessions >= wanted, "fits")
    size = told["floor_bytes"] - 1
    equal(ask("plan", "--model", BUNDLED, "--context", "1000", "--device-bytes", str(size))["fits"],
          False, "below one session")
    shown = ask("model", "show", BUNDLED)
    equal(told["weights_bytes"], shown["weights_bytes"], "weights")
    least = shown["state_bytes"] + shown["conv_bytes"] + 1000 * shown["latent_bytes_per_token"]
    check(told["per_session_bytes"] >= least, "a session weighs at least %d: %s" % (least, told))
    refused("INVALID", "context", "plan", "--model", BUNDLED, "--context", "99999999")
    text = run("plan", "--model", BUNDLED, "--device-bytes", "1000").out.decode()
    check("does not fit" in text, text)


@case
def plan_needs_no_weights(folder):
    for name in ("config.json", "tiktoken.model", "tokenizer_config.json"):
        with open(os.path.join(BUNDLED, name), "rb") as f:
            data = f.read()
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
    equal(ask("plan", "--model", folder)["per_session_bytes"],
          ask("plan", "--model", BUNDLED)["per_session_bytes"], "the same plan")


@case
def bench_sessions_prints_rows(folder):
    tsv = os.path.join(folder, "rows.tsv")
    peers = os.path.join(folder, "peers.tsv")
    name = "llama.%s.bf16." % os.path.basename(BUNDLED)
    with open(peers, "w") as f:
        f.write(name + "decode1.at64.t2\t100\ttok/s\n")
        f.write(name + "decode1.at64.t2\t300\ttok/s\n")
        f.write(name + "decode1.at64.t2\t250\ttok/s\n")
        f.write(name + "decode1.at64.t1\t1\ttok/s\n")
        f.write(name + "prefill512.t2\t1000\ttok/s\n")
        f.write(name + "state.restore_warm.ms.t2\t2\tms\n")
    result = run("bench", "sessions", "--model", BUNDLED, "--threads", "2", "--json", "--tsv", tsv,
                 "--peers", peers)
    equal(result.code, 0, "exit code")
    lines = [json.loads(line) for line in result.out.decode().splitlines()]
    compared = {r["metric"]: r for r in lines if "peer" in r}
    rows = {r["metric"]: r for r in lines if "peer" not in r}
    # Of three rows of one name the median; a sum only where each of its terms is there.
    equal(sorted(compared), ["rewind_between_ms", "rewind_middle_ms", "tok_s_1"], "compared")
    equal(compared["tok_s_1"]["value"], 250, "a rate of the peer")
    equal(compared["rewind_middle_ms"]["value"], 512 + 4, "512 tokens at 1000/s, one at 250/s")
    for metric in ("resume_first_token_ms", "fork_us", "fork_state_bytes", "commit_stall_pct",
                   "tok_s_1", "tok_s_4", "tok_s_16", "append_16x64_over_1x1024",
                   "fork_first_token_ms", "rewind_middle_ms", "parked_device_bytes"):
        require(metric in rows, "%s is missing: %s" % (metric, sorted(rows)))
        equal(sorted(rows[metric]), ["device", "floor", "metric", "model", "numerics", "ratio",
                                     "threads", "unit", "value"], "columns")
    equal(rows["fork_state_bytes"]["value"], 0, "bytes copied by a fork")
    equal(rows["parked_device_bytes"]["value"], 0, "device bytes of a parked session")
    for metric, n in (("resume", 0), ("fork", 0), ("rewind_middle", 0), ("rewind_between", 32)):
        equal(rows[metric + "_replayed"]["value"], n, "tokens computed again by " + metric)
    check(rows["tok_s_1"]["value"] > 0, "a rate")
    with open(tsv) as f:
        lines = f.read().splitlines()
    equal(len(lines), len(rows) + 1, "lines of the TSV, with its head")


harness.main()
