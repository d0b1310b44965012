/* capture.h - a node on its way to the store: everything it holds, by reference.
 *
 * State, convolution tails and logits are one slot, latents are pages: a capture holds them, and
 * the session goes on, into a fresh slot and behind the captured rows. Copied are ids since the
 * last node, segments and sampling: a few bytes a token. */
#ifndef TARNI_CAPTURE_H
#define TARNI_CAPTURE_H

#include "checkpoint.h"
#include "session.h"
#include "staging.h"

typedef struct tarni_capture {
    tarni_job job; /* of the desk, where it is done in the background */
    tarnp_commit commit;
    uint64_t number;   /* of the caller's commit; 0: a state kept on the way */
    uint64_t position; /* of the node */
    bool with_state;
    tarn_sampling sampling;
    tarni_segments_mark mark; /* where the live segments stood */

    tarni_pools *pools;
    uint32_t slot; /* TARNI_SLOT_NONE: let go */
    tarni_page_table pages;
    tarni_staging staging;
    tarni_ids tokens; /* all up to here: the node is listed by them */
    tarni_segments segments;
    tarni_writer sampler;
    tarni_sections sections;
} tarni_capture;

/* Of what was fed since the last node. After an error nothing is held. */
tarn_status tarni_capture_make(tarn_session *s, bool move_head, tarni_capture **out,
                               tarn_error *err);
/* Gives back slot and pages: the commit has been encoded. */
void tarni_capture_let_go(tarni_capture *c);
void tarni_capture_free(tarni_capture *c); /* not its ticket */

#endif
