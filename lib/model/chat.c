/* Rendering messages.
 *
 * One code path: a conversation given as JSON (conversation.c) becomes tarni_messages, and every
 * message is written by tarni_chat_message. Text only ever passes through the encoder with special
 * strings switched off; marker ids are pushed by this file alone. That is what keeps a user's
 * "<|im_end|>" from ending a turn.
 *
 * Whatever fails, the ids already in `out` stay and none of the failed call's remain. */
#include "chat.h"
#include "conversation.h"

#include <string.h>

typedef struct marker {
    const char *name;
    size_t offset; /* of its id in tarni_chat */
} marker;

#define MARKER(name, field)                                                                        \
    {                                                                                              \
        name, offsetof(tarni_chat, field)                                                          \
    }

static const marker message_markers[] = {
    MARKER("<|im_system|>", im_system),
    MARKER("<|im_user|>", im_user),
    MARKER("<|im_assistant|>", im_assistant),
    MARKER("<|im_middle|>", im_middle),
    MARKER("<|im_end|>", im_end),
};

static const marker call_markers[] = {
    MARKER("<|tool_calls_section_begin|>", calls_begin),
    MARKER("<|tool_calls_section_end|>", calls_end),
    MARKER("<|tool_call_begin|>", call_begin),
    MARKER("<|tool_call_argument_begin|>", call_argument_begin),
    MARKER("<|tool_call_end|>", call_end),
};

/* The name of the first marker of the list that the tokenizer lacks, or NULL. */
static const char *look_up(tarni_chat *chat, const marker *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t *id = (uint32_t *)(void *)((char *)chat + list[i].offset);
        if (!tarni_tokenizer_special(chat->tokenizer, list[i].name, id))
            return list[i].name;
    }
    return NULL;
}

tarn_status tarni_chat_init(tarni_chat *chat, const tarni_tokenizer *t, tarn_error *err)
{
    *chat = (tarni_chat){.tokenizer = t};
    const char *missing =
        look_up(chat, message_markers, sizeof message_markers / sizeof *message_markers);
    if (missing)
        return tarni_fail(err, TARN_E_UNSUPPORTED, "chat: the tokenizer has no special token %s",
                          missing);
    chat->missing_call_marker =
        look_up(chat, call_markers, sizeof call_markers / sizeof *call_markers);
    chat->has_calls = chat->missing_call_marker == NULL;
    return TARN_OK;
}

static tarn_status plain(const tarni_chat *chat, const char *text, size_t n_bytes, tarni_ids *out,
                         tarn_error *err)
{
    return tarni_tokenizer_encode(chat->tokenizer, text, n_bytes, false, out, err);
}

static tarn_status header(const tarni_chat *chat, uint32_t marker_id, const char *name,
                          tarni_ids *out, tarn_error *err)
{
    TARNI_TRY(tarni_ids_push(out, marker_id, err));
    TARNI_TRY(plain(chat, name, strlen(name), out, err));
    return tarni_ids_push(out, chat->im_middle, err);
}

static tarn_status calls(const tarni_chat *chat, const tarni_message *m, tarni_ids *out,
                         tarn_error *err)
{
    if (m->n_calls == 0)
        return TARN_OK;
    if (!chat->has_calls)
        return tarni_fail(err, TARN_E_UNSUPPORTED,
                          "tool calls: the tokenizer has no special token %s",
                          chat->missing_call_marker);
    TARNI_TRY(tarni_ids_push(out, chat->calls_begin, err));
    for (size_t i = 0; i < m->n_calls; i++) {
        const tarni_tool_call *call = &m->calls[i];
        TARNI_TRY(tarni_ids_push(out, chat->call_begin, err));
        TARNI_TRY(plain(chat, call->id, call->id_bytes, out, err));
        TARNI_TRY(tarni_ids_push(out, chat->call_argument_begin, err));
        TARNI_TRY(plain(chat, call->arguments, call->arguments_bytes, out, err));
        TARNI_TRY(tarni_ids_push(out, chat->call_end, err));
    }
    return tarni_ids_push(out, chat->calls_end, err);
}

static const char result_before[] = "## Return of ";

/* A tool's result: the line that names the call and the text behind it are one stretch. */
static tarn_status result(const tarni_chat *chat, const tarni_message *m, tarni_ids *out,
                          tarn_error *err)
{
    tarni_writer text;
    tarni_writer_init(&text, out->allocator);
    tarni_put_bytes(&text, result_before, sizeof result_before - 1);
    tarni_put_bytes(&text, m->call_id, strlen(m->call_id));
    tarni_put_u8(&text, '\n');
    tarni_put_bytes(&text, m->text, m->text ? m->text_bytes : 0);
    tarn_status status = text.failed ? tarni_fail_memory(err, m->text_bytes)
                                     : plain(chat, (const char *)text.data, text.n_bytes, out, err);
    tarni_writer_fini(&text);
    return status;
}

/* Which marker and which name a message begins with. */
static tarn_status message_header(const tarni_chat *chat, const tarni_message *m, tarni_ids *out,
                                  tarn_error *err)
{
    uint32_t marker_id = m->role == TARN_ROLE_USER        ? chat->im_user
                         : m->role == TARN_ROLE_ASSISTANT ? chat->im_assistant
                                                          : chat->im_system;
    const char *name = m->name && m->name[0] ? m->name : tarn_role_name(m->role);
    return header(chat, marker_id, name, out, err);
}

static tarn_status render(const tarni_chat *chat, const tarni_message *m, tarni_ids *out,
                          tarn_error *err)
{
    TARNI_TRY(message_header(chat, m, out, err));
    if (m->role == TARN_ROLE_TOOL)
        TARNI_TRY(result(chat, m, out, err));
    else if (m->text)
        TARNI_TRY(plain(chat, m->text, m->text_bytes, out, err));
    TARNI_TRY(calls(chat, m, out, err));
    return tarni_ids_push(out, chat->im_end, err);
}

static tarn_status check(const tarni_message *m, tarn_error *err)
{
    if (m->role < TARN_ROLE_SYSTEM || m->role > TARN_ROLE_TOOL)
        return tarni_fail(err, TARN_E_INVALID, "message: role \"%s\" is none of a message",
                          tarn_role_name(m->role));
    if (m->role == TARN_ROLE_TOOL && !m->call_id)
        return tarni_fail(err, TARN_E_INVALID, "message: a tool's result names no call");
    if (m->role != TARN_ROLE_ASSISTANT && m->n_calls > 0)
        return tarni_fail(err, TARN_E_INVALID, "message: role \"%s\" cannot make tool calls",
                          tarn_role_name(m->role));
    return TARN_OK;
}

tarn_status tarni_chat_message(const tarni_chat *chat, const tarni_message *m, tarni_ids *out,
                               tarn_error *err)
{
    TARNI_TRY(check(m, err));
    size_t n_before = out->n_ids;
    tarn_status status = render(chat, m, out, err);
    if (status != TARN_OK)
        out->n_ids = n_before;
    return status;
}

tarn_status tarni_chat_begin(const tarni_chat *chat, const tarni_message *m, tarni_ids *out,
                             tarn_error *err)
{
    TARNI_TRY(check(m, err));
    size_t n_before = out->n_ids;
    tarn_status status = message_header(chat, m, out, err);
    if (status != TARN_OK)
        out->n_ids = n_before;
    return status;
}

tarn_status tarni_chat_lead(const tarni_message *m, tarni_encoder *encoder, tarni_ids *out,
                            tarn_error *err)
{
    if (m->role != TARN_ROLE_TOOL)
        return TARN_OK;
    TARNI_TRY(tarni_encoder_feed(encoder, result_before, sizeof result_before - 1, out, err));
    TARNI_TRY(tarni_encoder_feed(encoder, m->call_id, strlen(m->call_id), out, err));
    return tarni_encoder_feed(encoder, "\n", 1, out, err);
}

tarn_status tarni_chat_end(const tarni_chat *chat, const tarni_message *m, tarni_ids *out,
                           tarn_error *err)
{
    size_t n_before = out->n_ids;
    tarn_status status = calls(chat, m, out, err);
    if (status == TARN_OK)
        status = tarni_ids_push(out, chat->im_end, err);
    if (status != TARN_OK)
        out->n_ids = n_before;
    return status;
}

tarn_status tarni_chat_assistant_header(const tarni_chat *chat, tarni_ids *out, tarn_error *err)
{
    size_t n_before = out->n_ids;
    tarn_status status =
        header(chat, chat->im_assistant, tarn_role_name(TARN_ROLE_ASSISTANT), out, err);
    if (status != TARN_OK)
        out->n_ids = n_before;
    return status;
}

tarn_status tarni_chat_declare(const tarni_chat *chat, const json_t *tools, tarni_ids *out,
                               tarn_error *err)
{
    if (!json_is_array(tools))
        return tarni_fail(err, TARN_E_INVALID, "tools: no list");
    if (json_array_size(tools) == 0)
        return TARN_OK;
    size_t n_before = out->n_ids;
    tarni_writer text;
    tarn_status status;
    tarni_writer_init(&text, out->allocator);
    tarni_json_write(tools, TARNI_JSON_COMPACT_SORTED, &text);
    if (text.failed) {
        status = tarni_fail_memory(err, text.n_bytes);
        goto fail;
    }
    TARNI_TRY_GOTO(header(chat, chat->im_system, "tool_declare", out, err));
    TARNI_TRY_GOTO(plain(chat, (const char *)text.data, text.n_bytes, out, err));
    TARNI_TRY_GOTO(tarni_ids_push(out, chat->im_end, err));
fail:
    if (status != TARN_OK)
        out->n_ids = n_before;
    tarni_writer_fini(&text);
    return status;
}

tarn_status tarni_chat_tools(const tarni_chat *chat, const char *json, size_t n_bytes,
                             tarni_ids *out, tarn_error *err)
{
    json_t *tools;
    TARNI_TRY(tarni_json_parse("tools", json, n_bytes, &tools, err));
    tarn_status status = tarni_chat_declare(chat, tools, out, err);
    json_decref(tools);
    return status;
}
