/* Damage of every kind, and what is saved from it.
 *
 * The store: main is 1 (root) - 2 - 3 - 4, branch goes on from 3 with 5, and main has left the tip
 * 6 behind, a child of 3. Node n holds the seed n - 1, in chunks of which the first is its tokens
 * and the next two its state. */
#include "salvage.h"
#include "store_kit.h"

#include "handle.h"
#include "node.h"

#include <fcntl.h>

#define STATE   1 /* chunk of a node: tokens, state, state, conv, sampler */
#define SAMPLER 4

typedef struct wreck {
    kit k, out;
    uint64_t nodes[7];
    tarnp_write w;
} wreck;

static bool begin(wreck *r)
{
    const tarnp_tag tag = {"key", "value"};
    tarnp_session s;
    if (!kit_begin(&r->k))
        return false;
    kit_folder(&r->out);
    CHECK_STATUS(tarnp_model_put(r->k.store, kit_fp, "descriptor", 10, &r->k.err), TARN_OK);
    CHECK_STATUS(
        tarnp_session_create(r->k.store, "main", kit_fp, "cpu/f32", &tag, 1, &s, &r->k.err),
        TARN_OK);
    r->nodes[1] = s.head;
    uint64_t id = s.id;
    tarnp_session_fini(&s);
    for (uint64_t i = 2; i <= 3; i++)
        r->nodes[i] = kit_append(&r->k, "main", i - 1);
    r->nodes[4] = kit_append(&r->k, "main", 3);
    kit_fork(&r->k, r->nodes[3], "branch");
    r->nodes[5] = kit_append(&r->k, "branch", 4);
    tarnp_committed made;
    CHECK_STATUS(kit_commit(r->k.store, id, r->nodes[4], r->nodes[3], 5, false, &made, &r->k.err),
                 TARN_OK);
    r->nodes[6] = made.node;
    KIT_CLEAN(&r->k);
    return true;
}

static void spoil(wreck *r)
{
    CHECK_STATUS(tarnp_write_begin(r->k.store, &r->w, &r->k.err), TARN_OK);
}

static void spoilt(wreck *r)
{
    CHECK_STATUS(tarnp_write_commit(&r->w, NULL, &r->k.err), TARN_OK);
}

/* Flips a bit of a value: of a record with a checksum, through the checksum too. */
static void flip(wreck *r, tarnp_table table, uint64_t id, size_t offset)
{
    tarnp_span value;
    CHECK_STATUS(tarnp_get_id(&r->w.txn, table, id, &value, &r->k.err), TARN_OK);
    uint8_t *copy = malloc(value.n_bytes);
    memcpy(copy, value.data, value.n_bytes);
    copy[offset < value.n_bytes ? offset : value.n_bytes - 1] ^= 0x10;
    CHECK_STATUS(tarnp_put_id(&r->w.txn, table, id, copy, value.n_bytes, &r->k.err), TARN_OK);
    free(copy);
}

static uint64_t chunk_of(wreck *r, uint64_t node, uint64_t i)
{
    tarnp_span value;
    tarnp_manifest m;
    CHECK_STATUS(tarnp_get_id(&r->w.txn, TARNP_TABLE_NODE, node, &value, &r->k.err), TARN_OK);
    CHECK_STATUS(tarnp_manifest_get(value, node, &m, &r->k.err), TARN_OK);
    return m.first_chunk + i;
}

static void flip_chunk(wreck *r, size_t node, uint64_t i, size_t offset)
{
    spoil(r);
    flip(r, TARNP_TABLE_CHUNK, chunk_of(r, r->nodes[node], i), offset);
    spoilt(r);
}

static void count_warning(void *user, tarn_log_level level, const char *message, const char *file,
                          int line)
{
    (void)message, (void)file, (void)line;
    *(int *)user += level == TARN_LOG_WARN;
}

static tarnp_salvaged salvage(wreck *r)
{
    tarnp_salvaged found = {0};
    tarnp_store_close(r->k.store);
    r->k.store = NULL;
    r->k.options.create = false;
    tarn_status status =
        tarnp_salvage(r->k.path, r->out.path, &r->k.options, NULL, NULL, &found, &r->out.err);
    if (status != TARN_OK)
        CHECK_FAIL("salvage: %s", r->out.err.detail);
    else if (kit_reopen(&r->out))
        KIT_CLEAN(&r->out);
    return found;
}

/* The seeds of a session's chain in the new store, as "1 2 3"; a node without state has a '-'. */
static const char *chain(wreck *r, const char *name)
{
    static char text[100];
    tarnp_session s;
    uint64_t *ids;
    size_t n;
    text[0] = 0;
    if (!r->out.store || tarnp_session_find(r->out.store, name, &s, &r->out.err) != TARN_OK)
        return "none";
    uint64_t head = s.head;
    tarnp_session_fini(&s);
    if (tarnp_node_chain(r->out.store, head, &ids, &n, &r->out.err) != TARN_OK)
        return "broken";
    for (size_t i = 1; i < n; i++) {
        tarnp_node node;
        CHECK_STATUS(tarnp_node_read(r->out.store, ids[i], &node, &r->out.err), TARN_OK);
        tarni_ids tokens;
        tarni_ids_init(&tokens, &tarni_heap);
        CHECK_STATUS(tarnp_node_tokens(r->out.store, &node, &tokens, &r->out.err), TARN_OK);
        for (uint64_t seed = 1; seed < 10; seed++) {
            kit_content c;
            kit_fill(&c, seed);
            bool same =
                tokens.n_ids == c.n_tokens && memcmp(tokens.ids, c.tokens, 4 * c.n_tokens) == 0;
            free(c.state);
            bool has_state = node.flags & TARNP_NODE_HAS_STATE;
            if (!same)
                continue;
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d%s", text[0] ? " " : "",
                     (int)seed, has_state ? "" : "-");
            if (has_state && node.n_sections == 4)
                kit_check_node(&r->out, ids[i], seed);
        }
        tarni_ids_fini(&tokens);
        tarnp_node_fini(&node);
    }
    tarni_free(tarnp_store_allocator(r->out.store), ids);
    return text;
}

#define CHECK_SAVED(r, n_saved, n_lost, main, branch)                                              \
    do {                                                                                           \
        tarnp_salvaged salvaged = salvage(&(r));                                                   \
        CHECK_EQ(salvaged.saved, n_saved);                                                         \
        CHECK_EQ(salvaged.lost, n_lost);                                                           \
        CHECK_TEXT(chain(&(r), "main"), main);                                                     \
        CHECK_TEXT(chain(&(r), "branch"), branch);                                                 \
        end(&(r));                                                                                 \
    } while (0)

static void end(wreck *r)
{
    kit_end(&r->k);
    kit_end(&r->out);
}

CASE(nothing_damaged)
{
    wreck r;
    tarnp_session s;
    REQUIRE(begin(&r));
    tarnp_salvaged found = salvage(&r);
    CHECK_EQ(found.saved, 6);
    CHECK_EQ(found.lost, 0);
    CHECK_EQ(found.without_state, 0);
    CHECK_TEXT(chain(&r, "main"), "1 2 3");
    CHECK_TEXT(chain(&r, "branch"), "1 2 4");
    CHECK_EQ(kit_stat(&r.out).nodes, 6); /* the fork still shares, and the tip is there */
    CHECK_STATUS(tarnp_session_find(r.out.store, "main", &s, &r.out.err), TARN_OK);
    CHECK_EQ(s.n_tags, 1);
    CHECK_TEXT(s.tags[0].value, "value");
    tarnp_session_fini(&s);
    tarni_writer model;
    tarni_writer_init(&model, &tarni_heap);
    CHECK_STATUS(tarnp_model_get(r.out.store, kit_fp, &model, &r.out.err), TARN_OK);
    tarni_writer_fini(&model);
    /* What was saved lives on. */
    kit_append(&r.out, "main", 7);
    CHECK_STATUS(tarnp_session_remove(r.out.store, "main", &r.out.err), TARN_OK);
    CHECK_TEXT(chain(&r, "branch"), "1 2 4");
    CHECK_EQ(kit_stat(&r.out).nodes, 4);
    KIT_CLEAN(&r.out);
    end(&r);
}

CASE(chunks)
{
    wreck r;
    REQUIRE(begin(&r)); /* the tokens of a head */
    flip_chunk(&r, 4, 0, 1000);
    CHECK_SAVED(r, 5, 1, "1 2", "1 2 4");
    REQUIRE(begin(&r)); /* the tokens of a node two sessions share: the tip goes with it */
    flip_chunk(&r, 3, 0, 1000);
    CHECK_SAVED(r, 2, 4, "1", "1");
    REQUIRE(begin(&r)); /* a state */
    flip_chunk(&r, 3, STATE, 1000);
    CHECK_SAVED(r, 6, 0, "1 2- 3", "1 2- 4");
    REQUIRE(begin(&r)); /* the header of one */
    flip_chunk(&r, 4, STATE + 1, 8);
    CHECK_SAVED(r, 6, 0, "1 2 3-", "1 2 4");
    REQUIRE(begin(&r)); /* a sampler: the state stays */
    flip_chunk(&r, 4, SAMPLER, 1000);
    CHECK_SAVED(r, 6, 0, "1 2 3", "1 2 4");
    REQUIRE(begin(&r)); /* gone altogether */
    spoil(&r);
    CHECK_STATUS(tarnp_delete_id(&r.w.txn, TARNP_TABLE_CHUNK, chunk_of(&r, r.nodes[5], STATE), NULL,
                                 &r.k.err),
                 TARN_OK);
    spoilt(&r);
    CHECK_SAVED(r, 6, 0, "1 2 3", "1 2 4-");
}

/* A manifest in the middle: what it says of its parent is taken if it fits. */
CASE(manifests)
{
    wreck r;
    static const size_t offsets[] = {100, 20, 24, 12, 45, 400};
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        REQUIRE(begin(&r));
        spoil(&r);
        flip(&r, TARNP_TABLE_NODE, r.nodes[4], offsets[i]);
        spoilt(&r);
        CHECK_SAVED(r, 5, 1, "1 2", "1 2 4");
        REQUIRE(begin(&r));
        spoil(&r);
        flip(&r, TARNP_TABLE_NODE, r.nodes[3], offsets[i]);
        spoilt(&r);
        CHECK_SAVED(r, 2, 4, "1", "1");
    }
    REQUIRE(begin(&r)); /* the root */
    spoil(&r);
    flip(&r, TARNP_TABLE_NODE, r.nodes[1], 100);
    spoilt(&r);
    CHECK_SAVED(r, 0, 6, "none", "none");
    REQUIRE(begin(&r)); /* a tip */
    spoil(&r);
    flip(&r, TARNP_TABLE_NODE, r.nodes[6], 100);
    spoilt(&r);
    CHECK_SAVED(r, 5, 1, "1 2 3", "1 2 4");
    REQUIRE(
        begin(&r)); /* gone altogether: nobody says who its parent was, but one node only can be */
    spoil(&r);
    CHECK_STATUS(tarnp_delete_id(&r.w.txn, TARNP_TABLE_NODE, r.nodes[3], NULL, &r.k.err), TARN_OK);
    spoilt(&r);
    CHECK_SAVED(r, 2, 4, "1", "1");
}

/* Latents are missing further on: those states are given up too. */
static uint64_t commit_latents(wreck *r, uint64_t head, uint32_t first, uint32_t count,
                               uint64_t key)
{
    uint16_t rows[64] = {0};
    uint32_t tokens[64] = {0};
    float state[4] = {1, 2, 3, (float)key};
    tarnp_piece pieces[2] = {{state, sizeof state}, {rows, 2 * (size_t)count}};
    tarnp_chunk chunks[2] = {
        {.count = 1, .raw_bytes = sizeof state, .n_pieces = 1, .pieces = pieces},
        {.first = first,
         .count = count,
         .raw_bytes = 2 * count,
         .n_pieces = 1,
         .pieces = pieces + 1}};
    tarnp_section sections[2] = {
        {.kind = TARNP_SECTION_STATE, .elem = TARNP_ELEM_F32, .n_chunks = 1, .chunks = chunks},
        {.kind = TARNP_SECTION_LATENT,
         .elem = TARNP_ELEM_BF16,
         .n_chunks = 1,
         .chunks = chunks + 1}};
    tarnp_segment segment = {.role = TARN_ROLE_TOKENS, .n_tokens = 10};
    tarnp_commit c = {.session_id = kit_id(&r->k, "latents"),
                      .expected_head = head,
                      .parent = head,
                      .move_head = true,
                      .flags = TARNP_NODE_HAS_STATE,
                      .tokens = tokens,
                      .n_tokens = 10,
                      .segments = &segment,
                      .n_segments = 1,
                      .sections = sections,
                      .n_sections = 2};
    tarnp_committed made = {0};
    kit_key(c.key, key);
    memcpy(c.fp, kit_fp, sizeof c.fp);
    CHECK_STATUS(tarnp_commit_node(r->k.store, &c, &made, &r->k.err), TARN_OK);
    return made.node;
}

CASE(latents)
{
    wreck r;
    REQUIRE(begin(&r));
    uint64_t node = kit_create(&r.k, "latents"), hurt;
    node = commit_latents(&r, node, 0, 10, 1001);
    hurt = node = commit_latents(&r, node, 10, 10, 1002);
    node = commit_latents(&r, node, 20, 10, 1003);
    /* Holds again what the one before it held: a state made by replaying. */
    node = commit_latents(&r, node, 10, 30, 1004);
    spoil(&r);
    flip(&r, TARNP_TABLE_CHUNK, chunk_of(&r, hurt, 2), 1000);
    spoilt(&r);
    tarnp_salvaged found = salvage(&r);
    CHECK_EQ(found.lost, 0);
    CHECK_EQ(found.without_state, 2);
    uint64_t *ids;
    size_t n;
    REQUIRE_OK(tarnp_node_chain(r.out.store, kit_head(&r.out, "latents"), &ids, &n, &r.out.err),
               &r.out.err);
    CHECK_EQ(n, 5);
    for (size_t i = 1; i < n; i++) {
        tarnp_node got;
        REQUIRE_OK(tarnp_node_read(r.out.store, ids[i], &got, &r.out.err), &r.out.err);
        CHECK_EQ(got.flags & TARNP_NODE_HAS_STATE, i == 1 || i == 4);
        tarnp_node_fini(&got);
    }
    tarni_free(tarnp_store_allocator(r.out.store), ids);
    end(&r);
}

/* A record that its table gives back with a wrong checksum. */
static void break_record(wreck *r, tarnp_table table, const void *key, size_t key_bytes)
{
    /* Only the file can hold one: find the key and the value behind it, and flip a bit of it. */
    tarnp_span value;
    tarnp_txn txn;
    char path[260];
    REQUIRE_OK(tarnp_txn_begin(r->k.store->tables, false, &txn, &r->k.err), &r->k.err);
    REQUIRE_OK(tarnp_get(&txn, table, key, key_bytes, &value, &r->k.err), &r->k.err);
    REQUIRE(value.data != NULL);
    uint8_t *want = malloc(value.n_bytes + key_bytes);
    size_t n = key_bytes + value.n_bytes;
    memcpy(want, key, key_bytes);
    memcpy(want + key_bytes, value.data, value.n_bytes);
    tarnp_txn_abort(&txn);
    tarnp_store_close(r->k.store);
    r->k.store = NULL;
    kit_file(&r->k, "data.mdb", path);
    FILE *f = fopen(path, "r+b");
    fseek(f, 0, SEEK_END);
    size_t size = (size_t)ftell(f);
    uint8_t *file = malloc(size);
    rewind(f);
    REQUIRE(fread(file, 1, size, f) == size);
    int n_found = 0;
    for (uint8_t *at = file; (at = memmem(at, (size_t)(file + size - at), want, n)); at += n) {
        at[n > key_bytes ? n - 1 : 0] ^= 1;
        n_found++;
    }
    CHECK(n_found > 0);
    rewind(f);
    REQUIRE(fwrite(file, 1, size, f) == size);
    fclose(f);
    free(file);
    free(want);
}

CASE(records)
{
    wreck r;
    uint8_t key[16] = {0};
    REQUIRE(begin(&r)); /* a session: its name is in another table, its newest node its head */
    key[7] = 1;
    break_record(&r, TARNP_TABLE_SESSION, key, 8);
    tarnp_salvaged found = salvage(&r);
    CHECK_EQ(found.saved, 6);
    CHECK_TEXT(chain(&r, "main"), "1 2 3");
    CHECK_TEXT(chain(&r, "branch"), "1 2 4");
    end(&r);
    REQUIRE(begin(&r)); /* a name: the session knows it */
    break_record(&r, TARNP_TABLE_NAME, "main", 4);
    CHECK_SAVED(r, 6, 0, "1 2 3", "1 2 4");
    REQUIRE(begin(&r)); /* a model */
    break_record(&r, TARNP_TABLE_MODEL, kit_fp, sizeof kit_fp);
    CHECK_SAVED(r, 6, 0, "1 2 3", "1 2 4");
    REQUIRE(begin(&r)); /* a reference count */
    key[7] = (uint8_t)r.nodes[3];
    break_record(&r, TARNP_TABLE_REF, key, 8);
    CHECK_SAVED(r, 6, 0, "1 2 3", "1 2 4");
    REQUIRE(begin(&r)); /* the store's own: it does not open */
    break_record(&r, TARNP_TABLE_META, "format", 6);
    CHECK_STATUS(tarnp_store_open(r.k.path, NULL, &r.k.store, &r.k.err), TARN_E_CORRUPT);
    CHECK_SAVED(r, 6, 0, "1 2 3", "1 2 4");
    REQUIRE(begin(&r));
    break_record(&r, TARNP_TABLE_META, "counters", 8);
    CHECK_SAVED(r, 6, 0, "1 2 3", "1 2 4");
}

/* ---- stores that do not open ---------------------------------------------------------------- */

/* Overwrites bytes of data.mdb. */
static void overwrite(wreck *r, size_t from, size_t to, int value)
{
    char path[260];
    tarnp_store_close(r->k.store);
    r->k.store = NULL;
    kit_file(&r->k, "data.mdb", path);
    FILE *f = fopen(path, "r+b");
    fseek(f, (long)from, SEEK_SET);
    for (; from < to; from++)
        fputc(value, f);
    fclose(f);
}

CASE(meta_pages)
{
    wreck r;
    REQUIRE(begin(&r));
    overwrite(&r, 0, 8192, 0xFF);
    CHECK_STATUS(tarnp_store_open(r.k.path, NULL, &r.k.store, &r.k.err), TARN_E_FORMAT);
    CHECK_SAVED(r, 6, 0, "1 2 3", "1 2 4");
    int n_warnings = 0; /* that the file is searched is told */
    const tarn_log log = {count_warning, &n_warnings, TARN_LOG_WARN};
    REQUIRE(begin(&r));
    r.k.options.log = &log;
    overwrite(&r, 16, 24, 0);
    CHECK_SAVED(r, 6, 0, "1 2 3", "1 2 4");
    CHECK(n_warnings > 0);
}

/* Every page in turn: never a failure, never a wrong byte, and always most of it. */
CASE(every_page)
{
    wreck r;
    size_t worst = 6, n_pages = 0;
    for (size_t page = 2; page < 40; page++) {
        REQUIRE(begin(&r));
        uint64_t size = kit_stat(&r.k).file_bytes;
        n_pages = (size_t)(size / 4096);
        if (page >= n_pages) {
            end(&r);
            break;
        }
        overwrite(&r, page * 4096, page * 4096 + 16, 0x5A);
        tarnp_salvaged found = salvage(&r);
        worst = found.saved < worst ? (size_t)found.saved : worst;
        if (found.saved < 5)
            printf("    page %zu of %zu: %d saved, %d lost\n", page, n_pages, (int)found.saved,
                   (int)found.lost);
        chain(&r, "main");
        end(&r);
    }
    CHECK(worst >= 5);
}

CASE(truncated)
{
    wreck r;
    char path[260];
    for (size_t part = 1; part < 8; part++) {
        REQUIRE(begin(&r));
        off_t size = (off_t)kit_stat(&r.k).file_bytes;
        kit_file(&r.k, "data.mdb", path);
        tarnp_store_close(r.k.store);
        r.k.store = NULL;
        CHECK(truncate(path, size / 8 * (off_t)part) == 0);
        tarnp_salvaged found = {0};
        r.k.options.create = false;
        tarn_status status =
            tarnp_salvage(r.k.path, r.out.path, &r.k.options, NULL, NULL, &found, &r.out.err);
        if (status == TARN_OK && kit_reopen(&r.out)) {
            KIT_CLEAN(&r.out);
            chain(&r, "main");
        } else {
            CHECK_STATUS(status, TARN_E_FORMAT);
        }
        end(&r);
    }
}

/* Removed sessions do not come back from a store that opens. */
CASE(what_was_removed)
{
    wreck r;
    REQUIRE(begin(&r));
    CHECK_STATUS(tarnp_session_remove(r.k.store, "main", &r.k.err), TARN_OK);
    CHECK_SAVED(r, 4, 0, "none", "1 2 4");
}

static bool stop(void *user, uint64_t done, uint64_t all)
{
    CHECK(done <= all);
    return --*(int *)user > 0;
}

CASE(refusals)
{
    wreck r;
    tarnp_salvaged found;
    int left = 2;
    REQUIRE(begin(&r));
    CHECK_STATUS(tarnp_salvage(r.k.path, r.out.path, NULL, NULL, NULL, &found, &r.out.err),
                 TARN_E_BUSY);
    tarnp_store_close(r.k.store);
    r.k.store = NULL;
    CHECK_STATUS(tarnp_salvage(r.k.path, r.k.path, NULL, NULL, NULL, &found, &r.out.err),
                 TARN_E_EXISTS);
    CHECK_STATUS(tarnp_salvage(r.out.path, r.out.path, NULL, NULL, NULL, &found, &r.out.err),
                 TARN_E_NOT_FOUND);
    CHECK_STATUS(tarnp_salvage(r.k.path, r.out.path, NULL, stop, &left, &found, &r.out.err),
                 TARN_E_CANCELLED);
    CHECK(access(r.out.path, F_OK) != 0); /* there is no half of a store */
    kit_end(&r.k);
    rmdir(r.out.folder);
}

CHECK_MAIN(ENTRY(nothing_damaged), ENTRY(chunks), ENTRY(manifests), ENTRY(latents), ENTRY(records),
           ENTRY(meta_pages), ENTRY(every_page), ENTRY(truncated), ENTRY(what_was_removed),
           ENTRY(refusals))
