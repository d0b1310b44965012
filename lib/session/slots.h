/* slots.h - the pool of state slots: the KDA state and convolution tails of one position.
 *
 * A slot is written only by a step of its single owner. Sharing it (fork) makes it immutable: the
 * next step of any sharer reads it and writes a fresh one, so no state byte is ever copied. The
 * slot of the empty session is a shared one of zeros.
 *
 * There is a ceiling. Where it is reached, `relieve` is asked to give something back before a take
 * is refused; the last free slot is kept for bringing a place to life beside what is live, so that
 * going back is possible in a full engine. Slots that share a budget with latent pages (trade.h)
 * may find none free below their own ceiling: relief is asked for then too. */
#ifndef TARNI_SLOTS_H
#define TARNI_SLOTS_H

#include "trade.h"

typedef struct tarni_slots {
    tarn_allocator allocator;
    size_t slot_bytes;
    uint32_t n_max;
    uint32_t n_used;
    tarni_trade *trade;          /* borrowed, where slots are its items; NULL: taken as needed */
    uint8_t **memory;            /* [n_max], NULL until first taken */
    uint32_t *refs;              /* [n_max] */
    bool (*relieve)(void *user); /* may release slots; false: it cannot. NULL: nobody is asked */
    void *relieve_user;
} tarni_slots;

#define TARNI_SLOT_ZERO 0 /* always there, all zeros */

#define TARNI_SLOT_NONE UINT32_MAX
#define TARNI_SLOTS_MIN                                                                            \
    4 /* zeros, one session's, the one it steps to, the one kept for staging                       \
       */

/* At most n_max slots at once, the zero slot among them; n_max is at least TARNI_SLOTS_MIN. */
tarn_status tarni_slots_init(tarni_slots *p, size_t slot_bytes, uint32_t n_max,
                             const tarn_allocator *allocator, tarn_error *err);
/* The same with the items of a trade, perhaps where the host cannot reach them; the zero slot has
 * the caller to fill. */
tarn_status tarni_slots_init_in(tarni_slots *p, tarni_trade *trade, const tarn_allocator *allocator,
                                tarn_error *err);
void tarni_slots_fini(tarni_slots *p);
/* A slot of undefined contents, held once. LIMIT or NO_MEMORY. */
tarn_status tarni_slots_take(tarni_slots *p, uint32_t *out, tarn_error *err);
/* The same, the last one included. */
tarn_status tarni_slots_take_last(tarni_slots *p, uint32_t *out, tarn_error *err);
void tarni_slots_share(tarni_slots *p, uint32_t slot);
void tarni_slots_release(tarni_slots *p, uint32_t slot);
bool tarni_slots_shared(const tarni_slots *p, uint32_t slot);
uint8_t *tarni_slots_data(const tarni_slots *p, uint32_t slot);

#endif
