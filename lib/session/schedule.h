/* schedule.h - one step: whose rows, the forward pass, and what follows from its results. */
#ifndef TARNI_SCHEDULE_H
#define TARNI_SCHEDULE_H

#include "session.h"

/* At most step_tokens_max rows: first one of every session that generates, then ids that wait, the
 * same share for every session. *out says what was computed. */
tarn_status tarni_engine_step(tarn_engine *e, tarn_step *out, tarn_error *err);

#endif
