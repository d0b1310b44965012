#include "soak.h"

#include "fixture.h"
#include "resident.h"

#define WARM_CYCLES RIG_FEW(100, 20)
#define RSS_SLACK   ((uint64_t)4 << 20)
/* A device keeps a few blocks of pinned memory, as many as were ever used at once: less than one of
 * 8 KB a cycle would be. */
#define PINNED_SLACK (RIG_ON_HOST ? 0 : (uint64_t)256 << 10)

static void must(bool ok, const char *what, uint64_t got, uint64_t want)
{
    if (ok)
        return;
    printf("%s is %llu, was %llu\n", what, (unsigned long long)got, (unsigned long long)want);
    exit(1);
}

static void cycle(rig *r, const uint32_t *ids, size_t i)
{
    tarn_ticket ticket;
    tarn_reuse reuse;
    size_t n = 3 + i % 70;
    tarn_session *s = rig_session(r, "a", NULL);
    rig_feed(s, ids, n);
    if (i % 2)
        rig_commit(s);
    else
        OK(tarn_session_commit_begin(s, &ticket, ERR));
    tarn_session *child = rig_fork(s, "b");
    rig_feed(child, ids + 1, 2);
    OK(tarn_session_commit_begin(child, &ticket, ERR));
    if (i % 5 == 0)
        OK(tarn_session_rewind(s, "@t:2", &reuse, ERR));
    if (i % 7 == 0)
        OK(tarn_session_wait(child, ticket, TARN_COMMIT_SYNCED, 0, NULL, ERR));
    if (i % 11 == 0) {
        tarn_session_cancel(s);
        rig_drain(r);
    }
    tarn_session_close(s);
    OK(tarn_store_remove(r->store, "a", ERR));
    tarn_session_close(child);
    OK(tarn_store_remove(r->store, "b", ERR));
    for (tarn_event event; tarn_engine_poll(r->engine, &event);)
        ;
}

void soak(size_t n_cycles)
{
    rig r;
    uint32_t ids[80];
    tarn_store_stat store = {0};
    tarn_engine_stat engine = {0};
    uint64_t rss = 0;
    rig_open(&r, RIG_TINY, &(tarn_engine_options){.n_threads = 1});
    rig_ids(&r, 1, ids, 80);
    for (size_t i = 0; i < n_cycles + WARM_CYCLES; i++) {
        if (i == WARM_CYCLES) {
            store = rig_store_stat(&r);
            engine = rig_stat(&r);
            rss = rss_bytes();
        }
        cycle(&r, ids, i);
    }
    tarn_store_stat store_now = rig_store_stat(&r);
    tarn_engine_stat engine_now = rig_stat(&r);
    uint64_t rss_now = rss_bytes();
    printf("%zu cycles: resident %llu to %llu bytes, file %llu to %llu\n", n_cycles,
           (unsigned long long)rss, (unsigned long long)rss_now,
           (unsigned long long)store.file_bytes, (unsigned long long)store_now.file_bytes);
    must(engine_now.slots == 0, "slots", engine_now.slots, 0);
    must(engine_now.pages == 0, "pages", engine_now.pages, 0);
    must(engine_now.host_bytes <= engine.host_bytes + PINNED_SLACK, "host_bytes",
         engine_now.host_bytes, engine.host_bytes);
    must(store_now.sessions == 0, "sessions", store_now.sessions, 0);
    must(store_now.nodes == 0, "nodes", store_now.nodes, 0);
    must(store_now.bytes_stored == store.bytes_stored, "bytes_stored", store_now.bytes_stored,
         store.bytes_stored);
    must(store_now.file_bytes <= store.file_bytes + store.file_bytes / 4, "file_bytes",
         store_now.file_bytes, store.file_bytes);
    must(!RSS_COUNTS || rss_now <= rss + RSS_SLACK, "resident", rss_now, rss);
    must(rig_verify(r.store) == 0, "damages", 1, 0);
    rig_close(&r);
}
