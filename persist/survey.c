/* survey.c
 *
 * Everything is counted by going over the tables once each, in the order of their ids: parents come
 * before children, and nodes in the order of their chunks. */
#include "survey.h"

#include "lease.h"
#include "node.h"
#include "prefix.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

tarn_status tarnp_survey_bad(tarnp_survey *v, uint64_t node, uint64_t chunk, const char *format,
                             ...)
{
    tarnp_verified *out = v->out;
    size_t n = out->n_bad;
    if (n < TARNP_BAD_LISTED_MAX) {
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

tarn_status tarnp_survey_note(tarnp_survey *v, tarn_status status, uint64_t node, uint64_t chunk)
{
    if (status != TARN_E_CORRUPT && status != TARN_E_FORMAT && status != TARN_E_NOT_FOUND)
        return status;
    return tarnp_survey_bad(v, node, chunk, "%.95s", v->err->detail);
}

tarnp_seen *tarnp_survey_node(const tarnp_survey *v, uint64_t id)
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

size_t tarnp_survey_session(const tarnp_survey *v, uint64_t id)
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

tarn_status tarnp_survey_each(tarnp_survey *v, tarnp_table table,
                              tarn_status (*fn)(tarnp_survey *, tarnp_span key, tarnp_span value))
{
    tarnp_cursor cursor;
    tarnp_span key, value;
    TARNI_TRY(tarnp_cursor_open(&v->txn, table, &cursor, v->err));
    tarn_status status = tarnp_cursor_seek(&cursor, NULL, 0, &key, &value, v->err);
    for (;;) {
        if (status != TARN_OK) {
            bool goes_on = key.data != NULL; /* it stands on the damaged record */
            status = tarnp_survey_note(v, status, 0, 0);
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

static tarn_status see_evicted(tarnp_survey *v, tarnp_span value, const tarnp_manifest *m,
                               uint32_t *n)
{
    *n = 0;
    for (uint32_t i = 0; i < m->n_chunks; i++) {
        tarnp_chunk_ref ref;
        tarnp_manifest_chunk(value, m, i, &ref);
        if (!ref.evicted)
            continue;
        tarnp_chunk_run *last = v->n_evicted > 0 ? &v->evicted[v->n_evicted - 1] : NULL;
        *n += 1;
        if (last && last->first + last->n == ref.id) {
            last->n++;
            continue;
        }
        TARNI_TRY(tarni_grow(&v->store->allocator, &v->evicted, &v->evicted_capacity,
                             v->n_evicted + 1, sizeof *v->evicted, v->err));
        v->evicted[v->n_evicted++] = (tarnp_chunk_run){ref.id, 1};
    }
    return TARN_OK;
}

uint64_t tarnp_survey_evicted(const tarnp_survey *v, uint64_t begin, uint64_t end)
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

static tarn_status see_node(tarnp_survey *v, tarnp_span key, tarnp_span value)
{
    tarnp_seen s = {.id = tarni_load_u64_be(key.data)};
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
        s = (tarnp_seen){.id = s.id,
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
        TARNI_TRY(tarnp_survey_bad(v, s.id, 0, "the id is beyond the next one"));
    return tarnp_survey_note(v, status, s.id, 0);
}

/* Against the parent, which has been seen: its id is smaller. */
static tarn_status check_parent(tarnp_survey *v, tarnp_seen *s)
{
    if (s->parent == TARNP_NODE_NONE) {
        s->chain_bytes = s->stored_bytes;
        s->chain_readable = true;
        if (s->position != 0 || s->n_tokens != 0)
            return tarnp_survey_bad(v, s->id, 0, "a root with a position");
        return TARN_OK;
    }
    tarnp_seen *p = tarnp_survey_node(v, s->parent);
    if (!p)
        return tarnp_survey_bad(v, s->id, 0, "its parent, node %llu, is missing",
                                (unsigned long long)s->parent);
    p->refs_found++;
    if (!p->readable)
        return TARN_OK; /* listed by itself */
    bool own = p->session_id == s->session_id;
    p->own_found += own;
    if (s->position != p->position + s->n_tokens || s->turns < p->turns)
        return tarnp_survey_bad(v, s->id, 0, "position %llu does not follow from its parent's",
                                (unsigned long long)s->position);
    s->chain_bytes = p->chain_bytes + s->stored_bytes;
    s->shared_bytes = own ? p->shared_bytes : p->chain_bytes;
    s->chain_readable = p->chain_readable;
    if (memcmp(s->fp, p->fp, sizeof s->fp) != 0)
        return tarnp_survey_bad(v, s->id, 0, "its parent was made with another model");
    return TARN_OK;
}

static tarn_status see_ref(tarnp_survey *v, tarnp_span key, tarnp_span value)
{
    uint64_t id = tarni_load_u64_be(key.data);
    tarnp_ref ref;
    tarnp_seen *s = tarnp_survey_node(v, id);
    tarn_status status = tarnp_ref_decode(value, id, &ref, v->err);
    if (status != TARN_OK)
        return tarnp_survey_note(v, status, id, 0);
    if (!s)
        return tarnp_survey_bad(v, id, 0, "references without a node");
    s->refs = ref.refs;
    s->own_children = ref.own_children;
    return TARN_OK;
}

static tarn_status see_tip(tarnp_survey *v, tarnp_span key, tarnp_span value)
{
    (void)value;
    uint64_t session_id = tarni_load_u64_be(key.data), id = tarni_load_u64_be(key.data + 8);
    tarnp_seen *s = tarnp_survey_node(v, id);
    if (!s)
        return tarnp_survey_bad(v, id, 0, "a tip of session %llu, but no node",
                                (unsigned long long)session_id);
    s->refs_found++;
    if (tarnp_survey_session(v, session_id) == SIZE_MAX)
        return tarnp_survey_bad(v, id, 0, "a tip of session %llu, which is not there",
                                (unsigned long long)session_id);
    return TARN_OK;
}

static tarn_status see_drop(tarnp_survey *v, tarnp_span key, tarnp_span value)
{
    uint64_t id = tarni_load_u64_be(key.data);
    tarnp_drop drop;
    tarnp_seen *s = tarnp_survey_node(v, id);
    tarn_status status = tarnp_drop_decode(value, id, &drop, v->err);
    if (status != TARN_OK)
        return tarnp_survey_note(v, status, id, 0);
    if (!s)
        return tarnp_survey_bad(v, id, 0, "queued to be freed, but no node");
    s->refs_found += drop.drops;
    s->evicting = drop.evict_next > 0;
    s->evict_from = s->first_chunk + drop.evict_next - 1;
    if (drop.drops == 0 && s->refs == 0) { /* what is gone of it is gone by right */
        uint64_t behind = s->first_chunk + drop.chunks_done;
        s->n_chunks_found += drop.chunks_done - tarnp_survey_evicted(v, s->first_chunk, behind);
        s->evicting = true;
        s->evict_from = behind;
    }
    return TARN_OK;
}

static tarn_status see_key(tarnp_survey *v, tarnp_span key, tarnp_span value)
{
    (void)key;
    uint64_t id = value.n_bytes == 8 ? tarni_load_u64(value.data) : 0;
    if (!tarnp_survey_node(v, id))
        return tarnp_survey_bad(v, id, 0, "a commit key points to no node");
    return TARN_OK;
}

static tarn_status see_prefix(tarnp_survey *v, tarnp_span key, tarnp_span value)
{
    tarnp_span at = {0};
    tarnp_manifest m;
    uint64_t id = value.n_bytes == 8 ? tarni_load_u64(value.data) : 0;
    TARNI_TRY(tarnp_get_id(&v->txn, TARNP_TABLE_NODE, id, &at, v->err));
    if (!at.data)
        return tarnp_survey_bad(v, id, 0, "a prefix points to no node");
    if (tarnp_manifest_get(at, id, &m, v->err) != TARN_OK)
        return TARN_OK; /* named already */
    if (!tarnp_prefix_matches(&m, key))
        return tarnp_survey_bad(v, id, 0, "a prefix points to a node of other tokens");
    return TARN_OK;
}

/* Nodes come in the order of their chunks; a damaged manifest takes its neighbour's place. */
static tarn_status check_ranges(tarnp_survey *v)
{
    uint64_t end = 0, before = 0;
    for (size_t i = 0; i < v->n_nodes; i++) {
        tarnp_seen *s = &v->nodes[i];
        if (!s->readable)
            s->first_chunk = end;
        else if (s->first_chunk < end)
            TARNI_TRY(tarnp_survey_bad(v, s->id, s->first_chunk, "a chunk of node %llu too",
                                       (unsigned long long)before));
        else
            end = s->first_chunk + s->n_chunks;
        before = s->id;
    }
    return TARN_OK;
}

/* ---- sessions ------------------------------------------------------------------------------- */

static tarn_status see_session(tarnp_survey *v, tarnp_span key, tarnp_span value)
{
    uint64_t id = tarni_load_u64_be(key.data), named;
    TARNI_TRY(tarni_grow(&v->store->allocator, &v->sessions, &v->sessions_capacity,
                         v->n_sessions + 1, sizeof *v->sessions, v->err));
    tarnp_session *s = &v->sessions[v->n_sessions];
    tarn_status status = tarnp_session_record_get(value, id, &v->store->allocator, s, v->err);
    if (status != TARN_OK)
        return tarnp_survey_note(v, status, 0, 0);
    v->n_sessions++;
    if (id >= v->counters.next_session)
        TARNI_TRY(tarnp_survey_bad(v, s->head, 0, "session %.40s: the id is beyond the next one",
                                   s->name));
    status = tarnp_id_get(&v->txn, TARNP_TABLE_NAME, s->name, strlen(s->name), &named, v->err);
    if (status == TARN_OK && named != id)
        return tarnp_survey_bad(v, s->head, 0, "session %.40s: its name points elsewhere", s->name);
    return tarnp_survey_note(v, status, s->head, 0);
}

static tarn_status see_name(tarnp_survey *v, tarnp_span key, tarnp_span value)
{
    uint64_t id = value.n_bytes == 8 ? tarni_load_u64(value.data) : 0;
    if (tarnp_survey_session(v, id) == SIZE_MAX)
        return tarnp_survey_bad(v, 0, 0, "the name %.*s points to no session",
                                (int)(key.n_bytes < 40 ? key.n_bytes : 40), (const char *)key.data);
    return TARN_OK;
}

static tarn_status check_head(tarnp_survey *v, const tarnp_session *s, uint64_t owned)
{
    tarnp_seen *head = tarnp_survey_node(v, s->head);
    if (!head)
        return tarnp_survey_bad(v, s->head, 0, "the head of session %.40s is missing", s->name);
    head->refs_found++;
    if (!head->readable)
        return TARN_OK;
    uint64_t shared = head->session_id == s->id ? head->shared_bytes : head->chain_bytes;
    if (s->position != head->position || s->turns != head->turns ||
        memcmp(s->fp, head->fp, sizeof s->fp) != 0)
        return tarnp_survey_bad(v, s->head, 0, "session %.40s does not agree with its head",
                                s->name);
    if (s->bytes_shared != shared && head->chain_readable)
        return tarnp_survey_bad(v, s->head, 0, "session %.40s shares %llu bytes, should be %llu",
                                s->name, (unsigned long long)shared,
                                (unsigned long long)s->bytes_shared);
    if (s->bytes_owned != owned && v->n_unreadable == 0)
        return tarnp_survey_bad(v, s->head, 0, "session %.40s owns %llu bytes, should be %llu",
                                s->name, (unsigned long long)owned,
                                (unsigned long long)s->bytes_owned);
    return TARN_OK;
}

static tarn_status check_sessions(tarnp_survey *v)
{
    TARNI_TRY(
        tarni_alloc(&v->store->allocator, v->n_sessions, sizeof *v->owned, &v->owned, v->err));
    for (size_t i = 0; i < v->n_nodes; i++) {
        size_t owner = tarnp_survey_session(v, v->nodes[i].session_id);
        if (owner != SIZE_MAX)
            v->owned[owner] += v->nodes[i].stored_bytes;
    }
    for (size_t i = 0; i < v->n_sessions; i++)
        TARNI_TRY(check_head(v, &v->sessions[i], v->owned[i]));
    return TARN_OK;
}

static tarn_status see_lease(tarnp_survey *v, tarnp_span key, tarnp_span value)
{
    tarnp_lease_record r;
    uint64_t id = tarni_load_u64_be(key.data);
    tarn_status status = tarnp_lease_decode(value, id, &r, v->err);
    if (status == TARN_OK && tarnp_survey_session(v, id) == SIZE_MAX)
        return tarnp_survey_bad(v, 0, 0, "a lease of session %llu, which is not there",
                                (unsigned long long)id);
    return tarnp_survey_note(v, status, 0, 0);
}

/* ---- the whole ------------------------------------------------------------------------------ */

tarn_status tarnp_survey_tables(tarnp_survey *v)
{
    TARNI_TRY(tarnp_survey_each(v, TARNP_TABLE_NODE, see_node));
    for (size_t i = 0; i < v->n_nodes; i++)
        if (v->nodes[i].readable)
            TARNI_TRY(check_parent(v, &v->nodes[i]));
    TARNI_TRY(check_ranges(v));
    TARNI_TRY(tarnp_survey_each(v, TARNP_TABLE_SESSION, see_session));
    TARNI_TRY(tarnp_survey_each(v, TARNP_TABLE_NAME, see_name));
    TARNI_TRY(check_sessions(v));
    TARNI_TRY(tarnp_survey_each(v, TARNP_TABLE_REF, see_ref));
    TARNI_TRY(tarnp_survey_each(v, TARNP_TABLE_TIP, see_tip));
    TARNI_TRY(tarnp_survey_each(v, TARNP_TABLE_GCQ, see_drop));
    TARNI_TRY(tarnp_survey_each(v, TARNP_TABLE_KEY, see_key));
    TARNI_TRY(tarnp_survey_each(v, TARNP_TABLE_PREFIX, see_prefix));
    return tarnp_survey_each(v, TARNP_TABLE_LEASE, see_lease);
}

void tarnp_survey_fini(tarnp_survey *v)
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
