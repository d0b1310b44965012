/* message.h - one message of the caller, checked and drafted. */
#ifndef TARNI_MESSAGE_H
#define TARNI_MESSAGE_H

#include "drafts.h"

/* INVALID names what is wrong; a tool's result must answer a call as ledger.h says. */
tarn_status tarni_message_check(const tarn_session *s, const tarn_message *m, tarn_error *err);
/* The message as the layer below knows it: borrows from `m`, but for its array of calls. */
tarn_status tarni_message_translate(const tarn_message *m, const tarn_allocator *a,
                                    tarni_message *out, tarn_error *err);
void tarni_message_free(const tarn_allocator *a, tarni_message *m);
/* Adds the whole message. */
tarn_status tarni_message_draft(tarni_draft *d, const tarn_session *s, const tarni_message *m,
                                tarn_error *err);

#endif
