/* watch.h - tool calls in what is being generated: told as events, and listed when the turn ends.
 */
#ifndef TARNI_WATCH_H
#define TARNI_WATCH_H

#include "session.h"

/* Events that one token may add: of a call under way its beginning and arguments; the rest of its
 * arguments, its end, or that it is malformed. */
#define TARNI_WATCH_EVENTS 5

/* A sampled id has been fed. *in_calls: it is part of a section of calls. Nothing happens without
 * the markers of calls. */
tarn_status tarni_watch_token(tarn_session *s, uint32_t id, bool *in_calls, tarn_error *err);
/* Is the last sampled id inside a section of calls? */
bool tarni_watch_inside(const tarn_session *s);
/* The turn has ended: its calls become those of tarn_session_tool_calls, and part of its segment.
 */
tarn_status tarni_watch_finish(tarn_session *s, tarn_error *err);
/* Forgets all that was seen. */
void tarni_watch_fini(tarn_session *s);

#endif
