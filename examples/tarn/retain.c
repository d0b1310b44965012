/* retain.c - the verbs that say what is kept and what may go: marks, quotas, collection, prices. */
#include "open.h"
#include "print.h"
#include "result.h"
#include "verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- marks -------------------------------------------------------------------------------------
 */

/* Ends a verb that has marked a session, or failed to. */
static int answer_marked(const arguments *args, opened *o, int code, tarn_status status,
                         tarn_error *err)
{
    tarn_at at;
    if (code == 0 && status == TARN_OK)
        status = tarn_store_price(o->store, args->positionals[0], NULL, &at, NULL, err);
    if (code == 0 && status != TARN_OK)
        code = result_error(args, err);
    if (code == 0 && given(args, OPTION_JSON)) {
        code = result_print(json_pack("{s:o}", "at", result_at(&at)), 0);
    } else if (code == 0) {
        print_at(stdout, &at);
        putchar('\n');
        code = result_flush();
    }
    open_close(o);
    return code;
}

int verb_tag(const arguments *args)
{
    opened o = {0};
    tarn_error err = {0};
    tarn_status status = TARN_OK;
    const char *text = args->positionals[1], *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : strlen(text);
    char *key = strndup(text, n);
    if (!key) {
        fprintf(stderr, "tarn tag: out of memory\n");
        return 1;
    }
    int code = open_store(args, 0, &o);
    if (code == 0)
        status =
            tarn_store_tag(o.store, args->positionals[0], key, equals ? equals + 1 : NULL, &err);
    free(key);
    return answer_marked(args, &o, code, status, &err);
}

static int pin_or_unpin(const arguments *args, bool pinned)
{
    opened o = {0};
    tarn_error err = {0};
    tarn_status status = TARN_OK;
    int code = open_store(args, 0, &o);
    if (code == 0)
        status = tarn_store_pin(o.store, args->positionals[0], pinned, &err);
    return answer_marked(args, &o, code, status, &err);
}

int verb_pin(const arguments *args)
{
    return pin_or_unpin(args, true);
}

int verb_unpin(const arguments *args)
{
    return pin_or_unpin(args, false);
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int verb_ttl(const arguments *args)
{
    enum { SECONDS_MAX = INT32_MAX };
    opened o = {0};
    tarn_error err = {0};
    tarn_status status = TARN_OK;
    uint64_t seconds;
    const char *text = args->positionals[1];
    bool never = strcmp(text, "never") == 0;
    if (!never && !options_number(text, SECONDS_MAX, &seconds))
        return options_wrong(args, "\"%s\" is neither \"never\" nor seconds from 0 to %d", text,
                             SECONDS_MAX);
    int code = open_store(args, 0, &o);
    if (code == 0)
        status = tarn_store_ttl(o.store, args->positionals[0],
                                never ? 0 : now_ms() + seconds * 1000, &err);
    return answer_marked(args, &o, code, status, &err);
}

int verb_group(const arguments *args)
{
    opened o = {0};
    tarn_error err = {0};
    tarn_status status = TARN_OK;
    const char *group = args->positionals[1];
    int code = open_store(args, 0, &o);
    if (code == 0)
        status = tarn_store_group(o.store, args->positionals[0], group ? group : "", &err);
    return answer_marked(args, &o, code, status, &err);
}

/* ---- quota -------------------------------------------------------------------------------------
 */

int verb_quota(const arguments *args)
{
    opened o = {0};
    tarn_error err = {0};
    uint64_t n_bytes = 0;
    const char *group = args->options[OPTION_GROUP].text, *text = args->positionals[0];
    if (text && !options_number(text, UINT64_MAX, &n_bytes))
        return options_wrong(args, "\"%s\" is no number of bytes", text);
    int code = open_store(args, 0, &o);
    if (code == 0 && text && tarn_store_set_quota(o.store, group, n_bytes, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && tarn_store_get_quota(o.store, group, &n_bytes, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        code = result_print(json_pack("{s:o}", "quota", result_number(n_bytes)), 0);
    } else if (code == 0) {
        char size[PRINT_TEXT_MAX];
        puts(n_bytes ? print_bytes(n_bytes, size) : "no limit");
        code = result_flush();
    }
    open_close(&o);
    return code;
}

/* ---- gc ----------------------------------------------------------------------------------------
 */

static json_t *gc_object(const tarn_gc_report *r)
{
    json_t *dropped = json_array();
    for (size_t i = 0; i < r->n_dropped; i++) {
        const tarn_dropped *d = &r->dropped[i];
        json_array_append_new(dropped,
                              json_pack("{s:o, s:s, s:o, s:o}", "node", result_number(d->node),
                                        "what", tarn_dropped_name(d->what), "why",
                                        result_text(d->why, strlen(d->why)), "bytes",
                                        result_number(d->bytes)));
    }
    return json_pack("{s:o, s:o}", "freed_bytes", result_number(r->freed_bytes), "dropped",
                     dropped);
}

static void print_gc(const tarn_gc_report *r, bool dry)
{
    char size[PRINT_TEXT_MAX];
    for (size_t i = 0; i < r->n_dropped; i++) {
        const tarn_dropped *d = &r->dropped[i];
        printf("node %-8" PRIu64 " %-8s %10s  %s\n", d->node, tarn_dropped_name(d->what),
               d->what == TARN_DROPPED_SESSION ? "" : print_bytes(d->bytes, size), d->why);
    }
    printf("%s %s\n", print_bytes(r->freed_bytes, size), dry ? "would be freed" : "freed");
}

int verb_gc(const arguments *args)
{
    opened o = {0};
    tarn_error err = {0};
    tarn_gc_report report = {0};
    bool dry = given(args, OPTION_DRY_RUN);
    tarn_gc_options options = {.size = sizeof options, .flags = dry ? TARN_GC_DRY_RUN : 0};
    int code = open_store(args, 0, &o);
    if (code == 0 && tarn_store_gc(o.store, &options, &report, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        code = result_print(gc_object(&report), 0);
    } else if (code == 0) {
        print_gc(&report, dry);
        code = result_flush();
    }
    tarn_gc_report_free(&report);
    open_close(&o);
    return code;
}

/* ---- explain -----------------------------------------------------------------------------------
 */

static json_t *explain_object(const tarn_explanation *e)
{
    json_t *turns = json_array();
    for (size_t i = 0; i < e->n_turns; i++) {
        const tarn_turn_price *t = &e->turns[i];
        json_array_append_new(turns,
                              json_pack("{s:o, s:o, s:o, s:o}", "turn", result_number(t->turn),
                                        "position", result_number(t->position), "replay_tokens",
                                        result_number(t->price.replay_tokens), "bytes_read",
                                        result_number(t->price.bytes_read)));
    }
    return json_pack("{s:o, s:o, s:o}", "turns", turns, "bytes_owned",
                     result_number(e->bytes_owned), "bytes_shared", result_number(e->bytes_shared));
}

static void print_explanation(const tarn_explanation *e)
{
    char size[PRINT_TEXT_MAX];
    printf("%6s %9s %9s %10s\n", "turn", "tokens", "replays", "reads");
    for (size_t i = 0; i < e->n_turns; i++) {
        const tarn_turn_price *t = &e->turns[i];
        printf("%6" PRIu32 " %9" PRIu64 " %9" PRIu64 " %10s\n", t->turn, t->position,
               t->price.replay_tokens, print_bytes(t->price.bytes_read, size));
    }
    printf("owns %s", print_bytes(e->bytes_owned, size));
    printf(", shares %s\n", print_bytes(e->bytes_shared, size));
}

int verb_explain(const arguments *args)
{
    opened o = {0};
    place from;
    tarn_error err = {0};
    tarn_explanation explanation = {0};
    int code = open_split(args, args->positionals[0], &from);
    if (code == 0)
        code = open_store(args, 0, &o);
    if (code == 0 &&
        tarn_store_explain(o.store, from.session, from.where, &explanation, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        code = result_print(explain_object(&explanation), 0);
    } else if (code == 0) {
        print_explanation(&explanation);
        code = result_flush();
    }
    tarn_explanation_free(&explanation);
    open_close(&o);
    return code;
}
