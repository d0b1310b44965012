/* conversation.h - the part of the chat format that works on parsed JSON. */
#ifndef TARN_MODEL_CONVERSATION_H
#define TARN_MODEL_CONVERSATION_H

#include "chat.h"
#include "jsontext.h"

/* tarni_chat_tools for a parsed value; `out` is unchanged after an error. */
tarn_status tarni_chat_declare(const tarni_chat *chat, const json_t *tools, tarni_ids *out,
                               tarn_error *err);

/* One part of a conversation: the declaration of tools, or a message. */
typedef struct tarni_conversation_part {
    const json_t *tools; /* not empty; or NULL */
    const tarni_message *message;
    int64_t idx; /* in the list of messages; -1: it stands before them */
} tarni_conversation_part;

/* Calls fn with every part of a conversation in order; everything is borrowed for the call.
 * `allocator` serves what is made on the way. Returns what fn returns if that is an error. */
typedef tarn_status (*tarni_conversation_fn)(void *user, const tarni_conversation_part *part,
                                             tarn_error *err);
tarn_status tarni_conversation_parts(const json_t *json, const tarn_allocator *allocator,
                                     tarni_conversation_fn fn, void *user, tarn_error *err);

#endif
