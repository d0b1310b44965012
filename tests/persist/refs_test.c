/* Which nodes live, and that removal frees exactly the others. */
#include "store_kit.h"

#include "handle.h"

static bool is_there(kit *k, uint64_t node)
{
    tarnp_node n;
    tarn_status status = tarnp_node_read(k->store, node, &n, &k->err);
    if (status == TARN_OK)
        tarnp_node_fini(&n);
    else
        CHECK_STATUS(status, TARN_E_NOT_FOUND);
    return status == TARN_OK;
}

static tarn_status move_to(kit *k, const char *name, uint64_t node)
{
    return tarnp_session_move(k->store, kit_id(k, name), kit_head(k, name), node, NULL, &k->err);
}

static uint64_t detach(kit *k, const char *name, uint64_t parent, uint64_t seed)
{
    tarnp_committed made = {0};
    CHECK_STATUS(kit_commit(k->store, kit_id(k, name), kit_head(k, name), parent, seed, false,
                            &made, &k->err),
                 TARN_OK);
    return made.node;
}

CASE(removing_all_frees_all)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t first = kit_append(&k, "main", 1);
    kit_append(&k, "main", 2);
    REQUIRE(kit_fork(&k, first, "branch"));
    kit_append(&k, "branch", 3);
    detach(&k, "branch", first, 4);
    CHECK_EQ(kit_stat(&k).nodes, 5);
    CHECK_EQ(kit_stat(&k).sessions, 2);
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    KIT_CLEAN(&k);
    REQUIRE_OK(tarnp_session_remove(k.store, "branch", &k.err), &k.err);
    tarnp_stat stat = kit_stat(&k);
    CHECK_EQ(stat.bytes_stored, 0);
    CHECK_EQ(stat.nodes, 0);
    CHECK_EQ(stat.chunks, 0);
    CHECK_EQ(stat.sessions, 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(a_fork_outlives_its_parent_session)
{
    kit k;
    REQUIRE(kit_begin(&k));
    uint64_t root = kit_create(&k, "main");
    uint64_t first = kit_append(&k, "main", 1), second = kit_append(&k, "main", 2);
    REQUIRE(kit_fork(&k, first, "branch"));
    uint64_t third = kit_append(&k, "branch", 3);
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    CHECK(is_there(&k, root) && is_there(&k, first) && is_there(&k, third));
    CHECK(!is_there(&k, second));
    kit_check_node(&k, first, 1);
    kit_check_node(&k, third, 3);
    uint64_t *chain;
    size_t n;
    REQUIRE_OK(tarnp_node_chain(k.store, third, &chain, &n, &k.err), &k.err);
    REQUIRE(n == 3);
    CHECK(chain[0] == root && chain[1] == first && chain[2] == third);
    tarni_free(tarnp_store_allocator(k.store), chain);
    uint64_t fourth = kit_append(&k, "branch", 4);
    kit_check_node(&k, fourth, 4);
    uint8_t key[TARNP_KEY_BYTES];
    kit_key(key, 2);
    CHECK_STATUS(tarnp_commit_find(k.store, key, &root, &k.err), TARN_E_NOT_FOUND);
    KIT_CLEAN(&k);
    REQUIRE_OK(tarnp_session_remove(k.store, "branch", &k.err), &k.err);
    CHECK_EQ(kit_stat(&k).bytes_stored, 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(rewind_keeps_the_newer_branch)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t first = kit_append(&k, "main", 1), second = kit_append(&k, "main", 2);
    REQUIRE_OK(move_to(&k, "main", first), &k.err);
    CHECK_EQ(kit_head(&k, "main"), first);
    KIT_CLEAN(&k);
    kit_check_node(&k, second, 2); /* a tip */
    uint64_t third = kit_append(&k, "main", 3);
    CHECK(is_there(&k, second) && is_there(&k, third));
    /* Back to the tip, which is none then, and forth again. */
    REQUIRE_OK(move_to(&k, "main", second), &k.err);
    KIT_CLEAN(&k);
    CHECK(is_there(&k, third));
    REQUIRE_OK(move_to(&k, "main", third), &k.err);
    REQUIRE_OK(move_to(&k, "main", second), &k.err);
    uint64_t fourth = kit_append(&k, "main", 4);
    KIT_CLEAN(&k);
    kit_check_node(&k, third, 3);
    kit_check_node(&k, fourth, 4);
    /* The head it has: nothing is written. */
    uint64_t n_bytes = 99;
    tarnp_stat before = kit_stat(&k);
    CHECK_STATUS(tarnp_session_move(k.store, kit_id(&k, "main"), fourth, fourth, &n_bytes, &k.err),
                 TARN_OK);
    CHECK_EQ(n_bytes, 0);
    CHECK_EQ(kit_stat(&k).bytes_written, before.bytes_written);
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    CHECK_EQ(kit_stat(&k).bytes_stored, 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* A newer branch that only another session continued must survive that session. */
CASE(a_former_head_outlives_a_fork_of_it)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t first = kit_append(&k, "main", 1), second = kit_append(&k, "main", 2);
    REQUIRE(kit_fork(&k, second, "branch"));
    kit_append(&k, "branch", 3);
    REQUIRE_OK(move_to(&k, "main", first), &k.err);
    KIT_CLEAN(&k);
    REQUIRE_OK(tarnp_session_remove(k.store, "branch", &k.err), &k.err);
    kit_check_node(&k, second, 2);
    KIT_CLEAN(&k);
    /* And the other way round: a fork that rewinds keeps the node it came from. */
    REQUIRE(kit_fork(&k, second, "other"));
    REQUIRE_OK(move_to(&k, "other", first), &k.err);
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    kit_check_node(&k, second, 2);
    KIT_CLEAN(&k);
    REQUIRE_OK(tarnp_session_remove(k.store, "other", &k.err), &k.err);
    CHECK_EQ(kit_stat(&k).bytes_stored, 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(detached_nodes)
{
    kit k;
    REQUIRE(kit_begin(&k));
    uint64_t root = kit_create(&k, "main");
    uint64_t first = detach(&k, "main", root, 1);
    CHECK_EQ(kit_head(&k, "main"), root);
    KIT_CLEAN(&k);
    uint64_t second = detach(&k, "main", first, 2); /* the first is no tip any more */
    KIT_CLEAN(&k);
    uint64_t third = detach(&k, "main", first, 3);
    KIT_CLEAN(&k);
    REQUIRE_OK(move_to(&k, "main", second), &k.err);
    KIT_CLEAN(&k);
    /* The head moves to a child of another node than itself. */
    tarnp_committed made;
    CHECK_STATUS(kit_commit(k.store, kit_id(&k, "main"), second, third, 4, true, &made, &k.err),
                 TARN_OK);
    CHECK_EQ(kit_head(&k, "main"), made.node);
    kit_check_node(&k, second, 2);
    KIT_CLEAN(&k);
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    CHECK_EQ(kit_stat(&k).bytes_stored, 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(deep_chains_with_forks_of_forks)
{
    kit k;
    REQUIRE(kit_begin(&k));
    size_t floats = kit_floats;
    kit_floats = 4;
    uint64_t at = kit_create(&k, "s0");
    char name[32] = "s0", next[32];
    for (uint64_t i = 1; i <= 1000; i++) {
        at = kit_append(&k, name, i);
        if (i % 100 == 0) {
            snprintf(next, sizeof next, "s%llu", (unsigned long long)i);
            REQUIRE(kit_fork(&k, at, next));
            if (i > 100)
                REQUIRE_OK(tarnp_session_remove(k.store, name, &k.err), &k.err);
            memcpy(name, next, sizeof name);
        }
    }
    uint64_t *chain;
    size_t n;
    REQUIRE_OK(tarnp_node_chain(k.store, at, &chain, &n, &k.err), &k.err);
    CHECK_EQ(n, 1001);
    for (size_t i = 1; i < n; i++)
        CHECK(chain[i] > chain[i - 1]);
    kit_check_node(&k, chain[500], 500);
    tarni_free(tarnp_store_allocator(k.store), chain);
    tarnp_node_brief *list;
    REQUIRE_OK(tarnp_node_list(k.store, &list, &n, &k.err), &k.err);
    CHECK_EQ(n, 1001);
    CHECK_EQ(list[1000].turns, 1000);
    CHECK_EQ(list[1000].parent, list[999].id);
    tarni_free(tarnp_store_allocator(k.store), list);
    KIT_CLEAN(&k);
    REQUIRE_OK(tarnp_session_remove(k.store, "s0", &k.err), &k.err);
    CHECK_EQ(kit_stat(&k).nodes, 1001);
    REQUIRE_OK(tarnp_session_remove(k.store, name, &k.err), &k.err);
    CHECK_EQ(kit_stat(&k).bytes_stored, 0);
    KIT_CLEAN(&k);
    kit_floats = floats;
    kit_end(&k);
}

/* More chunks than a transaction of the drain may free. */
CASE(a_node_of_many_chunks)
{
    kit k;
    REQUIRE(kit_begin(&k));
    uint64_t root = kit_create(&k, "main");
    static uint8_t byte[700];
    static tarnp_piece pieces[700];
    static tarnp_chunk chunks[700];
    for (uint32_t i = 0; i < 700; i++) {
        byte[i] = (uint8_t)i;
        pieces[i] = (tarnp_piece){&byte[i], 1};
        chunks[i] = (tarnp_chunk){.first = i, .raw_bytes = 1, .n_pieces = 1, .pieces = &pieces[i]};
    }
    tarnp_section section = {
        .kind = TARNP_SECTION_LATENT, .elem = TARNP_ELEM_U8, .n_chunks = 700, .chunks = chunks};
    tarnp_commit c = {.key = {1},
                      .session_id = kit_id(&k, "main"),
                      .expected_head = root,
                      .move_head = true,
                      .parent = root,
                      .sections = &section,
                      .n_sections = 1};
    memcpy(c.fp, kit_fp, sizeof kit_fp);
    tarnp_committed made;
    REQUIRE_OK(tarnp_commit_node(k.store, &c, &made, &k.err), &k.err);
    CHECK_EQ(kit_stat(&k).chunks, 700);
    KIT_CLEAN(&k);
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    CHECK_EQ(kit_stat(&k).chunks, 0);
    CHECK_EQ(kit_stat(&k).bytes_stored, 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* The file stops growing: freed pages are used again. */
CASE(the_file_stops_growing)
{
    kit k;
    REQUIRE(kit_begin(&k));
    uint64_t bytes_then = 0;
    for (uint64_t i = 1; i <= 300; i++) {
        kit_create(&k, "main");
        kit_append(&k, "main", i);
        REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
        if (i == 50)
            bytes_then = kit_stat(&k).file_bytes;
    }
    CHECK(kit_stat(&k).file_bytes <= bytes_then + bytes_then / 4);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* A chain that cannot be followed to its root: what hangs on the lost node stays, and freeing ends.
 */
CASE(a_lost_node_in_the_chain)
{
    kit k;
    tarnp_txn txn;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t lost = kit_append(&k, "main", 1);
    for (uint64_t seed = 2; seed < 6; seed++)
        kit_append(&k, "main", seed);
    REQUIRE_OK(tarnp_txn_begin(k.store->tables, true, &txn, &k.err), &k.err);
    tarnp_counters counters;
    CHECK_STATUS(tarnp_counters_get(&txn, &counters, &k.err), TARN_OK);
    counters.txn = tarnp_txn_id(&txn);
    CHECK_STATUS(tarnp_counters_put(&txn, &counters, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_delete_id(&txn, TARNP_TABLE_NODE, lost, NULL, &k.err), TARN_OK);
    REQUIRE_OK(tarnp_txn_commit(&txn, &k.err), &k.err);
    CHECK_STATUS(tarnp_session_remove(k.store, "main", &k.err), TARN_OK);
    CHECK_EQ(kit_stat(&k).sessions, 0);
    CHECK_EQ(kit_stat(&k).nodes, 3); /* the root, the lost one, and its child */
    REQUIRE(kit_reopen(&k));
    CHECK_EQ(kit_stat(&k).nodes, 3);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(removing_all_frees_all), ENTRY(a_fork_outlives_its_parent_session),
           ENTRY(rewind_keeps_the_newer_branch), ENTRY(a_former_head_outlives_a_fork_of_it),
           ENTRY(detached_nodes), ENTRY(deep_chains_with_forks_of_forks),
           ENTRY(a_node_of_many_chunks), ENTRY(the_file_stops_growing),
           ENTRY(a_lost_node_in_the_chain))
