/* Commits in the background: what they hold, what they tell, and that nobody notices otherwise. */
#include "check.h"
#include "fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { PROMPT = 90, SAID = 150, EVERY = 7 };

/* ---- an allocator that dawdles ---- */

static _Atomic uint32_t dawdles;

/* The encoder, the writer and the steps meet one another in ever other places. */
static void dawdle(void)
{
    uint32_t x = atomic_fetch_add(&dawdles, 0x9E3779B9u);
    x = (x ^ x >> 15) * 0x2C1B3C6Du;
    struct timespec pause = {0, (long)(x >> 22)}; /* up to 1 us */
    if (x & 64)
        nanosleep(&pause, NULL);
}

static void *slow_alloc(void *user, size_t n_bytes)
{
    (void)user;
    dawdle();
    return malloc(n_bytes);
}

static void *slow_resize(void *user, void *memory, size_t n_bytes)
{
    (void)user;
    dawdle();
    return realloc(memory, n_bytes);
}

static void slow_release(void *user, void *memory)
{
    (void)user;
    dawdle();
    free(memory);
}

static const tarn_allocator slow = {slow_alloc, slow_resize, slow_release, NULL};

/* ---- F4 ---- */

/* Every node a store has for a session holds what a cold run has at its position. */
static size_t check_nodes(rig *r, const char *name, const rig_trace *rows)
{
    tarn_node_list log;
    size_t n = 0;
    OK(tarn_store_log(r->store, name, NULL, &log, ERR));
    for (size_t i = 0; i < log.n_entries; i++) {
        tarn_session *look;
        tarn_reuse reuse;
        char where[32];
        snprintf(where, sizeof where, "@n:%" PRIu64, log.entries[i].node);
        tarn_session_options o = {
            .size = sizeof o, .flags = TARN_SESSION_READ_ONLY, .where = where};
        if (log.entries[i].position == 0)
            continue;
        CHECK(log.entries[i].has_state);
        OK(tarn_session_open(r->engine, r->store, name, &o, &look, &reuse, ERR));
        CHECK_EQ(reuse.tokens_replayed, 0);
        CHECK(rig_logits_are(look, rows, log.entries[i].position));
        tarn_session_close(look);
        n++;
    }
    tarn_node_list_free(&log);
    return n;
}

/* Two sessions talk, step by step; one of them is committed all the time. */
static void goes_on(rig_kind kind)
{
    rig r;
    uint32_t ids[PROMPT];
    rig_trace rows, cold_rows;
    tarn_ticket ticket = 0;
    static rig_told told;
    size_t n_begun = 0;
    rig_open(&r, kind,
             &(tarn_engine_options){.n_threads = 2, .keep_every = 64, .allocator = &slow});
    rig_ids(&r, 1, ids, PROMPT);
    tarn_session *s = rig_session(&r, "a", NULL), *other = rig_loose(&r, "other");
    rig_feed(other, ids, PROMPT);
    rig_trace_begin(&rows, s);
    rig_never_stop(&r, s);
    rig_never_stop(&r, other);
    rig_feed(s, ids, PROMPT);
    tarn_generate_options o = {.size = sizeof o, .n_tokens_max = SAID};
    OK(tarn_session_generate(s, &o, ERR));
    OK(tarn_session_generate(other, &o, ERR));
    memset(&told, 0, sizeof told);
    for (uint32_t i = 0; i < SAID; i++) {
        tarn_event event;
        if (i % EVERY == 0) {
            OK(tarn_session_commit_begin(s, &ticket, ERR));
            CHECK_EQ(ticket, ++n_begun);
        }
        OK(tarn_engine_step(r.engine, NULL, ERR));
        while (tarn_engine_poll(r.engine, &event))
            if (event.session == s)
                rig_hear(&told, &event);
        dawdle();
    }
    tarn_committed committed = {.size = sizeof committed};
    OK(tarn_session_wait(s, ticket, TARN_COMMIT_WRITTEN, 0, &committed, ERR));
    CHECK_EQ(committed.at.position, PROMPT + (n_begun - 1) * EVERY);
    CHECK_EQ(rig_info(s).at.position, PROMPT + SAID);
    for (tarn_event event; tarn_engine_poll(r.engine, &event);)
        if (event.session == s)
            rig_hear(&told, &event);
    CHECK_EQ(told.n_ids, SAID);
    CHECK_EQ(told.n_committed, n_begun);
    CHECK_EQ(told.committed.node, committed.at.node);
    CHECK_EQ(told.committed.ticket, ticket);
    CHECK_EQ(told.committed.level, TARN_COMMIT_SYNCED);
    CHECK_EQ(told.committed.status, TARN_OK);
    CHECK(rig_same_logits(s, other));
    CHECK_EQ(rig_commit(s).at.position, PROMPT + SAID);
    CHECK_EQ(rig_stat(&r).commits, 0);
    tarn_session_close(s);
    s = rig_session(&r, "a", NULL);
    CHECK(rig_same_logits(s, other));
    tarn_ids fed;
    OK(tarn_store_tokens(r.store, "a", NULL, &fed, ERR));
    tarn_session *cold = rig_loose(&r, "cold");
    rig_trace_begin(&cold_rows, cold);
    rig_feed(cold, fed.ids, fed.n_ids);
    CHECK(rig_same_rows(&rows, &cold_rows, 1, PROMPT + SAID + 1));
    size_t n_nodes = check_nodes(&r, "a", &cold_rows);
    CHECK(n_nodes >= n_begun && n_nodes <= n_begun + 1 + (PROMPT + SAID) / 64);
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_ids_free(&fed);
    rig_trace_free(&rows);
    rig_trace_free(&cold_rows);
    tarn_session_close(s);
    tarn_session_close(other);
    tarn_session_close(cold);
    CHECK_EQ(rig_stat(&r).slots, 0);
    CHECK_EQ(rig_stat(&r).pages, 0);
    rig_close(&r);
}

CASE(a_session_goes_on_while_it_is_committed_tiny) /* F4 */
{
    goes_on(RIG_TINY);
}

CASE(a_session_goes_on_while_it_is_committed_recall) /* F4 */
{
    RIG_SKIP_REDUCED();
    goes_on(RIG_RECALL);
}

/* Segments of nodes that were captured in the middle of them are those of a session that waited. */
CASE(segments_do_not_depend_on_when)
{
    rig r;
    uint32_t ids[64];
    tarn_node_list logs[2];
    rig_open(&r, RIG_RECALL, &(tarn_engine_options){.n_threads = 1, .step_tokens_max = 5});
    r.session_flags = TARN_SESSION_NO_PREFIX;
    rig_ids(&r, 2, ids, 64);
    for (int waits = 0; waits < 2; waits++) {
        const char *name = waits ? "waits" : "goes on";
        tarn_session *s = rig_session(&r, name, NULL);
        tarn_ticket ticket;
        static const char hello[] = "Look up mailer and tell me the port, please.";
        tarn_message m = {.size = sizeof m,
                          .role = TARN_ROLE_USER,
                          .text = hello,
                          .text_bytes = sizeof hello - 1};
        OK(tarn_session_append_tokens(s, ids, 13, ERR));
        OK(tarn_session_append_message(s, &m, NULL, ERR));
        OK(tarn_session_append_tokens(s, ids, 9, ERR));
        OK(tarn_session_append_message(s, &m, NULL, ERR));
        tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 12};
        OK(tarn_session_generate(s, &o, ERR));
        tarn_step step = {.size = sizeof step};
        for (int i = 0; i == 0 || step.n_rows > 0; i++) {
            OK(tarn_engine_step(r.engine, &step, ERR));
            if (i % 3 == 2) {
                OK(tarn_session_commit_begin(s, &ticket, ERR));
                if (waits)
                    OK(tarn_session_wait(s, ticket, TARN_COMMIT_SYNCED, 0, NULL, ERR));
            }
        }
        rig_commit(s);
        tarn_session_close(s);
        OK(tarn_store_log(r.store, name, NULL, &logs[waits], ERR));
    }
    CHECK_EQ(logs[0].n_entries, logs[1].n_entries);
    CHECK(logs[0].n_entries > 5);
    for (size_t i = 0; i < logs[0].n_entries && i < logs[1].n_entries; i++) {
        const tarn_node_entry *a = &logs[0].entries[i], *b = &logs[1].entries[i];
        CHECK_EQ(a->position, b->position);
        CHECK_EQ(a->n_segments, b->n_segments);
        for (size_t k = 0; k < a->n_segments && k < b->n_segments; k++) {
            CHECK_EQ(a->segments[k].role, b->segments[k].role);
            CHECK_EQ(a->segments[k].n_tokens, b->segments[k].n_tokens);
            CHECK_EQ(a->segments[k].continues, b->segments[k].continues);
            CHECK_EQ(a->segments[k].closed, b->segments[k].closed);
        }
    }
    tarn_node_list_free(&logs[0]);
    tarn_node_list_free(&logs[1]);
    rig_close(&r);
}

/* A commit that fails is told, and its tokens go with the next one. */
CASE(a_failed_commit_is_told_and_made_good)
{
    rig r;
    uint32_t ids[200];
    tarn_ticket ticket;
    static rig_told told;
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 3, ids, 200);
    tarn_session *s = rig_session(&r, "a", NULL), *cold = rig_loose(&r, "cold");
    rig_feed(s, ids, 50);
    uint64_t node = rig_commit(s).at.node, stored = rig_store_stat(&r).bytes_stored;
    OK(tarn_store_pin(r.store, "a", true, ERR)); /* nothing can be evicted for it */
    OK(tarn_store_set_quota(r.store, NULL, stored + 100, ERR));
    rig_feed(s, ids + 50, 50);
    OK(tarn_session_commit_begin(s, &ticket, ERR));
    OK(tarn_session_append_tokens(s, ids + 100, 50, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK_STATUS(tarn_session_wait(s, ticket, TARN_COMMIT_WRITTEN, 0, NULL, ERR), TARN_E_QUOTA);
    CHECK_STATUS(tarn_session_wait(s, ticket, TARN_COMMIT_SYNCED, 0, NULL, ERR), TARN_E_QUOTA);
    memset(&told, 0, sizeof told);
    for (tarn_event event; tarn_engine_poll(r.engine, &event);)
        rig_hear(&told, &event);
    CHECK_EQ(told.n_committed, 1);
    CHECK_EQ(told.committed.status, TARN_E_QUOTA);
    CHECK_EQ(told.committed.ticket, ticket);
    CHECK(!rig_info(s).committed);
    CHECK_EQ(rig_info(s).at.node, node);
    CHECK_EQ(rig_info(s).at.position, 150);
    OK(tarn_store_set_quota(r.store, NULL, 0, ERR));
    rig_feed(s, ids + 150, 50);
    CHECK_EQ(rig_commit(s).at.position, 200);
    tarn_session_close(s);
    tarn_node_list log;
    OK(tarn_store_log(r.store, "a", NULL, &log, ERR));
    CHECK_EQ(log.n_entries, 3);
    CHECK_EQ(log.entries[2].parent, node);
    CHECK_EQ(log.entries[2].n_segments, 3);
    tarn_node_list_free(&log);
    s = rig_session(&r, "a", NULL);
    rig_feed(cold, ids, 200);
    CHECK(rig_same_logits(s, cold));
    tarn_session_close(s);
    tarn_session_close(cold);
    rig_close(&r);
}

/* Sixty-four at once: each tells once, and what is closed with a commit on its way is kept. */
CASE(many_commits_at_once)
{
    enum { SESSIONS = 64 };
    rig r;
    uint32_t ids[SESSIONS];
    tarn_session *s[SESSIONS];
    size_t n_told[SESSIONS] = {0};
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1});
    rig_ids(&r, 4, ids, SESSIONS);
    for (size_t i = 0; i < SESSIONS; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%zu", i);
        s[i] = rig_session(&r, name, NULL);
        OK(tarn_session_append_tokens(s[i], ids, i + 1, ERR));
    }
    rig_drain(&r);
    for (size_t i = 0; i < SESSIONS; i++) {
        tarn_ticket ticket;
        OK(tarn_session_commit_begin(s[i], &ticket, ERR));
        OK(tarn_session_append_tokens(s[i], ids, 2, ERR));
    }
    CHECK(rig_stat(&r).commits <= SESSIONS);
    for (size_t i = 32; i < SESSIONS; i++)
        tarn_session_close(s[i]);
    for (size_t n = 0; n < 32;) { /* only by looking */
        tarn_event event;
        if (!tarn_engine_poll(r.engine, &event) || event.kind != TARN_EVENT_COMMITTED)
            continue;
        for (size_t i = 0; i < 32; i++)
            if (s[i] == event.session)
                n_told[i]++;
        CHECK_EQ(event.status, TARN_OK);
        n++;
    }
    for (size_t i = 0; i < SESSIONS; i++) {
        char name[16];
        tarn_at at;
        snprintf(name, sizeof name, "s%zu", i);
        CHECK_EQ(n_told[i], i < 32);
        OK(tarn_store_price(r.store, name, NULL, &at, NULL, ERR));
        CHECK_EQ(at.position, i + 1);
        if (i < 32)
            tarn_session_close(s[i]);
    }
    CHECK_EQ(rig_stat(&r).slots, 0);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* What was begun is among what a flush waits for, also where nobody has encoded it yet. */
CASE(a_flush_waits_for_what_was_begun)
{
    enum { SESSIONS = 20, N = 30 };
    rig r;
    uint32_t ids[N];
    tarn_session *s[SESSIONS];
    tarn_ticket ticket;
    char name[16];
    rig_open(&r, RIG_TINY, NULL);
    r.session_flags = TARN_SESSION_NO_PREFIX;
    rig_ids(&r, 1, ids, N);
    for (size_t i = 0; i < SESSIONS; i++) {
        snprintf(name, sizeof name, "s%zu", i);
        s[i] = rig_session(&r, name, NULL);
        rig_feed(s[i], ids, N);
    }
    for (size_t i = 0; i < SESSIONS; i++)
        OK(tarn_session_commit_begin(s[i], &ticket, ERR));
    OK(tarn_store_flush(r.store, ERR));
    for (size_t i = SESSIONS; i-- > 0;) { /* the last is encoded last */
        tarn_ids kept;
        snprintf(name, sizeof name, "s%zu", i);
        OK(tarn_store_tokens(r.store, name, NULL, &kept, ERR));
        CHECK_EQ(kept.n_ids, N);
        tarn_ids_free(&kept);
    }
    for (size_t i = 0; i < SESSIONS; i++)
        tarn_session_close(s[i]);
    rig_close(&r);
}

/* Without a second slot the commit is encoded before the next step: nothing fails. */
CASE(a_commit_without_room_for_a_second_state)
{
    rig r;
    uint32_t ids[100];
    rig_open(&r, RIG_TINY, NULL);
    const tarn_plan_report plan = rig_plan(&r);
    rig_restart_engine(
        &r, &(tarn_engine_options){.n_threads = 1, .slots_bytes_max = 4 * plan.slot_bytes});
    rig_ids(&r, 5, ids, 100);
    tarn_session *s = rig_session(&r, "a", NULL);
    for (size_t i = 0; i < 100; i += 4) {
        tarn_ticket ticket;
        OK(tarn_session_append_tokens(s, ids + i, 4, ERR));
        OK(tarn_session_run(s, NULL, NULL, ERR));
        OK(tarn_session_commit_begin(s, &ticket, ERR));
        CHECK(rig_stat(&r).slots_bytes <= 4 * plan.slot_bytes);
    }
    rig_commit(s);
    tarn_session_close(s);
    s = rig_session(&r, "a", NULL);
    CHECK_EQ(rig_info(s).at.position, 100);
    tarn_session_close(s);
    rig_restart_engine(&r, &(tarn_engine_options){.n_threads = 1});
    s = rig_session(&r, "a", NULL);
    tarn_session *cold = rig_loose(&r, "cold");
    rig_feed(cold, ids, 100);
    CHECK(rig_same_logits(s, cold));
    tarn_session_close(cold);
    tarn_session_close(s);
    rig_close(&r);
}

/* In a full engine a step that looks for a slot waits for commits of others, and meanwhile its
 * session's own commit may be written: then its own slot is free to be written. Who is first,
 * nobody can say; so many times. */
CASE(a_commit_that_lands_while_a_step_looks_for_room)
{
    enum { ROUNDS = RIG_FEW(1500, 100) };
    rig r;
    uint32_t ids[100];
    rig_open(&r, RIG_TINY, NULL);
    const tarn_plan_report plan = rig_plan(&r);
    rig_restart_engine(
        &r, &(tarn_engine_options){.n_threads = 1, .slots_bytes_max = 5 * plan.slot_bytes});
    r.session_flags = TARN_SESSION_NO_PREFIX;
    rig_ids(&r, 5, ids, 100);
    tarn_session *s = rig_session(&r, "a", NULL), *other = rig_session(&r, "b", NULL);
    tarn_session *busy = rig_loose(&r, "busy");
    rig_feed(busy, ids, 1);
    rig_feed(s, ids, 1);
    rig_feed(other, ids, 1);
    for (uint32_t round = 0; round < ROUNDS && check_failures == 0; round++) {
        tarn_ticket ticket;
        OK(tarn_session_commit_begin(other, &ticket, ERR));
        rig_feed(other, ids + round % 100, 1); /* so that it cannot be parked */
        OK(tarn_session_append_tokens(s, ids + round % 100, 1, ERR));
        OK(tarn_session_commit_begin(s, &ticket, ERR));
        CHECK_STATUS(tarn_session_run(s, NULL, NULL, ERR), TARN_OK);
    }
    tarn_session_close(s);
    tarn_session_close(other);
    tarn_session_close(busy);
    rig_close(&r);
}

/* What needs the node of a commit waits for it; listing the store waits for its turn only. */
CASE(forks_and_rewinds_of_a_session_being_committed)
{
    rig r;
    uint32_t ids[100];
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1, .allocator = &slow});
    r.session_flags = TARN_SESSION_NO_PREFIX;
    rig_ids(&r, 6, ids, 100);
    tarn_session *s = rig_session(&r, "a", NULL), *cold = rig_loose(&r, "cold");
    rig_feed(cold, ids, 60);
    for (int i = 0; i < 20; i++) {
        char name[16];
        tarn_ticket ticket;
        tarn_session_list list;
        tarn_reuse reuse;
        snprintf(name, sizeof name, "f%d", i);
        rig_feed(s, ids, 60);
        OK(tarn_session_commit_begin(s, &ticket, ERR));
        OK(tarn_store_list(r.store, NULL, &list, ERR));
        CHECK_EQ(list.n_entries, 1 + i);
        tarn_session_list_free(&list);
        tarn_session *child = rig_fork(s, name);
        CHECK_EQ(rig_info(child).at.node, rig_info(s).at.node);
        CHECK(rig_info(child).committed);
        CHECK(rig_same_logits(child, cold));
        rig_feed(child, ids + 60, 5);
        OK(tarn_session_commit_begin(child, &ticket, ERR));
        OK(tarn_session_rewind(s, "@t:0", &reuse, ERR));
        CHECK_EQ(rig_info(s).at.position, 0);
        tarn_session_close(child);
    }
    CHECK_EQ(rig_verify(r.store), 0);
    tarn_session_close(s);
    tarn_session_close(cold);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(a_session_goes_on_while_it_is_committed_tiny),
           ENTRY(a_session_goes_on_while_it_is_committed_recall),
           ENTRY(segments_do_not_depend_on_when), ENTRY(a_failed_commit_is_told_and_made_good),
           ENTRY(many_commits_at_once), ENTRY(a_flush_waits_for_what_was_begun),
           ENTRY(a_commit_without_room_for_a_second_state),
           ENTRY(a_commit_that_lands_while_a_step_looks_for_room),
           ENTRY(forks_and_rewinds_of_a_session_being_committed))
