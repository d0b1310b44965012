/* Watching a turn for tool calls.
 *
 * The parser stands at a token of a turn (turn_begin, position). If the session stands elsewhere
 * when a token is sampled, because the turn is a new one or the session was resumed, forked or
 * moved inside it, the turn is read again from its beginning, which has no events but for a call
 * that is still open: that is told as if it began now. */
#include "watch.h"

#include "turncalls.h"

#include <string.h>

static void push(tarn_session *s, tarn_event_kind kind, const tarni_tool_call *call,
                 const char *problem, const uint8_t *text, size_t n_bytes)
{
    tarn_event event = {
        .kind = kind, .session = s, .position = s->live.tokens.n_ids, .problem = problem};
    tarni_events_push_call(&s->engine->events, &event, call, text, n_bytes);
}

/* Tells what became whole of the arguments in the engine's piece, and empties it. */
static void push_arguments(tarn_session *s, const tarni_tool_call *call)
{
    tarni_writer *piece = &s->engine->piece;
    if (piece->n_bytes > 0)
        push(s, TARN_EVENT_CALL_ARGUMENTS, call, NULL, piece->data, piece->n_bytes);
    piece->n_bytes = 0;
    piece->failed = false;
}

static void tell_begin(tarn_session *s)
{
    tarni_watch *w = &s->watch;
    tarni_tool_call call = tarni_call_parser_current(&w->parser);
    w->text = (tarni_text_stream){0};
    push(s, TARN_EVENT_CALL_BEGIN, &call, NULL, NULL, 0);
    tarni_text_stream_bytes(&w->text, call.arguments, call.arguments_bytes, &s->engine->piece);
    push_arguments(s, &call);
}

/* The call that ended is the last of the parser's, its text at text_at. */
static tarni_tool_call ended_call(const tarni_call_parser *p)
{
    tarni_tool_call call = p->out.calls[p->out.n_calls - 1];
    call.id = p->text.data ? (const char *)p->text.data + p->news.text_at : "";
    call.arguments = call.id + call.id_bytes;
    tarni_tool_call_name(&call);
    return call;
}

static void tell(tarn_session *s)
{
    tarni_watch *w = &s->watch;
    const tarni_call_parser *p = &w->parser;
    const tarni_call_news *news = &p->news;
    const uint8_t *text = p->text.data ? p->text.data + news->text_at : NULL;
    tarni_tool_call call = tarni_call_parser_current(p);
    if (news->began) {
        tell_begin(s);
    } else if (news->ended) {
        call = ended_call(p);
        tarni_text_stream_flush(&w->text, &s->engine->piece);
        push_arguments(s, &call);
        push(s, TARN_EVENT_CALL_END, &call, news->problem, (const uint8_t *)call.arguments,
             call.arguments_bytes);
    } else if (news->problem) {
        call = (tarni_tool_call){.id = "", .name = ""};
        push(s, TARN_EVENT_CALL_MALFORMED, &call, news->problem, text, news->text_bytes);
    } else if (news->text_bytes > 0) {
        tarni_text_stream_bytes(&w->text, (const char *)text, news->text_bytes, &s->engine->piece);
        push_arguments(s, &call);
    }
}

/* Reads the turn up to but for its last token. */
static tarn_status catch_up(tarn_session *s, tarn_error *err)
{
    tarni_watch *w = &s->watch;
    const tarni_timeline *live = &s->live;
    tarni_call_parser_fini(&w->parser);
    tarni_call_parser_init(&w->parser, &s->engine->model->chat, &s->engine->pools.allocator);
    w->turn_begin = live->tail_begin;
    for (w->position = live->tail_begin; w->position + 1 < live->tokens.n_ids; w->position++)
        TARNI_TRY(tarni_call_parser_feed(&w->parser, live->tokens.ids[w->position], err));
    if (tarni_call_parser_in_arguments(&w->parser))
        tell_begin(s);
    return TARN_OK;
}

tarn_status tarni_watch_token(tarn_session *s, uint32_t id, bool *in_calls, tarn_error *err)
{
    tarni_watch *w = &s->watch;
    const tarni_model *model = s->engine->model;
    *in_calls = false;
    if (!model->has_chat || !model->chat.has_calls)
        return TARN_OK;
    bool here = w->parser.chat && w->turn_begin == s->live.tail_begin &&
                w->position + 1 == s->live.tokens.n_ids;
    tarn_status status = here ? TARN_OK : catch_up(s, err);
    *in_calls = tarni_watch_inside(s);
    if (status == TARN_OK)
        status = tarni_call_parser_feed(&w->parser, id, err);
    if (status != TARN_OK) {
        tarni_watch_fini(s);
        return status;
    }
    w->position++;
    *in_calls = *in_calls || tarni_watch_inside(s);
    tell(s);
    return TARN_OK;
}

bool tarni_watch_inside(const tarn_session *s)
{
    return s->watch.parser.chat && tarni_call_parser_inside(&s->watch.parser);
}

void tarni_watch_fini(tarn_session *s)
{
    tarni_call_parser_fini(&s->watch.parser);
    s->watch = (tarni_watch){0};
}

/* The calls in the segment, by their ids, and in the ledger. */
static tarn_status keep_calls(tarn_session *s, const tarn_allocator *a, tarn_error *err)
{
    size_t n_bytes = 0;
    for (size_t i = 0; i < s->calls.n_calls; i++)
        n_bytes += strlen(s->public_calls[i].id) + 1;
    TARNI_TRY(tarni_ledger_reserve(&s->live.calls, a, s->calls.n_calls, n_bytes, err));
    for (size_t i = 0; i < s->calls.n_calls; i++) {
        TARNI_TRY(tarni_segments_add_call(&s->live.segments, a, s->public_calls[i].id, err));
        tarni_ledger_call(&s->live.calls, s->public_calls[i].id);
    }
    return TARN_OK;
}

tarn_status tarni_watch_finish(tarn_session *s, tarn_error *err)
{
    const tarn_allocator *a = &s->engine->pools.allocator;
    tarni_session_forget_calls(s);
    if (!s->watch.parser.chat)
        return TARN_OK;
    tarni_call_parser_take(&s->watch.parser, &s->calls);
    tarni_watch_fini(s);
    TARNI_TRY(tarni_turn_calls_publish(&s->calls, a, &s->public_calls, err));
    return keep_calls(s, a, err);
}
