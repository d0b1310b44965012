/* opening.h - a session from its opening to its close. */
#ifndef TARNI_OPENING_H
#define TARNI_OPENING_H

#include "session.h"

/* `desk` NULL: one that is not kept. */
tarn_status tarni_session_open(tarn_engine *engine, tarni_desk *desk, const char *name,
                               const tarn_session_options *options, tarn_session **out,
                               tarn_reuse *reuse, tarn_error *err);
/* An empty session of the engine, with no timeline yet. LIMIT, INVALID (name). */
tarn_status tarni_session_create(tarn_engine *e, const char *name, tarn_session **out,
                                 tarn_error *err);
void tarni_session_close(tarn_session *s);

#endif
