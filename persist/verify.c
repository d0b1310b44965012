/* verify.c - proves what the tables promise of one another.
 *
 * Two parts. First, in one read transaction without a callback, everything but the chunks' bytes:
 * manifests, references, tips, heads, names, keys, the queue, the counters. Then the bytes, node by
 * node in short transactions, with the progress callback between them; a node that another process
 * removes meanwhile is passed over.
 *
 * Everything found is listed and nothing is repaired. Damage that keeps LMDB's pages from being
 * walked ends the search: the pages are checked before anything else. */
#include "commit.h"
#include "handle.h"
#include "lease.h"
#include "node.h"
#include "stage.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BAD_LISTED 1000

/* What is known of a node, and what has been counted for it. */
typedef struct seen {
    uint64_t id, parent, session_id, position;
    /* Of what is there: from the root through this node, and through the last node on its way that
     * another session wrote. */
    uint64_t chain_bytes, shared_bytes;
    uint64_t first_chunk, stored_bytes;
    uint32_t n_chunks, n_evicted, n_tokens, turns;
    bool readable;       /* else only id is set */
    bool chain_readable; /* and all before it */
    bool evicting;       /* evicted chunks may still be there, */
    uint64_t evict_from; /* from this one on */
    uint64_t refs, own_children;
    uint64_t refs_found, own_found;
    uint8_t fp[TARNP_FP_BYTES];
    uint64_t n_chunks_found;
} seen;

/* Evicted chunks of a node that follow one another. */
typedef struct chunk_run {
    uint64_t first, n;
} chunk_run;

typedef struct survey {
    tarnp_store *store;
    tarnp_txn txn;
    tarnp_verified *out;
    size_t bad_capacity;
    seen *nodes; /* by id */
    size_t n_nodes, nodes_capacity;
    chunk_run *evicted; /* by number */
    size_t n_evicted, evicted_capacity;
    uint64_t n_unreadable;   /* nodes: what they refer to cannot be counted */
    tarnp_session *sessions; /* by id */
    size_t n_sessions, sessions_capacity;
    tarnp_staged *staged; /* by first chunk: of no node yet */
    size_t n_staged;
    uint64_t *owned; /* by session: stored bytes of its nodes */
    tarnp_counters counters;
    uint64_t n_chunks, n_node_records, bytes_stored;
    tarn_error *err;
} survey;

/* ---- the list of what is bad ---------------------------------------------------------------- */

static tarn_status bad(survey *v, uint64_t node, uint64_t chunk, const char *format, ...)
    TARN_PRINTF(4, 5);

static tarn_status bad(survey *v, uint64_t node, uint64_t chunk, const char *format, ...)
{
    tarnp_verified *out = v->out;
    size_t n = out->n_bad;
    if (n < BAD_LISTED) {
        TARNI_TRY(tarni_grow(&v->store->allocator, &out->bad, &v->bad_capacity, n + 1,
                             sizeof *out->bad, v->err));
        out->bad[n] = (tarnp_bad){.node = node, .chunk = chunk};
        va_list args;
        va_start(args, format);
        vsnprintf(out->bad[n].reason, sizeof out->bad[n].reason, format, args);
        va_end(args);
    }
    out->n_bad++;
    return TARN_OK;
}

/* Damage met by a function that reports it as an error becomes an entry of the list. */
static tarn_status note(survey *v, tarn_status status, uint64_t node, uint64_t chunk)
{
    if (status != TARN_E_CORRUPT && status != TARN_E_FORMAT && status != TARN_E_NOT_FOUND)
        return status;
    return bad(v, node, chunk, "%.95s", v->err->detail);
}

static seen *find_node(const survey *v, uint64_t id)
{
    size_t low = 0, high = v->n_nodes;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (v->nodes[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < v->n_nodes && v->nodes[low].id == id ? &v->nodes[low] : NULL;
}

static size_t find_session(const survey *v, uint64_t id)
{
    size_t i = 0;
    for (size_t high = v->n_sessions; i < high;) {
        size_t middle = i + (high - i) / 2;
        if (v->sessions[middle].id < id)
            i = middle + 1;
        else
            high = middle;
    }
    return i < v->n_sessions && v->sessions[i].id == id ? i : SIZE_MAX;
}

/* Calls fn for every entry of a table. An entry that does not match its checksum is listed. */
static tarn_status for_each(survey *v, tarnp_table table,
                            tarn_status (*fn)(survey *, tarnp_span key, tarnp_span value))
{
    tarnp_cursor cursor;
    tarnp_span key, value;
    TARNI_TRY(tarnp_cursor_open(&v->txn, table, &cursor, v->err));
    tarn_status status = tarnp_cursor_seek(&cursor, NULL, 0, &key, &value, v->err);
    for (;;) {
        if (status != TARN_OK) {
            bool goes_on = key.data != NULL; /* it stands on the damaged record */
            status = note(v, status, 0, 0);
            if (status != TARN_OK || !goes_on)
                break;
        } else if (!key.data) {
            break;
        } else {
            status = fn(v, key, value);
            if (status != TARN_OK)
                break;
        }
        status = tarnp_cursor_next(&cursor, &key, &value, v->err);
    }
    tarnp_cursor_close(&cursor);
    return status;
}

/* ---- nodes ---------------------------------------------------------------------------------- */

static tarn_status see_evicted(survey *v, tarnp_span value, const tarnp_manifest *m, uint32_t *n)
{
    *n = 0;
    for (uint32_t i = 0; i < m->n_chunks; i++) {
        tarnp_chunk_ref ref;
        tarnp_manifest_chunk(value, m, i, &ref);
        if (!ref.evicted)
            continue;
        chunk_run *last = v->n_evicted > 0 ? &v->evicted[v->n_evicted - 1] : NULL;
        *n += 1;
        if (last && last->first + last->n == ref.id) {
            last->n++;
            continue;
        }
        TARNI_TRY(tarni_grow(&v->store->allocator, &v->evicted, &v->evicted_capacity,
                             v->n_evicted + 1, sizeof *v->evicted, v->err));
        v->evicted[v->n_evicted++] = (chunk_run){ref.id, 1};
    }
    return TARN_OK;
}

/* How many evicted chunks have numbers in [begin, end). */
static uint64_t evicted_between(const survey *v, uint64_t begin, uint64_t end)
{
    size_t low = 0, high = v->n_evicted;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (v->evicted[middle].first + v->evicted[middle].n <= begin)
            low = middle + 1;
        else
            high = middle;
    }
    uint64_t sum = 0;
    for (; low < v->n_evicted && v->evicted[low].first < end; low++) {
        uint64_t from = v->evicted[low].first, to = from + v->evicted[low].n;
        sum += (to < end ? to : end) - (from > begin ? from : begin);
    }
    return sum;
}

static tarn_status see_node(survey *v, tarnp_span key, tarnp_span value)
{
    seen s = {.id = tarni_load_u64_be(key.data)};
    tarnp_node node;
    v->n_node_records++;
    v->bytes_stored += value.n_bytes;
    TARNI_TRY(tarni_grow(&v->store->allocator, &v->nodes, &v->nodes_capacity, v->n_nodes + 1,
                         sizeof *v->nodes, v->err));
    tarn_status status = tarnp_manifest_node(value, s.id, &v->store->allocator, &node, v->err);
    if (status == TARN_OK) {
        tarnp_manifest m;
        tarnp_node_fini(&node);
        TARNI_TRY(tarnp_manifest_get(value, s.id, &m, v->err));
        TARNI_TRY(see_evicted(v, value, &m, &s.n_evicted));
        s = (seen){.id = s.id,
                   .parent = m.parent,
                   .session_id = m.session_id,
                   .position = m.position,
                   .first_chunk = m.first_chunk,
                   .stored_bytes = m.chunk_bytes + m.n_bytes,
                   .n_chunks = m.n_chunks,
                   .n_evicted = s.n_evicted,
                   .n_tokens = m.n_tokens,
                   .turns = m.turns,
                   .readable = true};
        memcpy(s.fp, m.fp, sizeof s.fp);
    }
    v->nodes[v->n_nodes++] = s;
    v->n_unreadable += !s.readable;
    if (s.id >= v->counters.next_node)
        TARNI_TRY(bad(v, s.id, 0, "the id is beyond the next one"));
    return note(v, status, s.id, 0);
}

/* Against the parent, which has been seen: its id is smaller. */
static tarn_status check_parent(survey *v, seen *s)
{
    if (s->parent == TARNP_NODE_NONE) {
        s->chain_bytes = s->stored_bytes;
        s->chain_readable = true;
        if (s->position != 0 || s->n_tokens != 0)
            return bad(v, s->id, 0, "a root with a position");
        return TARN_OK;
    }
    seen *p = find_node(v, s->parent);
    if (!p)
        return bad(v, s->id, 0, "its parent, node %llu, is missing", (unsigned long long)s->parent);
    p->refs_found++;
    if (!p->readable)
        return TARN_OK; /* listed by itself */
    bool own = p->session_id == s->session_id;
    p->own_found += own;
    if (s->position != p->position + s->n_tokens || s->turns < p->turns)
        return bad(v, s->id, 0, "position %llu does not follow from its parent's",
                   (unsigned long long)s->position);
    s->chain_bytes = p->chain_bytes + s->stored_bytes;
    s->shared_bytes = own ? p->shared_bytes : p->chain_bytes;
    s->chain_readable = p->chain_readable;
    if (memcmp(s->fp, p->fp, sizeof s->fp) != 0)
        return bad(v, s->id, 0, "its parent was made with another model");
    return TARN_OK;
}

static tarn_status see_ref(survey *v, tarnp_span key, tarnp_span value)
{
    uint64_t id = tarni_load_u64_be(key.data);
    tarnp_ref ref;
    seen *s = find_node(v, id);
    tarn_status status = tarnp_ref_decode(value, id, &ref, v->err);
    if (status != TARN_OK)
        return note(v, status, id, 0);
    if (!s)
        return bad(v, id, 0, "references without a node");
    s->refs = ref.refs;
    s->own_children = ref.own_children;
    return TARN_OK;
}

static tarn_status see_tip(survey *v, tarnp_span key, tarnp_span value)
{
    (void)value;
    uint64_t session_id = tarni_load_u64_be(key.data), id = tarni_load_u64_be(key.data + 8);
    seen *s = find_node(v, id);
    if (!s)
        return bad(v, id, 0, "a tip of session %llu, but no node", (unsigned long long)session_id);
    s->refs_found++;
    if (find_session(v, session_id) == SIZE_MAX)
        return bad(v, id, 0, "a tip of session %llu, which is not there",
                   (unsigned long long)session_id);
    return TARN_OK;
}

static tarn_status see_drop(survey *v, tarnp_span key, tarnp_span value)
{
    uint64_t id = tarni_load_u64_be(key.data);
    tarnp_drop drop;
    seen *s = find_node(v, id);
    tarn_status status = tarnp_drop_decode(value, id, &drop, v->err);
    if (status != TARN_OK)
        return note(v, status, id, 0);
    if (!s)
        return bad(v, id, 0, "queued to be freed, but no node");
    s->refs_found += drop.drops;
    s->evicting = drop.evict_next > 0;
    s->evict_from = s->first_chunk + drop.evict_next - 1;
    if (drop.drops == 0 && s->refs == 0) { /* what is gone of it is gone by right */
        uint64_t behind = s->first_chunk + drop.chunks_done;
        s->n_chunks_found += drop.chunks_done - evicted_between(v, s->first_chunk, behind);
        s->evicting = true;
        s->evict_from = behind;
    }
    return TARN_OK;
}

static tarn_status see_key(survey *v, tarnp_span key, tarnp_span value)
{
    (void)key;
    uint64_t id = value.n_bytes == 8 ? tarni_load_u64(value.data) : 0;
    if (!find_node(v, id))
        return bad(v, id, 0, "a commit key points to no node");
    return TARN_OK;
}

/* ---- sessions ------------------------------------------------------------------------------- */

static tarn_status see_session(survey *v, tarnp_span key, tarnp_span value)
{
    uint64_t id = tarni_load_u64_be(key.data), named;
    TARNI_TRY(tarni_grow(&v->store->allocator, &v->sessions, &v->sessions_capacity,
                         v->n_sessions + 1, sizeof *v->sessions, v->err));
    tarnp_session *s = &v->sessions[v->n_sessions];
    tarn_status status = tarnp_session_record_get(value, id, &v->store->allocator, s, v->err);
    if (status != TARN_OK)
        return note(v, status, 0, 0);
    v->n_sessions++;
    if (id >= v->counters.next_session)
        TARNI_TRY(bad(v, s->head, 0, "session %.40s: the id is beyond the next one", s->name));
    status = tarnp_id_get(&v->txn, TARNP_TABLE_NAME, s->name, strlen(s->name), &named, v->err);
    if (status == TARN_OK && named != id)
        return bad(v, s->head, 0, "session %.40s: its name points elsewhere", s->name);
    return note(v, status, s->head, 0);
}

static tarn_status see_name(survey *v, tarnp_span key, tarnp_span value)
{
    uint64_t id = value.n_bytes == 8 ? tarni_load_u64(value.data) : 0;
    if (find_session(v, id) == SIZE_MAX)
        return bad(v, 0, 0, "the name %.*s points to no session",
                   (int)(key.n_bytes < 40 ? key.n_bytes : 40), (const char *)key.data);
    return TARN_OK;
}

static tarn_status check_head(survey *v, const tarnp_session *s, uint64_t owned)
{
    seen *head = find_node(v, s->head);
    if (!head)
        return bad(v, s->head, 0, "the head of session %.40s is missing", s->name);
    head->refs_found++;
    if (!head->readable)
        return TARN_OK;
    uint64_t shared = head->session_id == s->id ? head->shared_bytes : head->chain_bytes;
    if (s->position != head->position || s->turns != head->turns ||
        memcmp(s->fp, head->fp, sizeof s->fp) != 0)
        return bad(v, s->head, 0, "session %.40s does not agree with its head", s->name);
    if (s->bytes_shared != shared && head->chain_readable)
        return bad(v, s->head, 0, "session %.40s shares %llu bytes, should be %llu", s->name,
                   (unsigned long long)shared, (unsigned long long)s->bytes_shared);
    if (s->bytes_owned != owned && v->n_unreadable == 0)
        return bad(v, s->head, 0, "session %.40s owns %llu bytes, should be %llu", s->name,
                   (unsigned long long)owned, (unsigned long long)s->bytes_owned);
    return TARN_OK;
}

static tarn_status check_sessions(survey *v)
{
    TARNI_TRY(
        tarni_alloc(&v->store->allocator, v->n_sessions, sizeof *v->owned, &v->owned, v->err));
    for (size_t i = 0; i < v->n_nodes; i++) {
        size_t owner = find_session(v, v->nodes[i].session_id);
        if (owner != SIZE_MAX)
            v->owned[owner] += v->nodes[i].stored_bytes;
    }
    for (size_t i = 0; i < v->n_sessions; i++)
        TARNI_TRY(check_head(v, &v->sessions[i], v->owned[i]));
    return TARN_OK;
}

/* ---- chunks by number ----------------------------------------------------------------------- */

/* The last node whose first chunk is not beyond `id`: nodes and chunks are numbered together. What
 * lies in the gap of an unreadable node is taken for its. */
static seen *owner_of_chunk(const survey *v, uint64_t id)
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
        seen *s = &v->nodes[low - 1];
        if (!s->readable)
            return s;
        if (s->n_chunks > 0)
            return id - s->first_chunk < s->n_chunks ? s : NULL;
    }
    return NULL;
}

static bool is_staged(const survey *v, uint64_t id)
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

static tarn_status see_chunk(survey *v, tarnp_span key, tarnp_span value)
{
    uint64_t id = tarni_load_u64_be(key.data);
    v->n_chunks++;
    v->bytes_stored += value.n_bytes;
    if (is_staged(v, id))
        return TARN_OK;
    seen *owner = owner_of_chunk(v, id);
    if (id >= v->counters.next_chunk)
        return bad(v, 0, id, "the id is beyond the next one");
    if (!owner)
        return bad(v, 0, id, "no node lists this chunk");
    if (evicted_between(v, id, id + 1) > 0) {
        if (!owner->evicting || id < owner->evict_from)
            return bad(v, owner->id, id, "it was evicted and is still there");
        return TARN_OK;
    }
    owner->n_chunks_found++;
    return TARN_OK;
}

/* Nodes come in the order of their chunks; a damaged manifest takes its neighbour's place. */
static tarn_status check_ranges(survey *v)
{
    uint64_t end = 0, before = 0;
    for (size_t i = 0; i < v->n_nodes; i++) {
        seen *s = &v->nodes[i];
        if (!s->readable)
            s->first_chunk = end;
        else if (s->first_chunk < end)
            TARNI_TRY(bad(v, s->id, s->first_chunk, "a chunk of node %llu too",
                          (unsigned long long)before));
        else
            end = s->first_chunk + s->n_chunks;
        before = s->id;
    }
    return TARN_OK;
}

static tarn_status check_counts(survey *v)
{
    for (size_t i = 0; i < v->n_nodes; i++) {
        const seen *s = &v->nodes[i];
        if (s->refs < s->refs_found || s->refs - s->refs_found > v->n_unreadable)
            TARNI_TRY(bad(v, s->id, 0, "%llu references counted, %llu found",
                          (unsigned long long)s->refs, (unsigned long long)s->refs_found));
        if (s->readable &&
            (s->own_children < s->own_found || s->own_children - s->own_found > v->n_unreadable))
            TARNI_TRY(bad(v, s->id, 0, "%llu own children counted, %llu found",
                          (unsigned long long)s->own_children, (unsigned long long)s->own_found));
        uint32_t n_chunks = s->n_chunks - s->n_evicted;
        if (s->readable && s->n_chunks_found != n_chunks)
            TARNI_TRY(bad(v, s->id, 0, "%llu of %u chunks found",
                          (unsigned long long)s->n_chunks_found, n_chunks));
    }
    const tarnp_counters *c = &v->counters;
    if (c->nodes != v->n_node_records || c->chunks != v->n_chunks || c->sessions != v->n_sessions)
        TARNI_TRY(bad(v, 0, 0, "the counters of nodes, chunks or sessions are off"));
    if (c->bytes_stored != v->bytes_stored)
        TARNI_TRY(bad(v, 0, 0, "%llu bytes stored by the counter, %llu found",
                      (unsigned long long)c->bytes_stored, (unsigned long long)v->bytes_stored));
    return TARN_OK;
}

static tarn_status see_lease(survey *v, tarnp_span key, tarnp_span value)
{
    tarnp_lease_record r;
    uint64_t id = tarni_load_u64_be(key.data);
    tarn_status status = tarnp_lease_decode(value, id, &r, v->err);
    if (status == TARN_OK && find_session(v, id) == SIZE_MAX)
        return bad(v, 0, 0, "a lease of session %llu, which is not there", (unsigned long long)id);
    return note(v, status, 0, 0);
}

static tarn_status survey_tables(survey *v)
{
    tarn_status status = tarnp_counters_get(&v->txn, &v->counters, v->err);
    if (status != TARN_OK)
        return note(v, status, 0, 0);
    tarnp_policy policy;
    TARNI_TRY(note(v, tarnp_policy_load(&v->txn, &policy, v->err), 0, 0));
    TARNI_TRY(for_each(v, TARNP_TABLE_NODE, see_node));
    for (size_t i = 0; i < v->n_nodes; i++)
        if (v->nodes[i].readable)
            TARNI_TRY(check_parent(v, &v->nodes[i]));
    TARNI_TRY(check_ranges(v));
    TARNI_TRY(for_each(v, TARNP_TABLE_SESSION, see_session));
    TARNI_TRY(for_each(v, TARNP_TABLE_NAME, see_name));
    TARNI_TRY(check_sessions(v));
    TARNI_TRY(for_each(v, TARNP_TABLE_REF, see_ref));
    TARNI_TRY(for_each(v, TARNP_TABLE_TIP, see_tip));
    TARNI_TRY(for_each(v, TARNP_TABLE_GCQ, see_drop));
    TARNI_TRY(for_each(v, TARNP_TABLE_KEY, see_key));
    TARNI_TRY(for_each(v, TARNP_TABLE_LEASE, see_lease));
    status = tarnp_stage_list(&v->txn, &v->store->allocator, &v->staged, &v->n_staged, v->err);
    TARNI_TRY(note(v, status, 0, 0));
    TARNI_TRY(for_each(v, TARNP_TABLE_CHUNK, see_chunk));
    return check_counts(v);
}

/* ---- chunks by content ---------------------------------------------------------------------- */

static tarn_status check_node_bytes(survey *v, uint64_t id)
{
    tarnp_txn txn;
    tarnp_span value;
    tarnp_manifest m;
    tarnp_ref ref;
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
        status = tarnp_get_id(&txn, TARNP_TABLE_CHUNK, want.id, &chunk, v->err);
        if (status == TARN_OK)
            status = tarnp_chunk_check(chunk, &want, &head, v->err);
        if (status == TARN_OK) {
            v->out->chunks++;
            v->out->bytes += chunk.n_bytes;
        }
        status = note(v, status, id, want.id);
    }
    tarnp_txn_abort(&txn);
    /* A bad manifest or reference record was listed by the first part. */
    return status == TARN_E_CORRUPT || status == TARN_E_FORMAT ? TARN_OK : status;
}

static void free_survey(survey *v)
{
    const tarn_allocator *a = &v->store->allocator;
    tarnp_txn_abort(&v->txn);
    for (size_t i = 0; i < v->n_sessions; i++)
        tarnp_session_fini(&v->sessions[i]);
    tarni_free(a, v->sessions);
    tarni_free(a, v->nodes);
    tarni_free(a, v->evicted);
    tarni_free(a, v->owned);
    tarni_free(a, v->staged);
}

tarn_status tarnp_store_verify(tarnp_store *store,
                               bool (*progress)(void *user, uint64_t done, uint64_t all),
                               void *user, tarnp_verified *out, tarn_error *err)
{
    *out = (tarnp_verified){0};
    survey v = {.store = store, .out = out, .err = err};
    TARNI_TRY(tarnp_store_enter(store, err));
    tarn_status status = tarnp_tables_check(store->tables, err);
    if (status == TARN_E_CORRUPT) {
        status = note(&v, status, 0, 0); /* nothing else can be read safely */
        goto fail;
    }
    if (status == TARN_OK)
        status = tarnp_read_begin(store, &v.txn, err);
    if (status == TARN_OK)
        status = survey_tables(&v);
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
    free_survey(&v);
    if (status != TARN_OK) {
        tarni_free(&store->allocator, out->bad);
        *out = (tarnp_verified){0};
    }
    return status;
}
