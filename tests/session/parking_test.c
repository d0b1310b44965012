/* Ceilings of memory: who is parked, who is refused, and that nobody can tell from the logits. */
#include "check.h"
#include "fixture.h"

/* ---- E1 ---- */

enum { SESSIONS = 64, ROOM = 10, ROUNDS = 5, MOST = 200 };

static void check_ceilings(const rig *r)
{
    tarn_engine_stat stat = rig_stat(r);
    CHECK(stat.slots_bytes <= stat.slots_bytes_max);
    CHECK(stat.pages_bytes <= stat.pages_bytes_max);
    CHECK(stat.host_bytes <= stat.host_bytes_max);
}

static void many(rig_kind kind, uint32_t flags)
{
    rig r;
    uint32_t ids[MOST];
    tarn_session *s[SESSIONS];
    uint64_t fed[SESSIONS] = {0}, order = 1, n_resumed = 0;
    static rig_told told;
    rig_open(&r, kind, NULL);
    r.session_flags = flags;
    tarn_plan_report plan = rig_plan(&r);
    rig_restart_engine(
        &r, &(tarn_engine_options){.n_threads = 1,
                                   .slots_bytes_max = (ROOM + 3) * plan.slot_bytes,
                                   .pages_bytes_max = ROOM * (MOST / 64 + 1) * plan.page_bytes,
                                   .host_bytes_max = plan.workspace_bytes + ((uint64_t)32 << 20)});
    rig_ids(&r, 10, ids, MOST);
    rig_trace rows;
    tarn_session *cold = rig_loose(&r, "cold");
    rig_trace_begin(&rows, cold);
    rig_feed(cold, ids, MOST);
    tarn_session_close(cold);
    for (size_t i = 0; i < SESSIONS - 1; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%zu", i);
        s[i] = rig_session(&r, name, NULL);
    }
    for (size_t i = 0; i < ROUNDS * (SESSIONS - 1); i++) {
        size_t k = (size_t)(rig_random(&order) % (SESSIONS - 1));
        uint64_t n = 1 + rig_random(&order) % 39;
        if (fed[k] + n > MOST)
            continue;
        bool was_parked = rig_info(s[k]).state == TARN_SESSION_PARKED;
        memset(&told, 0, sizeof told);
        OK(tarn_session_append_tokens(s[k], ids + fed[k], (size_t)n, ERR));
        OK(tarn_session_run(s[k], rig_hear, &told, ERR));
        check_ceilings(&r);
        fed[k] += n;
        CHECK_EQ(told.n_resumed, was_parked);
        n_resumed += told.n_resumed;
        if (was_parked) {
            CHECK_EQ(rig_info(s[k]).reuse.tokens_reused, fed[k] - n);
            CHECK_EQ(rig_info(s[k]).reuse.reason, TARN_REASON_EXACT);
        }
        CHECK(rig_logits_are(s[k], &rows, fed[k]));
        if (i % 3 == 0)
            rig_commit(s[k]);
        else {
            tarn_ticket ticket;
            OK(tarn_session_commit_begin(s[k], &ticket, ERR));
        }
        check_ceilings(&r);
    }
    CHECK(n_resumed > SESSIONS);
    CHECK(rig_stat(&r).parked >= SESSIONS - 1 - ROOM - 1);
    for (size_t i = 0; i < SESSIONS - 1; i++) {
        if (fed[i] > 0)
            CHECK(rig_logits_are(s[i], &rows, fed[i]));
        check_ceilings(&r);
        tarn_session_close(s[i]);
    }
    CHECK_EQ(rig_stat(&r).slots, 0);
    CHECK_EQ(rig_stat(&r).pages, 0);
    CHECK_EQ(rig_stat(&r).parked, 0);
    rig_trace_free(&rows);
    rig_close(&r);
}

CASE(sixty_three_sessions_and_room_for_ten_tiny) /* E1 */
{
    many(RIG_TINY, TARN_SESSION_NO_PREFIX);
}

CASE(sixty_three_sessions_and_room_for_ten_recall) /* E1 */
{
    RIG_SKIP_REDUCED();
    many(RIG_RECALL, TARN_SESSION_NO_PREFIX);
}

CASE(sixty_three_sessions_that_begin_alike)
{
    many(RIG_TINY, 0);
}

/* Those that have uncommitted tokens keep their memory; the next one is told why it cannot have
 * any, and can once somebody commits. */
CASE(admission_is_refused_with_a_reason)
{
    rig r;
    uint32_t ids[20];
    tarn_session *s[12];
    rig_open(&r, RIG_TINY, NULL);
    r.session_flags = TARN_SESSION_NO_PREFIX;
    tarn_plan_report plan = rig_plan(&r);
    rig_restart_engine(
        &r, &(tarn_engine_options){.n_threads = 1, .slots_bytes_max = 12 * plan.slot_bytes});
    rig_ids(&r, 11, ids, 20);
    for (size_t i = 0; i < 12; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%zu", i);
        s[i] = rig_session(&r, name, NULL);
        if (i < 10)
            OK(tarn_session_append_tokens(s[i], ids, 20, ERR));
    }
    for (int fed = 0; fed < 2; fed++) {
        REFUSED(tarn_session_append_tokens(s[10], ids, 20, ERR), TARN_E_LIMIT,
                "11 of 12 state slots of ");
        REFUSED(tarn_session_append_tokens(s[10], ids, 20, ERR), TARN_E_LIMIT, "uncommitted");
        CHECK_EQ(rig_info(s[10]).state, TARN_SESSION_IDLE);
        CHECK_EQ(rig_info(s[10]).tokens_waiting, 0);
        rig_drain(&r); /* with work, then with uncommitted tokens */
    }
    rig_commit(s[3]);
    rig_feed(s[10], ids, 20);
    CHECK_EQ(rig_info(s[3]).state, TARN_SESSION_PARKED);
    CHECK(rig_same_logits(s[10], s[4]));
    REFUSED(tarn_session_append_tokens(s[3], ids, 1, ERR), TARN_E_LIMIT, "11 of 12");
    CHECK_EQ(rig_info(s[3]).state, TARN_SESSION_PARKED);
    tarn_ticket ticket;
    OK(tarn_session_commit_begin(s[5], &ticket, ERR)); /* on its way: then it can be parked */
    OK(tarn_session_wait(s[5], ticket, TARN_COMMIT_WRITTEN, 0, NULL, ERR));
    OK(tarn_session_append_tokens(s[3], ids, 1, ERR));
    rig_drain(&r);
    CHECK_EQ(rig_info(s[3]).at.position, 21);
    for (size_t i = 0; i < 12; i++)
        tarn_session_close(s[i]);
    rig_close(&r);
}

static void ceilings(rig_kind kind)
{
    rig r;
    tarn_engine *engine;
    rig_open(&r, kind, NULL);
    tarn_plan_report plan = rig_plan(&r);
    tarn_engine_options o = {
        .size = sizeof o, .n_threads = 1, .slots_bytes_max = 4 * plan.slot_bytes - 1};
    REFUSED(tarn_engine_open(r.model, &o, &engine, ERR), TARN_E_LIMIT, "slots_bytes_max");
    o.slots_bytes_max++;
    o.pages_bytes_max = plan.page_bytes - 1;
    REFUSED(tarn_engine_open(r.model, &o, &engine, ERR), TARN_E_LIMIT, "pages_bytes_max");
    o.pages_bytes_max++;
    o.host_bytes_max = plan.workspace_bytes / 2;
    if (RIG_ON_HOST) /* else the workspace is not the host's */
        REFUSED(tarn_engine_open(r.model, &o, &engine, ERR), TARN_E_NO_MEMORY, "host_bytes_max is");
    o.host_bytes_max = 4 * plan.workspace_bytes;
    OK(tarn_engine_open(r.model, &o, &engine, ERR));
    tarn_session *s;
    uint32_t ids[65];
    rig_ids(&r, 12, ids, 65);
    OK(tarn_session_open(engine, NULL, "a", NULL, &s, NULL, ERR));
    REFUSED(tarn_session_append_tokens(s, ids, 65, ERR), TARN_E_LIMIT, "1 latent pages");
    OK(tarn_session_append_tokens(s, ids, 60, ERR));
    OK(tarn_session_run(s, NULL, NULL, ERR));
    static rig_told told;
    rig_never_stop(&r, s);
    rig_answer(s, 0, &told); /* a generation takes what there is */
    CHECK_EQ(told.n_ids, 4);
    CHECK_EQ(told.stop, TARN_STOP_LENGTH);
    tarn_session_close(s);
    tarn_engine_close(engine);
    rig_close(&r);
}

CASE(ceilings_below_one_session_are_refused_tiny) /* E2 */
{
    ceilings(RIG_TINY);
}

CASE(ceilings_below_one_session_are_refused_recall) /* E2 */
{
    RIG_SKIP_REDUCED();
    ceilings(RIG_RECALL);
}

/* ---- parking by hand ---- */

static void by_hand(rig_kind kind)
{
    rig r;
    uint32_t ids[200];
    static rig_told told, want;
    rig_open(&r, kind, &(tarn_engine_options){.n_threads = 1, .keep_every = 64});
    rig_ids(&r, 13, ids, 200);
    tarn_session *s = rig_session(&r, "a", NULL), *loose = rig_loose(&r, "loose");
    rig_feed(loose, ids, 150);
    REFUSED(tarn_session_park(loose, ERR), TARN_E_UNSUPPORTED, "no node");
    OK(tarn_session_append_tokens(s, ids, 150, ERR));
    REFUSED(tarn_session_park(s, ERR), TARN_E_CONFLICT, "waiting");
    rig_drain(&r);
    REFUSED(tarn_session_park(s, ERR), TARN_E_CONFLICT, "not committed");
    rig_commit(s);
    tarn_engine_stat before = rig_stat(&r);
    OK(tarn_session_park(s, ERR));
    OK(tarn_session_park(s, ERR));
    tarn_engine_stat parked = rig_stat(&r);
    CHECK_EQ(parked.parked, 1);
    CHECK_EQ(before.slots - parked.slots, 1);
    CHECK_EQ(before.pages - parked.pages, 3);
    tarn_session_info info = rig_info(s);
    CHECK_EQ(info.state, TARN_SESSION_PARKED);
    CHECK_EQ(info.at.position, 150);
    CHECK(info.committed && info.has_logits);
    CHECK(rig_same_logits(s, loose)); /* looking brings it back */
    CHECK_EQ(rig_info(s).state, TARN_SESSION_IDLE);
    CHECK_EQ(rig_info(s).reuse.reason, TARN_REASON_EXACT);
    CHECK_EQ(rig_info(s).reuse.tokens_reused, 150);
    CHECK(rig_info(s).reuse.bytes_read > 0);
    /* settings made while it is parked stay */
    OK(tarn_session_park(s, ERR));
    tarn_sampling sampling = {.size = sizeof sampling, .temperature = 0.8f, .seed = 5};
    OK(tarn_session_set_sampling(s, &sampling, ERR));
    OK(tarn_session_set_sampling(loose, &sampling, ERR));
    rig_generate(s, 20, &told);
    rig_generate(loose, 20, &want);
    CHECK_IDS(told.ids, want.ids, 20);
    rig_commit(s);
    /* fork, commit, rewind and reset of a parked one */
    OK(tarn_session_park(s, ERR));
    CHECK_EQ(rig_commit(s).bytes_written, 0);
    tarn_session *child = rig_fork(s, "b");
    CHECK(rig_same_logits(child, loose));
    CHECK_EQ(rig_info(s).state, TARN_SESSION_IDLE);
    OK(tarn_session_park(s, ERR));
    OK(tarn_session_park(child, ERR));
    CHECK_EQ(rig_stat(&r).parked, 2);
    tarn_reuse reuse;
    OK(tarn_session_rewind(s, "@t:70", &reuse, ERR));
    CHECK_EQ(reuse.tokens_reused, 64);
    CHECK_EQ(rig_stat(&r).parked, 1);
    rig_drain(&r);
    rig_feed(s, ids + 70, 80);
    OK(tarn_session_set_sampling(s, &sampling, ERR)); /* they went back too */
    rig_generate(s, 20, &told);
    CHECK_IDS(told.ids, want.ids, 20);
    OK(tarn_session_reset(child, &reuse, ERR));
    CHECK_EQ(rig_stat(&r).parked, 0);
    CHECK(rig_same_logits(child, loose));
    OK(tarn_session_park(child, ERR));
    tarn_session_close(child);
    CHECK_EQ(rig_stat(&r).parked, 0);
    tarn_session_close(s);
    tarn_session_close(loose);
    rig_close(&r);
}

CASE(parked_by_hand_tiny)
{
    by_hand(RIG_TINY);
}

CASE(parked_by_hand_recall)
{
    RIG_SKIP_REDUCED();
    by_hand(RIG_RECALL);
}

/* Its state was dropped meanwhile: it is computed again, and that is said. */
CASE(a_parked_state_that_was_evicted)
{
    rig r;
    uint32_t ids[150];
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1});
    r.session_flags = TARN_SESSION_NO_PREFIX;
    rig_ids(&r, 14, ids, 150);
    tarn_session *s = rig_session(&r, "a", NULL), *other = rig_session(&r, "b", NULL);
    rig_feed(s, ids, 100);
    rig_commit(s);
    OK(tarn_session_park(s, ERR));
    rig_feed(other, ids, 101);
    OK(tarn_store_pin(r.store, "b", true, ERR));
    OK(tarn_store_set_quota(r.store, NULL, rig_store_stat(&r).bytes_stored + 2500, ERR));
    rig_commit(other); /* needs the room of a's head */
    OK(tarn_session_append_tokens(s, ids + 100, 1, ERR));
    CHECK_EQ(rig_info(s).reuse.reason, TARN_REASON_EVICTED);
    CHECK_EQ(rig_info(s).reuse.tokens_replayed, 100);
    CHECK_EQ(rig_info(s).tokens_waiting, 101);
    rig_drain(&r);
    CHECK(rig_same_logits(s, other));
    tarn_session_close(s);
    tarn_session_close(other);
    rig_close(&r);
}

/* A message that streams in is work, also where nothing of it waits. */
CASE(an_open_message_is_not_parked)
{
    rig r;
    static const char text[] = "one two three ";
    tarn_message m = {.size = sizeof m, .role = TARN_ROLE_USER};
    rig_open(&r, RIG_RECALL, NULL);
    tarn_session *s = rig_session(&r, "a", NULL);
    for (int i = 0; i < 2; i++) { /* then out of being parked */
        OK(tarn_session_append_begin(s, &m, ERR));
        CHECK(rig_info(s).state != TARN_SESSION_PARKED);
        OK(tarn_session_append_bytes(s, text, sizeof text - 1, NULL, ERR));
        rig_drain(&r);
        rig_commit(s);
        REFUSED(tarn_session_park(s, ERR), TARN_E_CONFLICT, "being appended");
        OK(tarn_session_append_end(s, NULL, ERR));
        rig_drain(&r);
        rig_commit(s);
        OK(tarn_session_park(s, ERR));
    }
    tarn_session_close(s);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* Going on from a prefix needs no more memory than computing it. */
CASE(a_prefix_is_adopted_in_a_full_engine)
{
    rig r;
    uint32_t ids[128];
    rig_open(&r, RIG_TINY, NULL);
    tarn_plan_report plan = rig_plan(&r);
    rig_ids(&r, 21, ids, 128);
    rig_restart_engine(&r, &(tarn_engine_options){.n_threads = 1,
                                                  .slots_bytes_max = 4 * plan.slot_bytes,
                                                  .pages_bytes_max = 2 * plan.page_bytes});
    tarn_session *a = rig_session(&r, "a", NULL);
    rig_feed(a, ids, 100);
    rig_commit(a);
    tarn_session *b = rig_session(&r, "b", NULL);
    rig_feed(b, ids, 128);
    CHECK_EQ(rig_info(a).state, TARN_SESSION_PARKED);
    CHECK_EQ(rig_info(b).reuse.reason, TARN_REASON_PREFIX);
    CHECK_EQ(rig_info(b).reuse.tokens_reused, 100);
    rig_commit(b);
    OK(tarn_session_append_tokens(a, ids + 100, 28, ERR)); /* b gives its memory back */
    rig_drain(&r);
    CHECK_EQ(rig_info(b).state, TARN_SESSION_PARKED);
    CHECK_EQ(rig_info(a).at.position, 128);
    tarn_session_close(a);
    tarn_session_close(b);
    CHECK_EQ(rig_stat(&r).slots, 0);
    CHECK_EQ(rig_stat(&r).pages, 0);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* What is kept with loss would come back as something else. */
CASE(a_lossy_session_is_not_parked)
{
    rig r;
    uint32_t ids[50];
    rig_open(&r, RIG_TINY, NULL);
    tarn_store_policy policy = {.size = sizeof policy, .state_codec = TARN_STATE_BF16};
    OK(tarn_store_set_policy(r.store, &policy, ERR));
    rig_ids(&r, 15, ids, 50);
    tarn_session *s = rig_session(&r, "a", NULL);
    rig_feed(s, ids, 50);
    rig_commit(s);
    REFUSED(tarn_session_park(s, ERR), TARN_E_UNSUPPORTED, "with loss");
    tarn_session_close(s);
    rig_close(&r);
}

/* ---- going back where everything is full ---- */

static void going_back(rig_kind kind, bool with_fork)
{
    enum { N = 320, KEEP = 128 };
    rig r;
    uint32_t ids[N];
    char where[32];
    rig_open(&r, kind, NULL);
    tarn_plan_report plan = rig_plan(&r);
    rig_ids(&r, 16, ids, N);
    rig_trace rows;
    tarn_session *cold = rig_loose(&r, "cold");
    rig_trace_begin(&rows, cold);
    rig_feed(cold, ids, N);
    tarn_session_close(cold);
    /* one session fills it; its fork has one more for a tail of its own */
    rig_restart_engine(&r,
                       &(tarn_engine_options){.n_threads = 1,
                                              .keep_every = KEEP,
                                              .slots_bytes_max = (4 + with_fork) * plan.slot_bytes,
                                              .tokens_max = N + (with_fork ? 64 : 0)});
    tarn_session *s = rig_session(&r, "a", NULL), *child = NULL;
    rig_feed(s, ids, N - 10);
    rig_commit(s);
    if (with_fork) {
        child = rig_fork(s, "b");
        rig_feed(child, ids + N - 10, 1); /* not committed: it cannot be parked */
    }
    rig_feed(s, ids + N - 10, 10);
    uint64_t head = rig_commit(s).at.node;
    for (uint64_t t = 0; t <= N; t += 29) {
        tarn_reuse reuse;
        tarn_at at;
        tarn_price price;
        snprintf(where, sizeof where, "@t:%" PRIu64, t);
        OK(tarn_session_price(s, where, &at, &price, ERR));
        OK(tarn_session_rewind(s, where, &reuse, ERR));
        CHECK_EQ(at.position, t);
        CHECK_EQ(reuse.tokens_replayed, price.replay_tokens);
        CHECK_EQ(reuse.bytes_read, price.bytes_read);
        CHECK(reuse.tokens_replayed < KEEP);
        rig_drain(&r);
        if (t > 0)
            CHECK(rig_logits_are(s, &rows, t));
        snprintf(where, sizeof where, "@n:%" PRIu64, head); /* the newer branch is still there */
        tarn_status status = tarn_session_rewind(s, where, &reuse, ERR);
        if (with_fork && status == TARN_E_LIMIT) { /* it needs what the fork holds */
            CHECK_EQ(rig_info(s).at.position, t);
            tarn_session_close(child);
            child = NULL;
            with_fork = false;
            status = tarn_session_rewind(s, where, &reuse, ERR);
        }
        CHECK_STATUS(status, TARN_OK);
        CHECK_EQ(reuse.tokens_replayed, 0);
        CHECK(rig_logits_are(s, &rows, N));
    }
    rig_trace_free(&rows);
    tarn_session_close(child);
    tarn_session_close(s);
    CHECK_EQ(rig_stat(&r).pages, 0);
    rig_close(&r);
}

CASE(going_back_in_a_full_engine_tiny)
{
    going_back(RIG_TINY, false);
}

CASE(going_back_in_a_full_engine_recall)
{
    RIG_SKIP_REDUCED();
    going_back(RIG_RECALL, false);
}

CASE(going_back_beside_a_fork)
{
    going_back(RIG_TINY, true);
}

/* A failed reset leaves the session as it was, or poisoned as it was. */
CASE(reset_in_a_full_engine)
{
    rig r;
    uint32_t ids[200];
    tarn_reuse reuse;
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1, .tokens_max = 192});
    rig_ids(&r, 17, ids, 200);
    tarn_session *s = rig_session(&r, "a", NULL), *loose = rig_loose(&r, "loose");
    rig_feed(s, ids, 100);
    rig_commit(s);
    rig_feed(s, ids + 100, 90);
    OK(tarn_session_reset(s, &reuse, ERR));
    CHECK_EQ(reuse.tokens_reused, 100);
    CHECK_EQ(reuse.tokens_replayed, 0);
    CHECK_EQ(rig_stat(&r).pages, 2);
    rig_feed(loose, ids, 60);
    rig_feed(loose, ids + 60, 4);
    tarn_session_close(loose);
    loose = rig_loose(&r, "loose");
    rig_feed(s, ids + 100, 90);
    rig_commit(s);
    rig_feed(loose, ids, 190); /* parks the other */
    CHECK_EQ(rig_info(s).state, TARN_SESSION_PARKED);
    const float *logits;
    REFUSED(tarn_session_logits(s, &logits, NULL, ERR), TARN_E_LIMIT, "latent pages");
    tarn_session *child;
    REFUSED(tarn_session_fork(s, "child", &child, ERR), TARN_E_LIMIT, "latent pages");
    tarn_session_close(loose);
    CHECK_EQ(rig_info(s).at.position, 190);
    rig_feed(s, ids + 190, 2);
    tarn_session_close(s);
    rig_close(&r);
}

/* ---- plans ---- */

CASE(a_plan_is_what_an_engine_takes)
{
    rig r;
    rig_open(&r, RIG_TINY, NULL);
    tarn_plan_options o = {.size = sizeof o, .context = 200, .sessions = 3};
    tarn_plan_report plan = {.size = sizeof plan}, more = plan;
    OK(tarn_plan(r.model, &o, &plan, ERR));
    CHECK(!plan.fits);
    CHECK_EQ(plan.sessions, 0);
    CHECK_EQ(plan.per_session_bytes, plan.slot_bytes + 4 * plan.page_bytes);
    o.device_bytes = plan.wanted_bytes;
    OK(tarn_plan(r.model, &o, &plan, ERR));
    CHECK(plan.fits);
    CHECK_EQ(plan.sessions, 3);
    o.device_bytes--;
    OK(tarn_plan(r.model, &o, &more, ERR));
    CHECK(!more.fits);
    CHECK_EQ(more.sessions, 2);
    o.device_bytes = plan.floor_bytes;
    OK(tarn_plan(r.model, &o, &more, ERR));
    CHECK_EQ(more.sessions, 1);
    tarn_model_info info = {.size = sizeof info};
    OK(tarn_model_describe(r.model, TARN_NUMERICS_NATIVE, &info, ERR));
    CHECK_EQ(plan.weights_bytes, info.weights_bytes);
    CHECK(plan.slot_bytes >= info.state_bytes + info.conv_bytes + info.vocab * sizeof(float));
    CHECK(plan.page_bytes >= 64 * info.latent_bytes_per_token);
    o.context = info.context + 1;
    REFUSED(tarn_plan(r.model, &o, &more, ERR), TARN_E_INVALID, "context");
    /* an engine with these ceilings holds just so many sessions of 200 tokens */
    rig_restart_engine(&r, &(tarn_engine_options){.n_threads = 1,
                                                  .slots_bytes_max = plan.slots_bytes_max,
                                                  .pages_bytes_max = plan.pages_bytes_max});
    uint32_t ids[200];
    tarn_session *s[4];
    rig_ids(&r, 18, ids, 200);
    for (size_t i = 0; i < 4; i++) {
        s[i] = rig_loose(&r, "s");
        if (i < 3)
            rig_feed(s[i], ids, 200);
    }
    CHECK_STATUS(tarn_session_append_tokens(s[3], ids, 200, ERR), TARN_E_LIMIT);
    for (size_t i = 0; i < 4; i++)
        tarn_session_close(s[i]);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(sixty_three_sessions_and_room_for_ten_tiny),
           ENTRY(sixty_three_sessions_and_room_for_ten_recall),
           ENTRY(admission_is_refused_with_a_reason),
           ENTRY(ceilings_below_one_session_are_refused_tiny),
           ENTRY(ceilings_below_one_session_are_refused_recall), ENTRY(parked_by_hand_tiny),
           ENTRY(parked_by_hand_recall), ENTRY(a_parked_state_that_was_evicted),
           ENTRY(an_open_message_is_not_parked), ENTRY(a_prefix_is_adopted_in_a_full_engine),
           ENTRY(sixty_three_sessions_that_begin_alike), ENTRY(a_lossy_session_is_not_parked),
           ENTRY(going_back_in_a_full_engine_tiny), ENTRY(going_back_in_a_full_engine_recall),
           ENTRY(going_back_beside_a_fork), ENTRY(reset_in_a_full_engine),
           ENTRY(a_plan_is_what_an_engine_takes))
