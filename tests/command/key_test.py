"""Encrypted stores: the key comes from a file that nobody else may read."""

import os

import harness
from harness import Agent, case, check, equal


def key_file(folder, name, data, mode=0o600):
    path = os.path.join(folder, name)
    with open(path, "wb") as f:
        f.write(data)
    os.chmod(path, mode)
    return path


@case
def a_store_with_a_key(folder):
    key = key_file(folder, "key", bytes(range(32)))
    other = key_file(folder, "other", bytes(32))
    a = Agent(folder)
    a.ask("new", "main", "--tag", "secret=needle-in-a-tag", "--key-file", key)
    a.ask("append", "main", "--tokens", "1,2,3", "--key-file", key)
    equal(a.ask("tokens", "main", "--key-file", key)["ids"], [1, 2, 3], "tokens")
    for wrong, part in (((), "none was given"), (("--key-file", other), "not with")):
        r = a.run("ls", "--json", *wrong)
        check(r.code != 0, "it needs its key")
        check(part in (r.out + r.err).decode(), "says what is wrong: %r" % (r.out + r.err)[:200])
    equal(a.ask("verify", "--key-file", key)["bad"], [], "verify")
    a.ask("compact", "--key-file", key)
    with open(os.path.join(a.store, "data.mdb"), "rb") as f:
        check(b"needle-in-a-tag" not in f.read(), "tags are not in the file")
    saved = os.path.join(folder, "saved")
    equal(a.ask("salvage", saved, "--key-file", key)["lost"], 0, "salvage")
    file = os.path.join(folder, "s.tarnx")
    a.ask("export", "main", file, "--key-file", key)
    a.ask("import", file, "--as", "again", "--key-file", key)
    equal(a.ask("tokens", "again", "--key-file", key)["ids"], [1, 2, 3], "tokens of the copy")


@case
def key_files_that_are_none(folder):
    a = Agent(folder)
    for path, part in (
        (key_file(folder, "open", bytes(32), 0o640), "chmod 600"),
        (key_file(folder, "short", bytes(31)), "32 to 64 bytes"),
        (key_file(folder, "long", bytes(65)), "32 to 64 bytes"),
        (os.path.join(folder, "absent"), "cannot read"),
        (folder, "chmod 600"),
    ):
        r = a.run("ls", "--key-file", path)
        equal(r.code, 2, "exit code for " + path)
        check(part in r.err.decode(), "%r in %r" % (part, r.err[:200]))
    check(not os.path.exists(os.path.join(folder, "store")), "no store was made")


harness.main()
