/* admit.c
 *
 * What tarnp_manifest_node accepts is a manifest; what is accepted here is one that this store
 * would have written in this place. */
#include "admit.h"

#include "codec.h"

#include <string.h>

#define FLAGS_KNOWN                                                                                \
    (TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT | TARNP_NODE_STATE_EVICTED |                      \
     TARNP_NODE_LATENTS_EVICTED)

static tarn_status refuse(tarn_error *err, size_t i, const char *why)
{
    return tarni_fail(err, TARN_E_CORRUPT, "node %zu: %s", i + 1, why);
}

static tarn_status check_segments(const tarnp_node *node, size_t i, uint32_t *turns,
                                  tarn_error *err)
{
    *turns = 0;
    for (size_t k = 0; k < node->n_segments; k++) {
        const tarnp_segment *s = &node->segments[k];
        if (s->role < TARN_ROLE_SYSTEM || s->role > TARN_ROLE_TOKENS ||
            (s->flags & ~(TARNP_SEGMENT_CONTINUES | TARNP_SEGMENT_CLOSED)) != 0)
            return refuse(err, i, "a segment of unknown role or flags");
        *turns += s->role == TARN_ROLE_ASSISTANT && !(s->flags & TARNP_SEGMENT_CONTINUES);
    }
    return TARN_OK;
}

static tarn_status check_tokens(const tarnp_section *s, size_t i, uint64_t *n_tokens,
                                tarn_error *err)
{
    if (s->elem != TARNP_ELEM_U32 || *n_tokens != 0)
        return refuse(err, i, "tokens of another kind, or twice");
    for (size_t k = 0; k < s->n_chunks; k++) {
        const tarnp_chunk *c = &s->chunks[k];
        if (c->first != *n_tokens || c->raw_bytes != (uint64_t)c->count * 4 || c->count == 0)
            return refuse(err, i, "tokens out of place");
        *n_tokens += c->count;
    }
    return TARN_OK;
}

static tarn_status check_sections(const tarnp_node *node, uint32_t n_sections, size_t i,
                                  tarn_error *err)
{
    uint64_t n_tokens = 0;
    if (node->n_sections != n_sections)
        return refuse(err, i, "an entry of a section that was evicted");
    for (size_t k = 0; k < node->n_sections; k++) {
        const tarnp_section *s = &node->sections[k];
        if (s->kind < TARNP_SECTION_TOKENS || s->kind > TARNP_SECTION_SAMPLER)
            return tarni_fail(err, TARN_E_FORMAT, "node %zu: section %zu is of unknown kind %d",
                              i + 1, k, (int)s->kind);
        if (s->codec != TARNP_STATE_LOSSLESS && (node->flags & TARNP_NODE_BIT_EXACT))
            return refuse(err, i, "a lossy section of a bit-exact node");
        size_t elem_bytes = tarnp_elem_bytes(s->elem);
        for (size_t c = 0; c < s->n_chunks; c++) {
            uint32_t raw = s->chunks[c].raw_bytes, stored = s->chunks[c].stored_bytes;
            if (raw % elem_bytes != 0 || stored < TARNP_CHUNK_HEAD_BYTES ||
                stored - TARNP_CHUNK_HEAD_BYTES > raw)
                return refuse(err, i, "a chunk of impossible size");
        }
        if (s->kind == TARNP_SECTION_TOKENS)
            TARNI_TRY(check_tokens(s, i, &n_tokens, err));
    }
    return n_tokens == node->n_tokens ? TARN_OK
                                      : refuse(err, i, "its chunks do not hold its tokens");
}

static tarn_status check_place(const tarnp_admission *a, const tarnp_manifest *m,
                               uint32_t new_turns, tarn_error *err)
{
    size_t i = a->n_nodes;
    const tarnp_manifest *before = a->before;
    if (i == 0 && (m->n_segments != 0 || m->n_sections != 0)) /* so it has no tokens either */
        return refuse(err, i, "a root that holds something");
    if (m->parent != i || m->session_id != 1 || m->first_chunk != a->n_chunks + 1)
        return refuse(err, i, "its parent or its chunks are not those before it");
    if (m->position < before->position || m->position - before->position != m->n_tokens ||
        m->turns < before->turns || m->turns - before->turns != new_turns)
        return refuse(err, i, "its position does not follow from its parent's");
    if ((m->flags & ~FLAGS_KNOWN) != 0)
        return tarni_fail(err, TARN_E_FORMAT, "node %zu: unknown flags %u", i + 1, m->flags);
    if ((m->flags & TARNP_NODE_HAS_STATE) && (m->flags & TARNP_NODE_STATE_EVICTED))
        return refuse(err, i, "a state that is there and was evicted");
    if (memcmp(m->fp, a->fp, sizeof m->fp) != 0)
        return refuse(err, i, "it was made with another model");
    return TARN_OK;
}

tarn_status tarnp_admit_node(const tarnp_admission *a, tarnp_span value,
                             const tarn_allocator *allocator, tarnp_manifest *m, tarn_error *err)
{
    tarnp_node node;
    uint32_t turns;
    size_t i = a->n_nodes;
    TARNI_TRY(tarnp_manifest_get(value, i + 1, m, err));
    TARNI_TRY(tarnp_manifest_node(value, i + 1, allocator, &node, err));
    tarn_status status = check_segments(&node, i, &turns, err);
    if (status == TARN_OK)
        status = check_sections(&node, m->n_sections, i, err);
    if (status == TARN_OK)
        status = check_place(a, m, turns, err);
    tarnp_node_fini(&node);
    return status;
}

typedef struct trial {
    void *scratch;
    const uint8_t *payload;
    tarnp_chunk_head head;
} trial;

static tarn_status decode_chunk(void *arg, tarnp_codec *codec, size_t i, tarn_error *err)
{
    const trial *t = arg;
    tarnp_piece piece = {t->scratch, t->head.raw_bytes};
    (void)i;
    return tarnp_decode(codec, t->head.codec, t->payload, t->head.payload_bytes, &piece, 1,
                        t->head.raw_bytes, err);
}

tarn_status tarnp_admit_chunk(tarnp_store *store, tarnp_span value, const tarnp_chunk_ref *want,
                              void *scratch, tarn_error *err)
{
    trial t = {.scratch = scratch};
    TARNI_TRY(tarnp_chunk_check(value, want, &t.head, err));
    t.payload = value.data + TARNP_CHUNK_HEAD_BYTES;
    return tarnp_each(store, 1, decode_chunk, &t, err);
}
