/* Cancelling at any moment, and a session that fails beside others that do not. */
#include "check.h"
#include "fixture.h"

#include <pthread.h>
#include <unistd.h>

enum { N = 300 };

/* F1: after `n_steps` steps of a generation or of an append the session is at the last token fed,
 * and what is appended then gives what it would have given had nobody cancelled. */
static void cancel_after(rig *r, const uint32_t *ids, uint32_t n_steps, bool generating)
{
    uint32_t more[20];
    rig_trace a, b;
    tarn_event event;
    rig_told told = {0};
    rig_ids(r, 71, more, 20);
    tarn_session *s = rig_session(r, "a", NULL);
    uint64_t before = generating ? 40 : 0;
    if (generating) {
        rig_never_stop(r, s);
        rig_feed(s, ids, 40);
        OK(tarn_session_generate(s, NULL, ERR));
    } else {
        OK(tarn_session_append_tokens(s, ids, N, ERR));
    }
    for (uint32_t i = 0; i < n_steps; i++)
        OK(tarn_engine_step(r->engine, NULL, ERR));
    tarn_session_cancel(s);
    tarn_session_cancel(s); /* twice is once */
    rig_drain(r);
    tarn_session_info info = rig_info(s);
    CHECK_EQ(info.state, TARN_SESSION_IDLE);
    CHECK_EQ(info.tokens_waiting, 0);
    CHECK_EQ(info.at.position, before + (generating ? n_steps : 32 * n_steps));
    CHECK_EQ(info.has_logits, info.at.position > 0);
    while (tarn_engine_poll(r->engine, &event))
        rig_hear(&told, &event);
    rig_trace_begin(&a, s);
    rig_feed(s, more, 20);
    rig_commit(s);
    tarn_ids fed; /* the never-cancelled run: just these ids */
    OK(tarn_store_tokens(r->store, "a", NULL, &fed, ERR));
    CHECK_EQ(fed.n_ids, info.at.position + 20);
    CHECK_IDS(fed.ids + info.at.position, more, 20);
    tarn_session *cold = rig_loose(r, "cold");
    rig_trace_begin(&b, cold);
    rig_feed(cold, fed.ids, fed.n_ids);
    CHECK(rig_same_rows(&a, &b, info.at.position + 1, info.at.position + 21));
    tarn_session_close(s);
    s = rig_session(r, "a", NULL);
    CHECK(rig_same_logits(s, cold));
    tarn_ids_free(&fed);
    rig_trace_free(&a);
    rig_trace_free(&b);
    tarn_session_close(s);
    tarn_session_close(cold);
    OK(tarn_store_remove(r->store, "a", ERR));
}

/* Cancelled right on a kept state: that node becomes the head, and nothing is written twice. */
CASE(cancel_on_a_kept_state)
{
    rig r;
    uint32_t ids[100];
    tarn_reuse reuse;
    tarn_node_list log;
    rig_open(&r, RIG_TINY,
             &(tarn_engine_options){.n_threads = 1, .step_tokens_max = 40, .keep_every = 32});
    rig_ids(&r, 76, ids, 100);
    tarn_session *s = rig_session(&r, "a", NULL);
    OK(tarn_session_append_tokens(s, ids, 100, ERR));
    OK(tarn_engine_step(r.engine, NULL, ERR)); /* 32: no step crosses a border */
    tarn_session_cancel(s);
    rig_drain(&r);
    CHECK_EQ(rig_info(s).at.position, 32);
    CHECK(!rig_info(s).committed);
    rig_commit(s);
    CHECK(rig_info(s).committed);
    tarn_session_close(s);
    s = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.tokens_reused, 32);
    OK(tarn_session_append_tokens(s, ids, 70, ERR));
    OK(tarn_engine_step(r.engine, NULL, ERR));
    tarn_session_cancel(s); /* in the middle of a segment: what follows is another one */
    rig_drain(&r);
    rig_feed(s, ids, 5);
    rig_commit(s);
    OK(tarn_store_log(r.store, "a", NULL, &log, ERR));
    const tarn_node_entry *last = &log.entries[log.n_entries - 1];
    CHECK_EQ(last->position, 69);
    CHECK_EQ(last->n_segments, 1);
    CHECK(!last->segments[0].continues);
    CHECK_EQ(last->segments[0].n_tokens, 5);
    tarn_node_list_free(&log);
    tarn_session_close(s);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

static void f1(rig_kind kind)
{
    rig r;
    uint32_t ids[N];
    rig_open(&r, kind,
             &(tarn_engine_options){.n_threads = 1, .step_tokens_max = 32, .keep_every = 64});
    rig_ids(&r, 70, ids, N);
    for (uint32_t k = 0; k <= 10; k++)
        cancel_after(&r, ids, k, true);
    for (uint32_t k = 0; k <= 8; k++)
        cancel_after(&r, ids, k, false);
    CHECK_EQ(rig_stat(&r).pages, 0);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CASE(cancel_at_any_step_tiny) /* F1 */
{
    f1(RIG_TINY);
}

CASE(cancel_at_any_step_recall) /* F1 */
{
    RIG_SKIP_REDUCED();
    f1(RIG_RECALL);
}

CASE(cancel_events)
{
    rig r;
    uint32_t ids[50];
    static rig_told told;
    tarn_event event;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 72, ids, 50);
    tarn_session *s = rig_loose(&r, "a");
    OK(tarn_session_append_tokens(s, ids, 50, ERR));
    OK(tarn_session_generate(s, NULL, ERR));
    for (size_t i = 0; i < 3; i++)
        OK(tarn_engine_step(r.engine, NULL, ERR));
    tarn_session_cancel(s);
    OK(tarn_engine_step(r.engine, NULL, ERR));
    while (tarn_engine_poll(r.engine, &event))
        rig_hear(&told, &event);
    CHECK_EQ(told.n_appended, 50);
    CHECK_EQ(told.n_ids, 2);
    CHECK_EQ(told.n_stops, 1);
    CHECK_EQ(told.stop, TARN_STOP_CANCELLED);
    CHECK_EQ(rig_info(s).at.position, 52);
    CHECK(rig_info(s).turn_open);
    tarn_session_close(s);
    rig_close(&r);
}

/* F2: a cancel that finds nothing to cancel does not lie in wait for what comes later. */
static void f2_before(rig_kind kind)
{
    rig r;
    uint32_t ids[100];
    static rig_told told;
    tarn_reuse reuse;
    rig_open(&r, kind, NULL);
    rig_ids(&r, 73, ids, 100);
    tarn_session *s = rig_session(&r, "a", NULL);
    tarn_session_cancel(s);
    tarn_session_cancel(s);
    rig_never_stop(&r, s);
    rig_feed(s, ids, 60);
    CHECK_EQ(rig_info(s).at.position, 60);
    tarn_session_cancel(s);
    rig_answer(s, 5, &told);
    CHECK_EQ(told.n_ids, 5);
    CHECK_EQ(told.stop, TARN_STOP_LENGTH);
    rig_commit(s);
    OK(tarn_session_rewind(s, "@t:30", &reuse, ERR));
    CHECK_EQ(reuse.tokens_replayed, 30);
    tarn_session_cancel(s); /* a replay is not given up */
    rig_drain(&r);
    CHECK_EQ(rig_info(s).at.position, 30);
    tarn_session_cancel(s);
    OK(tarn_session_rewind(s, "@t:20", &reuse, ERR));
    rig_feed(s, ids + 20, 80);
    CHECK_EQ(rig_info(s).at.position, 100);
    tarn_session *cold = rig_loose(&r, "cold");
    rig_feed(cold, ids, 100);
    CHECK(rig_same_logits(s, cold));
    tarn_session_close(s);
    tarn_session_close(cold);
    rig_close(&r);
}

CASE(cancel_before_any_work_tiny) /* F2 */
{
    f2_before(RIG_TINY);
}

CASE(cancel_before_any_work_recall) /* F2 */
{
    RIG_SKIP_REDUCED();
    f2_before(RIG_RECALL);
}

typedef struct canceller {
    tarn_session *session;
    _Atomic bool done;
} canceller;

/* Again and again: before there is anything to cancel it does nothing. */
static void *cancel_soon(void *arg)
{
    canceller *c = arg;
    while (!c->done) {
        usleep(3000);
        tarn_session_cancel(c->session);
    }
    return NULL;
}

static void f2_thread(rig_kind kind)
{
    rig r;
    uint32_t ids[50];
    static rig_told told;
    pthread_t thread;
    rig_open(&r, kind, &(tarn_engine_options){.n_threads = 2});
    rig_ids(&r, 74, ids, 50);
    tarn_session *s = rig_loose(&r, "a");
    rig_feed(s, ids, 50);
    rig_never_stop(&r, s);
    canceller c = {s, false};
    REQUIRE(pthread_create(&thread, NULL, cancel_soon, &c) == 0);
    rig_answer(s, 0, &told);
    c.done = true;
    pthread_join(thread, NULL);
    CHECK_EQ(told.stop, TARN_STOP_CANCELLED);
    CHECK_EQ(told.n_stops, 1);
    CHECK_EQ(rig_info(s).state, TARN_SESSION_IDLE);
    tarn_session_close(s);
    rig_close(&r);
}

CASE(cancel_from_another_thread_tiny) /* F2 */
{
    f2_thread(RIG_TINY);
}

CASE(cancel_from_another_thread_recall) /* F2 */
{
    RIG_SKIP_REDUCED();
    f2_thread(RIG_RECALL);
}

/* ---- F6: one session's numbers break ---- */

/* Makes the embedding row of an id NaN. */
static void poison_row(const rig *r, uint32_t id)
{
    char path[192];
    size_t n_bytes;
    unsigned long long begin = 0, end = 0, header = 0;
    snprintf(path, sizeof path, "%s/model.safetensors", r->model_dir);
    char *data = rig_read_file(path, &n_bytes);
    memcpy(&header, data, 8);
    char *entry = strstr(data + 8, "\"model.embed_tokens.weight\"");
    char *offsets = entry ? strstr(entry, "\"data_offsets\":[") : NULL;
    if (!offsets || sscanf(offsets + 16, "%llu,%llu", &begin, &end) != 2) {
        printf("no embedding in %s\n", path);
        exit(1);
    }
    size_t row_bytes = (size_t)(end - begin) / r->vocab;
    for (size_t i = 0; i < row_bytes; i += 2)
        memcpy(data + 8 + header + begin + id * row_bytes + i, "\xC0\x7F", 2);
    rig_write_file(path, data, n_bytes);
    free(data);
}

static void no_tensor(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                      const float *data)
{
    (void)user, (void)dims, (void)n_dims, (void)data;
    CHECK_FAIL("%s of a session that failed", name);
}

static void f6(rig_kind kind)
{
    enum { BAD = 99 };
    rig r;
    uint32_t ids[100];
    tarn_reuse reuse;
    tarn_error failure;
    rig_open(&r, kind, NULL);
    rig_ids(&r, 75, ids, 100);
    for (size_t i = 0; i < 100; i++)
        ids[i] = ids[i] == BAD ? 98 : ids[i];
    rig_leave(&r);
    if (kind == RIG_RECALL) {
        char copy[sizeof r.model_dir];
        snprintf(copy, sizeof copy, "%s/poisoned", r.dir);
        rig_copy_folder(r.model_dir, copy);
        memcpy(r.model_dir, copy, sizeof copy);
    }
    poison_row(&r, BAD);
    rig_restart(&r, NULL);
    tarn_session *s = rig_session(&r, "s", NULL), *good = rig_loose(&r, "good");
    tarn_session *cold = rig_loose(&r, "cold");
    rig_feed(cold, ids, 100);
    rig_feed(s, ids, 50);
    rig_commit(s);
    uint32_t bad_ids[] = {ids[50], BAD, ids[51]};
    OK(tarn_session_append_tokens(s, bad_ids, 3, ERR));
    OK(tarn_session_append_tokens(good, ids, 100, ERR));
    rig_told told = {0};
    CHECK_STATUS(tarn_session_run(s, rig_hear, &told, ERR), TARN_E_DEVICE);
    CHECK_HAS(rig_error.detail, "not finite");
    CHECK_EQ(told.stop, TARN_STOP_FAILED);
    CHECK_EQ(rig_info(s).state, TARN_SESSION_POISONED);
    tarn_session_failure(s, &failure);
    CHECK_EQ(failure.status, TARN_E_DEVICE);
    rig_drain(&r);
    CHECK(rig_same_logits(good, cold)); /* in the same batch, and unharmed */
    const float *logits;
    tarn_session *child;
    tarn_ticket ticket;
    tarn_sampling sampling = {.size = sizeof sampling, .top_p = 1, .repeat_penalty = 1};
    CHECK_STATUS(tarn_session_append_tokens(s, ids, 1, ERR), TARN_E_POISONED);
    CHECK_STATUS(tarn_session_generate(s, NULL, ERR), TARN_E_POISONED);
    CHECK_STATUS(tarn_session_commit(s, NULL, ERR), TARN_E_POISONED);
    CHECK_STATUS(tarn_session_fork(s, "t", &child, ERR), TARN_E_POISONED);
    CHECK_STATUS(tarn_session_rewind(s, "@t:10", &reuse, ERR), TARN_E_POISONED);
    CHECK_STATUS(tarn_session_logits(s, &logits, NULL, ERR), TARN_E_POISONED);
    CHECK_STATUS(tarn_session_tensors(s, no_tensor, NULL, ERR), TARN_E_POISONED);
    CHECK_STATUS(tarn_session_append_begin(s, &(tarn_message){.size = sizeof(tarn_message)}, ERR),
                 TARN_E_POISONED);
    CHECK_STATUS(tarn_session_append_bytes(s, "x", 1, NULL, ERR), TARN_E_POISONED);
    CHECK_STATUS(tarn_session_append_end(s, NULL, ERR), TARN_E_POISONED);
    CHECK_STATUS(tarn_session_commit_begin(s, &ticket, ERR), TARN_E_POISONED);
    CHECK_STATUS(tarn_session_park(s, ERR), TARN_E_POISONED);
    OK(tarn_session_set_sampling(s, &sampling, ERR));
    CHECK_STATUS(tarn_session_run(s, NULL, NULL, ERR), TARN_E_DEVICE); /* says it again */
    OK(tarn_session_reset(s, &reuse, ERR));
    CHECK_EQ(reuse.tokens_reused, 50);
    CHECK_EQ(rig_info(s).state, TARN_SESSION_IDLE);
    tarn_session_failure(s, &failure);
    CHECK_EQ(failure.status, TARN_OK);
    rig_feed(s, ids + 50, 50);
    CHECK(rig_same_logits(s, cold));
    uint32_t bad = BAD;
    OK(tarn_session_append_tokens(good, &bad, 1, ERR));
    CHECK_STATUS(tarn_session_run(good, NULL, NULL, ERR), TARN_E_DEVICE);
    OK(tarn_session_reset(good, NULL, ERR)); /* without a store: empty again */
    CHECK_EQ(rig_info(good).at.position, 0);
    rig_feed(good, ids, 100);
    CHECK(rig_same_logits(good, cold));
    tarn_session_close(s);
    tarn_session_close(good);
    tarn_session_close(cold);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CASE(a_session_of_nans_fails_alone_tiny) /* F6 */
{
    f6(RIG_TINY);
}

CASE(a_session_of_nans_fails_alone_recall) /* F6 */
{
    RIG_SKIP_REDUCED();
    f6(RIG_RECALL);
}

CHECK_MAIN(ENTRY(cancel_at_any_step_tiny), ENTRY(cancel_at_any_step_recall), ENTRY(cancel_events),
           ENTRY(cancel_on_a_kept_state), ENTRY(cancel_before_any_work_tiny),
           ENTRY(cancel_before_any_work_recall), ENTRY(cancel_from_another_thread_tiny),
           ENTRY(cancel_from_another_thread_recall), ENTRY(a_session_of_nans_fails_alone_tiny),
           ENTRY(a_session_of_nans_fails_alone_recall))
