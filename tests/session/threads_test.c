/* Engines used from several threads, in the ways tarn.h allows: each engine and store by one thread
 * at a time, models and cancelling by any. What is computed is what one thread alone computes. The
 * thread sanitizer runs this (tests/run.sh). */
#include "check.h"
#include "fixture.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 3, TURNS = 6, PIECE = 20, SAID = 5, TOKENS = TURNS * PIECE };

/* ---- what is done ---------------------------------------------------------------------------- */

/* A session that reads and speaks in turns, and is committed behind each of them. */
typedef struct talk {
    tarn_session *s;
    uint32_t ids[TOKENS];
    uint32_t said[TURNS * SAID];
    size_t n_said;
    tarn_ticket ticket;
} talk;

static void hear_ids(void *user, const tarn_event *event)
{
    talk *t = user;
    if (event->kind == TARN_EVENT_TOKEN && event->session == t->s && t->n_said < TURNS * SAID)
        t->said[t->n_said++] = event->id;
}

/* Returns what went wrong; `background`: the commit is begun, and waited for before the next. */
static tarn_status take_turn(talk *t, int turn, bool background, tarn_error *err)
{
    const tarn_generate_options o = {.size = sizeof o, .n_tokens_max = SAID};
    tarn_status status = tarn_session_append_tokens(t->s, t->ids + turn * PIECE, PIECE, err);
    if (status == TARN_OK)
        status = tarn_session_generate(t->s, &o, err);
    if (status == TARN_OK)
        status = tarn_session_run(t->s, hear_ids, t, err);
    if (status == TARN_OK && turn > 0 && background)
        status = tarn_session_wait(t->s, t->ticket, TARN_COMMIT_SYNCED, 0, NULL, err);
    if (status == TARN_OK)
        status = background ? tarn_session_commit_begin(t->s, &t->ticket, err)
                            : tarn_session_commit(t->s, NULL, err);
    return status;
}

static void begin_talk(rig *r, talk *t, const char *name, uint64_t seed)
{
    memset(t, 0, sizeof *t);
    rig_ids(r, seed, t->ids, TOKENS);
    t->s = rig_session(r, name, NULL);
    rig_never_stop(r, t->s);
}

/* The same once more by this thread alone. */
static void check_talk(rig *r, talk *done, uint64_t seed)
{
    talk again;
    char name[32];
    snprintf(name, sizeof name, "again-%d", (int)seed);
    begin_talk(r, &again, name, seed);
    for (int turn = 0; turn < TURNS; turn++)
        OK(take_turn(&again, turn, false, ERR));
    CHECK_EQ(done->n_said, TURNS * SAID);
    CHECK_EQ(again.n_said, TURNS * SAID);
    CHECK_IDS(done->said, again.said, TURNS * SAID);
    CHECK(rig_same_logits(done->s, again.s));
    tarn_session_close(again.s);
}

typedef struct worker {
    pthread_t thread;
    pthread_barrier_t *start;
    pthread_mutex_t *turn; /* of whoever uses the engine */
    rig r;
    talk t;
    tarn_status status;
    tarn_error err;
    atomic_bool *stop;
    uint64_t n;
} worker;

static void start(worker *w, void *(*run)(void *))
{
    REQUIRE(pthread_create(&w->thread, NULL, run, w) == 0);
}

/* ---- an engine and a store for each thread ----------------------------------------------------
 */

static void *talk_alone(void *user)
{
    worker *w = user;
    pthread_barrier_wait(w->start);
    for (int turn = 0; turn < TURNS && w->status == TARN_OK; turn++)
        w->status = take_turn(&w->t, turn, true, &w->err);
    if (w->status == TARN_OK)
        w->status = tarn_session_wait(w->t.s, w->t.ticket, TARN_COMMIT_SYNCED, 0, NULL, &w->err);
    return NULL;
}

CASE(engines_side_by_side)
{
    static worker w[THREADS];
    pthread_barrier_t at_once;
    pthread_barrier_init(&at_once, NULL, THREADS);
    for (uint64_t i = 0; i < THREADS; i++) {
        const tarn_engine_options o = {.n_threads = 2};
        w[i] = (worker){.start = &at_once};
        rig_open(&w[i].r, RIG_TINY, &o);
        begin_talk(&w[i].r, &w[i].t, "talk", i);
    }
    for (int i = 0; i < THREADS; i++)
        start(&w[i], talk_alone);
    for (uint64_t i = 0; i < THREADS; i++) {
        pthread_join(w[i].thread, NULL);
        if (w[i].status != TARN_OK)
            CHECK_FAIL("thread %d: %s", (int)i, w[i].err.detail);
        check_talk(&w[i].r, &w[i].t, i);
        tarn_session_close(w[i].t.s);
        CHECK_EQ(rig_verify(w[i].r.store), 0);
        rig_close(&w[i].r);
    }
    pthread_barrier_destroy(&at_once);
}

/* ---- one engine that goes from hand to hand ---------------------------------------------------
 */

static void *talk_in_turn(void *user)
{
    worker *w = user;
    pthread_barrier_wait(w->start);
    for (int turn = 0; turn < TURNS && w->status == TARN_OK; turn++) {
        pthread_mutex_lock(w->turn);
        w->status = take_turn(&w->t, turn, true, &w->err);
        pthread_mutex_unlock(w->turn);
    }
    return NULL;
}

CASE(one_engine_from_hand_to_hand)
{
    static worker w[THREADS];
    rig r;
    pthread_barrier_t at_once;
    pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
    const tarn_engine_options o = {.n_threads = 2};
    rig_open(&r, RIG_TINY, &o);
    pthread_barrier_init(&at_once, NULL, THREADS);
    for (uint64_t i = 0; i < THREADS; i++) {
        char name[32];
        snprintf(name, sizeof name, "talk-%d", (int)i);
        w[i] = (worker){.start = &at_once, .turn = &turn};
        begin_talk(&r, &w[i].t, name, i);
    }
    for (int i = 0; i < THREADS; i++)
        start(&w[i], talk_in_turn);
    for (int i = 0; i < THREADS; i++)
        pthread_join(w[i].thread, NULL);
    for (uint64_t i = 0; i < THREADS; i++) {
        if (w[i].status != TARN_OK)
            CHECK_FAIL("thread %d: %s", (int)i, w[i].err.detail);
        OK(tarn_session_wait(w[i].t.s, w[i].t.ticket, TARN_COMMIT_SYNCED, 0, NULL, ERR));
        check_talk(&r, &w[i].t, i);
        tarn_session_close(w[i].t.s);
    }
    CHECK_EQ(rig_verify(r.store), 0);
    pthread_barrier_destroy(&at_once);
    rig_close(&r);
}

/* ---- what any thread may do meanwhile ----------------------------------------------------------
 */

/* Texts to ids and back, with the model that is at work. */
static void *use_model(void *user)
{
    static const char text[] = "The log says: 3 of 40 tests failed.";
    worker *w = user;
    while (!atomic_load(w->stop) && w->status == TARN_OK) {
        tarn_ids ids;
        tarn_text back = {0};
        w->status = tarn_model_tokenize(w->r.model, text, sizeof text - 1, 0, &ids, &w->err);
        if (w->status != TARN_OK)
            break;
        w->status = tarn_model_detokenize(w->r.model, ids.ids, ids.n_ids, &back, &w->err);
        if (w->status == TARN_OK && strcmp(back.data, text) != 0)
            w->status = TARN_E_CORRUPT;
        tarn_text_free(&back);
        tarn_ids_free(&ids);
        w->n++;
    }
    return NULL;
}

static void *cancel_often(void *user)
{
    worker *w = user;
    while (!atomic_load(w->stop)) {
        tarn_session_cancel(w->t.s);
        w->n++;
        sched_yield();
    }
    return NULL;
}

CASE(models_and_cancelling_meanwhile)
{
    static worker reader, canceller;
    rig r;
    atomic_bool stop = false;
    const tarn_engine_options o = {.n_threads = 2};
    rig_open(&r, RIG_RECALL, &o);
    talk t, other;
    begin_talk(&r, &t, "talk", 7);
    begin_talk(&r, &other, "cancelled", 8);
    reader = (worker){.r = r, .stop = &stop};
    canceller = (worker){.t = other, .stop = &stop};
    start(&reader, use_model);
    start(&canceller, cancel_often);
    for (int turn = 0; turn < TURNS; turn++) {
        OK(tarn_session_append_tokens(other.s, other.ids, TOKENS, ERR));
        OK(take_turn(&t, turn, true, ERR));
    }
    atomic_store(&stop, true);
    pthread_join(reader.thread, NULL);
    pthread_join(canceller.thread, NULL);
    CHECK_STATUS(reader.status, TARN_OK);
    CHECK(reader.n > 0 && canceller.n > 0);
    OK(tarn_session_wait(t.s, t.ticket, TARN_COMMIT_SYNCED, 0, NULL, ERR));
    rig_drain(&r);
    rig_commit(other.s);
    check_talk(&r, &t, 7);
    tarn_session_close(other.s);
    tarn_session_close(t.s);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(engines_side_by_side), ENTRY(one_engine_from_hand_to_hand),
           ENTRY(models_and_cancelling_meanwhile))
