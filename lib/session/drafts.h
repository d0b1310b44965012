/* drafts.h - what is about to be queued: a few segments and their ids, built aside and then taken
 * over whole. */
#ifndef TARNI_DRAFTS_H
#define TARNI_DRAFTS_H

#include "session.h"

typedef struct tarni_draft {
    const tarn_allocator *allocator;
    tarni_segments segments;
    tarni_ids ids;
} tarni_draft;

void tarni_draft_init(tarni_draft *d, tarn_session *s);
void tarni_draft_fini(tarni_draft *d);

/* A segment of the ids from `ids_before` on; `call_id` may be NULL. */
tarn_status tarni_draft_segment(tarni_draft *d, tarn_role role, uint8_t flags, const char *call_id,
                                size_t ids_before, tarn_error *err);
/* The end marker of an assistant turn that was left open, if one is. */
tarn_status tarni_draft_closing(tarni_draft *d, const tarn_session *s, tarn_error *err);
/* The draft becomes part of the queue and is empty; a session that was parked comes back first, and
 * is admitted (parking.h): LIMIT. After an error nothing else has changed. */
tarn_status tarni_draft_queue(tarni_draft *d, tarn_session *s, tarn_error *err);

/* The last segment once everything queued is fed. */
typedef struct tarni_tail {
    tarn_role role; /* 0: none */
    bool closed;
} tarni_tail;
tarni_tail tarni_draft_tail(const tarn_session *s);

/* May anything be queued? POISONED, CONFLICT. */
tarn_status tarni_draft_ready(const tarn_session *s, tarn_error *err);
/* UNSUPPORTED for a model without tokenizer or without the markers of messages. */
tarn_status tarni_draft_need_chat(const tarn_session *s, tarn_error *err);
/* LIMIT if so many more ids do not fit the context. */
tarn_status tarni_draft_fits(const tarn_session *s, uint64_t n_more, tarn_error *err);
/* May a tool's result name this call once everything queued is fed? ledger.h has the rule. */
tarn_status tarni_draft_check_answer(const tarn_session *s, const char *call_id, tarn_error *err);

#endif
