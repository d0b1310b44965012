/* Who gets rows in a step, and that it changes nothing but the time. */
#include "check.h"
#include "fixture.h"

enum { SESSIONS = 10 };

static uint64_t position(const tarn_session *s)
{
    return rig_info(s).at.position;
}

static tarn_step step(rig *r)
{
    tarn_step out = {.size = sizeof out};
    OK(tarn_engine_step(r->engine, &out, ERR));
    return out;
}

static void open_many(rig *r, tarn_session **s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%zu", i);
        s[i] = rig_loose(r, name);
    }
}

static void close_many(tarn_session **s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        tarn_session_close(s[i]);
}

static void ten_at_once(rig_kind kind)
{
    rig r;
    uint32_t ids[SESSIONS][30];
    tarn_session *s[SESSIONS];
    rig_open(&r, kind, &(tarn_engine_options){.n_threads = 2, .step_tokens_max = 256});
    open_many(&r, s, SESSIONS);
    uint32_t n_rows = 0;
    for (uint32_t i = 0; i < SESSIONS; i++) {
        rig_ids(&r, i, ids[i], 30);
        OK(tarn_session_append_tokens(s[i], ids[i], 11 + i, ERR));
        n_rows += 11 + i;
    }
    tarn_step all = step(&r);
    CHECK_EQ(all.n_rows, n_rows);
    CHECK_EQ(all.n_sessions, SESSIONS);
    CHECK_EQ(step(&r).n_rows, 0);
    for (uint32_t i = 0; i < SESSIONS; i++) {
        tarn_session *alone = rig_loose(&r, "alone");
        rig_feed(alone, ids[i], 11 + i);
        CHECK(rig_same_logits(s[i], alone));
        tarn_session_close(alone);
    }
    close_many(s, SESSIONS);
    rig_close(&r);
}

CASE(ten_appends_are_one_step_tiny)
{
    ten_at_once(RIG_TINY);
}

CASE(ten_appends_are_one_step_recall)
{
    ten_at_once(RIG_RECALL);
}

CASE(shares_are_equal_and_none_is_wasted)
{
    rig r;
    uint32_t ids[100];
    tarn_session *s[4];
    static const uint32_t waiting[4] = {100, 10, 100, 5};
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1, .step_tokens_max = 64});
    rig_ids(&r, 1, ids, 100);
    open_many(&r, s, 4);
    for (size_t i = 0; i < 4; i++)
        OK(tarn_session_append_tokens(s[i], ids, waiting[i], ERR));
    CHECK_EQ(step(&r).n_rows, 64);
    CHECK_EQ(position(s[1]), 10);
    CHECK_EQ(position(s[3]), 5);
    CHECK_EQ(position(s[0]) + position(s[2]), 49);
    CHECK(position(s[0]) == 24 || position(s[0]) == 25);
    CHECK_EQ(step(&r).n_rows, 64);
    CHECK_EQ(position(s[0]) + position(s[2]), 113);
    CHECK_EQ(step(&r).n_rows, 64);
    CHECK_EQ(step(&r).n_rows, 23);
    CHECK_EQ(step(&r).n_rows, 0);
    close_many(s, 4);
    rig_close(&r);
}

static uint64_t spread(tarn_session **s, size_t n)
{
    uint64_t least = UINT64_MAX, most = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t p = position(s[i]);
        least = p < least ? p : least;
        most = p > most ? p : most;
    }
    return most - least;
}

CASE(nobody_waits_twice_where_there_is_no_room)
{
    rig r;
    uint32_t ids[40];
    tarn_session *s[SESSIONS];
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1, .step_tokens_max = 4});
    rig_ids(&r, 2, ids, 40);
    open_many(&r, s, SESSIONS);
    for (size_t i = 0; i < SESSIONS; i++)
        OK(tarn_session_append_tokens(s[i], ids, 40, ERR));
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(step(&r).n_rows, 4);
        CHECK(spread(s, SESSIONS) <= 1);
    }
    CHECK_EQ(step(&r).n_rows, 0);
    for (size_t i = 0; i < SESSIONS; i++) {
        tarn_generate_options o = {.size = sizeof o, .n_tokens_max = 10};
        rig_never_stop(&r, s[i]);
        OK(tarn_session_generate(s[i], &o, ERR));
    }
    for (int i = 0; i < 25; i++) {
        CHECK_EQ(step(&r).n_rows, 4);
        CHECK(spread(s, SESSIONS) <= 1);
    }
    rig_drain(&r);
    CHECK_EQ(spread(s, SESSIONS), 0);
    CHECK_EQ(position(s[0]), 50);
    close_many(s, SESSIONS);
    rig_close(&r);
}

/* Closing the session whose turn it is. */
CASE(a_round_survives_who_leaves_it)
{
    rig r;
    uint32_t ids[40];
    tarn_session *s[SESSIONS];
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1, .step_tokens_max = 1});
    rig_ids(&r, 3, ids, 40);
    open_many(&r, s, SESSIONS);
    for (size_t i = 0; i < SESSIONS; i++)
        OK(tarn_session_append_tokens(s[i], ids, 2, ERR));
    for (size_t i = SESSIONS; i-- > 0;) {
        step(&r);
        tarn_session_close(s[i]);
    }
    CHECK_EQ(step(&r).n_rows, 0);
    CHECK_EQ(rig_stat(&r).slots, 0);
    rig_close(&r);
}

/* A long append beside a generation: a token at every step, and steps that stay short. */
CASE(an_append_does_not_hold_up_a_generation)
{
    enum { LONG = RIG_FEW(1500, 300), STEP = 1024 };
    rig r;
    static uint32_t ids[LONG];
    static rig_told told, alone_told;
    rig_open(
        &r, RIG_TINY,
        &(tarn_engine_options){.n_threads = 1, .step_tokens_max = STEP, .decode_latency_ms = 1});
    rig_ids(&r, 4, ids, LONG);
    tarn_session *talks = rig_loose(&r, "talks"), *reads = rig_loose(&r, "reads");
    rig_never_stop(&r, talks);
    rig_feed(talks, ids, 50);
    tarn_session *alone = rig_fork(talks, "alone");
    OK(tarn_session_generate(talks, NULL, ERR));
    OK(tarn_session_append_tokens(reads, ids, LONG, ERR));
    memset(&told, 0, sizeof told);
    size_t n_steps = 0;
    tarn_event event;
    while (rig_info(reads).tokens_waiting > 0) {
        tarn_step done = step(&r);
        CHECK_EQ(done.n_sessions, 2);
        CHECK(done.n_rows >= 2 && done.n_rows < STEP);
        n_steps++;
        while (tarn_engine_poll(r.engine, &event))
            if (event.session == talks)
                rig_hear(&told, &event);
        CHECK_EQ(told.n_ids, n_steps);
    }
    CHECK(n_steps >= 3);
    tarn_session_cancel(talks);
    rig_drain(&r);
    rig_generate(alone, n_steps, &alone_told);
    CHECK_IDS(told.ids, alone_told.ids, n_steps < RIG_TOLD_IDS ? n_steps : RIG_TOLD_IDS);
    tarn_session_close(alone);
    alone = rig_loose(&r, "alone");
    rig_feed(alone, ids, LONG);
    CHECK(rig_same_logits(alone, reads));
    tarn_session_close(alone);
    tarn_session_close(talks);
    tarn_session_close(reads);
    rig_close(&r);
}

/* ---- what ends a generation ---- */

enum { TALKERS = 4, TALK = 12 };

/* Generates in all at once, and hears each apart. */
static void talk(rig *r, tarn_session **s, const tarn_generate_options *o, rig_told *told)
{
    tarn_event event;
    memset(told, 0, TALKERS * sizeof *told);
    for (size_t i = 0; i < TALKERS; i++)
        OK(tarn_session_generate(s[i], &o[i], ERR));
    while (step(r).n_rows > 0)
        while (tarn_engine_poll(r->engine, &event))
            for (size_t i = 0; i < TALKERS; i++)
                if (event.session == s[i])
                    rig_hear(&told[i], &event);
}

static void check_told(const rig_told *told, const uint32_t *want, size_t n, tarn_stop stop)
{
    CHECK_EQ(told->n_ids, n);
    CHECK_IDS(told->ids, want, n);
    CHECK_EQ(told->n_stops, 1);
    CHECK_EQ(told->stop, stop);
}

/* In the same steps, one with as many ids as are allowed, one whose ids the host draws; then with
 * other ids than before. */
CASE(each_session_stops_at_its_own_ids)
{
    rig r;
    uint32_t ids[20], others[TARN_STOP_IDS_MAX];
    size_t at[2] = {0};
    tarn_session *s[TALKERS];
    static rig_told want, told[TALKERS];
    tarn_sampling sampling = {.size = sizeof sampling, .temperature = 1, .seed = 3};
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1});
    rig_ids(&r, 7, ids, 20);
    open_many(&r, s, TALKERS);
    tarn_session *alone = rig_loose(&r, "alone");
    rig_feed(alone, ids, 20);
    OK(tarn_session_set_sampling(alone, &sampling, ERR));
    rig_generate(alone, TALK, &want);
    for (size_t i = 1, n = 0; n < 2 && i < TALK; i++) { /* places of ids that come first there */
        at[n] = i;
        for (size_t k = 0; k < i && at[n] == i; k++)
            at[n] = want.ids[k] == want.ids[i] ? 0 : i;
        n += at[n] == i;
    }
    CHECK(at[0] > 0 && at[1] > at[0]);
    uint32_t early = want.ids[at[0]], late = want.ids[at[1]];
    for (uint32_t i = 0; i < TARN_STOP_IDS_MAX; i++)
        others[i] = r.vocab + i;
    others[TARN_STOP_IDS_MAX - 1] = early;
    tarn_generate_options o[TALKERS] = {{.stop_ids = &late, .n_stop_ids = 1},
                                        {.stop_ids = others, .n_stop_ids = TARN_STOP_IDS_MAX},
                                        {.stop_ids = others, .n_stop_ids = TARN_STOP_IDS_MAX - 1},
                                        {.stop_ids = &early, .n_stop_ids = 1}};
    for (size_t i = 0; i < TALKERS; i++) {
        o[i].size = sizeof o[i];
        o[i].n_tokens_max = TALK;
        rig_feed(s[i], ids, 20);
        if (i == 3) /* changes nothing but who draws */
            sampling.bias[sampling.n_bias++] = (tarn_logit_bias){.id = 1};
        OK(tarn_session_set_sampling(s[i], &sampling, ERR));
    }
    talk(&r, s, o, told);
    check_told(&told[0], want.ids, at[1] + 1, TARN_STOP_TOKEN);
    check_told(&told[1], want.ids, at[0] + 1, TARN_STOP_TOKEN);
    check_told(&told[2], want.ids, TALK, TARN_STOP_LENGTH);
    check_told(&told[3], want.ids, at[0] + 1, TARN_STOP_TOKEN);
    CHECK(rig_same_logits(s[1], s[3]));
    CHECK(rig_same_logits(s[2], alone));
    size_t left = at[1] - at[0];
    for (size_t i = 1; i < TALKERS; i += 2)
        o[i].stop_ids = &late, o[i].n_stop_ids = 1;
    o[0].n_tokens_max = o[2].n_tokens_max = 1;
    talk(&r, s, o, told);
    check_told(&told[1], want.ids + at[0] + 1, left, TARN_STOP_TOKEN);
    check_told(&told[3], want.ids + at[0] + 1, left, TARN_STOP_TOKEN);
    close_many(s, TALKERS);
    tarn_session_close(alone);
    rig_close(&r);
}

/* ---- memory in a step ---- */

static long n_allocations;

static void *counting_alloc(void *user, size_t n_bytes)
{
    (void)user;
    n_allocations++;
    return malloc(n_bytes);
}

static void *counting_resize(void *user, void *memory, size_t n_bytes)
{
    (void)user;
    n_allocations++;
    return realloc(memory, n_bytes);
}

static void counting_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

static void no_allocation(rig_kind kind)
{
    enum { PAGES = RIG_FEW(8, 3), TOKENS = PAGES * 64 }; /* neither ends where ids grow */
    static const tarn_allocator counting = {counting_alloc, counting_resize, counting_release,
                                            NULL};
    rig r;
    uint32_t ids[64];
    tarn_session *s[4];
    tarn_event event;
    rig_open(&r, kind, &(tarn_engine_options){.n_threads = 1, .allocator = &counting});
    rig_ids(&r, 5, ids, 64);
    open_many(&r, s, 4);
    tarn_generate_options o = {.size = sizeof o, .n_tokens_max = TOKENS};
    for (size_t i = 0; i < 4; i++) {
        rig_never_stop(&r, s[i]);
        rig_feed(s[i], ids, 64);
    }
    for (size_t i = 0; i < 4; i++)
        OK(tarn_session_generate(s[i], &o, ERR));
    for (int i = 0; i < 8; i++) { /* the first steps find their sizes */
        step(&r);
        while (tarn_engine_poll(r.engine, &event))
            ;
    }
    long before = n_allocations;
    uint64_t n_rows = 0;
    for (int i = 8; i < TOKENS; i++) {
        n_rows += step(&r).n_rows;
        while (tarn_engine_poll(r.engine, &event))
            ;
    }
    CHECK_EQ(n_rows, (uint64_t)4 * (TOKENS - 8));
    /* a page every 64 tokens, and now and then its table and the ids grow by half */
    long n = n_allocations - before;
    printf("%ld allocations for %d tokens of four sessions\n", n, TOKENS - 8);
    CHECK(n <= 4 * (PAGES + 12));
    tarn_generate_options more = {.size = sizeof more, .n_tokens_max = 50};
    for (size_t i = 0; i < 4; i++)
        OK(tarn_session_generate(s[i], &more, ERR));
    step(&r);
    while (tarn_engine_poll(r.engine, &event))
        ;
    before = n_allocations;
    for (int i = 1; i < 50; i++) {
        step(&r);
        while (tarn_engine_poll(r.engine, &event))
            ;
    }
    CHECK_EQ(n_allocations - before, 0); /* within a page: none at all */
    close_many(s, 4);
    rig_close(&r);
}

CASE(nothing_is_allocated_per_token_tiny)
{
    no_allocation(RIG_TINY);
}

CASE(nothing_is_allocated_per_token_recall)
{
    RIG_SKIP_REDUCED();
    no_allocation(RIG_RECALL);
}

CHECK_MAIN(ENTRY(ten_appends_are_one_step_tiny), ENTRY(ten_appends_are_one_step_recall),
           ENTRY(shares_are_equal_and_none_is_wasted),
           ENTRY(nobody_waits_twice_where_there_is_no_room), ENTRY(a_round_survives_who_leaves_it),
           ENTRY(an_append_does_not_hold_up_a_generation), ENTRY(each_session_stops_at_its_own_ids),
           ENTRY(nothing_is_allocated_per_token_tiny), ENTRY(nothing_is_allocated_per_token_recall))
