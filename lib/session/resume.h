/* resume.h - bringing a place of the store to life: the nearest state that is whole, and the tokens
 * that must be computed again from there. */
#ifndef TARNI_RESUME_H
#define TARNI_RESUME_H

#include "lineage.h"
#include "timeline.h"

/* Loads into a new timeline, verified and complete, or fails and leaves nothing behind: a damaged
 * state is passed over for an earlier one (reason CHECKSUM), at worst for the empty
 * root, and so is one that was evicted or whose latents were (reason EVICTED). `replay`
 * (initialised by the caller) gets the ids to feed to reach the place; the timeline's base is the
 * place itself. CORRUPT only where tokens are damaged. */
tarn_status tarni_resume(tarni_pools *pools, const tarni_lineage *lineage, tarni_timeline *out,
                         tarni_ids *replay, tarn_reuse *reuse, tarn_error *err);

#endif
