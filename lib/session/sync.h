/* sync.h - making a session hold a conversation that is given whole. */
#ifndef TARNI_SYNC_H
#define TARNI_SYNC_H

#include "session.h"

tarn_status tarni_sync_json(tarn_session *s, const char *json, size_t n_bytes, tarn_sync *out,
                            tarn_error *err);
tarn_status tarni_sync_messages(tarn_session *s, const tarn_message *messages, size_t n_messages,
                                tarn_sync *out, tarn_error *err);

#endif
