/* Calls out of an assistant's ids.
 *
 * Only marker ids count, never text that looks like one. The states and what moves them:
 *
 *     OUTSIDE --calls_begin--> BETWEEN --call_begin--> IN_ID --argument_begin--> IN_ARGUMENTS
 *        ^---------calls_end------|  ^-------------------call_end---------------------|
 *
 * Any other special id, or a marker in a state that has no arrow for it, is out of place: the call
 * it stands in is given up, the result is marked malformed and reading goes on, so that every whole
 * call is listed. White space between calls is nothing; other text there is malformed, too. */
#include "chat.h"

#include <string.h>

typedef enum place { OUTSIDE, BETWEEN, IN_ID, IN_ARGUMENTS } place;

typedef struct parsing {
    const tarni_chat *chat;
    place at;
    tarni_writer text;     /* ids and arguments of whole calls, then of the one being read */
    size_t start;          /* of the one being read */
    size_t id_bytes;       /* of it, from IN_ARGUMENTS on */
    tarni_tool_calls *out; /* pointers are set at the end: `text` moves while it grows */
    size_t calls_max;
    tarn_error *err;
} parsing;

static tarn_status step(parsing *p, uint32_t id);
static void point(tarni_tool_calls *calls);

tarn_status tarni_chat_parse_calls(const tarni_chat *chat, const uint32_t *ids, size_t n_ids,
                                   const tarn_allocator *allocator, tarni_tool_calls *out,
                                   tarn_error *err)
{
    *out = (tarni_tool_calls){.allocator = allocator};
    if (!chat->has_calls)
        return TARN_OK;
    parsing p = {.chat = chat, .out = out, .err = err};
    tarni_writer_init(&p.text, allocator);
    tarn_status status = TARN_OK;
    for (size_t i = 0; i < n_ids && status == TARN_OK; i++)
        status = step(&p, ids[i]);
    out->text = (char *)p.text.data; /* the writer's buffer becomes the result's */
    if (status != TARN_OK) {
        tarni_tool_calls_fini(out);
        return status;
    }
    if (p.at != OUTSIDE)
        out->malformed = true;
    point(out);
    return TARN_OK;
}

void tarni_tool_calls_fini(tarni_tool_calls *calls)
{
    if (calls->allocator) {
        tarni_free(calls->allocator, calls->calls);
        tarni_free(calls->allocator, calls->text);
    }
    *calls = (tarni_tool_calls){0};
}

/* The call being read is whole. */
static tarn_status finish_call(parsing *p)
{
    tarni_tool_calls *out = p->out;
    TARNI_TRY(tarni_grow(out->allocator, &out->calls, &p->calls_max, out->n_calls + 1,
                         sizeof *out->calls, p->err));
    out->calls[out->n_calls++] = (tarni_tool_call){
        .id_bytes = p->id_bytes,
        .arguments_bytes = p->text.n_bytes - p->start - p->id_bytes,
    };
    p->start = p->text.n_bytes;
    p->at = BETWEEN;
    return TARN_OK;
}

static bool is_blank(const uint8_t *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        if (text[i] != ' ' && text[i] != '\n' && text[i] != '\r' && text[i] != '\t')
            return false;
    return true;
}

static tarn_status text_id(parsing *p, uint32_t id)
{
    if (p->at == OUTSIDE)
        return TARN_OK;
    TARNI_TRY(tarni_tokenizer_decode(p->chat->tokenizer, &id, 1, &p->text, p->err));
    if (p->at == BETWEEN) {
        if (!is_blank(p->text.data + p->start, p->text.n_bytes - p->start))
            p->out->malformed = true;
        p->text.n_bytes = p->start;
    }
    return TARN_OK;
}

/* A special id that is no arrow inside a call: what was read of one is given up. */
static void other_marker(parsing *p, uint32_t id)
{
    const tarni_chat *c = p->chat;
    bool part = id == c->call_argument_begin || id == c->call_end;
    bool in_place = p->at == OUTSIDE
                        ? id != c->call_begin && id != c->calls_end && !part
                        : p->at == BETWEEN && (id == c->call_begin || id == c->calls_end);
    if (!in_place)
        p->out->malformed = true;
    p->text.n_bytes = p->start;
    if (id == c->call_begin)
        p->at = IN_ID;
    else if (id == c->calls_begin || (part && p->at != OUTSIDE))
        p->at = BETWEEN;
    else
        p->at = OUTSIDE;
}

static tarn_status step(parsing *p, uint32_t id)
{
    const tarni_chat *c = p->chat;
    if (!tarni_tokenizer_is_special(c->tokenizer, id))
        return text_id(p, id);
    if (id == c->call_argument_begin && p->at == IN_ID) {
        p->id_bytes = p->text.n_bytes - p->start;
        p->at = IN_ARGUMENTS;
        return TARN_OK;
    }
    if (id == c->call_end && p->at == IN_ARGUMENTS)
        return finish_call(p);

    other_marker(p, id);
    return TARN_OK;
}

/* "functions.NAME:INDEX": NAME; an id of any other form is its own name. */
static void set_name(tarni_tool_call *call)
{
    static const char before[] = "functions.";
    size_t skip = sizeof before - 1;
    call->name = call->id;
    call->name_bytes = call->id_bytes;
    if (call->id_bytes <= skip || memcmp(call->id, before, skip) != 0)
        return;
    const char *colon = memrchr(call->id + skip, ':', call->id_bytes - skip);
    if (!colon || colon == call->id + skip)
        return;
    call->name = call->id + skip;
    call->name_bytes = (size_t)(colon - call->name);
}

static void point(tarni_tool_calls *calls)
{
    const char *at = calls->text;
    for (size_t i = 0; i < calls->n_calls; i++) {
        tarni_tool_call *call = &calls->calls[i];
        call->id = at ? at : "";
        call->arguments = call->id + call->id_bytes;
        at = call->arguments + call->arguments_bytes;
        set_name(call);
    }
}
