/* Nothing of one store, session or process comes to light in another's file: every secret here is a
 * needle, and the haystacks are searched for it. What a removed session held does stay in the free
 * pages of its own store's file until they are used again or the store is compacted; there
 * encryption is what helps. */
#include "bundle_kit.h"
#include "compact.h"

#include <sys/stat.h>

static char logged[1 << 16];
static size_t n_logged;

static void remember(void *user, tarn_log_level level, const char *message, const char *file,
                     int line)
{
    (void)user, (void)level, (void)file, (void)line;
    size_t n = strlen(message);
    if (n_logged + n < sizeof logged) {
        memcpy(logged + n_logged, message, n);
        n_logged += n;
    }
}

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

static bool file_holds(const kit *k, const void *needle, size_t size)
{
    size_t n;
    uint8_t *data = read_file(k, &n);
    bool found = data && memmem(data, n, needle, size);
    free(data);
    return found;
}

/* A node whose tokens, sampler, tool call and tag hold the needle. */
static void plant(kit *k, const char *session, const char *needle, uint64_t seed)
{
    char *ids[1] = {(char *)(uintptr_t)needle};
    uint32_t tokens[8];
    uint8_t sampler[40] = {0};
    for (size_t i = 0; i < 8; i++)
        memcpy(&tokens[i], needle + 4 * (i % 4), 4);
    memcpy(sampler, needle, 16);
    const tarnp_piece piece = {sampler, sizeof sampler};
    tarnp_chunk chunk = {.raw_bytes = sizeof sampler, .n_pieces = 1, .pieces = &piece};
    const tarnp_section section = {
        .kind = TARNP_SECTION_SAMPLER, .elem = TARNP_ELEM_U8, .n_chunks = 1, .chunks = &chunk};
    const tarnp_segment segment = {
        .role = TARN_ROLE_ASSISTANT, .n_tokens = 8, .n_call_ids = 1, .call_ids = ids};
    tarnp_commit c = {.session_id = kit_id(k, session),
                      .expected_head = kit_head(k, session),
                      .parent = kit_head(k, session),
                      .move_head = true,
                      .numerics = "n",
                      .tokens = tokens,
                      .n_tokens = 8,
                      .segments = &segment,
                      .n_segments = 1,
                      .sections = &section,
                      .n_sections = 1};
    tarnp_committed made;
    kit_key(c.key, seed);
    memcpy(c.fp, kit_fp, sizeof kit_fp);
    CHECK_STATUS(tarnp_commit_node(k->store, &c, &made, &k->err), TARN_OK);
    CHECK_STATUS(tarnp_session_tag(k->store, session, "k", needle, &k->err), TARN_OK);
}

static const char *const needles[2] = {"needle-of-one-01", "needle-of-two-02"};

CASE(stores_of_one_process)
{
    kit one, two, *const k[2] = {&one, &two};
    for (int i = 0; i < 2; i++) {
        REQUIRE(kit_begin(k[i]));
        kit_create(k[i], "main");
    }
    for (uint64_t seed = 1; seed < 60; seed++)
        plant(k[seed % 2], "main", needles[seed % 2], seed);
    for (int i = 0; i < 2; i++) {
        bool clear = k[i]->options.secret_bytes == 0;
        CHECK(file_holds(k[i], needles[i], 16) == clear);
        CHECK(!file_holds(k[i], needles[1 - i], 16));
    }
    kit_end(&one);
    kit_end(&two);
}

/* Of two sessions of one store, removed or not, an export holds its own alone; a compacted store
 * holds nothing of a removed one. */
CASE(sessions_of_one_store)
{
    kit k;
    kit_bundle f;
    uint64_t before, after;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "one");
    kit_create(&k, "two");
    for (uint64_t seed = 1; seed < 40; seed++)
        plant(&k, seed % 2 ? "two" : "one", needles[seed % 2], seed);
    for (int removed = 0; removed < 2; removed++) {
        REQUIRE(kit_export(&k, "one", &f));
        CHECK(memmem(f.data, f.n_bytes, needles[0], 16) != NULL);
        CHECK(memmem(f.data, f.n_bytes, needles[1], 16) == NULL);
        free(f.data);
        if (!removed)
            CHECK_STATUS(tarnp_session_remove(k.store, "two", &k.err), TARN_OK);
    }
    plant(&k, "one", needles[0], 100);
    REQUIRE(kit_export(&k, "one", &f));
    CHECK(memmem(f.data, f.n_bytes, needles[1], 16) == NULL);
    free(f.data);
    tarnp_store_close(k.store);
    k.store = NULL;
    CHECK_STATUS(tarnp_compact(k.path, &k.options, NULL, NULL, &before, &after, &k.err), TARN_OK);
    CHECK(!file_holds(&k, needles[1], 16));
    kit_end(&k);
}

/* Memory that was somebody's before it became a page of the file. */
CASE(memory_of_the_process)
{
    enum { BLOCKS = 400, BLOCK = 16384 };
    static const char secret[] = "needle-in-memory";
    static void *blocks[BLOCKS];
    for (int sealed = 0; sealed < 2; sealed++) {
        kit k;
        kit_folder(&k);
        k.options.secret = secret;
        k.options.secret_bytes = 0;
        static const char key[] = "of at least 32 bytes, as they all have to be";
        if (sealed) {
            k.options.secret = key;
            k.options.secret_bytes = sizeof key - 1;
        }
        REQUIRE(kit_reopen(&k));
        kit_create(&k, "main");
        for (uint64_t round = 0; round < 20; round++) {
            for (size_t i = 0; i < BLOCKS; i++) {
                blocks[i] = malloc(BLOCK >> i % 8);
                for (size_t at = 0; at + 16 <= (size_t)BLOCK >> i % 8; at += 16)
                    memcpy((char *)blocks[i] + at, secret, 16);
            }
            for (size_t i = 0; i < BLOCKS; i++)
                free(blocks[i]);
            kit_floats = round % 2 ? 100 : 2000;
            kit_append(&k, "main", round + 1);
            if (round % 5 == 4) {
                CHECK_STATUS(tarnp_session_remove(k.store, "main", &k.err), TARN_OK);
                kit_create(&k, "main");
            }
        }
        CHECK(!file_holds(&k, secret, 16));
        kit_end(&k);
    }
    kit_floats = 256;
}

CASE(who_may_read_the_files)
{
    static const struct {
        const char *name;
        mode_t mode;
    } files[] = {{"", 0700}, {"data.mdb", 0600}, {"lock.mdb", 0600}, {"reserve", 0600}};
    mode_t mask = umask(0);
    kit k;
    uint64_t before, after;
    REQUIRE(kit_begin(&k));
    kit_create(&k, "main");
    for (int compacted = 0; compacted < 2; compacted++) {
        for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
            char path[260];
            struct stat info;
            kit_file(&k, files[i].name, path);
            if (stat(path, &info) != 0 && i == 3)
                continue; /* a file system that promises no blocks */
            CHECK_EQ(stat(path, &info), 0);
            CHECK_EQ(info.st_mode & 0777, files[i].mode);
        }
        tarnp_store_close(k.store);
        k.store = NULL;
        CHECK_STATUS(tarnp_compact(k.path, &k.options, NULL, NULL, &before, &after, &k.err),
                     TARN_OK);
    }
    umask(mask);
    kit_end(&k);
}

/* At every level: through commits, damage, salvage of nothing, and refusals. */
CASE(logs)
{
    kit k;
    const tarn_log log = {remember, NULL, TARN_LOG_DEBUG};
    kit_folder(&k);
    k.options.log = &log;
    REQUIRE(kit_reopen(&k));
    kit_create(&k, "main");
    for (uint64_t seed = 1; seed < 10; seed++)
        plant(&k, "main", needles[0], seed);
    kit_bundle f;
    REQUIRE(kit_export(&k, "main", &f));
    for (size_t at = 100; at + 1 < f.n_bytes; at += f.n_bytes / 20) {
        kit_bundle copy = kit_bundle_copy(&f);
        copy.data[at] ^= 1;
        CHECK(kit_import(&k, &copy, "other", NULL) != TARN_OK);
        CHECK(!strstr(k.err.detail, needles[0]));
        free(copy.data);
    }
    free(f.data);
    uint8_t *data;
    size_t n;
    tarnp_store_close(k.store);
    k.store = NULL;
    data = read_file(&k, &n);
    REQUIRE(data);
    char path[260];
    kit_file(&k, "data.mdb", path);
    for (size_t at = 8192; at < n; at += 997) { /* damage here and there, and what is said of it */
        data[at] ^= 4;
        FILE *out = fopen(path, "wb");
        CHECK(out && fwrite(data, 1, n, out) == n && fclose(out) == 0);
        data[at] ^= 4;
        if (tarnp_store_open(k.path, &k.options, &k.store, &k.err) == TARN_OK) {
            kit_verify(&k, true);
            (void)!tarnp_session_remove(k.store, "main", &k.err);
        }
        CHECK(!strstr(k.err.detail, needles[0]));
        tarnp_store_close(k.store);
        k.store = NULL;
    }
    free(data);
    CHECK(n_logged > 0);
    CHECK(memmem(logged, n_logged, needles[0], 16) == NULL);
    kit_end(&k);
}

CHECK_MAIN(ENTRY(stores_of_one_process), ENTRY(sessions_of_one_store), ENTRY(memory_of_the_process),
           ENTRY(who_may_read_the_files), ENTRY(logs))
