/* adopt.h - going on from what another session computed.
 *
 * A session without any token that has something to feed looks for the longest beginning of it that
 * a node of the store stands for, whoever made it, and becomes a fork of that node. */
#ifndef TARNI_ADOPT_H
#define TARNI_ADOPT_H

#include "session.h"

/* Once a session: before its first token is fed. Whatever goes wrong is logged, and the session
 * goes on as it is: then all is computed. */
void tarni_adopt_prefix(tarn_session *s);

#endif
