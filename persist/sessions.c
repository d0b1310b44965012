/* sessions.c - names for heads. Every change is one write transaction. */
#include "sessions.h"

#include "entries.h"
#include "folder.h"
#include "lease.h"
#include "names.h"
#include "refs.h"

#include <stdio.h>
#include <string.h>

static const uint8_t no_token[TARNP_TOKEN_BYTES];

/* A copy of the record as the caller may keep it. */
static tarn_status reload(tarnp_write *w, uint64_t id, tarnp_session *out, tarn_error *err)
{
    return tarnp_session_load(&w->txn, id, &w->store->allocator, out, err);
}

static tarn_status finish(tarnp_write *w, tarn_status status, tarnp_session *out,
                          uint64_t *bytes_written, tarn_error *err)
{
    if (status == TARN_OK)
        status = tarnp_write_commit(w, bytes_written, err);
    else
        tarnp_write_abort(w, status);
    if (status != TARN_OK && out)
        tarnp_session_fini(out);
    return status;
}

/* ---- making --------------------------------------------------------------------------------- */

static tarn_status put_root(tarnp_write *w, const tarnp_session *s, const char *numerics,
                            tarnp_manifest *m, tarn_error *err)
{
    *m = (tarnp_manifest){.id = s->head,
                          .flags = TARNP_NODE_BIT_EXACT, /* the empty state is what it is */
                          .session_id = s->id,
                          .created_ms = s->created_ms,
                          .first_chunk = w->counters.next_chunk};
    memcpy(m->fp, s->fp, sizeof m->fp);
    TARNI_TRY(tarnp_numerics_set(m, numerics, err));
    TARNI_TRY(tarnp_node_put(w, m, NULL, NULL, NULL, err));
    return tarnp_ref_put(&w->txn, m->id, (tarnp_ref){.refs = 1}, err);
}

tarn_status tarnp_session_create(tarnp_store *store, const char *name,
                                 const uint8_t fp[TARNP_FP_BYTES], const char *numerics,
                                 const tarnp_tag *tags, size_t n_tags, tarnp_session *out,
                                 tarn_error *err)
{
    *out = (tarnp_session){0};
    TARNI_TRY(tarnp_name_check(name, err));
    TARNI_TRY(tarnp_tags_check(tags, n_tags, err));
    tarnp_write w;
    tarnp_manifest root;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    uint64_t now = tarnp_now_ms();
    tarnp_session s = {.id = w.counters.next_session++,
                       .head = w.counters.next_node++,
                       .created_ms = now,
                       .updated_ms = now,
                       .n_tags = n_tags,
                       .tags = (tarnp_tag *)(uintptr_t)tags};
    snprintf(s.name, sizeof s.name, "%s", name);
    memcpy(s.fp, fp, sizeof s.fp);
    w.counters.sessions++;
    tarn_status status = tarnp_name_take(&w, name, s.id, err);
    if (status == TARN_OK)
        status = put_root(&w, &s, numerics, &root, err);
    if (status == TARN_OK) {
        s.bytes_owned = root.n_bytes;
        status = tarnp_session_record_put(&w.txn, &s, &store->allocator, err);
    }
    if (status == TARN_OK)
        status = reload(&w, s.id, out, err);
    return finish(&w, status, out, NULL, err);
}

tarn_status tarnp_session_fork(tarnp_store *store, uint64_t node, const char *new_name,
                               tarnp_session *out, uint64_t *bytes_written, tarn_error *err)
{
    *out = (tarnp_session){0};
    if (bytes_written)
        *bytes_written = 0;
    TARNI_TRY(tarnp_name_check(new_name, err));
    tarnp_write w;
    tarnp_manifest m;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_node_get(&w.txn, node, &m, NULL, err);
    if (status != TARN_OK)
        return tarnp_write_abort(&w, status);
    uint64_t now = tarnp_now_ms();
    tarnp_session s = {.id = w.counters.next_session++,
                       .head = node,
                       .position = m.position,
                       .turns = m.turns,
                       .created_ms = now,
                       .updated_ms = now};
    snprintf(s.name, sizeof s.name, "%s", new_name);
    memcpy(s.fp, m.fp, sizeof s.fp);
    w.counters.sessions++;
    status = tarnp_name_take(&w, new_name, s.id, err);
    if (status == TARN_OK)
        status = tarnp_shared_bytes(&w.txn, s.id, node, &s.bytes_shared, err);
    if (status == TARN_OK)
        status = tarnp_refs_arrive(&w, s.id, node, err);
    if (status == TARN_OK)
        status = tarnp_session_record_put(&w.txn, &s, &store->allocator, err);
    if (status == TARN_OK)
        status = reload(&w, s.id, out, err);
    return finish(&w, status, out, bytes_written, err);
}

/* ---- finding -------------------------------------------------------------------------------- */

tarn_status tarnp_session_find(tarnp_store *store, const char *name, tarnp_session *out,
                               tarn_error *err)
{
    tarnp_txn txn;
    *out = (tarnp_session){0};
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = tarnp_session_load_named(store, &txn, name, out, err);
    tarnp_txn_abort(&txn);
    return status;
}

tarn_status tarnp_session_find_id(tarnp_store *store, uint64_t session_id, tarnp_session *out,
                                  tarn_error *err)
{
    tarnp_txn txn;
    *out = (tarnp_session){0};
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = tarnp_session_load(&txn, session_id, &store->allocator, out, err);
    tarnp_txn_abort(&txn);
    if (status == TARN_OK && out->id == 0)
        return tarni_fail(err, TARN_E_NOT_FOUND, "there is no session %llu",
                          (unsigned long long)session_id);
    return status;
}

/* The name table is in order of the names, which is the order promised. */
static tarn_status list_by_name(tarnp_store *store, tarnp_txn *txn, tarnp_session **sessions,
                                size_t *n, tarn_error *err)
{
    tarnp_cursor cursor;
    tarnp_span key, value;
    size_t capacity = 0;
    TARNI_TRY(tarnp_cursor_open(txn, TARNP_TABLE_NAME, &cursor, err));
    tarn_status status = tarnp_cursor_seek(&cursor, NULL, 0, &key, &value, err);
    while (status == TARN_OK && key.data) {
        char name[TARNP_NAME_BYTES_MAX + 1] = {0};
        memcpy(name, key.data, key.n_bytes < sizeof name ? key.n_bytes : sizeof name - 1);
        status = tarni_grow(&store->allocator, sessions, &capacity, *n + 1, sizeof **sessions, err);
        if (status == TARN_OK)
            status = tarnp_session_load_named(store, txn, name, &(*sessions)[*n], err);
        if (status == TARN_OK) {
            (*n)++;
            status = tarnp_cursor_next(&cursor, &key, &value, err);
        }
    }
    tarnp_cursor_close(&cursor);
    return status;
}

tarn_status tarnp_session_list(tarnp_store *store, tarnp_session **out, size_t *n, tarn_error *err)
{
    tarnp_txn txn;
    tarnp_session *sessions = NULL;
    *out = NULL;
    *n = 0;
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = list_by_name(store, &txn, &sessions, n, err);
    tarnp_txn_abort(&txn);
    if (status == TARN_OK && *n > 0) {
        *out = sessions;
        return TARN_OK;
    }
    for (size_t i = 0; i < *n; i++)
        tarnp_session_fini(&sessions[i]);
    tarni_free(&store->allocator, sessions);
    *n = 0;
    return status;
}

void tarnp_sessions_free(tarnp_session *sessions, size_t n)
{
    if (!sessions || n == 0)
        return;
    const tarn_allocator *allocator = sessions[0].allocator;
    for (size_t i = 0; i < n; i++)
        tarnp_session_fini(&sessions[i]);
    tarni_free(allocator, sessions);
}

/* ---- changing ------------------------------------------------------------------------------- */

static tarn_status move_head(tarnp_write *w, tarnp_session *s, uint64_t node, tarn_error *err)
{
    tarnp_manifest m;
    TARNI_TRY(tarnp_node_get(&w->txn, node, &m, NULL, err));
    if (memcmp(m.fp, s->fp, sizeof s->fp) != 0)
        return tarni_fail(err, TARN_E_MISMATCH, "node %llu was made with another model",
                          (unsigned long long)node);
    TARNI_TRY(tarnp_refs_arrive(w, s->id, node, err));
    TARNI_TRY(tarnp_refs_leave(w, s->id, s->head, err));
    s->head = node;
    s->position = m.position;
    s->turns = m.turns;
    TARNI_TRY(tarnp_shared_bytes(&w->txn, s->id, node, &s->bytes_shared, err));
    s->updated_ms = tarnp_now_ms();
    return tarnp_session_record_put(&w->txn, s, &w->store->allocator, err);
}

tarn_status tarnp_session_move(tarnp_store *store, uint64_t session_id, uint64_t expected_head,
                               uint64_t node, uint64_t *bytes_written, tarn_error *err)
{
    return tarnp_session_move_leased(store, session_id, no_token, expected_head, node,
                                     bytes_written, err);
}

tarn_status tarnp_session_move_leased(tarnp_store *store, uint64_t session_id,
                                      const uint8_t token[TARNP_TOKEN_BYTES],
                                      uint64_t expected_head, uint64_t node,
                                      uint64_t *bytes_written, tarn_error *err)
{
    tarnp_write w;
    tarnp_session s;
    if (bytes_written)
        *bytes_written = 0;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_session_load(&w.txn, session_id, &store->allocator, &s, err);
    if (status == TARN_OK && s.id == 0)
        status = tarni_fail(err, TARN_E_NOT_FOUND, "there is no session %llu",
                            (unsigned long long)session_id);
    if (status == TARN_OK)
        status = tarnp_lease_admit(&w, &s, token, err);
    if (status == TARN_OK && s.head != expected_head)
        status =
            tarni_fail(err, TARN_E_CONFLICT, "session %s: the head is node %llu, expected %llu",
                       s.name, (unsigned long long)s.head, (unsigned long long)expected_head);
    bool stays = status == TARN_OK && s.head == node;
    if (status == TARN_OK && !stays)
        status = move_head(&w, &s, node, err);
    tarnp_session_fini(&s);
    if (stays)
        return tarnp_write_abort(&w, TARN_OK);
    return finish(&w, status, NULL, bytes_written, err);
}

tarn_status tarnp_session_rename(tarnp_store *store, const char *name, const char *new_name,
                                 tarn_error *err)
{
    tarnp_write w;
    tarnp_session s;
    TARNI_TRY(tarnp_name_check(new_name, err));
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_session_load_named(store, &w.txn, name, &s, err);
    if (status != TARN_OK)
        return tarnp_write_abort(&w, status);
    if (strcmp(name, new_name) == 0) {
        tarnp_session_fini(&s);
        return tarnp_write_abort(&w, TARN_OK);
    }
    status = tarnp_lease_admit(&w, &s, no_token, err);
    if (status == TARN_OK)
        status = tarnp_name_take(&w, new_name, s.id, err);
    if (status == TARN_OK)
        status = tarnp_delete(&w.txn, TARNP_TABLE_NAME, name, strlen(name), NULL, err);
    if (status == TARN_OK) {
        snprintf(s.name, sizeof s.name, "%s", new_name);
        status = tarnp_session_record_put(&w.txn, &s, &store->allocator, err);
    }
    tarnp_session_fini(&s);
    return finish(&w, status, NULL, NULL, err);
}

tarn_status tarnp_session_drop(tarnp_write *w, const tarnp_session *s, tarn_error *err)
{
    w->counters.sessions--;
    TARNI_TRY(tarnp_lease_drop(w, s->id, err));
    TARNI_TRY(tarnp_delete(&w->txn, TARNP_TABLE_NAME, s->name, strlen(s->name), NULL, err));
    TARNI_TRY(tarnp_delete_id(&w->txn, TARNP_TABLE_SESSION, s->id, NULL, err));
    return tarnp_refs_release(w, s->id, s->head, err);
}

static tarn_status remove_record(tarnp_store *store, const char *name, tarn_error *err)
{
    tarnp_write w;
    tarnp_session s;
    TARNI_TRY(tarnp_write_begin(store, &w, err));
    tarn_status status = tarnp_session_load_named(store, &w.txn, name, &s, err);
    if (status != TARN_OK)
        return tarnp_write_abort(&w, status);
    status = tarnp_lease_admit(&w, &s, no_token, err);
    if (status == TARN_OK)
        status = tarnp_session_drop(&w, &s, err);
    tarnp_session_fini(&s);
    return finish(&w, status, NULL, NULL, err);
}

tarn_status tarnp_session_remove(tarnp_store *store, const char *name, tarn_error *err)
{
    tarn_status status = remove_record(store, name, err);
    if (status == TARN_E_NO_SPACE) {
        /* Removing needs new pages before it frees any. */
        tarnp_room_lend(store);
        status = remove_record(store, name, err);
        if (status == TARN_OK)
            tarnp_refs_drain(store);
        tarnp_room_return(store);
        return status;
    }
    if (status == TARN_OK)
        tarnp_refs_drain(store);
    return status;
}
