/* What parking asks of a device, in which order: the copy of a session's memory goes beside the
 * steps of others, and its memory is nobody else's until the copy has passed. For the emulated
 * device alone, where a piece of the copy is done whenever somebody looks, and nothing by itself.
 */
#include "check.h"
#include "fixture.h"

/* From hooks.cpp. */
void emu_watch_begin(void);
const char *emu_watch_end(void);

enum { N = 70, LOOKS_MAX = 1000 };

static const tarn_engine_options pinning = {.n_threads = 1, .pinned_bytes_max = 1 << 20};

/* One token, whatever it is. */
static void step_one(tarn_session *s)
{
    const uint32_t id = 1;
    rig_feed(s, &id, 1);
}

/* Where `what` stands at an even place from `from` on; -1: nowhere. */
static long place(const char *watched, const char *what, long from)
{
    for (long i = from; i < (long)strlen(watched); i += 2)
        if (strncmp(watched + i, what, 2) == 0)
            return i;
    return -1;
}

static long last_place(const char *watched, const char *what)
{
    long found = -1;
    for (long at = 0; (at = place(watched, what, at)) >= 0; at += 2)
        found = at;
    return found;
}

CASE(steps_of_others_go_on_while_one_leaves)
{
    rig r;
    rig_open(&r, RIG_TINY, &pinning);
    r.session_flags = TARN_SESSION_NO_PREFIX;
    tarn_session *s = rig_kept(&r, "a", 1, N), *same = rig_kept(&r, "b", 1, N),
                 *other = rig_kept(&r, "c", 2, N);
    step_one(other); /* nothing of its commit is under way any more */
    tarn_engine_stat before = rig_stat(&r), now = before;
    emu_watch_begin();
    OK(tarn_session_park(s, ERR));
    CHECK_BYTES(emu_watch_end(), "", 1); /* nobody has waited for anything */
    CHECK_EQ(rig_info(s).state, TARN_SESSION_PARKED);
    CHECK_EQ(rig_stat(&r).pinned, 1);
    emu_watch_begin();
    int n_steps = 0;
    while (now.slots == before.slots && n_steps < LOOKS_MAX) {
        CHECK_EQ(now.slots, before.slots);
        CHECK_EQ(now.pages, before.pages);
        step_one(other);
        now = rig_stat(&r);
        n_steps++;
    }
    const char *watched = emu_watch_end();
    printf("%d steps beside the copy: %.60s...\n", n_steps, watched);
    CHECK_EQ(before.slots - now.slots, 1);
    CHECK_EQ(before.pages - now.pages, (N + 63) / 64);
    CHECK(n_steps > 3);
    long begin = place(watched, "2k", 0), end = last_place(watched, "2d");
    CHECK(begin >= 0 && end > begin); /* states turned, then copied out */
    int n_kernels = 0;
    for (long at = begin; (at = place(watched, "1k", at)) >= 0 && at < end; at += 2)
        n_kernels++;
    CHECK(n_kernels > n_steps);
    step_one(other); /* in what was given back or not */
    const float *logits;
    OK(tarn_session_logits(s, &logits, NULL, ERR));
    CHECK_EQ(rig_info(s).reuse.bytes_read, 0);
    CHECK(rig_same_logits(s, same));
    step_one(s);
    step_one(same);
    CHECK(rig_same_logits(s, same));
    tarn_session_close(s);
    tarn_session_close(same);
    tarn_session_close(other);
    rig_close(&r);
}

/* Used again at once, it has its memory back, and nothing is copied in. */
CASE(one_that_is_used_while_it_leaves_stays)
{
    rig r;
    rig_open(&r, RIG_TINY, &pinning);
    r.session_flags = TARN_SESSION_NO_PREFIX;
    tarn_session *s = rig_kept(&r, "a", 1, N), *same = rig_kept(&r, "b", 1, N);
    tarn_engine_stat before = rig_stat(&r);
    for (int i = 0; i < 3; i++) {
        OK(tarn_session_park(s, ERR));
        for (int k = 0; k < i; k++)
            step_one(same);
        const float *logits;
        emu_watch_begin();
        OK(tarn_session_logits(s, &logits, NULL, ERR));
        CHECK_EQ(place(emu_watch_end(), "1u", 0), -1);
        CHECK_EQ(rig_info(s).reuse.bytes_read, 0);
        CHECK_EQ(rig_stat(&r).pinned, 0);
        CHECK_EQ(rig_stat(&r).slots, before.slots);
        for (int k = 0; k < i; k++)
            step_one(s);
        CHECK(rig_same_logits(s, same));
        rig_commit(s);
        rig_commit(same);
    }
    OK(tarn_session_park(s, ERR));
    tarn_session_close(s); /* with the copy under way */
    tarn_session_close(same);
    CHECK_EQ(rig_stat(&r).slots, 0);
    CHECK_EQ(rig_stat(&r).pages, 0);
    CHECK_EQ(rig_stat(&r).pinned_bytes, 0);
    rig_close(&r);
}

/* Room for two beside what is kept free: who needs that memory waits for the copy, and for no more
 * than that. */
CASE(who_needs_just_that_memory_waits_for_it)
{
    rig r;
    rig_open_room(&r, &pinning, 4, 0);
    tarn_session *s[4];
    for (size_t i = 0; i < 4; i++)
        s[i] = rig_kept(&r, (const char *[]){"a", "b", "c", "d"}[i], 1, N);
    for (size_t i = 0; i < 12; i++) {
        step_one(s[i % 4]); /* always the one that was parked first */
        CHECK_EQ(rig_info(s[i % 4]).reuse.bytes_read, 0);
        rig_commit(s[i % 4]);
        CHECK(rig_stat(&r).slots_bytes <= rig_stat(&r).slots_bytes_max);
        if (i % 4 > 0)
            CHECK(rig_same_logits(s[i % 4], s[i % 4 - 1]));
    }
    for (size_t i = 0; i < 4; i++)
        tarn_session_close(s[i]);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* Steps until `s` generates no more; *without counts those that it had no row in. */
static void step_to_end(rig *r, tarn_session *s, rig_told *told, int *without, bool *empty)
{
    tarn_step done = {.size = sizeof done};
    tarn_event event;
    memset(told, 0, sizeof *told);
    *without = 0;
    *empty = false;
    while (rig_info(s).state == TARN_SESSION_GENERATING) {
        uint64_t before = rig_info(s).at.position;
        OK(tarn_engine_step(r->engine, &done, ERR));
        *without += rig_info(s).at.position == before;
        *empty = *empty || done.n_rows == 0;
        while (tarn_engine_poll(r->engine, &event))
            if (event.session == s)
                rig_hear(told, &event);
    }
}

/* A page in the middle of a generation, of all that there are, from one that is idle. */
CASE(a_step_leaves_out_who_waits_and_waits_itself_for_the_last)
{
    enum { BEGIN = 60, SAID = 10 };
    rig r;
    uint32_t ids[N];
    static rig_told told, want;
    int without;
    bool empty;
    tarn_engine_options o = pinning;
    o.tokens_max = 4 * 64;
    rig_open(&r, RIG_TINY, &o);
    r.session_flags = TARN_SESSION_NO_PREFIX;
    rig_ids(&r, 5, ids, N);
    tarn_session *s = rig_session(&r, "a", NULL), *other = rig_loose(&r, "b");
    rig_feed(s, ids, BEGIN);
    rig_feed(other, ids, 10);
    tarn_session *idle = rig_kept(&r, "c", 1, N);
    rig_never_stop(&r, s);
    rig_never_stop(&r, other);
    tarn_generate_options g = {.size = sizeof g, .n_tokens_max = SAID};
    OK(tarn_session_generate(s, &g, ERR));
    g.n_tokens_max = 50;
    OK(tarn_session_generate(other, &g, ERR));
    step_to_end(&r, s, &told, &without, &empty);
    CHECK(without > 3); /* steps that only the other was in */
    CHECK(!empty);
    CHECK_EQ(told.n_ids, SAID);
    CHECK_EQ(told.stop, TARN_STOP_LENGTH);
    CHECK_EQ(rig_info(idle).state, TARN_SESSION_PARKED);
    rig_drain(&r);
    CHECK_EQ(rig_info(other).at.position, 60);
    tarn_session_close(other);
    tarn_session *same = rig_loose(&r, "same");
    rig_never_stop(&r, same);
    rig_feed(same, ids, BEGIN);
    rig_answer(same, SAID, &want);
    CHECK_IDS(told.ids, want.ids, SAID);
    CHECK(rig_same_logits(s, same));
    tarn_session_close(same);
    const float *logits;
    OK(tarn_session_logits(idle, &logits, NULL, ERR)); /* has its two pages again */
    g.n_tokens_max = 129 - BEGIN - SAID;
    OK(tarn_session_generate(s, &g, ERR));
    step_to_end(&r, s, &told, &without, &empty);
    CHECK_EQ(without, 0);
    CHECK_EQ(rig_info(s).at.position, 129);
    CHECK_EQ(rig_info(idle).state, TARN_SESSION_PARKED);
    tarn_session_close(s);
    tarn_session_close(idle);
    rig_close(&r);
}

/* Three on their way, in another order than they were opened in. */
CASE(who_left_first_is_waited_for)
{
    rig r;
    rig_open_room(&r, &pinning, 5, 0);
    tarn_session *s[3], *other = rig_loose(&r, "other");
    for (size_t i = 0; i < 3; i++)
        s[i] = rig_kept(&r, (const char *[]){"a", "b", "c"}[i], 1, N);
    const size_t order[] = {1, 2, 0};
    const uint32_t id = 1;
    const float *logits;
    for (size_t i = 0; i < 3; i++)
        OK(tarn_session_park(s[order[i]], ERR));
    CHECK_EQ(rig_stat(&r).slots, 3);
    OK(tarn_session_append_tokens(other, &id, 1, ERR)); /* takes the slot of one */
    CHECK_EQ(rig_stat(&r).slots, 3);
    CHECK_EQ(rig_stat(&r).pinned, 3);
    emu_watch_begin();
    for (size_t i = 1; i < 3; i++)
        OK(tarn_session_logits(s[order[i]], &logits, NULL, ERR));
    CHECK_EQ(place(emu_watch_end(), "1u", 0), -1); /* these two had not left */
    CHECK_EQ(rig_stat(&r).pinned, 1);
    tarn_session_close(other);
    emu_watch_begin();
    OK(tarn_session_logits(s[order[0]], &logits, NULL, ERR));
    CHECK(place(emu_watch_end(), "1u", 0) >= 0);
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(rig_info(s[i]).reuse.bytes_read, 0);
        CHECK(rig_same_logits(s[i], s[0]));
    }
    for (size_t i = 0; i < 3; i++)
        tarn_session_close(s[i]);
    rig_close(&r);
}

/* However far the copy is when somebody wants the memory, it comes, and the copy is whole. */
CASE(memory_that_comes_free_just_then)
{
    rig r;
    rig_open_room(&r, &pinning, 4, 0);
    tarn_session *s = rig_kept(&r, "a", 1, N), *same = rig_kept(&r, "b", 1, N);
    tarn_step done = {.size = sizeof done};
    const uint32_t id = 1;
    int n_looks = 0;
    for (bool left = false; !left && n_looks < LOOKS_MAX; n_looks++) {
        OK(tarn_session_park(s, ERR));
        for (int i = 0; i < n_looks; i++)
            OK(tarn_engine_step(r.engine, &done, ERR));
        left = rig_stat(&r).slots == 1; /* of itself: the last of all these */
        tarn_session *other = rig_loose(&r, "other");
        OK(tarn_session_append_tokens(other, &id, 1, ERR));
        CHECK_EQ(rig_stat(&r).slots, 2);
        CHECK_EQ(rig_info(same).state, TARN_SESSION_IDLE); /* it had not to go */
        tarn_session_close(other);
        CHECK(rig_same_logits(s, same));
        CHECK_EQ(rig_info(s).reuse.bytes_read, 0);
    }
    CHECK(n_looks > 3 && n_looks < LOOKS_MAX);
    tarn_session_close(s);
    tarn_session_close(same);
    rig_close(&r);
}

/* A generation is committed on the way and needs a slot that another is just leaving: it is left
 * out of steps until that one has left, and says the same. */
CASE(a_generation_waits_for_a_slot)
{
    enum { BEGIN = 20, EACH = 4, ROUNDS = 4 };
    rig r;
    uint32_t ids[N];
    static rig_told told, want;
    tarn_ticket ticket;
    int without, n_without = 0;
    bool empty;
    rig_open_room(&r, &pinning, 5, 0);
    rig_ids(&r, 5, ids, N);
    tarn_session *s = rig_session(&r, "a", NULL), *other = rig_loose(&r, "other");
    tarn_session *idle = rig_kept(&r, "c", 1, N);
    rig_feed(s, ids, BEGIN);
    rig_feed(other, ids, BEGIN);
    rig_never_stop(&r, s);
    rig_never_stop(&r, other);
    for (int i = 0; i < ROUNDS; i++) {
        tarn_generate_options g = {.size = sizeof g, .n_tokens_max = EACH};
        OK(tarn_session_generate(s, &g, ERR));
        g.n_tokens_max = 30;
        OK(tarn_session_generate(other, &g, ERR));
        OK(tarn_session_commit_begin(s, &ticket, ERR));
        step_to_end(&r, s, &told, &without, &empty);
        n_without += without;
        CHECK_EQ(told.n_ids, EACH);
        memcpy(want.ids + want.n_ids, told.ids, EACH * sizeof told.ids[0]);
        want.n_ids += EACH;
        rig_drain(&r);
        const float *logits;
        OK(tarn_session_logits(idle, &logits, NULL, ERR)); /* back, to leave once more */
        rig_commit(s);
    }
    CHECK(n_without > 0);
    tarn_session_close(other);
    tarn_session_close(idle);
    tarn_session *same = rig_loose(&r, "same");
    rig_never_stop(&r, same);
    rig_feed(same, ids, BEGIN);
    rig_answer(same, ROUNDS * EACH, &told);
    CHECK_IDS(want.ids, told.ids, ROUNDS * EACH);
    tarn_session_close(same);
    tarn_session_close(s);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(steps_of_others_go_on_while_one_leaves),
           ENTRY(one_that_is_used_while_it_leaves_stays),
           ENTRY(who_needs_just_that_memory_waits_for_it),
           ENTRY(a_step_leaves_out_who_waits_and_waits_itself_for_the_last),
           ENTRY(who_left_first_is_waited_for), ENTRY(memory_that_comes_free_just_then),
           ENTRY(a_generation_waits_for_a_slot))
