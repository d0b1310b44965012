/* Where a copy that parking makes finds no place, no room to come back to, a device that fails, or
 * a process that ends: the store is there. For the emulated device alone, where a piece of the copy
 * is done whenever somebody looks, and nothing by itself. */
#include "check.h"
#include "fixture.h"

#include <signal.h>

/* From hooks.cpp. */
void emu_break(void);
void emu_break_after(int pieces);
unsigned mirror_faults(const char **first);

enum { N = 70 };

static const tarn_engine_options pinning = {.n_threads = 1, .pinned_bytes_max = 1 << 20};

static const uint32_t any_id = 1;

/* A copy on its way has its place until it has passed: who comes then finds none, and the store is
 * what it comes back from. So does one that is larger than the block, and who holds nothing. */
CASE(who_finds_no_place)
{
    enum { PAGES = (N + 63) / 64 };
    rig r;
    const float *logits;
    rig_open(&r, RIG_TINY, &pinning);
    r.session_flags = TARN_SESSION_NO_PREFIX;
    const tarn_plan_report plan = rig_plan(&r);
    tarn_engine_options o = pinning;
    o.pinned_bytes_max = plan.slot_bytes + PAGES * plan.page_bytes;
    rig_restart_engine(&r, &o);
    tarn_session *s = rig_kept(&r, "a", 1, N), *second = rig_kept(&r, "b", 1, N), *empty;
    OK(tarn_session_park(s, ERR));
    OK(tarn_session_park(second, ERR));
    CHECK_EQ(rig_stat(&r).pinned, 1);
    OK(tarn_session_logits(second, &logits, NULL, ERR));
    CHECK(rig_info(second).reuse.bytes_read > 0);
    OK(tarn_session_logits(s, &logits, NULL, ERR));
    CHECK_EQ(rig_info(s).reuse.bytes_read, 0);
    CHECK(rig_same_logits(s, second));
    empty = rig_session(&r, "empty", NULL);
    OK(tarn_session_park(empty, ERR));
    CHECK_EQ(rig_info(empty).state, TARN_SESSION_PARKED);
    CHECK_EQ(rig_stat(&r).pinned, 0);
    rig_feed(empty, &any_id, 1);
    CHECK_EQ(rig_info(empty).at.position, 1);
    o.pinned_bytes_max--;
    tarn_session_close(s);
    tarn_session_close(second);
    tarn_session_close(empty);
    rig_restart_engine(&r, &o);
    s = rig_session(&r, "a", NULL);
    OK(tarn_session_park(s, ERR));
    CHECK_EQ(rig_stat(&r).pinned, 0);
    OK(tarn_session_logits(s, &logits, NULL, ERR));
    CHECK(rig_info(s).reuse.bytes_read > 0);
    tarn_session_close(s);
    rig_close(&r);
}

/* Room for one, and that is in use by who cannot go: it stays where it is, and comes back later. */
static void no_room_to_come_back(uint32_t n_slots, uint64_t n_pages, const char *words)
{
    rig r;
    const float *logits;
    const char *fault;
    uint32_t ids[N];
    tarn_step done = {.size = sizeof done};
    rig_open_room(&r, &pinning, n_slots, n_pages);
    rig_ids(&r, 1, ids, N);
    tarn_session *s = rig_kept(&r, "a", 1, N), *loose[2];
    OK(tarn_session_park(s, ERR));
    while (rig_stat(&r).slots > 0)
        OK(tarn_engine_step(r.engine, &done, ERR));
    for (size_t i = 0; i < 2; i++) {
        loose[i] = rig_loose(&r, "loose");
        rig_feed(loose[i], ids, N);
    }
    REFUSED(tarn_session_logits(s, &logits, NULL, ERR), TARN_E_LIMIT, words);
    CHECK_EQ(rig_info(s).state, TARN_SESSION_PARKED);
    CHECK_EQ(rig_stat(&r).pinned, 1);
    CHECK_EQ(rig_stat(&r).slots, 2);
    CHECK_EQ(rig_stat(&r).pages, 4);
    tarn_session_close(loose[0]);
    OK(tarn_session_logits(s, &logits, NULL, ERR));
    CHECK_EQ(rig_info(s).reuse.bytes_read, 0);
    CHECK(rig_same_logits(s, loose[1]));
    /* and a device that fails when it is to come back, or has failed before */
    OK(tarn_session_park(s, ERR));
    while (rig_stat(&r).slots > 1)
        OK(tarn_engine_step(r.engine, &done, ERR));
    emu_break();
    for (int i = 0; i < 2; i++) {
        REFUSED(tarn_session_logits(s, &logits, NULL, ERR), TARN_E_DEVICE,
                i ? "store is not touched" : "copying a session's memory");
        CHECK_EQ(rig_info(s).state, TARN_SESSION_PARKED);
        CHECK_EQ(rig_stat(&r).pinned, 1);
        CHECK_EQ(rig_stat(&r).slots, 1);
        CHECK_EQ(rig_stat(&r).pages, 2);
        if (i == 0) {
            OK(tarn_session_append_tokens(loose[1], ids, 1, ERR));
            OK(tarn_engine_step(r.engine, &done, ERR));
        }
        CHECK_EQ(rig_info(loose[1]).state, TARN_SESSION_POISONED);
    }
    tarn_session_close(loose[1]);
    tarn_session_close(s);
    CHECK(mirror_faults(&fault) > 0);
    rig_close(&r);
}

CASE(there_may_be_no_room_to_come_back)
{
    no_room_to_come_back(4, 20, "state slots");
    no_room_to_come_back(20, 4, "all 4 latent pages");
}

/* The device fails just while somebody waits for the copy: the memory comes, what is in the block
 * is nobody's. */
CASE(a_copy_that_fails_while_it_is_waited_for)
{
    rig r;
    const char *fault;
    rig_open_room(&r, &pinning, 4, 20);
    tarn_session *s = rig_kept(&r, "a", 1, N), *other = rig_kept(&r, "b", 2, N),
                 *third = rig_loose(&r, "c");
    OK(tarn_session_park(s, ERR));
    emu_break_after(2); /* one piece when it is looked at, and one more */
    OK(tarn_session_append_tokens(third, &any_id, 1, ERR));
    CHECK_EQ(rig_stat(&r).pinned, 0);
    CHECK_EQ(rig_stat(&r).pinned_bytes, 0);
    CHECK_EQ(rig_stat(&r).slots, 2);
    CHECK_EQ(rig_info(s).state, TARN_SESSION_PARKED);
    tarn_session_close(s);
    tarn_session_close(other);
    tarn_session_close(third);
    CHECK(mirror_faults(&fault) > 0);
    rig_restart_engine(&r, NULL);
    s = rig_session(&r, "a", NULL);
    CHECK_EQ(rig_info(s).at.position, N);
    tarn_session_close(s);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

/* The device fails with the copy half done: what was half copied is used by nobody. */
CASE(a_copy_that_fails_leaves_the_store)
{
    rig r;
    const char *fault;
    const float *logits;
    tarn_reuse reuse;
    rig_open(&r, RIG_TINY, &pinning);
    r.session_flags = TARN_SESSION_NO_PREFIX;
    tarn_session *s = rig_kept(&r, "a", 1, N), *other = rig_kept(&r, "b", 2, N);
    OK(tarn_session_park(s, ERR));
    rig_feed(other, &any_id, 1);
    tarn_step done = {.size = sizeof done};
    emu_break();
    OK(tarn_engine_step(r.engine, &done, ERR)); /* looks, and finds it failed */
    CHECK_EQ(rig_stat(&r).pinned, 0);
    CHECK_EQ(rig_stat(&r).pinned_bytes, 0);
    CHECK_EQ(rig_info(s).state, TARN_SESSION_PARKED);
    CHECK(tarn_session_logits(s, &logits, NULL, ERR) != TARN_OK);
    tarn_session_close(s);
    tarn_session_close(other);
    CHECK_EQ(rig_stat(&r).slots, 0);
    CHECK(mirror_faults(&fault) > 0);
    rig_restart_engine(&r, NULL);
    s = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.reason, TARN_REASON_EXACT);
    CHECK_EQ(reuse.tokens_reused, N);
    CHECK_EQ(reuse.tokens_replayed, 0);
    tarn_session *same = rig_kept(&r, "c", 1, N);
    CHECK(rig_same_logits(s, same));
    tarn_session_close(s);
    tarn_session_close(same);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

static int child_dies(const char *dir)
{
    rig r;
    rig_join(&r, RIG_TINY, dir, &pinning);
    tarn_session *s = rig_kept(&r, "a", 1, N), *other = rig_kept(&r, "b", 2, N);
    OK(tarn_session_park(s, ERR));
    rig_feed(other, &any_id, 1);
    raise(SIGKILL);
    return 0;
}

CASE(a_process_that_dies_while_one_leaves_loses_nothing)
{
    rig r;
    tarn_reuse reuse;
    rig_open(&r, RIG_TINY, &pinning);
    r.session_flags = TARN_SESSION_NO_PREFIX;
    rig_leave(&r);
    CHECK_EQ(rig_rerun((const char *[]){"--child", r.dir, NULL}), 128 + SIGKILL);
    rig_restart(&r, NULL);
    tarn_session *s = rig_session(&r, "a", &reuse);
    CHECK_EQ(reuse.reason, TARN_REASON_EXACT);
    CHECK_EQ(reuse.tokens_reused, N);
    tarn_session *same = rig_kept(&r, "c", 1, N);
    CHECK(rig_same_logits(s, same));
    tarn_session_close(s);
    tarn_session_close(same);
    CHECK_EQ(rig_verify(r.store), 0);
    rig_close(&r);
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {
        ENTRY(who_finds_no_place), ENTRY(there_may_be_no_room_to_come_back),
        ENTRY(a_copy_that_fails_while_it_is_waited_for), ENTRY(a_copy_that_fails_leaves_the_store),
        ENTRY(a_process_that_dies_while_one_leaves_loses_nothing)};
    if (argc == 3 && strcmp(argv[1], "--child") == 0)
        return child_dies(argv[2]);
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
