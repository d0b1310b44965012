#include "store_kit.h"

#include "handle.h"

/* Flips one bit of a stored value, behind the back of every checksum. */
static void damage(kit *k, tarnp_table table, uint64_t id, size_t at)
{
    tarnp_txn txn;
    tarnp_span value;
    uint8_t copy[65536];
    REQUIRE_OK(tarnp_txn_begin(k->store->tables, true, &txn, &k->err), &k->err);
    REQUIRE_OK(tarnp_get_id(&txn, table, id, &value, &k->err), &k->err);
    REQUIRE(value.data && value.n_bytes <= sizeof copy && at < value.n_bytes);
    size_t n_bytes = value.n_bytes;
    memcpy(copy, value.data, n_bytes);
    copy[at] ^= 4;
    REQUIRE_OK(tarnp_put_id(&txn, table, id, copy, n_bytes, &k->err), &k->err);
    tarnp_counters counters;
    REQUIRE_OK(tarnp_counters_get(&txn, &counters, &k->err), &k->err);
    counters.txn = tarnp_txn_id(&txn);
    REQUIRE_OK(tarnp_counters_put(&txn, &counters, &k->err), &k->err);
    REQUIRE_OK(tarnp_txn_commit(&txn, &k->err), &k->err);
}

CASE(unknown_nodes)
{
    kit k;
    REQUIRE(kit_begin(&k));
    uint64_t root = kit_create(&k, "main"), *chain;
    tarnp_node node;
    size_t n;
    CHECK_STATUS(tarnp_node_read(k.store, 9, &node, &k.err), TARN_E_NOT_FOUND);
    CHECK_HAS(k.err.detail, "9");
    CHECK_STATUS(tarnp_node_read(k.store, TARNP_NODE_NONE, &node, &k.err), TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_node_chain(k.store, 9, &chain, &n, &k.err), TARN_E_NOT_FOUND);
    CHECK(chain == NULL && n == 0);
    REQUIRE_OK(tarnp_node_chain(k.store, root, &chain, &n, &k.err), &k.err);
    CHECK(n == 1 && chain[0] == root);
    tarni_free(tarnp_store_allocator(k.store), chain);
    kit_end(&k);
}

CASE(asking_for_the_wrong_chunk)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t first = kit_append(&k, "main", 1), second = kit_append(&k, "main", 2), n_read = 5;
    tarnp_node one, two;
    REQUIRE_OK(tarnp_node_read(k.store, first, &one, &k.err), &k.err);
    REQUIRE_OK(tarnp_node_read(k.store, second, &two, &k.err), &k.err);
    uint8_t room[40];
    tarnp_piece piece = {room, sizeof room};
    tarnp_chunk chunk = two.sections[3].chunks[0];
    chunk.n_pieces = 1;
    chunk.pieces = &piece;
    CHECK_STATUS(tarnp_node_read_chunks(k.store, &one, TARNP_ELEM_U8, &chunk, 1, &n_read, &k.err),
                 TARN_E_INVALID);
    CHECK_STATUS(tarnp_node_read_chunks(k.store, &two, TARNP_ELEM_U32, &chunk, 1, &n_read, &k.err),
                 TARN_E_INVALID);
    piece.n_bytes--;
    CHECK_STATUS(tarnp_node_read_chunks(k.store, &two, TARNP_ELEM_U8, &chunk, 1, &n_read, &k.err),
                 TARN_E_INVALID);
    CHECK_EQ(n_read, 5);
    piece.n_bytes++;
    CHECK_STATUS(tarnp_node_read_chunks(k.store, &two, TARNP_ELEM_U8, &chunk, 1, &n_read, &k.err),
                 TARN_OK);
    CHECK_EQ(n_read, 5 + chunk.stored_bytes);
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    CHECK_STATUS(tarnp_node_read_chunks(k.store, &two, TARNP_ELEM_U8, &chunk, 1, &n_read, &k.err),
                 TARN_E_NOT_FOUND);
    tarnp_node_fini(&one);
    tarnp_node_fini(&two);
    kit_end(&k);
}

CASE(a_damaged_chunk_is_named_and_alone)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t first = kit_append(&k, "main", 1), second = kit_append(&k, "main", 2);
    tarnp_node node;
    REQUIRE_OK(tarnp_node_read(k.store, first, &node, &k.err), &k.err);
    uint64_t chunk = node.sections[1].chunks[1].id;
    damage(&k, TARNP_TABLE_CHUNK, chunk, 1000);
    bool equal;
    CHECK_STATUS(kit_read(k.store, first, 1, &equal, &k.err), TARN_E_CORRUPT);
    char name[64];
    snprintf(name, sizeof name, "node %llu: chunk %llu:", (unsigned long long)first,
             (unsigned long long)chunk);
    CHECK_HAS(k.err.detail, name);
    kit_check_node(&k, second, 2);
    tarni_ids ids;
    tarni_ids_init(&ids, &tarni_heap);
    CHECK_STATUS(tarnp_node_tokens(k.store, &node, &ids, &k.err), TARN_OK);
    tarni_ids_fini(&ids);
    tarnp_verified v;
    REQUIRE_OK(tarnp_store_verify(k.store, NULL, NULL, &v, &k.err), &k.err);
    CHECK_EQ(v.n_bad, 1);
    CHECK_EQ(v.bad[0].node, first);
    CHECK_EQ(v.bad[0].chunk, chunk);
    tarni_free(tarnp_store_allocator(k.store), v.bad);
    /* Damaged tokens leave the array as it was. */
    damage(&k, TARNP_TABLE_CHUNK, node.sections[0].chunks[0].id, 70);
    tarni_ids_init(&ids, &tarni_heap);
    CHECK_STATUS(tarnp_node_tokens(k.store, &node, &ids, &k.err), TARN_E_CORRUPT);
    CHECK_EQ(ids.n_ids, 0);
    tarni_ids_fini(&ids);
    tarnp_node_fini(&node);
    REQUIRE_OK(tarnp_session_remove(k.store, "main", &k.err), &k.err);
    KIT_CLEAN(&k); /* what was damaged is gone */
    kit_end(&k);
}

CASE(a_damaged_manifest_is_named)
{
    kit k;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    uint64_t first = kit_append(&k, "main", 1), second = kit_append(&k, "main", 2), *chain;
    tarnp_node_brief *list;
    size_t n;
    bool equal;
    damage(&k, TARNP_TABLE_NODE, first, 30);
    CHECK_STATUS(kit_read(k.store, first, 1, &equal, &k.err), TARN_E_CORRUPT);
    CHECK_HAS(k.err.detail, "node 2: manifest");
    CHECK_STATUS(tarnp_node_chain(k.store, second, &chain, &n, &k.err), TARN_E_CORRUPT);
    CHECK_STATUS(tarnp_node_list(k.store, &list, &n, &k.err), TARN_E_CORRUPT);
    kit_check_node(&k, second, 2);
    tarnp_verified v;
    REQUIRE_OK(tarnp_store_verify(k.store, NULL, NULL, &v, &k.err), &k.err);
    CHECK_EQ(v.n_bad, 1);
    CHECK(v.n_bad > 0 && v.bad[0].node == first && v.bad[0].chunk == 0);
    tarni_free(tarnp_store_allocator(k.store), v.bad);
    /* The session goes; what hangs on the damaged manifest cannot, and is no reason to fail. */
    CHECK_STATUS(tarnp_session_remove(k.store, "main", &k.err), TARN_OK);
    CHECK_EQ(kit_id(&k, "main"), 0);
    CHECK(kit_verify(&k, true) > 0);
    REQUIRE(kit_reopen(&k));
    kit_end(&k);
}

CHECK_MAIN(ENTRY(unknown_nodes), ENTRY(asking_for_the_wrong_chunk),
           ENTRY(a_damaged_chunk_is_named_and_alone), ENTRY(a_damaged_manifest_is_named))
