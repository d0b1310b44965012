"""Every status that these verbs can end with, and that a refusal changes nothing."""

import json
import os
import resource
import shutil
import signal
import subprocess

import harness
from harness import BUNDLED, TINY, Agent, ask, case, check, environment, equal, refused, require


def small_files():
    """Limits of a process that may write no file over 10,000 bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))


@case
def not_found(folder):
    a = Agent(folder)
    refused("NOT_FOUND", "", "ls", "--store", os.path.join(folder, "none"))
    check(not os.path.exists(os.path.join(folder, "none")), "only `new` makes a store")
    refused("NOT_FOUND", "none", "tokenize", "--model", os.path.join(folder, "none"), "x")
    refused("NOT_FOUND", "none", "model", "synth", os.path.join(folder, "m"), "--preset", "none")
    a.ask("new", "s")
    for verb in (
        "append x --tokens 1",
        "generate x",
        "fork x y",
        "rewind x @t:0",
        "log x",
        "tree x",
        "tokens x",
        "rename x y",
        "rm x",
        "dump x --state " + os.path.join(folder, "d"),
    ):
        a.refused("NOT_FOUND", "x", *verb.split())
    for where in ("@n:99", "@t:1", "@turn:1", "@turn:-1", "@before:call"):
        a.refused("NOT_FOUND", "", "fork", "s" + where, "y")
        a.refused("NOT_FOUND", "", "rewind", "s", where)
        a.refused("NOT_FOUND", "", "tokens", "s" + where)
    a.refused("NOT_FOUND", "", "dump", "s", "--logits", os.path.join(folder, "l"))
    check(not os.path.exists(os.path.join(folder, "l")), "no file where there are no logits")
    missing = os.path.join(folder, "missing")
    a.refused("NOT_FOUND", missing, "append", "s", "--tokens", "@" + missing)
    a.refused("NOT_FOUND", missing, "append", "s", "--user", "--file", missing)
    a.refused("NOT_FOUND", missing, "new", "t", "--tools", missing)
    a.refused("NOT_FOUND", missing, "dump", "s", "--state", os.path.join(missing, "f"))
    r = a.run("generate", "x")
    check(
        r.code == 1 and r.out == b"" and b"NOT_FOUND" in r.err,
        "people are told on standard error: %r" % r.err,
    )
    equal([s["session"] for s in a.ask("ls")["sessions"]], ["s"], "nothing was made")


@case
def exists(folder):
    a = Agent(folder)
    a.ask("new", "s")
    a.ask("new", "t")
    a.refused("EXISTS", "s", "new", "s")
    a.refused("EXISTS", "t", "fork", "s", "t")
    a.refused("EXISTS", "s", "fork", "s", "s")
    a.refused("EXISTS", "t", "rename", "s", "t")
    m = os.path.join(folder, "m")
    ask("model", "synth", m, "--preset", "tiny")
    refused("EXISTS", "m: ", "model", "synth", m, "--preset", "tiny")


@case
def invalid(folder):
    a = Agent(folder)
    a.ask("new", "s")
    a.refused("INVALID", "1280", "append", "s", "--tokens", "1,1280")
    a.refused("INVALID", "", "generate", "s", "-n", "1")
    a.refused("INVALID", "temperature", "generate", "s", "--temp", "-1", "-n", "0")
    a.refused("INVALID", "top_p", "generate", "s", "--top-p", "2", "-n", "0")
    for where in ("@", "@turn", "@turn:x", "@x:1", "@t:-1", "@n:0", "turn:1"):
        a.refused("INVALID", where, "rewind", "s", where)
    for name in ("", "a@b", "a\nb", "x" * 256):
        a.refused("INVALID", "", "new", name)
        a.refused("INVALID", "", "rename", "s", name)
        a.refused("INVALID", "", "fork", "s", name)
    for verb in ("log", "tokens", "explain", "tree", "rm", "pin", "generate"):
        a.refused("INVALID", "256 bytes", verb, "x" * 256)
    a.refused("INVALID", "256 bytes", "fork", "x" * 256 + "@t:1", "new")
    refused("INVALID", "9999", "detokenize", "--model", BUNDLED, "9999")
    refused("INVALID", "byte 2", "detokenize", "--model", BUNDLED, "1,x")
    path = os.path.join(folder, "ids")
    with open(path, "w") as f:
        f.write("1,2,")
    a.refused("INVALID", path, "append", "s", "--tokens", "@" + path)
    equal(a.ask("ls")["sessions"][0]["position"], 0, "nothing was fed")


@case
def limit(folder):
    a = Agent(folder)
    a.ask("new", "s")
    path = os.path.join(folder, "ids")
    with open(path, "w") as f:
        f.write("1 " * 8193)
    a.refused("LIMIT", "8192", "append", "s", "--tokens", "@" + path)
    equal(a.ask("ls")["sessions"][0]["position"], 0, "nothing was fed")


@case
def mismatch(folder):
    a, b = Agent(folder), Agent(folder, numerics="native")
    a.ask("new", "s")
    b.refused("MISMATCH", "", "append", "s", "--tokens", "1")
    other = os.path.join(folder, "m")
    shutil.copytree(BUNDLED, other)
    path = os.path.join(other, "model.safetensors")
    with open(path, "r+b") as f:
        f.seek(-1, os.SEEK_END)
        last = f.read(1)[0]
        f.seek(-1, os.SEEK_END)
        f.write(bytes([last ^ 1]))
    Agent(folder, model=other).refused("MISMATCH", "weights", "append", "s", "--tokens", "1")
    Agent(folder, model=TINY).refused("MISMATCH", "", "append", "s", "--tokens", "1")
    equal(a.append("s", [1])["at"]["position"], 1, "with its own model it goes on")


@case
def unsupported_without_a_tokenizer(folder):
    a = Agent(folder, model=TINY)
    a.ask("new", "s")
    a.refused("UNSUPPORTED", "tokenizer", "append", "s", "--user", "x")
    a.refused("UNSUPPORTED", "tokenizer", "new", "t", "--system", "x")
    equal([s["session"] for s in a.ask("ls")["sessions"]], ["s"], "t is not left")
    equal(a.append("s", [5, 6, 7])["at"]["position"], 3, "ids can be fed")
    equal(len(a.ask("generate", "s", "-n", "2")["ids"]), 2, "and generated")


@case
def no_device(folder):
    a = Agent(folder)
    a.ask("new", "s")
    a.refused("NO_DEVICE", "tpu:3", "append", "s", "--tokens", "1", "--device", "tpu:3")


@case
def format_of_a_model(folder):
    m = os.path.join(folder, "m")
    shutil.copytree(BUNDLED, m)
    with open(os.path.join(m, "config.json"), "w") as f:
        f.write("{")
    refused("FORMAT", "config.json", "model", "show", m)
    shutil.copy(os.path.join(BUNDLED, "config.json"), m)
    with open(os.path.join(m, "tiktoken.model"), "w") as f:
        f.write("nonsense\n")
    refused("FORMAT", "tiktoken.model", "tokenize", "--model", m, "x")


@case
def foreign_and_damaged_stores(folder):
    a = Agent(folder)
    a.ask("new", "s")
    a.append("s", list(range(1, 200)))
    data = os.path.join(a.store, "data.mdb")
    whole = open(data, "rb").read()
    with open(data, "wb") as f:
        f.write(b"this is no store" * 1000)
    a.refused("FORMAT", "", "ls")
    with open(data, "wb") as f:
        f.write(whole[: len(whole) // 2])
    a.refused("CORRUPT", "", "ls")

    # Damage inside stored values: verify finds it, and says so with exit code 1.
    found = None
    for at in range(len(whole) // 2 // 4096 * 4096 + 3000, len(whole), 4096):
        with open(data, "wb") as f:
            f.write(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        r = a.run("verify", "--json")
        report = r.json()
        if r.code == 1 and report.get("bad"):
            found = report
            break
    require(found, "no flipped bit was found by verify")
    for bad in found["bad"]:
        check(set(bad) >= {"node", "chunk", "reason"} and bad["reason"], "a bad chunk: %s" % bad)
    equal(a.run("verify").code, 1, "people's form: exit code")
    with open(data, "wb") as f:
        f.write(whole)
    equal(a.ask("verify")["bad"], [], "the whole store is well")


@case
def output_that_cannot_be_written(folder):
    a = Agent(folder)
    a.ask("new", "s")
    a.append("s", [1, 2])
    plain = os.path.join(folder, "file")
    open(plain, "w").close()
    a.refused("IO", plain, "dump", "s", "--state", os.path.join(plain, "f"))
    if os.path.exists("/dev/full"):
        a.refused("NO_SPACE", "/dev/full", "dump", "s", "--state", "/dev/full")
        check(not os.path.isfile("/dev/full"), "a device is not replaced")
        with open("/dev/full", "w") as full:
            p = subprocess.run(
                [harness.TARN, "ls", "--store", a.store], stdout=full, stderr=subprocess.PIPE
            )
        check(p.returncode == 1 and b"standard output" in p.stderr, "full standard output: %s" % p)

    a.refused("IO", "", "dump", "s", "--state", os.path.join(folder, "d"), limits=small_files)
    equal(
        sorted(os.listdir(folder)),
        ["file", "store"],
        "a file that could not be written whole is not left",
    )


@case
def closed_streams_are_not_the_stores_files(folder):
    """A descriptor that was closed is given to the next file that is opened: the lock file or the
    data of the store must not become standard output."""
    a = Agent(folder)
    a.ask("new", "s")

    def close(*descriptors):
        def limits():
            for d in descriptors:
                os.close(d)

        return limits

    def heads():
        """Magic and version of both files; what stands behind changes with every commit."""
        names = ("data.mdb", "lock.mdb")
        return [open(os.path.join(a.store, f), "rb").read(n) for f, n in zip(names, (24, 8))]

    before = heads()
    for closed in ((2,), (1, 2), (0, 1, 2), (0,)):
        for verb, more in (("ls", []), ("append", ["s", "--user", "hi"]), ("log", ["none"])):
            r = a.run(verb, *more, limits=close(*closed))
            failed = verb == "log" or 1 in closed
            equal(r.code, 1 if failed else 0, "%s without %s" % (verb, closed))
            if closed == (0, 1, 2):
                equal(r.out + r.err, b"", "what it says")
            equal(heads(), before, "%s without %s: the heads of the files" % (verb, closed))
    r = a.run("append", "s", "--user", "--json", limits=close(0))
    equal(r.json()["error"]["status"], "IO", "no standard input")
    equal(a.ask("verify")["bad"], [], "verified")


@case
def no_space_for_a_model(folder):
    r = harness.run(
        "model", "synth", os.path.join(folder, "m"), "--preset", "48b", "--dry-run", "--json"
    )
    needed = r.json()["bytes"]
    free = shutil.disk_usage(folder).free
    limits = small_files if free > needed else None
    m = os.path.join(folder, "m")
    refused("NO_SPACE", "bytes wanted", "model", "synth", m, "--preset", "48b", limits=limits)
    equal(os.listdir(folder), [], "nothing is left")


@case
def busy_while_another_process_writes(folder):
    a = Agent(folder)
    made = a.ask("new", "s", "--system", "Be short.")
    # Near to uniform: more than a thousand ids until a stop id is drawn.
    command = [harness.TARN, "generate", "s", "--temp", "100", "--seed", "56"] + a.options
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    p.stdout.read(1)  # it has begun, so it has read the head
    p.send_signal(signal.SIGSTOP)
    holder = "process %d on host" % p.pid
    a.refused("BUSY", holder, "append", "s", "--tokens", "7")
    a.refused("BUSY", holder, "rewind", "s", "@t:0")
    a.refused("BUSY", holder, "rm", "s")
    a.ask("fork", "s", "branch")
    a.append("branch", [7])
    at = [s for s in a.ask("ls")["sessions"] if s["session"] == "s"][0]
    equal(at["node"], made["at"]["node"], "nobody moved it")
    p.kill()
    p.communicate()
    moved = a.append("s", [7])  # at once: its holder is dead
    at = [s for s in a.ask("ls")["sessions"] if s["session"] == "s"][0]
    equal(at["node"], moved["at"]["node"], "the head is where the other process put it")
    equal(at["position"], moved["at"]["position"], "position")


@case
def a_session_that_computes_nonsense_fails(folder):
    model = os.path.join(folder, "m")
    shutil.copytree(TINY, model)
    path = os.path.join(model, "model.safetensors")
    with open(path, "rb") as f:
        data = bytearray(f.read())
    header = int.from_bytes(data[:8], "little")
    entry = json.loads(bytes(data[8 : 8 + header]))["model.embed_tokens.weight"]
    row = (entry["data_offsets"][1] - entry["data_offsets"][0]) // entry["shape"][0]
    at = 8 + header + entry["data_offsets"][0] + 9 * row
    data[at : at + row] = b"\xff\xff\xff\x7f" * (row // 4)  # the row of id 9: not a number
    with open(path, "wb") as f:
        f.write(data)
    a = Agent(folder, model=model)
    a.ask("new", "s")
    a.append("s", [1, 2, 3])
    r = a.run("append", "s", "--tokens", "4,9,5", "--json")
    equal(r.code, 1, "exit code")
    check("finite" in r.json()["error"]["detail"], "the detail says what is wrong: %s" % r.json())
    equal(a.ask("ls")["sessions"][0]["position"], 3, "nothing of it was kept")
    equal(a.append("s", [4])["at"]["position"], 4, "the session goes on")


harness.main()
