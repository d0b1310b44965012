/* parking.h - who has memory when there is not enough for all.
 *
 * A session whose every token is in the store can give slot and pages back at any time: it is
 * PARKED, and its next use brings it to life again as opening it would. Where a pool is at its
 * ceiling, the sessions that were used longest ago are parked; if nobody can be, what asked is
 * refused.
 *
 * A session is admitted when something is queued for it: from then on it has the pages for its
 * tokens, and a slot of its own or one kept for it, so a step that was admitted never runs out.
 * Only a generation takes pages on the way, one every 64 tokens; without one it stops (LENGTH). */
#ifndef TARNI_PARKING_H
#define TARNI_PARKING_H

#include "session.h"

/* Before anything is queued or read: alive, and with a slot to step to. LIMIT with figures, and
 * what a resume may return; then nothing has changed. Blocks where it has to read the store. */
tarn_status tarni_parking_admit(tarn_session *s, tarn_error *err);
/* Alive, if it was parked. */
tarn_status tarni_parking_wake(tarn_session *s, tarn_error *err);
/* CONFLICT (work, or uncommitted tokens), UNSUPPORTED (would not come back the same). */
tarn_status tarni_parking_park(tarn_session *s, tarn_error *err);
/* The pools' `relieve`: user is the engine. */
bool tarni_parking_relieve(void *engine);

#endif
