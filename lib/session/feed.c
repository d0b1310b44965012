#include "feed.h"

#include "parking.h"

#include <string.h>

/* The last segment once everything queued is fed. */
typedef struct tail {
    tarn_role role; /* 0: none */
    bool closed;
} tail;

static tail queue_tail(const tarn_session *s)
{
    if (s->plan.n > s->plan_at) {
        const tarnp_segment *last = &s->plan.items[s->plan.n - 1];
        return (tail){last->role, (last->flags & TARNP_SEGMENT_CLOSED) != 0};
    }
    return (tail){s->live.tail_role, s->live.tail_closed};
}

/* A few segments and their ids, built aside and then queued whole. */
typedef struct draft {
    const tarn_allocator *allocator;
    tarni_segments segments;
    tarni_ids ids;
} draft;

static void draft_init(draft *d, tarn_session *s)
{
    *d = (draft){.allocator = &s->engine->pools.allocator};
    tarni_ids_init(&d->ids, d->allocator);
}

static void draft_fini(draft *d)
{
    tarni_segments_fini(&d->segments, d->allocator);
    tarni_ids_fini(&d->ids);
}

static tarn_status check_ready(tarn_session *s, tarn_error *err)
{
    if (s->poisoned)
        return tarni_fail(err, TARN_E_POISONED, "session %s failed earlier: %.150s", s->name,
                          s->failure.detail);
    if (s->generation.active)
        return tarni_fail(err, TARN_E_CONFLICT, "session %s is generating", s->name);
    return tarni_parking_admit(s, err);
}

static tarn_status check_context(const tarn_session *s, uint64_t n_more, tarn_error *err)
{
    uint64_t wanted = s->live.tokens.n_ids + tarni_session_waiting(s) + n_more;
    uint32_t context = s->engine->pools.spec.context;
    if (wanted > context)
        return tarni_fail(err, TARN_E_LIMIT, "session %s would have %llu tokens, the context is %u",
                          s->name, (unsigned long long)wanted, context);
    return TARN_OK;
}

/* Everything that can fail first; then the draft becomes part of the queue. */
static tarn_status queue_draft(tarn_session *s, draft *d, tarn_error *err)
{
    tarni_timeline *live = &s->live;
    const tarn_allocator *a = d->allocator;
    uint64_t fed = live->tokens.n_ids, end = fed + tarni_session_waiting(s) + d->ids.n_ids;
    TARNI_TRY(check_context(s, d->ids.n_ids, err));
    TARNI_TRY(tarni_grow(a, &s->plan.items, &s->plan.capacity, s->plan.n + d->segments.n,
                         sizeof *s->plan.items, err));
    TARNI_TRY(tarni_grow(a, &live->segments.items, &live->segments.capacity,
                         live->segments.n + s->plan.n - s->plan_at + d->segments.n + 1,
                         sizeof *live->segments.items, err));
    TARNI_TRY(tarni_grow(a, &live->tokens.ids, &live->tokens.capacity, (size_t)end,
                         sizeof *live->tokens.ids, err));
    TARNI_TRY(tarni_page_table_reserve(&s->engine->pools.pages, &live->pages, fed, end, err));
    bool had_work = tarni_session_waiting(s) > s->n_replay;
    TARNI_TRY(tarni_ids_append(&s->queue, d->ids.ids, d->ids.n_ids, err));
    if (!had_work) /* a cancel that came when there was nothing to cancel is over */
        atomic_store(&s->cancelled, false);
    if (d->segments.n > 0) /* none: items may be NULL */
        memcpy(s->plan.items + s->plan.n, d->segments.items, d->segments.n * sizeof *s->plan.items);
    s->plan.n += d->segments.n;
    d->segments.n = 0; /* moved */
    return TARN_OK;
}

static tarn_status draft_segment(draft *d, tarn_role role, uint8_t flags, const char *call_id,
                                 size_t ids_before, tarn_error *err)
{
    TARNI_TRY(tarni_segments_begin(&d->segments, d->allocator, role, flags, call_id, err));
    d->segments.items[d->segments.n - 1].n_tokens = (uint32_t)(d->ids.n_ids - ids_before);
    return TARN_OK;
}

/* A turn left open is ended before the next message. */
static tarn_status draft_closing(draft *d, const tarn_session *s, tarn_error *err)
{
    tail t = queue_tail(s);
    if (t.role != TARN_ROLE_ASSISTANT || t.closed)
        return TARN_OK;
    TARNI_TRY(tarni_ids_push(&d->ids, s->engine->model->chat.im_end, err));
    return draft_segment(d, TARN_ROLE_ASSISTANT, TARNP_SEGMENT_CONTINUES | TARNP_SEGMENT_CLOSED,
                         NULL, 0, err);
}

tarn_status tarni_feed_tokens(tarn_session *s, const uint32_t *ids, size_t n_ids, tarn_error *err)
{
    TARNI_TRY(check_ready(s, err));
    uint32_t vocab = s->engine->pools.spec.vocab;
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] >= vocab)
            return tarni_fail(err, TARN_E_INVALID, "id %u at %zu: the vocabulary has %u rows",
                              ids[i], i, vocab);
    if (n_ids == 0)
        return TARN_OK;
    TARNI_TRY(check_context(s, n_ids, err));
    draft d;
    draft_init(&d, s);
    tarn_status status = tarni_ids_append(&d.ids, ids, n_ids, err);
    if (status == TARN_OK)
        status = draft_segment(&d, TARN_ROLE_TOKENS, 0, NULL, 0, err);
    if (status == TARN_OK)
        status = queue_draft(s, &d, err);
    draft_fini(&d);
    return status;
}

static tarn_status need_chat(const tarn_session *s, tarn_error *err)
{
    const tarni_model *model = s->engine->model;
    if (!model->tokenizer)
        return tarni_fail(err, TARN_E_UNSUPPORTED, "%s has no tokenizer: only ids can be fed",
                          model->dir);
    if (!model->has_chat) {
        tarni_chat unused;
        return tarni_chat_init(&unused, model->tokenizer, err);
    }
    return TARN_OK;
}

static tarn_status check_message(const tarn_message *m, tarn_error *err)
{
    if (m->role != TARN_ROLE_SYSTEM && m->role != TARN_ROLE_USER && m->role != TARN_ROLE_TOOL &&
        m->role != TARN_ROLE_ASSISTANT)
        return tarni_fail(err, TARN_E_INVALID, "role %d is not one of a message", (int)m->role);
    if (m->role == TARN_ROLE_TOOL && (!m->call_id || !*m->call_id))
        return tarni_fail(err, TARN_E_INVALID, "a tool message needs the id of its call");
    if (m->n_calls > 0 && (m->role != TARN_ROLE_ASSISTANT || !m->calls))
        return tarni_fail(err, TARN_E_INVALID, "only an assistant message has calls");
    for (size_t i = 0; i < m->n_calls; i++)
        if (!m->calls[i].id || (!m->calls[i].arguments && m->calls[i].arguments_bytes > 0))
            return tarni_fail(err, TARN_E_INVALID, "call %zu has no id or no arguments", i);
    if (!m->text && m->text_bytes > 0)
        return tarni_fail(err, TARN_E_INVALID, "text is NULL and has %zu bytes", m->text_bytes);
    return TARN_OK;
}

static tarn_status draft_message(draft *d, const tarn_session *s, const tarn_message *m,
                                 tarn_error *err)
{
    tarni_tool_call *calls;
    size_t before = d->ids.n_ids;
    TARNI_TRY(tarni_alloc(d->allocator, m->n_calls, sizeof *calls, &calls, err));
    for (size_t i = 0; i < m->n_calls; i++) {
        const tarn_tool_call *c = &m->calls[i];
        calls[i] = (tarni_tool_call){.id = c->id,
                                     .id_bytes = strlen(c->id),
                                     .arguments = c->arguments ? c->arguments : "",
                                     .arguments_bytes = c->arguments_bytes};
    }
    tarni_message message = {.role = m->role,
                             .name = m->name,
                             .text = m->text,
                             .text_bytes = m->text_bytes,
                             .call_id = m->call_id,
                             .calls = calls,
                             .n_calls = m->n_calls};
    tarn_status status = tarni_chat_message(&s->engine->model->chat, &message, &d->ids, err);
    if (status == TARN_OK)
        status = draft_segment(d, m->role, TARNP_SEGMENT_CLOSED,
                               m->role == TARN_ROLE_TOOL ? m->call_id : NULL, before, err);
    for (size_t i = 0; i < m->n_calls && status == TARN_OK; i++)
        status = tarni_segments_add_call(&d->segments, d->allocator, m->calls[i].id, err);
    tarni_free(d->allocator, calls);
    return status;
}

tarn_status tarni_feed_message(tarn_session *s, const tarn_message *m, size_t *n_tokens,
                               tarn_error *err)
{
    TARNI_TRY(check_ready(s, err));
    TARNI_TRY(need_chat(s, err));
    TARNI_TRY(check_message(m, err));
    draft d;
    draft_init(&d, s);
    tarn_status status = draft_closing(&d, s, err);
    if (status == TARN_OK)
        status = draft_message(&d, s, m, err);
    size_t n = d.ids.n_ids;
    if (status == TARN_OK)
        status = queue_draft(s, &d, err);
    if (status == TARN_OK && n_tokens)
        *n_tokens = n;
    draft_fini(&d);
    return status;
}

tarn_status tarni_feed_tools(tarn_session *s, const char *json, size_t n_bytes, size_t *n_tokens,
                             tarn_error *err)
{
    TARNI_TRY(check_ready(s, err));
    TARNI_TRY(need_chat(s, err));
    draft d;
    draft_init(&d, s);
    tarn_status status = draft_closing(&d, s, err);
    size_t before = d.ids.n_ids;
    if (status == TARN_OK)
        status = tarni_chat_tools(&s->engine->model->chat, json, n_bytes, &d.ids, err);
    bool any = d.ids.n_ids > before;
    if (status == TARN_OK && any)
        status = draft_segment(&d, TARN_ROLE_TOOLS, TARNP_SEGMENT_CLOSED, NULL, before, err);
    size_t n = any ? d.ids.n_ids : 0;
    if (status == TARN_OK && any)
        status = queue_draft(s, &d, err);
    if (status == TARN_OK && n_tokens)
        *n_tokens = n;
    draft_fini(&d);
    return status;
}

static tarn_status draft_header(draft *d, const tarn_session *s, tarn_error *err)
{
    tail t = queue_tail(s);
    bool after_message = t.closed && (t.role == TARN_ROLE_SYSTEM || t.role == TARN_ROLE_USER ||
                                      t.role == TARN_ROLE_TOOL || t.role == TARN_ROLE_TOOLS);
    if (!after_message || !s->engine->model->has_chat)
        return TARN_OK;
    TARNI_TRY(tarni_chat_assistant_header(&s->engine->model->chat, &d->ids, err));
    return draft_segment(d, TARN_ROLE_ASSISTANT, 0, NULL, 0, err);
}

tarn_status tarni_feed_generation(tarn_session *s, const tarn_generate_options *options,
                                  tarn_error *err)
{
    TARNI_TRY(check_ready(s, err));
    if (tarni_session_waiting(s) == 0 && !s->live.has_logits)
        return tarni_fail(err, TARN_E_INVALID, "session %s is empty: nothing to sample from",
                          s->name);
    tarni_generation g = {
        .active = true, .bounded = options->n_tokens_max > 0, .n_left = options->n_tokens_max};
    if (options->n_stop_ids > TARN_STOP_IDS_MAX || (options->n_stop_ids > 0 && !options->stop_ids))
        return tarni_fail(err, TARN_E_INVALID, "n_stop_ids is %zu, the limit is %d",
                          options->n_stop_ids, TARN_STOP_IDS_MAX);
    for (size_t i = 0; i < options->n_stop_ids; i++)
        g.stop_ids[g.n_stop_ids++] = options->stop_ids[i];
    draft d;
    draft_init(&d, s);
    tarn_status status = draft_header(&d, s, err);
    if (status == TARN_OK)
        status = queue_draft(s, &d, err);
    draft_fini(&d);
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
    *out = *planned;
    out->n_tokens = 0;
    out->flags &= (uint8_t)~TARNP_SEGMENT_CLOSED;
    if (!continues) {
        live->tail_begin = live->tokens.n_ids;
        live->turns += planned->role == TARN_ROLE_ASSISTANT;
    }
    live->tail_role = planned->role;
    live->tail_closed = false;
    return out;
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
        planned->call_ids = NULL; /* they went with the first part */
        planned->n_call_ids = 0;
        uint32_t n = planned->n_tokens - s->plan_fed;
        if (n > n_ids)
            n = (uint32_t)n_ids;
        memcpy(live->tokens.ids + live->tokens.n_ids, ids, n * sizeof *ids);
        live->tokens.n_ids += n;
        segment->n_tokens += n;
        s->plan_fed += n;
        ids += n;
        n_ids -= n;
        if (s->plan_fed == planned->n_tokens) {
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
    if (s->queue_at == s->queue.n_ids) {
        s->queue_at = s->queue.n_ids = 0;
        tarni_segments_clear(&s->plan, &s->engine->pools.allocator);
        s->plan_at = 0;
    }
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
}

void tarni_feed_drop(tarn_session *s)
{
    const tarn_allocator *a = &s->engine->pools.allocator;
    s->queue.n_ids = s->queue_at + s->n_replay;
    tarni_segments_clear(&s->plan, a);
    s->plan_at = 0;
    s->plan_fed = 0;
    tarni_page_table_trim(&s->engine->pools.pages, &s->live.pages,
                          s->live.tokens.n_ids + tarni_session_waiting(s));
}
