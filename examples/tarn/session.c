/* session.c - tarn new. */
#include "input.h"
#include "open.h"
#include "print.h"
#include "result.h"
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "K=V" of the command line as tags; the keys are copies, one block freed with free(*keys). */
static int read_tags(const arguments *args, tarn_tag tags[TAGS_MAX], char **keys)
{
    size_t n_bytes = 1;
    for (size_t i = 0; i < args->n_tags; i++)
        n_bytes += strlen(args->tags[i]) + 1;
    char *at = *keys = malloc(n_bytes);
    for (size_t i = 0; at && i < args->n_tags; i++) {
        const char *equals = strchr(args->tags[i], '=');
        if (!equals || equals == args->tags[i])
            return options_wrong(args, "--tag: \"%s\" is not KEY=VALUE", args->tags[i]);
        size_t n = (size_t)(equals - args->tags[i]);
        memcpy(at, args->tags[i], n);
        at[n] = '\0';
        tags[i] = (tarn_tag){at, equals + 1};
        at += n + 1;
    }
    if (at)
        return 0;
    tarn_error err;
    input_fail(&err, ENOMEM, "--tag");
    return result_error(args, &err);
}

static int commit_new(const arguments *args, const char *name, opened *o)
{
    tarn_error err = {0};
    tarn_committed committed = {.size = sizeof committed};
    if (!open_feed_new(args, o->session, &err) ||
        tarn_session_commit(o->session, &committed, &err) != TARN_OK) {
        /* The session is of no use without what it should begin with. */
        tarn_session_close(o->session);
        o->session = NULL;
        tarn_error ignored;
        if (tarn_store_remove(o->store, name, &ignored) != TARN_OK)
            fprintf(stderr, "tarn new: %s stays without its messages: %s\n", name, ignored.detail);
        return result_error(args, &err);
    }
    tarn_reuse reuse = open_reuse(o);
    if (given(args, OPTION_JSON))
        return result_print(json_pack("{s:o, s:o, s:o}", "at", result_at(&committed.at), "reuse",
                                      result_reuse(&reuse), "bytes_written",
                                      result_number(committed.bytes_written)),
                            0);
    print_at(stdout, &committed.at);
    putchar('\n');
    return result_flush();
}

int verb_new(const arguments *args)
{
    opened o = {0};
    char *keys = NULL;
    tarn_tag tags[TAGS_MAX];
    const char *name = args->positionals[0];
    if (given(args, OPTION_SYSTEM) && !args->options[OPTION_SYSTEM].text)
        return options_wrong(args, "--system needs a text, or - for standard input");
    int code = read_tags(args, tags, &keys);
    tarn_session_options options = {.size = sizeof options,
                                    .flags = TARN_SESSION_CREATE | TARN_SESSION_EXCLUSIVE,
                                    .tags = tags,
                                    .n_tags = args->n_tags};
    /* The engine first: a store is not made for a model that does not open. */
    if (code == 0)
        code = open_engine(args, &o);
    if (code == 0)
        code = open_store(args, TARN_STORE_CREATE, &o);
    if (code == 0)
        code = open_session(args, name, &options, &o);
    if (code == 0)
        code = commit_new(args, name, &o);
    open_close(&o);
    free(keys);
    return code;
}
