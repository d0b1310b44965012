/* forest.c
 *
 * Indices are 32 bits wide and stand in the order of the ids, so one pass upwards meets parents
 * before children, one downwards children before parents; no walk recurses. */
#include "forest.h"

#include "entries.h"
#include "evict.h"
#include "refs.h"
#include "sessions.h"

#include <string.h>

typedef tarn_status (*entry_fn)(tarnp_forest *f, tarnp_txn *txn, tarnp_span key, tarnp_span value,
                                tarn_error *err);

static tarn_status for_each(tarnp_forest *f, tarnp_txn *txn, tarnp_table table, entry_fn fn,
                            tarn_error *err)
{
    tarnp_cursor cursor;
    tarnp_span key, value;
    TARNI_TRY(tarnp_cursor_open(txn, table, &cursor, err));
    tarn_status status = tarnp_cursor_seek(&cursor, NULL, 0, &key, &value, err);
    while (status == TARN_OK && key.data) {
        status = fn(f, txn, key, value, err);
        if (status == TARN_OK)
            status = tarnp_cursor_next(&cursor, &key, &value, err);
    }
    tarnp_cursor_close(&cursor);
    return status;
}

uint32_t tarnp_forest_find(const tarnp_forest *f, uint64_t node)
{
    size_t low = 0, high = f->n_nodes;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (f->nodes[middle].id < node)
            low = middle + 1;
        else
            high = middle;
    }
    return low < f->n_nodes && f->nodes[low].id == node ? (uint32_t)low : TARNP_NO_INDEX;
}

tarnp_forest_session *tarnp_forest_find_session(const tarnp_forest *f, uint64_t id)
{
    size_t low = 0, high = f->n_sessions;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (f->sessions[middle].record.id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < f->n_sessions && f->sessions[low].record.id == id ? &f->sessions[low] : NULL;
}

/* ---- loading -------------------------------------------------------------------------------- */

static tarn_status load_node(tarnp_forest *f, tarnp_txn *txn, tarnp_span key, tarnp_span value,
                             tarn_error *err)
{
    uint64_t id = tarni_load_u64_be(key.data);
    tarnp_manifest m;
    tarnp_ref ref;
    TARNI_TRY(tarnp_ref_get(txn, id, &ref, err));
    if (ref.refs == 0) /* being freed */
        return TARN_OK;
    TARNI_TRY(tarnp_manifest_get(value, id, &m, err));
    if (f->n_nodes == TARNP_NO_INDEX)
        return tarni_fail(err, TARN_E_LIMIT, "more than %u nodes", TARNP_NO_INDEX);
    TARNI_TRY(tarni_grow(&f->store->allocator, &f->nodes, &f->nodes_capacity, f->n_nodes + 1,
                         sizeof *f->nodes, err));
    tarnp_forest_node n = {.id = id,
                           .session_id = m.session_id,
                           .position = m.position,
                           .stored_bytes = m.chunk_bytes + m.n_bytes,
                           .state_bytes = tarnp_manifest_part_bytes(value, &m, TARNP_PART_STATE),
                           .latent_bytes = tarnp_manifest_part_bytes(value, &m, TARNP_PART_LATENTS),
                           .created_ms = m.created_ms,
                           .parent = TARNP_NO_INDEX,
                           .flags = m.flags};
    /* A node that came from elsewhere does not list what it had left behind. */
    if (!tarnp_manifest_latents(value, &m, &n.latent_begin, &n.latent_end) &&
        (m.flags & TARNP_NODE_LATENTS_EVICTED)) {
        n.latent_begin = m.position - m.n_tokens;
        n.latent_end = m.position;
    }
    if (m.parent != TARNP_NODE_NONE) {
        n.parent = tarnp_forest_find(f, m.parent);
        if (n.parent == TARNP_NO_INDEX)
            return tarni_fail(err, TARN_E_CORRUPT, "node %llu: its parent, node %llu, is missing",
                              (unsigned long long)id, (unsigned long long)m.parent);
    }
    f->nodes[f->n_nodes++] = n;
    return TARN_OK;
}

static tarn_status load_session(tarnp_forest *f, tarnp_txn *txn, tarnp_span key, tarnp_span value,
                                tarn_error *err)
{
    (void)txn;
    const tarn_allocator *a = &f->store->allocator;
    TARNI_TRY(tarni_grow(a, &f->sessions, &f->sessions_capacity, f->n_sessions + 1,
                         sizeof *f->sessions, err));
    tarnp_forest_session *s = &f->sessions[f->n_sessions];
    *s = (tarnp_forest_session){0};
    TARNI_TRY(tarnp_session_record_get(value, tarni_load_u64_be(key.data), a, &s->record, err));
    f->n_sessions++;
    s->head = tarnp_forest_find(f, s->record.head);
    if (s->head == TARNP_NO_INDEX)
        return tarni_fail(err, TARN_E_CORRUPT, "session %s: its head, node %llu, is missing",
                          s->record.name, (unsigned long long)s->record.head);
    return TARN_OK;
}

static tarn_status load_tip(tarnp_forest *f, tarnp_txn *txn, tarnp_span key, tarnp_span value,
                            tarn_error *err)
{
    (void)txn;
    (void)value;
    uint64_t session = tarni_load_u64_be(key.data), node = tarni_load_u64_be(key.data + 8);
    const tarnp_forest_session *s = tarnp_forest_find_session(f, session);
    uint32_t at = tarnp_forest_find(f, node);
    if (!s || at == TARNP_NO_INDEX)
        return tarni_fail(err, TARN_E_CORRUPT, "node %llu: a tip of session %llu, but %s is there",
                          (unsigned long long)node, (unsigned long long)session,
                          s ? "no node" : "no session");
    TARNI_TRY(tarni_grow(&f->store->allocator, &f->tips, &f->tips_capacity, f->n_tips + 1,
                         sizeof *f->tips, err));
    f->tips[f->n_tips++] = (tarnp_forest_tip){(uint32_t)(s - f->sessions), at};
    return TARN_OK;
}

tarn_status tarnp_forest_load(tarnp_store *store, tarnp_txn *txn, tarnp_forest *out,
                              tarn_error *err)
{
    *out = (tarnp_forest){.store = store};
    tarn_status status = for_each(out, txn, TARNP_TABLE_NODE, load_node, err);
    if (status == TARN_OK)
        status = for_each(out, txn, TARNP_TABLE_SESSION, load_session, err);
    if (status == TARN_OK)
        status = for_each(out, txn, TARNP_TABLE_TIP, load_tip, err);
    if (status != TARN_OK)
        tarnp_forest_fini(out);
    else
        tarnp_forest_mark(out);
    return status;
}

void tarnp_forest_fini(tarnp_forest *f)
{
    if (!f->store)
        return;
    const tarn_allocator *a = &f->store->allocator;
    for (size_t i = 0; i < f->n_sessions; i++)
        tarnp_session_fini(&f->sessions[i].record);
    tarni_free(a, f->nodes);
    tarni_free(a, f->sessions);
    tarni_free(a, f->tips);
    *f = (tarnp_forest){0};
}

/* ---- marking -------------------------------------------------------------------------------- */

static void mark_end(tarnp_forest_node *n, const tarnp_session *s)
{
    n->is_pinned = n->is_pinned || s->pinned;
    if (n->last_use_ms < s->updated_ms)
        n->last_use_ms = s->updated_ms;
}

void tarnp_forest_mark(tarnp_forest *f)
{
    for (size_t i = 0; i < f->n_nodes; i++) {
        tarnp_forest_node *n = &f->nodes[i];
        n->n_children = 0;
        n->last_use_ms = n->created_ms;
        n->is_head = n->is_tip = n->is_pinned = n->is_dead = false;
    }
    for (size_t i = 0; i < f->n_sessions; i++) {
        const tarnp_forest_session *s = &f->sessions[i];
        if (s->is_gone)
            continue;
        f->nodes[s->head].is_head = true;
        mark_end(&f->nodes[s->head], &s->record);
    }
    for (size_t i = 0; i < f->n_tips; i++) {
        const tarnp_forest_session *s = &f->sessions[f->tips[i].session];
        if (s->is_gone)
            continue;
        f->nodes[f->tips[i].node].is_tip = true;
        f->nodes[f->tips[i].node].is_pinned |= s->record.pinned;
    }
    for (size_t i = f->n_nodes; i-- > 0;) {
        tarnp_forest_node *n = &f->nodes[i];
        n->is_dead = !n->is_head && !n->is_tip && n->n_children == 0;
        if (n->is_dead || n->parent == TARNP_NO_INDEX)
            continue;
        tarnp_forest_node *p = &f->nodes[n->parent];
        p->n_children++;
        p->is_pinned = p->is_pinned || n->is_pinned;
        if (p->last_use_ms < n->last_use_ms)
            p->last_use_ms = n->last_use_ms;
    }
}

bool tarnp_forest_has_state(const tarnp_forest_node *node)
{
    return (node->flags & TARNP_NODE_HAS_STATE) && node->state.why == 0;
}

/* ---- applying ------------------------------------------------------------------------------- */

static tarn_status apply_verdicts(tarnp_write *w, tarnp_forest *f, tarnp_forest_node *n,
                                  tarn_error *err)
{
    unsigned parts =
        (n->state.why ? TARNP_PART_STATE : 0u) | (n->latents.why ? TARNP_PART_LATENTS : 0u);
    uint64_t freed;
    if (parts == 0)
        return TARN_OK;
    TARNI_TRY(tarnp_evict(w, n->id, parts, &freed, err));
    n->stored_bytes -= freed;
    tarnp_forest_session *owner = tarnp_forest_find_session(f, n->session_id);
    if (owner && owner->record.bytes_owned >= freed)
        owner->record.bytes_owned -= freed;
    return TARN_OK;
}

static void sum_chains(tarnp_forest *f)
{
    for (size_t i = 0; i < f->n_nodes; i++) {
        tarnp_forest_node *n = &f->nodes[i];
        const tarnp_forest_node *p = n->parent == TARNP_NO_INDEX ? NULL : &f->nodes[n->parent];
        n->chain_bytes = n->stored_bytes + (p ? p->chain_bytes : 0);
        n->shared_bytes = !p                               ? 0
                          : p->session_id == n->session_id ? p->shared_bytes
                                                           : p->chain_bytes;
    }
}

tarn_status tarnp_forest_apply(tarnp_write *w, tarnp_forest *f, tarn_error *err)
{
    const tarn_allocator *a = &f->store->allocator;
    for (size_t i = 0; i < f->n_nodes; i++)
        if (!f->nodes[i].is_dead)
            TARNI_TRY(apply_verdicts(w, f, &f->nodes[i], err));
    sum_chains(f);
    for (size_t i = 0; i < f->n_sessions; i++) {
        tarnp_forest_session *s = &f->sessions[i];
        if (s->is_gone) {
            TARNI_TRY(tarnp_session_drop(w, &s->record, err));
            continue;
        }
        const tarnp_forest_node *head = &f->nodes[s->head];
        uint64_t shared = head->session_id == s->record.id ? head->shared_bytes : head->chain_bytes;
        tarnp_session before;
        TARNI_TRY(tarnp_session_load(&w->txn, s->record.id, a, &before, err));
        bool same = before.bytes_owned == s->record.bytes_owned && before.bytes_shared == shared;
        tarnp_session_fini(&before);
        s->record.bytes_shared = shared;
        if (!same)
            TARNI_TRY(tarnp_session_record_put(&w->txn, &s->record, a, err));
    }
    return TARN_OK;
}
