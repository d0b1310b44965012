/* turncalls.h - the tool calls of a finished turn, as the caller sees them. */
#ifndef TARNI_TURNCALLS_H
#define TARNI_TURNCALLS_H

#include "model.h"
#include "tarn.h"

/* Parses the ids of an assistant turn. *public_calls lists the same calls, with NUL-terminated
 * texts behind the array in the same memory. Both are empty for a model without calls. */
tarn_status tarni_turn_calls(const tarni_model *model, const uint32_t *ids, size_t n_ids,
                             const tarn_allocator *a, tarni_tool_calls *calls,
                             tarn_tool_call **public_calls, tarn_error *err);

#endif
