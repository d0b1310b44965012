/* The seeds of the fuzz targets (tests/data/fuzz) are what this version writes: seeds that are
 * refused at the door leave everything behind it unsearched, and nothing else would notice.
 *
 *     persist_seeds_test                   the tests
 *     persist_seeds_test --write FOLDER    makes the seeds in FOLDER/import and FOLDER/node
 *
 * Unlike what is golden, seeds are made anew when a format changes. */
#include "bundle_kit.h"
#include "retain_kit.h"

#include "codec.h"
#include "handle.h"
#include "node.h"

#define SEEDS TEST_DATA "/fuzz"

/* What the first byte of an input means stands in import_fuzz.c and node_fuzz.c. */
enum { IMPORT_REPAIRED = 7, NODE_MANIFEST = 16, NODE_SESSION = 1, NODE_REF = 2, NODE_DROP = 3 };
enum { NODE_LEASE = 4, NODE_PAYLOAD = 5, NODE_ENCODE = 6 };

/* ---- making them ---------------------------------------------------------------------------- */

static void put(const char *folder, const char *name, uint8_t first, const void *data, size_t n)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *out = fopen(path, "wb");
    if (!out || fputc(first, out) == EOF || fwrite(data, 1, n, out) != n || fclose(out) != 0)
        CHECK_FAIL("cannot write %s", path);
}

static void put_import(kit *k, const char *folder, const char *session, const char *name,
                       uint8_t first)
{
    kit_bundle f;
    char sub[300];
    snprintf(sub, sizeof sub, "%s/import", folder);
    if (kit_export(k, session, &f))
        put(sub, name, first, f.data, f.n_bytes);
    free(f.data);
}

static void put_record(kit *k, const char *folder, const char *name, uint8_t first,
                       tarnp_table table, uint64_t id)
{
    tarnp_txn txn;
    tarnp_span value;
    REQUIRE_OK(tarnp_read_begin(k->store, &txn, &k->err), &k->err);
    CHECK_STATUS(tarnp_get_id(&txn, table, id, &value, &k->err), TARN_OK);
    if (value.data)
        put(folder, name, first, value.data, value.n_bytes);
    else
        CHECK_FAIL("there is no %s", name);
    tarnp_txn_abort(&txn);
}

/* The manifest and the last chunk of its table; evicted ones are not there. */
static void put_manifest(kit *k, const char *folder, const char *name, uint64_t id)
{
    static uint8_t input[1 << 16];
    tarnp_txn txn;
    tarnp_span value, chunk;
    tarnp_manifest m;
    REQUIRE_OK(tarnp_read_begin(k->store, &txn, &k->err), &k->err);
    CHECK_STATUS(tarnp_get_id(&txn, TARNP_TABLE_NODE, id, &value, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_manifest_get(value, id, &m, &k->err), TARN_OK);
    CHECK_STATUS(
        tarnp_get_id(&txn, TARNP_TABLE_CHUNK, m.first_chunk + m.n_chunks - 1, &chunk, &k->err),
        TARN_OK);
    tarni_store_u16(input, (uint16_t)value.n_bytes);
    memcpy(input + 2, value.data, value.n_bytes);
    memcpy(input + 2 + value.n_bytes, chunk.data, chunk.n_bytes);
    put(folder, name, NODE_MANIFEST, input, 2 + value.n_bytes + chunk.n_bytes);
    tarnp_txn_abort(&txn);
}

/* A payload of every codec, and the floats for every way of encoding. */
static void put_codecs(kit *k, const char *folder)
{
    static const struct {
        tarnp_elem elem;
        tarnp_state_codec lossy;
    } ways[] = {{TARNP_ELEM_U8, 0},
                {TARNP_ELEM_U32, 0},
                {TARNP_ELEM_F32, 0},
                {TARNP_ELEM_BF16, 0},
                {TARNP_ELEM_F32, TARNP_STATE_BF16},
                {TARNP_ELEM_F32, TARNP_STATE_FP16},
                {TARNP_ELEM_F32, TARNP_STATE_INT8}};
    float floats[256];
    uint32_t tokens[256];
    uint8_t out[5 + sizeof floats];
    char name[30];
    uint64_t r = 5;
    tarnp_codec *codec;
    for (size_t i = 0; i < 256; i++) {
        floats[i] = kit_normal(&r);
        tokens[i] = (uint32_t)i % 7;
    }
    REQUIRE_OK(tarnp_codec_create(&tarni_heap, &codec, &k->err), &k->err);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        const tarnp_piece piece = {ways[i].elem == TARNP_ELEM_U32 ? (void *)tokens : (void *)floats,
                                   sizeof floats};
        const tarnp_lossy how = {ways[i].lossy, 16, 64};
        tarnp_encoded made;
        CHECK_STATUS(tarnp_encode(codec, ways[i].elem, ways[i].lossy ? &how : NULL, &piece, 1,
                                  sizeof floats, out + 5, &made, &k->err),
                     TARN_OK);
        out[0] = (uint8_t)made.id;
        out[1] = (uint8_t)ways[i].elem;
        out[2] = 0;
        out[3] = sizeof floats >> 8;
        out[4] = 0;
        snprintf(name, sizeof name, "payload_%d", (int)made.id);
        put(folder, name, NODE_PAYLOAD, out, 5 + (size_t)made.n_bytes);
    }
    for (uint8_t i = 0; i < 4; i++) {
        uint8_t input[4 + sizeof floats] = {i, 2, 15, 3};
        memcpy(input + 4, floats, sizeof floats);
        snprintf(name, sizeof name, "encode_%d", i);
        put(folder, name, NODE_ENCODE, input, sizeof input);
    }
    tarnp_codec_free(codec);
}

static int write_seeds(const char *folder)
{
    kit k;
    char sub[300];
    uint64_t freed;
    tarnp_lease lease;
    static const uint8_t drop[24] = {1};
    if (!kit_begin(&k))
        return 1;
    kit_floats = 8;
    rk_state_floats = 64;
    CHECK_STATUS(tarnp_model_put(k.store, kit_fp, "m", 1, &k.err), TARN_OK);
    kit_create(&k, "two");
    kit_append(&k, "two", 1);
    uint64_t node = kit_append(&k, "two", 2);
    CHECK_STATUS(tarnp_session_tag(k.store, "two", "k", "v", &k.err), TARN_OK);
    kit_create(&k, "empty");
    kit_create(&k, "evicted");
    uint64_t evicted = rk_append(&k, "evicted", 11, 5);
    rk_append(&k, "evicted", 12, 5);
    CHECK_STATUS(
        tarnp_node_evict(k.store, evicted, TARNP_PART_STATE | TARNP_PART_LATENTS, &freed, &k.err),
        TARN_OK);
    CHECK_STATUS(tarnp_lease_take(k.store, kit_id(&k, "two"), 1000, "n", &lease, &k.err), TARN_OK);
    put_import(&k, folder, "two", "two_nodes", IMPORT_REPAIRED);
    put_import(&k, folder, "two", "as_it_is", 0);
    put_import(&k, folder, "empty", "root_only", IMPORT_REPAIRED);
    put_import(&k, folder, "evicted", "evicted", IMPORT_REPAIRED);
    snprintf(sub, sizeof sub, "%s/node", folder);
    put_manifest(&k, sub, "manifest", node);
    put_manifest(&k, sub, "manifest_evicted", evicted);
    put_record(&k, sub, "session", NODE_SESSION, TARNP_TABLE_SESSION, 1);
    put_record(&k, sub, "ref", NODE_REF, TARNP_TABLE_REF, 1);
    put(sub, "drop", NODE_DROP, drop, sizeof drop);
    put_record(&k, sub, "lease", NODE_LEASE, TARNP_TABLE_LEASE, 1);
    put_codecs(&k, sub);
    kit_end(&k);
    return check_failures ? 1 : 0;
}

/* ---- the tests ------------------------------------------------------------------------------ */

static kit_bundle read_seed(const char *name)
{
    static uint8_t buffer[1 << 16];
    char path[400];
    tarn_error err;
    kit_bundle f = {0};
    snprintf(path, sizeof path, SEEDS "/%s", name);
    FILE *in = fopen(path, "rb");
    size_t n = in ? fread(buffer, 1, sizeof buffer, in) : 0;
    if (in)
        fclose(in);
    if (n > 1)
        kit_bundle_write(&f, buffer + 1, n - 1, &err);
    else
        CHECK_FAIL("%s is not there", path);
    return f;
}

CASE(exported_files_are_taken)
{
    kit k;
    static const char *const names[] = {"two_nodes", "as_it_is", "root_only", "evicted"};
    REQUIRE(kit_begin(&k));
    for (size_t i = 0; i < 4; i++) {
        char path[40];
        snprintf(path, sizeof path, "import/%s", names[i]);
        kit_bundle f = read_seed(path);
        if (kit_import(&k, &f, names[i], NULL) != TARN_OK)
            CHECK_FAIL("%s: %s: persist_seeds_test --write makes the seeds anew", path,
                       k.err.detail);
        free(f.data);
    }
    KIT_CLEAN(&k);
    kit_end(&k);
}

CASE(manifests_are_taken)
{
    static const char *const names[] = {"node/manifest", "node/manifest_evicted"};
    for (size_t i = 0; i < 2; i++) {
        tarn_error err;
        tarnp_manifest m;
        kit_bundle f = read_seed(names[i]);
        REQUIRE(f.n_bytes > 2);
        const tarnp_span value = {f.data + 2, tarni_load_u16(f.data)};
        REQUIRE(2 + value.n_bytes <= f.n_bytes && value.n_bytes >= 24);
        if (tarnp_manifest_get(value, tarni_load_u64(value.data + 16), &m, &err) != TARN_OK)
            CHECK_FAIL("%s: %s: persist_seeds_test --write makes the seeds anew", names[i],
                       err.detail);
        free(f.data);
    }
}

CASE(records_are_taken)
{
    tarn_error err;
    tarnp_session s;
    kit_bundle f = read_seed("node/session");
    CHECK_STATUS(
        tarnp_session_record_get((tarnp_span){f.data, f.n_bytes}, 1, &tarni_heap, &s, &err),
        TARN_OK);
    tarnp_session_fini(&s);
    free(f.data);
}

int main(int argc, char **argv)
{
    static const check_case cases[] = {ENTRY(exported_files_are_taken), ENTRY(manifests_are_taken),
                                       ENTRY(records_are_taken)};
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_seeds(argv[2]);
    return check_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
