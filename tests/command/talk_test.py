"""Texts that stream in, tool results by call id, whole conversations, and `tarn chat`.

`chat` is driven both through pipes and through a pseudo-terminal, where it edits lines. What it
does is compared with append and generate in another store.
"""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import harness
from harness import BUNDLED, TARN, Agent, case, check, environment, equal, require

LOG = (
    "10:12:45 INFO billing listens on port 4821\n10:12:46 INFO worker heartbeat ok\n"
    "10:12:51 INFO owner of parser is Ines\n10:13:02 INFO staging runs on host falcon"
)
TEXTS = [
    "don't stop: it's   17 tests\n\n  of 120\tfailed.",
    "\u6f23\u6f2a\u4e2d\u6587\u6d4b\u8bd5 \U0001f600\U0001f44d\U0001f3fd caf\u00e9 e\u0301",
    "    if (x >= 0x1F) { y = \"<|im_end|>\"; }   \n\n\n",
]


def pieces_from_standard_input(folder, size):
    a = Agent(folder)
    for i, text in enumerate(TEXTS):
        a.ask("new", "whole%d" % i)
        a.ask("new", "pieces%d" % i)
        whole = a.ask("append", "whole%d" % i, "--tool", "functions.run:0", data=text.encode())
        command = [TARN, "append", "pieces%d" % i, "--tool", "functions.run:0", "--json"]
        p = subprocess.Popen(
            command + a.options,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        data = text.encode()
        for at in range(0, len(data), size):
            p.stdin.write(data[at : at + size])
            p.stdin.flush()
        out, _ = p.communicate(timeout=300)
        equal(p.returncode, 0, "exit code")
        got = json.loads(out)
        equal(got["appended"], whole["appended"], "appended")
        ids = [a.ask("tokens", n + str(i))["ids"] for n in ("whole", "pieces")]
        equal(ids[1], ids[0], "ids of text %d" % i)
        rows = [a.generate(n + str(i), 3) for n in ("whole", "pieces")]
        equal(rows[1][0]["ids"], rows[0][0]["ids"], "the answer")
        check(rows[1][1] == rows[0][1], "logits")


@case
def bytes_one_by_one(folder):
    pieces_from_standard_input(folder, 1)


@case
def bytes_seven_by_seven(folder):
    pieces_from_standard_input(folder, 7)


@case
def a_killed_append_leaves_the_last_commit(folder):
    a = Agent(folder)
    a.ask("new", "s")
    a.ask("append", "s", "--user", "Read the log.")
    before = a.ask("tokens", "s")["ids"]
    command = [TARN, "append", "s", "--tool", "functions.read:0", "--json"] + a.options
    p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
    p.stdin.write(LOG.encode() * 20)
    p.stdin.flush()
    time.sleep(0.3)
    p.kill()
    p.communicate()
    equal(a.ask("tokens", "s")["ids"], before, "tokens after the kill")
    a.ask("append", "s", "--tool", "functions.read:0", data=LOG.encode())
    equal(a.ask("verify")["bad"], [], "verify")


@case
def results_answer_calls(folder):
    a = Agent(folder)
    a.ask("new", "s")
    for role, text in (("user", "Read the log."), ("tool", LOG), ("assistant", "Noted.")):
        a.message("s", {"role": role, "content": text, "tool_call_id": "functions.read:0"})
    a.ask("append", "s", "--user", "Look up mailer and tell me the port.")
    answer = a.ask("generate", "s")
    equal(answer["stop"], "tool_call", "stop")
    call = answer["tool_calls"][0]
    want = {"id": "functions.lookup:1", "name": "lookup", "arguments": '{"key": "mailer"}'}
    equal(call, want, "call")
    position = answer["at"]["position"]
    a.refused("INVALID", "functions.lookup:1", "append", "s", "--tool", "functions.lookup:2", "x")
    a.refused("INVALID", "1 wait", "append", "s", "--tool", "functions.other:0", data=b"x")
    equal(a.ask("ls")["sessions"][0]["position"], position, "nothing was appended")
    a.ask("append", "s", "--tool", "functions.lookup:1", "mailer listens on port 9000")
    a.refused("EXISTS", "answered", "append", "s", "--tool", "functions.lookup:1", "x")
    a.ask("append", "s", "--tool", "functions.lookup:1", "x", "--force")
    a.ask("append", "s", "--tool", "functions.other:0", "told")


@case
def every_sample_can_be_replayed(folder):
    """The rule of call ids refuses nothing that conversations of this model hold."""
    a = Agent(folder)
    for i, sample in enumerate(harness.samples()[:6]):
        name = "s%d" % i
        a.ask("new", name)
        conversation = {"messages": sample["messages"]}
        a.ask("sync", name, data=json.dumps(conversation).encode())
        other = "m%d" % i
        a.ask("new", other)
        plain = True
        for m in sample["messages"]:
            if m.get("tool_calls"):
                plain = False
                break
            a.message(other, m)
        ids = [a.ask("tokens", n)["ids"] for n in (name, other)]
        equal(ids[1], ids[0][: len(ids[1])], "ids of sample %d" % i)
        check(not plain or ids[0] == ids[1], "all of them")


@case
def sync_extends_moves_and_rebuilds(folder):
    a = Agent(folder)
    a.ask("new", "s")
    messages = [
        {"role": "user", "content": "Read the log."},
        {"role": "tool", "tool_call_id": "functions.read:0", "content": LOG},
        {"role": "assistant", "content": "Noted."},
        {"role": "user", "content": "Which port does billing use?"},
    ]

    def sync(list_of_messages):
        data = json.dumps({"messages": list_of_messages}).encode()
        return a.ask("sync", "s", "--file", "-", data=data)

    first = sync(messages)
    equal((first["sync"], first["differs"], first["kept"]), ("extended", None, 0), "first")
    answer = a.ask("generate", "s")
    equal(answer["text"], "billing uses port 4821.", "the answer")
    messages.append({"role": "assistant", "content": answer["text"]})
    same = sync(messages)
    equal((same["sync"], same["appended"], same["bytes_written"]), ("same", 0, 0), "same")
    messages[1] = dict(messages[1], content=LOG.replace("4821", "7777"))
    moved = sync(messages[:4])
    equal((moved["sync"], moved["differs"]["message"]), ("moved", 1), "moved")
    equal(
        moved["reuse"]["reused"] + moved["reuse"]["replayed"], moved["kept"], "reused and replayed"
    )
    equal(a.ask("generate", "s")["text"], "billing uses port 7777.", "the other answer")
    a.ask("fork", "s@n:%d" % answer["at"]["node"], "newer")
    equal(a.ask("ls")["sessions"][0]["position"], answer["at"]["position"], "the newer branch")
    rebuilt = sync([{"role": "user", "content": "Hello."}])
    place = {"message": 0, "position": 3}
    equal((rebuilt["sync"], rebuilt["differs"]), ("rebuilt", place), "rebuilt")
    a.refused("INVALID", "messages", "sync", "s", data=b"{}")


# ---- chat ----


def chat_command(a, *more):
    return [TARN, "chat"] + list(more) + a.options


def converse(a, lines, *more):
    return harness.run("chat", *more, *a.options, data=("\n".join(lines) + "\n").encode())


@case
def chat_without_a_terminal(folder):
    a = Agent(folder)
    script = [
        "Read the log.",
        "/tool functions.read:0 " + LOG.replace("\n", "\\\n"),
        "Which port does billing use?",
        "//slash",
        "/nonsense",
        "/fork",
        "/help",
    ]
    r = converse(a, script, "s", "--system", "You are a deploy agent.", "-n", "30")
    equal(r.code, 0, "exit code")
    check(b"billing uses port 4821." in r.out, "the answer is in %r" % r.out)
    check(b"no such command: /nonsense" in r.err and b"usage: /fork NAME" in r.err, "complaints")
    check(b"/rewind" in r.err, "/help")
    b = Agent(os.path.join(folder, "other"))
    os.mkdir(b.folder)
    b.ask("new", "s", "--system", "You are a deploy agent.")
    out = ""
    for role, text in (
        ("user", script[0]),
        ("tool", LOG),
        ("user", script[2]),
        ("user", "/slash"),
    ):
        b.message("s", {"role": role, "content": text, "tool_call_id": "functions.read:0"})
        out += b.ask("generate", "s", "-n", "30")["text"] + "\n"
    equal(a.ask("tokens", "s")["ids"], b.ask("tokens", "s")["ids"], "tokens")
    equal(r.out.decode(), out, "what was answered")
    again = converse(a, ["/commit"], "s")
    equal((again.code, again.out), (0, b""), "nothing was said")
    refused = converse(a, [], "s", "--system", "x")
    check(refused.code == 2 and b"for a new session" in refused.err, "--system comes too late")


@case
def chat_moves_about(folder):
    a = Agent(folder)
    tools = os.path.join(folder, "tools.json")
    with open(tools, "w") as f:
        f.write('[{"type":"function","function":{"name":"grep"}}]')
    r = converse(
        a,
        ["Hello.", "/fork s/b", "Remember this.", "/rewind @turn:1", "/tree", "/tools", "/tools x"],
        "s",
        "--tools",
        tools,
        "-n",
        "8",
    )
    equal(r.code, 0, "exit code: %r" % r.err)
    check(b"now in s/b" in r.err and b"grep" in r.out and b"NOT_FOUND: x" in r.err, "%r" % r.err)
    sessions = {s["session"]: s for s in a.ask("ls")["sessions"]}
    equal(set(sessions), {"s", "s/b"}, "sessions")
    equal(sessions["s"]["position"], sessions["s/b"]["position"], "s/b went back to where it left")
    leaves = [n for n in a.ask("tree")["nodes"] if n["position"] > sessions["s"]["position"]]
    check(len(leaves) >= 1, "what was said meanwhile is in the tree")


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, a, *more):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.environ.clear()
            os.environ.update(environment(TERM="xterm", LC_ALL="C.UTF-8", HOME=a.folder))
            os.execv(TARN, chat_command(a, *more))
        self.seen = ""

    def expect(self, pattern, seconds=120):
        """Waits until the pattern comes; returns what came up to its end."""
        end = time.time() + seconds
        while True:
            found = re.search(pattern, self.seen, re.S)
            if found:
                before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
                return before
            require(time.time() < end, "%r did not come, but %r" % (pattern, self.seen[-300:]))
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:
                    require(False, "it ended before %r, with %r" % (pattern, self.seen[-300:]))

    def send(self, text):
        os.write(self.master, text.encode())

    def close(self):
        try:
            while os.read(self.master, 65536):
                pass
        except OSError:
            pass
        os.close(self.master)
        return os.waitpid(self.pid, 0)[1]


@case
def chat_edits_lines(folder):
    a = Agent(folder)
    t = Terminal(a, "s", "-n", "12")
    t.expect("s> ")
    t.send("Hxllo.\x02\x02\x02\x02\x02\x04e\x05\r")  # back five, delete, insert, to the end
    t.expect(r"tokens\r\n")
    t.expect("s> ")
    t.send("\x1b[A\r")  # the line before
    t.expect(r"tokens\r\n")
    t.expect("s> ")
    t.send("gone\x03")
    t.expect("s> ")
    t.send("caf\u00e9 \u6f23\r")
    t.expect(r"tokens\r\n")
    t.expect("s> ")
    t.send("/quit\r")
    equal(t.close(), 0, "exit status")
    log = a.ask("log", "s")["nodes"]
    users = sum(s["role"] == "user" for n in log for s in n["segments"])
    equal(users, 3, "messages: the line given up is none")
    ids = a.ask("tokens", "s")["ids"]
    text = harness.run("detokenize", ",".join(map(str, ids)), "--model", BUNDLED).out.decode()
    equal(text.count("<|im_user|>user<|im_middle|>Hello.<|im_end|>"), 2, "the edited line, twice")
    check("caf\u00e9 \u6f23<|im_end|>" in text, "a line with other letters")


def answer_and_interrupt(t, line):
    """Says a line and interrupts the answer; what is typed may be shown twice, and the interrupt
    may come before the answer has begun, or when it has ended: then once more."""
    while True:
        t.send(line + "\r")
        t.expect(re.escape(line) + r"[^\n]*\n")
        t.expect(r"\S\S\S\S")
        t.send("\x03")
        seen = t.expect(r"interrupted.*tokens|not answered|\d tokens")
        t.expect("s> ")
        if "interrupted" in seen:
            return
        if "not answered" in seen:
            line = "/go"


@case
def an_interrupt_loses_nothing(folder):
    a = Agent(folder)
    t = Terminal(a, "s", "--temp", "100", "--seed", "3", "--top-k", "200")
    t.expect("s> ")
    answer_and_interrupt(t, "Read the log.")
    nodes = a.ask("log", "s")["nodes"]
    last = nodes[-1]["segments"][-1]
    equal(last["role"], "assistant", "what was generated is kept")
    before = a.ask("tokens", "s")["ids"]
    answer_and_interrupt(t, "/go")
    after = a.ask("tokens", "s")["ids"]
    check(len(after) > len(before) and after[: len(before)] == before, "/go goes on")
    t.send("/go\r")
    t.expect(r"/go[^\n]*\n")
    t.expect(r"\S\S\S\S")
    os.kill(t.pid, signal.SIGKILL)
    t.close()
    equal(a.ask("tokens", "s")["ids"], after, "killed: the last commit stands")
    said = a.ask("append", "s", "--user", "Hello.")
    check(said["appended"] > 0, "the session is usable")
    ids = a.ask("tokens", "s")["ids"]
    equal(ids[len(after)], 1026, "the open turn is closed first")


harness.main()
