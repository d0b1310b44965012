/* A whole conversation from one JSON object.
 *
 * Fields are read into a tarni_message, which points into the JSON as long as it can; joined list
 * contents and arguments written as JSON live in a writer of this message. A field of a wrong type
 * is INVALID and named with its place; fields nobody knows are ignored, as the messages come from
 * many programs that add their own. Details name places, never contents. */
#include "conversation.h"

#include <string.h>

/* One message being read. */
typedef struct reading {
    const tarn_allocator *allocator;
    size_t idx; /* in messages */
    tarni_message message;
    tarni_writer content;   /* joined parts */
    tarni_tool_call *calls; /* owned */
    tarni_writer arguments; /* of all calls that are no strings */
    tarn_error *err;
} reading;

static tarn_status read_message(reading *r, const json_t *json);
static tarn_status read_calls(reading *r, const json_t *list);

/* Where the parts of a conversation are rendered. */
typedef struct rendering {
    const tarni_chat *chat;
    tarni_ids *out;
} rendering;

static tarn_status render_part(void *user, const tarni_conversation_part *part, tarn_error *err)
{
    rendering *r = user;
    return part->tools ? tarni_chat_declare(r->chat, part->tools, r->out, err)
                       : tarni_chat_message(r->chat, part->message, r->out, err);
}

tarn_status tarni_chat_conversation(const tarni_chat *chat, const char *json, size_t n_bytes,
                                    tarni_ids *out, tarn_error *err)
{
    json_t *parsed;
    size_t n_before = out->n_ids;
    rendering r = {chat, out};
    TARNI_TRY(tarni_json_parse("conversation", json, n_bytes, &parsed, err));
    tarn_status status = tarni_conversation_parts(parsed, out->allocator, render_part, &r, err);
    if (status == TARN_OK && json_is_true(json_object_get(parsed, "add_generation_prompt")))
        status = tarni_chat_assistant_header(chat, out, err);
    if (status != TARN_OK)
        out->n_ids = n_before;
    json_decref(parsed);
    return status;
}

/* A conversation being gone through. */
typedef struct walk {
    const tarn_allocator *allocator;
    tarni_conversation_fn fn;
    void *user;
    tarn_error *err;
} walk;

static tarn_status message(const walk *w, size_t idx, const json_t *json)
{
    reading r = {.allocator = w->allocator, .idx = idx, .err = w->err};
    tarni_writer_init(&r.content, r.allocator);
    tarni_writer_init(&r.arguments, r.allocator);
    tarn_status status = read_message(&r, json);
    if (status == TARN_OK)
        status =
            w->fn(w->user, &(tarni_conversation_part){.message = &r.message, .idx = (int64_t)idx},
                  w->err);
    tarni_writer_fini(&r.arguments);
    tarni_writer_fini(&r.content);
    tarni_free(r.allocator, r.calls);
    return status;
}

/* The default system text stands before the first message, so without one there is none. */
static tarn_status default_system(const walk *w, const json_t *text, const json_t *first)
{
    if (!text || json_is_null(text))
        return TARN_OK;
    if (!json_is_string(text))
        return tarni_fail(w->err, TARN_E_INVALID, "default_system: neither text nor null");
    const char *role = json_string_value(json_object_get(first, "role"));
    if (!first || (role && strcmp(role, tarn_role_name(TARN_ROLE_SYSTEM)) == 0))
        return TARN_OK;
    tarni_message m = {.role = TARN_ROLE_SYSTEM,
                       .text = json_string_value(text),
                       .text_bytes = json_string_length(text)};
    return w->fn(w->user, &(tarni_conversation_part){.message = &m, .idx = -1}, w->err);
}

static tarn_status declaration(const walk *w, const json_t *tools)
{
    if (!tools || json_is_null(tools))
        return TARN_OK;
    if (!json_is_array(tools))
        return tarni_fail(w->err, TARN_E_INVALID, "tools: no list");
    if (json_array_size(tools) == 0)
        return TARN_OK;
    return w->fn(w->user, &(tarni_conversation_part){.tools = tools, .idx = -1}, w->err);
}

tarn_status tarni_conversation_parts(const json_t *json, const tarn_allocator *allocator,
                                     tarni_conversation_fn fn, void *user, tarn_error *err)
{
    walk w = {allocator, fn, user, err};
    if (!json_is_object(json))
        return tarni_fail(err, TARN_E_INVALID, "conversation: no object");
    const json_t *messages = json_object_get(json, "messages");
    const json_t *open = json_object_get(json, "add_generation_prompt");
    if (!json_is_array(messages))
        return tarni_fail(err, TARN_E_INVALID, "messages: %s", messages ? "no list" : "missing");
    if (open && !json_is_boolean(open))
        return tarni_fail(err, TARN_E_INVALID, "add_generation_prompt: neither true nor false");
    TARNI_TRY(declaration(&w, json_object_get(json, "tools")));
    TARNI_TRY(
        default_system(&w, json_object_get(json, "default_system"), json_array_get(messages, 0)));
    for (size_t i = 0; i < json_array_size(messages); i++)
        TARNI_TRY(message(&w, i, json_array_get(messages, i)));
    return TARN_OK;
}

/* Text or null; anything else, and text with a NUL, is refused. *out is NULL for null. */
static tarn_status read_text(const reading *r, const json_t *json, const char *field,
                             const char **out)
{
    *out = NULL;
    const json_t *value = json_object_get(json, field);
    if (!value || json_is_null(value))
        return TARN_OK;
    if (!json_is_string(value))
        return tarni_fail(r->err, TARN_E_INVALID, "messages[%zu].%s: neither text nor null", r->idx,
                          field);
    *out = json_string_value(value);
    if (strlen(*out) != json_string_length(value))
        return tarni_fail(r->err, TARN_E_INVALID, "messages[%zu].%s: holds a NUL character", r->idx,
                          field);
    return TARN_OK;
}

static tarn_status read_role(reading *r, const json_t *json)
{
    const char *text = json_string_value(json_object_get(json, "role"));
    for (int role = TARN_ROLE_SYSTEM; text && role <= TARN_ROLE_TOOL; role++)
        if (strcmp(text, tarn_role_name((tarn_role)role)) == 0) {
            r->message.role = (tarn_role)role;
            return TARN_OK;
        }
    return tarni_fail(r->err, TARN_E_INVALID,
                      "messages[%zu].role: none of system, user, assistant, tool", r->idx);
}

/* A list of parts is the text of all parts, joined. */
static tarn_status read_parts(reading *r, const json_t *parts)
{
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i), *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || !json_is_string(text) || strcmp(type, "text") != 0)
            return tarni_fail(r->err, TARN_E_INVALID,
                              "messages[%zu].content[%zu]: no {\"type\":\"text\",\"text\":TEXT}",
                              r->idx, i);
        tarni_put_bytes(&r->content, json_string_value(text), json_string_length(text));
    }
    if (r->content.failed)
        return tarni_fail_memory(r->err, r->content.n_bytes);
    r->message.text = (const char *)r->content.data;
    r->message.text_bytes = r->content.n_bytes;
    return TARN_OK;
}

static tarn_status read_message(reading *r, const json_t *json)
{
    tarni_message *m = &r->message;
    if (!json_is_object(json))
        return tarni_fail(r->err, TARN_E_INVALID, "messages[%zu]: no object", r->idx);
    TARNI_TRY(read_role(r, json));
    TARNI_TRY(read_text(r, json, "name", &m->name));
    const json_t *content = json_object_get(json, "content");
    if (json_is_array(content)) {
        TARNI_TRY(read_parts(r, content));
    } else if (json_is_string(content)) {
        m->text = json_string_value(content);
        m->text_bytes = json_string_length(content);
    } else if (content && !json_is_null(content)) {
        return tarni_fail(r->err, TARN_E_INVALID,
                          "messages[%zu].content: neither text, a list of parts nor null", r->idx);
    }
    if (m->role == TARN_ROLE_TOOL) {
        TARNI_TRY(read_text(r, json, "tool_call_id", &m->call_id));
        if (!m->call_id)
            return tarni_fail(r->err, TARN_E_INVALID, "messages[%zu].tool_call_id: missing",
                              r->idx);
    }
    const json_t *list = json_object_get(json, "tool_calls");
    if (!list || json_is_null(list))
        return TARN_OK;
    if (!json_is_array(list))
        return tarni_fail(r->err, TARN_E_INVALID, "messages[%zu].tool_calls: no list", r->idx);
    if (json_array_size(list) > 0 && m->role != TARN_ROLE_ASSISTANT)
        return tarni_fail(r->err, TARN_E_INVALID,
                          "messages[%zu].tool_calls: only an assistant makes calls", r->idx);
    return read_calls(r, list);
}

/* Until every call is read, `arguments` may move: remember offsets, point at the end. */
static tarn_status read_call(reading *r, size_t idx, const json_t *json)
{
    tarni_tool_call *call = &r->calls[idx];
    const json_t *id = json_object_get(json, "id");
    const json_t *function = json_object_get(json, "function");
    const json_t *arguments = json_object_get(function, "arguments");
    if (!json_is_string(id))
        return tarni_fail(r->err, TARN_E_INVALID, "messages[%zu].tool_calls[%zu].id: no text",
                          r->idx, idx);
    if (!arguments)
        return tarni_fail(r->err, TARN_E_INVALID,
                          "messages[%zu].tool_calls[%zu].function.arguments: missing", r->idx, idx);
    call->id = json_string_value(id);
    call->id_bytes = json_string_length(id);
    size_t start = r->arguments.n_bytes;
    if (json_is_string(arguments))
        tarni_put_bytes(&r->arguments, json_string_value(arguments), json_string_length(arguments));
    else
        tarni_json_write(arguments, TARNI_JSON_SPACED, &r->arguments);
    call->arguments_bytes = r->arguments.n_bytes - start;
    return TARN_OK;
}

static tarn_status read_calls(reading *r, const json_t *list)
{
    size_t n = json_array_size(list);
    TARNI_TRY(tarni_alloc(r->allocator, n, sizeof *r->calls, &r->calls, r->err));
    for (size_t i = 0; i < n; i++)
        TARNI_TRY(read_call(r, i, json_array_get(list, i)));
    if (r->arguments.failed)
        return tarni_fail_memory(r->err, r->arguments.n_bytes);
    const char *at = (const char *)r->arguments.data;
    for (size_t i = 0; i < n; i++) {
        r->calls[i].arguments = at;
        if (r->calls[i].arguments_bytes > 0) /* `at` is NULL if no call has any */
            at += r->calls[i].arguments_bytes;
    }
    r->message.calls = r->calls;
    r->message.n_calls = n;
    return TARN_OK;
}
