#!/bin/sh
# quickstart.sh - builds tarn on Debian 12 and shows what it is for, in a minute or so.
#
#     sh examples/quickstart.sh
#
# Installs what is missing (needs root or sudo for that only), builds into build/quickstart, and
# lets the small model of the repository work: it reads a log, answers, is killed, resumes, and
# branches. Every answer is checked. With TARN=/path/to/tarn that command is used and nothing is
# installed or built.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
build=$root/build/quickstart
packages="cmake gcc libc6-dev make pkg-config liblmdb-dev libzstd-dev libjansson-dev
    libxxhash-dev libsodium-dev libedit-dev"

say() {
    printf '\n== %s\n' "$*"
}

fail() {
    printf '\nquickstart FAILED: %s\n' "$*" >&2
    exit 1
}

# ---- what is needed -----------------------------------------------------------------------------

install_packages() {
    missing=
    for package in $packages; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
            missing="$missing $package"
    done
    if [ -z "$missing" ]; then
        return
    fi
    say "Installing$missing"
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "run as root, or install:$missing"
        as_root=sudo
    fi
    # shellcheck disable=SC2086
    $as_root apt-get update -q
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $missing
}

build_tarn() {
    say "Building tarn into $build"
    if ! {
        cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DTARN_TESTS=OFF &&
            cmake --build "$build" -j "$(nproc)"
    } >"$work/log" 2>&1; then
        cat "$work/log" >&2
        fail "it does not build"
    fi
    TARN=$build/examples/tarn
}

# ---- showing ------------------------------------------------------------------------------------

# float32 arithmetic, for which the answers are known.
tarn() {
    "$TARN" "$@" --numerics f32
}

# Runs the command as it is shown. Its standard output is kept in $work/out, the other in $work/err.
show() {
    printf '\n$ tarn'
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_.:/@=,-]* | '') printf " '%s'" "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    tarn "$@" >"$work/out" 2>"$work/err" || {
        cat "$work/out" "$work/err" >&2
        fail "tarn $1 ended with an error"
    }
    cat "$work/out" "$work/err"
}

# expect ANSWER: the last `generate` said just this.
expect() {
    [ "$(cat "$work/out")" = "$1" ] || fail "the answer should be: $1"
}

resumed_without_replay() {
    grep -q ' 0 replayed (exact)' "$work/err" || fail "tokens were computed again"
}

head_of() {
    tarn ls --json | sed "s|.*\"session\":\"$1\",\"node\":\([0-9]*\).*|\1|"
}

# Starts a long answer (a temperature at which nearly any word will do) and kills the process when
# its first words have come. It may be faster than the kill, and then has committed: go back and
# let it try again with other words.
kill_while_generating() {
    before=$(head_of agent)
    for seed in 1 2 3 4 5 6 7 8 9; do
        rm -f "$work/text"
        mkfifo "$work/text"
        # Not through the function: the process to kill must be the command itself.
        "$TARN" generate agent --temp 100 --seed $seed --numerics f32 >"$work/text" 2>/dev/null &
        pid=$!
        exec 3<"$work/text"
        head -c 8 <&3 >/dev/null
        kill -9 $pid 2>/dev/null || true
        code=0
        wait $pid 2>/dev/null || code=$?
        exec 3<&-
        if [ "$code" = 137 ] && [ "$(head_of agent)" = "$before" ]; then
            printf '\n$ tarn generate agent --temp 100 --seed %s &\n$ kill -9 %s\n' $seed $pid
            printf 'killed in the middle of its answer; the last commit is node %s\n' "$before"
            return
        fi
        tarn rewind agent "@n:$before" >/dev/null
    done
    fail "no process could be killed while it generated"
}

# ---- the job ------------------------------------------------------------------------------------

question='Which port does billing use?'

read_and_answer() {
    say "A session is told something, a tool's output, and answers from it."
    show new agent --system \
        'You are a deploy agent. You keep track of services and answer from what you have read.'
    show append agent --user 'Read the log.'
    show append agent --tool functions.read:0 '10:12:45 INFO billing listens on port 4821
10:12:46 INFO worker heartbeat ok
10:12:51 INFO owner of parser is Ines
10:13:02 INFO staging runs on host falcon'
    show append agent --assistant 'Noted.'
    show append agent --user "$question"
    show generate agent
    expect 'billing uses port 4821.'
}

die_and_resume() {
    say "Asked again, it is killed. A new process resumes it and computes no token twice."
    show append agent --user "$question"
    kill_while_generating
    show generate agent
    expect 'billing uses port 4821.'
    resumed_without_replay
}

branch() {
    say "Two branches leave at the end of the second turn, learn different things, and answer."
    show fork agent@turn:2 agent/a
    show fork agent@turn:2 agent/b
    show append agent/a --tool functions.read:1 'billing now listens on port 5310.'
    show append agent/b --tool functions.read:1 'billing now listens on port 7296.'
    show append agent/a --user "$question"
    show append agent/b --user "$question"
    show generate agent/a
    expect 'billing uses port 5310.'
    resumed_without_replay
    show generate agent/b
    expect 'billing uses port 7296.'
    resumed_without_replay
}

go_back() {
    say "One is rewound to where it left: it has forgotten what came after."
    show rewind agent/b @turn:2
    show append agent/b --user 'What is the port of billing?'
    show generate agent/b
    expect 'billing uses port 4821.'
    resumed_without_replay
}

look_at_it() {
    say "All of it is one tree, and nothing was lost: ● is where a session stands."
    show tree
    grep -q agent/a "$work/out" || fail "the tree lacks a branch"
    show ls
    show verify
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
if [ -z "${TARN:-}" ]; then
    install_packages
    build_tarn
fi
export TARN_STORE="$work/agents.tarn" TARN_MODEL="$root/examples/model"
unset TARN_DEVICE || true
echo 'Every command below is also given: --store PATH --model examples/model --numerics f32'

read_and_answer
die_and_resume
branch
go_back
look_at_it
say "quickstart passed: every answer was right, and no token was computed twice"
