/* store_kit.h - what the store's tests share: a folder, and nodes whose contents follow from a
 * seed, so that whatever is read back can be compared with what must have been written. */
#ifndef TARN_TESTS_STORE_KIT_H
#define TARN_TESTS_STORE_KIT_H

#include "check.h"
#include "store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KIT_TOKENS_MAX 64

typedef struct kit {
    char folder[200]; /* made for the test */
    char path[220];   /* of the store in it */
    tarnp_options options;
    tarnp_store *store;
    tarn_error err;
} kit;

static const uint8_t kit_fp[TARNP_FP_BYTES] = {1, 2, 3};

static inline uint64_t kit_random(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Normal with standard deviation 1, as good as needed: 12 uniform numbers. */
static inline float kit_normal(uint64_t *state)
{
    uint64_t sum = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t z = kit_random(state);
        sum += (z & 0xFFFF) + (z >> 16 & 0xFFFF) + (z >> 32 & 0xFFFF) + (z >> 48);
    }
    return (float)((double)sum * 0x1p-16 - 6);
}

static inline void kit_folder(kit *k)
{
    const char *base = getenv("TMPDIR");
    memset(k, 0, sizeof *k);
    snprintf(k->folder, sizeof k->folder, "%s/tarn-store-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(k->folder)) {
        perror(k->folder);
        exit(1);
    }
    snprintf(k->path, sizeof k->path, "%s/store", k->folder);
    k->options.create = true;
    k->options.map_bytes = (size_t)1 << 30;
    if (getenv("TARN_TEST_KEY")) { /* any test, on encrypted stores */
        static const char secret[] = "0123456789abcdef0123456789abcdef";
        k->options.secret = secret;
        k->options.secret_bytes = sizeof secret - 1;
    }
}

static inline bool kit_reopen(kit *k)
{
    tarnp_store_close(k->store);
    k->store = NULL;
    if (tarnp_store_open(k->path, &k->options, &k->store, &k->err) == TARN_OK)
        return true;
    CHECK_FAIL("cannot open the store: %s", k->err.detail);
    return false;
}

static inline bool kit_begin(kit *k)
{
    kit_folder(k);
    return kit_reopen(k);
}

static inline void kit_file(const kit *k, const char *name, char out[260])
{
    snprintf(out, 260, "%s/%s", k->path, name);
}

/* Closes and removes the store; the folder stays. */
static inline void kit_remove(kit *k)
{
    static const char *const files[] = {"data.mdb", "lock.mdb", "reserve", "scratch", "clean"};
    char file[260];
    tarnp_store_close(k->store);
    k->store = NULL;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        kit_file(k, files[i], file);
        unlink(file);
    }
    rmdir(k->path);
}

static inline void kit_end(kit *k)
{
    kit_remove(k);
    if (rmdir(k->folder) != 0)
        CHECK_FAIL("%s is not empty after the test", k->folder);
}

/* The size of the state's pieces in floats; a node has eight of them in two chunks. */
static size_t kit_floats = 256;

typedef struct kit_content {
    uint32_t n_tokens;
    uint32_t tokens[KIT_TOKENS_MAX];
    float *state; /* 8 * kit_floats */
    uint16_t conv[96];
    uint8_t sampler[40];
    char call_id[32];
} kit_content;

static inline void kit_fill(kit_content *c, uint64_t seed)
{
    uint64_t r = seed * 77 + 5;
    c->n_tokens = (uint32_t)(2 + seed % 50);
    for (uint32_t i = 0; i < c->n_tokens; i++)
        c->tokens[i] = (uint32_t)(kit_random(&r) % 160000);
    c->state = malloc(8 * kit_floats * sizeof *c->state);
    for (size_t i = 0; i < 8 * kit_floats; i++)
        c->state[i] = kit_normal(&r);
    for (size_t i = 0; i < 96; i++)
        c->conv[i] = (uint16_t)(0x3F80 + kit_random(&r) % 200);
    for (size_t i = 0; i < 40; i++)
        c->sampler[i] = (uint8_t)kit_random(&r);
    snprintf(c->call_id, sizeof c->call_id, "call:%llu", (unsigned long long)seed);
}

static inline void kit_key(uint8_t key[TARNP_KEY_BYTES], uint64_t seed)
{
    memset(key, 7, TARNP_KEY_BYTES);
    memcpy(key, &seed, sizeof seed);
}

/* The same layout for writing and reading. */
typedef struct kit_layout {
    tarnp_piece state[8], conv, sampler;
    tarnp_chunk chunks[4];
    tarnp_section sections[3];
} kit_layout;

static inline void kit_lay(kit_layout *l, kit_content *c)
{
    uint32_t bytes = (uint32_t)(kit_floats * sizeof(float));
    for (size_t i = 0; i < 8; i++)
        l->state[i] = (tarnp_piece){c->state + i * kit_floats, bytes};
    l->conv = (tarnp_piece){c->conv, sizeof c->conv};
    l->sampler = (tarnp_piece){c->sampler, sizeof c->sampler};
    l->chunks[0] = (tarnp_chunk){.count = 4, .raw_bytes = 4 * bytes, .n_pieces = 4};
    l->chunks[0].pieces = l->state;
    l->chunks[1] = (tarnp_chunk){.first = 4, .count = 4, .raw_bytes = 4 * bytes, .n_pieces = 4};
    l->chunks[1].pieces = l->state + 4;
    l->chunks[2] = (tarnp_chunk){.raw_bytes = sizeof c->conv, .n_pieces = 1, .pieces = &l->conv};
    l->chunks[3] =
        (tarnp_chunk){.raw_bytes = sizeof c->sampler, .n_pieces = 1, .pieces = &l->sampler};
    l->sections[0] = (tarnp_section){
        .kind = TARNP_SECTION_STATE, .elem = TARNP_ELEM_F32, .n_chunks = 2, .chunks = l->chunks};
    l->sections[1] = (tarnp_section){.kind = TARNP_SECTION_CONV,
                                     .elem = TARNP_ELEM_BF16,
                                     .n_chunks = 1,
                                     .chunks = l->chunks + 2};
    l->sections[2] = (tarnp_section){.kind = TARNP_SECTION_SAMPLER,
                                     .elem = TARNP_ELEM_U8,
                                     .n_chunks = 1,
                                     .chunks = l->chunks + 3};
}

/* Commits the node of `seed` on `parent` of session `id`, whose head must be `head`. */
static inline tarn_status kit_commit(tarnp_store *store, uint64_t id, uint64_t head,
                                     uint64_t parent, uint64_t seed, bool move_head,
                                     tarnp_committed *out, tarn_error *err)
{
    kit_content c;
    kit_layout l;
    kit_fill(&c, seed);
    kit_lay(&l, &c);
    char *call_ids[1] = {c.call_id};
    tarnp_segment segments[2] = {
        {.role = TARN_ROLE_USER, .flags = TARNP_SEGMENT_CLOSED, .n_tokens = c.n_tokens - 1},
        {.role = TARN_ROLE_ASSISTANT, .n_tokens = 1, .n_call_ids = 1, .call_ids = call_ids}};
    tarnp_commit commit = {.session_id = id,
                           .expected_head = head,
                           .move_head = move_head,
                           .parent = parent,
                           .flags = TARNP_NODE_HAS_STATE,
                           .numerics = "cpu/f32",
                           .tokens = c.tokens,
                           .n_tokens = c.n_tokens,
                           .segments = segments,
                           .n_segments = 2,
                           .sections = l.sections,
                           .n_sections = 3};
    kit_key(commit.key, seed);
    memcpy(commit.fp, kit_fp, sizeof kit_fp);
    tarn_status status = tarnp_commit_node(store, &commit, out, err);
    free(c.state);
    return status;
}

/* Commits on the session's head and moves it; 0 after a failure, which is reported. */
static inline uint64_t kit_append(kit *k, const char *name, uint64_t seed)
{
    tarnp_session s;
    tarnp_committed made = {0};
    tarn_status status = tarnp_session_find(k->store, name, &s, &k->err);
    if (status == TARN_OK) {
        status = kit_commit(k->store, s.id, s.head, s.head, seed, true, &made, &k->err);
        tarnp_session_fini(&s);
    }
    if (status != TARN_OK)
        CHECK_FAIL("cannot append %llu to %s: %s", (unsigned long long)seed, name, k->err.detail);
    return made.node;
}

/* The session's head, 0 if there is none. */
static inline uint64_t kit_create(kit *k, const char *name)
{
    tarnp_session s;
    if (tarnp_session_create(k->store, name, kit_fp, "cpu/f32", NULL, 0, &s, &k->err) != TARN_OK) {
        CHECK_FAIL("cannot create %s: %s", name, k->err.detail);
        return 0;
    }
    uint64_t head = s.head;
    tarnp_session_fini(&s);
    return head;
}

static inline uint64_t kit_id(kit *k, const char *name)
{
    tarnp_session s;
    if (tarnp_session_find(k->store, name, &s, &k->err) != TARN_OK)
        return 0;
    uint64_t id = s.id;
    tarnp_session_fini(&s);
    return id;
}

static inline uint64_t kit_head(kit *k, const char *name)
{
    tarnp_session s;
    if (tarnp_session_find(k->store, name, &s, &k->err) != TARN_OK)
        return 0;
    uint64_t head = s.head;
    tarnp_session_fini(&s);
    return head;
}

static inline bool kit_fork(kit *k, uint64_t node, const char *name)
{
    tarnp_session s;
    uint64_t n_bytes;
    if (tarnp_session_fork(k->store, node, name, &s, &n_bytes, &k->err) != TARN_OK) {
        CHECK_FAIL("cannot fork %s: %s", name, k->err.detail);
        return false;
    }
    tarnp_session_fini(&s);
    CHECK(n_bytes > 0 && n_bytes < 1024);
    return true;
}

/* Reads everything of a node. OK: `equal` says whether it is what `seed` wrote. */
static inline tarn_status kit_read(tarnp_store *store, uint64_t id, uint64_t seed, bool *equal,
                                   tarn_error *err)
{
    kit_content want, got = {0};
    kit_layout l;
    tarnp_node node;
    tarni_ids ids;
    *equal = false;
    tarn_status status = tarnp_node_read(store, id, &node, err);
    if (status != TARN_OK)
        return status;
    kit_fill(&want, seed);
    got.state = calloc(8 * kit_floats, sizeof *got.state);
    kit_lay(&l, &got);
    tarni_ids_init(&ids, tarnp_store_allocator(store));
    bool same = node.n_sections == 4 && node.n_segments == 2 && node.n_tokens == want.n_tokens &&
                node.segments[1].n_call_ids == 1 &&
                strcmp(node.segments[1].call_ids[0], want.call_id) == 0 &&
                strcmp(node.numerics, "cpu/f32") == 0 && memcmp(node.fp, kit_fp, 32) == 0;
    for (size_t i = 1; same && status == TARN_OK && i < 4; i++) {
        tarnp_section *section = &node.sections[i];
        same = section->kind == l.sections[i - 1].kind && section->elem == l.sections[i - 1].elem &&
               section->n_chunks == l.sections[i - 1].n_chunks;
        for (size_t c = 0; same && c < section->n_chunks; c++)
            l.sections[i - 1].chunks[c].id = section->chunks[c].id;
        if (same)
            status = tarnp_node_read_chunks(store, &node, section->elem, l.sections[i - 1].chunks,
                                            section->n_chunks, NULL, err);
    }
    if (status == TARN_OK && same)
        status = tarnp_node_tokens(store, &node, &ids, err);
    if (status == TARN_OK)
        *equal = same && ids.n_ids == want.n_tokens &&
                 memcmp(ids.ids, want.tokens, 4 * ids.n_ids) == 0 &&
                 memcmp(got.state, want.state, 8 * kit_floats * sizeof(float)) == 0 &&
                 memcmp(got.conv, want.conv, sizeof got.conv) == 0 &&
                 memcmp(got.sampler, want.sampler, sizeof got.sampler) == 0;
    tarni_ids_fini(&ids);
    tarnp_node_fini(&node);
    free(want.state);
    free(got.state);
    return status;
}

static inline void kit_check_node(kit *k, uint64_t id, uint64_t seed)
{
    bool equal = false;
    tarn_status status = kit_read(k->store, id, seed, &equal, &k->err);
    if (status != TARN_OK)
        CHECK_FAIL("node %llu cannot be read: %s", (unsigned long long)id, k->err.detail);
    else if (!equal)
        CHECK_FAIL("node %llu is not what was written", (unsigned long long)id);
}

/* The number of things verify finds; -1 where it fails. Prints the first unless told otherwise. */
static inline long kit_verify(kit *k, bool quiet)
{
    tarnp_verified v;
    if (tarnp_store_verify(k->store, NULL, NULL, &v, &k->err) != TARN_OK) {
        if (!quiet)
            CHECK_FAIL("verify fails: %s", k->err.detail);
        return -1;
    }
    if (v.n_bad > 0 && !quiet)
        printf("    verify: node %llu, chunk %llu: %s\n", (unsigned long long)v.bad[0].node,
               (unsigned long long)v.bad[0].chunk, v.bad[0].reason);
    long n = (long)v.n_bad;
    tarni_free(tarnp_store_allocator(k->store), v.bad);
    return n;
}

#define KIT_CLEAN(k) CHECK_EQ(kit_verify((k), false), 0)

static inline tarnp_stat kit_stat(kit *k)
{
    tarnp_stat stat = {0};
    CHECK_STATUS(tarnp_store_stat(k->store, &stat, &k->err), TARN_OK);
    return stat;
}

#endif
