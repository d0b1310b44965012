/* trade.h - one budget of memory for state slots and latent pages, which lend one another what they
 * do not use.
 *
 * Each has a range of addresses of its own, as long as the whole budget or its ceiling; the budget
 * is chunks, and a chunk is mapped where it is needed: from those that lie nowhere, else from the
 * other's range, if nothing that is in use touches it there. Slots and pages never move, so what
 * points to them stays right.
 *
 * All chunks are taken from the device when the engine is opened, and nothing later. Chunks move
 * only inside a take, and only such as no used item touches: a step's items are in use from before
 * it is planned until after it, and copies that are on their way are waited for. A move that fails
 * changes nothing.
 *
 * Slots keep one to spare: the place that a session which goes back needs beside where it is.
 *
 * A device without such memory has one piece of it instead, split for good. */
#ifndef TARNI_TRADE_H
#define TARNI_TRADE_H

#include "device.h"
#include "log.h"
#include "range.h"

#define TARNI_CHUNK_BYTES ((size_t)64 << 20) /* halved until there are so many: */
#define TARNI_CHUNKS_MIN  64

typedef enum tarni_side { TARNI_SLOTS = 0, TARNI_PAGES = 1 } tarni_side;

typedef struct tarni_trade {
    tarni_device *device; /* borrowed */
    const tarn_log *log;
    tarn_allocator allocator; /* of what stands beside */
    size_t chunk_bytes;
    uint32_t n_chunks; /* 0: split for good */
    uint64_t *chunks;  /* [n_chunks] the device's names of them */
    uint32_t *loose;   /* [n_loose] those that are mapped nowhere */
    uint32_t n_loose;
    uint8_t *bases[2];
    tarni_range ranges[2];
    uint8_t *slab;      /* where it is split for good */
    uint64_t n_traded;  /* moves from one range to the other */
    tarn_error failure; /* of the last move that failed */
} tarni_trade;

/* Ceilings, and what there is for both. */
typedef struct tarni_trade_plan {
    size_t item_bytes[2];   /* of pages 0: there are none */
    uint64_t n_items[2];    /* at most */
    uint64_t n_least[2];    /* what one session cannot do without */
    uint64_t bytes_max;     /* UINT64_MAX: as much as the items have */
    const char *bytes_name; /* of the option that said so; NULL: it is what the device has left */
} tarni_trade_plan;

/* LIMIT (less than one session needs: with figures), NO_MEMORY. */
tarn_status tarni_trade_open(tarni_trade *t, tarni_device *device, const tarni_trade_plan *plan,
                             const tarn_log *log, const tarn_allocator *allocator, tarn_error *err);
void tarni_trade_close(tarni_trade *t); /* nothing is in use; also of a zeroed one */

/* A ready item, after moving chunks if need be; `last`: the spared one will do. False: there is
 * none until something comes free. */
bool tarni_trade_take(tarni_trade *t, tarni_side side, bool last, uint32_t *item);
void tarni_trade_release(tarni_trade *t, tarni_side side, uint32_t item);
/* Why a take found nothing: LIMIT with the budget and what both hold, or the device's fault. */
tarn_status tarni_trade_refuse(const tarni_trade *t, tarni_side side, tarn_error *err);
/* How many items could be taken one after the other. */
uint64_t tarni_trade_room(const tarni_trade *t, tarni_side side);

static inline uint8_t *tarni_trade_at(const tarni_trade *t, tarni_side side, uint32_t item)
{
    return t->bases[side] + item * t->ranges[side].item_bytes;
}
static inline uint64_t tarni_trade_bytes(const tarni_trade *t, uint32_t n_chunks)
{
    return n_chunks * (uint64_t)t->chunk_bytes;
}

#endif
