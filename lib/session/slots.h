/* slots.h - the pool of state slots: the KDA state and convolution tails of one position.
 *
 * A slot is written only by a step of its single owner. Sharing it (fork) makes it immutable: the
 * next step of any sharer reads it and writes a fresh one, so no state byte is ever copied. The
 * slot of the empty session is a shared one of zeros. */
#ifndef TARNI_SLOTS_H
#define TARNI_SLOTS_H

#include "memory.h"

typedef struct tarni_slots {
    tarn_allocator allocator;
    size_t slot_bytes;
    uint32_t n_max;
    uint32_t n_used;
    uint8_t **memory; /* [n_max], NULL until first taken */
    uint32_t *refs;   /* [n_max] */
} tarni_slots;

#define TARNI_SLOT_ZERO 0 /* always there, all zeros */

/* Room for n_sessions live slots, their successors while a step runs, and the zero slot. */
tarn_status tarni_slots_init(tarni_slots *p, size_t slot_bytes, uint32_t n_sessions,
                             const tarn_allocator *allocator, tarn_error *err);
void tarni_slots_fini(tarni_slots *p);
/* A slot of undefined contents, held once. LIMIT or NO_MEMORY. */
tarn_status tarni_slots_take(tarni_slots *p, uint32_t *out, tarn_error *err);
void tarni_slots_share(tarni_slots *p, uint32_t slot);
void tarni_slots_release(tarni_slots *p, uint32_t slot);
bool tarni_slots_shared(const tarni_slots *p, uint32_t slot);
uint8_t *tarni_slots_data(const tarni_slots *p, uint32_t slot);

#endif
