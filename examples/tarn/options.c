/* options.c - one table says what every option is; one loop reads them.
 *
 * An option's value is checked for its form here, so that a verb never starts to work on a command
 * line that is wrong further on. What only the library can know (is there such a device?) stays
 * with the library. "--name value" and "--name=value" are the same; "--" ends the options.
 *
 * A text that may be left out (--user) takes the next argument unless that is an option of this
 * verb: "--user '- a list'" is a text, "--user --file notes" is not. "--user=--file" always is. */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum option_kind {
    KIND_FLAG,
    KIND_TEXT,
    KIND_OPTIONAL_TEXT,
    KIND_NUMBER, /* up to .max */
    KIND_REAL,
    KIND_NUMERICS,
    KIND_TAG
} option_kind;

typedef struct option {
    const char *name;
    option_kind kind;
    uint64_t max;
    const char *environment;
    const char *value; /* the placeholder on help pages */
    const char *about;
} option;

static const option table[OPTION_COUNT] = {
    [OPTION_STORE] = {"--store", KIND_TEXT, 0, "TARN_STORE", "PATH", "the store's folder"},
    [OPTION_KEY_FILE] = {"--key-file", KIND_TEXT, 0, "TARN_KEY_FILE", "FILE",
                         "encrypts the store: 32 to 64 random bytes"},
    [OPTION_MODEL] = {"--model", KIND_TEXT, 0, "TARN_MODEL", "DIR", "the checkpoint's folder"},
    [OPTION_DEVICE] = {"--device", KIND_TEXT, 0, "TARN_DEVICE", "D", "cpu, cuda:N or auto"},
    [OPTION_NUMERICS] = {"--numerics", KIND_NUMERICS, 0, NULL, "N",
                         "native (the checkpoint's dtype) or f32 (the reference)"},
    [OPTION_THREADS] = {"--threads", KIND_NUMBER, UINT32_MAX, NULL, "N", "0: every core"},
    [OPTION_EXACT] = {"--exact", KIND_FLAG, 0, NULL, "",
                      "on a GPU: the bits do not depend on how text is cut into appends"},
    [OPTION_JSON] = {"--json", KIND_FLAG, 0, NULL, "", "one JSON object on standard output"},
    [OPTION_HELP] = {"--help", KIND_FLAG, 0, NULL, "", "this page"},
    [OPTION_PRESET] = {"--preset", KIND_TEXT, 0, NULL, "NAME", "tiny, geo48, moe1b or 48b"},
    [OPTION_SHAPE] = {"--shape", KIND_TEXT, 0, NULL, "NAME",
                      "of a preset: no files, random weights made on the device"},
    [OPTION_CONFIG] = {"--config", KIND_TEXT, 0, NULL, "FILE", "a config.json to follow"},
    [OPTION_SEED] = {"--seed", KIND_NUMBER, UINT64_MAX, NULL, "S", "of the random numbers"},
    [OPTION_DRY_RUN] = {"--dry-run", KIND_FLAG, 0, NULL, "", "count, write nothing"},
    [OPTION_SPECIALS] = {"--specials", KIND_FLAG, 0, NULL, "",
                         "special strings become their ids instead of text"},
    [OPTION_JSONL] = {"--jsonl", KIND_FLAG, 0, NULL, "", "one JSON object a line, in and out"},
    [OPTION_CHAT] = {"--chat", KIND_FLAG, 0, NULL, "", "the input is a conversation as JSON"},
    [OPTION_TOKENS] = {"--tokens", KIND_TEXT, 0, NULL, "LIST", "1,2,3 or @FILE"},
    [OPTION_SPLIT] = {"--split", KIND_TEXT, 0, NULL, "LIST", "feed in pieces, cut at these counts"},
    [OPTION_GREEDY] = {"--greedy", KIND_NUMBER, UINT32_MAX, NULL, "N", "go on for N ids"},
    [OPTION_LOGITS] = {"--logits", KIND_TEXT, 0, NULL, "FILE", "write logits (safetensors)"},
    [OPTION_STATE] = {"--state", KIND_TEXT, 0, NULL, "FILE", "write the state (safetensors)"},
    [OPTION_SYSTEM] = {"--system", KIND_OPTIONAL_TEXT, 0, NULL, "TEXT", "a system message"},
    [OPTION_USER] = {"--user", KIND_OPTIONAL_TEXT, 0, NULL, "TEXT", "a user's message"},
    [OPTION_ASSISTANT] = {"--assistant", KIND_OPTIONAL_TEXT, 0, NULL, "TEXT",
                          "an assistant's message"},
    [OPTION_TOOL] = {"--tool", KIND_TEXT, 0, NULL, "CALL_ID", "the output of this tool call"},
    [OPTION_TOOLS] = {"--tools", KIND_TEXT, 0, NULL, "FILE", "JSON list of function declarations"},
    [OPTION_FILE] = {"--file", KIND_TEXT, 0, NULL, "FILE", "read the text from here"},
    [OPTION_TAG] = {"--tag", KIND_TAG, 0, NULL, "K=V", "may be given again"},
    [OPTION_N] = {"-n", KIND_NUMBER, UINT32_MAX, NULL, "N", "at most N tokens"},
    [OPTION_TEMP] = {"--temp", KIND_REAL, 0, NULL, "T", "temperature; 0 is greedy"},
    [OPTION_TOP_P] = {"--top-p", KIND_REAL, 0, NULL, "P", "1: off"},
    [OPTION_TOP_K] = {"--top-k", KIND_NUMBER, UINT32_MAX, NULL, "K", "0: off"},
    [OPTION_MIN_P] = {"--min-p", KIND_REAL, 0, NULL, "P", "0: off"},
    [OPTION_REPEAT_PENALTY] = {"--repeat-penalty", KIND_REAL, 0, NULL, "R", "1: off"},
    [OPTION_REPEAT_LAST_N] = {"--repeat-last-n", KIND_NUMBER, UINT32_MAX, NULL, "N",
                              "tokens the penalty looks back at; 0: all"},
    [OPTION_STOP] = {"--stop", KIND_TEXT, 0, NULL, "LIST", "more ids to stop at"},
    [OPTION_DOT] = {"--dot", KIND_FLAG, 0, NULL, "", "in the language of graphviz"},
    [OPTION_GROUP] = {"--group", KIND_TEXT, 0, NULL, "G", "of a group's sessions together"},
    [OPTION_DEVICE_BYTES] = {"--device-bytes", KIND_NUMBER, UINT64_MAX, NULL, "N",
                             "memory of the device, weights included"},
    [OPTION_CONTEXT] = {"--context", KIND_NUMBER, UINT64_MAX, NULL, "T", "tokens of a session"},
    [OPTION_SESSIONS] = {"--sessions", KIND_NUMBER, UINT32_MAX, NULL, "N",
                         "how many are wanted at once"},
    [OPTION_AS] = {"--as", KIND_TEXT, 0, NULL, "NAME", "the name it gets here"},
    [OPTION_TSV] = {"--tsv", KIND_TEXT, 0, NULL, "FILE", "append the rows there too"},
    [OPTION_PEERS] = {"--peers", KIND_TEXT, 0, NULL, "FILE",
                      "rates of other programs (TSV) to compare with"},
    [OPTION_MACHINE] = {"--machine", KIND_TEXT, 0, NULL, "FILE",
                        "rates of a device (TSV of bench_ops_cuda), for floors"},
    [OPTION_ONLY] = {"--only", KIND_TEXT, 0, NULL, "PART,..", "these parts of it"},
    [OPTION_SECONDS] = {"--seconds", KIND_NUMBER, 86400, NULL, "N", "how long"},
    [OPTION_QUICK] = {"--quick", KIND_FLAG, 0, NULL, "", "leave out what takes minutes"},
    [OPTION_FORCE] = {"--force", KIND_FLAG, 0, NULL, "", "whichever call --tool names"},
};

_Static_assert(OPTION_COUNT <= 64, "a set of options is 64 bits");

bool options_number(const char *text, uint64_t max, uint64_t *out)
{
    if (text[0] < '0' || text[0] > '9')
        return false;
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    *out = value;
    return errno == 0 && *end == '\0' && value <= max;
}

static bool parse_real(const char *text, double *out)
{
    char *end = NULL;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*out);
}

int options_wrong(const arguments *args, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "tarn %s: ", args->verb->name);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, "\nusage: tarn %s %s\n", args->verb->name, args->verb->usage);
    return 2;
}

/* Does `list`, of names separated by commas, have this one? */
static bool lists(const char *list, const char *name, size_t n_name)
{
    for (size_t n; *list; list += n + (list[n] == ',')) {
        n = strcspn(list, ",");
        if (n == n_name && strncmp(list, name, n) == 0)
            return true;
    }
    return false;
}

bool options_part(const arguments *args, const char *part)
{
    const char *only = args->options[OPTION_ONLY].text;
    return !only || lists(only, part, strlen(part));
}

int options_parts(const arguments *args, const char *const *parts)
{
    const char *only = args->options[OPTION_ONLY].text;
    for (size_t n; only && *only; only += n + (only[n] == ',')) {
        bool known = false;
        n = strcspn(only, ",");
        for (size_t i = 0; parts[i]; i++)
            known = known || (strlen(parts[i]) == n && strncmp(only, parts[i], n) == 0);
        if (!known)
            return options_wrong(args, "--only: there is no part \"%.*s\"", (int)n, only);
    }
    return 0;
}

/* Accepted by every verb, also where they change nothing: scripts give them always. */
#define OPTIONS_COMMON                                                                             \
    (OPTION_BIT(OPTION_STORE) | OPTION_BIT(OPTION_KEY_FILE) | OPTION_BIT(OPTION_MODEL) |           \
     OPTION_BIT(OPTION_DEVICE) | OPTION_BIT(OPTION_NUMERICS) | OPTION_BIT(OPTION_THREADS) |        \
     OPTION_BIT(OPTION_JSON) | OPTION_BIT(OPTION_HELP))

/* The option of this verb that `argument` names ("--seed" or "--seed=5"), or OPTION_COUNT. */
static option_id find_option(const verb *v, const char *argument, const char **attached)
{
    uint64_t set = v->options | OPTIONS_COMMON;
    *attached = NULL;
    for (int id = 0; id < OPTION_COUNT; id++) {
        size_t n = strlen(table[id].name);
        if (!(set & OPTION_BIT(id)) || strncmp(argument, table[id].name, n) != 0)
            continue;
        if (argument[n] == '\0')
            return (option_id)id;
        if (argument[n] == '=' && table[id].name[1] == '-') {
            *attached = argument + n + 1;
            return (option_id)id;
        }
    }
    return OPTION_COUNT;
}

static bool is_option(const verb *v, const char *argument)
{
    const char *attached;
    return strcmp(argument, "--") == 0 || find_option(v, argument, &attached) != OPTION_COUNT;
}

/* "-" is a file, and "- item" or "-1" can only be meant as a text. */
static bool looks_like_option(const char *argument)
{
    return argument[0] == '-' && (argument[1] == '-' || isalpha((unsigned char)argument[1]));
}

static int check_value(arguments *args, option_id id, const char *text)
{
    const option *o = &table[id];
    option_value *value = &args->options[id];
    switch (o->kind) {
    case KIND_NUMBER:
        if (!options_number(text, o->max, &value->number))
            return options_wrong(args, "%s: \"%s\" is no whole number from 0 to %llu", o->name,
                                 text, (unsigned long long)o->max);
        break;
    case KIND_REAL:
        if (!parse_real(text, &value->real))
            return options_wrong(args, "%s: \"%s\" is no number", o->name, text);
        break;
    case KIND_NUMERICS:
        if (strcmp(text, "native") != 0 && strcmp(text, "f32") != 0)
            return options_wrong(args, "%s: \"%s\" is neither native nor f32", o->name, text);
        break;
    case KIND_TAG:
        if (args->n_tags == TAGS_MAX)
            return options_wrong(args, "%s: more than %d of them", o->name, TAGS_MAX);
        args->tags[args->n_tags++] = text;
        break;
    case KIND_FLAG:
    case KIND_TEXT:
    case KIND_OPTIONAL_TEXT:
        break;
    }
    return 0;
}

/* Reads the option at argv[*at] and its value; leaves *at on the last argument used. */
static int parse_option(const verb *v, int argc, char **argv, int *at, arguments *args)
{
    const char *text;
    option_id id = find_option(v, argv[*at], &text);
    if (id == OPTION_COUNT)
        return options_wrong(args, "unknown option %s", argv[*at]);
    const option *o = &table[id];
    option_value *value = &args->options[id];
    if (value->given && o->kind != KIND_TAG)
        return options_wrong(args, "%s is given twice", o->name);
    if (o->kind == KIND_FLAG && text)
        return options_wrong(args, "%s takes no value", o->name);
    if (o->kind != KIND_FLAG && !text) {
        bool more = *at + 1 < argc;
        if (o->kind == KIND_OPTIONAL_TEXT)
            more = more && !is_option(v, argv[*at + 1]);
        else if (!more || is_option(v, argv[*at + 1]))
            return options_wrong(args, "%s needs a value: %s %s", o->name, o->name, o->value);
        if (more)
            text = argv[++*at];
    }
    value->given = true;
    value->text = text;
    return text ? check_value(args, id, text) : 0;
}

static void fill_from_environment(arguments *args)
{
    for (int id = 0; id < OPTION_COUNT; id++) {
        if (!table[id].environment || args->options[id].given)
            continue;
        const char *text = getenv(table[id].environment);
        if (text && text[0] != '\0')
            args->options[id] = (option_value){.given = true, .text = text};
    }
}

int options_parse(const verb *v, int argc, char **argv, arguments *args)
{
    bool only_positionals = false;
    *args = (arguments){.verb = v};
    for (int i = 0; i < argc; i++) {
        if (!only_positionals && strcmp(argv[i], "--") == 0) {
            only_positionals = true;
        } else if (!only_positionals && looks_like_option(argv[i])) {
            int code = parse_option(v, argc, argv, &i, args);
            if (code != 0)
                return code;
        } else {
            if (args->n_positionals == v->positionals_max)
                return options_wrong(args, "one argument too many: %s", argv[i]);
            args->positionals[args->n_positionals++] = argv[i];
        }
    }
    if (given(args, OPTION_HELP))
        return 0;
    if (args->n_positionals < v->positionals_min)
        return options_wrong(args, "%zu of %zu arguments are given", args->n_positionals,
                             v->positionals_min);
    fill_from_environment(args);
    return 0;
}

void options_describe(uint64_t set)
{
    set |= OPTION_BIT(OPTION_JSON) | OPTION_BIT(OPTION_HELP);
    for (int id = 0; id < OPTION_COUNT; id++) {
        if (!(set & OPTION_BIT(id)))
            continue;
        int used = printf("  %s %s", table[id].name, table[id].value);
        printf("%*s%s", used < 26 ? 26 - used : 1, "", table[id].about);
        if (table[id].environment)
            printf(" (default: $%s)", table[id].environment);
        putchar('\n');
    }
}
