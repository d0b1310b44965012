"""What the tests of the command share: running it, checking, reading its files.

A test file defines cases with @case and ends with harness.main(). FILE --list prints the cases,
FILE CASE runs one; exit 0 passed, 1 failed, 77 skipped. TARN names the command. Only the
standard library of Python is used.
"""

import array
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ORACLE = os.path.join(ROOT, "tests", "data", "oracle")
TOKENIZER = os.path.join(ROOT, "tests", "data", "tokenizer")
BUNDLED = os.path.join(ROOT, "examples", "model")
TINY = os.path.join(ORACLE, "tiny-f32", "model")
TARN = os.environ.get("TARN", "")

CASES = {}
FAILED = []


def case(function):
    CASES[function.__name__] = function
    return function


class Stop(Exception):
    """Ends a case: a check that the rest depends on has failed."""


class Skip(Exception):
    pass


def check(ok, what):
    if not ok:
        frame = sys._getframe(1)
        while frame.f_code.co_filename == __file__ and frame.f_back:
            frame = frame.f_back
        FAILED.append(what)
        print("%s:%d: %s" % (os.path.basename(frame.f_code.co_filename), frame.f_lineno, what))
    return ok


def equal(got, want, what):
    return check(got == want, "%s is %.300r, should be %.300r" % (what, got, want))


def require(ok, what):
    if not check(ok, what):
        raise Stop()


class Result:
    def __init__(self, process, command):
        self.code, self.out, self.err, self.command = (
            process.returncode,
            process.stdout,
            process.stderr,
            command,
        )

    def json(self):
        """The one JSON object on standard output."""
        lines = self.out.decode().split("\n")
        require(
            len(lines) == 2 and lines[1] == "",
            "%s: one line on standard output, not %r, stderr %r"
            % (self.command, self.out[:300], self.err[-300:]),
        )
        return json.loads(lines[0])


def environment(**more):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TARN_")}
    clean.update(more)
    return clean


def run(*arguments, data=b"", limits=None, env=None, cwd=None):
    """Runs the command; no checks."""
    command = [TARN] + [str(a) for a in arguments]
    p = subprocess.run(
        command,
        input=data,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=600,
        env=env or environment(),
        preexec_fn=limits,
        cwd=cwd,
    )
    return Result(p, " ".join(command[1:4]))


def ask(*arguments, data=b"", env=None):
    """Runs with --json; must succeed; returns the object."""
    r = run(*arguments, "--json", data=data, env=env)
    require(
        r.code == 0,
        "%s: exit %d, stdout %r, stderr %r" % (r.command, r.code, r.out[:500], r.err[-500:]),
    )
    return r.json()


def refused(status, part, *arguments, data=b"", limits=None):
    """Must end with exit code 1 and this status, its detail holding `part`, in both forms."""
    r = run(*arguments, "--json", data=data, limits=limits)
    if equal(r.code, 1, "%s: exit code" % r.command):
        error = r.json().get("error", {})
        equal(error.get("status"), status, "%s: status (%s)" % (r.command, error))
        check(
            part in error.get("detail", ""),
            "%s: detail %r should hold %r" % (r.command, error.get("detail"), part),
        )
        equal(set(error), {"status", "detail"}, "keys of the error")
    return r


class Agent:
    """A store and a model, for sessions."""

    def __init__(self, folder, model=BUNDLED, numerics="f32", more=()):
        self.store, self.folder = os.path.join(folder, "store"), folder
        self.options = [
            "--store",
            self.store,
            "--model",
            model,
            "--numerics",
            numerics,
            "--threads",
            "2",
        ] + list(more)

    def ask(self, verb, *arguments, data=b""):
        return ask(verb, *arguments, *self.options, data=data)

    def run(self, verb, *arguments, **more):
        return run(verb, *arguments, *self.options, **more)

    def refused(self, status, part, verb, *arguments, **more):
        return refused(status, part, verb, *arguments, *self.options, **more)

    def append(self, name, ids):
        return self.ask("append", name, "--tokens", ",".join(map(str, ids)))

    def message(self, name, message):
        role, text = message["role"], message.get("content") or ""
        extra = [message["tool_call_id"]] if role == "tool" else []
        return self.ask("append", name, "--" + role, *extra, data=text.encode())

    def generate(self, name, n, *more):
        """The answer and the pending logits after it."""
        path = os.path.join(self.folder, "logits.safetensors")
        answer = self.ask("generate", name, "-n", n, "--logits", path, *more)
        logits = load(path)["logits"]
        os.remove(path)
        return answer, logits.data


class Tensor:
    def __init__(self, shape, dtype, data):
        self.shape, self.dtype, self.data = tuple(shape), dtype, data

    def numbers(self):
        a = array.array({"F32": "f", "F64": "d", "I32": "i", "I64": "q"}[self.dtype])
        a.frombytes(self.data)
        return a


def load(path):
    """A safetensors file as {name: Tensor}, its form checked."""
    with open(path, "rb") as f:
        data = f.read()
    n = int.from_bytes(data[:8], "little")
    out, covered = {}, 0
    for name, t in json.loads(data[8 : 8 + n]).items():
        if name == "__metadata__":
            continue
        a, b = t["data_offsets"]
        out[name] = Tensor(t["shape"], t["dtype"], data[8 + n + a : 8 + n + b])
        covered += b - a
    check(n % 8 == 0, "%s: the header's length is a multiple of 8" % path)
    equal(len(data), 8 + n + covered, "%s: size" % path)
    return out


def samples():
    with open(os.path.join(BUNDLED, "samples.json"), encoding="utf-8") as f:
        return json.load(f)["samples"]


def random_ids(n, vocab, seed):
    """The same on every machine: a small linear generator."""
    out, x = [], seed
    for _ in range(n):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append((x >> 33) % vocab)
    return out


def run_case(name):
    del FAILED[:]
    folder = tempfile.mkdtemp(prefix="tarn-test-")
    try:
        CASES[name](folder)
    except Stop:
        pass
    except Skip as reason:
        print("skip %s: %s" % (name, reason))
        return 77
    except Exception:  # a test that breaks has failed
        traceback.print_exc(file=sys.stdout)
        FAILED.append(name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("%s %s" % ("FAIL" if FAILED else "ok  ", name))
    return 1 if FAILED else 0


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(CASES))
        return
    if not TARN:
        sys.exit("set TARN to the command to test")
    codes = [run_case(name) for name in sys.argv[1:] or CASES]
    sys.exit(1 if 1 in codes else min(codes))
