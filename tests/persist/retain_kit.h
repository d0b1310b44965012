/* retain_kit.h - nodes with every kind of section, for the tests of eviction: a state, latents of
 * the node's tokens, logits, a sampler. */
#ifndef TARN_TESTS_RETAIN_KIT_H
#define TARN_TESTS_RETAIN_KIT_H

#include "store_kit.h"

static size_t rk_state_floats = 2048;
static size_t rk_latent_chunks = 1;

enum { RK_LATENT_BYTES = 32, RK_LATENT_CHUNKS_MAX = 700 };

typedef struct rk_content {
    uint32_t *tokens;
    float *state;
    uint16_t *latents;
    float logits[32];
    uint8_t sampler[24];
} rk_content;

static inline void rk_fill(rk_content *c, uint64_t seed, uint32_t n_tokens)
{
    uint64_t r = seed * 31 + 7;
    c->tokens = malloc(n_tokens * sizeof *c->tokens);
    c->state = malloc(rk_state_floats * sizeof *c->state);
    c->latents = malloc((size_t)n_tokens * RK_LATENT_BYTES);
    for (uint32_t i = 0; i < n_tokens; i++)
        c->tokens[i] = (uint32_t)(kit_random(&r) % 160000);
    for (size_t i = 0; i < rk_state_floats; i++)
        c->state[i] = kit_normal(&r);
    for (size_t i = 0; i < (size_t)n_tokens * RK_LATENT_BYTES / 2; i++)
        c->latents[i] = (uint16_t)(0x3E00 + kit_random(&r) % 512);
    for (size_t i = 0; i < 32; i++)
        c->logits[i] = kit_normal(&r);
    for (size_t i = 0; i < sizeof c->sampler; i++)
        c->sampler[i] = (uint8_t)kit_random(&r);
}

static inline void rk_free(rk_content *c)
{
    free(c->tokens);
    free(c->state);
    free(c->latents);
}

/* Commits n_tokens on `parent`, whose position is `position`. */
static inline tarn_status rk_commit(tarnp_store *store, const tarnp_session *s, uint64_t parent,
                                    uint64_t position, uint64_t seed, uint32_t n_tokens,
                                    bool move_head, tarnp_committed *out, tarn_error *err)
{
    static tarnp_piece latent[RK_LATENT_CHUNKS_MAX];
    static tarnp_chunk chunks[RK_LATENT_CHUNKS_MAX];
    rk_content c;
    rk_fill(&c, seed, n_tokens);
    size_t n = rk_latent_chunks < n_tokens ? rk_latent_chunks : n_tokens;
    for (size_t i = 0; i < n; i++) {
        uint32_t begin = (uint32_t)(i * n_tokens / n), end = (uint32_t)((i + 1) * n_tokens / n);
        latent[i] = (tarnp_piece){c.latents + (size_t)begin * RK_LATENT_BYTES / 2,
                                  (size_t)(end - begin) * RK_LATENT_BYTES};
        chunks[i] = (tarnp_chunk){.first = (uint32_t)position + begin,
                                  .count = end - begin,
                                  .raw_bytes = (uint32_t)latent[i].n_bytes,
                                  .n_pieces = 1,
                                  .pieces = &latent[i]};
    }
    tarnp_piece state = {c.state, rk_state_floats * sizeof(float)},
                logits = {c.logits, sizeof c.logits}, sampler = {c.sampler, sizeof c.sampler};
    tarnp_chunk one[3] = {
        {.raw_bytes = (uint32_t)state.n_bytes, .n_pieces = 1, .pieces = &state},
        {.raw_bytes = (uint32_t)logits.n_bytes, .n_pieces = 1, .pieces = &logits},
        {.raw_bytes = (uint32_t)sampler.n_bytes, .n_pieces = 1, .pieces = &sampler}};
    tarnp_section sections[] = {
        {.kind = TARNP_SECTION_STATE, .elem = TARNP_ELEM_F32, .n_chunks = 1, .chunks = &one[0]},
        {.kind = TARNP_SECTION_LATENT, .elem = TARNP_ELEM_BF16, .n_chunks = n, .chunks = chunks},
        {.kind = TARNP_SECTION_LOGITS, .elem = TARNP_ELEM_F32, .n_chunks = 1, .chunks = &one[1]},
        {.kind = TARNP_SECTION_SAMPLER, .elem = TARNP_ELEM_U8, .n_chunks = 1, .chunks = &one[2]}};
    tarnp_segment segments[2] = {
        {.role = TARN_ROLE_USER,
         .flags = TARNP_SEGMENT_CLOSED,
         .n_tokens = n_tokens - (n_tokens > 1)},
        {.role = TARN_ROLE_ASSISTANT, .flags = TARNP_SEGMENT_CLOSED, .n_tokens = 1}};
    tarnp_commit commit = {.session_id = s->id,
                           .expected_head = s->head,
                           .move_head = move_head,
                           .parent = parent,
                           .flags = TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT,
                           .numerics = "cpu/f32",
                           .tokens = c.tokens,
                           .n_tokens = n_tokens,
                           .segments = segments,
                           .n_segments = n_tokens > 1 ? 2 : 1,
                           .sections = sections,
                           .n_sections = 4};
    kit_key(commit.key, seed);
    memcpy(commit.fp, kit_fp, sizeof kit_fp);
    tarn_status status = tarnp_commit_node(store, &commit, out, err);
    rk_free(&c);
    return status;
}

static inline tarn_status rk_try_append(kit *k, const char *name, uint64_t seed, uint32_t n_tokens,
                                        uint64_t *node)
{
    tarnp_session s;
    tarnp_committed made = {0};
    tarn_status status = tarnp_session_find(k->store, name, &s, &k->err);
    if (status == TARN_OK)
        status = rk_commit(k->store, &s, s.head, s.position, seed, n_tokens, true, &made, &k->err);
    tarnp_session_fini(&s);
    *node = made.node;
    return status;
}

/* On the head of the session; 0 after a failure, which is reported. */
static inline uint64_t rk_append(kit *k, const char *name, uint64_t seed, uint32_t n_tokens)
{
    uint64_t node;
    if (rk_try_append(k, name, seed, n_tokens, &node) != TARN_OK)
        CHECK_FAIL("cannot append %llu to %s: %s", (unsigned long long)seed, name, k->err.detail);
    return node;
}

/* What the node still has: s the state, l the latents, t the tokens, in this order. */
static inline const char *rk_has(kit *k, uint64_t id)
{
    static char text[8];
    tarnp_node node;
    size_t n = 0;
    bool kinds[8] = {false};
    if (tarnp_node_read(k->store, id, &node, &k->err) != TARN_OK)
        return "gone";
    for (size_t i = 0; i < node.n_sections; i++)
        kinds[node.sections[i].kind] = true;
    CHECK_EQ(kinds[TARNP_SECTION_STATE], (node.flags & TARNP_NODE_HAS_STATE) != 0);
    CHECK_EQ(kinds[TARNP_SECTION_STATE], kinds[TARNP_SECTION_LOGITS]);
    CHECK_EQ(kinds[TARNP_SECTION_STATE], !(node.flags & TARNP_NODE_STATE_EVICTED));
    CHECK_EQ(kinds[TARNP_SECTION_LATENT], !(node.flags & TARNP_NODE_LATENTS_EVICTED));
    CHECK(kinds[TARNP_SECTION_SAMPLER]);
    if (kinds[TARNP_SECTION_STATE])
        text[n++] = 's';
    if (kinds[TARNP_SECTION_LATENT])
        text[n++] = 'l';
    if (kinds[TARNP_SECTION_TOKENS])
        text[n++] = 't';
    text[n] = 0;
    tarnp_node_fini(&node);
    return text;
}

/* Are the tokens what `seed` wrote? */
static inline void rk_check_tokens(kit *k, uint64_t id, uint64_t seed, uint32_t n_tokens)
{
    tarnp_node node;
    tarni_ids ids;
    rk_content want;
    REQUIRE_OK(tarnp_node_read(k->store, id, &node, &k->err), &k->err);
    tarni_ids_init(&ids, tarnp_store_allocator(k->store));
    CHECK_STATUS(tarnp_node_tokens(k->store, &node, &ids, &k->err), TARN_OK);
    rk_fill(&want, seed, n_tokens);
    CHECK_EQ(ids.n_ids, n_tokens);
    if (ids.n_ids == n_tokens)
        CHECK_BYTES(ids.ids, want.tokens, n_tokens * sizeof *want.tokens);
    rk_free(&want);
    tarni_ids_fini(&ids);
    tarnp_node_fini(&node);
}

/* All that a listing and the figures say, to be compared before and after. */
static inline uint64_t rk_digest(kit *k)
{
    tarnp_session *list;
    size_t n;
    uint64_t sum = 14695981039346656037u;
    tarnp_stat stat = kit_stat(k);
    for (size_t i = 0; i < sizeof stat; i++)
        sum = (sum ^ ((uint8_t *)&stat)[i]) * 1099511628211u;
    if (tarnp_session_list(k->store, &list, &n, &k->err) != TARN_OK)
        return 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t row[] = {list[i].id,          list[i].head,         list[i].position,
                                list[i].bytes_owned, list[i].bytes_shared, list[i].updated_ms,
                                list[i].expires_ms,  list[i].pinned,       list[i].n_tags};
        for (size_t b = 0; b < sizeof row; b++)
            sum = (sum ^ ((const uint8_t *)row)[b]) * 1099511628211u;
    }
    tarnp_sessions_free(list, n);
    return sum;
}

static inline tarnp_session rk_session(kit *k, const char *name)
{
    tarnp_session s = {0};
    CHECK_STATUS(tarnp_session_find(k->store, name, &s, &k->err), TARN_OK);
    tarnp_session out = s;
    out.tags = NULL;
    out.allocator = NULL;
    tarnp_session_fini(&s);
    return out;
}

/* Collects; the report's list is freed, how often each thing was dropped is in n[what]. */
static inline uint64_t rk_gc(kit *k, tarnp_gc_options options, size_t n[5])
{
    tarnp_gc_report r;
    memset(n, 0, 5 * sizeof *n);
    if (tarnp_store_gc(k->store, &options, &r, &k->err) != TARN_OK) {
        CHECK_FAIL("cannot collect: %s", k->err.detail);
        return 0;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < r.n_dropped; i++) {
        n[r.dropped[i].what]++;
        sum += r.dropped[i].n_bytes;
        CHECK(r.dropped[i].why[0] != 0);
    }
    CHECK_EQ(sum, r.freed_bytes);
    tarni_free(tarnp_store_allocator(k->store), r.dropped);
    return sum;
}

#endif
