/* A session through a file: the same bits, whatever the way, and nothing from a bad file. */
#include "bundle_kit.h"

#include "handle.h"
#include "node.h"
#include "stage.h"

/* A session of four nodes with tags; one node is a fork's. Its seeds are 1 to 4. */
static void fill(kit *k, const char *name)
{
    const tarnp_tag tags[2] = {{"project", "tarn"}, {"note", "\xC3\xA4 = b"}};
    tarnp_session s;
    CHECK_STATUS(tarnp_model_put(k->store, kit_fp, "descriptor", 10, &k->err), TARN_OK);
    REQUIRE_OK(tarnp_session_create(k->store, "first", kit_fp, "cpu/f32", tags, 2, &s, &k->err),
               &k->err);
    tarnp_session_fini(&s);
    kit_append(k, "first", 1);
    uint64_t node = kit_append(k, "first", 2);
    REQUIRE_OK(tarnp_session_create(k->store, name, kit_fp, "cpu/f32", tags, 2, &s, &k->err),
               &k->err);
    CHECK_STATUS(tarnp_session_move(k->store, s.id, s.head, node, NULL, &k->err), TARN_OK);
    tarnp_session_fini(&s);
    kit_append(k, name, 3);
    kit_append(k, name, 4);
}

static void check_session(kit *k, const char *name)
{
    tarnp_session s;
    uint64_t *ids;
    size_t n;
    REQUIRE_OK(tarnp_session_find(k->store, name, &s, &k->err), &k->err);
    CHECK_EQ(s.n_tags, 2);
    if (s.n_tags == 2)
        CHECK_TEXT(s.tags[1].value, "\xC3\xA4 = b");
    REQUIRE_OK(tarnp_node_chain(k->store, s.head, &ids, &n, &k->err), &k->err);
    CHECK_EQ(n, 5);
    for (uint64_t i = 1; i < n; i++)
        kit_check_node(k, ids[i], i);
    tarni_free(tarnp_store_allocator(k->store), ids);
    tarnp_session_fini(&s);
}

/* Export, import elsewhere, export: the same bytes. So are those of another reading step. */
CASE(round_trip_into_another_store)
{
    kit a, b;
    kit_bundle one, two;
    REQUIRE(kit_begin(&a) && kit_begin(&b));
    fill(&a, "work/a");
    REQUIRE(kit_export(&a, "work/a", &one));
    one.step = 7;
    CHECK_STATUS(kit_import(&b, &one, NULL, NULL), TARN_OK);
    check_session(&b, "work/a");
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
    fill(&k, "a");
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
    check_session(&k, "c");
    KIT_CLEAN(&k);
    REQUIRE(kit_export(&k, "c", &other));
    kit_append(&k, "first", 9);
    CHECK_STATUS(tarnp_session_remove(k.store, "first", &k.err), TARN_OK);
    check_session(&k, "c");
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
    fill(&a, "a");
    REQUIRE(kit_export(&a, "a", &f));
    kit_create(&b, "x");
    kit_append(&b, "x", 7); /* so that its parent is another */
    uint64_t known = kit_append(&b, "x", 2);
    CHECK_STATUS(kit_import(&b, &f, NULL, NULL), TARN_OK);
    check_session(&b, "a");
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
    fill(&k, "a");
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
    check_session(&k, "whole");
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

/* ---- bad files ------------------------------------------------------------------------------ */

typedef struct bad {
    kit k; /* a store with one session, which must stay as it is */
    kit_bundle good, file;
    tarnp_stat before;
} bad;

static bool begin_bad(bad *b)
{
    kit source;
    if (!kit_begin(&source) || !kit_begin(&b->k))
        return false;
    kit_floats = 8;
    fill(&source, "a");
    bool ok = kit_export(&source, "a", &b->good);
    kit_end(&source);
    kit_create(&b->k, "mine");
    kit_append(&b->k, "mine", 50);
    b->before = kit_stat(&b->k);
    b->file = kit_bundle_copy(&b->good);
    return ok;
}

/* Nothing but the number of the next ids and the bytes ever written may have changed. */
static void check_untouched(bad *b)
{
    tarnp_stat now = kit_stat(&b->k);
    CHECK_EQ(now.sessions, b->before.sessions);
    CHECK_EQ(now.nodes, b->before.nodes);
    CHECK_EQ(now.chunks, b->before.chunks);
    CHECK_EQ(now.bytes_stored, b->before.bytes_stored);
}

static void refuse(bad *b, tarn_status want, const char *part)
{
    kit_bundle_sign(&b->file);
    CHECK_STATUS(kit_import(&b->k, &b->file, NULL, NULL), want);
    CHECK_HAS(b->k.err.detail, part);
    check_untouched(b);
    free(b->file.data);
    b->file = kit_bundle_copy(&b->good);
}

static void end_bad(bad *b)
{
    CHECK_STATUS(kit_import(&b->k, &b->file, NULL, NULL), TARN_OK);
    check_session(&b->k, "a");
    KIT_CLEAN(&b->k);
    kit_floats = 256;
    free(b->file.data);
    free(b->good.data);
    kit_end(&b->k);
}

CASE(every_length)
{
    bad b;
    REQUIRE(begin_bad(&b));
    for (size_t n = 0; n < b.good.n_bytes; n++) {
        b.file.n_bytes = n;
        if (kit_import(&b.k, &b.file, NULL, NULL) != TARN_E_CORRUPT)
            CHECK_FAIL("%zu bytes: %s", n, b.k.err.detail);
    }
    check_untouched(&b);
    b.file.n_bytes = b.good.n_bytes;
    tarn_error err;
    kit_bundle_write(&b.file, "x", 1, &err);
    CHECK_STATUS(kit_import(&b.k, &b.file, NULL, NULL), TARN_E_CORRUPT);
    CHECK_HAS(b.k.err.detail, "follows the end");
    check_untouched(&b);
    b.file.n_bytes--;
    end_bad(&b);
}

CASE(every_bit)
{
    bad b;
    REQUIRE(begin_bad(&b));
    for (size_t i = 0; i < 8 * b.good.n_bytes; i++) {
        b.file.data[i / 8] ^= (uint8_t)(1u << i % 8);
        tarn_status status = kit_import(&b.k, &b.file, NULL, NULL);
        if (status != TARN_E_CORRUPT && status != TARN_E_FORMAT && status != TARN_E_INVALID)
            CHECK_FAIL("bit %zu: %s: %s", i, tarn_status_name(status), b.k.err.detail);
        b.file.data[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    check_untouched(&b);
    end_bad(&b);
}

/* With the digest made to fit again: what the structure alone refuses. */
CASE(heads_and_frames)
{
    bad b;
    REQUIRE(begin_bad(&b));
    b.file.data[1] = 'X';
    refuse(&b, TARN_E_FORMAT, "wrong magic");
    b.file.data[8] = 2;
    refuse(&b, TARN_E_FORMAT, "version is 2");
    b.file.data[24] = 1;
    refuse(&b, TARN_E_FORMAT, "features 0x1");
    b.file.data[12] = 2;
    refuse(&b, TARN_E_CORRUPT, "2 models");
    b.file.data[12] = 0;
    refuse(&b, TARN_E_CORRUPT, "should be NODE");
    tarni_store_u64(b.file.data + 40, 0);
    refuse(&b, TARN_E_CORRUPT, "0 nodes");
    tarni_store_u64(b.file.data + 40, UINT64_MAX);
    refuse(&b, TARN_E_CORRUPT, "should be NODE");
    tarni_store_u64(b.file.data + 48, 3);
    refuse(&b, TARN_E_CORRUPT, "chunks, the head says 3");
    tarni_store_u64(b.file.data + 32, 3);
    refuse(&b, TARN_E_CORRUPT, "disagree");
    /* Lengths without the bytes: refused without taking the memory. */
    for (size_t i = 0; i < 6; i++) {
        tarni_store_u32(b.file.data + kit_bundle_frame(&b.file, i) + 4, 0xFFFFFFF0u);
        refuse(&b, TARN_E_CORRUPT, "4294967280 bytes");
        tarni_store_u32(b.file.data + kit_bundle_frame(&b.file, i) + 4, 0);
        refuse(&b, TARN_E_CORRUPT, "of 0 bytes");
    }
    size_t node = kit_bundle_find(&b.file, TARNP_FRAME_NODE, 0);
    tarni_store_u32(b.file.data + node + 4, TARNP_BUNDLE_NODE_MAX);
    refuse(&b, TARN_E_CORRUPT, "the file ends");
    end_bad(&b);
}

CASE(missing_and_repeated_parts)
{
    bad b;
    static const uint32_t kinds[] = {TARNP_FRAME_SESS, TARNP_FRAME_MODL, TARNP_FRAME_NODE,
                                     TARNP_FRAME_CHNK, TARNP_FRAME_TEND};
    REQUIRE(begin_bad(&b));
    for (size_t frame = 0;; frame++) {
        size_t at = kit_bundle_frame(&b.file, frame), next = kit_bundle_frame(&b.file, frame + 1);
        if (at >= b.file.n_bytes)
            break;
        uint32_t kind = tarni_load_u32(b.file.data + at);
        CHECK(kind == kinds[0] || kind == kinds[1] || kind == kinds[2] || kind == kinds[3] ||
              kind == kinds[4]);
        kit_bundle_cut(&b.file, at, next);
        refuse(&b, TARN_E_CORRUPT, "");
        kit_bundle_repeat(&b.file, at, next);
        refuse(&b, TARN_E_CORRUPT, "");
    }
    end_bad(&b);
}

/* Gives the first frame SESS another name of the same length. */
static void name_file(bad *b, const char *name)
{
    size_t old = tarni_load_u32(b->file.data + 64 + 8 + 48), n = strlen(name);
    size_t at = 64 + 8 + 48 + 4;
    uint8_t *data = malloc(b->file.n_bytes + n);
    memcpy(data, b->file.data, at);
    memcpy(data + at, name, n);
    memcpy(data + at + n, b->file.data + at + old, b->file.n_bytes - at - old);
    tarni_store_u32(data + at - 4, (uint32_t)n);
    tarni_store_u32(data + 64 + 4, tarni_load_u32(data + 64 + 4) + (uint32_t)(n - old));
    free(b->file.data);
    b->file = (kit_bundle){.data = data, .n_bytes = b->file.n_bytes + n - old};
    tarni_store_u64(data + 32, b->file.n_bytes);
}

CASE(names)
{
    bad b;
    static const char *const paths[] = {"../a", "a/../b", "..",    "a/..", "/etc/x",
                                        "./a",  "a//b",   "a/./b", "a/",   "."};
    REQUIRE(begin_bad(&b));
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        name_file(&b, paths[i]);
        refuse(&b, TARN_E_INVALID, "looks like a path");
    }
    name_file(&b, "a@b");
    refuse(&b, TARN_E_INVALID, "'@'");
    name_file(&b, "a\nb");
    refuse(&b, TARN_E_INVALID, "control character");
    name_file(&b, "\xC3");
    refuse(&b, TARN_E_INVALID, "UTF-8");
    name_file(&b, "");
    refuse(&b, TARN_E_INVALID, "0 bytes");
    name_file(&b, "mine");
    refuse(&b, TARN_E_EXISTS, "mine");
    /* Names with dots are names. */
    name_file(&b, ".a/..a/b..c/...");
    kit_bundle_sign(&b.file);
    CHECK_STATUS(kit_import(&b.k, &b.file, NULL, NULL), TARN_OK);
    CHECK_STATUS(tarnp_session_remove(b.k.store, ".a/..a/b..c/...", &b.k.err), TARN_OK);
    free(b.file.data);
    b.file = kit_bundle_copy(&b.good);
    /* The name that counts is the one given. */
    name_file(&b, "../a");
    kit_bundle_sign(&b.file);
    CHECK_STATUS(kit_import(&b.k, &b.file, "mine", NULL), TARN_E_EXISTS);
    CHECK_STATUS(kit_import(&b.k, &b.file, "x@y", NULL), TARN_E_INVALID);
    CHECK_STATUS(kit_import(&b.k, &b.file, "fine", NULL), TARN_OK);
    check_session(&b.k, "fine");
    CHECK_STATUS(tarnp_session_remove(b.k.store, "fine", &b.k.err), TARN_OK);
    free(b.file.data);
    b.file = kit_bundle_copy(&b.good);
    end_bad(&b);
}

/* The manifest of node number `node` (from 0) in the file. */
static uint8_t *manifest_at(bad *b, size_t node, size_t *n_bytes)
{
    size_t at = 0;
    for (size_t i = 0; i <= node; i++)
        at = kit_bundle_find(&b->file, TARNP_FRAME_NODE, at + 1);
    *n_bytes = tarni_load_u32(b->file.data + at + 4);
    return b->file.data + at + 8;
}

static void sum_manifest(uint8_t *manifest, size_t n_bytes)
{
    tarnp_sum128(manifest, n_bytes - TARNP_SUM_BYTES, manifest + n_bytes - TARNP_SUM_BYTES);
}

/* Manifests that are whole and say what cannot be. */
static void edit_word(bad *b, size_t node, size_t offset, uint64_t value, size_t n_value)
{
    size_t n_bytes;
    uint8_t *at = manifest_at(b, node, &n_bytes), word[8];
    tarni_store_u64(word, value);
    memcpy(at + offset, word, n_value);
    sum_manifest(at, n_bytes);
}

/* As if the state of a node had been evicted, but its chunks come all the same. */
static void evict_state(bad *b, size_t node)
{
    size_t n_bytes;
    tarnp_manifest m;
    tarn_error err;
    uint8_t *at = manifest_at(b, node, &n_bytes);
    CHECK_STATUS(tarnp_manifest_get((tarnp_span){at, n_bytes}, node + 1, &m, &err), TARN_OK);
    tarnp_manifest_evict(at, &m, TARNP_PART_STATE);
}

CASE(manifests)
{
    bad b;
    enum { FLAGS = 6, TOKENS = 12, ID = 16, PARENT = 24, SESSION = 32, POSITION = 40, TURNS = 48 };
    enum { CHUNK_BYTES = 64, FIRST_CHUNK = 72, FP = 104, KEY_ID = 232, SEGMENTS = 256 };
    REQUIRE(begin_bad(&b));
    edit_word(&b, 2, ID, 2, 8);
    refuse(&b, TARN_E_CORRUPT, "belongs to another node"); /* a duplicate */
    edit_word(&b, 2, PARENT, 3, 8);
    refuse(&b, TARN_E_CORRUPT, "younger"); /* its own parent */
    edit_word(&b, 2, PARENT, 4, 8);
    refuse(&b, TARN_E_CORRUPT, "younger"); /* a cycle */
    edit_word(&b, 2, PARENT, 1, 8);
    refuse(&b, TARN_E_CORRUPT, "not those before it");
    edit_word(&b, 0, PARENT, 0, 8);
    edit_word(&b, 2, PARENT, 0, 8);
    refuse(&b, TARN_E_CORRUPT, "not those before it"); /* a second root */
    edit_word(&b, 2, SESSION, 2, 8);
    refuse(&b, TARN_E_CORRUPT, "not those before it");
    edit_word(&b, 2, POSITION, 3, 8);
    refuse(&b, TARN_E_CORRUPT, "position does not follow");
    edit_word(&b, 2, POSITION, UINT64_MAX, 8);
    refuse(&b, TARN_E_CORRUPT, "position does not follow");
    edit_word(&b, 0, POSITION, 3, 8);
    refuse(&b, TARN_E_CORRUPT, "position does not follow");
    edit_word(&b, 2, TURNS, 0, 4);
    refuse(&b, TARN_E_CORRUPT, "position does not follow");
    edit_word(&b, 2, FLAGS, 0x80, 1);
    refuse(&b, TARN_E_FORMAT, "unknown flags");
    edit_word(&b, 2, FLAGS, TARNP_NODE_HAS_STATE | TARNP_NODE_STATE_EVICTED, 1);
    refuse(&b, TARN_E_CORRUPT, "there and was evicted");
    edit_word(&b, 2, TOKENS, 0, 4);
    refuse(&b, TARN_E_CORRUPT, "add up to its tokens");
    edit_word(&b, 2, CHUNK_BYTES, 1, 8);
    refuse(&b, TARN_E_CORRUPT, "add up to its bytes");
    edit_word(&b, 2, FIRST_CHUNK, 1, 8);
    refuse(&b, TARN_E_CORRUPT, "not those before it");
    edit_word(&b, 2, FP, 99, 8);
    refuse(&b, TARN_E_CORRUPT, "another model");
    edit_word(&b, 2, KEY_ID, 1, 4);
    refuse(&b, TARN_E_FORMAT, "encrypted");
    edit_word(&b, 2, SEGMENTS, 9, 1);
    refuse(&b, TARN_E_CORRUPT, "unknown role");
    end_bad(&b);
}

/* The same of the tables at its end: four sections (tokens, state, conv, sampler), five chunks. */
CASE(section_tables)
{
    bad b;
    enum { SECTION = 24, CHUNK = 32, KIND = 0, CODEC = 2, FLAGS = 3, FIRST = 0, RAW = 8 };
    size_t n_bytes;
    REQUIRE(begin_bad(&b));
    (void)manifest_at(&b, 2, &n_bytes);
    size_t chunks = n_bytes - TARNP_SUM_BYTES - 5 * CHUNK, sections = chunks - 4 * SECTION;
    edit_word(&b, 2, sections + KIND, TARNP_SECTION_SAMPLER + 1, 1);
    refuse(&b, TARN_E_FORMAT, "unknown kind 7");
    edit_word(&b, 2, sections + KIND, TARNP_SECTION_STATE, 1);
    refuse(&b, TARN_E_CORRUPT, "do not hold its tokens");
    edit_word(&b, 2, sections + SECTION + KIND, TARNP_SECTION_TOKENS, 1);
    refuse(&b, TARN_E_CORRUPT, "tokens of another kind, or twice");
    /* What was evicted has no entry in a file: its chunks would be there and nobody's. */
    edit_word(&b, 2, sections + SECTION + FLAGS, 1, 1);
    refuse(&b, TARN_E_CORRUPT, "add up to its bytes");
    edit_word(&b, 2, chunks + CHUNK + 12, 0, 4);
    edit_word(&b, 2, chunks + 2 * CHUNK + 12, 0, 4);
    refuse(&b, TARN_E_CORRUPT, "add up to its bytes");
    evict_state(&b, 2);
    refuse(&b, TARN_E_CORRUPT, "an entry of a section that was evicted");
    edit_word(&b, 2, 6, TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT, 1);
    edit_word(&b, 2, sections + SECTION + CODEC, TARNP_STATE_FP16, 1);
    refuse(&b, TARN_E_CORRUPT, "a lossy section of a bit-exact node");
    edit_word(&b, 2, chunks + FIRST, 1, 4);
    refuse(&b, TARN_E_CORRUPT, "tokens out of place");
    edit_word(&b, 2, chunks + CHUNK + RAW, 3, 4);
    refuse(&b, TARN_E_CORRUPT, "impossible size");
    end_bad(&b);
}

/* A payload that matches every sum and decodes to nothing. */
CASE(a_chunk_that_does_not_decode)
{
    bad b;
    REQUIRE(begin_bad(&b));
    size_t n_bytes;
    uint8_t sum[TARNP_SUM_BYTES], *manifest = manifest_at(&b, 1, &n_bytes);
    size_t chunk = kit_bundle_find(&b.file, TARNP_FRAME_CHNK, 0);
    uint8_t *head = b.file.data + chunk + 8;
    head[5] = TARNP_CODEC_ZSTD;
    tarnp_chunk_renumber(head, 1, sum);
    memcpy(manifest + n_bytes - TARNP_SUM_BYTES - 32 * 5 + 16, sum, sizeof sum);
    sum_manifest(manifest, n_bytes);
    refuse(&b, TARN_E_CORRUPT, "node 2: chunk 0");
    end_bad(&b);
}

/* ---- what can go wrong on the way ----------------------------------------------------------- */

typedef struct limited {
    kit_bundle *f;
    uint64_t left;
} limited;

static tarn_status limited_write(void *user, const void *data, size_t n, tarn_error *err)
{
    limited *l = user;
    if (n > l->left)
        return tarni_fail(err, TARN_E_NO_SPACE, "the disk of this test is full");
    l->left -= n;
    return kit_bundle_write(l->f, data, n, err);
}

static tarn_status limited_read(void *user, void *data, size_t n, size_t *n_read, tarn_error *err)
{
    limited *l = user;
    if (l->left < n)
        return tarni_fail(err, TARN_E_IO, "the tape of this test is torn");
    l->left -= n;
    return kit_bundle_read(l->f, data, n, n_read, err);
}

static bool stop_late(void *user, uint64_t done, uint64_t all)
{
    CHECK(done <= all);
    return --*(int *)user > 0;
}

CASE(callbacks_that_fail)
{
    bad b;
    uint64_t n_bytes;
    tarnp_session s;
    REQUIRE(begin_bad(&b));
    CHECK_STATUS(kit_import(&b.k, &b.file, NULL, NULL), TARN_OK);
    for (uint64_t n = 0; n < b.good.n_bytes; n += 97) {
        kit_bundle out = {0};
        limited l = {&out, n};
        CHECK_STATUS(
            tarnp_export(b.k.store, "a", limited_write, &l, NULL, NULL, &n_bytes, &b.k.err),
            TARN_E_NO_SPACE);
        CHECK_EQ(n_bytes, 0);
        free(out.data);
    }
    CHECK_STATUS(tarnp_session_remove(b.k.store, "a", &b.k.err), TARN_OK);
    for (uint64_t n = 0; n < b.good.n_bytes; n += 97) {
        limited l = {&b.file, n};
        b.file.at = 0;
        CHECK_STATUS(
            tarnp_import(b.k.store, limited_read, &l, NULL, NULL, NULL, &s, &n_bytes, &b.k.err),
            TARN_E_IO);
    }
    check_untouched(&b);
    for (int n = 1; n < 20; n++) {
        int left = n;
        b.file.at = 0;
        CHECK_STATUS(tarnp_import(b.k.store, kit_bundle_read, &b.file, NULL, stop_late, &left, &s,
                                  &n_bytes, &b.k.err),
                     TARN_E_CANCELLED);
    }
    check_untouched(&b);
    end_bad(&b);
}

typedef struct failing {
    uint64_t left;
} failing;

/* Told as an export comes along, to its end; and one that is ended half way. */
typedef struct course {
    uint64_t last, all, stop_at;
} course;

static bool follow(void *user, uint64_t n, uint64_t all)
{
    course *c = user;
    CHECK(n >= c->last && n <= all);
    c->last = n;
    c->all = all;
    return c->stop_at == 0 || n < c->stop_at;
}

/* Claims to have read more than there was room for. */
static tarn_status boast(void *user, void *data, size_t n, size_t *n_read, tarn_error *err)
{
    (void)user, (void)err;
    memset(data, 0, n);
    *n_read = n + 1;
    return TARN_OK;
}

CASE(an_export_tells_how_far_it_is)
{
    kit k;
    kit_bundle f = {0};
    course c = {0};
    uint64_t n_bytes;
    tarnp_session made;
    REQUIRE(kit_begin(&k));
    fill(&k, "a");
    REQUIRE_OK(tarnp_export(k.store, "a", kit_bundle_write, &f, follow, &c, &n_bytes, &k.err),
               &k.err);
    CHECK_EQ(c.last, n_bytes);
    CHECK_EQ(c.all, n_bytes);
    c = (course){.stop_at = n_bytes / 2};
    f.n_bytes = 0;
    CHECK_STATUS(tarnp_export(k.store, "a", kit_bundle_write, &f, follow, &c, &n_bytes, &k.err),
                 TARN_E_CANCELLED);
    CHECK(c.last >= c.stop_at && c.last < c.all);
    CHECK_STATUS(tarnp_import(k.store, boast, NULL, "b", NULL, NULL, &made, &n_bytes, &k.err),
                 TARN_E_CORRUPT);
    free(f.data);
    KIT_CLEAN(&k);
    kit_end(&k);
}

static void *failing_alloc(void *user, size_t n)
{
    failing *f = user;
    return f->left == 0 ? NULL : (f->left--, malloc(n));
}

static void *failing_resize(void *user, void *memory, size_t n)
{
    failing *f = user;
    return f->left == 0 ? NULL : (f->left--, realloc(memory, n));
}

static void failing_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

CASE(memory_that_fails)
{
    bad b;
    failing f = {UINT64_MAX};
    const tarn_allocator allocator = {failing_alloc, failing_resize, failing_release, &f};
    REQUIRE(begin_bad(&b));
    b.k.options.allocator = &allocator;
    REQUIRE(kit_reopen(&b.k));
    tarn_status status = TARN_E_NO_MEMORY;
    uint64_t n = 0;
    for (; status == TARN_E_NO_MEMORY && n < 10000; n++) {
        f.left = n;
        status = kit_import(&b.k, &b.file, NULL, NULL);
        f.left = UINT64_MAX;
        if (status == TARN_E_NO_MEMORY)
            check_untouched(&b);
    }
    CHECK_STATUS(status, TARN_OK);
    CHECK(n > 10);
    status = TARN_E_NO_MEMORY;
    for (n = 0; status == TARN_E_NO_MEMORY && n < 10000; n++) {
        kit_bundle out = {0};
        uint64_t n_bytes;
        f.left = n;
        status =
            tarnp_export(b.k.store, "a", kit_bundle_write, &out, NULL, NULL, &n_bytes, &b.k.err);
        f.left = UINT64_MAX;
        free(out.data);
    }
    CHECK_STATUS(status, TARN_OK);
    CHECK_STATUS(tarnp_session_remove(b.k.store, "a", &b.k.err), TARN_OK);
    end_bad(&b);
}

/* A store whose map is too small for the session keeps what it has, and goes on. */
CASE(no_space)
{
    kit a, b;
    kit_bundle f;
    REQUIRE(kit_begin(&a));
    kit_floats = 16384;
    kit_create(&a, "large");
    for (uint64_t i = 1; i <= 80; i++)
        kit_append(&a, "large", i);
    REQUIRE(kit_export(&a, "large", &f));
    kit_folder(&b);
    CHECK(f.n_bytes > (size_t)24 << 20);
    b.options.map_bytes = (size_t)20 << 20; /* the first transaction of 16 MiB fits */
    REQUIRE(kit_reopen(&b));
    kit_create(&b, "mine");
    kit_append(&b, "mine", 101);
    tarnp_stat before = kit_stat(&b);
    CHECK_STATUS(kit_import(&b, &f, NULL, NULL), TARN_E_NO_SPACE);
    CHECK_EQ(kit_stat(&b).chunks, before.chunks);
    CHECK_EQ(kit_stat(&b).bytes_stored, before.bytes_stored);
    KIT_CLEAN(&b);
    CHECK_EQ(kit_stat(&b).map_bytes, b.options.map_bytes); /* what was lent is given back */
    for (uint64_t i = 102; i < 150; i++) /* 16 of 20 MiB: all that was freed can be used */
        kit_append(&b, "mine", i);
    kit_check_node(&b, kit_head(&b, "mine"), 149);
    KIT_CLEAN(&b);
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
    fill(&other, "a");
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
           ENTRY(a_chain_of_a_thousand), ENTRY(commits_in_between), ENTRY(every_length),
           ENTRY(every_bit), ENTRY(heads_and_frames), ENTRY(missing_and_repeated_parts),
           ENTRY(names), ENTRY(manifests), ENTRY(section_tables),
           ENTRY(a_chunk_that_does_not_decode), ENTRY(callbacks_that_fail),
           ENTRY(memory_that_fails), ENTRY(an_export_tells_how_far_it_is), ENTRY(no_space),
           ENTRY(what_an_interrupted_import_leaves), ENTRY(refusals))
