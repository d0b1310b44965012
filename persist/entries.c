#include "entries.h"

#include "names.h"
#include "refs.h"

#include <string.h>

/* ---- nodes ---------------------------------------------------------------------------------- */

tarn_status tarnp_node_put(tarnp_write *w, tarnp_manifest *m, const tarnp_segment *segments,
                           const tarnp_section *sections, const tarnp_chunk_ref *chunks,
                           tarn_error *err)
{
    tarni_writer writer;
    tarni_writer_init(&writer, &w->store->allocator);
    tarn_status status = tarnp_manifest_put(&writer, m, segments, sections, chunks, err);
    if (status == TARN_OK)
        status =
            tarnp_append_id(&w->txn, TARNP_TABLE_NODE, m->id, writer.data, writer.n_bytes, err);
    tarni_writer_fini(&writer);
    w->counters.nodes++;
    w->counters.bytes_stored += m->n_bytes;
    return status;
}

tarn_status tarnp_numerics_set(tarnp_manifest *m, const char *numerics, tarn_error *err)
{
    size_t n = numerics ? strlen(numerics) : 0;
    if (n >= sizeof m->numerics)
        return tarni_fail(err, TARN_E_INVALID, "numerics has %zu bytes, the limit is %zu", n,
                          sizeof m->numerics - 1);
    memset(m->numerics, 0, sizeof m->numerics);
    if (n > 0)
        memcpy(m->numerics, numerics, n);
    return TARN_OK;
}

tarn_status tarnp_shared_bytes(tarnp_txn *txn, uint64_t session_id, uint64_t head, uint64_t *out,
                               tarn_error *err)
{
    bool shared = false;
    *out = 0;
    for (uint64_t node = head; node != TARNP_NODE_NONE;) {
        tarnp_manifest m;
        TARNI_TRY(tarnp_node_get(txn, node, &m, NULL, err));
        shared = shared || m.session_id != session_id;
        *out += shared ? m.chunk_bytes + m.n_bytes : 0;
        node = m.parent; /* smaller than node: this ends */
    }
    return TARN_OK;
}

/* ---- sessions ------------------------------------------------------------------------------- */

tarn_status tarnp_session_load(tarnp_txn *txn, uint64_t session_id, const tarn_allocator *allocator,
                               tarnp_session *out, tarn_error *err)
{
    tarnp_span value;
    *out = (tarnp_session){0};
    TARNI_TRY(tarnp_get_id(txn, TARNP_TABLE_SESSION, session_id, &value, err));
    if (!value.data)
        return TARN_OK;
    return tarnp_session_record_get(value, session_id, allocator, out, err);
}

static tarn_status find_name(tarnp_txn *txn, const char *name, uint64_t *id, tarn_error *err)
{
    return tarnp_id_get(txn, TARNP_TABLE_NAME, name, strlen(name), id, err);
}

static tarn_status no_session(tarn_error *err, const char *name)
{
    return tarni_fail(err, TARN_E_NOT_FOUND, "there is no session \"%s\"", name);
}

tarn_status tarnp_session_load_named(tarnp_store *store, tarnp_txn *txn, const char *name,
                                     tarnp_session *out, tarn_error *err)
{
    uint64_t id;
    *out = (tarnp_session){0};
    TARNI_TRY(tarnp_name_check(name, err));
    TARNI_TRY(find_name(txn, name, &id, err));
    if (id == 0)
        return no_session(err, name);
    TARNI_TRY(tarnp_session_load(txn, id, &store->allocator, out, err));
    if (strcmp(out->name, name) == 0)
        return TARN_OK;
    tarnp_session_fini(out);
    return tarni_fail(err, TARN_E_CORRUPT, "the name \"%s\" points to session %llu, which is %s",
                      name, (unsigned long long)id, out->id ? "another" : "not there");
}

tarn_status tarnp_name_take(tarnp_write *w, const char *name, uint64_t id, tarn_error *err)
{
    uint64_t holder;
    TARNI_TRY(find_name(&w->txn, name, &holder, err));
    if (holder != 0)
        return tarni_fail(err, TARN_E_EXISTS, "there is a session \"%s\" already", name);
    return tarnp_id_put(&w->txn, TARNP_TABLE_NAME, name, strlen(name), id, err);
}
