/* keep.h - making what was fed durable. */
#ifndef TARNI_KEEP_H
#define TARNI_KEEP_H

#include "session.h"

/* Commits what was fed since the base as a node; with `move_head` the session's head follows, else
 * the node is a kept state on the way. Nothing new: nothing is written. After an error the session
 * is as before. */
tarn_status tarni_session_keep(tarn_session *s, bool move_head, tarn_error *err);

tarn_status tarni_session_commit(tarn_session *s, tarn_committed *out, tarn_error *err);

/* Hands a commit to the store's writer. */
tarn_status tarni_session_commit_begin(tarn_session *s, uint64_t *number, tarn_error *err);
tarn_status tarni_session_wait(tarn_session *s, uint64_t number, tarn_commit_level level,
                               uint32_t timeout_ms, tarn_committed *out, tarn_error *err);
/* Waits for a commit that was begun and takes over what became of it. Called before anything of
 * `live` changes. */
void tarni_session_settle(tarn_session *s);

#endif
