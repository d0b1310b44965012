"""The line protocol of tokenize and detokenize over the vectors in tests/data/tokenizer."""

import base64
import hashlib
import json
import os
import struct

import harness
from harness import TOKENIZER, ask, case, check, equal, require, run


def rows(name):
    with open(os.path.join(TOKENIZER, name), encoding="utf-8", newline="\n") as f:
        return [json.loads(line) for line in f.read().split("\n") if line]


def answers(verb, requests, *options):
    """One answer a line, in order."""
    data = b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in requests)
    r = run(verb, "--model", TOKENIZER, "--jsonl", *options, data=data)
    lines = r.out.decode().split("\n")
    require(
        r.code == 0 and len(lines) == len(requests) + 1,
        "%s: exit %d, %d lines for %d, %r"
        % (verb, r.code, len(lines) - 1, len(requests), r.err[:300]),
    )
    return [json.loads(line) for line in lines[:-1]]


def text_of(v):
    if "base64" in v:
        return base64.b64decode(v["base64"])
    return (v["text"] if "text" in v else "".join(s * n for s, n in v["parts"])).encode()


def request(data, specials, force=False):
    try:
        if not force:
            return {"text": data.decode(), "specials": specials}
    except ValueError:
        pass
    return {"base64": base64.b64encode(data).decode(), "specials": specials}


def same(v, ids):
    if "ids" in v or "lossy_ids" in v:
        return ids == v.get("ids", v.get("lossy_ids"))
    return (
        len(ids) == v["count"]
        and hashlib.sha256(struct.pack("<%dI" % len(ids), *ids)).hexdigest() == v["sha256"]
    )


def bytes_of(answer):
    return base64.b64decode(answer["base64"]) if "base64" in answer else answer["text"].encode()


@case
def vectors(folder):
    vs = rows("vectors.jsonl")
    for force in (False, True):
        back = []
        for v, a in zip(
            vs,
            answers(
                "tokenize", [request(text_of(v), v["mode"] == "with_specials", force) for v in vs]
            ),
        ):
            if v.get("past_rows"):
                check(
                    "error" in a or a["ids"] == v["plain_ids"],
                    "vector %d: past the rows: %.200r" % (v["n"], a),
                )
            elif check(
                same(v, a.get("ids", [])), "vector %d (%s): %.200r" % (v["n"], v["tag"], a)
            ) and not v.get("invalid"):
                back.append((v, a["ids"]))
        for (v, _), a in zip(back, answers("detokenize", [{"ids": ids} for _, ids in back])):
            check(bytes_of(a) == text_of(v), "vector %d: back again" % v["n"])


@case
def chat(folder):
    cs = rows("chat.jsonl")
    keys = ("messages", "tools", "default_system", "add_generation_prompt")
    for c, a in zip(
        cs, answers("tokenize", [{k: c[k] for k in keys if k in c} for c in cs], "--chat")
    ):
        equal(a.get("ids"), c["ids"], "conversation %s" % c["name"])
    segments = [s for c in cs for s in c["segments"]]
    for s, a in zip(
        segments,
        answers(
            "tokenize", [request(s["text"].encode(), s["kind"] == "special") for s in segments]
        ),
    ):
        equal(a.get("ids"), s["ids"], "segment %r" % s["text"][:40])


@case
def decode(folder):
    ds = rows("decode.jsonl")
    for d, a in zip(ds, answers("detokenize", [{"ids": d["ids"]} for d in ds])):
        if d.get("error"):
            check("error" in a, "%s is refused: %r" % (d["name"], a))
        else:
            equal(bytes_of(a), base64.b64decode(d["base64"]), d["name"])
            equal(
                "text" in a,
                "�" not in d["text"] or "�".encode() in base64.b64decode(d["base64"]),
                "%s: text or base64" % d["name"],
            )


@case
def texts_that_grow(folder):
    hs = [h for h in rows("stream-hazards.jsonl") if "prefix" in h]
    got = answers(
        "tokenize",
        [
            request(t.encode(), h["specials"])
            for h in hs
            for t in (h["prefix"], h["prefix"] + h["more"])
        ],
    )
    for i, h in enumerate(hs):
        equal(
            (got[2 * i].get("ids"), got[2 * i + 1].get("ids")),
            (h["ids_prefix"], h["ids_whole"]),
            h["name"],
        )


@case
def one_text(folder):
    vs = [v for v in rows("vectors.jsonl") if not v.get("invalid") and not v.get("past_rows")][::97]
    for v in vs:
        specials = ["--specials"] if v["mode"] == "with_specials" else []
        check(
            same(v, ask("tokenize", "--model", TOKENIZER, *specials, data=text_of(v))["ids"]),
            "vector %d on standard input" % v["n"],
        )


@case
def bad_lines_get_errors_and_the_rest_answers(folder):
    lines = [
        b"{",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"text":5}',
        b'{"text":"a","base64":"YQ=="}',
        b'{"text":"a","specials":1}',
        b'{"base64":"a"}',
        b'{"base64":"a==="}',
        b'{"base64":"Y*=="}',
        b'{"text":"\xff"}',
        b'{"text":"a\\u0000b"}',
        b"",
        b'{"text":"ok"}',
    ]
    r = run("tokenize", "--model", TOKENIZER, "--jsonl", data=b"\n".join(lines))
    out = [json.loads(line) for line in r.out.decode().splitlines()]
    require(
        r.code == 0 and len(out) == len(lines) - 1,
        "one answer a line but for the empty one: %r" % out,
    )
    for line, a in zip(lines[:11], out):
        check(
            a.get("error", {}).get("status") == "INVALID" and a["error"]["detail"],
            "%r: %r" % (line, a),
        )
    check(
        len(out[11].get("ids", [])) >= 3 and len(out[12].get("ids", [])) > 0,
        "good lines after bad ones: %r" % out[11:],
    )
    lines = [
        b'{"ids":5}',
        b'{"ids":[-1]}',
        b'{"ids":[1.5]}',
        b'{"ids":["1"]}',
        b'{"ids":[4294967296]}',
        b'{"ids":[99999999999999999999]}',
        b'{"ids":[2560]}',
        b'{"ids":[65]}',
    ]
    r = run("detokenize", "--model", TOKENIZER, "--jsonl", data=b"\n".join(lines))
    out = [json.loads(line) for line in r.out.decode().splitlines()]
    require(r.code == 0 and len(out) == len(lines), "one answer a line: %r" % out)
    for line, a in zip(lines[:-1], out):
        equal(a.get("error", {}).get("status"), "INVALID", "status of %r" % line)
    check("text" in out[-1], "the last line is answered")
    r = run(
        "tokenize",
        "--model",
        TOKENIZER,
        "--jsonl",
        "--chat",
        data=b'{"messages":5}\n{"messages":[]}\n',
    )
    out = [json.loads(line) for line in r.out.decode().splitlines()]
    check(len(out) == 2 and "error" in out[0] and "ids" in out[1], "conversations: %r" % out)


harness.main()
