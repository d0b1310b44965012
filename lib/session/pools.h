/* pools.h - the memory sessions of one engine live in.
 *
 * Slots and pages have ceilings of their own. Everything else (ids, queues, workspace, captures)
 * comes from `allocator`, which counts and has a ceiling too (budget.h). */
#ifndef TARNI_POOLS_H
#define TARNI_POOLS_H

#include "log.h"
#include "pages.h"
#include "slots.h"

typedef struct tarni_pools {
    tarn_allocator allocator;
    tarn_log log;
    tarni_spec spec;
    tarni_layout layout;
    const char *numerics; /* of the ops table: what nodes of this engine are marked with */
    tarni_slots slots;    /* a slot holds the state, and behind it the logits after its position */
    tarni_pages pages;
} tarni_pools;

/* The pending logits that belong to a slot, [vocab]. */
static inline float *tarni_pools_logits(const tarni_pools *p, uint32_t slot)
{
    return (float *)(void *)(tarni_slots_data(&p->slots, slot) + p->layout.slot_bytes);
}
static inline size_t tarni_pools_slot_bytes(const tarni_spec *spec, const tarni_layout *layout)
{
    return layout->slot_bytes + spec->vocab * sizeof(float);
}

#endif
