/* session.c - tarn new, append: the verbs that feed.
 *
 * Each resumes the session, works, commits and ends: what was not committed is lost with the
 * process, what was is not. All input is read before anything is opened. An interrupt ends the
 * process as usual: half an appended message is of no use to anyone. */
#include "input.h"
#include "open.h"
#include "print.h"
#include "result.h"
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- new --------------------------------------------------------------------------------------
 */

static tarn_status feed_text(tarn_session *session, tarn_role role, const char *call_id,
                             const input *text, size_t *n_tokens, tarn_error *err)
{
    tarn_message message = {.size = sizeof message,
                            .role = role,
                            .text = text->data,
                            .text_bytes = text->n_bytes,
                            .call_id = call_id};
    return tarn_session_append_message(session, &message, n_tokens, err);
}

/* Feeds the tools first, then the system message, as the chat format has them. */
static bool feed_new(const arguments *args, tarn_session *session, tarn_error *err)
{
    const char *system = args->options[OPTION_SYSTEM].text;
    const char *tools = args->options[OPTION_TOOLS].text;
    input in;
    bool ok = true;
    if (tools) {
        ok = input_read(tools, &in, err);
        ok = ok && tarn_session_append_tools(session, in.data, in.n_bytes, NULL, err) == TARN_OK;
        input_free(&in);
    }
    if (ok && system) {
        ok = input_text(args, system, &in, err);
        ok = ok && feed_text(session, TARN_ROLE_SYSTEM, NULL, &in, NULL, err) == TARN_OK;
        input_free(&in);
    }
    return ok && tarn_session_run(session, NULL, NULL, err) == TARN_OK;
}

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
    if (!feed_new(args, o->session, &err) ||
        tarn_session_commit(o->session, &committed, &err) != TARN_OK) {
        /* The session is of no use without what it should begin with. */
        tarn_session_close(o->session);
        o->session = NULL;
        tarn_error ignored;
        if (tarn_store_remove(o->store, name, &ignored) != TARN_OK)
            fprintf(stderr, "tarn new: %s stays without its messages: %s\n", name, ignored.detail);
        return result_error(args, &err);
    }
    if (given(args, OPTION_JSON))
        return result_print(json_pack("{s:o, s:o}", "at", result_at(&committed.at), "bytes_written",
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

/* ---- append -----------------------------------------------------------------------------------
 */

typedef struct appending {
    uint64_t done, all;
} appending;

static void show_append(void *user, const tarn_event *event)
{
    appending *a = user;
    if (event->kind == TARN_EVENT_APPENDED)
        print_progress("appending", "tokens", a->done += event->n_tokens, a->all);
}

static int answer_append(const arguments *args, const opened *o, const tarn_committed *committed,
                         size_t n_tokens)
{
    if (given(args, OPTION_JSON))
        return result_print(json_pack("{s:o, s:o, s:o, s:o}", "at", result_at(&committed->at),
                                      "reuse", result_reuse(&o->reuse), "appended",
                                      result_number(n_tokens), "bytes_written",
                                      result_number(committed->bytes_written)),
                            0);
    char size[PRINT_TEXT_MAX];
    print_at(stdout, &committed->at);
    printf(": %zu appended, ", n_tokens);
    print_reuse(stdout, &o->reuse);
    printf(", %s written\n", print_bytes(committed->bytes_written, size));
    return result_flush();
}

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

/* What `append` feeds, read before anything is opened. */
typedef struct message {
    tarn_role role;
    const char *call_id;
    input text;
    id_list ids;
} message;

static int read_message(const arguments *args, message *m)
{
    option_id source = find_source(args);
    if (source == OPTION_COUNT)
        return 2;
    const char *text = args->options[source].text, *extra = args->positionals[1];
    m->role = source == OPTION_USER     ? TARN_ROLE_USER
              : source == OPTION_SYSTEM ? TARN_ROLE_SYSTEM
              : source == OPTION_TOOL   ? TARN_ROLE_TOOL
              : source == OPTION_TOKENS ? TARN_ROLE_TOKENS
                                        : TARN_ROLE_ASSISTANT;
    if (source == OPTION_TOOL) {
        m->call_id = text;
        text = extra;
    } else if (extra) {
        return options_wrong(args, "one argument too many: %s", extra);
    }
    if (text && given(args, OPTION_FILE))
        return options_wrong(args, "--file is given, and a text or ids as well");
    if (source == OPTION_TOKENS)
        return input_option_ids(args, OPTION_TOKENS, "--tokens", &m->ids);
    tarn_error err = {0};
    return input_text(args, text, &m->text, &err) ? 0 : result_error(args, &err);
}

static tarn_status feed_message(const message *m, tarn_session *session, size_t *n_tokens,
                                tarn_error *err)
{
    if (m->role != TARN_ROLE_TOKENS)
        return feed_text(session, m->role, m->call_id, &m->text, n_tokens, err);
    *n_tokens = m->ids.n_ids;
    return tarn_session_append_tokens(session, m->ids.ids, m->ids.n_ids, err);
}

int verb_append(const arguments *args)
{
    opened o = {0};
    message m = {0};
    tarn_error err = {0};
    tarn_committed committed = {.size = sizeof committed};
    size_t n_tokens = 0;
    int code = read_message(args, &m);
    if (code == 0)
        code = open_existing(args, args->positionals[0], &o);
    if (code == 0) {
        appending a = {0};
        tarn_status status = feed_message(&m, o.session, &n_tokens, &err);
        a.all = n_tokens;
        if (status == TARN_OK)
            status = tarn_session_run(o.session, show_append, &a, &err);
        if (status == TARN_OK)
            status = tarn_session_commit(o.session, &committed, &err);
        code = status == TARN_OK ? answer_append(args, &o, &committed, n_tokens)
                                 : result_error(args, &err);
    }
    open_close(&o);
    input_free(&m.text);
    input_free_ids(&m.ids);
    return code;
}
