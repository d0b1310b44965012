#include "feed.h"

#include "drafts.h"
#include "intake.h"
#include "message.h"

#include <string.h>

tarn_status tarni_feed_tokens(tarn_session *s, const uint32_t *ids, size_t n_ids, tarn_error *err)
{
    if (!s->intake.open)
        TARNI_TRY(tarni_draft_ready(s, err));
    uint32_t vocab = s->engine->pools.spec.vocab;
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] >= vocab)
            return tarni_fail(err, TARN_E_INVALID, "id %u at %zu: the vocabulary has %u rows",
                              ids[i], i, vocab);
    if (n_ids == 0)
        return TARN_OK;
    TARNI_TRY(tarni_draft_fits(s, n_ids, err));
    if (s->intake.open)
        return tarni_intake_tokens(s, ids, n_ids, err);
    tarni_draft d;
    tarni_draft_init(&d, s);
    tarn_status status = tarni_ids_append(&d.ids, ids, n_ids, err);
    if (status == TARN_OK)
        status = tarni_draft_segment(&d, TARN_ROLE_TOKENS, 0, NULL, 0, err);
    if (status == TARN_OK)
        status = tarni_draft_queue(&d, s, err);
    tarni_draft_fini(&d);
    return status;
}

tarn_status tarni_feed_message(tarn_session *s, const tarn_message *m, size_t *n_tokens,
                               tarn_error *err)
{
    TARNI_TRY(tarni_draft_ready(s, err));
    TARNI_TRY(tarni_draft_need_chat(s, err));
    TARNI_TRY(tarni_message_check(s, m, err));
    tarni_draft d;
    tarni_message message;
    tarni_draft_init(&d, s);
    TARNI_TRY(tarni_message_translate(m, d.allocator, &message, err));
    tarn_status status = tarni_draft_closing(&d, s, err);
    if (status == TARN_OK)
        status = tarni_message_draft(&d, s, &message, err);
    tarni_message_free(d.allocator, &message);
    size_t n = d.ids.n_ids;
    if (status == TARN_OK)
        status = tarni_draft_queue(&d, s, err);
    if (status == TARN_OK && n_tokens)
        *n_tokens = n;
    tarni_draft_fini(&d);
    return status;
}

tarn_status tarni_feed_tools(tarn_session *s, const char *json, size_t n_bytes, size_t *n_tokens,
                             tarn_error *err)
{
    TARNI_TRY(tarni_draft_ready(s, err));
    TARNI_TRY(tarni_draft_need_chat(s, err));
    tarni_draft d;
    tarni_draft_init(&d, s);
    tarn_status status = tarni_draft_closing(&d, s, err);
    size_t before = d.ids.n_ids;
    if (status == TARN_OK)
        status = tarni_chat_tools(&s->engine->model->chat, json, n_bytes, &d.ids, err);
    bool any = d.ids.n_ids > before;
    if (status == TARN_OK && any)
        status = tarni_draft_segment(&d, TARN_ROLE_TOOLS, TARNP_SEGMENT_CLOSED, NULL, before, err);
    size_t n = any ? d.ids.n_ids : 0;
    if (status == TARN_OK && any)
        status = tarni_draft_queue(&d, s, err);
    if (status == TARN_OK && n_tokens)
        *n_tokens = n;
    tarni_draft_fini(&d);
    return status;
}

static tarn_status draft_header(tarni_draft *d, const tarn_session *s, tarn_error *err)
{
    tarni_tail t = tarni_draft_tail(s);
    bool after_message = t.closed && (t.role == TARN_ROLE_SYSTEM || t.role == TARN_ROLE_USER ||
                                      t.role == TARN_ROLE_TOOL || t.role == TARN_ROLE_TOOLS);
    if (!after_message || !s->engine->model->has_chat) /* messages may be a store's lie */
        return TARN_OK;
    TARNI_TRY(tarni_chat_assistant_header(&s->engine->model->chat, &d->ids, err));
    return tarni_draft_segment(d, TARN_ROLE_ASSISTANT, 0, NULL, 0, err);
}

tarn_status tarni_feed_generation(tarn_session *s, const tarn_generate_options *options,
                                  tarn_error *err)
{
    TARNI_TRY(tarni_draft_ready(s, err));
    if (tarni_session_waiting(s) == 0 && !s->live.has_logits)
        return tarni_fail(err, TARN_E_INVALID, "session %s is empty: nothing to sample from",
                          s->name);
    tarni_generation g = {
        .active = true, .bounded = options->n_tokens_max > 0, .n_left = options->n_tokens_max};
    if (options->n_stop_ids > TARN_STOP_IDS_MAX)
        return tarni_fail(err, TARN_E_INVALID, "n_stop_ids is %zu, the limit is %d",
                          options->n_stop_ids, TARN_STOP_IDS_MAX);
    if (options->n_stop_ids > 0 && !options->stop_ids)
        return tarni_fail(err, TARN_E_INVALID, "stop_ids is NULL and n_stop_ids is %zu",
                          options->n_stop_ids);
    const tarni_model *model = s->engine->model;
    for (g.n_turn_ends = 0; g.n_turn_ends < model->n_stop_ids; g.n_turn_ends++)
        g.stop_ids[g.n_stop_ids++] = model->stop_ids[g.n_turn_ends];
    for (size_t i = 0; i < options->n_stop_ids; i++)
        g.stop_ids[g.n_stop_ids++] = options->stop_ids[i];
    tarni_draft d;
    tarni_draft_init(&d, s);
    tarn_status status = draft_header(&d, s, err);
    if (status == TARN_OK)
        status = tarni_draft_queue(&d, s, err);
    tarni_draft_fini(&d);
    if (status == TARN_OK)
        s->generation = g;
    return status;
}

/* The live segment that rows of this role and these flags belong to. */
static tarnp_segment *live_segment(tarni_timeline *live, const tarnp_segment *planned)
{
    tarni_segments *segments = &live->segments;
    bool continues = planned->flags & TARNP_SEGMENT_CONTINUES;
    if (continues && segments->n > 0)
        return &segments->items[segments->n - 1];
    TARN_ASSERT(segments->n < segments->capacity);
    tarnp_segment *out = &segments->items[segments->n++];
    *out = (tarnp_segment){.role = planned->role,
                           .flags = planned->flags & (uint8_t)~TARNP_SEGMENT_CLOSED};
    if (!continues) {
        if (planned->role == TARN_ROLE_ASSISTANT)
            tarni_ledger_turn(&live->calls);
        live->tail_begin = live->tokens.n_ids;
        live->turns += planned->role == TARN_ROLE_ASSISTANT;
    }
    live->tail_role = planned->role;
    live->tail_closed = false;
    return out;
}

/* The calls of what is fed, into the ledger, where there is room, and from the plan into the live
 * segment: an answer is one from its first id on, a turn has made its calls when it has ended. */
static void hand_calls_over(tarni_timeline *live, tarnp_segment *planned, tarnp_segment *segment)
{
    for (size_t i = 0; i < planned->n_call_ids; i++)
        if (planned->role == TARN_ROLE_ASSISTANT)
            tarni_ledger_call(&live->calls, planned->call_ids[i]);
        else
            tarni_ledger_answer(&live->calls, planned->call_ids[i]);
    if (planned->n_call_ids == 0)
        return;
    TARN_ASSERT(segment->n_call_ids == 0);
    tarni_free(&live->pools->allocator, segment->call_ids);
    segment->call_ids = planned->call_ids;
    segment->n_call_ids = planned->n_call_ids;
    planned->call_ids = NULL;
    planned->n_call_ids = 0;
}

static void feed_planned(tarn_session *s, size_t n_ids)
{
    tarni_timeline *live = &s->live;
    const uint32_t *ids = s->queue.ids + s->queue_at;
    while (n_ids > 0) {
        tarnp_segment *planned = &s->plan.items[s->plan_at];
        tarnp_segment part = *planned;
        if (s->plan_fed > 0) /* the first part may be in a kept node already */
            part.flags |= TARNP_SEGMENT_CONTINUES;
        tarnp_segment *segment = live_segment(live, &part);
        uint32_t n = planned->n_tokens - s->plan_fed;
        if (n > n_ids)
            n = (uint32_t)n_ids;
        bool is_last = s->plan_fed + n == planned->n_tokens;
        if (planned->role != TARN_ROLE_ASSISTANT || is_last)
            hand_calls_over(live, planned, segment);
        memcpy(live->tokens.ids + live->tokens.n_ids, ids, n * sizeof *ids);
        live->tokens.n_ids += n;
        segment->n_tokens += n;
        s->plan_fed += n;
        ids += n;
        n_ids -= n;
        if (is_last) {
            if (planned->flags & TARNP_SEGMENT_CLOSED)
                tarni_feed_close_turn(s);
            s->plan_at++;
            s->plan_fed = 0;
        }
    }
}

void tarni_feed_done(tarn_session *s, size_t n_ids)
{
    TARN_ASSERT(n_ids <= tarni_session_waiting(s));
    size_t n_replay = n_ids < s->n_replay ? n_ids : s->n_replay;
    tarni_ids *tokens = &s->live.tokens;
    memcpy(tokens->ids + tokens->n_ids, s->queue.ids + s->queue_at, n_replay * sizeof *tokens->ids);
    tokens->n_ids += n_replay;
    s->n_replay -= n_replay;
    s->queue_at += n_replay;
    feed_planned(s, n_ids - n_replay);
    s->queue_at += n_ids - n_replay;
    tarni_feed_tidy(s);
}

void tarni_feed_tidy(tarn_session *s)
{
    if (s->queue_at < s->queue.n_ids)
        return;
    s->queue_at = s->queue.n_ids = 0;
    tarni_segments_clear(&s->plan, &s->engine->pools.allocator);
    s->plan_at = 0;
}

tarn_status tarni_feed_reserve_sampled(tarn_session *s, tarn_error *err)
{
    tarni_timeline *live = &s->live;
    const tarn_allocator *a = &s->engine->pools.allocator;
    size_t position = live->tokens.n_ids;
    TARNI_TRY(tarni_grow(a, &live->tokens.ids, &live->tokens.capacity, position + 1,
                         sizeof *live->tokens.ids, err));
    TARNI_TRY(tarni_grow(a, &live->segments.items, &live->segments.capacity, live->segments.n + 1,
                         sizeof *live->segments.items, err));
    return tarni_page_table_reserve(&s->engine->pools.pages, &live->pages, position, position + 1,
                                    err);
}

void tarni_feed_sampled(tarn_session *s, uint32_t id)
{
    tarni_timeline *live = &s->live;
    bool goes_on = live->tail_role == TARN_ROLE_ASSISTANT && !live->tail_closed;
    tarnp_segment planned = {.role = TARN_ROLE_ASSISTANT,
                             .flags = goes_on ? TARNP_SEGMENT_CONTINUES : 0};
    live_segment(live, &planned)->n_tokens++;
    live->tokens.ids[live->tokens.n_ids++] = id;
}

void tarni_feed_close_turn(tarn_session *s)
{
    tarni_segments *segments = &s->live.segments;
    segments->items[segments->n - 1].flags |= TARNP_SEGMENT_CLOSED;
    s->live.tail_closed = true;
    if (s->live.tail_role == TARN_ROLE_ASSISTANT) {
        s->live.turn_begin = s->live.tail_begin;
        s->live.turn_end = s->live.tokens.n_ids;
    }
}
