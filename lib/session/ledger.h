/* ledger.h - the tool calls of a session's history, and which of them have been answered.
 *
 * A result answers a call by its id. The rule:
 *   - an id whose last call has no answer yet: accepted;
 *   - an id whose last call was answered: refused;
 *   - an id no assistant turn called: refused while calls of the last assistant turn wait, for then
 *     it is most likely a mistake; else accepted, as something the host tells of its own accord.
 * Calls that were not answered when the next assistant turn began no longer wait, but may still be
 * answered. */
#ifndef TARNI_LEDGER_H
#define TARNI_LEDGER_H

#include "memory.h"

typedef struct tarni_call_mark {
    size_t id_at; /* in `text`, NUL-terminated */
    bool answered;
} tarni_call_mark;

/* Zeroed it is empty. */
typedef struct tarni_ledger {
    tarni_call_mark *calls; /* owned, in the order they were made */
    size_t n_calls, calls_max;
    size_t n_lapsed; /* the first of the calls that can still be waited for */
    char *text;      /* owned */
    size_t text_bytes, text_max;
} tarni_ledger;

/* Room for so many more calls, with ids of so many bytes and their NULs. */
tarn_status tarni_ledger_reserve(tarni_ledger *l, const tarn_allocator *a, size_t n_calls,
                                 size_t n_bytes, tarn_error *err);
/* There must be room. */
void tarni_ledger_call(tarni_ledger *l, const char *id);
/* Nothing happens for an id that was not called. */
void tarni_ledger_answer(tarni_ledger *l, const char *id);
/* An assistant turn begins. */
void tarni_ledger_turn(tarni_ledger *l);

/* The rule above: INVALID says what waits, EXISTS that it was answered. `session` names it. */
tarn_status tarni_ledger_check(const tarni_ledger *l, const char *session, const char *id,
                               tarn_error *err);

tarn_status tarni_ledger_copy(const tarni_ledger *from, const tarn_allocator *a, tarni_ledger *out,
                              tarn_error *err);
void tarni_ledger_fini(tarni_ledger *l, const tarn_allocator *a);

#endif
