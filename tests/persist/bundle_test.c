/* A session through a file: the same bits, whatever the way. */
#include "bundle_kit.h"

#include "handle.h"
#include "stage.h"

/* Export, import elsewhere, export: the same bytes. So are those of another reading step. */
CASE(round_trip_into_another_store)
{
    kit a, b;
    kit_bundle one, two;
    REQUIRE(kit_begin(&a) && kit_begin(&b));
    kit_fill_session(&a, "work/a");
    REQUIRE(kit_export(&a, "work/a", &one));
    one.step = 7;
    CHECK_STATUS(kit_import(&b, &one, NULL, NULL), TARN_OK);
    kit_check_session(&b, "work/a");
    REQUIRE(kit_export(&b, "work/a", &two));
    CHECK_EQ(two.n_bytes, one.n_bytes);
    CHECK_BYTES(two.data, one.data, one.n_bytes);
    KIT_CLEAN(&b);
    CHECK_EQ(kit_stat(&b).nodes, 5);
    tarni_writer model;
    tarni_writer_init(&model, &tarni_heap);
    CHECK_STATUS(tarnp_model_get(b.store, kit_fp, &model, &b.err), TARN_OK);
    CHECK_EQ(model.n_bytes, 10);
    tarni_writer_fini(&model);
    CHECK_STATUS(kit_import(&b, &one, NULL, NULL), TARN_E_EXISTS);
    /* It goes on, and what it was made of goes with it. */
    kit_append(&b, "work/a", 5);
    KIT_CLEAN(&b);
    CHECK_STATUS(tarnp_session_remove(b.store, "work/a", &b.err), TARN_OK);
    CHECK_EQ(kit_stat(&b).nodes, 0);
    CHECK_EQ(kit_stat(&b).bytes_stored, 0);
    KIT_CLEAN(&b);
    free(one.data);
    free(two.data);
    kit_end(&a);
    kit_end(&b);
}

/* Nodes that are there are used: an import beside its own source is one record. */
CASE(nodes_that_are_there_are_used)
{
    kit k;
    kit_bundle f, other;
    uint64_t head;
    REQUIRE(kit_begin(&k));
    kit_fill_session(&k, "a");
    REQUIRE(kit_export(&k, "a", &f));
    tarnp_stat before = kit_stat(&k);
    CHECK_STATUS(kit_import(&k, &f, "b", &head), TARN_OK);
    CHECK_EQ(head, kit_head(&k, "a"));
    CHECK_EQ(kit_stat(&k).nodes, before.nodes);
    CHECK_EQ(kit_stat(&k).bytes_stored, before.bytes_stored);
    CHECK(kit_stat(&k).bytes_written - before.bytes_written < 1024);
    KIT_CLEAN(&k);
    /* A part of the chain: two nodes are used, two are copied. */
    CHECK_STATUS(tarnp_session_remove(k.store, "a", &k.err), TARN_OK);
    CHECK_STATUS(tarnp_session_remove(k.store, "b", &k.err), TARN_OK);
    before = kit_stat(&k);
    CHECK_EQ(before.nodes, 3);
    CHECK_STATUS(kit_import(&k, &f, "c", NULL), TARN_OK);
    CHECK_EQ(kit_stat(&k).nodes, 5);
    kit_check_session(&k, "c");
    KIT_CLEAN(&k);
    REQUIRE(kit_export(&k, "c", &other));
    kit_append(&k, "first", 9);
    CHECK_STATUS(tarnp_session_remove(k.store, "first", &k.err), TARN_OK);
    kit_check_session(&k, "c");
    KIT_CLEAN(&k);
    free(f.data);
    free(other.data);
    kit_end(&k);
}

/* The same commit key with another content is no twin: the copy does without the key. */
CASE(a_key_of_another_node)
{
    kit a, b;
    kit_bundle f;
    uint64_t node;
    REQUIRE(kit_begin(&a) && kit_begin(&b));
    kit_fill_session(&a, "a");
    REQUIRE(kit_export(&a, "a", &f));
    kit_create(&b, "x");
    kit_append(&b, "x", 7); /* so that its parent is another */
    uint64_t known = kit_append(&b, "x", 2);
    CHECK_STATUS(kit_import(&b, &f, NULL, NULL), TARN_OK);
    kit_check_session(&b, "a");
    KIT_CLEAN(&b);
    uint8_t key[TARNP_KEY_BYTES];
    kit_key(key, 2);
    CHECK_STATUS(tarnp_commit_find(b.store, key, &node, &b.err), TARN_OK);
    CHECK_EQ(node, known);
    CHECK_STATUS(tarnp_session_remove(b.store, "a", &b.err), TARN_OK);
    CHECK_STATUS(tarnp_commit_find(b.store, key, &node, &b.err), TARN_OK);
    KIT_CLEAN(&b);
    free(f.data);
    kit_end(&a);
    kit_end(&b);
}

/* A damaged node is not used where the file has it whole. */
CASE(a_damaged_twin_is_not_used)
{
    kit k;
    kit_bundle f;
    tarnp_write w;
    tarnp_span value;
    REQUIRE(kit_begin(&k));
    kit_fill_session(&k, "a");
    REQUIRE(kit_export(&k, "a", &f));
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &k.err), &k.err);
    REQUIRE_OK(tarnp_get_id(&w.txn, TARNP_TABLE_CHUNK, 7, &value, &k.err), &k.err);
    uint8_t *copy = malloc(value.n_bytes);
    memcpy(copy, value.data, value.n_bytes);
    copy[value.n_bytes - 1] ^= 1;
    CHECK_STATUS(tarnp_put_id(&w.txn, TARNP_TABLE_CHUNK, 7, copy, value.n_bytes, &k.err), TARN_OK);
    CHECK_STATUS(tarnp_write_commit(&w, NULL, &k.err), TARN_OK);
    free(copy);
    CHECK_EQ(kit_verify(&k, true), 1);
    kit_bundle none;
    uint64_t n_bytes;
    none = (kit_bundle){0};
    CHECK_STATUS(tarnp_export(k.store, "a", kit_bundle_write, &none, NULL, NULL, &n_bytes, &k.err),
                 TARN_E_CORRUPT);
    CHECK_HAS(k.err.detail, "chunk 7");
    free(none.data);
    CHECK_STATUS(kit_import(&k, &f, "whole", NULL), TARN_OK);
    kit_check_session(&k, "whole");
    CHECK_EQ(kit_verify(&k, true), 1);
    free(f.data);
    kit_end(&k);
}

CASE(a_chain_of_a_thousand)
{
    kit a, b;
    kit_bundle one, two;
    REQUIRE(kit_begin(&a) && kit_begin(&b));
    kit_floats = 16;
    kit_create(&a, "long");
    for (uint64_t i = 1; i <= 1000; i++)
        kit_append(&a, "long", i);
    REQUIRE(kit_export(&a, "long", &one));
    CHECK_STATUS(kit_import(&b, &one, NULL, NULL), TARN_OK);
    REQUIRE(kit_export(&b, "long", &two));
    CHECK_EQ(two.n_bytes, one.n_bytes);
    CHECK_BYTES(two.data, one.data, one.n_bytes);
    KIT_CLEAN(&b);
    kit_check_node(&b, kit_head(&b, "long"), 1000);
    free(one.data);
    free(two.data);
    kit_floats = 256;
    kit_end(&a);
    kit_end(&b);
}

/* Chunks go in over several transactions, and another session's commits come in between. */
typedef struct between {
    kit *k;
    kit_bundle *f;
    uint64_t seed;
} between;

static tarn_status commit_and_read(void *user, void *data, size_t n, size_t *n_read,
                                   tarn_error *err)
{
    between *b = user;
    if (b->f->at / 2000000 > b->seed)
        kit_append(b->k, "other", ++b->seed);
    return kit_bundle_read(b->f, data, n, n_read, err);
}

CASE(commits_in_between)
{
    kit a, b;
    kit_bundle f;
    tarnp_session s;
    uint64_t n_bytes;
    REQUIRE(kit_begin(&a) && kit_begin(&b));
    kit_floats = 16384; /* 512 KiB a node */
    kit_create(&a, "large");
    for (uint64_t i = 101; i <= 180; i++)
        kit_append(&a, "large", i);
    REQUIRE(kit_export(&a, "large", &f));
    kit_create(&b, "other");
    between middle = {&b, &f, 0};
    REQUIRE_OK(
        tarnp_import(b.store, commit_and_read, &middle, NULL, NULL, NULL, &s, &n_bytes, &b.err),
        &b.err);
    tarnp_session_fini(&s);
    CHECK(middle.seed > 5);
    KIT_CLEAN(&b);
    kit_check_node(&b, kit_head(&b, "large"), 180);
    kit_check_node(&b, kit_head(&b, "other"), middle.seed);
    CHECK_STATUS(tarnp_session_remove(b.store, "large", &b.err), TARN_OK);
    KIT_CLEAN(&b);
    CHECK_EQ(kit_stat(&b).nodes, 1 + middle.seed);
    kit_floats = 256;
    free(f.data);
    kit_end(&a);
    kit_end(&b);
}

/* ---- staging -------------------------------------------------------------------------------- */

/* Chunks under a mark: not damage, not gone while their lock is held, and gone at the next open. */
CASE(what_an_interrupted_import_leaves)
{
    kit k;
    tarnp_write w;
    tarnp_stage stage = {0};
    REQUIRE(kit_begin(&k));
    kit_create(&k, "mine");
    kit_append(&k, "mine", 1);
    tarnp_stat before = kit_stat(&k);
    REQUIRE_OK(tarnp_write_begin(k.store, &w, &k.err), &k.err);
    uint64_t first = w.counters.next_chunk;
    w.counters.next_chunk += 1000;
    REQUIRE_OK(tarnp_stage_open(&w, w.counters.next_session++, &stage, &k.err), &k.err);
    REQUIRE_OK(tarnp_stage_mark(&w, &stage, first, 600, &k.err), &k.err);
    REQUIRE_OK(tarnp_stage_mark(&w, &stage, first + 600, 300, &k.err), &k.err);
    REQUIRE_OK(tarnp_stage_mark(&w, &stage, first + 950, 50, &k.err), &k.err);
    for (uint64_t id = first; id < first + 900; id += 2) {
        CHECK_STATUS(tarnp_put_id(&w.txn, TARNP_TABLE_CHUNK, id, "chunk", 5, &k.err), TARN_OK);
        w.counters.chunks++;
        w.counters.bytes_stored += 5;
    }
    REQUIRE_OK(tarnp_write_commit(&w, NULL, &k.err), &k.err);
    KIT_CLEAN(&k);
    tarnp_stage_sweep(k.store);
    CHECK_EQ(kit_stat(&k).chunks, before.chunks + 450);
    tarnp_stage_close(k.store, &stage, false); /* the process is gone */
    KIT_CLEAN(&k);
    REQUIRE(kit_reopen(&k));
    CHECK_EQ(kit_stat(&k).chunks, before.chunks);
    CHECK_EQ(kit_stat(&k).bytes_stored, before.bytes_stored);
    tarnp_txn txn;
    tarnp_staged *marks;
    size_t n;
    REQUIRE_OK(tarnp_read_begin(k.store, &txn, &k.err), &k.err);
    CHECK_STATUS(tarnp_stage_list(&txn, &tarni_heap, &marks, &n, &k.err), TARN_OK);
    tarnp_txn_abort(&txn);
    CHECK_EQ(n, 0);
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(refusals)
{
    kit k;
    kit_bundle f = {0};
    uint64_t n;
    REQUIRE(kit_begin(&k));
    CHECK_STATUS(tarnp_export(k.store, "none", kit_bundle_write, &f, NULL, NULL, &n, &k.err),
                 TARN_E_NOT_FOUND);
    kit_create(&k, "empty");
    REQUIRE(kit_export(&k, "empty", &f));
    CHECK_STATUS(kit_import(&k, &f, "copy", NULL), TARN_OK);
    KIT_CLEAN(&k);
    kit_append(&k, "copy", 1);
    KIT_CLEAN(&k);
    /* The same fingerprint with another descriptor. */
    kit other;
    kit_bundle g;
    REQUIRE(kit_begin(&other));
    kit_fill_session(&other, "a");
    REQUIRE(kit_export(&other, "a", &g));
    CHECK_STATUS(tarnp_model_put(k.store, kit_fp, "another", 7, &k.err), TARN_OK);
    tarnp_stat before = kit_stat(&k);
    CHECK_STATUS(kit_import(&k, &g, NULL, NULL), TARN_E_CONFLICT);
    CHECK_EQ(kit_stat(&k).bytes_stored, before.bytes_stored);
    KIT_CLEAN(&k);
    free(f.data);
    free(g.data);
    kit_end(&other);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(round_trip_into_another_store), ENTRY(nodes_that_are_there_are_used),
           ENTRY(a_key_of_another_node), ENTRY(a_damaged_twin_is_not_used),
           ENTRY(a_chain_of_a_thousand), ENTRY(commits_in_between),
           ENTRY(what_an_interrupted_import_leaves), ENTRY(refusals))
