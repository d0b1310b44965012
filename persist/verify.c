/* verify.c - proves what the tables promise of one another.
 *
 * Two parts. First, in one read transaction without a callback, everything but the chunks' bytes:
 * manifests, references, tips, heads, names, keys, the queue, the counters. Then the bytes, node by
 * node in short transactions, with the progress callback between them; a node that another process
 * removes meanwhile is passed over.
 *
 * Everything found is listed and nothing is repaired. Damage that keeps LMDB's pages from being
 * walked ends the search: the pages are checked before anything else. */
#include "node.h"
#include "survey.h"

/* ---- chunks by number ----------------------------------------------------------------------- */

/* The last node whose first chunk is not beyond `id`: nodes and chunks are numbered together. What
 * lies in the gap of an unreadable node is taken for its. */
static tarnp_seen *owner_of_chunk(const tarnp_survey *v, uint64_t id)
{
    size_t low = 0, high = v->n_nodes;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (v->nodes[middle].first_chunk <= id)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low > 0; low--) {
        tarnp_seen *s = &v->nodes[low - 1];
        if (!s->readable)
            return s;
        if (s->n_chunks > 0)
            return id - s->first_chunk < s->n_chunks ? s : NULL;
    }
    return NULL;
}

static bool is_staged(const tarnp_survey *v, uint64_t id)
{
    size_t low = 0, high = v->n_staged;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (v->staged[middle].first <= id)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && id - v->staged[low - 1].first < v->staged[low - 1].n;
}

static tarn_status see_chunk(tarnp_survey *v, tarnp_span key, tarnp_span value)
{
    uint64_t id = tarni_load_u64_be(key.data);
    v->n_chunks++;
    v->bytes_stored += value.n_bytes;
    if (is_staged(v, id))
        return TARN_OK;
    tarnp_seen *owner = owner_of_chunk(v, id);
    if (id >= v->counters.next_chunk)
        return tarnp_survey_bad(v, 0, id, "the id is beyond the next one");
    if (!owner)
        return tarnp_survey_bad(v, 0, id, "no node lists this chunk");
    if (tarnp_survey_evicted(v, id, id + 1) > 0) {
        if (!owner->evicting || id < owner->evict_from)
            return tarnp_survey_bad(v, owner->id, id, "it was evicted and is still there");
        return TARN_OK;
    }
    owner->n_chunks_found++;
    return TARN_OK;
}

static tarn_status check_counts(tarnp_survey *v)
{
    for (size_t i = 0; i < v->n_nodes; i++) {
        const tarnp_seen *s = &v->nodes[i];
        if (s->refs < s->refs_found || s->refs - s->refs_found > v->n_unreadable)
            TARNI_TRY(tarnp_survey_bad(v, s->id, 0, "%llu references counted, %llu found",
                                       (unsigned long long)s->refs,
                                       (unsigned long long)s->refs_found));
        if (s->readable &&
            (s->own_children < s->own_found || s->own_children - s->own_found > v->n_unreadable))
            TARNI_TRY(tarnp_survey_bad(v, s->id, 0, "%llu own children counted, %llu found",
                                       (unsigned long long)s->own_children,
                                       (unsigned long long)s->own_found));
        uint32_t n_chunks = s->n_chunks - s->n_evicted;
        if (s->readable && s->n_chunks_found != n_chunks)
            TARNI_TRY(tarnp_survey_bad(v, s->id, 0, "%llu of %u chunks found",
                                       (unsigned long long)s->n_chunks_found, n_chunks));
    }
    const tarnp_counters *c = &v->counters;
    if (c->nodes != v->n_node_records || c->chunks != v->n_chunks || c->sessions != v->n_sessions)
        TARNI_TRY(tarnp_survey_bad(v, 0, 0, "the counters of nodes, chunks or sessions are off"));
    if (c->bytes_stored != v->bytes_stored)
        TARNI_TRY(tarnp_survey_bad(v, 0, 0, "%llu bytes stored by the counter, %llu found",
                                   (unsigned long long)c->bytes_stored,
                                   (unsigned long long)v->bytes_stored));
    return TARN_OK;
}

static tarn_status check_tables(tarnp_survey *v)
{
    tarn_status status = tarnp_counters_get(&v->txn, &v->counters, v->err);
    if (status != TARN_OK)
        return tarnp_survey_note(v, status, 0, 0);
    tarnp_policy policy;
    TARNI_TRY(tarnp_survey_note(v, tarnp_policy_load(&v->txn, &policy, v->err), 0, 0));
    TARNI_TRY(tarnp_survey_tables(v));
    status = tarnp_stage_list(&v->txn, &v->store->allocator, &v->staged, &v->n_staged, v->err);
    TARNI_TRY(tarnp_survey_note(v, status, 0, 0));
    TARNI_TRY(tarnp_survey_each(v, TARNP_TABLE_CHUNK, see_chunk));
    return check_counts(v);
}

/* ---- chunks by content ---------------------------------------------------------------------- */

/* One chunk after the other in the same memory. */
static tarn_status open_chunk(tarnp_survey *v, uint64_t id, tarnp_span *chunk, uint8_t **memory,
                              size_t *memory_bytes)
{
    const tarnp_tables *tables = v->store->tables;
    TARNI_TRY(tarni_grow(&v->store->allocator, memory, memory_bytes,
                         tarnp_opening_bytes(tables, *chunk), 1, v->err));
    return tarnp_open_stored(tables, TARNP_TABLE_CHUNK, id, *chunk, *memory, chunk, v->err);
}

static tarn_status check_node_bytes(tarnp_survey *v, uint64_t id)
{
    tarnp_txn txn;
    tarnp_span value;
    tarnp_manifest m;
    tarnp_ref ref;
    uint8_t *memory = NULL;
    size_t memory_bytes = 0;
    TARNI_TRY(tarnp_read_begin(v->store, &txn, v->err));
    tarn_status status = tarnp_get_id(&txn, TARNP_TABLE_NODE, id, &value, v->err);
    bool there = status == TARN_OK && value.data != NULL;
    if (there)
        status = tarnp_ref_get(&txn, id, &ref, v->err);
    there = there && status == TARN_OK && ref.refs > 0;
    if (there)
        status = tarnp_manifest_get(value, id, &m, v->err);
    if (status == TARN_OK && there) {
        v->out->nodes++;
        v->out->bytes += m.n_bytes;
    }
    for (uint32_t i = 0; status == TARN_OK && there && i < m.n_chunks; i++) {
        tarnp_chunk_ref want;
        tarnp_chunk_head head;
        tarnp_span chunk;
        tarnp_manifest_chunk(value, &m, i, &want);
        if (want.evicted)
            continue;
        status = tarnp_get_stored(&txn, TARNP_TABLE_CHUNK, want.id, &chunk, v->err);
        if (status == TARN_OK)
            status = open_chunk(v, want.id, &chunk, &memory, &memory_bytes);
        if (status == TARN_OK)
            status = tarnp_chunk_check(chunk, &want, &head, v->err);
        if (status == TARN_OK) {
            v->out->chunks++;
            v->out->bytes += chunk.n_bytes;
        }
        status = tarnp_survey_note(v, status, id, want.id);
    }
    tarnp_txn_abort(&txn);
    tarni_free(&v->store->allocator, memory);
    /* A bad manifest or reference record was listed by the first part. */
    return status == TARN_E_CORRUPT || status == TARN_E_FORMAT ? TARN_OK : status;
}

tarn_status tarnp_store_verify(tarnp_store *store,
                               bool (*progress)(void *user, uint64_t done, uint64_t all),
                               void *user, tarnp_verified *out, tarn_error *err)
{
    *out = (tarnp_verified){0};
    tarnp_survey v = {.store = store, .out = out, .err = err};
    TARNI_TRY(tarnp_store_enter(store, err));
    tarn_status status = tarnp_tables_check(store->tables, err);
    if (status == TARN_E_CORRUPT) {
        status = tarnp_survey_note(&v, status, 0, 0); /* nothing else can be read safely */
        goto fail;
    }
    if (status == TARN_OK)
        status = tarnp_read_begin(store, &v.txn, err);
    if (status == TARN_OK)
        status = check_tables(&v);
    tarnp_txn_abort(&v.txn);
    uint64_t done = 0;
    for (size_t i = 0; status == TARN_OK && i < v.n_nodes; i++) {
        if (v.nodes[i].readable)
            status = check_node_bytes(&v, v.nodes[i].id);
        done += v.nodes[i].stored_bytes;
        if (status == TARN_OK && progress && !progress(user, done, v.bytes_stored))
            status = tarni_fail(err, TARN_E_CANCELLED, "verify was cancelled at node %llu",
                                (unsigned long long)v.nodes[i].id);
    }
fail:
    tarnp_survey_fini(&v);
    if (status != TARN_OK) {
        tarni_free(&store->allocator, out->bad);
        *out = (tarnp_verified){0};
    }
    return status;
}
