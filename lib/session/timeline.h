/* timeline.h - what is live for one session: its tokens, state slot, latent pages, pending logits
 * and sampling, and where on the way it is kept.
 *
 * Invariants:
 *  1. tokens.n_ids is the position; slot and pages hold exactly these tokens.
 *  2. segments cover the tokens from base_position on; they are what the next node will hold.
 *  3. base_node is the last committed node on the way (0: none); tokens before base_position are in
 *     the store. While tokens are replayed the position is below base_position.
 *  4. latents_kept <= base_position: the chain of base_node keeps the latents of the tokens before.
 */
#ifndef TARNI_TIMELINE_H
#define TARNI_TIMELINE_H

#include "ids.h"
#include "ledger.h"
#include "pools.h"
#include "store.h"
#include "tarn.h"

/* Segments of the next node, in the store's own form. */
typedef struct tarni_segments {
    tarnp_segment *items;
    size_t n;
    size_t capacity;
} tarni_segments;

typedef struct tarni_timeline {
    tarni_pools *pools; /* borrowed; NULL: not begun */
    tarni_ids tokens;
    uint32_t slot;
    tarni_page_table pages;
    float *logits; /* [vocab], in the slot */
    bool has_logits;
    tarn_sampling sampling;

    tarni_segments segments;
    tarni_ledger calls;            /* of the history up to the position */
    uint32_t turns;                /* assistant turns up to the position */
    tarn_role tail_role;           /* of the last segment; 0: none yet */
    uint64_t tail_begin;           /* where it began */
    bool tail_closed;              /* its end marker has been fed */
    uint64_t turn_begin, turn_end; /* of the last assistant segment that was closed; equal: none */
    uint64_t base_node;
    uint64_t base_position;
    uint64_t latents_kept;
    tarn_sampling base_sampling; /* as base_node keeps it */
    bool bit_exact;
    bool base_lossy; /* base_node keeps this state with loss: exact here, not once it is resumed */
} tarni_timeline;

/* An empty one: position 0, the zero slot, greedy. */
void tarni_timeline_init(tarni_timeline *t, tarni_pools *pools);
void tarni_timeline_fini(tarni_timeline *t); /* also of a zeroed one */
/* A second one at the same place; shares slot and pages, copies ids. */
tarn_status tarni_timeline_fork(const tarni_timeline *t, tarni_timeline *out, tarn_error *err);

/* Makes `slot`, of which the caller gives one reference away, the live one. */
void tarni_timeline_set_slot(tarni_timeline *t, uint32_t slot);
/* Gives slot and pages back; the rest stays as it is. */
void tarni_timeline_empty(tarni_timeline *t);

/* What a segment means for the calls of a history: a turn begins, calls are made, one is answered.
 */
tarn_status tarni_segment_to_ledger(const tarnp_segment *s, tarni_ledger *l,
                                    const tarn_allocator *a, tarn_error *err);

/* Would a commit write anything? */
bool tarni_timeline_dirty(const tarni_timeline *t);

/* Adds a segment, or goes on with one: the last, or the parent's if there is none yet. `call_id`
 * may be NULL. */
tarn_status tarni_segments_begin(tarni_segments *s, const tarn_allocator *a, tarn_role role,
                                 uint8_t flags, const char *call_id, tarn_error *err);
tarn_status tarni_segments_add_call(tarni_segments *s, const tarn_allocator *a, const char *call_id,
                                    tarn_error *err);
/* How far segments went when they were copied. */
typedef struct tarni_segments_mark {
    size_t n;
    uint32_t n_tokens; /* of the last */
    uint8_t flags;
    size_t n_call_ids;
} tarni_segments_mark;
tarni_segments_mark tarni_segments_here(const tarni_segments *s);
/* Takes away what was there at the mark: the last may have gone on since, and then continues. */
void tarni_segments_cut(tarni_segments *s, const tarn_allocator *a,
                        const tarni_segments_mark *mark);
tarn_status tarni_segments_copy(const tarni_segments *from, const tarn_allocator *a,
                                tarni_segments *out, tarn_error *err);
void tarni_segments_clear(tarni_segments *s, const tarn_allocator *a);
void tarni_segments_fini(tarni_segments *s, const tarn_allocator *a);

#endif
