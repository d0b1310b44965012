/* options.h - what the command line said, checked before anything is opened. */
#ifndef TARN_COMMAND_OPTIONS_H
#define TARN_COMMAND_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum option_id {
    OPTION_STORE,
    OPTION_MODEL,
    OPTION_DEVICE,
    OPTION_NUMERICS,
    OPTION_THREADS,
    OPTION_EXACT,
    OPTION_JSON,
    OPTION_HELP,
    OPTION_PRESET,
    OPTION_SHAPE,
    OPTION_CONFIG,
    OPTION_SEED,
    OPTION_DRY_RUN,
    OPTION_SPECIALS,
    OPTION_JSONL,
    OPTION_CHAT,
    OPTION_TOKENS,
    OPTION_SPLIT,
    OPTION_GREEDY,
    OPTION_LOGITS,
    OPTION_STATE,
    OPTION_SYSTEM,
    OPTION_USER,
    OPTION_ASSISTANT,
    OPTION_TOOL,
    OPTION_TOOLS,
    OPTION_FILE,
    OPTION_TAG,
    OPTION_N,
    OPTION_TEMP,
    OPTION_TOP_P,
    OPTION_TOP_K,
    OPTION_MIN_P,
    OPTION_REPEAT_PENALTY,
    OPTION_REPEAT_LAST_N,
    OPTION_STOP,
    OPTION_DOT,
    OPTION_GROUP,
    OPTION_AS,
    OPTION_TSV,
    OPTION_PEERS,
    OPTION_QUICK,
    OPTION_ONLY,
    OPTION_SECONDS,
    OPTION_MACHINE,
    OPTION_DEVICE_BYTES,
    OPTION_CONTEXT,
    OPTION_SESSIONS,
    OPTION_FORCE,
    OPTION_KEY_FILE,
    OPTION_COUNT
} option_id;

/* Sets of options, one bit each. */
#define OPTION_BIT(id) (UINT64_C(1) << (id))

typedef struct option_value {
    bool given;
    const char *text; /* as written; NULL where an optional text was left out */
    uint64_t number;
    double real;
} option_value;

enum { POSITIONALS_MAX = 4, TAGS_MAX = 64 };

typedef struct arguments {
    const struct verb *verb;
    const char *positionals[POSITIONALS_MAX];
    size_t n_positionals;
    option_value options[OPTION_COUNT];
    const char *tags[TAGS_MAX]; /* --tag may be given again and again */
    size_t n_tags;
} arguments;

typedef struct verb {
    const char *name;                  /* "fork", or two words: "model show" */
    const char *usage;                 /* what follows the name */
    const char *about;                 /* one line */
    int (*run)(const arguments *args); /* returns the exit code */
    size_t positionals_min, positionals_max;
    uint64_t options; /* a set; what every verb takes need not be in it */
} verb;

/* Reads argv (after the verb's name) into `args`. Exit code: 0, or 2 after saying on standard error
 * which argument is wrong. Environment defaults of --store, --model and --device are filled in. */
int options_parse(const verb *v, int argc, char **argv, arguments *args);

/* Says what is wrong and how the verb is used; returns 2, the exit code of wrong usage. */
int options_wrong(const arguments *args, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Of what a verb does in parts, does --only, if given, name this one? Names separated by commas. */
bool options_part(const arguments *args, const char *part);
/* Is each of them one of `parts` (up to a NULL)? 0, or 2 after saying which is not. */
int options_parts(const arguments *args, const char *const *parts);

/* "--seed S ..." for a help page: one line for each option of the set. */
void options_describe(uint64_t set);

/* Strict decimal number up to `max`; false for anything else. */
bool options_number(const char *text, uint64_t max, uint64_t *out);

static inline bool given(const arguments *args, option_id id)
{
    return args->options[id].given;
}

#endif
