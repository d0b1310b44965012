/* Queueing.
 *
 * A run of text may be queued in many pieces (intake.c): a segment that goes on with the last
 * queued one becomes part of it, so the plan grows with the messages and not with the pieces. */
#include "drafts.h"

#include "parking.h"

#include <string.h>

tarni_tail tarni_draft_tail(const tarn_session *s)
{
    if (s->plan.n > s->plan_at) {
        const tarnp_segment *last = &s->plan.items[s->plan.n - 1];
        return (tarni_tail){last->role, (last->flags & TARNP_SEGMENT_CLOSED) != 0};
    }
    return (tarni_tail){s->live.tail_role, s->live.tail_closed};
}

void tarni_draft_init(tarni_draft *d, tarn_session *s)
{
    *d = (tarni_draft){.allocator = &s->engine->pools.allocator};
    tarni_ids_init(&d->ids, d->allocator);
}

void tarni_draft_fini(tarni_draft *d)
{
    tarni_segments_fini(&d->segments, d->allocator);
    tarni_ids_fini(&d->ids);
}

tarn_status tarni_draft_ready(const tarn_session *s, tarn_error *err)
{
    if (s->poisoned)
        return tarni_fail(err, TARN_E_POISONED, "session %s failed earlier: %.150s", s->name,
                          s->failure.detail);
    if (s->generation.active)
        return tarni_fail(err, TARN_E_CONFLICT, "session %s is generating", s->name);
    if (s->intake.open)
        return tarni_fail(err, TARN_E_CONFLICT,
                          "session %s: a message is being appended, end it first", s->name);
    return TARN_OK;
}

tarn_status tarni_draft_fits(const tarn_session *s, uint64_t n_more, tarn_error *err)
{
    uint64_t wanted = s->live.tokens.n_ids + tarni_session_waiting(s) + n_more;
    uint32_t context = s->engine->pools.spec.context;
    if (wanted > context)
        return tarni_fail(err, TARN_E_LIMIT, "session %s would have %llu tokens, the context is %u",
                          s->name, (unsigned long long)wanted, context);
    return TARN_OK;
}

/* Room in the ledger for every call that is queued by then. */
static tarn_status reserve_calls(const tarni_draft *d, tarn_session *s, tarn_error *err)
{
    size_t n_calls = 0, n_bytes = 0;
    for (size_t i = s->plan_at; i < s->plan.n + d->segments.n; i++) {
        const tarnp_segment *segment =
            i < s->plan.n ? &s->plan.items[i] : &d->segments.items[i - s->plan.n];
        n_calls += segment->n_call_ids;
        for (size_t k = 0; k < segment->n_call_ids; k++)
            n_bytes += strlen(segment->call_ids[k]) + 1;
    }
    return tarni_ledger_reserve(&s->live.calls, d->allocator, n_calls, n_bytes, err);
}

/* Adds the draft's segments to the plan; there is room. */
static void plan_segments(tarni_draft *d, tarn_session *s)
{
    tarni_segments *plan = &s->plan;
    size_t first = 0;
    if (d->segments.n > 0 && plan->n > s->plan_at &&
        (d->segments.items[0].flags & TARNP_SEGMENT_CONTINUES)) {
        tarnp_segment *last = &plan->items[plan->n - 1];
        TARN_ASSERT(d->segments.items[0].n_call_ids == 0);
        last->n_tokens += d->segments.items[0].n_tokens;
        last->flags |= d->segments.items[0].flags & TARNP_SEGMENT_CLOSED;
        first = 1;
    }
    if (d->segments.n > first) /* none: items may be NULL */
        memcpy(plan->items + plan->n, d->segments.items + first,
               (d->segments.n - first) * sizeof *plan->items);
    plan->n += d->segments.n - first;
    d->segments.n = 0; /* moved */
}

/* Everything that can fail first; then the draft becomes part of the queue. */
tarn_status tarni_draft_queue(tarni_draft *d, tarn_session *s, tarn_error *err)
{
    tarni_timeline *live = &s->live;
    const tarn_allocator *a = d->allocator;
    TARNI_TRY(tarni_draft_fits(s, d->ids.n_ids, err));
    TARNI_TRY(tarni_parking_admit(s, err));
    uint64_t fed = live->tokens.n_ids, end = fed + tarni_session_waiting(s) + d->ids.n_ids;
    TARNI_TRY(tarni_grow(a, &s->plan.items, &s->plan.capacity, s->plan.n + d->segments.n,
                         sizeof *s->plan.items, err));
    TARNI_TRY(tarni_grow(a, &live->segments.items, &live->segments.capacity,
                         live->segments.n + s->plan.n - s->plan_at + d->segments.n + 1,
                         sizeof *live->segments.items, err));
    TARNI_TRY(tarni_grow(a, &live->tokens.ids, &live->tokens.capacity, (size_t)end,
                         sizeof *live->tokens.ids, err));
    TARNI_TRY(reserve_calls(d, s, err));
    TARNI_TRY(tarni_page_table_reserve(&s->engine->pools.pages, &live->pages, fed, end, err));
    bool had_work = tarni_session_waiting(s) > s->n_replay;
    TARNI_TRY(tarni_ids_append(&s->queue, d->ids.ids, d->ids.n_ids, err));
    if (!had_work &&
        !s->intake.open) /* a cancel that came when there was nothing to cancel is over */
        atomic_store(&s->cancelled, false);
    plan_segments(d, s);
    d->ids.n_ids = 0;
    return TARN_OK;
}

tarn_status tarni_draft_segment(tarni_draft *d, tarn_role role, uint8_t flags, const char *call_id,
                                size_t ids_before, tarn_error *err)
{
    TARNI_TRY(tarni_segments_begin(&d->segments, d->allocator, role, flags, call_id, err));
    d->segments.items[d->segments.n - 1].n_tokens = (uint32_t)(d->ids.n_ids - ids_before);
    return TARN_OK;
}

/* A turn left open is ended before the next message. */
tarn_status tarni_draft_closing(tarni_draft *d, const tarn_session *s, tarn_error *err)
{
    tarni_tail t = tarni_draft_tail(s);
    if (t.role != TARN_ROLE_ASSISTANT || t.closed)
        return TARN_OK;
    TARNI_TRY(tarni_ids_push(&d->ids, s->engine->model->chat.im_end, err));
    return tarni_draft_segment(d, TARN_ROLE_ASSISTANT,
                               TARNP_SEGMENT_CONTINUES | TARNP_SEGMENT_CLOSED, NULL, 0, err);
}

tarn_status tarni_draft_need_chat(const tarn_session *s, tarn_error *err)
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

tarn_status tarni_draft_check_answer(const tarn_session *s, const char *call_id, tarn_error *err)
{
    const tarn_allocator *a = &s->engine->pools.allocator;
    tarni_ledger then;
    TARNI_TRY(tarni_ledger_copy(&s->live.calls, a, &then, err));
    tarn_status status = TARN_OK;
    for (size_t i = s->plan_at; i < s->plan.n && status == TARN_OK; i++)
        status = tarni_segment_to_ledger(&s->plan.items[i], &then, a, err);
    if (status == TARN_OK)
        status = tarni_ledger_check(&then, s->name, call_id, err);
    tarni_ledger_fini(&then, a);
    return status;
}
