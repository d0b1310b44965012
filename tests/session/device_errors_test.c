/* What goes wrong with a device: each is told clearly, and what is in the store is resumed all the
 * same. For the emulated device alone, which can be asked to fail. */
#include "check.h"
#include "fixture.h"

#include <math.h>
#include <pthread.h>

/* From hooks.cpp. */
void emu_break(void);
void emu_break_after(int pieces);
void emu_fail_pins(int after);
void emu_device_count(int n);
void emu_memory_limit(size_t n_bytes);
unsigned mirror_faults(const char **first);

#define MIB (1u << 20)

enum { N = 100 };

static tarn_session *kept(rig *r, uint32_t *ids)
{
    rig_ids(r, 1, ids, N);
    tarn_session *s = rig_session(r, "a", NULL);
    rig_feed(s, ids, N);
    rig_commit(s);
    return s;
}

/* Two engines on one device, each with a share of its memory, do not notice one another. */
CASE(two_engines_share_a_device_that_has_room)
{
    rig r;
    uint32_t ids[N];
    tarn_engine *second;
    tarn_session *other;
    tarn_engine_options o = {.size = sizeof o, .n_threads = 1, .device = RIG_DEVICE};
    rig_open(&r, RIG_TINY, &o);
    tarn_session *s = kept(&r, ids);
    OK(tarn_engine_open(r.model, &o, &second, ERR));
    OK(tarn_session_open(second, NULL, "b", NULL, &other, NULL, ERR));
    for (size_t i = 0; i < N; i += N / 4) { /* in turns */
        rig_feed(other, ids + i, N / 4);
        rig_feed(s, ids, 1);
    }
    OK(tarn_session_rewind(s, "@t:100", NULL, ERR));
    CHECK(rig_same_logits(s, other));
    tarn_session_close(other);
    tarn_engine_close(second);
    tarn_session_close(s);
    rig_close(&r);
}

static void ignore_logits(void *user, uint64_t position, const float *logits, uint32_t vocab)
{
    (void)user, (void)position, (void)logits, (void)vocab;
}

/* A session that looked for no prefix while every row was wanted, and failed in its first step, is
 * not looked at again. */
CASE(a_failed_session_adopts_nothing)
{
    rig r;
    uint32_t ids[N];
    const char *fault;
    tarn_step done = {.size = sizeof done};
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1});
    tarn_session *a = kept(&r, ids), *b = rig_session(&r, "b", NULL);
    tarn_session_on_logits(b, ignore_logits, NULL);
    OK(tarn_session_append_tokens(b, ids, N, ERR));
    emu_break();
    OK(tarn_engine_step(r.engine, &done, ERR));
    CHECK_EQ(rig_info(b).state, TARN_SESSION_POISONED);
    tarn_session_on_logits(b, NULL, NULL);
    OK(tarn_engine_step(r.engine, &done, ERR));
    CHECK_EQ(rig_info(b).state, TARN_SESSION_POISONED);
    CHECK_EQ(rig_info(b).reuse.tokens_reused, 0);
    tarn_session_close(b);
    tarn_session_close(a);
    CHECK(mirror_faults(&fault) > 0);
    rig_close(&r);
}

static void ignore_tensor(void *user, const char *name, const uint64_t *dims, uint32_t n_dims,
                          const float *data)
{
    (void)user, (void)name, (void)dims, (void)n_dims, (void)data;
}

typedef struct feeding {
    tarn_session *session;
    const uint32_t *ids;
} feeding;

static void *feed_on_another_thread(void *arg)
{
    const feeding *f = arg;
    rig_feed(f->session, f->ids, N / 2);
    return NULL;
}

/* Engines on two devices, asked in turns and by a thread that has asked nothing before. */
CASE(each_engine_asks_its_own_device)
{
    rig r;
    uint32_t ids[N];
    tarn_engine *second;
    tarn_session *other;
    pthread_t thread;
    tarn_engine_options o = {.size = sizeof o, .n_threads = 1, .device = "cuda:0"};
    emu_device_count(2);
    rig_open(&r, RIG_TINY, &o);
    rig_ids(&r, 1, ids, N);
    o.device = "cuda:1";
    OK(tarn_engine_open(r.model, &o, &second, ERR));
    tarn_session *s = rig_session(&r, "a", NULL);
    OK(tarn_session_open(second, NULL, "b", NULL, &other, NULL, ERR));
    rig_feed(s, ids, N / 2);
    rig_feed(other, ids, N / 2);
    rig_feed(s, ids, N / 2);
    feeding f = {other, ids};
    CHECK_EQ(pthread_create(&thread, NULL, feed_on_another_thread, &f), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(rig_same_logits(s, other));
    rig_commit(s); /* copied beside, and awaited by the encoder's thread */
    tarn_session_close(other);
    tarn_engine_close(second);
    rig_generate(s, 2, NULL);
    tarn_session_close(s);
    rig_close(&r);
    emu_device_count(1);
}

/* An engine takes what is left unless it is told otherwise. */
CASE(a_second_engine_that_finds_no_room_says_why)
{
    rig r;
    uint32_t ids[N];
    tarn_engine *second;
    tarn_engine_options o = {
        .size = sizeof o, .n_threads = 1, .device = RIG_DEVICE, .sessions_max = 2048};
    emu_memory_limit(256 * MIB);
    rig_open(&r, RIG_TINY, &o);
    tarn_session *s = kept(&r, ids);
    REFUSED(tarn_engine_open(r.model, &o, &second, ERR), TARN_E_NO_MEMORY, "MiB");
    CHECK_HAS(rig_error.detail, "free");
    CHECK_HAS(rig_error.detail, "1 more engine of this model is open");
    tarn_engine *small[2];
    tarn_engine_options few = o;
    few.pages_bytes_max = few.slots_bytes_max = 1 * MIB;
    few.step_tokens_max = 64;
    few.sessions_max = 2;
    emu_memory_limit(512 * MIB);
    for (size_t i = 0; i < 2; i++)
        OK(tarn_engine_open(r.model, &few, &small[i], ERR));
    emu_memory_limit(1 * MIB);
    REFUSED(tarn_engine_open(r.model, &few, &second, ERR), TARN_E_NO_MEMORY,
            "3 more engines of this model are open");
    for (size_t i = 0; i < 2; i++)
        tarn_engine_close(small[i]);
    emu_memory_limit(256 * MIB);
    rig_feed(s, ids, 1); /* the first is none the worse for it */
    rig_commit(s);
    tarn_session_close(s);
    o.pages_bytes_max = 8 * MIB; /* leaves room for another */
    rig_restart_engine(&r, &o);
    OK(tarn_engine_open(r.model, &o, &second, ERR));
    tarn_engine_close(second);
    rig_close(&r);
    emu_memory_limit((size_t)8 << 30);
}

CASE(too_little_memory_is_told_by_what_it_is_for)
{
    rig r;
    tarn_engine *e;
    tarn_engine_options o = {.size = sizeof o, .n_threads = 1, .device = RIG_DEVICE}, small;
    rig_open(&r, RIG_TINY, &o);
    tarn_engine_close(r.engine);
    r.engine = NULL;
    emu_memory_limit(1 * MIB);
    REFUSED(tarn_engine_open(r.model, &o, &e, ERR), TARN_E_NO_MEMORY, "MiB of workspace");
    CHECK_HAS(rig_error.detail, "are free");
    o.step_tokens_max = 8; /* hardly a workspace */
    emu_memory_limit(64 << 10);
    REFUSED(tarn_engine_open(r.model, &o, &e, ERR), TARN_E_NO_MEMORY, "free");
    emu_memory_limit((size_t)8 << 30);
    small = o;
    small.slots_bytes_max = 1000;
    REFUSED(tarn_engine_open(r.model, &small, &e, ERR), TARN_E_LIMIT, "slots_bytes_max is 1000");
    small = o;
    small.pages_bytes_max = 1000;
    REFUSED(tarn_engine_open(r.model, &small, &e, ERR), TARN_E_LIMIT, "pages_bytes_max is 1000");
    small = o;
    small.host_bytes_max = 10000;
    REFUSED(tarn_engine_open(r.model, &small, &e, ERR), TARN_E_NO_MEMORY, "memory");
    small = o;
    small.pinned_bytes_max = 5 * MIB;
    int n_pins = 0;
    for (tarn_status status = TARN_E_NO_MEMORY; status != TARN_OK; n_pins++) {
        emu_fail_pins(n_pins);
        status = tarn_engine_open(r.model, &small, &e, ERR);
        if (status == TARN_OK)
            tarn_engine_close(e);
        else
            REFUSED(status, TARN_E_NO_MEMORY, "pinned host memory");
    }
    CHECK(n_pins > 2);
    emu_fail_pins(n_pins - 2); /* the last that is pinned: what the parked ones have */
    REFUSED(tarn_engine_open(r.model, &small, &e, ERR), TARN_E_NO_MEMORY, "5120 KiB of pinned");
    emu_fail_pins(-1);
    rig_close(&r);
}

/* Forks have few pages of their own, but each has a table of all: more of them in one step than
 * ever before, on a device that is full. */
CASE(a_step_that_finds_no_memory)
{
    enum { FORKS = 570, LONG = 10 * 64 }; /* at first there is room for 6144 pages */
    rig r;
    uint32_t ids[LONG], n_failed = 0;
    static tarn_session *s[FORKS];
    tarn_step done = {.size = sizeof done};
    tarn_error why;
    rig_open(
        &r, RIG_TINY,
        &(tarn_engine_options){.n_threads = 1, .sessions_max = FORKS, .pages_bytes_max = 16 * MIB});
    rig_ids(&r, 1, ids, LONG);
    s[0] = rig_loose(&r, "a");
    rig_feed(s[0], ids, LONG);
    for (size_t i = 1; i < FORKS; i++)
        s[i] = rig_fork(s[0], "fork");
    for (size_t i = 0; i < FORKS; i++)
        OK(tarn_session_append_tokens(s[i], ids, 1, ERR));
    emu_memory_limit(0);
    OK(tarn_engine_step(r.engine, &done, ERR));
    CHECK_EQ(done.n_rows, FORKS);
    for (size_t i = 0; i < FORKS; i++) {
        tarn_session_failure(s[i], &why);
        n_failed += rig_info(s[i]).state == TARN_SESSION_POISONED && why.status == TARN_E_NO_MEMORY;
    }
    CHECK_EQ(n_failed, FORKS);
    CHECK_HAS(why.detail, "no memory for a step of 570 rows of 570 sessions");
    for (size_t i = 0; i < FORKS; i++)
        tarn_session_close(s[i]);
    s[0] = rig_loose(&r, "b"); /* the device is whole */
    rig_feed(s[0], ids, 3);
    tarn_session_close(s[0]);
    emu_memory_limit((size_t)8 << 30);
    rig_close(&r);
}

static void break_at_row(void *user, uint64_t position, const float *logits, uint32_t vocab)
{
    uint64_t *last = user;
    (void)logits, (void)vocab;
    *last = position;
    if (position == 3)
        emu_break();
}

/* What was computed lies on a device that is gone before it is read: rows that are scored, the row
 * an id is drawn from, all of a state. */
CASE(what_cannot_be_read_any_more)
{
    rig r;
    uint32_t ids[N];
    uint64_t last = 0;
    const char *fault;
    tarn_error why;
    tarn_step done = {.size = sizeof done};
    tarn_generate_options g = {.size = sizeof g, .n_tokens_max = 5};
    rig_open(&r, RIG_TINY, NULL);
    rig_ids(&r, 1, ids, N);
    for (int i = 0; i < 2; i++) {
        tarn_session *s = rig_loose(&r, "a"), *idle = rig_loose(&r, "idle");
        rig_feed(idle, ids, 10);
        if (i == 0) {
            tarn_session_on_logits(s, break_at_row, &last);
            OK(tarn_session_append_tokens(s, ids, 10, ERR));
        } else {
            rig_feed(s, ids, 10);
            rig_never_stop(&r, s); /* a bias: drawn here */
            OK(tarn_session_generate(s, &g, ERR));
            emu_break();
        }
        OK(tarn_engine_step(r.engine, &done, ERR));
        CHECK_EQ(last, 3);
        CHECK_EQ(rig_info(s).state, TARN_SESSION_POISONED);
        tarn_session_failure(s, &why);
        CHECK_EQ(why.status, TARN_E_DEVICE);
        CHECK_HAS(why.detail, "cudaErrorIllegalAddress");
        REFUSED(tarn_session_tensors(idle, ignore_tensor, NULL, ERR), TARN_E_DEVICE,
                "cudaErrorIllegalAddress");
        tarn_session_close(s);
        tarn_session_close(idle);
        CHECK(mirror_faults(&fault) > 0);
        rig_restart_engine(&r, NULL);
    }
    rig_close(&r);
}

/* Lives one, up to the first call that fails; *kept is the position of the last commit. */
static tarn_status live(rig *r, const char *name, const uint32_t *ids, uint64_t *kept)
{
    enum { BEGIN = 20, SAID = 3 };
    const float *logits;
    tarn_session *s = NULL;
    tarn_step done = {.size = sizeof done};
    tarn_session_options o = {.size = sizeof o,
                              .flags = TARN_SESSION_CREATE | TARN_SESSION_NO_PREFIX};
    tarn_generate_options g = {.size = sizeof g, .n_tokens_max = SAID};
    tarn_sampling p = {.size = sizeof p, .n_bias = 1, .bias = {{157, -INFINITY}}};
    tarn_status status = tarn_session_open(r->engine, r->store, name, &o, &s, NULL, ERR);
#define NEXT(call) status = status == TARN_OK ? (call) : status
    NEXT(tarn_session_set_sampling(s, &p, ERR));
    NEXT(tarn_session_append_tokens(s, ids, BEGIN, ERR));
    NEXT(tarn_session_run(s, NULL, NULL, ERR));
    NEXT(tarn_session_commit(s, NULL, ERR));
    *kept = status == TARN_OK ? BEGIN : 0;
    NEXT(tarn_session_generate(s, &g, ERR));
    NEXT(tarn_session_run(s, NULL, NULL, ERR));
    NEXT(tarn_session_commit(s, NULL, ERR));
    *kept = status == TARN_OK ? BEGIN + SAID : *kept;
    NEXT(tarn_session_park(s, ERR));
    for (int i = 0; i < 8; i++)
        NEXT(tarn_engine_step(r->engine, &done, ERR));
    NEXT(tarn_session_logits(s, &logits, NULL, ERR));
    NEXT(tarn_session_rewind(s, "@t:10", NULL, ERR));
    *kept = status == TARN_OK ? 10 : *kept;
    NEXT(tarn_session_run(s, NULL, NULL, ERR));
    NEXT(tarn_session_tensors(s, ignore_tensor, NULL, ERR));
#undef NEXT
    tarn_session_close(s);
    return status;
}

/* The device fails after so much work, wherever that is: said so, nothing is lost, and the process
 * ends nothing but its sessions. */
CASE(it_fails_at_any_piece_of_work)
{
    enum { APART = RIG_FEW(11, 41), MOST = 100000 };
    rig r;
    uint32_t ids[N];
    uint64_t kept;
    const char *fault;
    char name[32];
    int n = 0, n_failed = 0;
    rig_open(&r, RIG_TINY,
             &(tarn_engine_options){.n_threads = 1, .sessions_max = 4, .pinned_bytes_max = MIB});
    rig_ids(&r, 1, ids, N);
    for (bool ended = false; !ended && n < MOST; n += APART) {
        snprintf(name, sizeof name, "s%d", n);
        emu_break_after(n);
        tarn_status status = live(&r, name, ids, &kept);
        emu_break_after(-1);
        ended = mirror_faults(&fault) == 0;
        n_failed += status != TARN_OK;
        if (ended)
            CHECK_STATUS(status, TARN_OK);
        else if (status != TARN_OK && status != TARN_E_DEVICE && status != TARN_E_POISONED)
            CHECK_FAIL("%s after %d pieces: %s", tarn_status_name(status), n, rig_error.detail);
        CHECK_EQ(rig_stat(&r).slots, 0);
        CHECK_EQ(rig_stat(&r).pages, 0);
        CHECK_EQ(rig_stat(&r).pinned_bytes, 0);
        rig_restart_engine(&r, NULL);
        tarn_session *s = rig_session(&r, name, NULL);
        CHECK_EQ(rig_info(s).at.position + rig_info(s).tokens_waiting, kept);
        tarn_session_close(s);
    }
    CHECK(n_failed > 20);
    CHECK_EQ(rig_verify(r.store), 0);
    printf("%d of %d failed\n", n_failed, n / APART);
    rig_close(&r);
}

/* The device is gone for good: this process goes on with its sessions on the CPU. */
CASE(sessions_of_a_lost_device_go_on_elsewhere)
{
    rig r;
    uint32_t ids[N];
    const char *fault;
    static rig_told told;
    tarn_reuse reuse;
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1, .pinned_bytes_max = MIB});
    tarn_session *s = kept(&r, ids), *parked = rig_fork(s, "parked"), *loose = rig_loose(&r, "b");
    rig_feed(parked, ids, 1);
    rig_commit(parked);
    OK(tarn_session_park(parked, ERR));
    rig_feed(loose, ids, 10);
    OK(tarn_session_append_tokens(s, ids, 3, ERR));
    emu_break();
    (void)!tarn_session_run(s, rig_hear, &told, ERR);
    CHECK_EQ(told.stop, TARN_STOP_FAILED);
    tarn_error why;
    tarn_session_failure(s, &why);
    CHECK_EQ(why.status, TARN_E_DEVICE);
    CHECK_HAS(why.detail, "cudaErrorIllegalAddress");
    REFUSED(tarn_session_append_tokens(parked, ids, 1, ERR), TARN_E_DEVICE, "store is not touched");
    CHECK_EQ(rig_info(parked).state, TARN_SESSION_PARKED);
    REFUSED(tarn_session_reset(s, &reuse, ERR), TARN_E_DEVICE, "cudaErrorIllegalAddress");
    tarn_session_close(s);
    tarn_session_close(parked);
    tarn_session_close(loose);
    CHECK_EQ(rig_stat(&r).pinned, 0);
    rig_restart_engine(&r, &(tarn_engine_options){.n_threads = 1, .device = "cpu"});
    CHECK_EQ(rig_verify(r.store), 0);
    s = rig_session(&r, "parked", &reuse);
    CHECK_EQ(reuse.tokens_reused, N + 1);
    CHECK_EQ(reuse.reason, TARN_REASON_NUMERICS);
    rig_feed(s, ids, 1);
    rig_commit(s);
    tarn_session_close(s);
    CHECK(mirror_faults(&fault) > 0);
    rig_close(&r);
}

CHECK_MAIN(ENTRY(a_failed_session_adopts_nothing), ENTRY(two_engines_share_a_device_that_has_room),
           ENTRY(each_engine_asks_its_own_device),
           ENTRY(a_second_engine_that_finds_no_room_says_why),
           ENTRY(too_little_memory_is_told_by_what_it_is_for), ENTRY(a_step_that_finds_no_memory),
           ENTRY(what_cannot_be_read_any_more), ENTRY(it_fails_at_any_piece_of_work),
           ENTRY(sessions_of_a_lost_device_go_on_elsewhere))
