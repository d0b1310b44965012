/* range.h - items of one size in a range of addresses that has memory in some of its places only.
 *
 *     place      |    0    |    1    |    2    |    3    |      a chunk's length each
 *     chunk      |   #4    |   #0    |         |   #7    |
 *     item       |  0  |  1  |  2  |  3  |  4  |  5  |  6  |
 *                  used ready ready                   used     3, 4 and 5 lack a chunk
 *
 * An item may lie across places. It is ready if nobody uses it and every place it touches has a
 * chunk. The lowest ready item is taken first, so that what is used gathers at the bottom and whole
 * places become idle at the top. Invariant: a place that a used item touches has a chunk.
 *
 * Only numbers: who maps what is trade.c's. */
#ifndef TARNI_RANGE_H
#define TARNI_RANGE_H

#include "memory.h"

#define TARNI_RANGE_NONE UINT32_MAX

typedef struct tarni_range {
    size_t item_bytes, place_bytes;
    uint32_t n_items, n_places;
    uint32_t n_used, n_ready; /* items */
    uint32_t n_chunks;        /* places that have one */
    uint32_t n_spare;         /* 0 or 1: so many ready items are kept from those who want a place */
    uint64_t *used, *ready;   /* [n_items] bits */
    uint32_t *users;          /* [n_places] used items that touch it */
    uint32_t *chunks;         /* [n_places] which chunk it has; TARNI_RANGE_NONE */
} tarni_range;

/* n_items and their places are below TARNI_RANGE_NONE. All zero it can be finished too. */
tarn_status tarni_range_init(tarni_range *r, size_t item_bytes, size_t place_bytes,
                             uint32_t n_items, const tarn_allocator *allocator, tarn_error *err);
void tarni_range_fini(tarni_range *r, const tarn_allocator *allocator);

/* The lowest of the ready items; there must be one. */
uint32_t tarni_range_take(tarni_range *r);
void tarni_range_release(tarni_range *r, uint32_t item);

/* A place gets a chunk, or loses it: then no used item may touch it. */
void tarni_range_cover(tarni_range *r, uint32_t place, uint32_t chunk);
uint32_t tarni_range_uncover(tarni_range *r, uint32_t place);

/* The lowest place without a chunk; NONE. */
uint32_t tarni_range_bare(const tarni_range *r);
/* The highest place whose chunk may leave, and how many there are: no used item touches it, nor
 * does the item that is spared. NONE. */
uint32_t tarni_range_idle(const tarni_range *r, uint32_t *n);
/* How many items would be ready with so many more chunks in the lowest bare places. */
uint32_t tarni_range_ready_with(const tarni_range *r, uint32_t n_more);

#endif
