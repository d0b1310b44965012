/* Random operations on sessions of an engine and a store (live.h), by the public functions, with
 * restarts and power cuts in between. What every session computes is held against the same ids
 * computed from the first one on, without a store. What goes wrong is tried again with fewer
 * operations, and the least list that still goes wrong is printed. */
#include "check.h"
#include "live.h"

#include "disk.h"
#include "trust.h"

enum { OPS = 300, MATCH_EVERY = 60, CUT_ONE_IN = 25 };

static live all;
static live_op ops[OPS];

/* The power fails at any write since the recording began. */
static bool pull_plug(uint64_t seed, char why[LIVE_WHY])
{
    disk_image image = {0};
    uint64_t random = seed;
    char file[160];
    size_t n = disk_recorded();
    snprintf(file, sizeof file, "%s/data.mdb", all.r.store_path);
    disk_record_end();
    live_drop(&all);
    if (n > 0) {
        disk_image_make(&random, 1 + (size_t)trust_below(&random, n), seed % 2 ? 512 : 4096, 0,
                        &image);
        rig_write_file(file, image.data, image.n_bytes);
        free(image.data);
    }
    return live_raise(&all, seed >> 3, why);
}

/* An operation during which the power fails. What was begun before is written first: that it may
 * be lost is another story. */
static bool apply_cut(live_op op, char why[LIVE_WHY])
{
    static live_session before[LIVE_SESSIONS];
    char file[160];
    snprintf(file, sizeof file, "%s/data.mdb", all.r.store_path);
    if (tarn_store_flush(all.r.store, ERR) != TARN_OK || !disk_record(file))
        return LIVE_SAY("flush: %.200s", rig_error.detail);
    memcpy(before, all.sessions, sizeof before);
    return live_apply(&all, op, why) && pull_plug(op.a ^ op.b, why) &&
           live_recover(&all, before, why);
}

static size_t run(trust *t, const void *operations, size_t n, char why[TRUST_WHY], bool talks)
{
    const live_op *list = operations;
    size_t i = 0, n_cuts = 0;
    live_begin(&all, talks);
    for (; i < n; i++) {
        trust_at(i);
        bool cut = list[i].cut && list[i].kind != LIVE_RESTART;
        bool good = cut ? apply_cut(list[i], why) : live_apply(&all, list[i], why);
        disk_record_end();
        if (!good || (i % MATCH_EVERY == MATCH_EVERY - 1 && !live_match(&all, why)))
            break;
        n_cuts += cut;
    }
    if (i == n && n > 0 && !live_match(&all, why))
        i--;
    live_end(&all);
    if (t) {
        t->n += i;
        trust_count(t, "power cuts", n_cuts);
        trust_count(t, "generated", all.n_generated);
        trust_count(t, "refused", all.n_refused);
        trust_count(t, "parked", all.n_parked);
        trust_count(t, "adopted", all.n_adopted);
    }
    return i;
}

static size_t run_ids(trust *t, const void *list, size_t n, char why[TRUST_WHY])
{
    return run(t, list, n, why, false);
}

static size_t run_talk(trust *t, const void *list, size_t n, char why[TRUST_WHY])
{
    return run(t, list, n, why, true);
}

static void piece(trust *t, uint64_t seed, trust_list_fn fn)
{
    uint64_t random = seed;
    char why[TRUST_WHY];
    for (size_t i = 0; i < OPS; i++) {
        ops[i] = live_random(&random);
        ops[i].cut = trust_below(&random, CUT_ONE_IN) == 0;
    }
    size_t n = trust_try(t, fn, ops, OPS, why);
    if (n == OPS)
        return;
    trust_note(t, "operation %zu, %s%s", n, live_name(ops[n].kind), ops[n].cut ? " (cut)" : "");
    trust_bad(t, "%s", why);
    n = trust_shrink(fn, ops, n + 1, sizeof ops[0], why);
    printf("    %zu operations are enough: %s\n", n, why);
    for (size_t i = 0; i < n; i++)
        printf("        {%s, %llu, %llu}%s\n", live_name(ops[i].kind), (unsigned long long)ops[i].a,
               (unsigned long long)ops[i].b, ops[i].cut ? " cut" : "");
    t->n++;
}

static void piece_ids(trust *t, uint64_t seed)
{
    piece(t, seed, run_ids);
}

static void piece_talk(trust *t, uint64_t seed)
{
    piece(t, seed, run_talk);
}

CASE(ids)
{
    CHECK(trust_run("live.ids", 3000, piece_ids));
}

CASE(talk)
{
    CHECK(trust_run("live.talk", 1500, piece_talk));
}

CHECK_MAIN(ENTRY(ids), ENTRY(talk))
