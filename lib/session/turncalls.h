/* turncalls.h - the tool calls of a finished turn, as the caller sees them.
 *
 * A turn that was generated has been read by watch.c; one that is in the store, or a parent's, is
 * read here. */
#ifndef TARNI_TURNCALLS_H
#define TARNI_TURNCALLS_H

#include "model.h"
#include "timeline.h"

/* The same calls with NUL-terminated texts, which stand behind the array in the same memory. */
tarn_status tarni_turn_calls_publish(const tarni_tool_calls *calls, const tarn_allocator *a,
                                     tarn_tool_call **out, tarn_error *err);
/* Parses the last finished turn of a timeline. *public_calls is what publish makes of them. Both
 * are empty for a model without calls. */
tarn_status tarni_turn_calls(const tarni_model *model, const tarni_timeline *t,
                             tarni_tool_calls *calls, tarn_tool_call **public_calls,
                             tarn_error *err);

#endif
