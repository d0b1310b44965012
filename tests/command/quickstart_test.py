"""examples/quickstart.sh with the command of this build: it passes, and notices wrong answers."""

import os
import subprocess

import harness
from harness import ROOT, case, check, environment, equal

SCRIPT = os.path.join(ROOT, "examples", "quickstart.sh")


def quickstart(folder, tarn):
    return subprocess.run(
        ["sh", SCRIPT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment(TARN=tarn, TMPDIR=folder),
        timeout=600,
    )


def wrapped(folder, session, edit):
    """A command that does what tarn does, but for the output of `generate` on one session."""
    path = os.path.join(folder, "wrapped")
    with open(path, "w") as f:
        f.write("#!/bin/sh\n")
        f.write(
            'case "$1 $2" in "generate %s") ;; *) exec "%s" "$@" ;; esac\n'
            % (session, harness.TARN)
        )
        f.write('"%s" "$@" | %s\n' % (harness.TARN, edit))
    os.chmod(path, 0o755)
    return path


@case
def passes(folder):
    p = quickstart(folder, harness.TARN)
    equal(p.returncode, 0, "exit code (%s)" % p.stderr.decode()[-300:])
    lines = p.stdout.decode().splitlines()
    check(lines and lines[-1].startswith("== quickstart passed"), "last line: %s" % lines[-1:])
    check("└─" in p.stdout.decode(), "the tree is drawn")
    equal(os.listdir(folder), [], "nothing is left behind")


@case
def notices_a_wrong_answer(folder):
    for session, right, wrong in (("agent", 4821, 4812), ("agent/b", 7296, 4821)):
        p = quickstart(folder, wrapped(folder, session, "sed s/%d/%d/" % (right, wrong)))
        equal(p.returncode, 1, "exit code")
        check("billing uses port %d." % right in p.stderr.decode(), "it says what was expected")
        check("quickstart passed" not in p.stdout.decode(), "it does not claim to have passed")


@case
def notices_a_command_that_fails(folder):
    p = quickstart(folder, "/bin/false")
    equal(p.returncode, 1, "exit code")
    check("quickstart FAILED" in p.stderr.decode(), "it says so")


harness.main()
