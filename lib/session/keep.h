/* keep.h - making what was fed durable.
 *
 *     begin --> capture (on its way) --> landed, or failed: the session is as it was before
 *
 * A session has at most one commit on its way. Meanwhile it may go on; what needs to know the node
 * (the next commit, a fork, going back) settles it first. */
#ifndef TARNI_KEEP_H
#define TARNI_KEEP_H

#include "session.h"

/* Commits what was fed since the base as a node and moves the head there. Nothing new: nothing is
 * written. After an error the session is as before. Blocks. */
tarn_status tarni_session_commit(tarn_session *s, tarn_committed *out, tarn_error *err);

/* The same in the background. Waits for one that is on its way. */
tarn_status tarni_session_commit_begin(tarn_session *s, uint64_t *number, tarn_error *err);
tarn_status tarni_session_wait(tarn_session *s, uint64_t number, tarn_commit_level level,
                               uint32_t timeout_ms, tarn_committed *out, tarn_error *err);
/* Begins to keep a state on the way, if it is not kept: the head stays. Of a session with a store,
 * open for writing, that has just made a step. */
tarn_status tarni_session_keep_begin(tarn_session *s, tarn_error *err);

/* Takes over what has become of a commit on its way. Never waits. */
void tarni_session_reap(tarn_session *s);
/* Has it encoded, at once where the encoder has not begun: it then holds no slot and no page. */
void tarni_session_encode(tarn_session *s);
/* Waits until it is written, and takes over what became of it. */
void tarni_session_settle(tarn_session *s);

#endif
