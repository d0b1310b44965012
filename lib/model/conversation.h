/* conversation.h - the part of the chat format that works on parsed JSON. */
#ifndef TARN_MODEL_CONVERSATION_H
#define TARN_MODEL_CONVERSATION_H

#include "chat.h"
#include "jsontext.h"

/* tarni_chat_tools for a parsed value; `out` is unchanged after an error. */
tarn_status tarni_chat_declare(const tarni_chat *chat, const json_t *tools, tarni_ids *out,
                               tarn_error *err);

#endif
