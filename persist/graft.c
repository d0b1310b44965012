/* graft.c - checking what comes, and putting it.
 *
 * Invariants:
 *  1. nodes[0 .. r) are used, nodes[r ..) are copied: a node can be used only where its parent is.
 *     The root has no commit key, so its fate is decided with that of its first child.
 *  2. Node ids and chunk ids of a node are given out together in one transaction, so that the order
 *     of the nodes stays that of their chunks, whatever other processes commit in between.
 *  3. A chunk's sum is of its header, which holds its id: of a copied node the sums in the manifest
 *     are replaced by those of the headers as stored. */
#include "graft.h"

#include "codec.h"
#include "commit.h"
#include "names.h"
#include "quota.h"
#include "refs.h"

#include <stdio.h>
#include <string.h>

#define FLUSH_BYTES  ((size_t)16 << 20)
#define FLUSH_CHUNKS 256
#define FLAGS_KNOWN                                                                                \
    (TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT | TARNP_NODE_STATE_EVICTED |                      \
     TARNP_NODE_LATENTS_EVICTED)

struct tarnp_graft_node {
    uint64_t id; /* in the store; 0: not known yet */
    uint64_t first_chunk;
    size_t manifest_at, manifest_bytes;
    uint64_t chunks_before; /* of the nodes before it */
    uint32_t n_chunks;
    bool used; /* it is in the store already */
};

struct tarnp_graft_chunk {
    size_t node; /* index */
    uint32_t i;  /* chunk of it */
    size_t at, n_bytes;
};

static tarnp_span manifest_of(const tarnp_graft *g, size_t i)
{
    const tarnp_graft_node *n = &g->nodes[i];
    return (tarnp_span){g->manifests.data + n->manifest_at, n->manifest_bytes};
}

/* The manifest of a node that was checked when it came. */
static tarnp_manifest head_of(const tarnp_graft *g, size_t i)
{
    tarnp_manifest m;
    tarn_error ignored;
    tarn_status status = tarnp_manifest_get(manifest_of(g, i), i + 1, &m, &ignored);
    TARN_ASSERT(status == TARN_OK);
    return m;
}

/* ---- checking a node ------------------------------------------------------------------------ */

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

/* Against the node before it. */
static tarn_status check_place(const tarnp_graft *g, const tarnp_manifest *m, uint32_t new_turns,
                               tarn_error *err)
{
    size_t i = g->n_nodes;
    const tarnp_manifest before = g->last;
    if (i == 0 && (m->n_tokens != 0 || m->n_segments != 0 || m->n_sections != 0))
        return refuse(err, i, "a root that holds something");
    if (m->parent != i || m->session_id != 1 || m->first_chunk != g->n_chunks + 1)
        return refuse(err, i, "its parent or its chunks are not those before it");
    if (m->position < before.position || m->position - before.position != m->n_tokens ||
        m->turns < before.turns || m->turns - before.turns != new_turns)
        return refuse(err, i, "its position does not follow from its parent's");
    if ((m->flags & ~FLAGS_KNOWN) != 0)
        return tarni_fail(err, TARN_E_FORMAT, "node %zu: unknown flags %u", i + 1, m->flags);
    if ((m->flags & TARNP_NODE_HAS_STATE) && (m->flags & TARNP_NODE_STATE_EVICTED))
        return refuse(err, i, "a state that is there and was evicted");
    if (memcmp(m->fp, g->fp, sizeof m->fp) != 0)
        return refuse(err, i, "it was made with another model");
    return TARN_OK;
}

static tarn_status check_node(const tarnp_graft *g, tarnp_span value, tarnp_manifest *m,
                              tarn_error *err)
{
    tarnp_node node;
    uint32_t turns;
    size_t i = g->n_nodes;
    if (i > 0 && g->n_seen != g->nodes[i - 1].n_chunks)
        return tarni_fail(err, TARN_E_CORRUPT, "node %zu: %u of %u chunks are there", i, g->n_seen,
                          g->nodes[i - 1].n_chunks);
    TARNI_TRY(tarnp_manifest_get(value, i + 1, m, err));
    TARNI_TRY(tarnp_manifest_node(value, i + 1, &g->store->allocator, &node, err));
    tarn_status status = check_segments(&node, i, &turns, err);
    if (status == TARN_OK)
        status = check_sections(&node, m->n_sections, i, err);
    if (status == TARN_OK)
        status = check_place(g, m, turns, err);
    tarnp_node_fini(&node);
    return status;
}

/* ---- using a node that is there ------------------------------------------------------------- */

/* Whether chunk `mine` of the store is good and, with the other's id, has the other's sum. */
static tarn_status same_chunk(tarnp_store *store, const tarnp_chunk_ref *mine,
                              const tarnp_chunk_ref *theirs, bool *same, tarn_error *err)
{
    tarnp_txn txn;
    tarnp_span value;
    tarnp_chunk_head head;
    tarn_error damage;
    uint8_t bytes[TARNP_CHUNK_HEAD_BYTES], sum[TARNP_SUM_BYTES];
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = tarnp_get_id(&txn, TARNP_TABLE_CHUNK, mine->id, &value, err);
    *same = status == TARN_OK && tarnp_chunk_check(value, mine, &head, &damage) == TARN_OK;
    if (*same) {
        memcpy(bytes, value.data, sizeof bytes);
        tarnp_chunk_renumber(bytes, theirs->id, sum);
        *same = memcmp(sum, theirs->sum, sizeof sum) == 0;
    }
    tarnp_txn_abort(&txn);
    return status;
}

/* The node of this commit key, if it stands in the same place and its manifest says the same:
 * *found is 0 otherwise. `mine` gets a copy of its manifest. */
static tarn_status find_twin(tarnp_graft *g, tarnp_span value, const tarnp_manifest *m,
                             uint64_t *found, uint64_t *parent, tarni_writer *mine, tarn_error *err)
{
    static const uint8_t no_key[TARNP_KEY_BYTES] = {0};
    size_t i = g->n_nodes;
    tarnp_txn txn;
    tarnp_manifest known, root, before;
    tarnp_span at;
    tarn_error absent;
    *found = 0;
    bool goes_on = i > 0 && g->nodes[i - 1].used;
    if (memcmp(m->key, no_key, sizeof no_key) == 0 || (!goes_on && i != 1))
        return TARN_OK;
    TARNI_TRY(tarnp_read_begin(g->store, &txn, err));
    tarn_status status = tarnp_id_get(&txn, TARNP_TABLE_KEY, m->key, sizeof m->key, found, err);
    bool same = status == TARN_OK && *found != 0 &&
                tarnp_node_get(&txn, *found, &known, &at, &absent) == TARN_OK &&
                tarnp_manifest_same(at, &known, value, m);
    if (same && goes_on) {
        same = known.parent == g->nodes[i - 1].id;
    } else if (same) {
        tarnp_span root_at;
        before = head_of(g, 0);
        same = tarnp_node_get(&txn, known.parent, &root, &root_at, &absent) == TARN_OK &&
               root.parent == TARNP_NODE_NONE &&
               tarnp_manifest_same(root_at, &root, manifest_of(g, 0), &before);
    }
    if (same) {
        *parent = known.parent;
        tarni_put_bytes(mine, at.data, at.n_bytes);
        if (mine->failed)
            status = tarni_fail_memory(err, at.n_bytes);
    } else {
        *found = 0;
    }
    tarnp_txn_abort(&txn);
    return status;
}

static tarn_status try_use(tarnp_graft *g, tarnp_span value, const tarnp_manifest *m,
                           tarnp_graft_node *node, tarn_error *err)
{
    uint64_t found, parent = 0;
    tarni_writer mine;
    tarnp_manifest known;
    bool same = true;
    tarni_writer_init(&mine, &g->store->allocator);
    tarn_status status = find_twin(g, value, m, &found, &parent, &mine, err);
    if (status == TARN_OK && found != 0)
        status = tarnp_manifest_get((tarnp_span){mine.data, mine.n_bytes}, found, &known, err);
    for (uint32_t i = 0; status == TARN_OK && found != 0 && same && i < m->n_chunks; i++) {
        tarnp_chunk_ref ours, theirs;
        tarnp_manifest_chunk((tarnp_span){mine.data, mine.n_bytes}, &known, i, &ours);
        tarnp_manifest_chunk(value, m, i, &theirs);
        status = same_chunk(g->store, &ours, &theirs, &same, err);
    }
    if (status == TARN_OK && found != 0 && same) {
        node->used = true;
        node->id = found;
        if (!g->nodes[0].used) {
            g->nodes[0].used = true;
            g->nodes[0].id = parent;
            g->copied_bytes = 0; /* it was the root's */
        }
        g->n_reserved = g->n_nodes + 1;
    }
    tarni_writer_fini(&mine);
    return status;
}

/* ---- taking in ------------------------------------------------------------------------------ */

void tarnp_graft_begin(tarnp_graft *g, tarnp_store *store, const uint8_t fp[TARNP_FP_BYTES])
{
    *g = (tarnp_graft){.store = store};
    memcpy(g->fp, fp, sizeof g->fp);
    tarni_writer_init(&g->manifests, &store->allocator);
    tarni_writer_init(&g->sums, &store->allocator);
    tarni_writer_init(&g->slab, &store->allocator);
}

tarn_status tarnp_graft_go_on(tarnp_graft *g, uint64_t node, tarn_error *err)
{
    tarnp_txn txn;
    TARNI_TRY(tarnp_read_begin(g->store, &txn, err));
    tarn_status status = tarnp_node_get(&txn, node, &g->last, NULL, err);
    tarnp_txn_abort(&txn);
    if (status != TARN_OK)
        return status;
    TARNI_TRY(
        tarni_grow(&g->store->allocator, &g->nodes, &g->nodes_capacity, 1, sizeof *g->nodes, err));
    g->nodes[0] = (tarnp_graft_node){.id = node, .used = true};
    g->n_nodes = g->n_reserved = 1;
    return TARN_OK;
}

tarn_status tarnp_graft_put_node(tarnp_graft *g, tarnp_span value, tarn_error *err)
{
    tarnp_manifest m;
    static const uint8_t no_sum[TARNP_SUM_BYTES];
    TARNI_TRY(check_node(g, value, &m, err));
    TARNI_TRY(tarni_grow(&g->store->allocator, &g->nodes, &g->nodes_capacity, g->n_nodes + 1,
                         sizeof *g->nodes, err));
    tarnp_graft_node node = {.manifest_at = g->manifests.n_bytes,
                             .manifest_bytes = value.n_bytes,
                             .chunks_before = g->n_chunks,
                             .n_chunks = m.n_chunks};
    TARNI_TRY(try_use(g, value, &m, &node, err));
    tarni_put_bytes(&g->manifests, value.data, value.n_bytes);
    for (uint32_t i = 0; i < m.n_chunks && !g->sums.failed; i++)
        tarni_put_bytes(&g->sums, no_sum, sizeof no_sum);
    if (g->manifests.failed || g->sums.failed)
        return tarni_fail_memory(err, value.n_bytes);
    if (!node.used)
        g->copied_bytes += m.chunk_bytes + m.n_bytes;
    g->nodes[g->n_nodes++] = node;
    g->last = m;
    g->n_chunks += m.n_chunks;
    g->n_seen = 0;
    return TARN_OK;
}

/* Gives ids to the nodes that have none yet. Node ids and chunk ids come together: a chunk that
 * comes later finds its id here. */
static tarn_status reserve(tarnp_graft *g, tarnp_write *w, size_t *n_reserved, tarn_error *err)
{
    if (g->session_id == 0)
        g->session_id = w->counters.next_session++;
    for (; *n_reserved < g->n_nodes; ++*n_reserved) {
        tarnp_graft_node *n = &g->nodes[*n_reserved];
        n->id = w->counters.next_node++;
        n->first_chunk = w->counters.next_chunk;
        w->counters.next_chunk += n->n_chunks;
        if (n->n_chunks == 0)
            continue;
        if (g->stage.session_id == 0)
            TARNI_TRY(tarnp_stage_open(w, g->session_id, &g->stage, err));
        TARNI_TRY(tarnp_stage_mark(w, &g->stage, n->first_chunk, n->n_chunks, err));
    }
    return TARN_OK;
}

static tarn_status put_pending(tarnp_graft *g, tarnp_write *w, tarn_error *err)
{
    for (size_t k = 0; k < g->n_pending; k++) {
        const tarnp_graft_chunk *c = &g->pending[k];
        const tarnp_graft_node *n = &g->nodes[c->node];
        uint8_t *value = g->slab.data + c->at;
        uint64_t id = n->first_chunk + c->i;
        size_t sum_at = (size_t)(n->chunks_before + c->i) * TARNP_SUM_BYTES;
        tarnp_chunk_renumber(value, id, g->sums.data + sum_at);
        TARNI_TRY(tarnp_put_id(&w->txn, TARNP_TABLE_CHUNK, id, value, c->n_bytes, err));
        w->counters.chunks++;
        w->counters.bytes_stored += c->n_bytes;
    }
    return TARN_OK;
}

/* Whether all that came so far fits the store's quota: what a refused graft has staged goes again,
 * so the sooner it is refused the better. */
static tarn_status check_quota(const tarnp_graft *g, tarnp_write *w, tarn_error *err)
{
    tarn_error cause;
    tarn_status status = tarnp_quota_check_staged(w, g->copied_bytes, g->staged_bytes, &cause);
    return status == TARN_OK
               ? TARN_OK
               : tarni_fail(err, status, "%.200s%s", cause.detail,
                            status == TARN_E_QUOTA ? "; nothing is evicted for an import" : "");
}

static tarn_status flush(tarnp_graft *g, tarn_error *err)
{
    tarnp_write w;
    size_t n_reserved = g->n_reserved;
    if (g->n_pending == 0)
        return TARN_OK;
    TARNI_TRY(tarnp_write_begin(g->store, &w, err));
    tarn_status status = check_quota(g, &w, err);
    if (status == TARN_OK)
        status = reserve(g, &w, &n_reserved, err);
    if (status == TARN_OK)
        status = put_pending(g, &w, err);
    if (status != TARN_OK)
        return tarnp_write_abort(&w, status);
    TARNI_TRY(tarnp_write_commit(&w, NULL, err));
    g->n_reserved = n_reserved;
    g->staged_bytes += g->slab.n_bytes;
    g->n_pending = 0;
    g->slab.n_bytes = 0;
    return TARN_OK;
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

static tarn_status check_chunk(tarnp_graft *g, tarnp_span value, tarn_error *err)
{
    size_t i = g->n_nodes - 1;
    tarnp_chunk_ref ref;
    tarn_error cause = {0};
    trial t = {.payload = value.data + TARNP_CHUNK_HEAD_BYTES};
    if (!g->scratch)
        TARNI_TRY(tarni_alloc(&g->store->allocator, TARNP_CHUNK_BYTES_MAX, 1, &g->scratch, err));
    t.scratch = g->scratch;
    tarnp_manifest_chunk(manifest_of(g, i), &g->last, g->n_seen, &ref);
    tarn_status status = tarnp_chunk_check(value, &ref, &t.head, &cause);
    if (status == TARN_OK)
        status = tarnp_each(g->store, 1, decode_chunk, &t, &cause);
    if (status != TARN_OK)
        return tarni_fail(err, status, "node %zu: chunk %u: %.180s", i + 1, g->n_seen,
                          cause.detail);
    return TARN_OK;
}

tarn_status tarnp_graft_put_chunk(tarnp_graft *g, tarnp_span value, tarn_error *err)
{
    if (g->n_nodes == 0 || g->n_seen == g->nodes[g->n_nodes - 1].n_chunks)
        return tarni_fail(err, TARN_E_CORRUPT, "node %zu: one chunk too many", g->n_nodes);
    TARNI_TRY(check_chunk(g, value, err));
    uint32_t i = g->n_seen++;
    if (g->nodes[g->n_nodes - 1].used)
        return TARN_OK;
    TARNI_TRY(tarni_grow(&g->store->allocator, &g->pending, &g->pending_capacity, g->n_pending + 1,
                         sizeof *g->pending, err));
    g->pending[g->n_pending++] =
        (tarnp_graft_chunk){g->n_nodes - 1, i, g->slab.n_bytes, value.n_bytes};
    tarni_put_bytes(&g->slab, value.data, value.n_bytes);
    if (g->slab.failed)
        return tarni_fail_memory(err, value.n_bytes);
    bool full = g->slab.n_bytes >= FLUSH_BYTES || g->n_pending == FLUSH_CHUNKS;
    return full ? flush(g, err) : TARN_OK;
}

/* ---- linking -------------------------------------------------------------------------------- */

/* The node before nodes[i] as the store has it. */
static tarn_status parent_of(tarnp_graft *g, tarnp_write *w, size_t i, tarnp_manifest *out,
                             tarn_error *err)
{
    tarn_status status = tarnp_node_get(&w->txn, g->nodes[i - 1].id, out, NULL, err);
    if (status == TARN_E_NOT_FOUND)
        return tarni_fail(err, TARN_E_CONFLICT,
                          "node %llu, which the chain goes on from, was removed meanwhile",
                          (unsigned long long)g->nodes[i - 1].id);
    return status;
}

/* Puts nodes[i], a copied one, with `before` its parent as stored; `before` becomes the node. */
static tarn_status put_node(tarnp_graft *g, tarnp_write *w, size_t i, tarnp_manifest *before,
                            tarn_error *err)
{
    const tarnp_graft_node *n = &g->nodes[i];
    uint64_t known;
    tarnp_manifest m = head_of(g, i);
    uint8_t *value = g->manifests.data + n->manifest_at;
    m.id = n->id;
    m.parent = i > 0 ? g->nodes[i - 1].id : TARNP_NODE_NONE;
    m.session_id = g->session_id;
    m.first_chunk = n->first_chunk;
    static const uint8_t no_key[TARNP_KEY_BYTES] = {0};
    bool has_key = memcmp(m.key, no_key, sizeof no_key) != 0;
    if (has_key)
        TARNI_TRY(tarnp_id_get(&w->txn, TARNP_TABLE_KEY, m.key, sizeof m.key, &known, err));
    if (has_key && known != 0) {
        /* Another node has the key: a retry of that commit must go on finding that one. */
        memset(m.key, 0, sizeof m.key);
        has_key = false;
    }
    tarnp_manifest_renumber(value, &m, g->sums.data + n->chunks_before * TARNP_SUM_BYTES);
    TARNI_TRY(tarnp_put_id(&w->txn, TARNP_TABLE_NODE, m.id, value, m.n_bytes, err));
    if (has_key)
        TARNI_TRY(tarnp_id_put(&w->txn, TARNP_TABLE_KEY, m.key, sizeof m.key, m.id, err));
    /* Its only reference: the next node, or the head or tip that the caller makes of it. */
    bool last = i + 1 == g->n_nodes;
    TARNI_TRY(tarnp_ref_put(&w->txn, m.id, (tarnp_ref){1, last ? 0 : 1}, err));
    w->counters.nodes++;
    w->counters.bytes_stored += m.n_bytes;
    *before = m;
    return TARN_OK;
}

/* Puts what is not there; `head` is the last node as stored. */
static tarn_status put_nodes(tarnp_graft *g, tarnp_write *w, tarnp_manifest *head, uint64_t *owned,
                             tarn_error *err)
{
    size_t first = 0, n_reserved = g->n_reserved;
    *head = (tarnp_manifest){.session_id = g->session_id};
    *owned = 0;
    TARNI_TRY(check_quota(g, w, err));
    TARNI_TRY(reserve(g, w, &n_reserved, err));
    while (first < g->n_nodes && g->nodes[first].used)
        first++;
    if (first > 0)
        TARNI_TRY(parent_of(g, w, first, head, err));
    if (first > 0 && first < g->n_nodes)
        TARNI_TRY(tarnp_refs_adopt(w, g->session_id, head, err));
    for (size_t i = first; i < g->n_nodes; i++) {
        TARNI_TRY(put_node(g, w, i, head, err));
        *owned += head->chunk_bytes + head->n_bytes;
    }
    return g->stage.session_id != 0 ? tarnp_stage_settle(w, &g->stage, err) : TARN_OK;
}

static tarn_status put_descriptor(tarnp_graft *g, tarnp_write *w, tarnp_span descriptor,
                                  tarn_error *err)
{
    tarnp_span known;
    if (!descriptor.data)
        return TARN_OK;
    TARNI_TRY(tarnp_get(&w->txn, TARNP_TABLE_MODEL, g->fp, sizeof g->fp, &known, err));
    if (!known.data)
        return tarnp_put(&w->txn, TARNP_TABLE_MODEL, g->fp, sizeof g->fp, descriptor.data,
                         descriptor.n_bytes, err);
    if (known.n_bytes != descriptor.n_bytes ||
        memcmp(known.data, descriptor.data, known.n_bytes) != 0)
        return tarni_fail(err, TARN_E_CONFLICT,
                          "the model is known with another descriptor of %zu bytes", known.n_bytes);
    return TARN_OK;
}

static tarn_status put_session(tarnp_graft *g, tarnp_write *w, const tarnp_session *like,
                               tarnp_span descriptor, tarnp_session *out, tarn_error *err)
{
    tarnp_manifest head;
    uint64_t owned;
    TARNI_TRY(put_nodes(g, w, &head, &owned, err));
    TARNI_TRY(put_descriptor(g, w, descriptor, err));
    tarnp_session s = *like;
    s.id = g->session_id;
    s.head = head.id;
    s.position = head.position;
    s.turns = head.turns;
    s.bytes_owned = owned;
    TARNI_TRY(tarnp_shared_bytes(&w->txn, s.id, head.id, &s.bytes_shared, err));
    memcpy(s.fp, g->fp, sizeof s.fp);
    if (g->nodes[g->n_nodes - 1].used)
        TARNI_TRY(tarnp_refs_arrive(w, s.id, head.id, err));
    TARNI_TRY(tarnp_name_take(w, s.name, s.id, err));
    w->counters.sessions++;
    TARNI_TRY(tarnp_session_record_put(&w->txn, &s, &g->store->allocator, err));
    return tarnp_session_load(&w->txn, s.id, &g->store->allocator, out, err);
}

static tarn_status check_complete(const tarnp_graft *g, tarn_error *err)
{
    if (g->n_nodes == 0)
        return tarni_fail(err, TARN_E_CORRUPT, "there is no root");
    if (g->n_seen != g->nodes[g->n_nodes - 1].n_chunks)
        return tarni_fail(err, TARN_E_CORRUPT, "node %zu: %u of %u chunks are there", g->n_nodes,
                          g->n_seen, g->nodes[g->n_nodes - 1].n_chunks);
    return TARN_OK;
}

/* What was linked is staged no more, even if the outcome of the commit is unknown: then the next
 * open looks at the marks that are there. */
static tarn_status finish(tarnp_graft *g, tarnp_write *w, tarn_status status, tarn_error *err)
{
    if (status != TARN_OK)
        return tarnp_write_abort(w, status);
    TARNI_TRY(tarnp_write_commit(w, NULL, err));
    tarnp_stage_close(g->store, &g->stage, false);
    return TARN_OK;
}

tarn_status tarnp_graft_session(tarnp_graft *g, const tarnp_session *like, tarnp_span descriptor,
                                tarnp_session *out, tarn_error *err)
{
    tarnp_write w;
    *out = (tarnp_session){0};
    TARNI_TRY(check_complete(g, err));
    TARNI_TRY(tarnp_name_check(like->name, err));
    TARNI_TRY(tarnp_tags_check(like->tags, like->n_tags, err));
    TARNI_TRY(flush(g, err));
    TARNI_TRY(tarnp_write_begin(g->store, &w, err));
    tarn_status status = put_session(g, &w, like, descriptor, out, err);
    status = finish(g, &w, status, err);
    if (status != TARN_OK)
        tarnp_session_fini(out);
    return status;
}

static tarn_status put_tip(tarnp_graft *g, tarnp_write *w, uint64_t session_id, tarn_error *err)
{
    tarnp_manifest head;
    tarnp_session s;
    uint64_t owned;
    g->session_id = session_id;
    TARNI_TRY(tarnp_session_load(&w->txn, session_id, &g->store->allocator, &s, err));
    tarn_status status = s.id != 0 ? TARN_OK
                                   : tarni_fail(err, TARN_E_NOT_FOUND, "there is no session %llu",
                                                (unsigned long long)session_id);
    if (status == TARN_OK)
        status = put_nodes(g, w, &head, &owned, err);
    if (status == TARN_OK && !g->nodes[g->n_nodes - 1].used)
        status = tarnp_refs_detach(w, session_id, head.id, err);
    if (status == TARN_OK) {
        s.bytes_owned += owned;
        status = tarnp_session_record_put(&w->txn, &s, &g->store->allocator, err);
    }
    tarnp_session_fini(&s);
    return status;
}

tarn_status tarnp_graft_tip(tarnp_graft *g, uint64_t session_id, tarn_error *err)
{
    tarnp_write w;
    TARNI_TRY(check_complete(g, err));
    TARNI_TRY(flush(g, err));
    TARNI_TRY(tarnp_write_begin(g->store, &w, err));
    tarn_status status = put_tip(g, &w, session_id, err);
    return finish(g, &w, status, err);
}

void tarnp_graft_end(tarnp_graft *g)
{
    const tarn_allocator *a = &g->store->allocator;
    tarnp_stage_close(g->store, &g->stage, true);
    tarni_free(a, g->nodes);
    tarni_free(a, g->pending);
    tarni_free(a, g->scratch);
    tarni_writer_fini(&g->manifests);
    tarni_writer_fini(&g->sums);
    tarni_writer_fini(&g->slab);
    *g = (tarnp_graft){0};
}

uint64_t tarnp_graft_node_id(const tarnp_graft *g, size_t i)
{
    return g->nodes[i].id;
}
