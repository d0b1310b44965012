"""The command on a device: what it measures, and sessions that change between device and CPU."""

import json
import os

import harness
from harness import BUNDLED, case, check, equal, run

MODEL = ["decode_ms_b1", "decode_ms_b8", "decode_ms_b64", "append_ms_100"]


def rows_of(r):
    equal(r.code, 0, "exit code, stderr %r" % r.err[-300:])
    return [json.loads(line) for line in r.out.splitlines()]


@case
def shapes_are_measured_beside_the_floors_of_the_device(folder):
    machine = os.path.join(folder, "ops.tsv")
    with open(machine, "w") as f:
        f.write("copy_gbps\t100\tGB/s\nlibrary_matmul_tflops\t2\tTFLOP/s\n")
    rows = rows_of(run("bench", "model", "--shape", "tiny", "--device", "cuda:0", "--quick",
                       "--json", "--machine", machine))
    equal([row["metric"] for row in rows], MODEL, "metrics")
    for row in rows:
        check(row["value"] > 0 and row["floor"] > 0 and row["ratio"] > 0, "a floor: %r" % row)
        check(row["device"].startswith("cuda:0"), "device: %r" % row)
        equal(row["model"], "tiny", "model")
    one, eight = [row["floor"] for row in rows[:2]]
    check(one < eight < 8 * one, "eight sessions read the weights once: %r, %r" % (one, eight))


@case
def rates_that_are_not_there_are_refused(folder):
    empty = os.path.join(folder, "none.tsv")
    with open(empty, "w") as f:
        f.write("metric\tvalue\n")
    for path, part in ((empty, b"copy_gbps"), (empty + "x", b"cannot be read")):
        r = run("bench", "model", "--shape", "tiny", "--device", "cuda:0", "--machine", path)
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


harness.main()
