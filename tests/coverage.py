"""Counts branches of the source from what `llvm-cov export` says: see coverage.sh.

    llvm-cov export ... | coverage.py ROOT [FILE...]

Prints a line for each file of persist/ and lib/session/, then the sides never taken in FILE....
"""
import json
import os
import sys

ROOMS = ("persist/", "lib/session/")


def name_of(path, root):
    """The file's name in the project, or None where it is none of what is counted."""
    path = os.path.realpath(path)
    name = os.path.relpath(path, root)
    return name if name.startswith(ROOMS) and name.endswith(".c") else None


def asserted_lines(path):
    """Lines that belong to a TARN_ASSERT(...)."""
    lines, depth = set(), 0
    for number, line in enumerate(open(path, encoding="utf-8"), 1):
        if depth == 0 and "TARN_ASSERT(" not in line:
            continue
        lines.add(number)
        begin = line.index("TARN_ASSERT(") if depth == 0 else 0
        depth += line.count("(", begin) - line.count(")", begin)
    return lines


class File:
    def __init__(self, path):
        self.path = path
        self.asserted = asserted_lines(path)
        self.branches = {}  # (line, column, where in macros) -> [taken, not taken]
        self.lines = [0, 0]


def places(function):
    """For each file of a function: the line and column of the file it is counted for, and how the
    macros lead there."""
    found = {0: (None, ())}
    expansions = [r for r in function["regions"] if r[7] == 1]
    for _ in range(10):  # macros in macros
        for r in expansions:
            if r[5] in found and r[6] not in found:
                line, way = found[r[5]]
                found[r[6]] = (line or r[0], way + ((r[0], r[1]),))
    return found


def main():
    root, wanted = os.path.realpath(sys.argv[1]), sys.argv[2:]
    files = {}
    data = json.load(sys.stdin)["data"][0]
    for f in data["files"]:
        name = name_of(f["filename"], root)
        if name:
            files[name] = File(os.path.join(root, name))
            files[name].lines = [f["summary"]["lines"]["covered"], f["summary"]["lines"]["count"]]
    for function in data["functions"]:
        name = name_of(function["filenames"][0], root)
        if not name:
            continue
        file, place = files[name], places(function)
        for b in function["branches"]:
            line, way = place[b[6]]
            line = line or b[0]
            if line in file.asserted:
                continue
            sides = file.branches.setdefault((line, way, b[0], b[1]), [0, 0])
            sides[0] += b[4]
            sides[1] += b[5]

    def report(name, taken, n, lines):
        share = lambda some, of: 100.0 * some / of if of else 100.0
        print("%-28s branches %5d of %5d %6.2f %%   lines %5d of %5d %6.2f %%"
              % (name, taken, n, share(taken, n), *lines, share(*lines)))

    sums = {room: [0, 0, [0, 0]] for room in ROOMS}
    for name in sorted(files):
        file = files[name]
        taken = sum((s[0] > 0) + (s[1] > 0) for s in file.branches.values())
        n = 2 * len(file.branches)
        report(name, taken, n, file.lines)
        for room in ROOMS:
            if name.startswith(room):
                total = sums[room]
                total[0] += taken
                total[1] += n
                total[2] = [a + b for a, b in zip(total[2], file.lines)]
    for room in ROOMS:
        report("all of " + room, *sums[room])
    for name in sorted(files):
        if os.path.basename(name) not in wanted and name not in wanted:
            continue
        source = open(files[name].path, encoding="utf-8").read().splitlines()
        for at in sorted(files[name].branches):
            for side, n in zip(("true", "false"), files[name].branches[at]):
                if n == 0:
                    print("%s:%d:%d never %s: %s" % (name, at[0], at[3] if not at[1] else 0, side,
                                                     source[at[0] - 1].strip()))


main()
