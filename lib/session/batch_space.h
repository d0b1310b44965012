/* batch_space.h - the arrays of a step: whose rows, in which order, and where their logits go. */
#ifndef TARNI_BATCH_SPACE_H
#define TARNI_BATCH_SPACE_H

#include "session.h"

typedef struct tarni_step_part {
    tarn_session *session;
    uint32_t row_begin;
    uint32_t n_rows;
    bool sampled;        /* one row, drawn from the session's logits */
    bool replayed;       /* rows the session's history holds already */
    bool scored;         /* the logits of every row are wanted */
    uint32_t logits_idx; /* of its last row */
} tarni_step_part;

typedef struct tarni_batch_space {
    uint32_t *ids;             /* [step_tokens_max] */
    tarnk_seq *seqs;           /* [sessions_max] */
    tarni_step_part *parts;    /* [sessions_max] */
    uint32_t *logit_rows;      /* [sessions_max + TARNI_SCORE_ROWS] */
    float **logits;            /* [sessions_max + TARNI_SCORE_ROWS] */
    tarni_pick *draws;         /* [sessions_max] ids that the device draws in the step */
    float *scores;             /* [TARNI_SCORE_ROWS][vocab], on the device */
    float *host_row;           /* [vocab] one of them, where the device is not the host */
    tarnk_row_result *results; /* [sessions_max + TARNI_SCORE_ROWS] of logit_rows; what the host
                                  drew is there before the step, the rest after it */
    uint32_t n_parts, n_rows, n_logit_rows, n_scores, n_draws;
    uint32_t n_left_out; /* sessions that wait for a copy to pass */
} tarni_batch_space;

/* For the engine's limits. NO_MEMORY. */
tarn_status tarni_batch_space_create(tarn_engine *e, tarni_batch_space **out, tarn_error *err);
void tarni_batch_space_free(tarn_engine *e, tarni_batch_space *space); /* NULL is allowed */

#endif
