/* Encrypted stores: what opens them, what can be seen of them, and that everything works on them as
 * on others. */
#include "bundle_kit.h"
#include "compact.h"
#include "salvage.h"
#include "seal.h"

static const char first_key[] = "first key: 32 bytes at the least, of course random ones";
static const char other_key[] = "other key: 32 bytes at the least, of course random ones";

static void with_key(kit *k, const char *key)
{
    k->options.secret = key;
    k->options.secret_bytes = key ? strlen(key) : 0;
}

static bool begin_sealed(kit *k)
{
    kit_folder(k);
    with_key(k, first_key);
    return kit_reopen(k);
}

static tarn_status open_with(kit *k, const char *key, size_t n_bytes)
{
    tarnp_store_close(k->store);
    k->store = NULL;
    k->options.secret = key;
    k->options.secret_bytes = n_bytes;
    return tarnp_store_open(k->path, &k->options, &k->store, &k->err);
}

/* The file of a closed store. */
static uint8_t *read_file(const kit *k, size_t *n)
{
    char path[260];
    struct stat info;
    kit_file(k, "data.mdb", path);
    FILE *in = fopen(path, "rb");
    *n = 0;
    if (!in || fstat(fileno(in), &info) != 0)
        return NULL;
    uint8_t *data = malloc((size_t)info.st_size);
    *n = fread(data, 1, (size_t)info.st_size, in);
    fclose(in);
    return data;
}

static void write_file(const kit *k, const uint8_t *data, size_t n)
{
    char path[260];
    kit_file(k, "data.mdb", path);
    FILE *out = fopen(path, "wb");
    CHECK(out && fwrite(data, 1, n, out) == n && fclose(out) == 0);
}

static bool holds(const uint8_t *data, size_t n, const void *needle, size_t size)
{
    return memmem(data, n, needle, size) != NULL;
}

CASE(a_sealed_value)
{
    enum { N = 40 };
    tarn_error err;
    tarnp_seal seal, other;
    uint8_t value[N + TARNP_SEAL_BYTES], copy[N + TARNP_SEAL_BYTES], out[N], key[8] = {1};
    CHECK_STATUS(tarnp_seal_init(&seal, first_key, 31, &err), TARN_E_INVALID);
    CHECK_STATUS(tarnp_seal_init(&seal, first_key, 65, &err), TARN_E_INVALID);
    CHECK_HAS(err.detail, "65 bytes, should be 32 to 64");
    CHECK_STATUS(tarnp_seal_init(&seal, NULL, 32, &err), TARN_E_INVALID);
    REQUIRE_OK(tarnp_seal_init(&seal, first_key, 32, &err), &err);
    REQUIRE_OK(tarnp_seal_init(&other, other_key, 32, &err), &err);
    CHECK(memcmp(seal.id, other.id, sizeof seal.id) != 0);
    memset(value, 'v', sizeof value);
    tarnp_seal_put(&seal, TARNP_TABLE_NODE, key, sizeof key, value, N);
    CHECK(!holds(value, sizeof value, "vvvv", 4));
    CHECK(tarnp_seal_open(&seal, TARNP_TABLE_NODE, key, sizeof key, value, sizeof value, out));
    for (size_t i = 0; i < N; i++)
        CHECK_EQ(out[i], 'v');
    CHECK(!tarnp_seal_open(&other, TARNP_TABLE_NODE, key, sizeof key, value, sizeof value, out));
    CHECK(!tarnp_seal_open(&seal, TARNP_TABLE_CHUNK, key, sizeof key, value, sizeof value, out));
    CHECK(!tarnp_seal_open(&seal, TARNP_TABLE_NODE, key, 7, value, sizeof value, out));
    CHECK(!tarnp_seal_open(&seal, TARNP_TABLE_NODE, key, sizeof key, value, 10, out));
    key[7] = 1;
    CHECK(!tarnp_seal_open(&seal, TARNP_TABLE_NODE, key, sizeof key, value, sizeof value, out));
    key[7] = 0;
    for (size_t bit = 0; bit < 8 * sizeof value; bit++) {
        memcpy(copy, value, sizeof copy);
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (tarnp_seal_open(&seal, TARNP_TABLE_NODE, key, sizeof key, copy, sizeof copy, out))
            CHECK_FAIL("bit %zu may be turned over", bit);
    }
    /* The same value twice is not the same bytes. */
    memset(copy, 'v', sizeof copy);
    tarnp_seal_put(&seal, TARNP_TABLE_NODE, key, sizeof key, copy, N);
    CHECK(memcmp(copy + 24, value + 24, sizeof copy - 24) != 0);
    tarnp_seal_fini(&seal);
    for (size_t i = 0; i < sizeof seal; i++)
        CHECK_EQ(((uint8_t *)&seal)[i], 0);
}

CASE(keys)
{
    kit k;
    char name[17];
    tarnp_seal seal;
    REQUIRE(begin_sealed(&k));
    kit_create(&k, "main");
    uint64_t node = kit_append(&k, "main", 1);
    REQUIRE_OK(tarnp_seal_init(&seal, first_key, strlen(first_key), &k.err), &k.err);
    tarnp_seal_name(seal.id, name);
    CHECK_STATUS(open_with(&k, NULL, 0), TARN_E_KEY);
    CHECK_HAS(k.err.detail, name);
    CHECK_HAS(k.err.detail, "none was given");
    CHECK_STATUS(open_with(&k, other_key, strlen(other_key)), TARN_E_KEY);
    CHECK_HAS(k.err.detail, name);
    CHECK_HAS(k.err.detail, "not with");
    CHECK_STATUS(open_with(&k, first_key, strlen(first_key) - 1), TARN_E_KEY);
    CHECK_STATUS(open_with(&k, first_key, 5), TARN_E_INVALID);
    CHECK_STATUS(open_with(&k, first_key, strlen(first_key)), TARN_OK);
    kit_check_node(&k, node, 1);
    KIT_CLEAN(&k);
    kit_end(&k);

    kit_folder(&k); /* the other way round */
    with_key(&k, NULL);
    REQUIRE(kit_reopen(&k));
    CHECK_STATUS(open_with(&k, first_key, strlen(first_key)), TARN_E_KEY);
    CHECK_HAS(k.err.detail, "it is not encrypted");
    kit_end(&k);
    kit_folder(&k); /* nothing is made with a key that is none */
    CHECK_STATUS(open_with(&k, first_key, 31), TARN_E_INVALID);
    CHECK(access(k.path, F_OK) != 0);
    kit_end(&k);
}

/* Names stand in the file, and nothing else of what was put in. */
CASE(what_can_be_seen)
{
    for (int sealed = 0; sealed < 2; sealed++) {
        kit k;
        size_t n;
        tarnp_node node;
        kit_folder(&k);
        with_key(&k, sealed ? first_key : NULL);
        REQUIRE(kit_reopen(&k));
        kit_create(&k, "visible-name");
        uint64_t id = kit_append(&k, "visible-name", 7777777);
        CHECK_STATUS(tarnp_session_tag(k.store, "visible-name", "customer", "hidden-tag", &k.err),
                     TARN_OK);
        CHECK_STATUS(tarnp_session_set_group(k.store, "visible-name", "hidden-group", &k.err),
                     TARN_OK);
        CHECK_STATUS(tarnp_model_put(k.store, kit_fp, "hidden-model", 12, &k.err), TARN_OK);
        REQUIRE_OK(tarnp_node_read(k.store, id, &node, &k.err), &k.err);
        tarnp_node_fini(&node);
        tarnp_store_close(k.store);
        k.store = NULL;
        uint8_t *data = read_file(&k, &n);
        REQUIRE(data);
        CHECK(holds(data, n, "visible-name", 12));
        CHECK(holds(data, n, "hidden-tag", 10) == !sealed);
        CHECK(holds(data, n, "hidden-group", 12) == !sealed);
        CHECK(holds(data, n, "hidden-model", 12) == !sealed);
        CHECK(holds(data, n, "call:7777777", 12) == !sealed);
        CHECK(holds(data, n, "cpu/f32", 7) == !sealed);
        CHECK(holds(data, n, "TCHK", 4) == !sealed);
        CHECK(holds(data, n, "TNOD", 4) == !sealed);
        CHECK(!holds(data, n, first_key, 16));
        free(data);
        kit_end(&k);
    }
}

/* Exported files do not depend on encryption. */
CASE(through_files)
{
    kit sealed, plain;
    kit_bundle one, two;
    uint64_t head;
    REQUIRE(begin_sealed(&sealed));
    kit_folder(&plain);
    with_key(&plain, NULL);
    REQUIRE(kit_reopen(&plain));
    kit_create(&sealed, "main");
    for (uint64_t seed = 1; seed < 5; seed++)
        kit_append(&sealed, "main", seed);
    REQUIRE(kit_export(&sealed, "main", &one));
    REQUIRE_OK(kit_import(&plain, &one, NULL, &head), &plain.err);
    kit_check_node(&plain, head, 4);
    REQUIRE(kit_export(&plain, "main", &two));
    CHECK_EQ(one.n_bytes, two.n_bytes);
    CHECK_BYTES(one.data, two.data, one.n_bytes);
    REQUIRE_OK(kit_import(&sealed, &two, "back", &head), &sealed.err);
    CHECK_EQ(head, kit_head(&sealed, "main")); /* its nodes were there */
    CHECK_STATUS(tarnp_session_remove(sealed.store, "main", &sealed.err), TARN_OK);
    CHECK_STATUS(tarnp_session_remove(sealed.store, "back", &sealed.err), TARN_OK);
    CHECK_EQ(kit_stat(&sealed).bytes_stored, 0);
    REQUIRE_OK(kit_import(&sealed, &two, "back", &head), &sealed.err);
    kit_check_node(&sealed, head, 4);
    KIT_CLEAN(&sealed);
    KIT_CLEAN(&plain);
    free(one.data);
    free(two.data);
    kit_end(&sealed);
    kit_end(&plain);
}

CASE(compacted)
{
    kit k;
    uint64_t before, after;
    REQUIRE(begin_sealed(&k));
    kit_create(&k, "main");
    uint64_t node = kit_append(&k, "main", 3);
    kit_create(&k, "gone");
    for (uint64_t seed = 10; seed < 20; seed++)
        kit_append(&k, "gone", seed);
    CHECK_STATUS(tarnp_session_remove(k.store, "gone", &k.err), TARN_OK);
    tarnp_store_close(k.store);
    k.store = NULL;
    CHECK_STATUS(tarnp_compact(k.path, NULL, NULL, NULL, &before, &after, &k.err), TARN_E_KEY);
    REQUIRE_OK(tarnp_compact(k.path, &k.options, NULL, NULL, &before, &after, &k.err), &k.err);
    CHECK(after < before);
    REQUIRE(kit_reopen(&k));
    kit_check_node(&k, node, 3);
    KIT_CLEAN(&k);
    kit_end(&k);
}

/* With and without tables that open; without the key nothing comes out. */
CASE(salvaged)
{
    for (int broken = 0; broken < 2; broken++) {
        kit k;
        tarnp_salvaged found;
        REQUIRE(begin_sealed(&k));
        kit_create(&k, "main");
        for (uint64_t seed = 1; seed < 5; seed++)
            kit_append(&k, "main", seed);
        CHECK_STATUS(tarnp_model_put(k.store, kit_fp, "the model", 9, &k.err), TARN_OK);
        tarnp_store_close(k.store);
        k.store = NULL;
        if (broken) {
            size_t n;
            uint8_t *data = read_file(&k, &n);
            REQUIRE(data);
            memset(data, 0, 8192);
            write_file(&k, data, n);
            free(data);
        }
        kit saved = k;
        snprintf(saved.path, sizeof saved.path, "%s/saved", k.folder);
        with_key(&k, NULL);
        CHECK_STATUS(tarnp_salvage(k.path, saved.path, &k.options, NULL, NULL, &found, &k.err),
                     TARN_E_KEY);
        with_key(&k, other_key);
        CHECK_STATUS(tarnp_salvage(k.path, saved.path, &k.options, NULL, NULL, &found, &k.err),
                     TARN_E_KEY);
        CHECK(access(saved.path, F_OK) != 0);
        with_key(&k, first_key);
        REQUIRE_OK(tarnp_salvage(k.path, saved.path, &k.options, NULL, NULL, &found, &k.err),
                   &k.err);
        CHECK_EQ(found.saved, 5);
        CHECK_EQ(found.lost, 0);
        CHECK_EQ(found.without_state, 0);
        REQUIRE(kit_reopen(&saved));
        KIT_CLEAN(&saved);
        kit_check_node(&saved, kit_head(&saved, "main"), 4);
        tarni_writer w;
        tarni_writer_init(&w, &tarni_heap);
        CHECK_STATUS(tarnp_model_get(saved.store, kit_fp, &w, &saved.err), TARN_OK);
        CHECK(w.n_bytes == 9 && memcmp(w.data, "the model", 9) == 0);
        tarni_writer_fini(&w);
        kit_remove(&saved);
        kit_end(&k);
    }
}

/* Whoever can write the file cannot put one chunk in the place of another. */
CASE(values_do_not_move)
{
    kit k;
    size_t n;
    REQUIRE(begin_sealed(&k));
    kit_create(&k, "main");
    uint64_t nodes[2] = {kit_append(&k, "main", 8), kit_append(&k, "main", 16)};
    tarnp_store_close(k.store);
    k.store = NULL;
    uint8_t *data = read_file(&k, &n);
    REQUIRE(data);
    /* The samplers: of the same size in every node. Pages keep older copies of them. */
    enum { SIZE = 80 + 40 + TARNP_SEAL_BYTES };
    uint8_t values[2][SIZE];
    uint64_t ids[2] = {0};
    for (int swap = 0; swap < 2; swap++)
        for (size_t at = 0; at + SIZE < n; at += 2) {
            if (memcmp(data + at, "TSLD", 4) != 0 || data[at + 5] != TARNP_TABLE_CHUNK ||
                tarni_load_u32(data + at + 16) != 80 + 40)
                continue;
            uint64_t id = tarni_load_u64(data + at + 8);
            size_t i = ids[0] == 0 || ids[0] == id ? 0 : 1;
            if (swap)
                memcpy(data + at, values[1 - i], SIZE);
            else
                memcpy(values[i], data + at, SIZE);
            ids[i] = swap ? ids[i] : id;
            at += swap ? SIZE - 2 : 0;
        }
    REQUIRE(ids[0] && ids[1]);
    write_file(&k, data, n);
    free(data);
    REQUIRE(kit_reopen(&k));
    for (size_t i = 0; i < 2; i++) {
        bool equal;
        CHECK_STATUS(kit_read(k.store, nodes[i], i ? 16 : 8, &equal, &k.err), TARN_E_CORRUPT);
        CHECK_HAS(k.err.detail, "not what was sealed there");
    }
    CHECK(kit_verify(&k, true) > 0);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(a_sealed_value), ENTRY(keys), ENTRY(what_can_be_seen), ENTRY(through_files),
           ENTRY(compacted), ENTRY(salvaged), ENTRY(values_do_not_move))
