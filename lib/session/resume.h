/* resume.h - bringing a place of the store to life: the nearest state that is whole, and the tokens
 * that must be computed again from there. */
#ifndef TARNI_RESUME_H
#define TARNI_RESUME_H

#include "lineage.h"
#include "timeline.h"

/* What is live already on the way to the place, and what may be used for it. */
typedef struct tarni_present {
    const tarni_page_table *pages; /* their first n_tokens rows are those of the lineage */
    uint64_t n_tokens;
    bool last_slot; /* the slot that is kept for this may be taken */
} tarni_present;

/* Loads into a new timeline, verified and complete, or fails and leaves nothing behind: a damaged
 * state is passed over for an earlier one (reason CHECKSUM), at worst for the empty
 * root, and so is one that was evicted or whose latents were (reason EVICTED). `replay`
 * (initialised by the caller) gets the ids to feed to reach the place; the timeline's base is the
 * place itself. CORRUPT only where tokens are damaged. */
tarn_status tarni_resume(tarni_pools *pools, const tarni_lineage *lineage,
                         const tarni_present *present, tarni_timeline *out, tarni_ids *replay,
                         tarn_reuse *reuse, tarn_error *err);

#endif
