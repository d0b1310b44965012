/* draft.c
 *
 *     check -> list the chunks -> take a slab -> encode and hash each into its part of it
 *
 * The slab of the last draft is kept by the store: mapping tens of megabytes anew costs
 * milliseconds. One that is going to wait in the queue copies what it still needs of the caller's.
 */
#include "draft.h"

#include "prefix.h"

#include <string.h>

#define TOKENS_PER_CHUNK 32768
#define SLAB_KEPT_BYTES  ((size_t)64 << 20)

static size_t tokens_chunks(const tarnp_commit *c)
{
    return c->n_tokens / TOKENS_PER_CHUNK + (c->n_tokens % TOKENS_PER_CHUNK != 0);
}

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

tarn_status tarnp_commit_check(const tarnp_commit *c, tarn_error *err)
{
    static const uint8_t no_key[TARNP_KEY_BYTES] = {0};
    if (memcmp(c->key, no_key, sizeof no_key) == 0)
        return tarni_fail(err, TARN_E_INVALID, "the commit key is all zero");
    if ((c->flags & ~(TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT)) != 0)
        return tarni_fail(err, TARN_E_INVALID, "unknown node flags %u", c->flags);
    if (c->n_segments > UINT32_MAX || c->n_sections >= UINT16_MAX)
        return tarni_fail(err, TARN_E_LIMIT, "%zu segments and %zu sections", c->n_segments,
                          c->n_sections);
    size_t n_chunks = tokens_chunks(c);
    for (size_t i = 0; i < c->n_sections; n_chunks += c->sections[i++].n_chunks)
        if (c->sections[i].n_chunks > UINT32_MAX - n_chunks)
            return tarni_fail(err, TARN_E_LIMIT, "more than %u chunks", UINT32_MAX);
    TARNI_TRY(tarnp_state_codec_check("state_codec", c->state_codec, err));
    if (c->move_head && c->expected_head == TARNP_NODE_NONE)
        return tarni_fail(err, TARN_E_INVALID, "a commit that moves the head expects none");
    if (c->prefix && (c->n_prefix < c->n_tokens ||
                      (c->n_tokens > 0 && memcmp(c->prefix + c->n_prefix - c->n_tokens, c->tokens,
                                                 c->n_tokens * sizeof *c->tokens) != 0)))
        return tarni_fail(err, TARN_E_INVALID,
                          "the prefix of %zu tokens does not end with the %u of the node",
                          c->n_prefix, c->n_tokens);
    TARNI_TRY(check_segments(c, err));
    for (size_t i = 0; i < c->n_sections; i++)
        TARNI_TRY(check_section(&c->sections[i], i, err));
    return TARN_OK;
}

/* ---- encoding ------------------------------------------------------------------------------- */

static void add_parcel(tarnp_draft *d, const tarnp_section *s, const tarnp_chunk *c,
                       const tarnp_piece *pieces, size_t n_pieces)
{
    tarnp_parcel *p = &d->parcels[d->n_chunks++];
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
        tarnp_parcel *p = &d->parcels[d->n_chunks];
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
    size_t n = tokens_chunks(c);
    for (size_t i = 0; i < c->n_sections; i++)
        n += c->sections[i].n_chunks;
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
static size_t parcel_room(const tarnp_parcel *p)
{
    return TARNP_CHUNK_HEAD_BYTES +
           (((size_t)p->ref.raw_bytes + TARNI_ALIGNMENT - 1) & ~(size_t)(TARNI_ALIGNMENT - 1));
}

/* The kept slab if it is large enough, else a new one. A draft that is going to wait takes none
 * that is much too large for it. */
static tarn_status take_slab(tarnp_store *store, tarnp_draft *d, bool will_wait, tarn_error *err)
{
    size_t n_bytes = 0; /* of fewer than 2^32 chunks of at most 512 KiB */
    for (uint32_t i = 0; i < d->n_chunks; i++)
        n_bytes += parcel_room(&d->parcels[i]);
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
    tarnp_parcel *p = &((tarnp_draft *)arg)->parcels[i];
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
    const tarnp_parcel *p = d->parcels;
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
    size_t n_ids = 0, n_text = c->numerics ? strlen(c->numerics) + 1 : 0;
    for (size_t i = 0; i < c->n_segments; i++) {
        n_ids += c->segments[i].n_call_ids;
        for (size_t k = 0; k < c->segments[i].n_call_ids; k++)
            n_text += strlen(c->segments[i].call_ids[k]) + 1;
    }
    /* It stands in memory already: these sums cannot overflow. */
    size_t n_bytes = c->n_segments * sizeof *c->segments + n_ids * sizeof(char *) + n_text;
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

static tarn_status sum_prefix(tarnp_store *store, tarnp_draft *d, tarn_error *err)
{
    const tarnp_commit *c = &d->commit;
    const uint8_t needed = TARNP_NODE_HAS_STATE | TARNP_NODE_BIT_EXACT;
    if (!c->prefix || c->n_prefix == 0 || d->is_lossy || (c->flags & needed) != needed)
        return TARN_OK;
    return tarnp_prefix_sum(store, c->fp, c->numerics, c->prefix, c->n_prefix, d->prefix, err);
}

tarn_status tarnp_draft_make(tarnp_store *store, const tarnp_commit *commit, bool own,
                             tarnp_draft **out, tarn_error *err)
{
    tarnp_draft *d;
    *out = NULL;
    TARNI_TRY(tarnp_commit_check(commit, err));
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
    if (status == TARN_OK)
        status = sum_prefix(store, d, err);
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
