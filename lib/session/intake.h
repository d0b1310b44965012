/* intake.h - a message that streams in.
 *
 *     CLOSED --begin--> OPEN --bytes, tokens--> OPEN --end--> CLOSED
 *        ^                |
 *        +---- cancel ----+  what was queued and not fed is dropped, and what is held back
 *
 * While it is open nothing else can be appended, and nothing generated. */
#ifndef TARNI_INTAKE_H
#define TARNI_INTAKE_H

#include "session.h"

tarn_status tarni_intake_begin(tarn_session *s, const tarn_message *head, tarn_error *err);
/* *n_tokens: ids that were queued. */
tarn_status tarni_intake_bytes(tarn_session *s, const char *text, size_t n_bytes, size_t *n_tokens,
                               tarn_error *err);
/* Ids that belong to the message; they end the stretch of text before them. */
tarn_status tarni_intake_tokens(tarn_session *s, const uint32_t *ids, size_t n_ids,
                                tarn_error *err);
/* *n_tokens: ids of the whole message. */
tarn_status tarni_intake_end(tarn_session *s, size_t *n_tokens, tarn_error *err);

#endif
