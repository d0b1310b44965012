/* chat.c - tarn chat: a session talked to, line by line.
 *
 * What is said is fed and committed before it is answered, and an answer is committed as soon as it
 * ends, so that nothing is lost however the process ends. Ctrl-C ends an answer where it is: the
 * turn stays open, /go continues it, and the next message closes it. While a message is fed an
 * interrupt waits: half a message would be of no use.
 *
 * Answers go to standard output, everything else to standard error. */
#include "input.h"
#include "line.h"
#include "open.h"
#include "print.h"
#include "result.h"
#include "sampling.h"
#include "verbs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct chat {
    const arguments *args;
    opened o;
    line_reader *lines;
    char prompt[300];
    tarn_stop stop;  /* of the last answer */
    bool at_newline; /* of standard output */
    bool over;
} chat;

static void complain(const tarn_error *err)
{
    fprintf(stderr, "%s: %s\n", tarn_status_name(err->status), err->detail);
}

/* ---- answers ---- */

static void show_event(void *user, const tarn_event *event)
{
    chat *c = user;
    switch (event->kind) {
    case TARN_EVENT_TEXT:
        if (event->in_calls || !event->text)
            break;
        fwrite(event->text, 1, event->text_bytes, stdout);
        fflush(stdout);
        c->at_newline = event->text[event->text_bytes - 1] == '\n';
        break;
    case TARN_EVENT_CALL_BEGIN:
        fprintf(stderr, "%s[%s ", c->at_newline ? "" : "\n", event->call_id);
        c->at_newline = true;
        break;
    case TARN_EVENT_CALL_ARGUMENTS:
        fprintf(stderr, "%.*s", (int)event->text_bytes, event->text ? event->text : "");
        break;
    case TARN_EVENT_CALL_END:
        fprintf(stderr, "]%s%s\n", event->problem ? " " : "", event->problem ? event->problem : "");
        break;
    case TARN_EVENT_CALL_MALFORMED:
        fprintf(stderr, "] no tool call: %s\n", event->problem);
        break;
    case TARN_EVENT_STOP:
        c->stop = event->stop;
        break;
    default:
        break;
    }
    if (line_interrupted())
        tarn_session_cancel(event->session);
}

static bool commit(chat *c, tarn_committed *out)
{
    tarn_error err = {0};
    *out = (tarn_committed){.size = sizeof *out};
    if (tarn_session_commit(c->o.session, out, &err) == TARN_OK)
        return true;
    complain(&err);
    return false;
}

/* Computes what was appended, and commits it. */
static bool feed(chat *c)
{
    tarn_error err = {0};
    tarn_committed committed;
    if (tarn_session_run(c->o.session, NULL, NULL, &err) == TARN_OK)
        return commit(c, &committed);
    complain(&err);
    return false;
}

static void describe_stop(const chat *c, const tarn_committed *committed)
{
    if (c->stop == TARN_STOP_CANCELLED)
        fprintf(stderr, "(interrupted; /go continues) ");
    else if (c->stop == TARN_STOP_LENGTH)
        fprintf(stderr, "(cut off; /go continues) ");
    else if (c->stop == TARN_STOP_TOOL_CALL)
        fprintf(stderr, "(waits for /tool CALL_ID TEXT) ");
    else if (!line_is_terminal(c->lines))
        return;
    print_at(stderr, &committed->at);
    fputc('\n', stderr);
}

/* The model's turn: begins one, or goes on with the one left open. */
static void answer(chat *c)
{
    tarn_error err = {0};
    tarn_committed committed;
    tarn_generate_options options = {.size = sizeof options,
                                     .n_tokens_max = (uint32_t)c->args->options[OPTION_N].number};
    if (line_interrupted()) { /* while the message was fed */
        line_forget_interrupt();
        fprintf(stderr, "(not answered; /go answers)\n");
        return;
    }
    c->stop = TARN_STOP_NONE;
    c->at_newline = true;
    tarn_status status = tarn_session_generate(c->o.session, &options, &err);
    if (status == TARN_OK)
        status = tarn_session_run(c->o.session, show_event, c, &err);
    line_forget_interrupt();
    if (!c->at_newline)
        putchar('\n');
    fflush(stdout);
    if (status != TARN_OK) {
        complain(&err);
        if (tarn_session_reset(c->o.session, NULL, &err) != TARN_OK)
            complain(&err);
        return;
    }
    if (commit(c, &committed))
        describe_stop(c, &committed);
}

static void say(chat *c, tarn_role role, const char *call_id, const char *text, size_t n_bytes)
{
    tarn_error err = {0};
    tarn_message m = {
        .size = sizeof m, .role = role, .text = text, .text_bytes = n_bytes, .call_id = call_id};
    if (tarn_session_append_message(c->o.session, &m, NULL, &err) != TARN_OK)
        complain(&err);
    else if (feed(c))
        answer(c);
}

/* ---- commands ---- */

static void name_prompt(chat *c)
{
    tarn_session_info info = {.size = sizeof info};
    tarn_session_get_info(c->o.session, &info);
    snprintf(c->prompt, sizeof c->prompt, "%s> ", info.at.session);
}

static void run_fork(chat *c, char *name)
{
    tarn_error err = {0};
    tarn_session *child;
    if (tarn_session_fork(c->o.session, name, &child, &err) != TARN_OK) {
        complain(&err);
        return;
    }
    tarn_session_close(c->o.session);
    c->o.session = child;
    name_prompt(c);
    fprintf(stderr, "now in %s\n", name);
}

static void run_rewind(chat *c, char *where)
{
    tarn_error err = {0};
    tarn_reuse reuse;
    tarn_session_info info = {.size = sizeof info};
    if (tarn_session_rewind(c->o.session, where, &reuse, &err) != TARN_OK ||
        tarn_session_run(c->o.session, NULL, NULL, &err) != TARN_OK) {
        complain(&err);
        return;
    }
    tarn_session_get_info(c->o.session, &info);
    print_at(stderr, &info.at);
    fputs(": ", stderr);
    print_reuse(stderr, &reuse);
    fputc('\n', stderr);
}

static void run_tree(chat *c, char *unused)
{
    tarn_error err = {0};
    tarn_node_list list;
    tarn_session_info info = {.size = sizeof info};
    (void)unused;
    tarn_session_get_info(c->o.session, &info);
    if (tarn_store_tree(c->o.store, info.at.session, &list, &err) != TARN_OK) {
        complain(&err);
        return;
    }
    if (!print_tree(list.entries, list.n_entries))
        fprintf(stderr, "no memory\n");
    fflush(stdout);
    tarn_node_list_free(&list);
}

static void run_commit(chat *c, char *unused)
{
    tarn_committed committed;
    char size[PRINT_TEXT_MAX];
    (void)unused;
    if (!commit(c, &committed))
        return;
    print_at(stderr, &committed.at);
    fprintf(stderr, ", %s written\n", print_bytes(committed.bytes_written, size));
}

/* Prints what was declared between two positions. */
static void show_declaration(const chat *c, const tarn_ids *ids, uint64_t begin, uint64_t end)
{
    tarn_error err = {0};
    tarn_text text;
    if (end > ids->n_ids || begin > end)
        return;
    if (tarn_model_detokenize(c->o.model, ids->ids + begin, (size_t)(end - begin), &text, &err) !=
        TARN_OK) {
        complain(&err);
        return;
    }
    printf("%s\n", text.data);
    tarn_text_free(&text);
}

static void list_tools(chat *c)
{
    tarn_error err = {0};
    tarn_node_list list;
    tarn_ids ids;
    tarn_session_info info = {.size = sizeof info};
    uint64_t at = 0;
    tarn_session_get_info(c->o.session, &info);
    if (tarn_store_log(c->o.store, info.at.session, NULL, &list, &err) != TARN_OK) {
        complain(&err);
        return;
    }
    if (tarn_store_tokens(c->o.store, info.at.session, NULL, &ids, &err) == TARN_OK) {
        for (size_t i = 0; i < list.n_entries; i++)
            for (size_t k = 0; k < list.entries[i].n_segments; k++) {
                const tarn_segment *s = &list.entries[i].segments[k];
                if (s->role == TARN_ROLE_TOOLS)
                    show_declaration(c, &ids, at, at + s->n_tokens);
                at += s->n_tokens;
            }
        tarn_ids_free(&ids);
    } else {
        complain(&err);
    }
    fflush(stdout);
    tarn_node_list_free(&list);
}

static void run_tools(chat *c, char *file)
{
    tarn_error err = {0};
    input in;
    if (!*file) {
        list_tools(c);
        return;
    }
    bool ok = input_read(file, &in, &err);
    if (ok && tarn_session_append_tools(c->o.session, in.data, in.n_bytes, NULL, &err) == TARN_OK)
        feed(c);
    else
        complain(&err);
    input_free(&in);
}

static void run_tool(chat *c, char *rest)
{
    char *text = rest + strcspn(rest, " ");
    if (*text)
        *text++ = '\0';
    say(c, TARN_ROLE_TOOL, rest, text, strlen(text));
}

static void run_go(chat *c, char *unused)
{
    (void)unused;
    answer(c);
}

static void run_quit(chat *c, char *unused)
{
    (void)unused;
    c->over = true;
}

static void run_help(chat *c, char *unused);

static const struct command {
    const char *name;
    const char *argument; /* NULL: none */
    bool needed;
    void (*run)(chat *c, char *argument);
    const char *about;
} commands[] = {
    {"/fork", "NAME", true, run_fork, "go on in a new session; this one stays as it is"},
    {"/rewind", "WHERE", true, run_rewind, "go back: @turn:-2, @t:POS, @before:CALL_ID, @n:NODE"},
    {"/tree", NULL, false, run_tree, "all branches, drawn"},
    {"/commit", NULL, false, run_commit, "make it durable now; every turn is anyway"},
    {"/tools", "[FILE]", false, run_tools, "list the tools declared, or declare those of a file"},
    {"/tool", "CALL_ID TEXT", true, run_tool, "answer a tool call"},
    {"/go", NULL, false, run_go, "answer, or go on with an interrupted answer"},
    {"/quit", NULL, false, run_quit, "leave; so does the end of the input"},
    {"/help", NULL, false, run_help, "this list"},
};
enum { COMMANDS_COUNT = sizeof commands / sizeof commands[0] };

static void run_help(chat *c, char *unused)
{
    (void)c;
    (void)unused;
    for (size_t i = 0; i < COMMANDS_COUNT; i++) {
        const char *argument = commands[i].argument ? commands[i].argument : "";
        fprintf(stderr, "  %-8s %-13s %s\n", commands[i].name, argument, commands[i].about);
    }
    fprintf(stderr, "Anything else is said. A backslash at the end of a line goes on with the next;"
                    "\nctrl-C ends an answer and loses nothing; a message may begin with // for /."
                    "\n");
}

/* "/name argument"; the line is a copy that may be written to. */
static void run_command(chat *c, char *line)
{
    char *argument = line + strcspn(line, " ");
    if (*argument)
        *argument++ = '\0';
    argument += strspn(argument, " ");
    for (size_t i = 0; i < COMMANDS_COUNT; i++) {
        if (strcmp(line, commands[i].name) != 0)
            continue;
        if ((commands[i].needed && !*argument) || (!commands[i].argument && *argument))
            fprintf(stderr, "usage: %s %s\n", commands[i].name,
                    commands[i].argument ? commands[i].argument : "");
        else
            commands[i].run(c, argument);
        return;
    }
    fprintf(stderr, "no such command: %s; /help lists them\n", line);
}

/* ---- the loop ---- */

static void take_line(chat *c, const char *text, size_t n_bytes)
{
    if (n_bytes == 0)
        return;
    if (text[0] != '/') {
        say(c, TARN_ROLE_USER, NULL, text, n_bytes);
    } else if (n_bytes > 1 && text[1] == '/') {
        say(c, TARN_ROLE_USER, NULL, text + 1, n_bytes - 1);
    } else {
        char *copy = strdup(text);
        if (copy)
            run_command(c, copy);
        free(copy);
    }
}

static void talk(chat *c)
{
    while (!c->over) {
        const char *text;
        size_t n_bytes;
        line_kind kind = line_read(c->lines, c->prompt, &text, &n_bytes);
        if (kind == LINE_TEXT)
            take_line(c, text, n_bytes);
        else if (kind == LINE_INTERRUPTED)
            fputc('\n', stdout);
        else
            c->over = true;
    }
    if (line_is_terminal(c->lines))
        putchar('\n');
}

/* Opens the session, or makes it with what it should begin with. */
static int open_chat(chat *c)
{
    const arguments *args = c->args;
    const char *name = args->positionals[0];
    tarn_session_options options = {.size = sizeof options, .flags = TARN_SESSION_CREATE};
    tarn_session_info info = {.size = sizeof info};
    tarn_error err = {0};
    int code = open_engine(args, &c->o);
    if (code == 0)
        code = open_store(args, TARN_STORE_CREATE, &c->o);
    if (code == 0)
        code = open_session(args, name, &options, &c->o);
    if (code != 0)
        return code;
    tarn_session_get_info(c->o.session, &info);
    bool begun = info.at.position + info.tokens_waiting > 0;
    if (begun && (given(args, OPTION_SYSTEM) || given(args, OPTION_TOOLS)))
        return options_wrong(args, "%s has begun: --system and --tools are for a new session",
                             name);
    tarn_committed committed = {.size = sizeof committed};
    if (!open_feed_new(args, c->o.session, &err) ||
        sampling_set(args, c->o.session, &err) != TARN_OK ||
        tarn_session_commit(c->o.session, &committed, &err) != TARN_OK)
        return result_error(args, &err);
    if (line_is_terminal(c->lines)) {
        print_at(stderr, &committed.at);
        fprintf(stderr, ": %s; /help\n", begun ? "resumed" : "new");
    }
    name_prompt(c);
    return 0;
}

int verb_chat(const arguments *args)
{
    chat c = {.args = args};
    if (given(args, OPTION_JSON))
        return options_wrong(args, "chat is for people: use append and generate");
    if (given(args, OPTION_SYSTEM) && !args->options[OPTION_SYSTEM].text)
        return options_wrong(args, "--system needs a text");
    c.lines = line_open();
    if (!c.lines) {
        tarn_error err = {0};
        input_fail(&err, ENOMEM, "chat");
        return result_error(args, &err);
    }
    int code = open_chat(&c);
    if (code == 0) {
        talk(&c);
        code = result_flush();
    }
    open_close(&c.o);
    line_close(c.lines);
    return code;
}
