"""Sessions that move between stores, and stores that are rescued."""

import os

import harness
from harness import Agent, case, check, equal, require


def ids(seed, n):
    return harness.random_ids(n, 1024, seed)


def second(folder, name="second"):
    """Another store beside the first one."""
    os.mkdir(os.path.join(folder, name))
    return Agent(os.path.join(folder, name))


def talk(a, name, seed):
    a.ask("new", name, "--tag", "job=7")
    for i in range(3):
        a.append(name, ids(seed + i, 30))
        a.ask("generate", name, "-n", "5", "--temp", "100", "--seed", str(seed + i))


def told(log):
    """What a log says but for numbers that are the store's own."""
    keys = ("position", "segments", "has_state", "bit_exact")
    return [{k: n[k] for k in keys} for n in log["nodes"]]


def damage(path, at, n=1):
    with open(path, "r+b") as f:
        f.seek(at)
        old = f.read(n)
        f.seek(at)
        f.write(bytes(b ^ 0x55 for b in old))


@case
def a_session_goes_on_in_another_store(folder):
    a = Agent(folder)
    talk(a, "work/a b", 1)
    a.ask("pin", "work/a b")
    file = os.path.join(folder, "s.tarnx")
    out = a.ask("export", "work/a b", file)
    equal(out["bytes"], os.path.getsize(file), "bytes of the export")
    equal(out["at"]["position"], 105, "at of the export")
    b = second(folder)
    back = b.ask("import", file)
    equal((back["bytes"], back["at"]["session"]), (out["bytes"], "work/a b"), "the import")
    equal(b.ask("tokens", "work/a b"), a.ask("tokens", "work/a b"), "tokens")
    equal(told(b.ask("log", "work/a b")), told(a.ask("log", "work/a b")), "log")
    entry = b.ask("ls")["sessions"][0]
    equal((entry["tags"], entry["pinned"]), ({"job": "7"}, False), "tags come along, marks stay")
    here, row = a.generate("work/a b", 9)
    there, other = b.generate("work/a b", 9)
    equal(there["ids"], here["ids"], "ids go on the same")
    check(row == other, "the logits are the same bits")
    equal(there["reuse"]["replayed"], 0, "nothing is computed again: %s" % there["reuse"])
    equal(b.ask("verify")["bad"], [], "verify")


@case
def a_stream_through_a_pipe(folder):
    a = Agent(folder)
    talk(a, "s", 5)
    r = a.run("export", "s", "-", "--json")
    equal(r.code, 0, "exit of an export to standard output")
    check(r.err.count(b"\n") == 1 and b'"bytes"' in r.err, "standard error: %r" % r.err)
    again = a.ask("export", "s", os.path.join(folder, "file"))
    with open(os.path.join(folder, "file"), "rb") as f:
        equal(f.read() == r.out, True, "the same bytes in a file (%s)" % again)
    back = a.ask("import", "-", "--as", "copy", data=r.out)
    equal(back["at"]["session"], "copy", "another name")
    equal(a.ask("tokens", "copy"), a.ask("tokens", "s"), "tokens")
    entry = [s for s in a.ask("ls")["sessions"] if s["session"] == "copy"][0]
    equal(entry["bytes_owned"], 0, "nodes that are there are used")
    a.ask("rm", "s")
    equal(a.ask("verify")["bad"], [], "verify")
    equal(a.generate("copy", 0)[0]["reuse"]["replayed"], 0, "it outlives the other")


@case
def files_that_are_refused(folder):  # D7
    a = Agent(folder)
    talk(a, "s", 9)
    file = os.path.join(folder, "s.tarnx")
    size = a.ask("export", "s", file)["bytes"]
    with open(file, "rb") as f:
        whole = f.read()
    a.refused("EXISTS", '"s"', "import", file)
    a.refused("NOT_FOUND", "nobody", "export", "nobody", os.path.join(folder, "x"))
    check(not os.path.exists(os.path.join(folder, "x")), "no file of a session that is not there")
    b = second(folder)
    b.ask("new", "there")
    before = b.ask("stat"), b.ask("ls")
    wrong = {
        "its digest": (whole[:-1] + bytes([whole[-1] ^ 1]), "CORRUPT"),
        "a byte in the middle": (
            whole[: size // 2] + bytes([whole[size // 2] ^ 1]) + whole[size // 2 + 1 :],
            "CORRUPT",
        ),
        "its end": (whole[:-100], "CORRUPT"),
        "something behind": (whole + b"x", "CORRUPT"),
        "no head": (b"", "CORRUPT"),
        "another magic": (b"\x89PNG\r\n\x1a\n" + whole[8:], "FORMAT"),
        "a newer version": (whole[:8] + b"\x02\x00" + whole[10:], "FORMAT"),
    }
    for what, (data, status) in wrong.items():
        r = b.run("import", "-", "--json", data=data)
        equal((r.code, r.json()["error"]["status"]), (1, status), what)
        equal((b.ask("stat"), b.ask("ls")), before, "nothing was made: %s" % what)
    b.refused("INVALID", "name", "import", file, "--as", "a@b")
    b.refused("NOT_FOUND", "none", "import", os.path.join(folder, "none"))
    a.ask("rename", "s", "../../etc/passwd")
    a.ask("export", "../../etc/passwd", file)
    b.refused("INVALID", "looks like a path", "import", file)
    equal((b.ask("stat"), b.ask("ls")), before, "nothing was made")
    equal(b.ask("import", file, "--as", "tame")["at"]["session"], "tame", "under another name")
    equal(b.ask("verify")["bad"], [], "verify")


@case
def an_export_that_cannot_be_written(folder):
    a = Agent(folder)
    talk(a, "s", 13)
    file = os.path.join(folder, "no", "such", "folder")
    a.refused("NOT_FOUND", "folder", "export", "s", file)
    r = harness.run("export", "s", "/dev/full", "--json", *a.options)
    equal(r.code, 1, "a full device")
    equal(a.ask("verify")["bad"], [], "verify")


@case
def a_damaged_store_is_salvaged(folder):  # D4
    a = Agent(folder)
    talk(a, "hurt", 17)
    talk(a, "whole", 23)
    row = a.generate("whole", 0)[1]
    data = os.path.join(a.store, "data.mdb")
    with open(data, "rb") as f:
        at = f.read().rfind(b"TCHK")
    damage(data, at + 90)
    bad = a.run("verify", "--json")
    equal(bad.code, 1, "verify finds it")
    require(len(bad.json()["bad"]) == 1, "one chunk: %s" % bad.json()["bad"])
    out = os.path.join(folder, "second", "store")
    b = second(folder)
    report = a.ask("salvage", out)
    equal(report["lost"], 0, "tokens are whole, so no node is lost: %s" % report)
    equal(b.ask("verify")["bad"], [], "the new store is whole")
    for name in ("hurt", "whole"):
        equal(b.ask("tokens", name), a.ask("tokens", name), "tokens of %s" % name)
    check(b.generate("whole", 0)[1] == row, "the same bits")
    a.refused("EXISTS", "there already", "salvage", out)
    with open(data, "r+b") as f:
        f.write(bytes(8192))  # both meta pages
    b2 = second(folder, "third")
    report = a.ask("salvage", b2.store)
    check(report["saved"] > 10, "found without LMDB's pages: %s" % report)
    equal(b2.ask("tokens", "whole"), b.ask("tokens", "whole"), "tokens")
    check(b2.generate("whole", 0)[1] == row, "the same bits")
    check(b"nodes saved" in a.run("salvage", os.path.join(folder, "more")).out, "people's form")


@case
def a_store_is_compacted(folder):
    a = Agent(folder)
    for i in range(4):
        talk(a, "s%d" % i, 40 + i)
    for i in range(3):
        a.ask("rm", "s%d" % i)
    row = a.generate("s3", 0)[1]
    before = a.ask("ls"), a.ask("tree"), a.ask("tokens", "s3")
    size = os.path.getsize(os.path.join(a.store, "data.mdb"))
    done = a.ask("compact")
    equal(done["bytes_before"], size, "bytes before")
    equal(done["bytes_after"], os.path.getsize(os.path.join(a.store, "data.mdb")), "bytes after")
    check(done["bytes_after"] < size, "it is smaller: %s" % done)
    equal((a.ask("ls"), a.ask("tree"), a.ask("tokens", "s3")), before, "what it holds")
    check(a.generate("s3", 0)[1] == row, "the same bits")
    equal(a.ask("verify")["bad"], [], "verify")
    equal(sorted(os.listdir(folder)), ["store"], "nothing is left over")
    harness.refused("NOT_FOUND", "no store", "compact", "--store", os.path.join(folder, "none"))


@case
def wrong_usage(folder):
    store = ["--store", os.path.join(folder, "s")]
    for arguments in (["export", "s"], ["import"], ["salvage"], ["import", "f", "g"]):
        r = harness.run(*arguments, *store)
        equal((r.code, r.out), (2, b""), "tarn " + " ".join(arguments))
    for verb in (["salvage", "out"], ["compact"]):
        equal(harness.run(*verb).code, 2, "tarn %s without a store" % verb[0])


harness.main()
