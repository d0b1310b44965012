/* Nothing comes from a bad file, and the error says what is wrong with it. */
#include "bundle_bad.h"

#include "node.h"
#include "sanitized.h"

CASE(every_length)
{
    bad b;
    REQUIRE(bad_begin(&b));
    for (size_t n = 0; n < b.good.n_bytes; n++) {
        b.file.n_bytes = n;
        if (kit_import(&b.k, &b.file, NULL, NULL) != TARN_E_CORRUPT)
            CHECK_FAIL("%zu bytes: %s", n, b.k.err.detail);
    }
    bad_check_untouched(&b);
    b.file.n_bytes = b.good.n_bytes;
    tarn_error err;
    kit_bundle_write(&b.file, "x", 1, &err);
    CHECK_STATUS(kit_import(&b.k, &b.file, NULL, NULL), TARN_E_CORRUPT);
    CHECK_HAS(b.k.err.detail, "follows the end");
    bad_check_untouched(&b);
    b.file.n_bytes--;
    bad_end(&b);
}

CASE(every_bit)
{
    bad b;
    REQUIRE(bad_begin(&b));
    for (size_t i = 0; i < 8 * b.good.n_bytes; i += SANITIZED ? 7 : 1) {
        b.file.data[i / 8] ^= (uint8_t)(1u << i % 8);
        tarn_status status = kit_import(&b.k, &b.file, NULL, NULL);
        if (status != TARN_E_CORRUPT && status != TARN_E_FORMAT && status != TARN_E_INVALID)
            CHECK_FAIL("bit %zu: %s: %s", i, tarn_status_name(status), b.k.err.detail);
        b.file.data[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    bad_check_untouched(&b);
    bad_end(&b);
}

/* With the digest made to fit again: what the structure alone refuses. */
CASE(heads_and_frames)
{
    bad b;
    REQUIRE(bad_begin(&b));
    b.file.data[1] = 'X';
    bad_refuse(&b, TARN_E_FORMAT, "wrong magic");
    b.file.data[8] = 2;
    bad_refuse(&b, TARN_E_FORMAT, "version is 2");
    b.file.data[24] = 1;
    bad_refuse(&b, TARN_E_FORMAT, "features 0x1");
    b.file.data[12] = 2;
    bad_refuse(&b, TARN_E_CORRUPT, "2 models");
    b.file.data[12] = 0;
    bad_refuse(&b, TARN_E_CORRUPT, "should be NODE");
    tarni_store_u64(b.file.data + 40, 0);
    bad_refuse(&b, TARN_E_CORRUPT, "0 nodes");
    tarni_store_u64(b.file.data + 40, UINT64_MAX);
    bad_refuse(&b, TARN_E_CORRUPT, "should be NODE");
    tarni_store_u64(b.file.data + 48, 3);
    bad_refuse(&b, TARN_E_CORRUPT, "chunks, the head says 3");
    tarni_store_u64(b.file.data + 32, 3);
    bad_refuse(&b, TARN_E_CORRUPT, "disagree");
    /* Lengths without the bytes: refused without taking the memory. */
    for (size_t i = 0; i < 6; i++) {
        tarni_store_u32(b.file.data + kit_bundle_frame(&b.file, i) + 4, 0xFFFFFFF0u);
        bad_refuse(&b, TARN_E_CORRUPT, "4294967280 bytes");
        tarni_store_u32(b.file.data + kit_bundle_frame(&b.file, i) + 4, 0);
        bad_refuse(&b, TARN_E_CORRUPT, "of 0 bytes");
    }
    size_t node = kit_bundle_find(&b.file, TARNP_FRAME_NODE, 0);
    tarni_store_u32(b.file.data + node + 4, TARNP_BUNDLE_NODE_MAX);
    bad_refuse(&b, TARN_E_CORRUPT, "the file ends");
    bad_end(&b);
}

CASE(missing_and_repeated_parts)
{
    bad b;
    static const uint32_t kinds[] = {TARNP_FRAME_SESS, TARNP_FRAME_MODL, TARNP_FRAME_NODE,
                                     TARNP_FRAME_CHNK, TARNP_FRAME_TEND};
    REQUIRE(bad_begin(&b));
    for (size_t frame = 0;; frame++) {
        size_t at = kit_bundle_frame(&b.file, frame), next = kit_bundle_frame(&b.file, frame + 1);
        if (at >= b.file.n_bytes)
            break;
        uint32_t kind = tarni_load_u32(b.file.data + at);
        CHECK(kind == kinds[0] || kind == kinds[1] || kind == kinds[2] || kind == kinds[3] ||
              kind == kinds[4]);
        kit_bundle_cut(&b.file, at, next);
        bad_refuse(&b, TARN_E_CORRUPT, "");
        kit_bundle_repeat(&b.file, at, next);
        bad_refuse(&b, TARN_E_CORRUPT, "");
    }
    bad_end(&b);
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
    REQUIRE(bad_begin(&b));
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        name_file(&b, paths[i]);
        bad_refuse(&b, TARN_E_INVALID, "looks like a path");
    }
    name_file(&b, "a@b");
    bad_refuse(&b, TARN_E_INVALID, "'@'");
    name_file(&b, "a\nb");
    bad_refuse(&b, TARN_E_INVALID, "control character");
    name_file(&b, "\xC3");
    bad_refuse(&b, TARN_E_INVALID, "UTF-8");
    name_file(&b, "");
    bad_refuse(&b, TARN_E_INVALID, "0 bytes");
    name_file(&b, "mine");
    bad_refuse(&b, TARN_E_EXISTS, "mine");
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
    kit_check_session(&b.k, "fine");
    CHECK_STATUS(tarnp_session_remove(b.k.store, "fine", &b.k.err), TARN_OK);
    free(b.file.data);
    b.file = kit_bundle_copy(&b.good);
    bad_end(&b);
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
    REQUIRE(bad_begin(&b));
    edit_word(&b, 2, ID, 2, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "belongs to another node"); /* a duplicate */
    edit_word(&b, 2, PARENT, 3, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "younger"); /* its own parent */
    edit_word(&b, 2, PARENT, 4, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "younger"); /* a cycle */
    edit_word(&b, 2, PARENT, 1, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "not those before it");
    edit_word(&b, 0, PARENT, 0, 8);
    edit_word(&b, 2, PARENT, 0, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "not those before it"); /* a second root */
    edit_word(&b, 2, SESSION, 2, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "not those before it");
    edit_word(&b, 2, POSITION, 3, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "position does not follow");
    edit_word(&b, 2, POSITION, UINT64_MAX, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "position does not follow");
    edit_word(&b, 0, POSITION, 3, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "position does not follow");
    edit_word(&b, 2, TURNS, 0, 4);
    bad_refuse(&b, TARN_E_CORRUPT, "position does not follow");
    edit_word(&b, 2, FLAGS, 0x80, 1);
    bad_refuse(&b, TARN_E_FORMAT, "unknown flags");
    edit_word(&b, 2, FLAGS, TARNP_NODE_HAS_STATE | TARNP_NODE_STATE_EVICTED, 1);
    bad_refuse(&b, TARN_E_CORRUPT, "there and was evicted");
    edit_word(&b, 2, TOKENS, 0, 4);
    bad_refuse(&b, TARN_E_CORRUPT, "add up to its tokens");
    edit_word(&b, 2, CHUNK_BYTES, 1, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "add up to its bytes");
    edit_word(&b, 2, FIRST_CHUNK, 1, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "not those before it");
    edit_word(&b, 2, FP, 99, 8);
    bad_refuse(&b, TARN_E_CORRUPT, "another model");
    edit_word(&b, 2, KEY_ID, 1, 4);
    bad_refuse(&b, TARN_E_FORMAT, "encrypted");
    edit_word(&b, 2, SEGMENTS, 9, 1);
    bad_refuse(&b, TARN_E_CORRUPT, "unknown role");
    bad_end(&b);
}

/* The same of the tables at its end: four sections (tokens, state, conv, sampler), five chunks. */
CASE(section_tables)
{
    bad b;
    enum { SECTION = 24, CHUNK = 32, KIND = 0, CODEC = 2, FLAGS = 3, FIRST = 0, RAW = 8 };
    size_t n_bytes;
    REQUIRE(bad_begin(&b));
    (void)manifest_at(&b, 2, &n_bytes);
    size_t chunks = n_bytes - TARNP_SUM_BYTES - 5 * CHUNK, sections = chunks - 4 * SECTION;
    edit_word(&b, 2, sections + KIND, TARNP_SECTION_SAMPLER + 1, 1);
    bad_refuse(&b, TARN_E_FORMAT, "unknown kind 7");
    edit_word(&b, 2, sections + KIND, TARNP_SECTION_STATE, 1);
    bad_refuse(&b, TARN_E_CORRUPT, "do not hold its tokens");
    edit_word(&b, 2, sections + SECTION + KIND, TARNP_SECTION_TOKENS, 1);
    bad_refuse(&b, TARN_E_CORRUPT, "tokens of another kind, or twice");
    /* What was evicted has no entry in a file: its chunks would be there and nobody's. */
    edit_word(&b, 2, sections + SECTION + FLAGS, 1, 1);
    bad_refuse(&b, TARN_E_CORRUPT, "add up to its bytes");
    edit_word(&b, 2, chunks + CHUNK + 12, 0, 4);
    edit_word(&b, 2, chunks + 2 * CHUNK + 12, 0, 4);
    bad_refuse(&b, TARN_E_CORRUPT, "add up to its bytes");
    evict_state(&b, 2);
    bad_refuse(&b, TARN_E_CORRUPT, "an entry of a section that was evicted");
    edit_word(&b, 2, 6, TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT, 1);
    edit_word(&b, 2, sections + SECTION + CODEC, TARNP_STATE_FP16, 1);
    bad_refuse(&b, TARN_E_CORRUPT, "a lossy section of a bit-exact node");
    edit_word(&b, 2, chunks + FIRST, 1, 4);
    bad_refuse(&b, TARN_E_CORRUPT, "tokens out of place");
    edit_word(&b, 2, chunks + CHUNK + RAW, 3, 4);
    bad_refuse(&b, TARN_E_CORRUPT, "impossible size");
    bad_end(&b);
}

/* A payload that matches every sum and decodes to nothing. */
CASE(a_chunk_that_does_not_decode)
{
    bad b;
    REQUIRE(bad_begin(&b));
    size_t n_bytes;
    uint8_t sum[TARNP_SUM_BYTES], *manifest = manifest_at(&b, 1, &n_bytes);
    size_t chunk = kit_bundle_find(&b.file, TARNP_FRAME_CHNK, 0);
    uint8_t *head = b.file.data + chunk + 8;
    head[5] = TARNP_CODEC_ZSTD;
    tarnp_chunk_renumber(head, 1, sum);
    memcpy(manifest + n_bytes - TARNP_SUM_BYTES - 32 * 5 + 16, sum, sizeof sum);
    sum_manifest(manifest, n_bytes);
    bad_refuse(&b, TARN_E_CORRUPT, "node 2: chunk 0");
    bad_end(&b);
}

CHECK_MAIN(ENTRY(every_length), ENTRY(every_bit), ENTRY(heads_and_frames),
           ENTRY(missing_and_repeated_parts), ENTRY(names), ENTRY(manifests), ENTRY(section_tables),
           ENTRY(a_chunk_that_does_not_decode))
