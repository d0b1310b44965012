/* revive.h - making a place of the store what a session is: stage, check, swap.
 *
 * Everything that can fail happens beside what is live. Pages are counted as they will be once what
 * is live has gone: a place on the session's own way shares its latents, so going back needs no
 * second set of them. */
#ifndef TARNI_REVIVE_H
#define TARNI_REVIVE_H

#include "resume.h"
#include "session.h"

typedef struct tarni_revival {
    tarni_timeline live;
    tarni_ids replay;
    uint32_t next_slot; /* for a replay that begins with nothing; TARNI_SLOT_NONE: not needed */
    tarni_tool_calls calls;
    tarn_tool_call *public_calls;
} tarni_revival;

/* The name the session has in the store by now: someone may have renamed it. */
tarn_status tarni_revive_name(const tarn_session *s, char name[TARNP_NAME_BYTES_MAX + 1],
                              tarn_error *err);
/* Brings the place of a lineage to life. `swaps`: what is live goes as soon as it has succeeded;
 * then its memory counts. MISMATCH (another model: which part), LIMIT (context, slots, pages; with
 * figures), CORRUPT. After an error *out holds nothing. In the desk's turn. */
tarn_status tarni_revive(tarn_session *s, const tarni_lineage *lineage, bool swaps,
                         tarni_revival *out, tarn_reuse *reuse, tarn_error *err);
void tarni_revival_drop(tarn_session *s, tarni_revival *r);
/* Makes it what the session is. Cannot fail. */
void tarni_revival_take_over(tarn_session *s, tarni_revival *r, const tarn_reuse *reuse);
/* How many tokens' latents the session has that this lineage would read. */
tarn_status tarni_revive_shared(tarn_session *s, const tarni_lineage *lineage, uint64_t *n_tokens,
                                tarn_error *err);

#endif
