/* many.c - 64 sessions on an engine that has room for 10.
 *
 *     many MODEL STORE
 *
 * Each is told a number of its own and asked for it later. Whoever was not used for longest is
 * committed and closed when another needs its place; opened again it reads its state and computes
 * nothing. All begin alike, and that beginning is computed once. */
#include <tarn.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AGENTS = 64, ROOM = 10 };
static tarn_error err;

typedef struct agent {
    tarn_session *session; /* NULL: not open */
    unsigned used;         /* when */
    char answer[256];
    size_t n_answer;
} agent;

static agent agents[AGENTS];
static unsigned now, n_open, n_open_max;
static unsigned long long n_reused, n_replayed;

static bool make_room(void)
{
    agent *oldest = NULL;
    for (int i = 0; i < AGENTS; i++)
        if (agents[i].session && (!oldest || agents[i].used < oldest->used))
            oldest = &agents[i];
    if (tarn_session_commit(oldest->session, NULL, &err) != TARN_OK)
        return false;
    tarn_session_close(oldest->session);
    oldest->session = NULL;
    n_open--;
    return true;
}

static bool use(tarn_engine *engine, tarn_store *store, int i)
{
    char name[16];
    tarn_reuse reuse;
    tarn_session_options o = {.size = sizeof o, .flags = TARN_SESSION_CREATE};
    agents[i].used = ++now;
    if (agents[i].session)
        return true;
    snprintf(name, sizeof name, "agent-%d", i);
    if ((n_open == ROOM && !make_room()) ||
        tarn_session_open(engine, store, name, &o, &agents[i].session, &reuse, &err) != TARN_OK)
        return false;
    n_open_max = ++n_open > n_open_max ? n_open : n_open_max;
    n_reused += reuse.tokens_reused;
    n_replayed += reuse.tokens_replayed;
    return true;
}

static bool say(tarn_session *s, tarn_role role, const char *text)
{
    tarn_message m = {.size = sizeof m, .role = role, .text = text, .text_bytes = strlen(text)};
    return tarn_session_append_message(s, &m, NULL, &err) == TARN_OK;
}

static void collect(void *user, const tarn_event *event)
{
    agent *a = user;
    if (event->kind == TARN_EVENT_TEXT && a->n_answer + event->text_bytes < sizeof a->answer) {
        memcpy(a->answer + a->n_answer, event->text, event->text_bytes);
        a->n_answer += event->text_bytes;
    }
}

static bool tell_and_ask(tarn_engine *engine, tarn_store *store)
{
    char text[64];
    bool ok = true;
    for (int i = 0; ok && i < AGENTS; i++) {
        snprintf(text, sizeof text, "Remember: billing listens on port %d.", 4000 + 37 * i);
        ok = use(engine, store, i) &&
             say(agents[i].session, TARN_ROLE_SYSTEM, "You are a deploy agent.") &&
             say(agents[i].session, TARN_ROLE_USER, text) &&
             say(agents[i].session, TARN_ROLE_ASSISTANT, "Noted.") &&
             tarn_session_run(agents[i].session, NULL, NULL, &err) == TARN_OK;
    }
    for (int i = 0; ok && i < AGENTS; i++)
        ok = use(engine, store, i) &&
             say(agents[i].session, TARN_ROLE_USER, "Which port does billing use?") &&
             tarn_session_generate(agents[i].session, NULL, &err) == TARN_OK &&
             tarn_session_run(agents[i].session, collect, &agents[i], &err) == TARN_OK;
    while (ok && n_open > 0)
        ok = make_room();
    return ok;
}

int main(int argc, char **argv)
{
    tarn_model *model = NULL;
    tarn_engine *engine = NULL;
    tarn_store *store = NULL;
    if (argc != 3)
        return fprintf(stderr, "usage: many MODEL STORE\n"), 2;
    tarn_engine_options eo = {.size = sizeof eo, .sessions_max = ROOM};
    tarn_store_options so = {.size = sizeof so, .flags = TARN_STORE_CREATE};
    bool ok = tarn_model_open(argv[1], NULL, &model, &err) == TARN_OK &&
              tarn_engine_open(model, &eo, &engine, &err) == TARN_OK &&
              tarn_store_open(argv[2], &so, &store, &err) == TARN_OK && tell_and_ask(engine, store);
    for (int i = 0; i < AGENTS; tarn_session_close(agents[i++].session))
        printf("%d: %s\n", i, agents[i].answer);
    fprintf(stderr, "at most %u open; %llu tokens reused, %llu replayed%s%s\n", n_open_max,
            n_reused, n_replayed, ok ? "" : "; ", ok ? "" : err.detail);
    tarn_store_close(store);
    tarn_engine_close(engine);
    tarn_model_close(model);
    return ok ? 0 : 1;
}
