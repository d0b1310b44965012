/* link.c - the last transaction of a graft: nodes, names and references become visible together.
 *
 * Until it, other processes may remove the node a chain goes on from, take its name or its commit
 * keys: all of that is looked at again under the write lock. */
#include "graft.h"

#include "commit.h"
#include "names.h"
#include "refs.h"

#include <string.h>

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
    tarnp_manifest m = tarnp_graft_manifest(g, i);
    uint8_t *value = g->manifests.data + n->manifest_at;
    m.id = n->id;
    m.parent = i > 0 ? g->nodes[i - 1].id : TARNP_NODE_NONE;
    m.session_id = g->session_id;
    m.first_chunk = n->first_chunk;
    memset(m.prefix, 0, sizeof m.prefix);
    static const uint8_t no_key[TARNP_KEY_BYTES] = {0};
    bool has_key = memcmp(m.key, no_key, sizeof no_key) != 0;
    if (has_key)
        TARNI_TRY(tarnp_id_get(&w->txn, TARNP_TABLE_KEY, m.key, sizeof m.key, &known, err));
    if (has_key && known != 0) {
        /* Another node has the key: a retry of that commit must go on finding that one. */
        memset(m.key, 0, sizeof m.key);
        has_key = false;
    }
    static const uint8_t none[1]; /* a chain without any chunk has no sums */
    const uint8_t *sums =
        n->n_chunks > 0 ? g->sums.data + n->chunks_before * TARNP_SUM_BYTES : none;
    tarnp_manifest_renumber(value, &m, sums);
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
    TARNI_TRY(tarnp_graft_quota(g, w, err));
    TARNI_TRY(tarnp_graft_reserve(g, w, &n_reserved, err));
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
    TARNI_TRY(tarnp_graft_complete(g, err));
    TARNI_TRY(tarnp_name_check(like->name, err));
    TARNI_TRY(tarnp_tags_check(like->tags, like->n_tags, err));
    TARNI_TRY(tarnp_graft_flush(g, err));
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
    TARNI_TRY(tarnp_graft_complete(g, err));
    TARNI_TRY(tarnp_graft_flush(g, err));
    TARNI_TRY(tarnp_write_begin(g->store, &w, err));
    tarn_status status = put_tip(g, &w, session_id, err);
    return finish(g, &w, status, err);
}
