/* share.h - how the rows of a step are shared among the sessions whose tokens wait. */
#ifndef TARNI_SHARE_H
#define TARNI_SHARE_H

#include "session.h"

/* Whether, and where, cuts show in the bits of this engine's sessions; sets cut_tokens and
 * part_rows_max once the device is open, and completes the device's numerics. */
void tarni_share_init(tarn_engine *e, bool exact);

/* The session after `s` in the round. */
tarn_session *tarni_share_next(const tarn_engine *e, const tarn_session *s);
/* Sets step_rows of each session, beside n_sampled rows of generations. */
void tarni_share_rows(tarn_engine *e, tarn_session *first, uint32_t n_sampled);
/* Who comes first in the next step: who had something and was left out. */
tarn_session *tarni_share_turn(tarn_engine *e, tarn_session *first);
/* What a step of so many rows took. */
void tarni_share_learn(tarn_engine *e, uint32_t n_rows, uint64_t ns);

#endif
