"""SIGKILL at random moments: what was committed is there and resumes as if nothing had happened."""

import os
import random
import signal
import subprocess
import time

import harness
from harness import Agent, ask, case, check, environment, equal, load

SEED = 20261121
ROUNDS = 20


def kill_during(a, arguments, delay):
    p = subprocess.Popen(
        [harness.TARN] + arguments + a.options,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    time.sleep(delay)
    p.send_signal(signal.SIGKILL)
    return p.wait(timeout=600)


def check_resumes(a, name, places):
    """The session stands at one of these positions, and resumes without computing anything."""
    answer, row = a.generate(name, 0)
    check(
        answer["at"]["position"] in places,
        "position %d is one of %s" % (answer["at"]["position"], places),
    )
    equal(
        (answer["reuse"]["replayed"], answer["reuse"]["reused"]),
        (0, answer["at"]["position"]),
        "replayed and reused",
    )
    ids = a.ask("tokens", name)["ids"]
    path = os.path.join(a.folder, "cold")
    listed = os.path.join(a.folder, "ids")
    with open(listed, "w") as f:
        f.write(",".join(map(str, ids)))
    ask("eval", "--tokens", "@" + listed, "--logits", path, *a.options[2:])
    check(load(path)["logits"].data[-len(row) :] == row, "logits at %d" % len(ids))
    equal(a.ask("verify")["bad"], [], "verify")
    return len(ids)


def position(a, name):
    """Tokens of the session, or None if there is none."""
    return {s["session"]: s["position"] for s in a.ask("ls")["sessions"]}.get(name)


@case
def generate(folder):
    """Each round goes on from where the last one ended, and is killed somewhere on the way."""
    pick, a, n_killed, n_kept = random.Random(SEED), Agent(folder), 0, 0
    a.ask("new", "s", "--system", "Be short.")
    a.append("s", harness.random_ids(50, 1024, 8))
    a.ask("fork", "s", "timed")
    start = time.time()
    a.ask("generate", "timed", "-n", "60", "--temp", "3", "--seed", "1")
    wall = time.time() - start
    for i in range(ROUNDS):
        n, before = pick.randrange(1, 60), position(a, "s")
        options = ["-n", str(n), "--temp", "3", "--seed", str(i)]
        code = kill_during(a, ["generate", "s"] + options, pick.uniform(0, wall))
        after = check_resumes(a, "s", range(before, before + n + 1))
        n_killed += code == -signal.SIGKILL
        n_kept += after > before
    print("seed %d: %d of %d killed, %d had committed" % (SEED, n_killed, ROUNDS, n_kept))
    check(n_killed > 0, "some were killed")


@case
def append(folder):
    pick, a = random.Random(SEED + 1), Agent(folder)
    ids = os.path.join(folder, "list")
    with open(ids, "w") as f:
        f.write(",".join(map(str, harness.random_ids(1500, 1024, 9))))
    a.ask("new", "s", "--system", "Be short.")
    a.ask("fork", "s", "timed")
    begin = position(a, "s")
    start = time.time()
    a.ask("append", "timed", "--tokens", "@" + ids)
    wall = time.time() - start
    for i in range(ROUNDS // 2):
        a.ask("fork", "s", "s/%d" % i)
        kill_during(a, ["append", "s/%d" % i, "--tokens", "@" + ids], pick.uniform(0, wall))
        check_resumes(a, "s/%d" % i, (begin, begin + 1500))


@case
def new(folder):
    """Half a beginning is the empty session, which is there or not."""
    pick, a = random.Random(SEED + 2), Agent(folder)
    a.ask("new", "s", "--system", "Be short.")
    begin = position(a, "s")
    for i in range(ROUNDS // 2):
        kill_during(a, ["new", "s/%d" % i, "--system", "Be short."], pick.uniform(0, 0.04))
        check(position(a, "s/%d" % i) in (None, 0, begin), "position of a session half made")
        equal(a.ask("verify")["bad"], [], "verify")


harness.main()
