/* read.c - nodes and chunks from disk to the caller's memory.
 *
 * Chunks are hashed and decoded straight from the map into the caller's pieces, inside a read
 * transaction: a copy in between would cost a third of a resume. A transaction covers at most
 * BATCH_BYTES, because one that stays open keeps a writer from reusing pages. */
#include "handle.h"
#include "node.h"
#include "refs.h"

#include <string.h>

#define BATCH_BYTES  ((uint64_t)64 << 20)
#define BATCH_CHUNKS ((size_t)1024)

/* ---- nodes ---------------------------------------------------------------------------------- */

tarn_status tarnp_node_read(tarnp_store *store, uint64_t node, tarnp_node *out, tarn_error *err)
{
    tarnp_txn txn;
    tarnp_manifest m;
    tarnp_span value;
    *out = (tarnp_node){0};
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = tarnp_node_get(&txn, node, &m, &value, err);
    if (status == TARN_OK)
        status = tarnp_manifest_node(value, node, &store->allocator, out, err);
    tarnp_txn_abort(&txn);
    return status;
}

/* Where a node must end that another one follows: the follower's tokens begin there, of the same
 * model. A root ends at 0 and follows nothing. */
typedef struct seam {
    uint64_t child, position;
    uint8_t fp[TARNP_FP_BYTES];
} seam;

static tarn_status check_seam(const tarnp_manifest *m, const seam *at, tarn_error *err)
{
    if (m->n_tokens > m->position || (m->parent == TARNP_NODE_NONE && m->position != 0))
        return tarni_fail(err, TARN_E_CORRUPT, "node %llu: %u tokens end at %llu%s",
                          (unsigned long long)m->id, m->n_tokens, (unsigned long long)m->position,
                          m->parent == TARNP_NODE_NONE ? ", and nothing is before it" : "");
    if (at->child != TARNP_NODE_NONE &&
        (m->position != at->position || memcmp(m->fp, at->fp, sizeof m->fp) != 0))
        return tarni_fail(err, TARN_E_CORRUPT, "node %llu does not go on from node %llu",
                          (unsigned long long)at->child, (unsigned long long)m->id);
    return TARN_OK;
}

tarn_status tarnp_node_chain(tarnp_store *store, uint64_t node, uint64_t **out, size_t *n,
                             tarn_error *err)
{
    tarnp_txn txn;
    uint64_t *ids = NULL;
    size_t n_ids = 0, capacity = 0;
    seam at = {0};
    *out = NULL;
    *n = 0;
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = TARN_OK;
    do {
        tarnp_manifest m;
        status = tarnp_node_get(&txn, node, &m, NULL, err);
        if (status == TARN_OK)
            status = check_seam(&m, &at, err);
        if (status == TARN_OK)
            status = tarni_grow(&store->allocator, &ids, &capacity, n_ids + 1, sizeof *ids, err);
        if (status == TARN_OK) {
            ids[n_ids++] = node;
            at = (seam){.child = node, .position = m.position - m.n_tokens};
            memcpy(at.fp, m.fp, sizeof at.fp);
            node = m.parent; /* smaller than node: this ends */
        }
    } while (status == TARN_OK && node != TARNP_NODE_NONE);
    tarnp_txn_abort(&txn);
    if (status != TARN_OK) {
        tarni_free(&store->allocator, ids);
        return status;
    }
    for (size_t i = 0; i < n_ids / 2; i++) {
        uint64_t other = ids[n_ids - 1 - i];
        ids[n_ids - 1 - i] = ids[i];
        ids[i] = other;
    }
    *out = ids;
    *n = n_ids;
    return TARN_OK;
}

static tarn_status list_nodes(tarnp_store *store, tarnp_txn *txn, tarnp_node_brief **out, size_t *n,
                              tarn_error *err)
{
    tarnp_cursor cursor;
    tarnp_span key, value;
    size_t capacity = 0;
    TARNI_TRY(tarnp_cursor_open(txn, TARNP_TABLE_NODE, &cursor, err));
    tarn_status status = tarnp_cursor_seek(&cursor, NULL, 0, &key, &value, err);
    while (status == TARN_OK && key.data) {
        uint64_t id = tarni_load_u64_be(key.data);
        tarnp_manifest m;
        tarnp_ref ref;
        status = tarnp_manifest_get(value, id, &m, err);
        if (status == TARN_OK)
            status = tarnp_ref_get(txn, id, &ref, err);
        if (status == TARN_OK)
            status = tarni_grow(&store->allocator, out, &capacity, *n + 1, sizeof **out, err);
        if (status != TARN_OK)
            break;
        if (ref.refs > 0) /* else it is being freed */
            (*out)[(*n)++] = (tarnp_node_brief){.id = id,
                                                .parent = m.parent,
                                                .session_id = m.session_id,
                                                .position = m.position,
                                                .created_ms = m.created_ms,
                                                .turns = m.turns,
                                                .flags = m.flags};
        status = tarnp_cursor_next(&cursor, &key, &value, err);
    }
    tarnp_cursor_close(&cursor);
    return status;
}

tarn_status tarnp_node_list(tarnp_store *store, tarnp_node_brief **out, size_t *n, tarn_error *err)
{
    tarnp_txn txn;
    *out = NULL;
    *n = 0;
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = list_nodes(store, &txn, out, n, err);
    tarnp_txn_abort(&txn);
    if (status != TARN_OK) {
        tarni_free(&store->allocator, *out);
        *out = NULL;
        *n = 0;
    }
    return status;
}

/* ---- chunks --------------------------------------------------------------------------------- */

typedef struct fetch {
    tarnp_span value;
    tarnp_chunk_ref ref;
    const tarnp_piece *pieces;
    size_t n_pieces;
} fetch;

typedef struct batch {
    uint64_t node;
    fetch *list;
    size_t n;
    const tarnp_tables *tables;
} batch;

static tarn_status fetch_one(void *arg, tarnp_codec *codec, size_t i, tarn_error *err)
{
    const batch *b = arg;
    const fetch *f = &b->list[i];
    tarnp_chunk_head head;
    tarn_error cause = {0};
    tarnp_span value = f->value;
    uint8_t *memory = NULL;
    tarn_status status =
        tarnp_codec_memory(codec, tarnp_opening_bytes(b->tables, value), &memory, &cause);
    if (status == TARN_OK)
        status = tarnp_open_stored(b->tables, TARNP_TABLE_CHUNK, f->ref.id, f->value, memory,
                                   &value, &cause);
    if (status == TARN_OK)
        status = tarnp_chunk_check(value, &f->ref, &head, &cause);
    if (status == TARN_OK)
        status = tarnp_decode(codec, head.codec, value.data + TARNP_CHUNK_HEAD_BYTES,
                              head.payload_bytes, f->pieces, f->n_pieces, head.raw_bytes, &cause);
    if (status != TARN_OK)
        return tarni_fail(err, status, "node %llu: chunk %llu: %.180s", (unsigned long long)b->node,
                          (unsigned long long)f->ref.id, cause.detail);
    return TARN_OK;
}

/* Finds the chunk's entry in the manifest and compares what the caller expects of it. */
static tarn_status find_entry(tarnp_span value, const tarnp_manifest *m, tarnp_elem elem,
                              const tarnp_chunk *chunk, fetch *out, tarn_error *err)
{
    if (chunk->id < m->first_chunk || chunk->id - m->first_chunk >= m->n_chunks)
        return tarni_fail(err, TARN_E_INVALID, "chunk %llu is not of node %llu",
                          (unsigned long long)chunk->id, (unsigned long long)m->id);
    tarnp_manifest_chunk(value, m, (uint32_t)(chunk->id - m->first_chunk), &out->ref);
    if (out->ref.evicted) /* since the caller read the manifest */
        return tarni_fail(err, TARN_E_NOT_FOUND, "node %llu: chunk %llu was evicted",
                          (unsigned long long)m->id, (unsigned long long)chunk->id);
    uint64_t n_bytes = 0;
    for (size_t i = 0; i < chunk->n_pieces; i++)
        n_bytes += chunk->pieces[i].n_bytes;
    if (out->ref.elem != elem || out->ref.raw_bytes != n_bytes)
        return tarni_fail(err, TARN_E_INVALID,
                          "node %llu: chunk %llu has %u bytes of elements %d, asked for %llu of %d",
                          (unsigned long long)m->id, (unsigned long long)chunk->id,
                          out->ref.raw_bytes, (int)out->ref.elem, (unsigned long long)n_bytes,
                          (int)elem);
    out->pieces = chunk->pieces;
    out->n_pieces = chunk->n_pieces;
    return TARN_OK;
}

/* One transaction: as many chunks as fit a batch; *n_done rises by them. */
static tarn_status read_batch(tarnp_store *store, uint64_t node, tarnp_elem elem,
                              const tarnp_chunk *chunks, size_t n_chunks, batch *b, size_t *n_done,
                              uint64_t *n_bytes, tarn_error *err)
{
    tarnp_txn txn;
    tarnp_manifest m;
    tarnp_span value;
    uint64_t stored = 0;
    TARNI_TRY(tarnp_read_begin(store, &txn, err));
    tarn_status status = tarnp_node_get(&txn, node, &m, &value, err);
    for (b->n = 0; status == TARN_OK && b->n < BATCH_CHUNKS && *n_done + b->n < n_chunks &&
                   stored < BATCH_BYTES;
         b->n++) {
        fetch *f = &b->list[b->n];
        status = find_entry(value, &m, elem, &chunks[*n_done + b->n], f, err);
        if (status == TARN_OK)
            status = tarnp_get_stored(&txn, TARNP_TABLE_CHUNK, f->ref.id, &f->value, err);
        if (status == TARN_OK)
            stored += tarnp_stored_size(store->tables, f->value);
    }
    if (status == TARN_OK)
        status = tarnp_each(store, b->n, fetch_one, b, err);
    tarnp_txn_abort(&txn);
    *n_done += b->n;
    *n_bytes += stored;
    return status;
}

tarn_status tarnp_node_read_chunks(tarnp_store *store, const tarnp_node *node, tarnp_elem elem,
                                   const tarnp_chunk *chunks, size_t n_chunks, uint64_t *bytes_read,
                                   tarn_error *err)
{
    batch b = {.node = node->id, .tables = store->tables};
    size_t n_done = 0;
    uint64_t n_bytes = 0;
    TARNI_TRY(tarni_alloc(&store->allocator, n_chunks < BATCH_CHUNKS ? n_chunks : BATCH_CHUNKS,
                          sizeof *b.list, &b.list, err));
    tarn_status status = TARN_OK;
    while (status == TARN_OK && n_done < n_chunks)
        status = read_batch(store, node->id, elem, chunks, n_chunks, &b, &n_done, &n_bytes, err);
    tarni_free(&store->allocator, b.list);
    if (status == TARN_OK && bytes_read)
        *bytes_read += n_bytes;
    return status;
}

/* ---- tokens --------------------------------------------------------------------------------- */

/* One piece for each chunk of tokens, end to end in `to`, which holds n_tokens. */
static tarn_status aim_tokens(const tarnp_node *node, const tarnp_section *section, uint32_t *to,
                              tarnp_chunk *chunks, tarnp_piece *pieces, tarn_error *err)
{
    uint64_t at = 0;
    for (size_t i = 0; i < section->n_chunks; i++) {
        chunks[i] = section->chunks[i];
        uint32_t n = chunks[i].raw_bytes / 4;
        if (chunks[i].raw_bytes % 4 != 0 || chunks[i].first != at || n > node->n_tokens - at)
            return tarni_fail(err, TARN_E_CORRUPT, "node %llu: chunk %llu: tokens out of place",
                              (unsigned long long)node->id, (unsigned long long)chunks[i].id);
        pieces[i] = (tarnp_piece){to + at, chunks[i].raw_bytes};
        chunks[i].pieces = &pieces[i];
        chunks[i].n_pieces = 1;
        at += n;
    }
    if (at != node->n_tokens)
        return tarni_fail(err, TARN_E_CORRUPT, "node %llu: %llu tokens stored, should be %u",
                          (unsigned long long)node->id, (unsigned long long)at, node->n_tokens);
    return TARN_OK;
}

tarn_status tarnp_node_tokens(tarnp_store *store, const tarnp_node *node, tarni_ids *out,
                              tarn_error *err)
{
    const tarnp_section none = {.kind = TARNP_SECTION_TOKENS, .elem = TARNP_ELEM_U32},
                        *section = &none;
    for (size_t i = 0; i < node->n_sections; i++)
        if (node->sections[i].kind == TARNP_SECTION_TOKENS)
            section = &node->sections[i];
    size_t wanted;
    if (node->n_tokens == 0)
        return TARN_OK;
    if (!tarni_add_size(out->n_ids, node->n_tokens, &wanted))
        return tarni_fail_memory(err, SIZE_MAX);
    TARNI_TRY(tarnp_store_enter(store, err));
    tarnp_chunk *chunks = NULL;
    tarnp_piece *pieces = NULL;
    tarn_status status =
        tarni_alloc(&store->allocator, section->n_chunks, sizeof *chunks, &chunks, err);
    if (status == TARN_OK)
        status = tarni_alloc(&store->allocator, section->n_chunks, sizeof *pieces, &pieces, err);
    if (status == TARN_OK)
        status =
            tarni_grow(out->allocator, &out->ids, &out->capacity, wanted, sizeof *out->ids, err);
    if (status == TARN_OK)
        status = aim_tokens(node, section, out->ids + out->n_ids, chunks, pieces, err);
    if (status == TARN_OK)
        status = tarnp_node_read_chunks(store, node, TARNP_ELEM_U32, chunks, section->n_chunks,
                                        NULL, err);
    if (status == TARN_OK)
        out->n_ids = wanted;
    tarni_free(&store->allocator, chunks);
    tarni_free(&store->allocator, pieces);
    return status;
}
