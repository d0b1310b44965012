/* main.c - the tarn command: a table of verbs over the public header, nothing more.
 *
 * Exit codes: 0 done, 1 refused or failed (the library's status and detail are printed), 2 wrong
 * usage. What scripts may rely on is the JSON of --json; everything else is for people. */
#include "open.h"
#include "options.h"
#include "result.h"
#include "sampling.h"
#include "verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SET(id) OPTION_BIT(OPTION_##id)

static const verb verbs[] = {
    {"model show", "DIR", "what a checkpoint is and what a session of it weighs", verb_model_show,
     0, 1, SET(MODEL) | SET(NUMERICS)},
    {"model synth", "DIR --preset NAME|--config FILE [--seed N] [--dry-run]",
     "write a checkpoint with random weights", verb_model_synth, 1, 1,
     SET(PRESET) | SET(CONFIG) | SET(SEED) | SET(DRY_RUN)},
    {"tokenize", "--model DIR [TEXT|--file F] [--specials|--chat] [--jsonl]",
     "text, or a conversation, as ids", verb_tokenize, 0, 1,
     SET(MODEL) | SET(SPECIALS) | SET(CHAT) | SET(JSONL) | SET(FILE)},
    {"detokenize", "--model DIR [LIST|--file F] [--jsonl]", "ids as text", verb_detokenize, 0, 1,
     SET(MODEL) | SET(JSONL) | SET(FILE)},
    {"eval", "--model DIR --tokens LIST|@FILE [--split LIST] [--greedy N] [--logits F] [--state F]",
     "feed ids and write logits and state", verb_eval, 0, 0,
     OPTIONS_MODEL | SET(TOKENS) | SET(SPLIT) | SET(GREEDY) | SET(LOGITS) | SET(STATE)},
    {"bench model",
     "--model DIR|--shape NAME [--only decode,append,long] [--quick] [--tsv FILE] [--peers FILE] "
     "[--machine FILE]",
     "rates beside what this machine allows", verb_bench_model, 0, 0,
     OPTIONS_MODEL | SET(SHAPE) | SET(TSV) | SET(PEERS) | SET(MACHINE) | SET(QUICK) | SET(ONLY)},
    {"plan", "--model DIR [--device D] [--device-bytes N] [--context T] [--sessions N]",
     "what fits into a device, before anything is allocated", verb_plan, 0, 0,
     SET(MODEL) | SET(DEVICE) | SET(NUMERICS) | SET(DEVICE_BYTES) | SET(CONTEXT) | SET(SESSIONS)},
    {"bench sessions",
     "--model DIR|--shape NAME [--only rates,store,commits,parked,long] [--context T] [--quick] "
     "[--tsv FILE] [--peers FILE]",
     "what sessions cost on this machine", verb_bench_sessions, 0, 0,
     OPTIONS_MODEL | SET(SHAPE) | SET(CONTEXT) | SET(TSV) | SET(PEERS) | SET(QUICK) | SET(ONLY)},
    {"bench bits", "--model DIR|--shape NAME [--quick] [--tsv FILE]",
     "are the bits the same beside others, after coming back, in a fork?", verb_bench_bits, 0, 0,
     OPTIONS_MODEL | SET(SHAPE) | SET(TSV) | SET(QUICK)},
    {"bench soak", "--model DIR|--shape NAME [--seconds N] [--quick] [--tsv FILE]",
     "keep an engine busy, and see whether anything grows", verb_bench_soak, 0, 0,
     OPTIONS_MODEL | SET(SHAPE) | SET(TSV) | SET(QUICK) | SET(SECONDS)},
    {"new", "NAME [--system TEXT] [--tools FILE] [--tag K=V].. --store PATH --model DIR",
     "make a session", verb_new, 1, 1,
     OPTIONS_STORE | OPTIONS_MODEL | SET(SYSTEM) | SET(TOOLS) | SET(TAG) | SET(FILE)},
    {"append",
     "NAME --user|--system|--assistant [TEXT] | --tool CALL_ID [TEXT] | --tokens LIST|@FILE "
     "[--file F] [--force] --store PATH --model DIR",
     "feed one message, or ids; a text from standard input as it comes", verb_append, 1, 2,
     OPTIONS_STORE | OPTIONS_MODEL | SET(USER) | SET(SYSTEM) | SET(ASSISTANT) | SET(TOOL) |
         SET(TOKENS) | SET(FILE) | SET(FORCE)},
    {"sync", "NAME [--file F] --store PATH --model DIR",
     "make a session hold a conversation (JSON): extend it, go back in it, or begin anew",
     verb_sync, 1, 1, OPTIONS_STORE | OPTIONS_MODEL | SET(FILE)},
    {"chat", "NAME [--system TEXT] [--tools FILE] [-n N] [--temp T ..] --store PATH --model DIR",
     "talk to a session; makes it if there is none", verb_chat, 1, 1,
     OPTIONS_STORE | OPTIONS_MODEL | SET(SYSTEM) | SET(TOOLS) | SET(N) | OPTIONS_SAMPLING},
    {"generate", "NAME [-n N] [--temp T ..] [--stop LIST] [--logits F] --store PATH --model DIR",
     "let the model answer", verb_generate, 1, 1,
     OPTIONS_STORE | OPTIONS_MODEL | SET(N) | SET(STOP) | SET(LOGITS) | OPTIONS_SAMPLING},
    {"fork", "NAME[WHERE] NEW --store PATH", "a new session from a place of another", verb_fork, 2,
     2, OPTIONS_STORE},
    {"rewind", "NAME WHERE --store PATH", "move a session back", verb_rewind, 1, 2, OPTIONS_STORE},
    {"ls", "[--tag K=V] --store PATH", "the sessions", verb_ls, 0, 0, OPTIONS_STORE | SET(TAG)},
    {"log", "NAME[WHERE] --store PATH", "the nodes of a session", verb_log, 1, 1, OPTIONS_STORE},
    {"tree", "[NAME] [--dot] --store PATH", "all nodes as a tree", verb_tree, 0, 1,
     OPTIONS_STORE | SET(DOT)},
    {"tokens", "NAME[WHERE] --store PATH", "the ids fed so far", verb_tokens, 1, 1, OPTIONS_STORE},
    {"dump", "NAME[WHERE] --state F|--logits F --store PATH --model DIR",
     "the state and the pending logits", verb_dump, 1, 1,
     OPTIONS_STORE | OPTIONS_MODEL | SET(STATE) | SET(LOGITS)},
    {"rename", "NAME NEW --store PATH", "give a session another name", verb_rename, 2, 2,
     OPTIONS_STORE},
    {"rm", "NAME --store PATH", "remove a session", verb_rm, 1, 1, OPTIONS_STORE},
    {"tag", "NAME K=V --store PATH", "set a tag; K alone takes it away", verb_tag, 2, 2,
     OPTIONS_STORE},
    {"pin", "NAME --store PATH", "keep a session whole, and from expiring", verb_pin, 1, 1,
     OPTIONS_STORE},
    {"unpin", "NAME --store PATH", "the opposite", verb_unpin, 1, 1, OPTIONS_STORE},
    {"ttl", "NAME SECONDS|never --store PATH", "let a session expire", verb_ttl, 2, 2,
     OPTIONS_STORE},
    {"group", "NAME [GROUP] --store PATH", "whose quota a session counts for", verb_group, 1, 2,
     OPTIONS_STORE},
    {"quota", "[BYTES] [--group G] --store PATH", "the most a store may hold; 0: no limit",
     verb_quota, 0, 1, OPTIONS_STORE | SET(GROUP)},
    {"gc", "[--dry-run] --store PATH", "drop what has expired and what stands too close", verb_gc,
     0, 0, OPTIONS_STORE | SET(DRY_RUN)},
    {"explain", "NAME[WHERE] --store PATH", "what going back to each turn would cost", verb_explain,
     1, 1, OPTIONS_STORE},
    {"verify", "--store PATH", "read and check every byte", verb_verify, 0, 0, OPTIONS_STORE},
    {"export", "NAME FILE --store PATH", "a session as one file; - is standard output", verb_export,
     2, 2, OPTIONS_STORE},
    {"import", "FILE [--as NAME] --store PATH", "a session from such a file; - is standard input",
     verb_import, 1, 1, OPTIONS_STORE | SET(AS)},
    {"salvage", "OUT --store PATH", "save what is whole of a damaged store into a new one",
     verb_salvage, 1, 1, OPTIONS_STORE},
    {"compact", "--store PATH", "give unused disk space back", verb_compact, 0, 0, OPTIONS_STORE},
    {"stat", "--store PATH", "counters of the store", verb_stat, 0, 0, OPTIONS_STORE},
};

enum { VERBS_COUNT = sizeof verbs / sizeof verbs[0] };

static void list_verbs(FILE *stream)
{
    fprintf(stream, "usage: tarn VERB [ARGUMENTS] [--json]\n");
    for (size_t i = 0; i < VERBS_COUNT; i++)
        fprintf(stream, "  %-12s %s\n", verbs[i].name, verbs[i].about);
    fprintf(stream, "WHERE, after a session's name: @n:ID a node, @t:POS after POS tokens, @turn:K "
                    "the end of turn K,\n"
                    "@before:CALL_ID before the turn that made a call. tarn VERB --help tells "
                    "more.\n");
}

static int help(const verb *v)
{
    printf("tarn %s %s\n%s\n\n", v->name, v->usage, v->about);
    options_describe(v->options);
    return result_flush();
}

/* The verb that argv begins with; *n_words: how many arguments its name takes. */
static const verb *find_verb(int argc, char **argv, int *n_words)
{
    for (size_t i = 0; i < VERBS_COUNT; i++) {
        const char *name = verbs[i].name, *space = strchr(name, ' ');
        size_t n = space ? (size_t)(space - name) : strlen(name);
        if (strlen(argv[0]) != n || strncmp(argv[0], name, n) != 0)
            continue;
        if (space && (argc < 2 || strcmp(argv[1], space + 1) != 0))
            continue;
        *n_words = space ? 2 : 1;
        return &verbs[i];
    }
    return NULL;
}

/* A standard stream that was closed would become the next file that is opened. It is given a
 * descriptor that can be neither read nor written instead, and fails as a closed one does. */
static void keep_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF &&
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0)
            return;
}

int main(int argc, char **argv)
{
    arguments args;
    int n_words = 0;
    keep_streams();
    if (argc < 2) {
        list_verbs(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("tarn %s\n", tarn_version());
        return result_flush();
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        list_verbs(stdout);
        return result_flush();
    }
    const verb *v = find_verb(argc - 1, argv + 1, &n_words);
    if (!v) {
        fprintf(stderr, "tarn: unknown verb \"%s\"\n", argv[1]);
        list_verbs(stderr);
        return 2;
    }
    int code = options_parse(v, argc - 1 - n_words, argv + 1 + n_words, &args);
    if (code != 0)
        return code;
    return given(&args, OPTION_HELP) ? help(v) : v->run(&args);
}
