"""What is kept and what may go: marks, collection, quotas, and what going back costs."""

import os
import re
import time

import harness
from harness import Agent, case, check, equal, require

def ids(seed, n):
    return harness.random_ids(n, 1024, seed)


def session(a, name):
    return [s for s in a.ask("ls")["sessions"] if s["session"] == name][0]


def turn(a, name, seed, n=12):
    """Tokens, then a turn of four; the two nodes."""
    first = a.append(name, ids(seed, n))["at"]["node"]
    answer = a.ask("generate", name, "-n", "4", "--temp", "100", "--seed", str(seed))
    require(len(answer["ids"]) == 4, "no stop id was drawn: %s" % answer)
    return first, answer["at"]["node"]


@case
def explain_is_the_price_of_each_turn(folder):  # G2
    a = Agent(folder)
    a.ask("new", "s")
    turn(a, "s", 1)
    turn(a, "s", 2)  # the root, and two nodes a turn: five
    equal(len(a.ask("tree")["nodes"]), 5, "nodes")
    a.ask("fork", "s", "branch")
    a.append("branch", ids(3, 4))
    a.ask("generate", "branch", "-n", "4", "--temp", "100", "--seed", "3")
    a.ask("rm", "s")
    told = a.ask("explain", "branch")
    equal([t["turn"] for t in told["turns"]], [1, 2, 3], "turns")
    equal([t["position"] for t in told["turns"]], [16, 32, 40], "positions")
    for t in told["turns"]:
        price = a.ask("fork", "branch@turn:%d" % t["turn"], "at%d" % t["turn"])["price"]
        equal({k: t[k] for k in price}, price, "the price a fork tells")
    entry = session(a, "branch")
    equal(
        (told["bytes_owned"], told["bytes_shared"]),
        (entry["bytes_owned"], entry["bytes_shared"]),
        "bytes as in ls",
    )
    check(told["bytes_owned"] > 0 and told["bytes_shared"] > 0, "both are told: %s" % told)
    equal(len(a.ask("explain", "branch@turn:2")["turns"]), 2, "up to a place")
    equal(len(a.ask("explain", "branch@t:33")["turns"]), 2, "up to a place within a node")


@case
def explain_of_five_nodes_as_text(folder):  # G2
    a = Agent(folder)
    a.ask("new", "s")
    turn(a, "s", 1)
    turn(a, "s", 2)
    text = a.run("explain", "s").out.decode()
    # Sizes depend on the version of the compressor; nothing else of the table does.
    text = re.sub(r"\d+\.\d [kM]B|\d+ B", lambda m: "#".rjust(len(m.group())), text)
    want = (
        "  turn    tokens   replays      reads\n"
        "     1        16         0          #\n"
        "     2        32         0          #\n"
        "owns #, shares #\n"
    )
    equal(re.sub(r"(owns|shares) +#", r"\1 #", text), want, "the table")


@case
def marks_show_in_ls(folder):
    a = Agent(folder)
    a.ask("new", "s", "--tag", "job=1")
    equal(a.ask("tag", "s", "owner=ann")["at"]["session"], "s", "at of tag")
    a.ask("tag", "s", "job=2")
    equal(session(a, "s")["tags"], {"job": "2", "owner": "ann"}, "tags")
    equal(len(a.ask("ls", "--tag", "owner=ann")["sessions"]), 1, "found by the tag")
    a.ask("tag", "s", "job")
    equal(session(a, "s")["tags"], {"owner": "ann"}, "a tag is taken away")
    equal(a.ask("pin", "s")["at"]["position"], 0, "at of pin")
    equal(session(a, "s")["pinned"], True, "pinned")
    equal([n["pinned"] for n in a.ask("log", "s")["nodes"]], [True], "nodes of log")
    a.ask("unpin", "s")
    equal(session(a, "s")["pinned"], False, "unpinned")
    equal(session(a, "s")["expires"], None, "no time to live")
    before = time.time() * 1000
    a.ask("ttl", "s", "100")
    check(
        before + 99e3 < session(a, "s")["expires"] < before + 160e3,
        "expires: %s" % session(a, "s"),
    )
    a.ask("ttl", "s", "never")
    equal(session(a, "s")["expires"], None, "never")
    a.ask("group", "s", "team")
    equal(session(a, "s")["group"], "team", "group")
    a.ask("group", "s")
    equal(session(a, "s")["group"], None, "no group")
    for verb in ("tag x k=v", "pin x", "unpin x", "ttl x 1", "group x g", "explain x"):
        a.refused("NOT_FOUND", "x", *verb.split())
    a.refused("INVALID", "key", "tag", "s", "=v")


@case
def an_expired_session_goes_unless_pinned(folder):  # E4
    a = Agent(folder)
    for seed, name in enumerate(("kept", "gone", "young")):
        a.ask("new", name)
        a.append(name, ids(5 + seed, 10))
    a.ask("pin", "kept")
    a.ask("ttl", "kept", "0")
    a.ask("ttl", "gone", "0")
    a.ask("ttl", "young", "1000")
    before = a.ask("ls"), a.ask("stat"), a.ask("tree")
    dry = a.ask("gc", "--dry-run")
    equal((a.ask("ls"), a.ask("stat"), a.ask("tree")), before, "after a dry run")
    done = a.ask("gc")
    equal(done, dry, "the collection does what the dry run said")
    equal([d["what"] for d in done["dropped"]], ["session", "node", "node"], "dropped")
    check("gone" in done["dropped"][0]["why"], "why: %s" % done["dropped"])
    equal([s["session"] for s in a.ask("ls")["sessions"]], ["kept", "young"], "sessions")
    equal(
        before[1]["bytes_stored"] - a.ask("stat")["bytes_stored"],
        done["freed_bytes"],
        "freed bytes",
    )
    equal(a.ask("gc"), {"freed_bytes": 0, "dropped": []}, "nothing is left to do")
    a.ask("unpin", "kept")
    equal(a.ask("gc")["dropped"][0]["what"], "session", "unpinned it goes")
    equal(a.ask("verify")["bad"], [], "verify")
    check(b"freed" in a.run("gc").out, "people's form")


@case
def a_quota_makes_sessions_dearer_and_loses_nothing(folder):  # E2, E3
    a = Agent(folder)
    a.ask("new", "s")
    history = []
    for i in range(6):
        part = ids(20 + i, 20)
        a.append("s", part)
        history += part
    _, row = a.generate("s", 0)
    equal(a.ask("quota"), {"quota": 0}, "no quota at first")
    a.refused("INVALID", "alone has", "quota", "1000")
    used = a.ask("stat")["bytes_stored"]
    equal(a.ask("quota", used - 1), {"quota": used - 1}, "the quota is set")
    a.append("s", ids(40, 20))  # another process: it holds across opens
    check(a.ask("stat")["bytes_stored"] < used, "the quota holds")
    dropped = [n["node"] for n in a.ask("log", "s")["nodes"] if not n["has_state"]]
    check(len(dropped) >= 2, "states were dropped: %s" % dropped)
    fork = a.ask("fork", "s@n:%d" % dropped[0], "old")
    check(fork["price"]["replay_tokens"] > 0, "the price is told: %s" % fork)
    again, _ = a.generate("old", 0)
    equal(again["reuse"]["reason"], "evicted", "reason")
    equal(again["reuse"]["replayed"], fork["price"]["replay_tokens"], "replayed as told")
    back = a.ask("rewind", "s", "@t:120")
    told, now = a.generate("s", 0)
    check(now == row, "the same logits after %s (%s)" % (told["reuse"], back["price"]))
    equal(a.ask("tokens", "s")["ids"], history, "every token")
    equal(a.ask("quota", "7", "--group", "team"), {"quota": 7}, "of a group")
    equal(a.ask("quota", "0"), {"quota": 0}, "no limit")
    equal(a.ask("verify")["bad"], [], "verify")


@case
def a_commit_that_finds_no_room_is_refused(folder):
    a = Agent(folder)
    a.ask("new", "s")
    a.append("s", ids(1, 20))
    a.ask("pin", "s")
    a.ask("quota", a.ask("stat")["bytes_stored"])
    before = a.ask("ls"), a.ask("stat"), a.ask("tree")
    a.refused("QUOTA", "quota of the store", "append", "s", "--tokens", "1,2,3")
    equal((a.ask("ls"), a.ask("stat"), a.ask("tree")), before, "nothing changed")
    a.ask("quota", "0")
    equal(a.append("s", [1, 2, 3])["at"]["position"], 23, "without it there is room")


@case
def wrong_usage(folder):
    store = ["--store", os.path.join(folder, "s")]
    for arguments in (
        ["tag", "s"],
        ["pin"],
        ["ttl", "s", "soon"],
        ["ttl", "s", "-5"],
        ["ttl", "s", "2147483648"],
        ["quota", "many"],
        ["gc", "now"],
    ):
        r = harness.run(*arguments, *store)
        equal((r.code, r.out), (2, b""), "tarn " + " ".join(arguments))


harness.main()
