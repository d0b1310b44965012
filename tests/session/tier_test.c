/* Parked sessions in pinned memory: they come back without the store, with the same bits, and never
 * take more than their budget. On the CPU there is no such memory, and the store is read. */
#include "check.h"
#include "fixture.h"

enum { N = 150, SESSIONS = 6 };

static void open_with(rig *r, uint64_t pinned_bytes_max)
{
    rig_open(r, RIG_TINY,
             &(tarn_engine_options){.n_threads = 1, .pinned_bytes_max = pinned_bytes_max});
    r->session_flags = TARN_SESSION_NO_PREFIX;
}

static tarn_session *feed_one(rig *r, const char *name, const uint32_t *ids, size_t n)
{
    tarn_session *s = rig_session(r, name, NULL);
    rig_feed(s, ids, n);
    rig_commit(s);
    return s;
}

/* Parks it, and steps until what it held is free: the copy goes on beside. */
static void leave(rig *r, tarn_session *s)
{
    tarn_step done = {.size = sizeof done};
    uint64_t before = rig_stat(r).slots;
    OK(tarn_session_park(s, ERR));
    while (rig_stat(r).slots == before)
        OK(tarn_engine_step(r->engine, &done, ERR));
}

/* Brings one back and says whether the store was read. */
static bool woken(tarn_session *s)
{
    const float *logits;
    uint32_t vocab;
    CHECK_EQ(rig_info(s).state, TARN_SESSION_PARKED);
    OK(tarn_session_logits(s, &logits, &vocab, ERR));
    tarn_session_info info = rig_info(s);
    CHECK_EQ(info.state, TARN_SESSION_IDLE);
    CHECK_EQ(info.reuse.tokens_reused, info.at.position);
    CHECK_EQ(info.reuse.tokens_replayed, 0);
    CHECK_EQ(info.reuse.reason, TARN_REASON_EXACT);
    return info.reuse.bytes_read > 0;
}

CASE(a_parked_session_comes_back_without_the_store)
{
    rig r;
    uint32_t ids[N];
    rig_told told, other;
    open_with(&r, (uint64_t)1 << 20);
    rig_ids(&r, 1, ids, N);
    tarn_session *s = feed_one(&r, "a", ids, N), *t = feed_one(&r, "b", ids, N);
    for (int i = 0; i < 4; i++) {
        if (i % 2)
            OK(tarn_session_park(s, ERR)); /* and back before its copy has passed, perhaps */
        else
            leave(&r, s);
        CHECK_EQ(rig_stat(&r).pinned, !RIG_ON_HOST);
        CHECK_EQ(woken(s), RIG_ON_HOST);
        CHECK_EQ(rig_stat(&r).pinned, 0);
        CHECK(rig_same_logits(s, t));
        rig_generate(s, 5, &told); /* in a partly filled page that was copied */
        rig_generate(t, 5, &other);
        CHECK_IDS(told.ids, other.ids, 5);
        CHECK(rig_same_logits(s, t));
        rig_commit(s);
    }
    tarn_session_close(s);
    tarn_session_close(t);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* Room for two of three: the one that was used longest ago comes from the store. */
CASE(who_was_used_longest_ago_is_pushed_out)
{
    rig r;
    uint32_t ids[N];
    tarn_session *s[3];
    if (RIG_ON_HOST)
        SKIP("the CPU pins nothing");
    open_with(&r, 0);
    const tarn_plan_report plan = rig_plan(&r);
    uint64_t each = plan.slot_bytes + (N + 63) / 64 * plan.page_bytes;
    rig_restart_engine(
        &r, &(tarn_engine_options){.n_threads = 1, .pinned_bytes_max = 2 * each + each / 2});
    rig_ids(&r, 2, ids, N);
    for (size_t i = 0; i < 3; i++)
        s[i] = feed_one(&r, (const char *[]){"a", "b", "c"}[i], ids, N);
    for (size_t i = 0; i < 3; i++)
        leave(&r, s[i]);
    tarn_engine_stat stat = rig_stat(&r);
    CHECK_EQ(stat.pinned, 2);
    CHECK_EQ(stat.parked, 3);
    CHECK_EQ(stat.pinned_bytes, 2 * each);
    CHECK_EQ(stat.pinned_bytes_max, 2 * each + each / 2);
    CHECK(woken(s[0]));
    CHECK(!woken(s[1]) && !woken(s[2]));
    CHECK(rig_same_logits(s[0], s[1]) && rig_same_logits(s[1], s[2]));
    /* One that was used before all that are kept pushes nobody out. */
    leave(&r, s[2]);
    leave(&r, s[1]);
    leave(&r, s[0]);
    CHECK(woken(s[0]));
    CHECK(!woken(s[2]) && !woken(s[1]));
    for (size_t i = 0; i < 3; i++)
        tarn_session_close(s[i]);
    rig_close(&r);
}

/* A copy goes with its session, and with the place it is of. */
CASE(copies_are_let_go_of)
{
    rig r;
    uint32_t ids[N];
    tarn_reuse reuse;
    open_with(&r, (uint64_t)1 << 20);
    rig_ids(&r, 3, ids, N);
    tarn_session *s = feed_one(&r, "a", ids, N);
    OK(tarn_session_park(s, ERR));
    OK(tarn_session_rewind(s, "@t:70", &reuse, ERR));
    CHECK_EQ(rig_stat(&r).pinned, 0);
    rig_drain(&r);
    rig_feed(s, ids, 3);
    rig_commit(s);
    OK(tarn_session_park(s, ERR));
    OK(tarn_session_reset(s, &reuse, ERR));
    CHECK_EQ(rig_stat(&r).pinned, 0);
    CHECK_EQ(rig_info(s).at.position, 73);
    OK(tarn_session_park(s, ERR));
    tarn_session *child = rig_fork(s, "b"); /* alive again, and shared */
    CHECK_EQ(rig_stat(&r).pinned, 0);
    CHECK(rig_same_logits(s, child));
    OK(tarn_session_park(child, ERR));
    tarn_session_close(child);
    CHECK_EQ(rig_stat(&r).pinned, 0);
    CHECK_EQ(rig_stat(&r).pinned_bytes, 0);
    tarn_session_close(s);
    rig_close(&r);
}

/* Sessions of many lengths, room for two of them on the device and for some of the rest beside it.
 */
CASE(many_sessions_stay_in_their_budgets)
{
    rig r;
    uint32_t ids[N];
    uint64_t order = 1, fed[SESSIONS] = {0}, n_read = 0, n_copied = 0;
    tarn_session *s[SESSIONS];
    rig_trace rows;
    open_with(&r, 0);
    const tarn_plan_report plan = rig_plan(&r);
    uint64_t each = plan.slot_bytes + (N + 63) / 64 * plan.page_bytes;
    rig_restart_engine(&r, &(tarn_engine_options){.n_threads = 1,
                                                  .slots_bytes_max = 5 * plan.slot_bytes,
                                                  .pages_bytes_max = 8 * plan.page_bytes,
                                                  .pinned_bytes_max = 3 * each});
    rig_ids(&r, 4, ids, N);
    tarn_session *cold = rig_loose(&r, "cold");
    rig_trace_begin(&rows, cold);
    rig_feed(cold, ids, N);
    tarn_session_close(cold);
    for (size_t i = 0; i < SESSIONS; i++)
        s[i] = rig_session(&r, (const char *[]){"a", "b", "c", "d", "e", "f"}[i], NULL);
    for (int i = 0; i < 60; i++) {
        size_t k = (size_t)(rig_random(&order) % SESSIONS);
        uint64_t n = 1 + rig_random(&order) % 20;
        bool parked = rig_info(s[k]).state == TARN_SESSION_PARKED;
        if (fed[k] + n > N)
            continue;
        rig_feed(s[k], ids + fed[k], (size_t)n);
        fed[k] += n;
        if (parked)
            *(rig_info(s[k]).reuse.bytes_read > 0 ? &n_read : &n_copied) += 1;
        CHECK(rig_logits_are(s[k], &rows, fed[k]));
        rig_commit(s[k]);
        tarn_engine_stat stat = rig_stat(&r);
        CHECK(stat.slots_bytes <= stat.slots_bytes_max);
        CHECK(stat.pages_bytes <= stat.pages_bytes_max);
        CHECK(stat.pinned_bytes <= 3 * each);
        CHECK(stat.pinned <= stat.parked);
    }
    CHECK(n_read + n_copied > 10);
    CHECK_EQ(n_copied > n_read, !RIG_ON_HOST);
    for (size_t i = 0; i < SESSIONS; i++)
        tarn_session_close(s[i]);
    CHECK_EQ(rig_stat(&r).pinned_bytes, 0);
    rig_trace_free(&rows);
    rig_close(&r);
}

/* Pinned memory that commits are copied through counts as the host's. */
CASE(no_memory_to_copy_through_is_told_and_passes)
{
    rig r;
    uint32_t ids[N];
    tarn_committed committed = {.size = sizeof committed};
    tarn_reuse reuse;
    if (RIG_ON_HOST)
        SKIP("the CPU pins nothing");
    open_with(&r, 0);
    rig_ids(&r, 5, ids, N);
    tarn_session *s = feed_one(&r, "a", ids, N);
    uint64_t held = rig_stat(&r).host_bytes;
    tarn_session_close(s);
    rig_restart_engine(&r, &(tarn_engine_options){.n_threads = 1, .host_bytes_max = held + 24576});
    s = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.reason, TARN_REASON_EXACT);
    for (int i = 0; i < 4; i++) /* four times as many latents as were ever copied */
        rig_feed(s, ids, N);
    REFUSED(tarn_session_commit(s, &committed, ERR), TARN_E_NO_MEMORY, "host_bytes_max is reached");
    CHECK_EQ(rig_info(s).state, TARN_SESSION_IDLE);
    OK(tarn_session_reset(s, &reuse, ERR));
    CHECK_EQ(rig_info(s).at.position, N);
    rig_feed(s, ids, 1);
    rig_commit(s);
    tarn_session_close(s);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(a_parked_session_comes_back_without_the_store),
           ENTRY(who_was_used_longest_ago_is_pushed_out), ENTRY(copies_are_let_go_of),
           ENTRY(many_sessions_stay_in_their_budgets),
           ENTRY(no_memory_to_copy_through_is_told_and_passes))
