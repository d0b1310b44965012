/* store.c - the verbs that need no model: they read and move records, and compute nothing. */
#include "open.h"
#include "print.h"
#include "result.h"
#include "verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- fork, rewind ------------------------------------------------------------------------------
 */

typedef struct moved {
    tarn_at at;
    tarn_price price;
    uint64_t bytes_written;
} moved;

static int answer_moved(const arguments *args, const moved *m)
{
    if (given(args, OPTION_JSON))
        return result_print(json_pack("{s:o, s:o, s:o}", "at", result_at(&m->at), "price",
                                      result_price(&m->price), "bytes_written",
                                      result_number(m->bytes_written)),
                            0);
    print_at(stdout, &m->at);
    printf("; ");
    print_price(stdout, &m->price);
    putchar('\n');
    return result_flush();
}

int verb_fork(const arguments *args)
{
    opened o = {0};
    place from;
    moved m = {0};
    tarn_error err = {0};
    int code = open_split(args, args->positionals[0], &from);
    if (code == 0)
        code = open_store(args, 0, &o);
    if (code == 0)
        code = tarn_store_fork(o.store, from.session, from.where, args->positionals[1], &m.at,
                               &m.price, &m.bytes_written, &err) == TARN_OK
                   ? answer_moved(args, &m)
                   : result_error(args, &err);
    open_close(&o);
    return code;
}

int verb_rewind(const arguments *args)
{
    opened o = {0};
    place from;
    moved m = {0};
    tarn_error err = {0};
    const char *where = args->positionals[1];
    int code = open_split(args, args->positionals[0], &from);
    if (code == 0 && !where == !from.where)
        return options_wrong(args, "give one place to go to");
    if (code == 0)
        code = open_store(args, 0, &o);
    if (code == 0)
        code = tarn_store_rewind(o.store, from.session, where ? where : from.where, &m.at, &m.price,
                                 &m.bytes_written, &err) == TARN_OK
                   ? answer_moved(args, &m)
                   : result_error(args, &err);
    open_close(&o);
    return code;
}

/* ---- ls ----------------------------------------------------------------------------------------
 */

static json_t *session_object(const tarn_session_entry *e)
{
    json_t *tags = json_object();
    for (size_t i = 0; i < e->n_tags; i++)
        json_object_set_new(tags, e->tags[i].key,
                            result_text(e->tags[i].value, strlen(e->tags[i].value)));
    json_t *group = *e->group ? result_text(e->group, strlen(e->group)) : json_null();
    json_t *expires = e->expires_ms ? result_number(e->expires_ms) : json_null();
    return json_pack("{s:o, s:o, s:o, s:o, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "session",
                     result_text(e->name, strlen(e->name)), "node", result_number(e->node),
                     "position", result_number(e->position), "turns", result_number(e->turns),
                     "pinned", e->pinned, "tags", tags, "bytes_owned",
                     result_number(e->bytes_owned), "bytes_shared", result_number(e->bytes_shared),
                     "created", result_number(e->created_ms), "updated",
                     result_number(e->updated_ms), "expires", expires, "group", group);
}

static void print_sessions(const tarn_session_list *list)
{
    char own[PRINT_TEXT_MAX], shared[PRINT_TEXT_MAX], when[PRINT_TEXT_MAX];
    int width = 7;
    for (size_t i = 0; i < list->n_entries; i++) {
        int n = (int)strlen(list->entries[i].name);
        width = n > width ? n : width;
    }
    printf("%-*s %8s %9s %6s %10s %10s  %s\n", width, "session", "node", "tokens", "turns", "own",
           "shared", "updated");
    for (size_t i = 0; i < list->n_entries; i++) {
        const tarn_session_entry *e = &list->entries[i];
        printf("%-*s %8" PRIu64 " %9" PRIu64 " %6" PRIu32 " %10s %10s  %s%s", width, e->name,
               e->node, e->position, e->turns, print_bytes(e->bytes_owned, own),
               print_bytes(e->bytes_shared, shared), print_time(e->updated_ms, when),
               e->pinned ? "  pinned" : "");
        if (e->expires_ms)
            printf("  until %s", print_time(e->expires_ms, when));
        if (*e->group)
            printf("  group %s", e->group);
        for (size_t k = 0; k < e->n_tags; k++)
            printf("  %s=%s", e->tags[k].key, e->tags[k].value);
        putchar('\n');
    }
}

int verb_ls(const arguments *args)
{
    opened o = {0};
    tarn_session_list list = {0};
    tarn_error err = {0};
    if (args->n_tags > 1)
        return options_wrong(args, "--tag is given twice");
    int code = open_store(args, 0, &o);
    if (code == 0 &&
        tarn_store_list(o.store, args->n_tags ? args->tags[0] : NULL, &list, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        json_t *sessions = json_array();
        for (size_t i = 0; i < list.n_entries; i++)
            json_array_append_new(sessions, session_object(&list.entries[i]));
        code = result_print(json_pack("{s:o}", "sessions", sessions), 0);
    } else if (code == 0) {
        print_sessions(&list);
        code = result_flush();
    }
    tarn_session_list_free(&list);
    open_close(&o);
    return code;
}

/* ---- log, tree ---------------------------------------------------------------------------------
 */

static json_t *text_or_null(const char *text)
{
    return text ? result_text(text, strlen(text)) : json_null();
}

/* "call_id" is the call a tool segment answers; the calls an assistant made are "calls". */
static json_t *segment_object(const tarn_segment *s)
{
    bool answers = s->role == TARN_ROLE_TOOL && s->n_call_ids > 0;
    json_t *object = json_pack("{s:s, s:o, s:o}", "role", tarn_role_name(s->role), "call_id",
                               text_or_null(answers ? s->call_ids[0] : NULL), "tokens",
                               result_number(s->n_tokens));
    if (!answers && s->n_call_ids > 0) {
        json_t *calls = json_array();
        for (size_t i = 0; i < s->n_call_ids; i++)
            json_array_append_new(calls, text_or_null(s->call_ids[i]));
        json_object_set_new(object, "calls", calls);
    }
    return object;
}

static json_t *log_object(const tarn_node_entry *e)
{
    json_t *segments = json_array();
    for (size_t i = 0; i < e->n_segments; i++)
        json_array_append_new(segments, segment_object(&e->segments[i]));
    return json_pack("{s:o, s:o, s:o, s:o, s:b, s:b, s:b, s:o}", "node", result_number(e->node),
                     "parent", result_number(e->parent), "position", result_number(e->position),
                     "segments", segments, "has_state", e->has_state, "bit_exact", e->bit_exact,
                     "pinned", e->pinned, "created", result_number(e->created_ms));
}

static json_t *tree_object(const tarn_node_entry *e)
{
    json_t *sessions = json_array();
    for (size_t i = 0; i < e->n_sessions; i++)
        json_array_append_new(sessions, result_text(e->sessions[i], strlen(e->sessions[i])));
    return json_pack("{s:o, s:o, s:o, s:o}", "node", result_number(e->node), "parent",
                     result_number(e->parent), "position", result_number(e->position), "sessions",
                     sessions);
}

static json_t *nodes_object(const tarn_node_list *list,
                            json_t *(*object)(const tarn_node_entry *entry))
{
    json_t *nodes = json_array();
    for (size_t i = 0; i < list->n_entries; i++)
        json_array_append_new(nodes, object(&list->entries[i]));
    return json_pack("{s:o}", "nodes", nodes);
}

/* Newest first, as a reader of git's log expects; the JSON is oldest first. */
static void print_log(const char *session, const tarn_node_list *list)
{
    char when[PRINT_TEXT_MAX];
    for (size_t i = list->n_entries; i-- > 0;) {
        const tarn_node_entry *e = &list->entries[i];
        printf("node %" PRIu64, e->node);
        if (i + 1 == list->n_entries)
            printf(" (%s)", session);
        printf("%s%s%s\n", e->pinned ? " pinned" : "", e->has_state ? "" : " replay",
               e->bit_exact ? "" : " not bit-exact");
        printf("Date:   %s\nTokens: %" PRIu64 "\n\n", print_time(e->created_ms, when), e->position);
        for (size_t k = 0; k < e->n_segments; k++) {
            const tarn_segment *s = &e->segments[k];
            printf("    %-9s %6" PRIu32 "%s%s", tarn_role_name(s->role), s->n_tokens,
                   s->continues ? "  goes on" : "", s->closed ? "" : "  open");
            for (size_t c = 0; c < s->n_call_ids; c++)
                printf("  %s", s->call_ids[c]);
            putchar('\n');
        }
        printf("%s", i > 0 ? "\n" : "");
    }
}

int verb_log(const arguments *args)
{
    opened o = {0};
    place from;
    tarn_node_list list = {0};
    tarn_error err = {0};
    int code = open_split(args, args->positionals[0], &from);
    if (code == 0)
        code = open_store(args, 0, &o);
    if (code == 0 && tarn_store_log(o.store, from.session, from.where, &list, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        code = result_print(nodes_object(&list, log_object), 0);
    } else if (code == 0) {
        print_log(args->positionals[0], &list);
        code = result_flush();
    }
    tarn_node_list_free(&list);
    open_close(&o);
    return code;
}

int verb_tree(const arguments *args)
{
    opened o = {0};
    tarn_node_list list = {0};
    tarn_error err = {0};
    int code = open_store(args, 0, &o);
    if (code == 0 && tarn_store_tree(o.store, args->positionals[0], &list, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        code = result_print(nodes_object(&list, tree_object), 0);
    } else if (code == 0) {
        if (given(args, OPTION_DOT))
            print_dot(list.entries, list.n_entries);
        else if (!print_tree(list.entries, list.n_entries))
            fprintf(stderr, "tarn tree: out of memory\n"), code = 1;
        code = code == 0 ? result_flush() : code;
    }
    tarn_node_list_free(&list);
    open_close(&o);
    return code;
}

/* ---- tokens, rename, rm ------------------------------------------------------------------------
 */

int verb_tokens(const arguments *args)
{
    opened o = {0};
    place from;
    tarn_ids ids = {0};
    tarn_error err = {0};
    int code = open_split(args, args->positionals[0], &from);
    if (code == 0)
        code = open_store(args, 0, &o);
    if (code == 0 && tarn_store_tokens(o.store, from.session, from.where, &ids, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        code = result_print(json_pack("{s:o}", "ids", result_ids(ids.ids, ids.n_ids)), 0);
    } else if (code == 0) {
        print_ids(stdout, ids.ids, ids.n_ids);
        code = result_flush();
    }
    tarn_ids_free(&ids);
    open_close(&o);
    return code;
}

int verb_rename(const arguments *args)
{
    opened o = {0};
    tarn_at at;
    tarn_error err = {0};
    const char *to = args->positionals[1];
    int code = open_store(args, 0, &o);
    if (code == 0 && (tarn_store_rename(o.store, args->positionals[0], to, &err) != TARN_OK ||
                      tarn_store_price(o.store, to, NULL, &at, NULL, &err) != TARN_OK))
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        code = result_print(json_pack("{s:o}", "at", result_at(&at)), 0);
    } else if (code == 0) {
        print_at(stdout, &at);
        putchar('\n');
        code = result_flush();
    }
    open_close(&o);
    return code;
}

int verb_rm(const arguments *args)
{
    opened o = {0};
    tarn_error err = {0};
    int code = open_store(args, 0, &o);
    if (code == 0 && tarn_store_remove(o.store, args->positionals[0], &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON))
        code = result_print(json_object(), 0);
    open_close(&o);
    return code;
}

/* ---- verify, stat ------------------------------------------------------------------------------
 */

static bool verify_progress(void *user, uint64_t done, uint64_t all)
{
    (void)user;
    print_progress("verifying", "B", done, all);
    return true;
}

static json_t *verify_object(const tarn_verify_report *r)
{
    json_t *bad = json_array();
    for (size_t i = 0; i < r->n_listed; i++)
        json_array_append_new(bad,
                              json_pack("{s:o, s:o, s:o}", "node", result_number(r->bad[i].node),
                                        "chunk", result_number(r->bad[i].chunk), "reason",
                                        result_text(r->bad[i].reason, strlen(r->bad[i].reason))));
    return json_pack("{s:o, s:o, s:o, s:o}", "nodes", result_number(r->nodes), "chunks",
                     result_number(r->chunks), "bytes", result_number(r->bytes), "bad", bad);
}

int verb_verify(const arguments *args)
{
    opened o = {0};
    tarn_verify_report report = {0};
    tarn_error err = {0};
    int code = open_store(args, 0, &o);
    if (code == 0 && tarn_store_verify(o.store, verify_progress, NULL, &report, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        code = result_print(verify_object(&report), report.n_bad ? 1 : 0);
    } else if (code == 0) {
        char size[PRINT_TEXT_MAX];
        for (size_t i = 0; i < report.n_listed; i++)
            printf("bad: node %" PRIu64 ", chunk %" PRIu64 ": %s\n", report.bad[i].node,
                   report.bad[i].chunk, report.bad[i].reason);
        printf("%" PRIu64 " nodes, %" PRIu64 " chunks, %s: %zu bad\n", report.nodes, report.chunks,
               print_bytes(report.bytes, size), report.n_bad);
        code = result_flush() != 0 || report.n_bad > 0;
    }
    tarn_verify_report_free(&report);
    open_close(&o);
    return code;
}

static void print_stat(const tarn_store_stat *s)
{
    char size[PRINT_TEXT_MAX];
    printf("sessions  %" PRIu64 "\nnodes     %" PRIu64 "\n", s->sessions, s->nodes);
    printf("stored    %s\n", print_bytes(s->bytes_stored, size));
    printf("shared    %s saved by sharing\n", print_bytes(s->bytes_shared, size));
    printf("written   %s since the store was made\n", print_bytes(s->bytes_written, size));
    printf("file      %s", print_bytes(s->file_bytes, size));
    printf(" of at most %s\n", print_bytes(s->map_bytes, size));
}

int verb_stat(const arguments *args)
{
    opened o = {0};
    tarn_error err = {0};
    tarn_store_stat s = {.size = sizeof s};
    int code = open_store(args, 0, &o);
    if (code == 0 && tarn_store_get_stat(o.store, &s, &err) != TARN_OK)
        code = result_error(args, &err);
    if (code == 0 && given(args, OPTION_JSON)) {
        code = result_print(
            json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "sessions", result_number(s.sessions),
                      "nodes", result_number(s.nodes), "bytes_stored",
                      result_number(s.bytes_stored), "bytes_shared", result_number(s.bytes_shared),
                      "bytes_written", result_number(s.bytes_written), "map_bytes",
                      result_number(s.map_bytes), "file_bytes", result_number(s.file_bytes)),
            0);
    } else if (code == 0) {
        print_stat(&s);
        code = result_flush();
    }
    open_close(&o);
    return code;
}
