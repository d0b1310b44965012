/* What goes wrong with a device: each is told clearly, and what is in the store is resumed all the
 * same. For the emulated device alone, which can be asked to fail. */
#include "check.h"
#include "fixture.h"

#include <pthread.h>

/* From hooks.cpp. */
void emu_break(void);
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

CHECK_MAIN(ENTRY(two_engines_share_a_device_that_has_room), ENTRY(each_engine_asks_its_own_device),
           ENTRY(a_second_engine_that_finds_no_room_says_why),
           ENTRY(too_little_memory_is_told_by_what_it_is_for),
           ENTRY(sessions_of_a_lost_device_go_on_elsewhere))
