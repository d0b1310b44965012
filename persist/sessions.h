/* sessions.h - sessions inside a write transaction. */
#ifndef TARNP_SESSIONS_H
#define TARNP_SESSIONS_H

#include "handle.h"

/* Takes a loaded session out of the tables and queues what it alone held. */
tarn_status tarnp_session_drop(tarnp_write *w, const tarnp_session *s, tarn_error *err);

#endif
