/* pools.h - the memory sessions of one engine live in.
 *
 * Slots and pages have ceilings of their own, or one together (trade.h). Everything else (ids,
 * queues, workspace, captures) comes from `allocator`, which counts and has a ceiling too
 * (budget.h). */
#ifndef TARNI_POOLS_H
#define TARNI_POOLS_H

#include "log.h"
#include "pages.h"
#include "slots.h"

typedef struct tarni_pools {
    tarn_allocator allocator;
    tarni_device *device; /* borrowed; whose memory slots and pages are */
    tarn_log log;
    tarni_spec spec;
    tarni_layout layout;
    const char *numerics; /* of the ops table: what nodes of this engine are marked with */
    tarni_slots slots;    /* a slot holds the state, and behind it the logits after its position */
    tarni_pages pages;
    tarn_allocator inner; /* of what is not in the budget */
    tarni_trade trade;    /* of slots and pages, where they have one budget */
    float **mirrors; /* [n_slots] the logits last read of each, where the device is not the host */
} tarni_pools;

/* The pending logits that belong to a slot, [vocab], on the device. */
static inline float *tarni_pools_logits(const tarni_pools *p, uint32_t slot)
{
    return (float *)(void *)(tarni_slots_data(&p->slots, slot) + p->layout.slot_bytes);
}
static inline size_t tarni_pools_slot_bytes(const tarni_spec *spec, const tarni_layout *layout)
{
    size_t n_bytes = layout->slot_bytes + spec->vocab * sizeof(float);
    return (n_bytes + TARNI_ALIGNMENT - 1) / TARNI_ALIGNMENT * TARNI_ALIGNMENT;
}

/* The same where the host can read them: valid until the next call. */
tarn_status tarni_pools_read_logits(tarni_pools *p, uint32_t slot, const float **out,
                                    tarn_error *err);

typedef struct tarni_pools_plan {
    uint32_t n_slots;       /* at most */
    uint64_t n_pages;       /* at most; 0: no limit, unless they have one budget */
    bool together;          /* they have one budget, taken when the pools are opened */
    uint64_t bytes_max;     /* of it; UINT64_MAX: what both need at most */
    const char *bytes_name; /* the option that gave it, NULL: none did */
} tarni_pools_plan;

/* Of what has no budget slots and pages are taken from `allocator` as needed. LIMIT, NO_MEMORY. */
tarn_status tarni_pools_open(tarni_pools *p, const tarni_pools_plan *plan,
                             const tarn_allocator *allocator, tarn_error *err);
void tarni_pools_close(tarni_pools *p);

#endif
