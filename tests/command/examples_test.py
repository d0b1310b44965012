"""The example programs, with the bundled model."""

import os
import re
import subprocess

import harness
from harness import BUNDLED, TARN, Agent, case, check, environment, equal, require

LOG = (
    "10:12:45 INFO billing listens on port 4821\n10:12:46 INFO worker heartbeat ok\n"
    "10:12:51 INFO owner of parser is Ines\n10:13:02 INFO staging runs on host falcon"
)
QUESTION = "Which port does billing use?"
ANSWER = b"billing uses port 4821."


def example(name, *arguments, data=b""):
    program = os.path.join(os.path.dirname(TARN), name)
    p = subprocess.run(
        [program] + [str(a) for a in arguments],
        input=data,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=600,
        env=environment(),
    )
    require(p.returncode == 0, "%s: exit %d, stderr %r" % (name, p.returncode, p.stderr[-500:]))
    return p.stdout, p.stderr.decode()


@case
def minimal(folder):
    store = os.path.join(folder, "store")
    told = "Remember: billing listens on port 4821."
    example("minimal", BUNDLED, store, told)
    out, _ = example("minimal", BUNDLED, store, QUESTION)
    check(ANSWER in out, "%r" % out)


@case
def stream(folder):
    out, err = example("stream", BUNDLED, QUESTION, data=LOG.encode())
    equal(out, ANSWER + b"\n", "the answer")
    check(re.match(r"\d+ tokens were computed", err), err)


@case
def agent(folder):
    facts = os.path.join(folder, "facts")
    with open(facts, "w") as f:
        f.write("mailer listens on port 9000\nparser listens on port 1234\n")
    store = os.path.join(folder, "store")
    out, err = example(
        "agent", BUNDLED, store, facts, "Look up mailer and tell me the port."
    )
    check(b"9000" in out, "%r" % out)
    check('lookup {"key": "mailer"}' in err, err)
    log = Agent(folder).ask("log", "agent")["nodes"]
    ids = [s["call_id"] for n in log for s in n["segments"] if s["role"] == "tool"]
    equal(len(ids), 1, "one result: %s" % ids)


@case
def fork(folder):
    store = os.path.join(folder, "store")
    out, err = example("fork", BUNDLED, store, 5, LOG, QUESTION)
    equal(out, ANSWER + b"\n", "the answer")
    check(" of 5 agree" in err, err)
    sessions = [s["session"] for s in Agent(folder).ask("ls")["sessions"]]
    equal(sessions, ["best", "question"], "sessions")


@case
def resume(folder):
    a = Agent(folder, numerics="native")
    a.ask("new", "resume")
    a.ask("append", "resume", "--tool", "functions.read:0", data=LOG.encode())
    out, err = example("resume", BUNDLED, a.store, QUESTION)
    check(out.endswith(ANSWER + b"\n"), "%r" % out)
    check("killed by signal 9" in err and ", 0 replayed" in err, err)


@case
def many(folder):
    out, err = example("many", BUNDLED, os.path.join(folder, "store"))
    lines = out.decode().splitlines()
    equal(len(lines), 64, "answers")
    right = sum(str(4000 + 37 * i) in line for i, line in enumerate(lines))
    check(right >= 60, "%d of 64 are right" % right)
    check("at most 10 open" in err and ", 0 replayed" in err, err)


@case
def wrong_usage(folder):
    for name in ("minimal", "stream", "agent", "fork", "resume", "many"):
        p = subprocess.run(
            [os.path.join(os.path.dirname(TARN), name)], stderr=subprocess.PIPE, env=environment()
        )
        check(p.returncode == 2 and p.stderr.startswith(b"usage: " + name.encode()), name)


harness.main()
