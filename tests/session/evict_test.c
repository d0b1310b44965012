/* What was evicted is computed again from the tokens: the same bits, and the price is told before
 * and after. */
#include "check.h"
#include "fixture.h"

#define N_NODES  8
#define N_TOKENS 30
#define N_ALL    (N_NODES * N_TOKENS)

typedef struct world {
    rig r;
    uint32_t ids[N_ALL + N_TOKENS];
    rig_trace whole; /* of a session that was never kept */
    tarn_session *loose;
} world;

static void world_open(world *w, rig_kind kind)
{
    rig_open(&w->r, kind, NULL);
    rig_ids(&w->r, 11, w->ids, N_ALL + N_TOKENS);
    w->loose = rig_loose(&w->r, "whole");
    rig_trace_begin(&w->whole, w->loose);
    rig_feed(w->loose, w->ids, N_ALL + N_TOKENS);
    tarn_session *s = rig_session(&w->r, "a", NULL);
    for (size_t i = 0; i < N_NODES; i++) {
        rig_feed(s, w->ids + i * N_TOKENS, N_TOKENS);
        rig_commit(s);
    }
    tarn_session_close(s);
}

static void world_close(world *w)
{
    CHECK_EQ(rig_verify(w->r.store), 0);
    tarn_session_close(w->loose);
    rig_trace_free(&w->whole);
    rig_close(&w->r);
}

/* Collects; how often each part was dropped is in n[what]. */
static void collect(rig *r, const tarn_gc_options *options, size_t n[5])
{
    tarn_gc_report report;
    memset(n, 0, 5 * sizeof *n);
    OK(tarn_store_gc(r->store, options, &report, ERR));
    for (size_t i = 0; i < report.n_dropped; i++)
        n[report.dropped[i].what]++;
    tarn_gc_report_free(&report);
}

/* All states but the head's. */
static void thin(rig *r)
{
    size_t n[5];
    tarn_gc_options o = {.size = sizeof o, .keep_newest = 1, .rung_tokens = 1 << 20};
    collect(r, &o, n);
    CHECK_EQ(n[TARN_DROPPED_STATE], N_NODES - 1);
    CHECK_EQ(n[TARN_DROPPED_LATENTS] + n[TARN_DROPPED_NODE] + n[TARN_DROPPED_SESSION], 0);
}

/* Opens a place, lets it replay, and compares price, reuse and pending logits. */
static void check_place(world *w, const char *where, uint64_t position, uint64_t replayed,
                        tarn_reason reason)
{
    rig *r = &w->r;
    tarn_session *s;
    tarn_reuse reuse;
    tarn_price price;
    tarn_session_options o = {.size = sizeof o, .flags = TARN_SESSION_READ_ONLY, .where = where};
    OK(tarn_store_price(r->store, "a", where, NULL, &price, ERR));
    OK(tarn_session_open(r->engine, r->store, "a", &o, &s, &reuse, ERR));
    CHECK_EQ(price.replay_tokens, replayed);
    CHECK_EQ(reuse.tokens_replayed, replayed);
    CHECK_EQ(reuse.tokens_reused, position - replayed);
    CHECK_EQ(reuse.bytes_read, price.bytes_read);
    CHECK_TEXT(tarn_reason_name(reuse.reason), tarn_reason_name(reason));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    CHECK(rig_logits_are(s, &w->whole, position));
    CHECK(rig_info(s).at.bit_exact);
    tarn_session_close(s);
}

static void states(rig_kind kind)
{
    static world w;
    world_open(&w, kind);
    check_place(&w, "@t:120", 120, 0, TARN_REASON_EXACT);
    check_place(&w, "@t:130", 130, 10, TARN_REASON_ANCESTOR);
    thin(&w.r);
    check_place(&w, NULL, N_ALL, 0, TARN_REASON_EXACT);
    check_place(&w, "@t:120", 120, 120, TARN_REASON_EVICTED);
    check_place(&w, "@t:130", 130, 130, TARN_REASON_EVICTED);
    check_place(&w, "@t:7", 7, 7, TARN_REASON_ANCESTOR);
    /* Going back there and on keeps a state again. */
    tarn_at at;
    OK(tarn_store_rewind(w.r.store, "a", "@t:120", &at, NULL, NULL, ERR));
    tarn_reuse reuse;
    tarn_session *s = rig_session(&w.r, "a", &reuse);
    CHECK_EQ(reuse.reason, TARN_REASON_EVICTED);
    rig_feed(s, w.ids + 120, 3);
    rig_commit(s);
    tarn_session_close(s);
    check_place(&w, NULL, 123, 0, TARN_REASON_EXACT);
    world_close(&w);
}

CASE(states_are_computed_again_tiny)
{
    states(RIG_TINY);
}

CASE(states_are_computed_again_recall)
{
    RIG_SKIP_REDUCED();
    states(RIG_RECALL);
}

static void latents(rig_kind kind)
{
    static world w;
    size_t n[5];
    world_open(&w, kind);
    thin(&w.r);
    /* One byte too much: the latents of one node go, and the head's state is of no use. */
    OK(tarn_store_set_quota(w.r.store, NULL, rig_store_stat(&w.r).bytes_stored - 1, ERR));
    collect(&w.r, NULL, n);
    CHECK(n[TARN_DROPPED_LATENTS] == 1 && n[TARN_DROPPED_STATE] == 0);
    check_place(&w, NULL, N_ALL, N_ALL, TARN_REASON_EVICTED);
    check_place(&w, "@t:100", 100, 100, TARN_REASON_EVICTED);
    tarn_session_close(w.loose);
    rig_restart(&w.r, NULL);
    w.loose = rig_loose(&w.r, "whole");
    OK(tarn_store_set_quota(w.r.store, NULL, 0, ERR));
    tarn_reuse reuse;
    tarn_session *s = rig_session(&w.r, "a", &reuse);
    CHECK_EQ(reuse.tokens_replayed, N_ALL);
    rig_feed(s, w.ids + N_ALL, N_TOKENS);
    rig_commit(s);
    CHECK(rig_logits_are(s, &w.whole, N_ALL + N_TOKENS));
    tarn_session_close(s);
    /* The new node holds the latents anew. */
    check_place(&w, NULL, N_ALL + N_TOKENS, 0, TARN_REASON_EXACT);
    world_close(&w);
}

CASE(latents_are_computed_again_tiny)
{
    latents(RIG_TINY);
}

CASE(latents_are_computed_again_recall)
{
    RIG_SKIP_REDUCED();
    latents(RIG_RECALL);
}

/* A session that is open on an engine does not notice; what it commits can be resumed. */
CASE(an_open_session_goes_on)
{
    static world w;
    size_t n[5];
    world_open(&w, RIG_TINY);
    tarn_session *s = rig_session(&w.r, "a", NULL);
    thin(&w.r);
    OK(tarn_store_set_quota(w.r.store, NULL, rig_store_stat(&w.r).bytes_stored - 1, ERR));
    collect(&w.r, NULL, n);
    OK(tarn_store_set_quota(w.r.store, NULL, 0, ERR));
    rig_feed(s, w.ids + N_ALL, 10);
    CHECK(rig_logits_are(s, &w.whole, N_ALL + 10));
    rig_commit(s);
    tarn_session_close(s);
    check_place(&w, NULL, N_ALL + 10, N_ALL + 10, TARN_REASON_EVICTED);
    world_close(&w);
}

/* What must be replayed needs pages. Those of a session that is kept can be had, those of one that
 * is not cannot. */
CASE(a_replay_without_room)
{
    static world w;
    size_t n[5];
    tarn_session *s, *busy;
    const tarn_session_options o = {
        .size = sizeof o, .flags = TARN_SESSION_READ_ONLY, .where = "@t:210"};
    world_open(&w, RIG_TINY);
    tarn_session_close(w.loose);
    thin(&w.r);
    OK(tarn_store_set_quota(w.r.store, NULL, rig_store_stat(&w.r).bytes_stored - 1, ERR));
    collect(&w.r, NULL, n);
    OK(tarn_store_set_quota(w.r.store, NULL, 0, ERR));
    rig_restart_engine(&w.r, &(tarn_engine_options){.n_threads = 1, .tokens_max = 256});
    w.r.session_flags = TARN_SESSION_NO_PREFIX;
    for (int kept = 0; kept < 2; kept++) {
        busy = kept ? rig_session(&w.r, "busy", NULL) : rig_loose(&w.r, "busy");
        rig_feed(busy, w.ids, 100);
        if (!kept) {
            REFUSED(tarn_session_open(w.r.engine, w.r.store, "a", &o, &s, NULL, ERR), TARN_E_LIMIT,
                    "tokens_max");
        } else {
            rig_commit(busy);
            OK(tarn_session_open(w.r.engine, w.r.store, "a", &o, &s, NULL, ERR));
            CHECK_EQ(rig_info(busy).state, TARN_SESSION_PARKED);
            OK(tarn_session_run(s, NULL, NULL, ERR));
            CHECK(rig_logits_are(s, &w.whole, 210));
            tarn_session_close(s);
            rig_feed(busy, w.ids + 100, 1);
            CHECK(rig_logits_are(busy, &w.whole, 101));
        }
        tarn_session_close(busy);
    }
    w.loose = NULL;
    world_close(&w);
}

CASE(a_commit_beyond_the_quota)
{
    static world w;
    world_open(&w, RIG_TINY);
    OK(tarn_store_pin(w.r.store, "a", true, ERR));
    OK(tarn_store_set_quota(w.r.store, NULL, rig_store_stat(&w.r).bytes_stored, ERR));
    tarn_session *s = rig_session(&w.r, "a", NULL);
    tarn_committed committed = {.size = sizeof committed};
    rig_feed(s, w.ids + N_ALL, 10);
    REFUSED(tarn_session_commit(s, &committed, ERR), TARN_E_QUOTA, "the quota of the store");
    rig_feed(s, w.ids + N_ALL + 10, 10);
    CHECK(rig_logits_are(s, &w.whole, N_ALL + 20));
    check_place(&w, NULL, N_ALL, 0, TARN_REASON_EXACT);
    OK(tarn_store_pin(w.r.store, "a", false, ERR));
    rig_commit(s); /* now something may go */
    tarn_session_close(s);
    check_place(&w, NULL, N_ALL + 20, 0, TARN_REASON_EXACT);
    world_close(&w);
}

CASE(arguments_are_checked)
{
    rig r;
    tarn_gc_report report;
    tarn_explanation explanation;
    uint64_t quota;
    tarn_gc_options flags = {.size = sizeof flags, .flags = 6};
    rig_open(&r, RIG_TINY, NULL);
    REFUSED(tarn_store_gc(r.store, &flags, &report, ERR), TARN_E_INVALID, "flags");
    REFUSED(tarn_store_gc(NULL, NULL, &report, ERR), TARN_E_INVALID, "store is NULL");
    REFUSED(tarn_store_gc(r.store, NULL, NULL, ERR), TARN_E_INVALID, "out is NULL");
    REFUSED(tarn_store_tag(r.store, "a", NULL, NULL, ERR), TARN_E_INVALID, "key is NULL");
    REFUSED(tarn_store_pin(r.store, NULL, true, ERR), TARN_E_INVALID, "session is NULL");
    REFUSED(tarn_store_ttl(r.store, "a", 1, ERR), TARN_E_NOT_FOUND, "\"a\"");
    REFUSED(tarn_store_group(r.store, "a", NULL, ERR), TARN_E_INVALID, "group is NULL");
    REFUSED(tarn_store_get_quota(NULL, NULL, &quota, ERR), TARN_E_INVALID, "store is NULL");
    REFUSED(tarn_store_explain(r.store, "a", NULL, &explanation, ERR), TARN_E_NOT_FOUND, "\"a\"");
    tarn_gc_report_free(&report);
    tarn_explanation_free(&explanation);
    tarn_gc_report_free(NULL);
    tarn_explanation_free(NULL);
    CHECK_TEXT(tarn_dropped_name((tarn_dropped_what)9), "unknown");
    rig_close(&r);
}

CHECK_MAIN(ENTRY(states_are_computed_again_tiny), ENTRY(states_are_computed_again_recall),
           ENTRY(latents_are_computed_again_tiny), ENTRY(latents_are_computed_again_recall),
           ENTRY(an_open_session_goes_on), ENTRY(a_replay_without_room),
           ENTRY(a_commit_beyond_the_quota), ENTRY(arguments_are_checked))
