/* commit.c - one node from the caller's memory to disk.
 *
 *     check -> encode and hash (no lock) -> begin -> compare the head -> put -> commit
 *
 * All encoded chunks of a commit are in memory at once, each in its own part of one slab: LMDB
 * keeps the dirty pages of a transaction in memory anyway, and encoding under the write lock would
 * make every other process wait for the entropy coder.
 *
 * A draft is what is between the two halves: tarnp_commit_node does them in one go, the writer of
 * queue.c does the second one later. */
#include "commit.h"

#include "lease.h"
#include "quota.h"
#include "refs.h"

#include <string.h>

#define TOKENS_PER_CHUNK 32768
/* Another process may take the room that was made. */
#define ROOM_TRIES      3
#define SLAB_KEPT_BYTES ((size_t)64 << 20)

/* One chunk on its way. */
typedef struct parcel {
    const tarnp_piece *pieces;
    size_t n_pieces;
    tarnp_piece own_piece;    /* of a chunk of tokens */
    const tarnp_lossy *lossy; /* NULL: without loss */
    tarnp_chunk_ref ref;
    tarnp_chunk_head head;
    float max_error;
    uint8_t *at; /* in the slab: head and payload */
} parcel;

struct tarnp_draft {
    tarnp_commit commit;     /* of its pointers only numerics and segments are used after making */
    tarnp_section *sections; /* tokens first, then the caller's; of them only what they are */
    uint32_t n_sections, n_chunks;
    parcel *parcels;
    tarnp_chunk_ref *refs; /* the manifest's table */
    uint64_t chunk_bytes;
    uint64_t needed_bytes; /* of chunks and manifest, known before they are put */
    tarnp_state_codec state_codec;
    tarnp_lossy *lossy; /* one a section */
    bool is_lossy;      /* a section is */
    uint8_t *slab;
    size_t slab_bytes;
    void *owned; /* segments, call ids, numerics; NULL: the caller's */
};

/* ---- what the caller gave ------------------------------------------------------------------- */

static tarn_status check_segments(const tarnp_commit *c, tarn_error *err)
{
    uint64_t n_tokens = 0;
    for (size_t i = 0; i < c->n_segments; i++) {
        const tarnp_segment *s = &c->segments[i];
        if (s->role < TARN_ROLE_SYSTEM || s->role > TARN_ROLE_TOKENS ||
            (s->flags & ~(TARNP_SEGMENT_CONTINUES | TARNP_SEGMENT_CLOSED)) != 0)
            return tarni_fail(err, TARN_E_INVALID, "segment %zu: role %d with flags %u", i,
                              (int)s->role, s->flags);
        n_tokens += s->n_tokens;
    }
    if (n_tokens != c->n_tokens)
        return tarni_fail(err, TARN_E_INVALID, "segments of %llu tokens for a node of %u",
                          (unsigned long long)n_tokens, c->n_tokens);
    return TARN_OK;
}

static tarn_status check_section(const tarnp_section *s, size_t section_idx, tarn_error *err)
{
    size_t elem_bytes = tarnp_elem_bytes(s->elem);
    if (s->kind <= TARNP_SECTION_TOKENS || s->kind > TARNP_SECTION_SAMPLER || elem_bytes == 0)
        return tarni_fail(err, TARN_E_INVALID, "section %zu: kind %d of elements %d", section_idx,
                          (int)s->kind, (int)s->elem);
    if (s->row_elems > 0 && s->unit_elems % s->row_elems != 0)
        return tarni_fail(err, TARN_E_INVALID, "section %zu: a unit of %u elements in rows of %u",
                          section_idx, s->unit_elems, s->row_elems);
    for (size_t i = 0; i < s->n_chunks; i++) {
        const tarnp_chunk *c = &s->chunks[i];
        uint64_t n_bytes = 0;
        for (size_t k = 0; k < c->n_pieces; k++) {
            if (c->pieces[k].n_bytes % elem_bytes != 0 ||
                c->pieces[k].n_bytes > TARNP_CHUNK_BYTES_MAX)
                return tarni_fail(err, TARN_E_INVALID,
                                  "section %zu, chunk %zu: a piece of %zu bytes", section_idx, i,
                                  c->pieces[k].n_bytes);
            n_bytes += c->pieces[k].n_bytes;
        }
        if (n_bytes != c->raw_bytes || n_bytes > TARNP_CHUNK_BYTES_MAX)
            return tarni_fail(err, TARN_E_INVALID,
                              "section %zu, chunk %zu: pieces of %llu bytes, raw_bytes is %u",
                              section_idx, i, (unsigned long long)n_bytes, c->raw_bytes);
    }
    return TARN_OK;
}

static tarn_status check_commit(const tarnp_commit *c, tarn_error *err)
{
    static const uint8_t no_key[TARNP_KEY_BYTES] = {0};
    if (memcmp(c->key, no_key, sizeof no_key) == 0)
        return tarni_fail(err, TARN_E_INVALID, "the commit key is all zero");
    if ((c->flags & ~(TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT)) != 0)
        return tarni_fail(err, TARN_E_INVALID, "unknown node flags %u", c->flags);
    if (c->n_segments > UINT32_MAX || c->n_sections >= UINT16_MAX)
        return tarni_fail(err, TARN_E_LIMIT, "%zu segments and %zu sections", c->n_segments,
                          c->n_sections);
    TARNI_TRY(tarnp_state_codec_check("state_codec", c->state_codec, err));
    if (c->move_head && c->expected_head == TARNP_NODE_NONE)
        return tarni_fail(err, TARN_E_INVALID, "a commit that moves the head expects none");
    TARNI_TRY(check_segments(c, err));
    for (size_t i = 0; i < c->n_sections; i++)
        TARNI_TRY(check_section(&c->sections[i], i, err));
    return TARN_OK;
}

/* ---- encoding ------------------------------------------------------------------------------- */

static void add_parcel(tarnp_draft *d, const tarnp_section *s, const tarnp_chunk *c,
                       const tarnp_piece *pieces, size_t n_pieces)
{
    parcel *p = &d->parcels[d->n_chunks++];
    p->pieces = pieces;
    p->n_pieces = n_pieces;
    p->ref = (tarnp_chunk_ref){.kind = s->kind,
                               .elem = s->elem,
                               .first = c->first,
                               .count = c->count,
                               .raw_bytes = c->raw_bytes};
}

static void add_tokens(tarnp_draft *d, tarnp_section *section)
{
    const tarnp_commit *c = &d->commit;
    *section = (tarnp_section){
        .kind = TARNP_SECTION_TOKENS, .elem = TARNP_ELEM_U32, .codec = TARNP_STATE_LOSSLESS};
    for (uint32_t at = 0; at < c->n_tokens; at += TOKENS_PER_CHUNK) {
        uint32_t n = c->n_tokens - at < TOKENS_PER_CHUNK ? c->n_tokens - at : TOKENS_PER_CHUNK;
        tarnp_chunk chunk = {.first = at, .count = n, .raw_bytes = n * 4};
        parcel *p = &d->parcels[d->n_chunks];
        p->own_piece = (tarnp_piece){(void *)(uintptr_t)(c->tokens + at), (size_t)n * 4};
        add_parcel(d, section, &chunk, &p->own_piece, 1);
        section->n_chunks++;
    }
}

/* How the chunks of a section are to be kept; NULL: without loss. */
static const tarnp_lossy *choose_lossy(tarnp_draft *d, const tarnp_section *s)
{
    if (d->state_codec == TARNP_STATE_LOSSLESS || s->kind != TARNP_SECTION_STATE ||
        s->elem != TARNP_ELEM_F32 || s->row_elems == 0 || s->unit_elems == 0)
        return NULL;
    tarnp_lossy *lossy = &d->lossy[d->n_sections - 1];
    *lossy = (tarnp_lossy){d->state_codec, s->row_elems, s->unit_elems};
    return lossy;
}

static tarn_status list_parcels(tarnp_draft *d, const tarn_allocator *allocator, tarn_error *err)
{
    const tarnp_commit *c = &d->commit;
    size_t n = c->n_tokens / TOKENS_PER_CHUNK + (c->n_tokens % TOKENS_PER_CHUNK != 0);
    for (size_t i = 0; i < c->n_sections; i++)
        if (!tarni_add_size(n, c->sections[i].n_chunks, &n) || n > UINT32_MAX)
            return tarni_fail(err, TARN_E_LIMIT, "more than %u chunks", UINT32_MAX);
    TARNI_TRY(tarni_alloc(allocator, n, sizeof *d->parcels, &d->parcels, err));
    TARNI_TRY(tarni_alloc(allocator, n, sizeof *d->refs, &d->refs, err));
    TARNI_TRY(tarni_alloc(allocator, c->n_sections + 1, sizeof *d->sections, &d->sections, err));
    TARNI_TRY(tarni_alloc(allocator, c->n_sections + 1, sizeof *d->lossy, &d->lossy, err));
    if (c->n_tokens > 0)
        add_tokens(d, &d->sections[d->n_sections++]);
    for (size_t i = 0; i < c->n_sections; i++) {
        const tarnp_section *s = &c->sections[i];
        tarnp_section *own = &d->sections[d->n_sections++];
        *own = *s;
        own->codec = TARNP_STATE_LOSSLESS;
        own->max_error = 0;
        const tarnp_lossy *lossy = choose_lossy(d, s);
        for (size_t k = 0; k < s->n_chunks; k++) {
            d->parcels[d->n_chunks].lossy = lossy;
            add_parcel(d, s, &s->chunks[k], s->chunks[k].pieces, s->chunks[k].n_pieces);
        }
    }
    return TARN_OK;
}

/* Room for a chunk that does not shrink, on a cache line of its own. */
static size_t parcel_room(const parcel *p)
{
    return TARNP_CHUNK_HEAD_BYTES +
           (((size_t)p->ref.raw_bytes + TARNI_ALIGNMENT - 1) & ~(size_t)(TARNI_ALIGNMENT - 1));
}

/* The kept slab if it is large enough, else a new one. A draft that is going to wait takes none
 * that is much too large for it. */
static tarn_status take_slab(tarnp_store *store, tarnp_draft *d, bool will_wait, tarn_error *err)
{
    size_t n_bytes = 0;
    for (uint32_t i = 0; i < d->n_chunks; i++)
        if (!tarni_add_size(n_bytes, parcel_room(&d->parcels[i]), &n_bytes))
            return tarni_fail_memory(err, SIZE_MAX);
    pthread_mutex_lock(&store->slab_mutex);
    if (!will_wait || store->slab_bytes / 2 <= n_bytes) {
        d->slab = store->slab;
        d->slab_bytes = store->slab_bytes;
        store->slab = NULL;
        store->slab_bytes = 0;
    }
    pthread_mutex_unlock(&store->slab_mutex);
    if (n_bytes > d->slab_bytes) {
        tarni_free_aligned(&store->allocator, d->slab);
        d->slab = NULL;
        d->slab_bytes = 0;
        TARNI_TRY(tarni_alloc_aligned(&store->allocator, n_bytes, 1, &d->slab, err));
        d->slab_bytes = n_bytes;
    }
    uint8_t *at = d->slab;
    for (uint32_t i = 0; i < d->n_chunks; i++) {
        d->parcels[i].at = at;
        at += parcel_room(&d->parcels[i]);
    }
    return TARN_OK;
}

/* Keeps the larger of two slabs, unless it is so large that keeping it would be waste. */
static void give_slab(tarnp_store *store, tarnp_draft *d)
{
    pthread_mutex_lock(&store->slab_mutex);
    if (d->slab_bytes <= SLAB_KEPT_BYTES && d->slab_bytes > store->slab_bytes) {
        uint8_t *slab = store->slab;
        store->slab = d->slab;
        store->slab_bytes = d->slab_bytes;
        d->slab = slab;
    }
    pthread_mutex_unlock(&store->slab_mutex);
    tarni_free_aligned(&store->allocator, d->slab);
    d->slab = NULL;
    d->slab_bytes = 0;
}

static tarn_status encode_parcel(void *arg, tarnp_codec *codec, size_t i, tarn_error *err)
{
    parcel *p = &((tarnp_draft *)arg)->parcels[i];
    uint8_t *payload = p->at + TARNP_CHUNK_HEAD_BYTES;
    tarnp_encoded made;
    TARNI_TRY(tarnp_encode(codec, p->ref.elem, p->lossy, p->pieces, p->n_pieces, p->ref.raw_bytes,
                           payload, &made, err));
    p->max_error = made.max_error;
    p->ref.stored_bytes = TARNP_CHUNK_HEAD_BYTES + made.n_bytes;
    p->head = (tarnp_chunk_head){.codec = (uint32_t)made.id,
                                 .elem = p->ref.elem,
                                 .kind = p->ref.kind,
                                 .first = p->ref.first,
                                 .count = p->ref.count,
                                 .raw_bytes = p->ref.raw_bytes,
                                 .payload_bytes = made.n_bytes};
    tarnp_sum128(payload, made.n_bytes, p->head.payload_sum);
    return TARN_OK;
}

/* What the codecs lost, chunk by chunk, into the sections. */
static void sum_up_loss(tarnp_draft *d)
{
    const parcel *p = d->parcels;
    for (uint32_t i = 0; i < d->n_sections; i++) {
        tarnp_section *s = &d->sections[i];
        for (size_t k = 0; k < s->n_chunks; k++, p++) {
            if (!p->lossy || p->head.codec != (uint32_t)p->lossy->codec)
                continue;
            s->codec = p->lossy->codec;
            s->max_error = p->max_error > s->max_error ? p->max_error : s->max_error;
            d->is_lossy = true;
        }
    }
}

/* Copies a text to *room and moves it on. */
static char *move_text(char **room, const char *text)
{
    char *copy = *room;
    size_t n = strlen(text) + 1;
    memcpy(copy, text, n);
    *room += n;
    return copy;
}

/* Copies what the second half looks at into one block: segments, their lists of call ids, texts. */
static tarn_status own_commit(tarnp_draft *d, const tarn_allocator *allocator, tarn_error *err)
{
    tarnp_commit *c = &d->commit;
    size_t n_ids = 0, n_text = c->numerics ? strlen(c->numerics) + 1 : 0, n_bytes, n_lists;
    for (size_t i = 0; i < c->n_segments; i++) {
        n_ids += c->segments[i].n_call_ids;
        for (size_t k = 0; k < c->segments[i].n_call_ids; k++)
            n_text += strlen(c->segments[i].call_ids[k]) + 1;
    }
    if (!tarni_mul_size(c->n_segments, sizeof *c->segments, &n_bytes) ||
        !tarni_mul_size(n_ids, sizeof(char *), &n_lists) ||
        !tarni_add_size(n_bytes, n_lists, &n_bytes) || !tarni_add_size(n_bytes, n_text, &n_bytes))
        return tarni_fail_memory(err, SIZE_MAX);
    TARNI_TRY(tarni_alloc(allocator, n_bytes, 1, &d->owned, err));
    tarnp_segment *segments = d->owned;
    char **ids = (char **)(segments + c->n_segments), *text = (char *)(ids + n_ids);
    for (size_t i = 0; i < c->n_segments; i++) {
        segments[i] = c->segments[i];
        segments[i].call_ids = ids;
        for (size_t k = 0; k < segments[i].n_call_ids; k++)
            *ids++ = move_text(&text, c->segments[i].call_ids[k]);
    }
    c->segments = segments;
    if (c->numerics)
        c->numerics = move_text(&text, c->numerics);
    return TARN_OK;
}

/* The commit's own choice, or the store's policy. */
static tarn_status choose_codec(tarnp_store *store, tarnp_draft *d, tarn_error *err)
{
    tarnp_policy policy;
    d->state_codec = d->commit.state_codec;
    if (d->state_codec != TARNP_STATE_POLICY)
        return TARN_OK;
    TARNI_TRY(tarnp_policy_get(store, &policy, err));
    d->state_codec = policy.state_codec;
    return TARN_OK;
}

tarn_status tarnp_draft_make(tarnp_store *store, const tarnp_commit *commit, bool own,
                             tarnp_draft **out, tarn_error *err)
{
    tarnp_draft *d;
    *out = NULL;
    TARNI_TRY(check_commit(commit, err));
    TARNI_TRY(tarni_alloc(&store->allocator, 1, sizeof *d, &d, err));
    d->commit = *commit;
    tarn_status status = choose_codec(store, d, err);
    if (status == TARN_OK)
        status = list_parcels(d, &store->allocator, err);
    if (status == TARN_OK)
        status = take_slab(store, d, own, err);
    if (status == TARN_OK)
        status = tarnp_each(store, d->n_chunks, encode_parcel, d, err);
    if (status == TARN_OK)
        sum_up_loss(d);
    if (status == TARN_OK && own)
        status = own_commit(d, &store->allocator, err);
    if (status != TARN_OK) {
        tarnp_draft_free(store, d);
        return status;
    }
    *out = d;
    return TARN_OK;
}

void tarnp_draft_free(tarnp_store *store, tarnp_draft *d)
{
    if (!d)
        return;
    give_slab(store, d);
    tarni_free(&store->allocator, d->parcels);
    tarni_free(&store->allocator, d->refs);
    tarni_free(&store->allocator, d->sections);
    tarni_free(&store->allocator, d->lossy);
    tarni_free(&store->allocator, d->owned);
    tarni_free(&store->allocator, d);
}

size_t tarnp_draft_bytes(const tarnp_draft *d)
{
    return sizeof *d + d->slab_bytes + d->n_chunks * (sizeof *d->parcels + sizeof *d->refs);
}

/* ---- inside the transaction ----------------------------------------------------------------- */

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

static tarn_status put_chunks(tarnp_write *w, tarnp_draft *d, tarn_error *err)
{
    for (uint32_t i = 0; i < d->n_chunks; i++) {
        parcel *p = &d->parcels[i];
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
    TARNI_TRY(tarnp_node_put(w, &m, c->segments, d->sections, d->refs, err));
    TARNI_TRY(tarnp_id_put(&w->txn, TARNP_TABLE_KEY, c->key, sizeof c->key, m.id, err));
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
    TARNI_TRY(check_commit(commit, err));
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
