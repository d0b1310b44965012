/* The collection at its edges: a state at the very beginning, more than a transaction takes, nodes
 * that were nobody's before, damage, and a process that has no business with the store. */
#include "retain_kit.h"

#include "handle.h"

#include <sys/wait.h>

static const tarnp_gc_options thin = {.keep_newest = 1, .rung_tokens = 1 << 20};

static tarn_status collect(kit *k, const tarnp_gc_options *o, tarnp_gc_report *r)
{
    return tarnp_store_gc(k->store, o, r, &k->err);
}

static void forget(kit *k, tarnp_gc_report *r)
{
    tarni_free(tarnp_store_allocator(k->store), r->dropped);
}

CASE(a_state_before_the_first_token_stays)
{
    kit k;
    tarnp_gc_report r;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t empty = rk_append(&k, "main", 1, 0), second = rk_append(&k, "main", 2, 3);
    uint64_t third = rk_append(&k, "main", 3, 3);
    (void)rk_append(&k, "main", 4, 3);
    REQUIRE_OK(collect(&k, &thin, &r), &k.err);
    /* They stand in one rung, which begins where nothing has to be computed. */
    CHECK_EQ(r.n_dropped, 2);
    if (r.n_dropped == 2)
        CHECK(r.dropped[0].node == second && r.dropped[1].node == third);
    forget(&k, &r);
    uint64_t freed;
    CHECK_STATUS(tarnp_node_evict(k.store, empty, TARNP_PART_STATE, &freed, &k.err), TARN_OK);
    CHECK(freed > 0); /* so it was there */
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* A transaction evicts from 4,096 nodes at most; a report has them all. */
CASE(more_than_one_round)
{
    enum { NODES = 4300 };
    kit k;
    tarnp_gc_report dry, wet, again;
    kit_folder(&k);
    k.options.durability = TARNP_SCRATCH;
    REQUIRE(kit_reopen(&k));
    kit_create(&k, "main");
    size_t floats = rk_state_floats;
    rk_state_floats = 16;
    for (uint64_t i = 1; i <= NODES; i++)
        (void)rk_append(&k, "main", i, 1);
    rk_state_floats = floats;
    tarnp_gc_options o = thin;
    o.dry_run = true;
    REQUIRE_OK(collect(&k, &o, &dry), &k.err);
    CHECK_EQ(dry.n_dropped, NODES - 1); /* the head stays */
    REQUIRE_OK(collect(&k, &thin, &wet), &k.err);
    CHECK_EQ(wet.n_dropped, dry.n_dropped);
    CHECK_EQ(wet.freed_bytes, dry.freed_bytes);
    for (size_t i = 1; i < wet.n_dropped; i++)
        if (wet.dropped[i].node <= wet.dropped[i - 1].node)
            CHECK_FAIL("node %llu is listed twice or late",
                       (unsigned long long)wet.dropped[i].node);
    REQUIRE_OK(collect(&k, &thin, &again), &k.err);
    CHECK_EQ(again.n_dropped, 0);
    forget(&k, &dry);
    forget(&k, &wet);
    forget(&k, &again);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* A session's record and name, without what they hold. */
static void lose_session(kit *k, const char *name)
{
    tarnp_write w;
    uint64_t id = kit_id(k, name);
    REQUIRE_OK(tarnp_write_begin(k->store, &w, &k->err), &k->err);
    CHECK_STATUS(tarnp_delete(&w.txn, TARNP_TABLE_NAME, name, strlen(name), NULL, &k->err),
                 TARN_OK);
    CHECK_STATUS(tarnp_delete_id(&w.txn, TARNP_TABLE_SESSION, id, NULL, &k->err), TARN_OK);
    w.counters.sessions--;
    REQUIRE_OK(tarnp_write_commit(&w, NULL, &k->err), &k->err);
}

CASE(what_was_nobodys_before_is_left_to_verify)
{
    kit k;
    tarnp_gc_report r;
    uint64_t freed;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "lost");
    uint64_t lost = rk_append(&k, "lost", 1, 3);
    kit_create(&k, "old");
    uint64_t old = rk_append(&k, "old", 2, 3);
    lose_session(&k, "lost");
    CHECK_STATUS(tarnp_session_expire(k.store, "old", 1000, &k.err), TARN_OK);
    REQUIRE_OK(collect(&k, NULL, &r), &k.err);
    bool told = false;
    for (size_t i = 0; i < r.n_dropped; i++) {
        CHECK(r.dropped[i].node != lost);
        told = told || (r.dropped[i].node == old && r.dropped[i].what == TARNP_DROPPED_NODE);
    }
    CHECK(told);
    forget(&k, &r);
    CHECK_STATUS(tarnp_node_evict(k.store, lost, TARNP_PART_STATE, &freed, &k.err),
                 TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_node_evict(k.store, 999, TARNP_PART_STATE, &freed, &k.err),
                 TARN_E_NOT_FOUND);
    CHECK(kit_verify(&k, true) > 0);
    kit_end(&k);
}

CASE(damage_ends_it)
{
    kit k;
    tarnp_gc_report r;
    tarnp_write w;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t node = rk_append(&k, "main", 1, 3);
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &k.err), &k.err);
    CHECK_STATUS(tarnp_put_id(&w.txn, TARNP_TABLE_NODE, node, "no manifest", 11, &k.err), TARN_OK);
    REQUIRE_OK(tarnp_write_commit(&w, NULL, &k.err), &k.err);
    for (int dry = 0; dry < 2; dry++) {
        const tarnp_gc_options o = {.dry_run = dry};
        CHECK_STATUS(collect(&k, &o, &r), TARN_E_CORRUPT);
        CHECK(r.dropped == NULL && r.n_dropped == 0);
    }
    kit_end(&k);
}

CASE(not_by_a_child)
{
    kit k;
    tarnp_gc_report r;
    int status = -1;
    REQUIRE(kit_begin(&k));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        exit(collect(&k, NULL, &r) == TARN_E_INVALID && r.dropped == NULL ? 0 : 1);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(a_state_before_the_first_token_stays), ENTRY(more_than_one_round),
           ENTRY(what_was_nobodys_before_is_left_to_verify), ENTRY(damage_ends_it),
           ENTRY(not_by_a_child))
