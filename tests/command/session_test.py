"""Sessions across processes: every verb is a process of its own, so each step below is a restart.

"Cold" is `tarn eval` of the same ids in one process. Logits are compared bit for bit. Each case
runs on the bundled model and on a tiny random one.
"""

import os
import signal
import subprocess
import time

import harness
from harness import BUNDLED, TINY, Agent, ask, case, check, environment, equal, load, require

SEED = "11"
VOCAB = {BUNDLED: 1024, TINY: 150}  # ids that are plain text in both


def cold(a, ids, greedy=0):
    """Continuation and last row of logits of the ids in a session that is not kept."""
    path = os.path.join(a.folder, "cold")
    listed = os.path.join(a.folder, "ids")
    with open(listed, "w") as f:
        f.write(",".join(map(str, ids)))
    options = a.options[2:]  # without the store
    got = ask("eval", "--tokens", "@" + listed, "--greedy", greedy, "--logits", path, *options)
    logits = load(path)["logits"]
    return got["greedy"], logits.data[-4 * logits.shape[1] :]


def resume_equals_the_run_without_a_restart(folder, model):  # A1
    a = Agent(folder, model)
    prompt, suffix = harness.random_ids(200, VOCAB[model], 1), harness.random_ids(
        30, VOCAB[model], 2
    )
    a.ask("new", "s")
    a.append("s", prompt)
    first, row = a.generate("s", 20)
    equal(
        first["reuse"],
        dict(first["reuse"], reused=200, replayed=0, reason="exact"),
        "reuse of the first answer",
    )
    greedy, _ = cold(a, prompt, 20)
    n = len(first["ids"])
    require(n == 20 or first["stop"] == "stop", "20 ids or a stop: %s" % first)
    equal(first["ids"], greedy[:n], "the first answer")
    check(row == cold(a, prompt + greedy[:n])[1], "logits after the first answer")

    again, row = a.generate("s", 0)
    equal(
        (again["reuse"]["replayed"], again["reuse"]["reused"], again["bytes_written"]),
        (0, 200 + n, 0),
        "resumed: replayed, reused, written",
    )
    check(row == cold(a, prompt + greedy[:n])[1], "logits of a resumed session")

    appended = a.append("s", suffix)
    equal((appended["reuse"]["replayed"], appended["appended"]), (0, 30), "replayed and appended")
    second, row = a.generate("s", 20)
    equal(second["reuse"]["replayed"], 0, "replayed")
    history = prompt + greedy[:n] + suffix
    greedy, _ = cold(a, history, 20)
    m = len(second["ids"])
    equal(second["ids"], greedy[:m], "the second answer")
    check(row == cold(a, history + greedy[:m])[1], "logits after the second answer")
    equal(a.ask("tokens", "s")["ids"], history + greedy[:m], "tokens")


def branches_do_not_see_each_other(folder, model):  # B1
    a = Agent(folder, model)
    prompt = harness.random_ids(150, VOCAB[model], 3)
    suffixes = {
        "a": harness.random_ids(20, VOCAB[model], 4),
        "b": harness.random_ids(33, VOCAB[model], 5),
    }
    a.ask("new", "a")
    a.append("a", prompt)
    forked = a.ask("fork", "a", "b")
    equal(
        (forked["price"]["replay_tokens"], forked["at"]["position"]),
        (0, 150),
        "the fork's price and place",
    )
    check(
        forked["bytes_written"] < 1000,
        "a fork is one small record, not %d bytes" % forked["bytes_written"],
    )
    for name in ("b", "a"):
        appended = a.append(name, suffixes[name])
        equal(
            (appended["reuse"]["reused"], appended["reuse"]["replayed"], appended["appended"]),
            (150, 0, len(suffixes[name])),
            name + ": only the suffix is computed",
        )
    for name in ("a", "b"):
        answer, row = a.generate(name, 10)
        greedy, _ = cold(a, prompt + suffixes[name], 10)
        n = len(answer["ids"])
        equal(answer["ids"], greedy[:n], name + ": the answer")
        check(n > 0 and row == cold(a, prompt + suffixes[name] + greedy[:n])[1], name + ": logits")
    a.ask("rm", "a")
    check(a.generate("b", 0)[1] == row, "the branch stays when the other is removed")
    equal(a.ask("verify")["bad"], [], "verify")


def rewind_keeps_the_newer_branch(folder, model):  # C2
    a = Agent(folder, model)
    a.ask("new", "s")
    ends, history = [], []
    for turn in range(3):
        ids = harness.random_ids(40, VOCAB[model], 10 + turn)
        a.append("s", ids)
        answer = a.ask("generate", "s", "-n", "6")
        history += ids + answer["ids"]
        ends.append(answer["at"])
    equal(a.ask("ls")["sessions"][0]["turns"], 3, "turns")
    back = a.ask("rewind", "s", "@turn:1")
    equal(
        (back["at"]["position"], back["at"]["node"]),
        (ends[0]["position"], ends[0]["node"]),
        "the place after the first turn",
    )
    equal(back["price"]["replay_tokens"], 0, "price")
    resumed, row = a.generate("s", 0)
    equal(
        (resumed["reuse"]["reused"], resumed["reuse"]["replayed"]),
        (ends[0]["position"], 0),
        "reused and replayed",
    )
    check(row == cold(a, history[: ends[0]["position"]])[1], "logits after the first turn")

    check(
        ends[2]["node"] in [n["node"] for n in a.ask("tree")["nodes"]],
        "the newer branch is in the tree",
    )
    a.ask("fork", "s@n:%d" % ends[2]["node"], "newer")
    equal(a.ask("tokens", "newer")["ids"], history, "tokens of the newer branch")
    check(a.generate("newer", 0)[1] == cold(a, history)[1], "logits of the newer branch")
    other = harness.random_ids(9, VOCAB[model], 20)
    a.append("s", other)
    check(
        a.generate("s", 0)[1] == cold(a, history[: ends[0]["position"]] + other)[1],
        "the rewound session goes another way",
    )

    for place in (0, 1, 39, 45, ends[1]["position"] - 1):  # in the middle of nodes
        to = a.ask("fork", "newer@t:%d" % place, "at/%d" % place)
        equal(to["at"]["position"], place, "fork at %d" % place)
        if place:
            answer, row = a.generate("at/%d" % place, 0)
            equal(
                answer["reuse"]["replayed"],
                to["price"]["replay_tokens"],
                "the price is what the next use costs",
            )
            check(row == cold(a, history[:place])[1], "logits at %d" % place)


@case
def resume_bundled(folder):
    resume_equals_the_run_without_a_restart(folder, BUNDLED)


@case
def resume_tiny(folder):
    resume_equals_the_run_without_a_restart(folder, TINY)


@case
def fork_bundled(folder):
    branches_do_not_see_each_other(folder, BUNDLED)


@case
def fork_tiny(folder):
    branches_do_not_see_each_other(folder, TINY)


@case
def rewind_bundled(folder):
    rewind_keeps_the_newer_branch(folder, BUNDLED)


@case
def rewind_tiny(folder):
    rewind_keeps_the_newer_branch(folder, TINY)


def fed_as_ids(sample):
    """A message with tool calls is nothing that `append` could be given."""
    return any(m.get("tool_calls") for m in sample["messages"])


def answer_sample(a, name, sample):
    """Feeds a sample's messages and answers."""
    if fed_as_ids(sample):
        a.ask("new", name)
        a.append(name, sample["prompt_ids"])
        return a.ask("generate", name, "-n", "64")
    first, rest = sample["messages"][0], sample["messages"][1:]
    if first["role"] == "system":
        a.ask("new", name, "--system", first["content"])
    else:
        a.ask("new", name)
        rest = sample["messages"]
    for message in rest:
        a.message(name, message)
    return a.ask("generate", name, "-n", "64")


def answer_samples(folder, numerics, margin):
    a, n = Agent(folder, numerics=numerics), 0
    for i, sample in enumerate(harness.samples()):
        if sample["min_margin"] < margin:
            continue
        n += 1
        what, name = "sample %s" % sample["name"], "s/%d" % i
        answer = answer_sample(a, name, sample)
        equal(answer["ids"], sample["expected_ids"], what)
        equal(answer["text"], sample["expected_text"], what + ": text")
        equal(
            a.ask("tokens", name)["ids"],
            sample["prompt_ids"] + sample["expected_ids"],
            what + ": tokens",
        )
        calls = sample["expected_text"].startswith("<|tool_calls_section_begin|>")
        equal(answer["stop"], "tool_call" if calls else "stop", what + ": stop")
        equal(len(answer["tool_calls"]), int(calls), what + ": calls")
        for call in answer["tool_calls"]:
            check(
                call["name"] == "lookup"
                and call["id"] in sample["expected_text"]
                and call["arguments"] in sample["expected_text"],
                "%s: %s" % (what, call),
            )
            equal(
                a.ask("log", name)["nodes"][-1]["segments"][-1].get("calls"),
                [call["id"]],
                what + ": log",
            )
            if fed_as_ids(sample):
                continue  # the header of the answer belongs to the ids then
            place = a.ask("fork", "%s@before:%s" % (name, call["id"]), name + "/before")
            header = 3  # of the assistant's turn, which is part of the prompt of a sample
            equal(
                place["at"]["position"],
                len(sample["prompt_ids"]) - header,
                what + ": place before the call",
            )
    check(n >= 10, "only %d samples" % n)
    equal(a.ask("verify")["bad"], [], "verify")


@case
def samples_f32(folder):
    answer_samples(folder, "f32", 0)


@case
def samples_native(folder):
    answer_samples(folder, "native", 2)


@case
def sampling_is_kept_with_the_session(folder):  # A3
    a = Agent(folder)
    options = ["--temp", "0.8", "--top-p", "0.9", "--repeat-penalty", "1.1", "--seed", SEED]
    prompt = harness.random_ids(60, 1024, 6)
    a.ask("new", "s")
    a.append("s", prompt)
    for name in ("whole", "parts", "other"):
        a.ask("fork", "s", name)
    whole = a.ask("generate", "whole", "-n", "67", *options)["ids"]
    parts = a.ask("generate", "parts", "-n", "17", *options)["ids"]
    require(len(parts) == 17, "17 ids without a stop: %s" % parts)
    parts += a.ask("generate", "parts", "-n", "50")["ids"]
    equal(parts, whole, "ids of two processes and of one")
    greedy = a.ask("generate", "s", "-n", "17")["ids"]
    equal(greedy, cold(a, prompt, len(greedy))[0], "ids where no option was given")
    other = a.ask("generate", "other", "-n", "17", *options[:-1], "1" + SEED)["ids"]
    check(other != whole[: len(other)], "another seed draws other ids")


@case
def stop_ids(folder):
    a = Agent(folder)
    a.ask("new", "s")
    a.append("s", harness.random_ids(60, 1024, 6))
    a.ask("fork", "s", "t")
    ids = a.ask("generate", "s", "-n", "12")["ids"]
    stop = a.ask("generate", "t", "-n", "12", "--stop", "5000000,%d" % ids[3])
    equal(stop["ids"], ids[: ids.index(ids[3]) + 1], "ends with the stop id, which is fed")
    equal(
        (stop["stop"], stop["at"]["position"]), ("stop", 60 + len(stop["ids"])), "stop and position"
    )


def start(a, *arguments):
    command = [harness.TARN, *arguments, *a.options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )


LONG = [
    "--temp",
    "100",
    "--seed",
    "56",
]  # near to uniform: more than a thousand ids until a stop id


@case
def an_interrupt_commits_what_was_fed(folder):
    a = Agent(folder)
    for name in ("s", "whole"):
        a.ask("new", name, "--system", "Be short.")
    p = start(a, "generate", "s", *LONG)
    first = p.stdout.read(1)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=600)[1]
    equal((p.returncode, len(first)), (0, 1), "exit code, and text that streams")
    check(b"(cancelled)" in err, "it says so: %r" % err)
    ids = a.ask("tokens", "s")["ids"]
    a.ask("generate", "whole", *LONG)
    whole = a.ask("tokens", "whole")["ids"]
    check(len(ids) < len(whole) and ids == whole[: len(ids)], "a part of the whole answer")
    check(a.generate("s", 0)[1] == cold(a, ids)[1], "logits where it was interrupted")
    equal(a.ask("generate", "s")["stop"], "stop", "stop of the rest")
    equal(a.ask("tokens", "s")["ids"], whole, "it goes on as if it had not been interrupted")


@case
def an_interrupted_answer_in_json(folder):
    a = Agent(folder)
    for attempt in range(40):
        name = "s/%d" % attempt
        a.ask("new", name, "--system", "Be short.")
        p = start(a, "generate", name, "--json", *LONG)
        time.sleep(0.01 + 0.005 * attempt)
        p.send_signal(signal.SIGINT)
        out = p.communicate(timeout=600)[0]
        if p.returncode == 0 and b'"cancelled"' in out:
            return
        check(p.returncode in (0, -signal.SIGINT), "exit code %d" % p.returncode)
    check(False, "no attempt hit the generation")


@case
def an_open_turn_goes_on_and_is_closed_by_a_message(folder):
    a = Agent(folder)
    sample = harness.samples()[0]
    answer_sample(a, "whole", sample)
    a.ask("fork", "whole@turn:-2", "parts")
    a.message("parts", sample["messages"][-1])
    first = a.ask("generate", "parts", "-n", "4")
    equal((first["stop"], first["ids"]), ("length", sample["expected_ids"][:4]), "four ids")
    a.ask("fork", "parts", "cut")
    second = a.ask("generate", "parts")
    equal(second["ids"], sample["expected_ids"][4:], "the rest, without a second header")
    closed = a.ask("append", "cut", "--user", "x")
    ids = a.ask("tokens", "cut")["ids"]
    equal(ids[-closed["appended"]], 1026, "the open turn is closed first")


harness.main()
