#include "message.h"

#include <string.h>

tarn_status tarni_message_check(const tarn_session *s, const tarn_message *m, tarn_error *err)
{
    if (m->flags & ~(uint32_t)TARN_MESSAGE_ANY_CALL)
        return tarni_fail(err, TARN_E_INVALID, "tarn_message: flags are %#x", m->flags);
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
    if (m->role == TARN_ROLE_TOOL && !(m->flags & TARN_MESSAGE_ANY_CALL))
        return tarni_draft_check_answer(s, m->call_id, err);
    return TARN_OK;
}

tarn_status tarni_message_translate(const tarn_message *m, const tarn_allocator *a,
                                    tarni_message *out, tarn_error *err)
{
    tarni_tool_call *calls;
    TARNI_TRY(tarni_alloc(a, m->n_calls, sizeof *calls, &calls, err));
    for (size_t i = 0; i < m->n_calls; i++) {
        const tarn_tool_call *c = &m->calls[i];
        calls[i] = (tarni_tool_call){.id = c->id,
                                     .id_bytes = strlen(c->id),
                                     .arguments = c->arguments ? c->arguments : "",
                                     .arguments_bytes = c->arguments_bytes};
    }
    *out = (tarni_message){.role = m->role,
                           .name = m->name,
                           .text = m->text,
                           .text_bytes = m->text_bytes,
                           .call_id = m->call_id,
                           .calls = calls,
                           .n_calls = m->n_calls};
    return TARN_OK;
}

void tarni_message_free(const tarn_allocator *a, tarni_message *m)
{
    tarni_free(a, (void *)(uintptr_t)m->calls);
    *m = (tarni_message){0};
}

tarn_status tarni_message_draft(tarni_draft *d, const tarn_session *s, const tarni_message *m,
                                tarn_error *err)
{
    size_t before = d->ids.n_ids;
    tarn_status status = tarni_chat_message(&s->engine->model->chat, m, &d->ids, err);
    if (status == TARN_OK)
        status = tarni_draft_segment(d, m->role, TARNP_SEGMENT_CLOSED,
                                     m->role == TARN_ROLE_TOOL ? m->call_id : NULL, before, err);
    for (size_t i = 0; i < m->n_calls && status == TARN_OK; i++)
        status = tarni_segments_add_call(&d->segments, d->allocator, m->calls[i].id, err);
    return status;
}
