/* append.c - tarn append, sync: the verbs that feed an existing session.
 *
 * Each resumes the session, works, commits and ends: what was not committed is lost with the
 * process, what was is not. An interrupt ends the process as usual: half an appended message is of
 * no use to anyone.
 *
 * A text from a file or from standard input is fed as it comes, so that most of it is computed when
 * its producer ends. Input goes before computing, for a producer should not wait for the model; but
 * not so far that the ids that wait become many. */
#include "input.h"
#include "open.h"
#include "print.h"
#include "result.h"
#include "verbs.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE_BYTES = 65536, WAITING_MAX = 4096 };

/* What `append` feeds. */
typedef struct source {
    tarn_message message;
    int descriptor; /* of a text that is still to be read, or -1 */
    const char *path;
    id_list ids;
} source;

typedef struct progress {
    uint64_t done, all; /* all 0: nobody knows yet */
} progress;

static void show_progress(void *user, const tarn_event *event)
{
    progress *p = user;
    if (event->kind != TARN_EVENT_APPENDED)
        return;
    p->done += event->n_tokens;
    if (p->all > 0)
        print_progress("appending", "tokens", p->done, p->all);
}

/* ---- the command line ---- */

/* Which kind of message is given; OPTION_COUNT after saying that it is not exactly one. */
static option_id find_source(const arguments *args)
{
    static const option_id sources[] = {OPTION_USER, OPTION_SYSTEM, OPTION_ASSISTANT, OPTION_TOOL,
                                        OPTION_TOKENS};
    option_id found = OPTION_COUNT;
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        if (!given(args, sources[i]))
            continue;
        if (found != OPTION_COUNT) {
            options_wrong(args, "give one message at a time");
            return OPTION_COUNT;
        }
        found = sources[i];
    }
    if (found == OPTION_COUNT)
        options_wrong(args, "nothing to append: give one of --user, --system, --assistant, --tool "
                            "and --tokens");
    return found;
}

static tarn_role role_of(option_id id)
{
    return id == OPTION_USER     ? TARN_ROLE_USER
           : id == OPTION_SYSTEM ? TARN_ROLE_SYSTEM
           : id == OPTION_TOOL   ? TARN_ROLE_TOOL
           : id == OPTION_TOKENS ? TARN_ROLE_TOKENS
                                 : TARN_ROLE_ASSISTANT;
}

static int read_source(const arguments *args, source *s)
{
    option_id id = find_source(args);
    if (id == OPTION_COUNT)
        return 2;
    const char *text = args->options[id].text, *extra = args->positionals[1];
    tarn_message *m = &s->message;
    *m = (tarn_message){.size = sizeof *m, .role = role_of(id)};
    if (given(args, OPTION_FORCE))
        m->flags = TARN_MESSAGE_ANY_CALL;
    if (id == OPTION_TOOL) {
        m->call_id = text;
        text = extra;
    } else if (extra) {
        return options_wrong(args, "one argument too many: %s", extra);
    }
    if (text && given(args, OPTION_FILE))
        return options_wrong(args, "--file is given, and a text or ids as well");
    if (id == OPTION_TOKENS)
        return input_option_ids(args, OPTION_TOKENS, "--tokens", &s->ids);
    if (text && strcmp(text, "-") != 0) {
        m->text = text;
        m->text_bytes = strlen(text);
        return 0;
    }
    tarn_error err = {0};
    s->descriptor = input_open(args, &s->path, &err);
    return s->descriptor < 0 ? result_error(args, &err) : 0;
}

static void close_source(source *s)
{
    if (s->descriptor > STDERR_FILENO)
        close(s->descriptor);
    input_free_ids(&s->ids);
}

/* ---- feeding ---- */

static uint64_t waiting(const tarn_session *session)
{
    tarn_session_info info = {.size = sizeof info};
    tarn_session_get_info(session, &info);
    return info.tokens_waiting;
}

/* One step while there is nothing to read. */
static tarn_status compute(const opened *o, progress *p, tarn_error *err)
{
    tarn_event event;
    tarn_status status = tarn_engine_step(o->engine, NULL, err);
    while (status == TARN_OK && tarn_engine_poll(o->engine, &event))
        show_progress(p, &event);
    return status;
}

static bool readable(int descriptor)
{
    struct pollfd wanted = {.fd = descriptor, .events = POLLIN};
    return poll(&wanted, 1, 0) != 0;
}

static tarn_status feed_stream(const source *s, const opened *o, progress *p, size_t *n_tokens,
                               tarn_error *err)
{
    static char piece[PIECE_BYTES];
    tarn_status status = tarn_session_append_begin(o->session, &s->message, err);
    while (status == TARN_OK) {
        uint64_t n_waiting = waiting(o->session);
        if (n_waiting > WAITING_MAX || (n_waiting > 0 && !readable(s->descriptor))) {
            status = compute(o, p, err);
            continue;
        }
        ssize_t n = read(s->descriptor, piece, sizeof piece);
        if (n == 0)
            return tarn_session_append_end(o->session, n_tokens, err);
        if (n > 0) {
            status = tarn_session_append_bytes(o->session, piece, (size_t)n, NULL, err);
        } else if (errno != EINTR) {
            input_fail(err, errno, s->path);
            status = err->status;
        }
    }
    return status;
}

static tarn_status feed(const source *s, const opened *o, progress *p, size_t *n_tokens,
                        tarn_error *err)
{
    if (s->descriptor >= 0)
        return feed_stream(s, o, p, n_tokens, err);
    if (s->message.role != TARN_ROLE_TOKENS)
        return tarn_session_append_message(o->session, &s->message, n_tokens, err);
    *n_tokens = s->ids.n_ids;
    return tarn_session_append_tokens(o->session, s->ids.ids, s->ids.n_ids, err);
}

/* ---- append ---- */

static int answer_append(const arguments *args, const opened *o, const tarn_committed *committed,
                         size_t n_tokens)
{
    tarn_reuse reuse = open_reuse(o);
    if (given(args, OPTION_JSON))
        return result_print(json_pack("{s:o, s:o, s:o, s:o}", "at", result_at(&committed->at),
                                      "reuse", result_reuse(&reuse), "appended",
                                      result_number(n_tokens), "bytes_written",
                                      result_number(committed->bytes_written)),
                            0);
    char size[PRINT_TEXT_MAX];
    print_at(stdout, &committed->at);
    printf(": %zu appended, ", n_tokens);
    print_reuse(stdout, &reuse);
    printf(", %s written\n", print_bytes(committed->bytes_written, size));
    return result_flush();
}

int verb_append(const arguments *args)
{
    opened o = {0};
    source s = {.descriptor = -1};
    tarn_error err = {0};
    tarn_committed committed = {.size = sizeof committed};
    size_t n_tokens = 0;
    int code = read_source(args, &s);
    if (code == 0)
        code = open_existing(args, args->positionals[0], &o);
    if (code == 0) {
        progress p = {0};
        tarn_status status = feed(&s, &o, &p, &n_tokens, &err);
        p.all = n_tokens;
        if (status == TARN_OK)
            status = tarn_session_run(o.session, show_progress, &p, &err);
        if (status == TARN_OK)
            status = tarn_session_commit(o.session, &committed, &err);
        code = status == TARN_OK ? answer_append(args, &o, &committed, n_tokens)
                                 : result_error(args, &err);
    }
    open_close(&o);
    close_source(&s);
    return code;
}

/* ---- sync ---- */

static const char *kind_name(tarn_sync_kind kind)
{
    switch (kind) {
    case TARN_SYNC_SAME:
        return "same";
    case TARN_SYNC_EXTENDED:
        return "extended";
    case TARN_SYNC_MOVED:
        return "moved";
    case TARN_SYNC_REBUILT:
        return "rebuilt";
    }
    return "unknown";
}

static int answer_sync(const arguments *args, const opened *o, const tarn_sync *sync,
                       const tarn_committed *committed)
{
    tarn_reuse reuse = open_reuse(o);
    if (reuse.reason != TARN_REASON_PREFIX)
        reuse = sync->reuse;
    if (!given(args, OPTION_JSON)) {
        print_at(stdout, &committed->at);
        printf(": %s, %llu kept, %llu appended", kind_name(sync->kind),
               (unsigned long long)sync->tokens_kept, (unsigned long long)sync->tokens_appended);
        if (sync->differs)
            printf(", message %lld differs at token %llu", (long long)sync->message,
                   (unsigned long long)sync->position);
        putchar('\n');
        return result_flush();
    }
    json_t *differs = sync->differs ? json_pack("{s:I, s:o}", "message", (json_int_t)sync->message,
                                                "position", result_number(sync->position))
                                    : json_null();
    return result_print(json_pack("{s:o, s:o, s:s, s:o, s:o, s:o, s:o}", "at",
                                  result_at(&committed->at), "reuse", result_reuse(&reuse), "sync",
                                  kind_name(sync->kind), "kept", result_number(sync->tokens_kept),
                                  "appended", result_number(sync->tokens_appended), "differs",
                                  differs, "bytes_written",
                                  result_number(committed->bytes_written)),
                        0);
}

int verb_sync(const arguments *args)
{
    opened o = {0};
    input list = {0};
    tarn_error err = {0};
    tarn_sync sync = {.size = sizeof sync};
    tarn_committed committed = {.size = sizeof committed};
    int code = input_text(args, NULL, &list, &err) ? 0 : result_error(args, &err);
    if (code == 0)
        code = open_existing(args, args->positionals[0], &o);
    if (code == 0) {
        progress p = {0};
        tarn_status status = tarn_session_sync(o.session, list.data, list.n_bytes, &sync, &err);
        p.all = sync.tokens_appended;
        if (status == TARN_OK)
            status = tarn_session_run(o.session, show_progress, &p, &err);
        if (status == TARN_OK)
            status = tarn_session_commit(o.session, &committed, &err);
        code =
            status == TARN_OK ? answer_sync(args, &o, &sync, &committed) : result_error(args, &err);
    }
    open_close(&o);
    input_free(&list);
    return code;
}
