/* session.c - what every file about sessions asks one. */
#include "session.h"

#include "turncalls.h"

#include <string.h>

size_t tarni_session_waiting(const tarn_session *s)
{
    return s->queue.n_ids - s->queue_at;
}

bool tarni_session_has_work(const tarn_session *s)
{
    return !s->poisoned && (tarni_session_waiting(s) > 0 || s->generation.active);
}

void tarni_intake_release(tarni_intake *in)
{
    tarni_encoder_fini(&in->encoder);
    tarni_segments_fini(&in->made, in->closing.allocator);
    tarni_ids_fini(&in->closing);
    in->open = false;
}

void tarni_session_end_intake(tarn_session *s)
{
    if (s->intake.open)
        tarni_intake_release(&s->intake);
    s->intake = (tarni_intake){0};
}

void tarni_session_drop_waiting(tarn_session *s)
{
    const tarn_allocator *a = &s->engine->pools.allocator;
    if (s->intake.open) {
        tarni_intake_release(&s->intake);
        s->intake.cancelled = true;
    }
    s->queue.n_ids = s->queue_at + s->n_replay;
    tarni_segments_clear(&s->plan, a);
    s->plan_at = 0;
    s->plan_fed = 0;
    s->run_rows = 0;
    tarni_page_table_trim(&s->engine->pools.pages, &s->live.pages,
                          s->live.tokens.n_ids + tarni_session_waiting(s));
}

void tarni_session_forget_calls(tarn_session *s)
{
    tarni_tool_calls_fini(&s->calls);
    tarni_free(&s->engine->pools.allocator, s->public_calls);
    s->public_calls = NULL;
}

tarn_status tarni_session_read_calls(tarn_session *s, tarn_error *err)
{
    tarni_session_forget_calls(s);
    return tarni_turn_calls(s->engine->model, &s->live, &s->calls, &s->public_calls, err);
}

tarn_at tarni_session_at(const tarn_session *s)
{
    tarn_at at = {.node = s->live.base_node,
                  .position = s->live.tokens.n_ids,
                  .bit_exact = s->live.bit_exact};
    memcpy(at.session, s->name, sizeof at.session);
    return at;
}

tarn_status tarni_session_check_idle(const tarn_session *s, bool replaying, tarn_error *err)
{
    if (s->poisoned)
        return tarni_fail(err, TARN_E_POISONED, "session %s failed earlier: %.150s", s->name,
                          s->failure.detail);
    size_t n_allowed = replaying ? s->n_replay : 0;
    if (s->generation.active || tarni_session_waiting(s) > n_allowed)
        return tarni_fail(err, TARN_E_CONFLICT, "session %s has %zu tokens waiting%s", s->name,
                          tarni_session_waiting(s),
                          s->generation.active ? " and is generating" : "");
    return TARN_OK;
}

void tarni_session_tell(tarn_session *s, const tarn_event *event)
{
    tarn_error err;
    tarn_event with = *event;
    with.session = s;
    with.position = s->live.tokens.n_ids;
    if (tarni_events_reserve(&s->engine->events, 1, &err) == TARN_OK)
        tarni_events_push(&s->engine->events, &with);
}
