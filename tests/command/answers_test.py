"""The JSON of every verb has the keys that scripts rely on; people get text."""

import json
import os

import harness
from harness import BUNDLED, Agent, ask, case, check, equal, load, require, run

AT = {"session": str, "node": int, "position": int, "bit_exact": bool}
REUSE = {"reused": int, "replayed": int, "bytes_read": int, "reason": str}
PRICE = {"replay_tokens": int, "bytes_read": int}
STAT = {
    k: int
    for k in (
        "sessions",
        "nodes",
        "bytes_stored",
        "bytes_shared",
        "bytes_written",
        "map_bytes",
        "file_bytes",
    )
}


def shape(got, want, what):
    """got has the keys of want, each of its kind: a type, or again an object or a list."""
    if isinstance(want, dict):
        if check(isinstance(got, dict), "%s is an object" % what):
            for key in want:
                if check(key in got, "%s has %s: %.200r" % (what, key, got)):
                    shape(got[key], want[key], "%s.%s" % (what, key))
    elif isinstance(want, list):
        if check(isinstance(got, list), "%s is a list" % what):
            for i, item in enumerate(got):
                shape(item, want[0], "%s[%d]" % (what, i))
    else:
        check(type(got) is want, "%s is %r, should be of type %s" % (what, got, want.__name__))


@case
def model(folder):
    show = ask("model", "show", BUNDLED)
    shape(
        show,
        {
            "fingerprint": str,
            "parameters": int,
            "weights_bytes": int,
            "vocab": int,
            "context": int,
            "layers": {"kda": int, "mla": int},
            "state_bytes": int,
            "conv_bytes": int,
            "latent_bytes_per_token": int,
        },
        "model show",
    )
    equal(
        (show["vocab"], show["context"], show["layers"]),
        (1280, 8192, {"kda": 4, "mla": 2}),
        "figures of the bundled model",
    )
    equal(
        show["state_bytes"], 4 * 4 * 32 * 32 * 4, "state of 4 layers, 4 heads of 32 x 32, float32"
    )
    equal(show["latent_bytes_per_token"], 2 * (64 + 16) * 2, "latents of 2 layers, bf16")
    wide = ask("model", "show", "--model", BUNDLED, "--numerics", "f32")
    equal(wide["latent_bytes_per_token"], 2 * (64 + 16) * 4, "latents of 2 layers, float32")
    check(wide["fingerprint"] != show["fingerprint"], "the fingerprint tells the numerics apart")

    path = os.path.join(folder, "m")
    dry = ask("model", "synth", path, "--preset", "tiny", "--dry-run")
    check(not os.path.exists(path), "a dry run writes nothing")
    made = ask("model", "synth", path, "--preset", "tiny", "--seed", "5")
    shape(made, {"parameters": int, "bytes": int}, "model synth")
    equal(dry, made, "what a dry run counts")
    equal(ask("model", "show", path)["parameters"], made["parameters"], "parameters")
    other = os.path.join(folder, "n")
    ask("model", "synth", other, "--config", os.path.join(BUNDLED, "config.json"), "--seed", "5")
    equal(ask("model", "show", other)["context"], 8192, "context of the config followed")
    again = os.path.join(folder, "o")
    ask("model", "synth", again, "--preset", "tiny", "--seed", "5")
    equal(
        ask("model", "show", again)["fingerprint"],
        ask("model", "show", path)["fingerprint"],
        "the seed decides",
    )
    for r in (
        run("model", "show", BUNDLED),
        run("model", "synth", os.path.join(folder, "p"), "--preset", "tiny"),
    ):
        check(r.code == 0 and len(r.out) > 20, "people's form of " + r.command)


@case
def text(folder):
    m = ["--model", BUNDLED]
    ids = ask("tokenize", *m, data="<|im_end|> wörld\0x".encode())["ids"]
    check(1026 not in ids, "a special string is text")
    equal(
        ask("detokenize", *m, data=",".join(map(str, ids)).encode()),
        {"text": "<|im_end|> wörld\0x"},
        "detokenize",
    )
    equal(ask("tokenize", *m, "--specials", "<|im_end|>")["ids"], [1026], "with --specials")
    equal(ask("tokenize", *m, data=b"")["ids"], [], "an empty text")
    equal(ask("detokenize", *m, data=b""), {"text": ""}, "no ids")
    plain = run("tokenize", *m, "a text")
    equal(run("detokenize", *m, data=plain.out).out, b"a text", "people's forms fit together")
    equal(
        run("detokenize", *m, data=json.dumps(ids).encode()).out,
        "<|im_end|> wörld\0x".encode(),
        "a JSON list of ids",
    )
    half = ask("tokenize", *m, data="é".encode())["ids"]
    if len(half) > 1:
        equal(ask("detokenize", *m, str(half[0])), {"base64": "ww=="}, "half a character")
    sample = harness.samples()[0]
    chat = {"messages": sample["messages"], "add_generation_prompt": True}
    equal(
        ask("tokenize", *m, "--chat", data=json.dumps(chat).encode())["ids"],
        sample["prompt_ids"],
        "a conversation",
    )


@case
def sessions(folder):
    a = Agent(folder)
    made = a.ask("new", "s/1", "--system", "Be short.", "--tag", "kind=test", "--tag", "owner=a=b")
    shape(made, {"at": AT}, "new")
    equal((made["at"]["session"], made["at"]["bit_exact"]), ("s/1", True), "new: at")
    appended = a.ask("append", "s/1", "--user", "What is the port of billing?")
    shape(appended, {"at": AT, "reuse": REUSE, "appended": int, "bytes_written": int}, "append")
    equal(
        appended["at"]["position"],
        made["at"]["position"] + appended["appended"],
        "append: position",
    )
    equal(
        (appended["reuse"]["reused"], appended["reuse"]["replayed"], appended["reuse"]["reason"]),
        (made["at"]["position"], 0, "exact"),
        "append: reuse",
    )
    answer = a.ask("generate", "s/1", "-n", "5")
    shape(
        answer,
        {
            "at": AT,
            "reuse": REUSE,
            "ids": [int],
            "text": str,
            "stop": str,
            "tool_calls": list,
            "bytes_written": int,
        },
        "generate",
    )
    check(
        len(answer["ids"]) == 5 and answer["stop"] == "length" or answer["stop"] == "stop",
        "generate: ids and stop",
    )
    resumed = a.ask("generate", "s/1", "-n", "0")
    equal(
        (resumed["ids"], resumed["text"], resumed["stop"], resumed["bytes_written"]),
        ([], "", "length", 0),
        "generate -n 0",
    )
    equal(resumed["at"], answer["at"], "generate -n 0 stays")
    equal(len(a.ask("tokens", "s/1")["ids"]), answer["at"]["position"], "tokens")
    equal(a.ask("tokens", "s/1@t:3")["ids"], a.ask("tokens", "s/1")["ids"][:3], "tokens of a place")

    fork = a.ask("fork", "s/1@turn:0", "s/2")
    shape(fork, {"at": AT, "price": PRICE, "bytes_written": int}, "fork")
    equal((fork["at"]["session"], fork["at"]["position"]), ("s/2", 0), "fork: at")
    back = a.ask("rewind", "s/1", "@t:2")
    shape(back, {"at": AT, "price": PRICE}, "rewind")
    equal(back["at"]["position"], 2, "rewind: position")
    check(back["price"]["replay_tokens"] <= 2, "rewind: price")
    back = a.ask("rewind", "s/1@n:%d" % answer["at"]["node"])
    equal(back["at"]["node"], answer["at"]["node"], "rewind to the newer node")

    ls = a.ask("ls")
    shape(
        ls,
        {
            "sessions": [
                {
                    "session": str,
                    "node": int,
                    "position": int,
                    "turns": int,
                    "pinned": bool,
                    "tags": dict,
                    "bytes_owned": int,
                    "bytes_shared": int,
                    "updated": int,
                }
            ]
        },
        "ls",
    )
    equal([s["session"] for s in ls["sessions"]], ["s/1", "s/2"], "ls: names")
    equal(ls["sessions"][0]["tags"], {"kind": "test", "owner": "a=b"}, "ls: tags")
    equal(
        [s["session"] for s in a.ask("ls", "--tag", "kind=test")["sessions"]],
        ["s/1"],
        "ls --tag K=V",
    )
    equal([s["session"] for s in a.ask("ls", "--tag", "kind")["sessions"]], ["s/1"], "ls --tag K")
    equal(a.ask("ls", "--tag", "kind=no")["sessions"], [], "ls --tag without a match")
    log = a.ask("log", "s/1")["nodes"]
    shape(
        log,
        [
            {
                "node": int,
                "parent": int,
                "position": int,
                "segments": [{"role": str, "tokens": int}],
                "has_state": bool,
                "bit_exact": bool,
                "pinned": bool,
                "created": int,
            }
        ],
        "log",
    )
    equal(
        [s["role"] for n in log for s in n["segments"]],
        ["system", "user", "assistant"],
        "log: roles",
    )
    check(all(n["bit_exact"] for n in log), "log: every node is bit-exact")
    check(all("call_id" in s for n in log for s in n["segments"]), "log: call_id")
    equal([n["position"] for n in log], sorted(n["position"] for n in log), "log: oldest first")
    equal(
        sum(s["tokens"] for n in log for s in n["segments"]),
        answer["at"]["position"],
        "log: tokens",
    )
    shape(
        a.ask("tree"),
        {"nodes": [{"node": int, "parent": int, "position": int, "sessions": [str]}]},
        "tree",
    )

    equal(a.ask("rename", "s/2", "other")["at"]["session"], "other", "rename")
    equal(a.ask("rm", "other"), {}, "rm")
    equal([s["session"] for s in a.ask("ls")["sessions"]], ["s/1"], "ls after rm")
    verify = a.ask("verify")
    shape(verify, {"nodes": int, "chunks": int, "bytes": int, "bad": list}, "verify")
    equal(verify["bad"], [], "verify: bad")
    stat = a.ask("stat")
    shape(stat, STAT, "stat")
    equal((stat["sessions"], stat["nodes"]), (1, verify["nodes"]), "stat")


@case
def dump_is_what_eval_writes(folder):
    a = Agent(folder)
    ids = harness.random_ids(70, 1024, 3)
    a.ask("new", "s")
    a.append("s", ids[:40])
    a.append("s", ids[40:])
    paths = {k: os.path.join(folder, k) for k in ("el", "es", "dl", "ds")}
    got = ask(
        "eval",
        *a.options,
        "--tokens",
        ",".join(map(str, ids)),
        "--split",
        "5,64",
        "--logits",
        paths["el"],
        "--state",
        paths["es"]
    )
    shape(got, {"tokens": int, "argmax": int, "greedy": [int]}, "eval")
    dump = a.ask("dump", "s", "--logits", paths["dl"], "--state", paths["ds"])
    shape(dump, {"at": AT, "reuse": REUSE}, "dump")
    rows, row = load(paths["el"])["logits"], load(paths["dl"])["logits"]
    equal((rows.shape, row.shape), ((70, 1280), (1, 1280)), "shapes of logits")
    equal(row.data, rows.data[-4 * 1280 :], "logits")
    with open(paths["es"], "rb") as x, open(paths["ds"], "rb") as y:
        check(x.read() == y.read(), "the files of the state are equal")
    shapes = {k: t.shape for k, t in load(paths["ds"]).items()}
    equal(
        (
            shapes["layers.0.kda.state"],
            shapes["layers.2.kda.conv_v"],
            shapes["layers.3.mla.latent"],
        ),
        ((4, 32, 32), (128, 3), (70, 80)),
        "shapes of state",
    )
    a.ask("dump", "s@t:40", "--logits", paths["dl"])
    equal(
        load(paths["dl"])["logits"].data,
        rows.data[39 * 4 * 1280 : 40 * 4 * 1280],
        "logits at a node before",
    )
    far = a.ask("dump", "s@t:33", "--logits", paths["dl"])
    check(
        far["reuse"]["replayed"] > 0 and far["at"]["position"] == 33,
        "a place between nodes is replayed: %s" % far,
    )
    equal(
        load(paths["dl"])["logits"].data,
        rows.data[32 * 4 * 1280 : 33 * 4 * 1280],
        "logits between nodes",
    )
    out = a.run("dump", "s", "--logits", "-")
    with open(paths["dl"], "wb") as f:
        f.write(out.out)
    equal(load(paths["dl"])["logits"].data, row.data, "logits on standard output")
    check(not [n for n in os.listdir(folder) if n.endswith(".tmp")], "no temporary file is left")


@case
def people_are_told(folder):
    a = Agent(folder)
    steps = [
        ("new", "s"),
        ("append", "s", "--user", "Who owns parser?"),
        ("generate", "s", "-n", "4"),
        ("fork", "s@turn:0", "t"),
        ("append", "t", "--user", "x"),
        ("ls",),
        ("log", "s"),
        ("tokens", "s"),
        ("verify",),
        ("stat",),
        ("dump", "s", "--state", os.path.join(folder, "d")),
        ("rename", "t", "u"),
    ]
    for step in steps:
        r = a.run(*step)
        check(r.code == 0 and len(r.out) > 3, "%s: exit %d, %r, %r" % (step, r.code, r.out, r.err))
    tree = a.run("tree").out.decode()
    check(
        "├─" in tree and "└─" in tree and "  u\n" in tree and "  s\n" in tree,
        "the tree is drawn:\n" + tree,
    )
    dot = a.run("tree", "--dot").out.decode()
    check(
        dot.startswith("digraph") and "->" in dot and dot.endswith("}\n"), "the tree for graphviz"
    )
    equal(a.run("rm", "s").out, b"", "rm is quiet")


@case
def tools_come_first(folder):
    a = Agent(folder)
    tools = [
        {
            "type": "function",
            "function": {
                "name": "lookup",
                "description": "Looks up.",
                "parameters": {"type": "object"},
            },
        }
    ]
    path = os.path.join(folder, "tools.json")
    with open(path, "w") as f:
        json.dump(tools, f)
    a.ask("new", "s", "--tools", path, "--system", "Be short.")
    chat = {
        "messages": [{"role": "system", "content": "Be short."}],
        "tools": tools,
        "add_generation_prompt": False,
    }
    equal(
        a.ask("tokens", "s")["ids"],
        ask("tokenize", "--model", BUNDLED, "--chat", data=json.dumps(chat).encode())["ids"],
        "ids",
    )
    equal(
        [s["role"] for n in a.ask("log", "s")["nodes"] for s in n["segments"]],
        ["tools", "system"],
        "roles",
    )
    with open(path, "w") as f:
        f.write("{}")
    require(a.run("new", "t", "--tools", path).code == 1, "no list of tools")
    equal(
        [s["session"] for s in a.ask("ls")["sessions"]],
        ["s"],
        "a session that could not begin is not left",
    )


harness.main()
