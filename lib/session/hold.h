/* hold.h - the lease of an open session: that nobody else writes it meanwhile.
 *
 * Losing it is never an error here. A step goes on; the commit that follows says BUSY or CONFLICT.
 * Without room on the disk for a lease a session opens without one. */
#ifndef TARNI_HOLD_H
#define TARNI_HOLD_H

#include "session.h"

/* Of session s->store_id. BUSY names the holder. */
tarn_status tarni_hold_take(tarn_session *s, tarn_error *err);
/* Takes it if that can be done; a failure is logged. */
void tarni_hold_try(tarn_session *s);
/* Renews it when half of its time is over. */
void tarni_hold_refresh(tarn_session *s);
void tarni_hold_release(tarn_session *s);

#endif
