/* graft.c - what comes is checked, found in the store or staged; link.c makes nodes of it.
 *
 * Invariants:
 *  1. nodes[0 .. r) are used, nodes[r ..) are copied: a node can be used only where its parent is.
 *     The root has no commit key, so its fate is decided with that of its first child.
 *  2. Node ids and chunk ids of a node are given out together in one transaction, so that the order
 *     of the nodes stays that of their chunks, whatever other processes commit in between.
 *  3. A chunk's sum is of its header, which holds its id: of a copied node the sums in the manifest
 *     are replaced by those of the headers as stored. */
#include "graft.h"

#include "admit.h"
#include "quota.h"
#include "refs.h"

#include <string.h>

#define FLUSH_BYTES  ((size_t)16 << 20)
#define FLUSH_CHUNKS 256

static tarnp_span manifest_of(const tarnp_graft *g, size_t i)
{
    const tarnp_graft_node *n = &g->nodes[i];
    return (tarnp_span){g->manifests.data + n->manifest_at, n->manifest_bytes};
}

tarnp_manifest tarnp_graft_manifest(const tarnp_graft *g, size_t i)
{
    tarnp_manifest m;
    tarn_error ignored;
    tarn_status status = tarnp_manifest_get(manifest_of(g, i), i + 1, &m, &ignored);
    TARN_ASSERT(status == TARN_OK);
    return m;
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
        before = tarnp_graft_manifest(g, 0);
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

tarn_status tarnp_graft_complete(const tarnp_graft *g, tarn_error *err)
{
    if (g->n_nodes == 0)
        return tarni_fail(err, TARN_E_CORRUPT, "there is no root");
    if (g->n_seen != g->nodes[g->n_nodes - 1].n_chunks)
        return tarni_fail(err, TARN_E_CORRUPT, "node %zu: %u of %u chunks are there", g->n_nodes,
                          g->n_seen, g->nodes[g->n_nodes - 1].n_chunks);
    return TARN_OK;
}

tarn_status tarnp_graft_put_node(tarnp_graft *g, tarnp_span value, tarn_error *err)
{
    tarnp_manifest m;
    static const uint8_t no_sum[TARNP_SUM_BYTES];
    const tarnp_admission place = {g->n_nodes, g->n_chunks, &g->last, g->fp};
    if (g->n_nodes > 0)
        TARNI_TRY(tarnp_graft_complete(g, err));
    TARNI_TRY(tarnp_admit_node(&place, value, &g->store->allocator, &m, err));
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

tarn_status tarnp_graft_reserve(tarnp_graft *g, tarnp_write *w, size_t *n_reserved, tarn_error *err)
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

tarn_status tarnp_graft_quota(const tarnp_graft *g, tarnp_write *w, tarn_error *err)
{
    tarn_error cause;
    tarn_status status = tarnp_quota_check_staged(w, g->copied_bytes, g->staged_bytes, &cause);
    return status == TARN_OK
               ? TARN_OK
               : tarni_fail(err, status, "%.200s%s", cause.detail,
                            status == TARN_E_QUOTA ? "; nothing is evicted for an import" : "");
}

tarn_status tarnp_graft_flush(tarnp_graft *g, tarn_error *err)
{
    tarnp_write w;
    size_t n_reserved = g->n_reserved;
    if (g->n_pending == 0)
        return TARN_OK;
    TARNI_TRY(tarnp_write_begin(g->store, &w, err));
    tarn_status status = tarnp_graft_quota(g, &w, err);
    if (status == TARN_OK)
        status = tarnp_graft_reserve(g, &w, &n_reserved, err);
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

/* The next chunk of the last node, checked. */
static tarn_status take_chunk(tarnp_graft *g, tarnp_span value, tarn_error *err)
{
    size_t i = g->n_nodes - 1;
    tarnp_chunk_ref ref;
    tarn_error cause = {0};
    if (!g->scratch)
        TARNI_TRY(tarni_alloc(&g->store->allocator, TARNP_CHUNK_BYTES_MAX, 1, &g->scratch, err));
    tarnp_manifest_chunk(manifest_of(g, i), &g->last, g->n_seen, &ref);
    tarn_status status = tarnp_admit_chunk(g->store, value, &ref, g->scratch, &cause);
    if (status != TARN_OK)
        return tarni_fail(err, status, "node %zu: chunk %u: %.180s", i + 1, g->n_seen,
                          cause.detail);
    return TARN_OK;
}

tarn_status tarnp_graft_put_chunk(tarnp_graft *g, tarnp_span value, tarn_error *err)
{
    if (g->n_nodes == 0 || g->n_seen == g->nodes[g->n_nodes - 1].n_chunks)
        return tarni_fail(err, TARN_E_CORRUPT, "node %zu: one chunk too many", g->n_nodes);
    TARNI_TRY(take_chunk(g, value, err));
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
    return full ? tarnp_graft_flush(g, err) : TARN_OK;
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
