/* Calls out of an assistant's ids.
 *
 * Only marker ids count, never text that looks like one. The states and what moves them:
 *
 *     OUTSIDE --calls_begin--> BETWEEN --call_begin--> IN_ID --argument_begin--> IN_ARGUMENTS
 *        ^---------calls_end------|  ^-------------------call_end---------------------|
 *
 * Any other special id, or a marker in a state that has no arrow for it, is out of place: the call
 * it stands in is given up, the result is marked malformed and reading goes on, so that every whole
 * call is listed. White space between calls is nothing; other text there is malformed, too.
 *
 * Ids come one at a time, while they are generated or all at once; what the last one meant is
 * `news` until the next. What is given up is not lost: the news hold its text. */
#include "chat.h"

#include "jsontext.h"

#include <string.h>

enum { OUTSIDE, BETWEEN, IN_ID, IN_ARGUMENTS };

static const char out_of_place[] = "a marker out of place";
static const char text_between[] = "text between calls";
static const char cut_off[] = "cut off by the end of the turn";
static const char no_json[] = "the arguments are no JSON";

static void point(tarni_tool_calls *calls);

void tarni_call_parser_init(tarni_call_parser *p, const tarni_chat *chat,
                            const tarn_allocator *allocator)
{
    *p = (tarni_call_parser){.chat = chat, .out = {.allocator = allocator}};
    tarni_writer_init(&p->text, allocator);
}

void tarni_call_parser_fini(tarni_call_parser *p)
{
    if (p->text.allocator)
        tarni_writer_fini(&p->text);
    tarni_tool_calls_fini(&p->out);
    *p = (tarni_call_parser){0};
}

bool tarni_call_parser_inside(const tarni_call_parser *p)
{
    return p->at != OUTSIDE;
}

bool tarni_call_parser_in_arguments(const tarni_call_parser *p)
{
    return p->at == IN_ARGUMENTS;
}

tarni_tool_call tarni_call_parser_current(const tarni_call_parser *p)
{
    const char *text = p->text.data ? (const char *)p->text.data + p->start : "";
    size_t id_bytes = p->at == IN_ARGUMENTS ? p->id_bytes : p->text.n_bytes - p->start;
    tarni_tool_call call = {.id = text,
                            .id_bytes = id_bytes,
                            .arguments = text + id_bytes,
                            .arguments_bytes = p->text.n_bytes - p->start - id_bytes};
    tarni_tool_call_name(&call);
    return call;
}

void tarni_call_parser_take(tarni_call_parser *p, tarni_tool_calls *out)
{
    *out = p->out;
    out->text = (char *)p->text.data; /* the writer's buffer becomes the result's */
    p->out = (tarni_tool_calls){0};
    p->text = (tarni_writer){0};
    if (p->at != OUTSIDE)
        out->malformed = true;
    point(out);
}

tarn_status tarni_chat_parse_calls(const tarni_chat *chat, const uint32_t *ids, size_t n_ids,
                                   const tarn_allocator *allocator, tarni_tool_calls *out,
                                   tarn_error *err)
{
    *out = (tarni_tool_calls){.allocator = allocator};
    if (!chat->has_calls)
        return TARN_OK;
    tarni_call_parser p;
    tarni_call_parser_init(&p, chat, allocator);
    tarn_status status = TARN_OK;
    for (size_t i = 0; i < n_ids && status == TARN_OK; i++)
        status = tarni_call_parser_feed(&p, ids[i], err);
    if (status == TARN_OK)
        tarni_call_parser_take(&p, out);
    tarni_call_parser_fini(&p);
    return status;
}

void tarni_tool_calls_fini(tarni_tool_calls *calls)
{
    if (calls->allocator) {
        tarni_free(calls->allocator, calls->calls);
        tarni_free(calls->allocator, calls->text);
    }
    *calls = (tarni_tool_calls){0};
}

/* *problem: NULL if the text is JSON. */
static tarn_status check_json(const uint8_t *text, size_t n_bytes, const char **problem,
                              tarn_error *err)
{
    json_t *parsed = NULL;
    tarn_error why;
    tarn_status status = tarni_json_parse("arguments", (const char *)text, n_bytes, &parsed, &why);
    json_decref(parsed);
    *problem = status == TARN_OK ? NULL : no_json;
    if (status != TARN_E_NO_MEMORY)
        return TARN_OK;
    *err = why;
    return status;
}

/* The call being read is whole. */
static tarn_status finish_call(tarni_call_parser *p, tarn_error *err)
{
    tarni_tool_calls *out = &p->out;
    const char *problem;
    size_t n_bytes = p->text.n_bytes - p->start - p->id_bytes;
    const uint8_t *text = p->text.data ? p->text.data + p->start + p->id_bytes : (uint8_t *)"";
    TARNI_TRY(check_json(text, n_bytes, &problem, err));
    TARNI_TRY(tarni_grow(out->allocator, &out->calls, &p->calls_max, out->n_calls + 1,
                         sizeof *out->calls, err));
    out->calls[out->n_calls++] =
        (tarni_tool_call){.id_bytes = p->id_bytes, .arguments_bytes = n_bytes, .problem = problem};
    p->news = (tarni_call_news){.ended = true, .problem = problem, .text_at = p->start};
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

/* What was read since `start` is given up; its bytes stay in place until the next id. */
static void give_up(tarni_call_parser *p, const char *problem)
{
    p->out.malformed = true;
    p->news = (tarni_call_news){
        .problem = problem, .text_at = p->start, .text_bytes = p->text.n_bytes - p->start};
}

static tarn_status text_id(tarni_call_parser *p, uint32_t id, tarn_error *err)
{
    if (p->at == OUTSIDE)
        return TARN_OK;
    size_t before = p->text.n_bytes;
    TARNI_TRY(tarni_tokenizer_decode(p->chat->tokenizer, &id, 1, &p->text, err));
    if (p->at == BETWEEN) {
        if (!is_blank(p->text.data + p->start, p->text.n_bytes - p->start))
            give_up(p, text_between);
        p->text.n_bytes = p->start;
    } else if (p->at == IN_ARGUMENTS) {
        p->news.text_at = before;
        p->news.text_bytes = p->text.n_bytes - before;
    }
    return TARN_OK;
}

/* A special id that is no arrow inside a call: what was read of one is given up. */
static void other_marker(tarni_call_parser *p, uint32_t id)
{
    const tarni_chat *c = p->chat;
    bool part = id == c->call_argument_begin || id == c->call_end;
    bool in_place = p->at == OUTSIDE
                        ? id != c->call_begin && id != c->calls_end && !part
                        : p->at == BETWEEN && (id == c->call_begin || id == c->calls_end);
    if (!in_place)
        give_up(p, id == c->im_end ? cut_off : out_of_place);
    p->text.n_bytes = p->start;
    if (id == c->call_begin)
        p->at = IN_ID;
    else if (id == c->calls_begin || (part && p->at != OUTSIDE))
        p->at = BETWEEN;
    else
        p->at = OUTSIDE;
}

tarn_status tarni_call_parser_feed(tarni_call_parser *p, uint32_t id, tarn_error *err)
{
    const tarni_chat *c = p->chat;
    p->news = (tarni_call_news){0};
    if (!tarni_tokenizer_is_special(c->tokenizer, id))
        return text_id(p, id, err);
    if (id == c->call_argument_begin && p->at == IN_ID) {
        p->id_bytes = p->text.n_bytes - p->start;
        p->at = IN_ARGUMENTS;
        p->news.began = true;
        return TARN_OK;
    }
    if (id == c->call_end && p->at == IN_ARGUMENTS)
        return finish_call(p, err);

    other_marker(p, id);
    return TARN_OK;
}

/* "functions.NAME:INDEX": NAME; an id of any other form is its own name. */
void tarni_tool_call_name(tarni_tool_call *call)
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
        tarni_tool_call_name(call);
    }
}
