#include "evict.h"

#include "refs.h"

#include <string.h>

/* The parts that the node has and has not lost yet. */
static unsigned parts_there(tarnp_span value, const tarnp_manifest *m, unsigned parts)
{
    uint64_t begin, end;
    unsigned there = 0;
    if ((m->flags & TARNP_NODE_HAS_STATE) ||
        tarnp_manifest_part_bytes(value, m, TARNP_PART_STATE) > 0)
        there |= TARNP_PART_STATE;
    if (!(m->flags & TARNP_NODE_LATENTS_EVICTED) && tarnp_manifest_latents(value, m, &begin, &end))
        there |= TARNP_PART_LATENTS;
    return there & parts;
}

tarn_status tarnp_evict(tarnp_write *w, uint64_t node, unsigned parts, uint64_t *freed_bytes,
                        tarn_error *err)
{
    tarnp_manifest m;
    tarnp_span value;
    uint8_t *copy;
    const tarn_allocator *a = &w->store->allocator;
    *freed_bytes = 0;
    TARNI_TRY(tarnp_node_get(&w->txn, node, &m, &value, err));
    parts = parts_there(value, &m, parts);
    if (parts == 0)
        return TARN_OK;
    uint64_t before = m.chunk_bytes;
    TARNI_TRY(tarni_alloc(a, value.n_bytes, 1, &copy, err));
    memcpy(copy, value.data, value.n_bytes);
    tarnp_manifest_evict(copy, &m, parts);
    tarn_status status = tarnp_put_id(&w->txn, TARNP_TABLE_NODE, node, copy, value.n_bytes, err);
    tarni_free(a, copy);
    if (status == TARN_OK)
        status = tarnp_refs_queue_evicted(w, node, err);
    if (status == TARN_OK)
        *freed_bytes = before - m.chunk_bytes;
    return status;
}
