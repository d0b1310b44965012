/* refs.c
 *
 * Only nodes are counted; a chunk belongs to the node whose manifest lists it and dies with it.
 *
 * Invariant: every node a session wrote lives at least as long as the session. Proof: it is the
 * session's head, or one of its tips, or has a child of the session's own, of which the same holds;
 * ids grow from parent to child, so this ends. `own_children` counts such children and falls only
 * when one is freed, that is, after the session.
 *
 * The chunks of evicted sections go through the same queue: a manifest that says they are gone is
 * one small put, however many they are.
 *
 * Freeing walks from a node to its parent through the queue itself: the parent is queued when its
 * child is gone. So neither depth nor a crash in the middle needs anything but the queue, and a
 * node of many chunks is freed over several transactions (its references are zero by then, so it
 * can be neither found nor adopted). */
#include "refs.h"

#include "folder.h"
#include "log.h"
#include "prefix.h"

#include <string.h>

#define DRAIN_CHUNKS ((uint64_t)256)
#define DRAIN_BYTES  ((uint64_t)64 << 20)
#define DRAIN_NODES  1024

static void tip_key(uint8_t key[16], uint64_t session_id, uint64_t node)
{
    tarni_store_u64_be(key, session_id);
    tarni_store_u64_be(key + 8, node);
}

static tarn_status put_tip(tarnp_write *w, uint64_t session_id, uint64_t node, tarn_error *err)
{
    uint8_t key[16];
    tip_key(key, session_id, node);
    return tarnp_put(&w->txn, TARNP_TABLE_TIP, key, sizeof key, "", 0, err);
}

static tarn_status take_tip(tarnp_write *w, uint64_t session_id, uint64_t node, bool *was_tip,
                            tarn_error *err)
{
    uint8_t key[16];
    tip_key(key, session_id, node);
    return tarnp_delete(&w->txn, TARNP_TABLE_TIP, key, sizeof key, was_tip, err);
}

tarn_status tarnp_node_get(tarnp_txn *txn, uint64_t node, tarnp_manifest *out, tarnp_span *value,
                           tarn_error *err)
{
    tarnp_span at;
    tarnp_ref ref;
    TARNI_TRY(tarnp_get_id(txn, TARNP_TABLE_NODE, node, &at, err));
    if (!at.data)
        return tarni_fail(err, TARN_E_NOT_FOUND, "there is no node %llu", (unsigned long long)node);
    TARNI_TRY(tarnp_ref_get(txn, node, &ref, err));
    if (ref.refs == 0)
        return tarni_fail(err, TARN_E_NOT_FOUND, "node %llu is being freed",
                          (unsigned long long)node);
    if (value)
        *value = at;
    return tarnp_manifest_get(at, node, out, err);
}

tarn_status tarnp_refs_arrive(tarnp_write *w, uint64_t session_id, uint64_t node, tarn_error *err)
{
    bool was_tip;
    tarnp_ref ref;
    TARNI_TRY(take_tip(w, session_id, node, &was_tip, err));
    if (was_tip)
        return TARN_OK;
    TARNI_TRY(tarnp_ref_get(&w->txn, node, &ref, err));
    ref.refs++;
    return tarnp_ref_put(&w->txn, node, ref, err);
}

tarn_status tarnp_refs_leave(tarnp_write *w, uint64_t session_id, uint64_t node, tarn_error *err)
{
    tarnp_manifest m;
    tarnp_ref ref;
    TARNI_TRY(tarnp_node_get(&w->txn, node, &m, NULL, err));
    TARNI_TRY(tarnp_ref_get(&w->txn, node, &ref, err));
    if (m.session_id != session_id || ref.own_children == 0)
        return put_tip(w, session_id, node, err);
    ref.refs--;
    return tarnp_ref_put(&w->txn, node, ref, err);
}

tarn_status tarnp_refs_adopt(tarnp_write *w, uint64_t session_id, const tarnp_manifest *parent,
                             tarn_error *err)
{
    bool was_tip;
    tarnp_ref ref;
    TARNI_TRY(take_tip(w, session_id, parent->id, &was_tip, err));
    TARNI_TRY(tarnp_ref_get(&w->txn, parent->id, &ref, err));
    if (!was_tip)
        ref.refs++;
    if (parent->session_id == session_id)
        ref.own_children++;
    return tarnp_ref_put(&w->txn, parent->id, ref, err);
}

tarn_status tarnp_refs_detach(tarnp_write *w, uint64_t session_id, uint64_t node, tarn_error *err)
{
    TARNI_TRY(tarnp_ref_put(&w->txn, node, (tarnp_ref){.refs = 1}, err));
    return put_tip(w, session_id, node, err);
}

static tarn_status queued(tarnp_write *w, uint64_t node, tarnp_drop *out, tarn_error *err)
{
    tarnp_span value;
    *out = (tarnp_drop){0};
    TARNI_TRY(tarnp_get_id(&w->txn, TARNP_TABLE_GCQ, node, &value, err));
    return value.data ? tarnp_drop_decode(value, node, out, err) : TARN_OK;
}

static tarn_status queue_drop(tarnp_write *w, uint64_t node, tarn_error *err)
{
    tarnp_drop drop;
    TARNI_TRY(queued(w, node, &drop, err));
    drop.drops++;
    return tarnp_drop_put(&w->txn, node, drop, err);
}

tarn_status tarnp_refs_queue_evicted(tarnp_write *w, uint64_t node, tarn_error *err)
{
    tarnp_drop drop;
    TARNI_TRY(queued(w, node, &drop, err));
    drop.evict_next = 1;
    return tarnp_drop_put(&w->txn, node, drop, err);
}

tarn_status tarnp_refs_release(tarnp_write *w, uint64_t session_id, uint64_t head, tarn_error *err)
{
    uint8_t from[16];
    TARNI_TRY(queue_drop(w, head, err));
    for (;;) {
        tarnp_cursor cursor;
        tarnp_span key, value;
        tip_key(from, session_id, 0);
        TARNI_TRY(tarnp_cursor_open(&w->txn, TARNP_TABLE_TIP, &cursor, err));
        tarn_status status = tarnp_cursor_seek(&cursor, from, sizeof from, &key, &value, err);
        bool mine = status == TARN_OK && key.data && tarni_load_u64_be(key.data) == session_id;
        uint64_t node = mine ? tarni_load_u64_be(key.data + 8) : 0;
        tarnp_cursor_close(&cursor);
        if (status != TARN_OK || !mine)
            return status;
        bool was_tip;
        TARNI_TRY(take_tip(w, session_id, node, &was_tip, err));
        TARNI_TRY(queue_drop(w, node, err));
    }
}

/* ---- freeing -------------------------------------------------------------------------------- */

typedef struct budget {
    uint64_t chunks, bytes, nodes; /* left in this transaction */
} budget;

static bool used_up(const budget *b)
{
    return b->chunks == 0 || b->bytes == 0 || b->nodes == 0;
}

static tarn_status free_chunk(tarnp_write *w, uint64_t id, budget *b, tarn_error *err)
{
    tarnp_span value;
    bool was_there;
    TARNI_TRY(tarnp_get_stored(&w->txn, TARNP_TABLE_CHUNK, id, &value, err));
    size_t n_bytes = tarnp_stored_size(w->txn.tables, value);
    TARNI_TRY(tarnp_delete_id(&w->txn, TARNP_TABLE_CHUNK, id, &was_there, err));
    if (was_there) {
        w->counters.chunks--;
        w->counters.bytes_stored -= n_bytes;
    }
    b->chunks--;
    b->bytes -= n_bytes < b->bytes ? n_bytes : b->bytes;
    return TARN_OK;
}

/* Deletes chunks of a node from number `done` on until there are none or the budget is used up. */
static tarn_status free_chunks(tarnp_write *w, const tarnp_manifest *m, uint64_t *done, budget *b,
                               tarn_error *err)
{
    for (; *done < m->n_chunks && !used_up(b); (*done)++)
        TARNI_TRY(free_chunk(w, m->first_chunk + *done, b, err));
    return TARN_OK;
}

/* The same for the evicted chunks of a node that lives. The manifest is copied, because deleting
 * ends what the transaction has given out. */
static tarn_status free_evicted(tarnp_write *w, uint64_t node, uint64_t *done, bool *finished,
                                budget *b, tarn_error *err)
{
    tarnp_span value;
    tarnp_manifest m;
    uint8_t *copy;
    const tarn_allocator *a = &w->store->allocator;
    TARNI_TRY(tarnp_node_get(&w->txn, node, &m, &value, err));
    TARNI_TRY(tarni_alloc(a, value.n_bytes, 1, &copy, err));
    memcpy(copy, value.data, value.n_bytes);
    value.data = copy;
    tarn_status status = TARN_OK;
    for (; status == TARN_OK && *done < m.n_chunks && !used_up(b); (*done)++) {
        tarnp_chunk_ref ref;
        tarnp_manifest_chunk(value, &m, (uint32_t)*done, &ref);
        if (ref.evicted)
            status = free_chunk(w, ref.id, b, err);
    }
    *finished = *done >= m.n_chunks;
    b->nodes--;
    tarni_free(a, copy);
    return status;
}

/* Deletes the node itself and queues its hold on the parent. */
static tarn_status free_node(tarnp_write *w, const tarnp_manifest *m, tarn_error *err)
{
    TARNI_TRY(tarnp_delete_id(&w->txn, TARNP_TABLE_NODE, m->id, NULL, err));
    TARNI_TRY(tarnp_delete_id(&w->txn, TARNP_TABLE_REF, m->id, NULL, err));
    TARNI_TRY(tarnp_delete_id(&w->txn, TARNP_TABLE_GCQ, m->id, NULL, err));
    w->counters.nodes--;
    w->counters.bytes_stored -= m->n_bytes;
    if (m->parent == TARNP_NODE_NONE)
        return TARN_OK;
    tarnp_manifest parent;
    tarnp_ref ref;
    TARNI_TRY(tarnp_node_get(&w->txn, m->parent, &parent, NULL, err));
    if (parent.session_id == m->session_id) {
        TARNI_TRY(tarnp_ref_get(&w->txn, m->parent, &ref, err));
        if (ref.own_children > 0)
            ref.own_children--;
        TARNI_TRY(tarnp_ref_put(&w->txn, m->parent, ref, err));
    }
    return queue_drop(w, m->parent, err);
}

/* Works on one entry of the queue. */
static tarn_status drain_node(tarnp_write *w, uint64_t node, tarnp_drop drop, budget *b,
                              tarn_error *err)
{
    static const uint8_t no_key[TARNP_KEY_BYTES] = {0};
    tarnp_ref ref;
    TARNI_TRY(tarnp_ref_get(&w->txn, node, &ref, err));
    if (drop.drops > ref.refs)
        return tarni_fail(err, TARN_E_CORRUPT, "node %llu: %llu references to drop of %llu",
                          (unsigned long long)node, (unsigned long long)drop.drops,
                          (unsigned long long)ref.refs);
    ref.refs -= drop.drops;
    if (ref.refs > 0) {
        bool finished = true;
        uint64_t done = drop.evict_next - 1;
        TARNI_TRY(tarnp_ref_put(&w->txn, node, ref, err));
        if (drop.evict_next > 0)
            TARNI_TRY(free_evicted(w, node, &done, &finished, b, err));
        if (!finished)
            return tarnp_drop_put(&w->txn, node, (tarnp_drop){.evict_next = done + 1}, err);
        return tarnp_delete_id(&w->txn, TARNP_TABLE_GCQ, node, NULL, err);
    }
    tarnp_span value;
    tarnp_manifest m;
    TARNI_TRY(tarnp_get_id(&w->txn, TARNP_TABLE_NODE, node, &value, err));
    TARNI_TRY(tarnp_manifest_get(value, node, &m, err));
    TARNI_TRY(tarnp_ref_put(&w->txn, node, ref, err));
    /* The key goes first: a retried commit must not be told that a node half gone is there. */
    if (memcmp(m.key, no_key, sizeof no_key) != 0)
        TARNI_TRY(tarnp_delete(&w->txn, TARNP_TABLE_KEY, m.key, sizeof m.key, NULL, err));
    TARNI_TRY(tarnp_prefix_drop(w, &m, err));
    TARNI_TRY(free_chunks(w, &m, &drop.chunks_done, b, err));
    if (drop.chunks_done < m.n_chunks)
        return tarnp_drop_put(&w->txn, node, (tarnp_drop){.chunks_done = drop.chunks_done}, err);
    b->nodes--;
    return free_node(w, &m, err);
}

/* The first entry of the queue; *node is 0 where there is none. */
static tarn_status next_entry(tarnp_txn *txn, uint64_t *node, tarnp_drop *drop, tarn_error *err)
{
    tarnp_cursor cursor;
    tarnp_span key, value;
    *node = 0;
    TARNI_TRY(tarnp_cursor_open(txn, TARNP_TABLE_GCQ, &cursor, err));
    tarn_status status = tarnp_cursor_seek(&cursor, NULL, 0, &key, &value, err);
    if (status == TARN_OK && key.data) {
        uint64_t id = tarni_load_u64_be(key.data);
        status = tarnp_drop_decode(value, id, drop, err);
        *node = status == TARN_OK ? id : 0;
    }
    tarnp_cursor_close(&cursor);
    return status;
}

/* An entry that cannot be worked on would be met again for ever. Without it the node stays, and
 * verify names it. */
static tarn_status give_up(tarnp_store *store, uint64_t node, tarn_error *err)
{
    TARNI_LOG(&store->log, TARN_LOG_WARN, "not freed: %s", err->detail);
    tarnp_write w;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_delete_id(&w.txn, TARNP_TABLE_GCQ, node, NULL, err);
    return status == TARN_OK ? tarnp_write_commit(&w, NULL, err) : tarnp_write_abort(&w, status);
}

/* One transaction's worth of the queue, at most entries_max of it. *node is the entry worked on
 * last, 0 where the queue is empty; after an error nothing is done, and *n_good entries before it
 * could have been. */
static tarn_status drain_entries(tarnp_store *store, uint64_t entries_max, uint64_t *n_good,
                                 uint64_t *node, tarn_error *err)
{
    tarnp_write w;
    budget b = {DRAIN_CHUNKS, DRAIN_BYTES, DRAIN_NODES};
    *node = *n_good = 0;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    while (*n_good < entries_max && !used_up(&b)) {
        tarnp_drop drop;
        tarn_status status = next_entry(&w.txn, node, &drop, err);
        if (status == TARN_OK && *node == 0)
            break;
        if (status == TARN_OK)
            status = drain_node(&w, *node, drop, &b, err);
        if (status != TARN_OK)
            return tarnp_write_abort(&w, status);
        ++*n_good;
    }
    return tarnp_write_commit(&w, NULL, err);
}

/* An entry that fails takes those before it along, and it may be one of them that queued it: so
 * they are done once more without it, and it is met again as the first. */
static tarn_status drain_some(tarnp_store *store, bool *more, tarn_error *err)
{
    uint64_t node, n_good;
    tarn_status status = drain_entries(store, UINT64_MAX, &n_good, &node, err);
    bool damage = status == TARN_E_CORRUPT || status == TARN_E_NOT_FOUND || status == TARN_E_FORMAT;
    *more = status != TARN_OK || node != 0;
    if (!damage || node == 0)
        return status;
    return n_good > 0 ? drain_entries(store, n_good, &n_good, &node, err)
                      : give_up(store, node, err);
}

static tarn_status queue_is_empty(tarnp_store *store, bool *empty, tarn_error *err)
{
    tarnp_txn txn;
    uint64_t node;
    tarnp_drop drop;
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = next_entry(&txn, &node, &drop, err);
    tarnp_txn_abort(&txn);
    *empty = node == 0;
    return status;
}

void tarnp_refs_drain(tarnp_store *store)
{
    tarn_error err = {0};
    bool empty = true, lent = false, more = true, settled = false;
    tarn_status status = queue_is_empty(store, &empty, &err);
    if (store->read_only || (status == TARN_OK && empty))
        return;
    while (status == TARN_OK && !settled) {
        bool last = !more;
        status = last ? tarnp_write_settle(store, &err) : drain_some(store, &more, &err);
        settled = last && status == TARN_OK;
        if (status == TARN_E_NO_SPACE && !lent) {
            lent = true;
            tarnp_room_lend(store);
            status = TARN_OK;
        }
    }
    if (lent)
        tarnp_room_return(store);
    if (status != TARN_OK)
        TARNI_LOG(&store->log, TARN_LOG_WARN, "freeing stopped: %s", err.detail);
}
