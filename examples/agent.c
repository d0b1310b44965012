/* agent.c - the loop of an agent: the model calls a tool, a process runs it, its output goes back.
 *
 *     agent MODEL STORE FACTS QUESTION
 *
 * The tool is lookup({"key": WORD}): grep WORD FACTS, whose output streams in while it runs. */
#include <tarn.h>

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TURNS_MAX = 8, CALLS_MAX = 8 };
static tarn_error err;

typedef struct turn { /* of the model */
    tarn_stop stop;
    size_t n_calls;
    struct call {
        char id[128], key[64]; /* key "": no such tool, or wrong arguments */
    } calls[CALLS_MAX];
} turn;

static void take_event(void *user, const tarn_event *event)
{
    turn *t = user;
    if (event->kind == TARN_EVENT_TEXT && !event->in_calls)
        fwrite(event->text, 1, event->text_bytes, stdout);
    if (event->kind == TARN_EVENT_STOP)
        t->stop = event->stop;
    if (event->kind != TARN_EVENT_CALL_END || t->n_calls == CALLS_MAX)
        return; /* the calls are gone with the next use of the session: copies stay */
    char arguments[1024];
    struct call *call = &t->calls[t->n_calls++];
    snprintf(arguments, sizeof arguments, "%.*s", (int)event->text_bytes, event->text);
    snprintf(call->id, sizeof call->id, "%s", event->call_id);
    const char *key = strstr(arguments, "\"key\""); /* a real agent has a JSON parser */
    if (strcmp(event->call_name, "lookup") != 0 || !key ||
        sscanf(key + 5, " : \"%63[A-Za-z0-9_-]\"", call->key) != 1)
        call->key[0] = '\0';
    fprintf(stderr, "%s %s\n", event->call_name, arguments);
}

/* Starts grep; returns where its output comes, or -1. */
static int start_tool(const char *key, const char *facts, pid_t *child)
{
    int ends[2];
    if (pipe(ends) != 0)
        return -1;
    *child = fork();
    if (*child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        execlp("grep", "grep", "-F", "-e", key, facts, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    return ends[0];
}

static bool answer_call(tarn_session *s, const struct call *call, const char *facts)
{
    char piece[512];
    pid_t child;
    tarn_message m = {.size = sizeof m, .role = TARN_ROLE_TOOL, .call_id = call->id};
    int output = call->key[0] ? start_tool(call->key, facts, &child) : -1;
    if (output < 0)
        m.text_bytes = strlen(m.text = "error: no such tool, or wrong arguments");
    bool ok = tarn_session_append_begin(s, &m, &err) == TARN_OK;
    for (ssize_t n; ok && output >= 0 && (n = read(output, piece, sizeof piece)) > 0;)
        ok = tarn_session_append_bytes(s, piece, (size_t)n, NULL, &err) == TARN_OK &&
             tarn_session_run(s, NULL, NULL, &err) == TARN_OK;
    if (output >= 0) {
        close(output);
        waitpid(child, NULL, 0);
    }
    return ok && tarn_session_append_end(s, NULL, &err) == TARN_OK;
}

static bool work(tarn_session *s, const char *facts, tarn_message *question)
{
    question->text_bytes = strlen(question->text);
    turn t = {.stop = TARN_STOP_TOOL_CALL};
    bool ok = tarn_session_append_message(s, question, NULL, &err) == TARN_OK;
    for (int i = 0; ok && i < TURNS_MAX && t.stop == TARN_STOP_TOOL_CALL; i++) {
        t = (turn){0};
        ok = tarn_session_generate(s, NULL, &err) == TARN_OK &&
             tarn_session_run(s, take_event, &t, &err) == TARN_OK &&
             tarn_session_commit(s, NULL, &err) == TARN_OK;
        for (size_t k = 0; ok && k < t.n_calls; k++)
            ok = answer_call(s, &t.calls[k], facts);
    }
    printf("\n");
    return ok;
}

int main(int argc, char **argv)
{
    tarn_model *model = NULL;
    tarn_engine *engine = NULL;
    tarn_store *store = NULL;
    tarn_session *s = NULL;
    if (argc != 5)
        return fprintf(stderr, "usage: agent MODEL STORE FACTS QUESTION\n"), 2;
    tarn_store_options so = {.size = sizeof so, .flags = TARN_STORE_CREATE};
    tarn_session_options o = {.size = sizeof o, .flags = TARN_SESSION_CREATE};
    tarn_message q = {.size = sizeof q, .role = TARN_ROLE_USER, .text = argv[4]};
    bool ok = tarn_model_open(argv[1], NULL, &model, &err) == TARN_OK &&
              tarn_engine_open(model, NULL, &engine, &err) == TARN_OK &&
              tarn_store_open(argv[2], &so, &store, &err) == TARN_OK &&
              tarn_session_open(engine, store, "agent", &o, &s, NULL, &err) == TARN_OK &&
              work(s, argv[3], &q);
    fprintf(stderr, "%s", ok ? "" : err.detail);
    tarn_session_close(s);
    tarn_store_close(store);
    tarn_engine_close(engine);
    tarn_model_close(model);
    return ok ? 0 : 1;
}
