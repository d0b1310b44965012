#!/usr/bin/env python3
"""Rules of the source text that no compiler upholds.

    tidy_test.py ROOT RULE    one rule over the tree
    tidy_test.py --list       the rules

Prints FILE:LINE: what is wrong; exit 0 passed, 1 failed, 77 skipped.

A rule is a function of a File that yields (line, message); RULES holds it with the files it reads
and two samples, one that breaks it and one that keeps it. So a rule that has gone blind fails the
rule "selftest" instead of passing for ever.
"""
import os
import re
import shutil
import subprocess
import sys

LAYERS = {  # folder: the folders whose headers it may include by name
    "lib/base": ["lib/base"],
    "lib/model": ["lib/model", "kernels", "lib/base"],
    "lib/session": ["lib/session", "lib/model", "kernels", "persist", "lib/base", "lib"],
    "lib": ["lib", "lib/session", "lib/model", "kernels", "persist", "lib/base"],
    "kernels": ["kernels"],
    "persist": ["persist", "lib/base"],
}
LIBRARY = ("lib/", "kernels/", "persist/")
FUNCTION_LINES_MAX = 90
FILE_LINES_MAX = 700
FILE_LINES_EXCEPT = {"lib/tarn.h"}  # the manual: one file on purpose
COLUMNS_MAX = 100

# One place each: what another library's types are kept to.
ONLY_INCLUDED_BY = {"lmdb.h": ("persist/environment.h",),
                    "environment.h": ("persist/tables.c", "persist/values.c"),
                    "zstd.h": ("persist/codec.c",)}

BANNED = {
    "sprintf": "use snprintf", "vsprintf": "use vsnprintf", "strcpy": "has no bound",
    "strcat": "has no bound", "gets": "has no bound", "atoi": "cannot report an error",
    "atol": "cannot report an error", "atof": "cannot report an error",
    "exit": "a library never ends its host", "_exit": "a library never ends its host",
    "abort": "only a broken invariant does, in status.c", "printf": "a library prints nothing",
    "fprintf": "a library prints nothing", "vprintf": "a library prints nothing",
    "puts": "a library prints nothing", "perror": "a library prints nothing",
    "alloca": "the stack has no bound here", "longjmp": "errors are returned",
    "assert": "use TARN_ASSERT, which stays in release builds", "system": "runs a shell",
}
BANNED_EXCEPT = {("lib/base/status.c", "abort")}

# Names with two underscores that belong to the compiler or the C library.
RESERVED_OK = re.compile(
    r"__(builtin_\w+|attribute__|extension__|func__|restrict\w*|typeof__|asm__|volatile__|"
    r"[A-Z][A-Z0-9_]*__|cplusplus|VA_ARGS__|GNUC\w*|STDC\w*|GLIBC\w*|has_\w+|linux__|clang\w*|"
    r"x86_64__|libc_\w+|i386__|aarch64__|m\d+\w*|mmask\d+|bf16|fp16|SANITIZE\w*|global__|"
    r"device__|cpuid\w*|get_cpuid\w*|atomic_\w+|ATOMIC_\w+|sync_\w+|thread|int128)$")


class File:
    """One file: its path from the root, its text, and its C text without comments and strings."""

    def __init__(self, path, text):
        self.path = path
        self.text = text
        self.lines = text.split("\n")
        self._code = None

    @property
    def code(self):
        if self._code is None:
            self._code = blank_comments_and_strings(self.text)
        return self._code

    def line_of(self, offset):
        return self.text.count("\n", 0, offset) + 1


def blank_comments_and_strings(text):
    """The same text with comments and the insides of literals as spaces; line ends stay."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def blank(match):
        found = match.group(0)
        if found.startswith("/"):
            return re.sub(r"[^\n]", " ", found)
        return found[0] + " " * (len(found) - 2) + found[-1]

    return token.sub(blank, text)


def check_text(f):
    for number, line in enumerate(f.lines, 1):
        if "\t" in line:
            yield number, "a tab"
        if line != line.rstrip():
            yield number, "a blank or carriage return at the end of the line"
    if f.text and not f.text.endswith("\n"):
        yield len(f.lines), "no line end at the end of the file"
    if f.text.endswith("\n\n"):
        yield len(f.lines) - 1, "an empty line at the end of the file"


def check_columns(f):
    for number, line in enumerate(f.lines, 1):
        if len(line) > COLUMNS_MAX:
            yield number, f"{len(line)} columns, the limit is {COLUMNS_MAX}"


def check_machine_paths(f):
    for match in re.finditer(r"(?<![\w.~/])/(?:work|root|home)/\w", f.text):
        yield f.line_of(match.start()), "a path of somebody's machine"


def check_file_length(f):
    n_lines = f.text.count("\n")
    if n_lines > FILE_LINES_MAX and f.path not in FILE_LINES_EXCEPT:
        yield 1, f"{n_lines} lines, the limit is {FILE_LINES_MAX}"


def check_function_length(f):
    """A body opens and closes in the first column (the format rule sees to it)."""
    opened = None
    for number, line in enumerate(f.code.split("\n"), 1):
        if line.startswith("{"):
            opened = number
        elif line.startswith("}") and opened is not None:
            n_lines = number - opened - 1
            if n_lines > FUNCTION_LINES_MAX:
                name = f.lines[opened - 2].strip()
                yield opened, f"{n_lines} lines, the limit is {FUNCTION_LINES_MAX}: {name}"
            opened = None


def check_banned_calls(f):
    for match in re.finditer(r"(?<![\w.>])(\w+)\s*\(", f.code):
        name = match.group(1)
        if name in BANNED and (f.path, name) not in BANNED_EXCEPT:
            yield f.line_of(match.start()), f"{name}: {BANNED[name]}"


def check_memory(f):
    """Everything goes through the caller's allocator. jansson's text comes from the heap."""
    if f.path == "lib/base/memory.c":
        return
    allowed = "free" if "json_dumps" in f.code else None
    for match in re.finditer(r"(?<![\w.>])(malloc|calloc|realloc|free|strdup|strndup|asprintf|"
                             r"aligned_alloc|posix_memalign|getline)\s*\(", f.code):
        if match.group(1) != allowed:
            yield f.line_of(match.start()), f"{match.group(1)}: memory comes from the allocator"


def check_one_includer(f):
    for number, line in enumerate(f.lines, 1):
        match = re.match(r'\s*#\s*include\s+[<"]([^>"]+)[>"]', line)
        if match and f.path not in ONLY_INCLUDED_BY.get(match.group(1), (f.path,)):
            allowed = " and ".join(ONLY_INCLUDED_BY[match.group(1)])
            yield number, f"only {allowed} may include {match.group(1)}"


def check_layers(f):
    folder = os.path.dirname(f.path)
    for number, line in enumerate(f.lines, 1):
        match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not match:
            continue
        name = match.group(1)
        if folder.startswith("examples"):
            if name != "tarn.h" and not os.path.exists(os.path.join(f.root, folder, name)):
                yield number, f"{name}: a stranger's program has tarn.h and its own folder"
        elif "/" in name:
            yield number, f"{name}: a header is named without its folder"
        elif not any(os.path.exists(os.path.join(f.root, below, name)) for below in LAYERS[folder]):
            yield number, f"{name}: not in {folder} nor in a layer below it"


def check_names(f):
    for match in re.finditer(r"\b\w*__\w*", f.code):
        if not RESERVED_OK.match(match.group(0)):
            yield f.line_of(match.start()), f"{match.group(0)}: two underscores are the compiler's"


def check_prefixes(f):
    """What a .c shares with other files carries its layer's prefix, and no other layer's.
    TARNK(name) of the kernels adds it."""
    prefix = {"kernels": "tarnk_", "persist": "tarnp_"}.get(f.path.split("/")[0], "tarni_")
    for match in re.finditer(r"^(?!static|[A-Z]+_INLINE|typedef|extern|return|else)[A-Za-z_]"
                             r"[\w \t]*?[ *](\w+)\([^;{]*\)\s*\n\{", f.code, re.M):
        name = match.group(1)
        public = f.path.startswith("lib/") and re.match(r"tarn_[a-z]", name)
        if not name.startswith(prefix) and not public and name != "TARNK":
            yield f.line_of(match.start(1)), f"{name}: neither static nor named {prefix}..."


def check_documented(f):
    """A function of a public header stands below a comment, or in one block with its like."""
    commented = False
    in_comment = False
    for number, line in enumerate(f.lines, 1):
        if line.startswith("/*") or in_comment:
            in_comment = "*/" not in line
            commented = not line.startswith("/* ===") and not line.startswith("/* ---")
        elif line == "":
            commented = False
        elif line.startswith("TARN_API") and not commented:
            yield number, "no comment above it: " + line


def check_todo(f):
    for match in re.finditer(r"\b(TODO|FIXME|XXX|HACK)\b", f.text):
        yield f.line_of(match.start()), f"{match.group(1)}: finish it or file it"


C = (".c", ".h")
CXX = (".cpp", ".hpp", ".cu", ".cuh")
TEXT = C + CXX + (".py", ".sh", ".cmake", ".in", ".map", ".md", ".txt",
        ".ci/run")
EVERYWHERE = ("",)

# name: (check, where, kinds, path of the samples, text that breaks it, text that keeps it)
RULES = {
    "text": (check_text, EVERYWHERE, TEXT, "a.c", "int a; \n", "int a;\n"),
    "columns": (check_columns, EVERYWHERE, C + CXX + (".py", ".sh", ".cmake"), "a.c",
                "/* %s */\n" % ("x" * 95), "/* %s */\n" % ("\u00e4" * 94)),
    "machine_paths": (check_machine_paths, EVERYWHERE, TEXT + (".json",), "a.c",
                      '"/%s/main/lib"\n' % "work", '"../home/x", "a/root/b", "/homely"\n'),
    "file_length": (check_file_length, LIBRARY + ("examples/",), C + CXX, "lib/a.c",
                    "\n" * (FILE_LINES_MAX + 1), "\n" * FILE_LINES_MAX),
    "function_length": (check_function_length, LIBRARY + ("examples/",), C + CXX, "lib/a.c",
                        "int f(void)\n{\n" + "    ;\n" * (FUNCTION_LINES_MAX + 1) + "}\n",
                        "int a[] = {\n" + "    1,\n" * 99 + "};\nint f(void)\n{\n" +
                        "    ;\n" * FUNCTION_LINES_MAX + "}\n"),
    "banned_calls": (check_banned_calls, LIBRARY, C, "lib/base/status.c", "exit(1);\n",
                     'abort(); /* exit(1) */ x = "exit(1)"; p->exit(1); my_exit(1);\n'),
    "memory": (check_memory, LIBRARY, C, "persist/a.c", "p = malloc(1);\n",
               "a->release(p); tarni_free(a, p);\n"),
    "one_includer": (check_one_includer, LIBRARY, C, "persist/tables.c",
                     "#include <lmdb.h>\n", '#include "environment.h"\n'),
    "layers": (check_layers, LIBRARY + ("examples/",), C, "lib/base/a.c",
               '#include "ops.h"\n', '#include "status.h"\n#include <ops.h>\n'),
    "names": (check_names, EVERYWHERE, C, "lib/a.c", "int tarn__x;\n",
              "#if defined(__GNUC__)\nint tarn_x = __builtin_ctz(1); /* a__b */\n__m512 v;\n"),
    "prefixes": (check_prefixes, LIBRARY, (".c",), "persist/a.c",
                 "int tarni_open(int a,\n         int b)\n{\n}\n",
                 "static int open_it(void)\n{\n}\nint *tarnp_open(int a)\n{\n}\n"),
    "documented": (check_documented, ("lib/tarn.h", "lib/base/tarn_base.h"), (".h",), "lib/tarn.h",
                   "/* ==== */\n\nTARN_API int a(void);\n",
                   "/* Says what. */\nTARN_API int a(void);\nTARN_API int b(void);\n"),
    "todo": (check_todo, EVERYWHERE, C + CXX + (".py", ".sh", ".cmake"), "a.c",
             "/* %s: later */\n" % ("TO" + "DO"), "/* to do nothing */\n"),
}


def source_files(root):
    """Every file of the project but its data: as git sees the tree, or all of it without git."""
    listed = None
    if os.path.exists(os.path.join(root, ".git")) and shutil.which("git"):
        run = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-co",
                              "--exclude-standard"], cwd=root, capture_output=True, text=True)
        listed = run.stdout.split("\n") if run.returncode == 0 else None
    if listed is None:
        listed = []
        for folder, folders, names in os.walk(root):
            folders[:] = [d for d in folders if d != ".git" and not d.startswith("build")]
            listed += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(path for path in listed
                  if not path.startswith(("tests/data/", "examples/model/", "LICENSE")) and
                  os.path.isfile(os.path.join(root, path)))


def load(root, path):
    with open(os.path.join(root, path), encoding="utf-8", newline="") as opened:
        f = File(path, opened.read())
    f.root = root
    return f


def apply(name, f):
    check, where, kinds = RULES[name][:3]
    if f.path == "tests/tidy/tidy_test.py" and name in ("machine_paths", "todo"):
        return []
    return list(check(f)) if f.path.startswith(where) and f.path.endswith(kinds) else []


def run_rule(root, name):
    n_files = n_found = 0
    for path in source_files(root):
        if not path.startswith(RULES[name][1]) or not path.endswith(RULES[name][2]):
            continue
        n_files += 1
        for line, message in apply(name, load(root, path)):
            print(f"{path}:{line}: {message}")
            n_found += 1
    if n_files == 0:
        print(f"{name}: no file to read below {root}")
    return 1 if n_found or n_files == 0 else 0


def run_unique_stems(root):
    """Headers are found by name alone: one noun, one pair of files."""
    seen = {}
    failed = 0
    for path in source_files(root):
        if path.startswith(LIBRARY) and path.endswith(C + CXX):
            other = seen.setdefault(os.path.basename(path), path)
            if other != path:
                print(f"{path}: {other} has the same name")
                failed = 1
    return failed


def run_format(root):
    tool = shutil.which("clang-format-14") or shutil.which("clang-format")
    if not tool or " 14." not in subprocess.getoutput(tool + " --version"):
        print("skipped: clang-format 14 is not here")
        return 77
    files = [p for p in source_files(root) if p.endswith(C + CXX)]
    run = subprocess.run([tool, "--dry-run", "-Werror"] + files, cwd=root, capture_output=True,
                         text=True)
    seen = {}
    for path, line in re.findall(r"^([^:\n]+):(\d+):\d+: error:", run.stderr, re.M):
        seen.setdefault(path, line)
    for path, line in seen.items():
        print(f"{path}:{line}: clang-format would change this file from here on")
    if run.returncode and not seen:
        print(run.stderr)
    return 1 if run.returncode else 0


def run_selftest(root):
    failed = 0
    for name, (_, _, _, path, bad, good) in RULES.items():
        for text, wanted in ((bad, 1), (good, 0)):
            f = File(path, text)
            f.root = root
            found = apply(name, f)
            if len(found) != wanted:
                print(f"{name}: found {found} in {text[:60]!r}, should be {wanted}")
                failed = 1
    return failed


WHOLE_TREE = {"unique_stems": run_unique_stems, "format": run_format, "selftest": run_selftest}


def main(arguments):
    if arguments == ["--list"]:
        print(";".join(sorted(WHOLE_TREE) + sorted(RULES)))
        return 0
    root, name = arguments
    return WHOLE_TREE[name](root) if name in WHOLE_TREE else run_rule(root, name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
