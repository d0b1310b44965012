"""`tarn eval` against what the reference implementation computed, for every set in
tests/data/oracle.

A set is a model and expected.safetensors: "logits" of "tokens", states "at.T." after T tokens,
two short sequences ("len1.", "len3."), and "greedy", the continuation. The measure is max|got -
want| / max|want|: over the whole file for logits, head by head for a KDA state, separately for
the two parts of a latent. The bound is the set's own: 2e-5 with --numerics f32, and for native
numerics 1.5 times the error of the reference's own bf16 run. Cutting the input and the number
of threads must not change one bit.
"""

import json
import os
from operator import sub

import harness
from harness import ORACLE, ask, case, check, equal, load

BF16_SLACK = 1.5  # the reference's own bf16 error is one draw


def rel(got, want):
    if not all(x - x == 0 for x in got):  # not finite
        return float("inf")
    top = max(map(abs, want), default=0.0)
    worst = max(map(abs, map(sub, got, want)), default=0.0)
    return worst / top if top > 0 else (0.0 if worst == 0 else float("inf"))


def rel_state(name, got, want, shape, rank):
    if name.endswith("kda.state"):
        n = shape[1] * shape[2]
        return max(rel(got[i : i + n], want[i : i + n]) for i in range(0, len(want), n))
    if name.endswith("mla.latent"):
        w = shape[1]
        parts = (
            [[x for i, x in enumerate(a) if (i % w < rank) == latent] for a in (got, want)]
            for latent in (True, False)
        )
        return max(rel(*p) for p in parts)
    return rel(got, want)


class Set:
    def __init__(self, folder, name, numerics):
        self.folder, self.model = folder, os.path.join(ORACLE, name, "model")
        self.want = load(os.path.join(ORACLE, name, "expected.safetensors"))
        with open(os.path.join(self.model, "config.json")) as f:
            self.rank = json.load(f)["kv_lora_rank"]
        with open(os.path.join(ORACLE, name, "measured.json")) as f:
            self.tolerance = json.load(f)["tolerance"]
        self.numerics = numerics
        self.tokens = list(self.want["tokens"].numbers())

    def bound(self, kind):
        return (
            self.tolerance["f32"]
            if self.numerics == "f32"
            else BF16_SLACK * self.tolerance["bf16"][kind]
        )

    def run(self, tokens, *options):
        """The answer, and the bytes of both files."""
        paths = [os.path.join(self.folder, k) for k in ("logits", "state")]
        answer = ask(
            "eval",
            "--model",
            self.model,
            "--numerics",
            self.numerics,
            "--tokens",
            ",".join(map(str, tokens)),
            "--logits",
            paths[0],
            "--state",
            paths[1],
            *options
        )
        equal(answer["tokens"], len(tokens), "tokens")
        return answer, load(paths[0])["logits"], load(paths[1])

    def compare(self, what, tokens, logits, state):
        answer, got_logits, got_state = self.run(tokens)
        equal(got_logits.shape, (len(tokens), logits.shape[1]), what + ": shape of logits")
        n = len(tokens) * logits.shape[1]
        error = rel(got_logits.numbers(), logits.numbers()[:n])
        check(
            error <= self.bound("logits"),
            "%s: logits are off by %.3g, the bound is %.3g" % (what, error, self.bound("logits")),
        )
        if self.numerics == "f32":
            row = list(logits.numbers()[n - logits.shape[1] : n])
            equal(answer["argmax"], row.index(max(row)), what + ": argmax")
        for name, want in state.items():
            got = got_state.get(name)
            if not check(
                got is not None and got.shape == want.shape,
                "%s: %s is there, shaped %s" % (what, name, want.shape),
            ):
                continue
            error, bound = rel_state(
                name, got.numbers(), want.numbers(), want.shape, self.rank
            ), self.bound(name.split(".", 2)[2])
            check(
                error <= bound,
                "%s: %s is off by %.3g, the bound is %.3g" % (what, name, error, bound),
            )
        if state:
            equal(set(got_state), set(state), what + ": tensors of the state")
        return got_logits, got_state

    def states(self, prefix):
        out = {}
        for name, tensor in self.want.items():
            if name.startswith(prefix + "at."):
                t, _, rest = name[len(prefix) + 3 :].partition(".")
                out.setdefault(int(t), {})[rest] = tensor
        return out

    def values(self):
        states, n, logits = self.states(""), len(self.tokens), self.want["logits"]
        whole = self.compare("all", self.tokens, logits, states.get(n, {}))
        for t in sorted(states):
            part = (
                self.compare("first %d" % t, self.tokens[:t], logits, states[t]) if t < n else whole
            )
            check(
                part[0].data == whole[0].data[: len(part[0].data)],
                "first %d: the rows are those of all, bit for bit" % t,
            )
        for short in ("len1.", "len3."):
            ids = list(self.want[short + "tokens"].numbers())
            self.compare(
                short, ids, self.want[short + "logits"], self.states(short).get(len(ids), {})
            )

    def exact(self):
        def data(run):
            return run[1].data, {k: t.data for k, t in run[2].items()}

        whole = data(self.run(self.tokens, "--threads", "1"))
        check(
            data(self.run(self.tokens, "--threads", "2", "--split", "5,9,64")) == whole,
            "cut at 5,9,64 and with 2 threads: every bit is the same",
        )
        check(
            data(self.run(self.tokens, "--threads", "3", "--split", "1,2,3,100")) == whole,
            "cut at 1,2,3,100 and with 3 threads: every bit is the same",
        )

    def greedy(self):
        want = list(self.want["greedy"].numbers())
        answer, _, _ = self.run(self.tokens, "--greedy", len(want))
        equal(answer["greedy"], want, "greedy continuation")


@case
def tiny_f32(folder):
    s = Set(folder, "tiny-f32", "f32")
    s.values(), s.exact(), s.greedy()


@case
def odd_f32(folder):
    s = Set(folder, "odd-bf16", "f32")
    s.values(), s.exact(), s.greedy()


@case
def odd_native(folder):
    s = Set(folder, "odd-bf16", "native")
    s.values(), s.exact()


@case
def real_heads_f32(folder):
    s = Set(folder, "real-heads-bf16", "f32")
    s.values(), s.exact(), s.greedy()


@case
def real_heads_native(folder):
    s = Set(folder, "real-heads-bf16", "native")
    s.values(), s.exact()


@case
def native_is_f32_for_a_checkpoint_in_f32(folder):
    a, b = Set(folder, "tiny-f32", "f32"), Set(folder, "tiny-f32", "native")
    check(a.run(a.tokens)[1].data == b.run(b.tokens)[1].data, "logits are the same, bit for bit")


harness.main()
