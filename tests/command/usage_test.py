"""Wrong usage is exit code 2 with nothing on standard output and the culprit named."""

import os

import harness
from harness import BUNDLED, case, check, environment, equal, run

VERBS = [
    "model show",
    "model synth",
    "tokenize",
    "detokenize",
    "eval",
    "bench model",
    "bench sessions",
    "bench bits",
    "bench soak",
    "new",
    "append",
    "generate",
    "fork",
    "rewind",
    "ls",
    "log",
    "tree",
    "tokens",
    "dump",
    "rename",
    "rm",
    "tag",
    "pin",
    "unpin",
    "ttl",
    "group",
    "quota",
    "gc",
    "explain",
    "verify",
    "stat",
]


def wrong(part, *arguments, env=None, data=b""):
    r = run(*arguments, env=env, data=data)
    what = " ".join(map(str, arguments))
    equal(r.code, 2, "exit code of: " + what)
    equal(r.out, b"", "standard output of: " + what)
    check(part.encode() in r.err, "%s: stderr %r should name %r" % (what, r.err[:300], part))


@case
def unknown_verb_lists_the_verbs(folder):
    for arguments in ([], ["frobnicate"], ["model"], ["model", "frobnicate"], ["model show"]):
        r = run(*arguments)
        equal(r.code, 2, "exit code")
        equal(r.out, b"", "standard output")
        for verb in VERBS:
            check(("  " + verb + " ").encode() in r.err, "the list has " + verb)


@case
def help_is_no_error(folder):
    for arguments in (["--help"], ["help"]):
        r = run(*arguments)
        equal((r.code, r.err), (0, b""), "help")
    for verb in VERBS:
        r = run(*verb.split(), "--help")
        equal((r.code, r.err), (0, b""), verb + " --help")
        check(("tarn " + verb).encode() in r.out and b"--json" in r.out, verb + " --help tells how")
    r = run("--version")
    equal((r.code, r.out[:5]), (0, b"tarn "), "version")


@case
def options_are_checked(folder):
    s = ["--store", os.path.join(folder, "s")]
    wrong("--frobnicate", "ls", "--frobnicate", *s)
    wrong("--frobnicate", "ls", "--frobnicate=3", *s)
    wrong("-x", "ls", "-x", *s)
    wrong("too many: -1", "ls", "-1", *s)
    wrong("--dot", "ls", "--dot", *s)
    wrong("--store", "ls", "--store")
    wrong("--store", "ls", "--store", "--json")
    wrong("--store is given twice", "ls", *s, *s)
    wrong("--json takes no value", "ls", *s, "--json=yes")
    wrong("too many: two", "ls", "two", *s)
    wrong("1 of 2 arguments", "fork", "one", *s)
    wrong("--numerics", "generate", "a", *s, "--model", BUNDLED, "--numerics", "f16")
    for bad in ("", "x", "1x", "-1", "+1", " 1", "1.5", "0x10", "4294967296"):
        wrong("--threads", "generate", "a", *s, "--model", BUNDLED, "--threads", bad)
        wrong("-n", "generate", "a", *s, "--model", BUNDLED, "-n", bad)
    wrong("--seed", "generate", "a", *s, "--model", BUNDLED, "--seed", "18446744073709551616")
    for bad in ("", "x", "1x", "nan", "inf"):
        wrong("--temp", "generate", "a", *s, "--model", BUNDLED, "--temp", bad)
    check(not os.path.exists(s[1]), "no store is made")


@case
def places_and_models_must_be_given(folder):
    wrong("--store", "ls")
    wrong("--store", "ls", env=environment(TARN_STORE=""))
    wrong("--model", "tokenize")
    wrong("--model", "model", "show")
    wrong("--model", "new", "a", "--store", os.path.join(folder, "s"))
    check(not os.path.exists(os.path.join(folder, "s")), "no store is made")


@case
def environment_supplies_defaults(folder):
    env = environment(TARN_STORE=os.path.join(folder, "s"), TARN_MODEL=BUNDLED, TARN_DEVICE="cpu")
    equal(run("new", "a", env=env).code, 0, "new with defaults")
    equal(run("ls", env=env).code, 0, "ls with defaults")
    equal(
        run("ls", "--store", os.path.join(folder, "t"), env=env).code,
        1,
        "an option goes before the environment",
    )
    env["TARN_DEVICE"] = "cuda:7"
    equal(run("generate", "a", env=env).code, 1, "TARN_DEVICE is read")


@case
def verbs_check_their_own(folder):
    s = ["--store", os.path.join(folder, "s"), "--model", BUNDLED]
    wrong("--tokens is missing", "eval", *s)
    for bad in ("", "x", "1,", ",1", "1,,2", "1 x", "-1", "4294967296", "[1", "1]", "1;2"):
        wrong("--tokens", "eval", *s, "--tokens", bad)
        wrong("--stop", "generate", "a", *s, "--stop", bad) if bad else None
    for bad in ("0", "3", "4", "2,2", "2,1"):
        wrong("--split", "eval", *s, "--tokens", "1,2,3", "--split", bad)
    wrong("standard output", "eval", *s, "--tokens", "1", "--json", "--logits", "-")
    wrong("standard output", "eval", *s, "--tokens", "1", "--state", "-", "--logits", "-")
    wrong("standard output", "dump", "a", *s, "--json", "--state", "-")
    wrong("--logits", "generate", "a", *s, "--logits", "-")
    wrong("--state, --logits", "dump", "a", *s)
    wrong("nothing to append", "append", "a", *s)
    wrong("one message", "append", "a", *s, "--user", "x", "--system", "y")
    wrong("too many: y", "append", "a", *s, "--user", "x", "y")
    wrong("--file", "append", "a", *s, "--user", "x", "--file", "f")
    wrong("--tool", "append", "a", *s, "--tool")
    wrong("--system", "new", "a", *s, "--system")
    wrong("--tag", "new", "a", *s, "--tag", "novalue")
    wrong("--tag", "new", "a", *s, "--tag", "=v")
    wrong("--tag", "ls", *s, "--tag", "a", "--tag", "b")
    wrong("one place", "rewind", "a", *s)
    wrong("one place", "rewind", "a@t:1", "@t:1", *s)
    wrong("--specials and --chat", "tokenize", *s, "--specials", "--chat")
    wrong("--preset", "model", "synth", os.path.join(folder, "m"))
    wrong(
        "--preset", "model", "synth", os.path.join(folder, "m"), "--preset", "tiny", "--config", "c"
    )
    check(not os.path.exists(s[1]), "no store is made")


@case
def texts_may_begin_with_a_dash(folder):
    s = ["--store", os.path.join(folder, "s"), "--model", BUNDLED, "--numerics", "f32"]
    harness.ask("new", "a", *s)
    listed = harness.ask("append", "a", *s, "--user", "- item")["appended"]
    equal(harness.ask("append", "a", "--user=- item", *s)["appended"], listed, "--user=TEXT")
    equal(
        harness.ask("append", "a", *s, "--user", data=b"- item")["appended"],
        listed,
        "text on standard input",
    )
    equal(
        harness.ask("append", "a", *s, "--user", "-", data=b"- item")["appended"],
        listed,
        "- is standard input",
    )
    path = os.path.join(folder, "text")
    with open(path, "wb") as f:
        f.write(b"- item")
    equal(harness.ask("append", "a", *s, "--user", "--file", path)["appended"], listed, "--file")
    one = harness.ask("append", "a", *s, "--tool", "call", "- item")["appended"]
    after = run("append", "a", *s, "--json", "--tool", "call", "--", "--item")
    equal(after.code, 0, "after -- everything is a text")
    equal(
        harness.ask("append", "a", *s, "--tool=call", "--file", path)["appended"],
        one,
        "--tool=CALL_ID --file",
    )


harness.main()
