/* commit.c - one node from a draft to disk.
 *
 *     draft -> begin -> compare the head -> quota -> put -> commit
 *
 * tarnp_commit_node makes the draft and puts it in one go; the writer of queue.c puts, later and
 * several in one transaction, what was made by the one who submitted it. */
#include "commit.h"

#include "entries.h"
#include "lease.h"
#include "prefix.h"
#include "quota.h"
#include "refs.h"

#include <string.h>

/* Another process may take the room that was made. */
#define ROOM_TRIES 3

/* ---- inside the transaction ----------------------------------------------------------------- */

static tarn_status put_chunks(tarnp_write *w, tarnp_draft *d, tarn_error *err)
{
    for (uint32_t i = 0; i < d->n_chunks; i++) {
        tarnp_parcel *p = &d->parcels[i];
        p->head.id = p->ref.id = w->counters.next_chunk++;
        tarnp_chunk_head_put(&p->head, p->at);
        tarnp_sum128(p->at, TARNP_CHUNK_HEAD_BYTES, p->ref.sum);
        TARNI_TRY(tarnp_append_id(&w->txn, TARNP_TABLE_CHUNK, p->ref.id, p->at, p->ref.stored_bytes,
                                  err));
        d->refs[i] = p->ref;
        d->chunk_bytes += p->ref.stored_bytes;
    }
    w->counters.chunks += d->n_chunks;
    w->counters.bytes_stored += d->chunk_bytes;
    return TARN_OK;
}

static uint64_t encoded_bytes(const tarnp_draft *d)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < d->n_chunks; i++)
        sum += d->parcels[i].ref.stored_bytes;
    return sum;
}

static uint32_t new_turns(const tarnp_commit *c)
{
    uint32_t n = 0;
    for (size_t i = 0; i < c->n_segments; i++)
        n += c->segments[i].role == TARN_ROLE_ASSISTANT &&
             (c->segments[i].flags & TARNP_SEGMENT_CONTINUES) == 0;
    return n;
}

static tarn_status check_place(tarnp_write *w, const tarnp_commit *c, const tarnp_session *s,
                               tarnp_manifest *parent, tarn_error *err)
{
    if (s->id == 0)
        return tarni_fail(err, TARN_E_NOT_FOUND, "there is no session %llu",
                          (unsigned long long)c->session_id);
    if (c->expected_head != TARNP_NODE_NONE)
        TARNI_TRY(tarnp_lease_admit(w, s, c->lease, err));
    if (c->expected_head != TARNP_NODE_NONE && s->head != c->expected_head)
        return tarni_fail(err, TARN_E_CONFLICT, "session %s: the head is node %llu, expected %llu",
                          s->name, (unsigned long long)s->head,
                          (unsigned long long)c->expected_head);
    TARNI_TRY(tarnp_node_get(&w->txn, c->parent, parent, NULL, err));
    if (memcmp(parent->fp, c->fp, sizeof c->fp) != 0)
        return tarni_fail(err, TARN_E_MISMATCH, "node %llu was made with another model",
                          (unsigned long long)c->parent);
    return TARN_OK;
}

/* Head, tips and reference counts after the node is put. */
static tarn_status link_node(tarnp_write *w, const tarnp_commit *c, const tarnp_manifest *parent,
                             const tarnp_manifest *m, tarnp_session *s, tarn_error *err)
{
    TARNI_TRY(tarnp_refs_adopt(w, s->id, parent, err));
    s->bytes_owned += m->chunk_bytes + m->n_bytes;
    if (!c->move_head)
        return tarnp_refs_detach(w, s->id, m->id, err);
    TARNI_TRY(tarnp_ref_put(&w->txn, m->id, (tarnp_ref){.refs = 1}, err));
    if (s->head == c->parent) {
        tarnp_ref ref;
        TARNI_TRY(tarnp_ref_get(&w->txn, s->head, &ref, err));
        ref.refs--; /* the head's; the child's came with adopt */
        TARNI_TRY(tarnp_ref_put(&w->txn, s->head, ref, err));
        /* bytes_shared stays: nothing of another session has come between. */
    } else {
        TARNI_TRY(tarnp_refs_leave(w, s->id, s->head, err));
        TARNI_TRY(tarnp_shared_bytes(&w->txn, s->id, m->id, &s->bytes_shared, err));
    }
    s->head = m->id;
    s->position = m->position;
    s->turns = m->turns;
    s->updated_ms = m->created_ms;
    return TARN_OK;
}

static tarn_status put_node(tarnp_write *w, tarnp_draft *d, tarnp_session *s, tarnp_committed *out,
                            tarn_error *err)
{
    const tarnp_commit *c = &d->commit;
    tarnp_manifest parent, m = {0};
    TARNI_TRY(check_place(w, c, s, &parent, err));
    m.n_segments = (uint32_t)c->n_segments;
    m.n_sections = d->n_sections;
    m.n_chunks = d->n_chunks;
    TARNI_TRY(tarnp_manifest_measure(&m, c->segments, err));
    d->needed_bytes = encoded_bytes(d) + m.n_bytes;
    TARNI_TRY(tarnp_quota_check(w, s, d->needed_bytes, err));
    m.first_chunk = w->counters.next_chunk;
    TARNI_TRY(put_chunks(w, d, err));
    m.id = w->counters.next_node++;
    m.parent = c->parent;
    m.session_id = c->session_id;
    m.n_tokens = c->n_tokens;
    m.flags = d->is_lossy ? c->flags & (uint8_t)~TARNP_NODE_BIT_EXACT : c->flags;
    m.created_ms = tarnp_now_ms();
    m.chunk_bytes = d->chunk_bytes;
    memcpy(m.key, c->key, sizeof m.key);
    memcpy(m.fp, c->fp, sizeof m.fp);
    TARNI_TRY(tarnp_numerics_set(&m, c->numerics, err));
    if (__builtin_add_overflow(parent.position, c->n_tokens, &m.position) ||
        __builtin_add_overflow(parent.turns, new_turns(c), &m.turns))
        return tarni_fail(err, TARN_E_LIMIT, "node %llu: %u more tokens are too many",
                          (unsigned long long)c->parent, c->n_tokens);
    if (c->prefix && c->n_prefix != m.position)
        return tarni_fail(err, TARN_E_INVALID, "a prefix of %zu tokens for a node at %llu",
                          c->n_prefix, (unsigned long long)m.position);
    memcpy(m.prefix, d->prefix, sizeof m.prefix);
    TARNI_TRY(tarnp_node_put(w, &m, c->segments, d->sections, d->refs, err));
    TARNI_TRY(tarnp_id_put(&w->txn, TARNP_TABLE_KEY, c->key, sizeof c->key, m.id, err));
    TARNI_TRY(tarnp_prefix_put(w, &m, err));
    TARNI_TRY(link_node(w, c, &parent, &m, s, err));
    TARNI_TRY(tarnp_session_record_put(&w->txn, s, &w->store->allocator, err));
    out->node = m.id;
    out->lossy = d->is_lossy;
    return TARN_OK;
}

/* ---- the calls ------------------------------------------------------------------------------ */

tarn_status tarnp_commit_find(tarnp_store *store, const uint8_t key[TARNP_KEY_BYTES],
                              uint64_t *node, tarn_error *err)
{
    tarnp_txn txn;
    *node = TARNP_NODE_NONE;
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = tarnp_id_get(&txn, TARNP_TABLE_KEY, key, TARNP_KEY_BYTES, node, err);
    tarnp_txn_abort(&txn);
    if (status == TARN_OK && *node == TARNP_NODE_NONE)
        return tarni_fail(err, TARN_E_NOT_FOUND, "no node was committed with this key");
    return status;
}

tarn_status tarnp_draft_put(tarnp_write *w, tarnp_draft *d, tarnp_committed *out, tarn_error *err)
{
    const tarnp_commit *c = &d->commit;
    tarnp_session session = {0};
    *out = (tarnp_committed){0};
    d->chunk_bytes = 0; /* of an attempt that was aborted */
    TARNI_TRY(tarnp_id_get(&w->txn, TARNP_TABLE_KEY, c->key, sizeof c->key, &out->node, err));
    if (out->node != TARNP_NODE_NONE) {
        out->existed = true;
        return TARN_OK;
    }
    tarn_status status =
        tarnp_session_load(&w->txn, c->session_id, &w->store->allocator, &session, err);
    if (status == TARN_OK)
        status = put_node(w, d, &session, out, err);
    tarnp_session_fini(&session);
    return status;
}

static tarn_status write_once(tarnp_store *store, tarnp_draft *d, tarnp_committed *out,
                              tarn_error *err)
{
    tarnp_write w;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_draft_put(&w, d, out, err);
    if (status != TARN_OK || out->existed)
        return tarnp_write_abort(&w, status);
    return tarnp_write_commit(&w, &out->bytes_written, err);
}

tarn_status tarnp_draft_write(tarnp_store *store, tarnp_draft *d, tarnp_committed *out,
                              tarn_error *err)
{
    tarn_status status = write_once(store, d, out, err);
    for (int i = 0; i < ROOM_TRIES && status == TARN_E_QUOTA; i++) {
        status = tarnp_quota_make_room(store, &d->commit, d->needed_bytes, err);
        if (status == TARN_OK)
            status = write_once(store, d, out, err);
    }
    if (status != TARN_OK)
        *out = (tarnp_committed){0};
    return status;
}

tarn_status tarnp_commit_node(tarnp_store *store, const tarnp_commit *commit, tarnp_committed *out,
                              tarn_error *err)
{
    tarnp_draft *d;
    *out = (tarnp_committed){0};
    TARNI_TRY(tarnp_commit_check(commit, err));
    /* A retry is answered before anything is encoded; the put asks again under the lock. */
    tarn_status status = tarnp_commit_find(store, commit->key, &out->node, err);
    if (status != TARN_E_NOT_FOUND) {
        out->existed = status == TARN_OK;
        return status;
    }
    TARNI_TRY(tarnp_draft_make(store, commit, false, &d, err));
    status = tarnp_draft_write(store, d, out, err);
    tarnp_draft_free(store, d);
    return status;
}
