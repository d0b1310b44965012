/* fork.c - best of n: n branches of one session answer the same question, all in the same steps;
 * the answer most of them give is kept, and the other branches go.
 *
 *     fork MODEL STORE N TEXT QUESTION */
#include <tarn.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_MAX = 16, TEXT_MAX = 400 };
static tarn_error err;

typedef struct branch {
    tarn_session *session;
    char name[32], text[TEXT_MAX];
    size_t n_text;
} branch;

static void collect(void *user, const tarn_event *event)
{
    branch *branches = user;
    if (event->kind != TARN_EVENT_TEXT)
        return;
    for (int i = 0; i < N_MAX; i++) {
        branch *b = &branches[i];
        if (b->session == event->session && b->n_text + event->text_bytes < TEXT_MAX) {
            memcpy(b->text + b->n_text, event->text, event->text_bytes);
            b->n_text += event->text_bytes;
        }
    }
}

static bool say(tarn_session *s, tarn_role role, const char *text)
{
    tarn_message m = {.size = sizeof m, .role = role, .text = text, .text_bytes = strlen(text)};
    m.call_id = role == TARN_ROLE_TOOL ? "functions.read:0" : NULL;
    return tarn_session_append_message(s, &m, NULL, &err) == TARN_OK;
}

/* A branch of its own randomness, asked to answer. */
static bool start(tarn_session *s, branch *b, int i)
{
    tarn_sampling sampling = {
        .size = sizeof sampling, .temperature = 0.7f, .top_p = 0.9f, .seed = (uint64_t)i + 1};
    tarn_generate_options at_most = {.size = sizeof at_most, .n_tokens_max = 60};
    snprintf(b->name, sizeof b->name, "try-%d", i);
    return tarn_session_fork(s, b->name, &b->session, &err) == TARN_OK &&
           tarn_session_set_sampling(b->session, &sampling, &err) == TARN_OK &&
           tarn_session_generate(b->session, &at_most, &err) == TARN_OK;
}

static int choose(const branch *branches, int n)
{
    int best = 0, best_votes = 0;
    for (int i = 0; i < n; i++) {
        int votes = 0;
        for (int k = 0; k < n; k++)
            votes += strcmp(branches[i].text, branches[k].text) == 0;
        if (votes > best_votes) {
            best = i;
            best_votes = votes;
        }
    }
    fprintf(stderr, "%d of %d agree\n", best_votes, n);
    return best;
}

static bool best_of(tarn_session *s, tarn_store *store, int n)
{
    static branch branches[N_MAX];
    bool ok = true;
    for (int i = 0; ok && i < n; i++)
        ok = start(s, &branches[i], i);
    for (int i = 0; ok && i < n; i++) /* the first run computes for all */
        ok = tarn_session_run(branches[i].session, collect, branches, &err) == TARN_OK;
    int best = ok ? choose(branches, n) : 0;
    ok = ok && tarn_session_commit(branches[best].session, NULL, &err) == TARN_OK;
    for (int i = 0; i < n; i++) {
        tarn_session_close(branches[i].session);
        if (ok && i != best)
            ok = tarn_store_remove(store, branches[i].name, &err) == TARN_OK;
    }
    ok = ok && tarn_store_rename(store, branches[best].name, "best", &err) == TARN_OK;
    if (ok)
        printf("%s\n", branches[best].text);
    return ok;
}

int main(int argc, char **argv)
{
    tarn_model *model = NULL;
    tarn_engine *engine = NULL;
    tarn_store *store = NULL;
    tarn_session *s = NULL;
    int n = argc == 6 ? atoi(argv[3]) : 0;
    if (n < 1 || n > N_MAX)
        return fprintf(stderr, "usage: fork MODEL STORE N TEXT QUESTION (N up to 16)\n"), 2;
    tarn_store_options so = {.size = sizeof so, .flags = TARN_STORE_CREATE};
    tarn_session_options o = {.size = sizeof o, .flags = TARN_SESSION_CREATE};
    bool ok = tarn_model_open(argv[1], NULL, &model, &err) == TARN_OK &&
              tarn_engine_open(model, NULL, &engine, &err) == TARN_OK &&
              tarn_store_open(argv[2], &so, &store, &err) == TARN_OK &&
              tarn_session_open(engine, store, "question", &o, &s, NULL, &err) == TARN_OK &&
              say(s, TARN_ROLE_TOOL, argv[4]) && say(s, TARN_ROLE_USER, argv[5]) &&
              tarn_session_run(s, NULL, NULL, &err) == TARN_OK &&
              tarn_session_commit(s, NULL, &err) == TARN_OK && best_of(s, store, n);
    if (!ok)
        fprintf(stderr, "fork: %s\n", err.detail);
    tarn_session_close(s);
    tarn_store_close(store);
    tarn_engine_close(engine);
    tarn_model_close(model);
    return ok ? 0 : 1;
}
