/* A message in pieces.
 *
 * The header, what the encoder is sure of and the end are drafts of their own, each queued at once:
 * steps compute the beginning while the rest is still being made. What the end writes (an
 * assistant's calls, the end marker) is rendered when the message begins, and the ids of the calls
 * are copied, so that nothing of the caller's needs to live until then.
 *
 * A call that fails has taken nothing: the encoder's last step is taken back. */
#include "intake.h"

#include "drafts.h"
#include "message.h"

#include <string.h>

/* OPEN, and not cancelled meanwhile; also CANCELLED for one that was. */
static tarn_status check_open(tarn_session *s, tarn_error *err)
{
    tarni_intake *in = &s->intake;
    if (s->poisoned)
        return tarni_fail(err, TARN_E_POISONED, "session %s failed earlier: %.150s", s->name,
                          s->failure.detail);
    if (in->open && atomic_exchange(&s->cancelled, false))
        tarni_session_drop_waiting(s);
    if (in->cancelled)
        return tarni_fail(err, TARN_E_CANCELLED,
                          "session %s: the message was cancelled after %zu tokens", s->name,
                          s->live.tokens.n_ids);
    if (!in->open)
        return tarni_fail(err, TARN_E_CONFLICT, "session %s: no message is being appended",
                          s->name);
    return TARN_OK;
}

/* Queues the ids of a draft as the next part of the message. The end makes the calls. */
static tarn_status queue_part(tarn_session *s, tarni_draft *d, uint8_t flags, tarn_error *err)
{
    tarni_intake *in = &s->intake;
    size_t n_made = flags & TARNP_SEGMENT_CLOSED && in->made.n > 0 ? in->made.items->n_call_ids : 0;
    size_t n = d->ids.n_ids;
    if (n == 0)
        return TARN_OK;
    if (in->begun)
        flags |= TARNP_SEGMENT_CONTINUES;
    TARNI_TRY(tarni_draft_segment(d, in->role, flags, NULL, 0, err));
    for (size_t i = 0; i < n_made; i++)
        TARNI_TRY(
            tarni_segments_add_call(&d->segments, d->allocator, in->made.items->call_ids[i], err));
    TARNI_TRY(tarni_draft_queue(d, s, err));
    in->begun = true;
    in->n_tokens += n;
    return TARN_OK;
}

/* One step of the encoder, and its ids queued; `more` are ids behind the text. */
static tarn_status take(tarn_session *s, const char *text, size_t n_bytes, bool ends,
                        const uint32_t *more, size_t n_more, uint8_t flags, tarn_error *err)
{
    tarni_encoder *encoder = &s->intake.encoder;
    tarni_draft d;
    tarni_draft_init(&d, s);
    tarn_status status = ends ? tarni_encoder_end(encoder, &d.ids, err)
                              : tarni_encoder_feed(encoder, text, n_bytes, &d.ids, err);
    if (status == TARN_OK) {
        status = tarni_ids_append(&d.ids, more, n_more, err);
        if (status == TARN_OK)
            status = queue_part(s, &d, flags, err);
        if (status != TARN_OK)
            tarni_encoder_undo(encoder);
    }
    tarni_draft_fini(&d);
    return status;
}

/* The header, with the call the message answers. */
static tarn_status draft_head(tarn_session *s, const tarni_message *m, tarni_draft *d,
                              tarn_error *err)
{
    TARNI_TRY(tarni_draft_closing(d, s, err));
    size_t before = d->ids.n_ids;
    TARNI_TRY(tarni_chat_begin(&s->engine->model->chat, m, &d->ids, err));
    return tarni_draft_segment(d, m->role, 0, m->role == TARN_ROLE_TOOL ? m->call_id : NULL, before,
                               err);
}

static tarn_status keep_made(tarni_intake *in, const tarni_message *m, const tarn_allocator *a,
                             tarn_error *err)
{
    if (m->n_calls > 0)
        TARNI_TRY(tarni_segments_begin(&in->made, a, m->role, 0, NULL, err));
    for (size_t i = 0; i < m->n_calls; i++)
        TARNI_TRY(tarni_segments_add_call(&in->made, a, m->calls[i].id, err));
    return TARN_OK;
}

static tarn_status begin(tarn_session *s, tarni_intake *in, const tarni_message *m, tarni_draft *d,
                         tarn_error *err)
{
    const tarni_model *model = s->engine->model;
    tarni_encoder_init(&in->encoder, model->tokenizer, d->allocator);
    if (m->role == TARN_ROLE_TOKENS)
        return tarni_encoder_feed(&in->encoder, m->text, m->text_bytes, &d->ids, err);
    TARNI_TRY(draft_head(s, m, d, err));
    TARNI_TRY(tarni_chat_end(&model->chat, m, &in->closing, err));
    TARNI_TRY(keep_made(in, m, d->allocator, err));
    size_t before = d->ids.n_ids;
    TARNI_TRY(tarni_chat_lead(m, &in->encoder, &d->ids, err));
    TARNI_TRY(tarni_encoder_feed(&in->encoder, m->text, m->text_bytes, &d->ids, err));
    d->segments.items[d->segments.n - 1].n_tokens += (uint32_t)(d->ids.n_ids - before);
    return TARN_OK;
}

/* A text of its own has no markers; a message needs them. */
static tarn_status check_head(const tarn_session *s, const tarn_message *head, tarn_error *err)
{
    TARNI_TRY(tarni_draft_ready(s, err));
    if (head->role != TARN_ROLE_TOKENS) {
        TARNI_TRY(tarni_draft_need_chat(s, err));
        return tarni_message_check(s, head, err);
    }
    if (!s->engine->model->tokenizer)
        return tarni_draft_need_chat(s, err);
    if (head->n_calls > 0 || (!head->text && head->text_bytes > 0))
        return tarni_fail(err, TARN_E_INVALID, "a text without markers makes no calls");
    return TARN_OK;
}

tarn_status tarni_intake_begin(tarn_session *s, const tarn_message *head, tarn_error *err)
{
    TARNI_TRY(check_head(s, head, err));
    tarni_draft d;
    tarni_message m;
    tarni_draft_init(&d, s);
    tarni_intake in = {.role = head->role};
    tarni_ids_init(&in.closing, d.allocator);
    TARNI_TRY(tarni_message_translate(head, d.allocator, &m, err));
    tarn_status status = begin(s, &in, &m, &d, err);
    size_t n = d.ids.n_ids;
    if (status == TARN_OK && head->role == TARN_ROLE_TOKENS && n > 0)
        status = tarni_draft_segment(&d, TARN_ROLE_TOKENS, 0, NULL, 0, err);
    if (status == TARN_OK)
        status = tarni_draft_queue(&d, s, err);
    if (status == TARN_OK) {
        in.open = true;
        in.begun = n > 0;
        in.n_tokens = n;
        s->intake = in;
    } else {
        tarni_intake_release(&in);
    }
    tarni_message_free(d.allocator, &m);
    tarni_draft_fini(&d);
    return status;
}

tarn_status tarni_intake_bytes(tarn_session *s, const char *text, size_t n_bytes, size_t *n_tokens,
                               tarn_error *err)
{
    TARNI_TRY(check_open(s, err));
    uint64_t before = s->intake.n_tokens;
    TARNI_TRY(take(s, text, n_bytes, false, NULL, 0, 0, err));
    if (n_tokens)
        *n_tokens = (size_t)(s->intake.n_tokens - before);
    return TARN_OK;
}

tarn_status tarni_intake_tokens(tarn_session *s, const uint32_t *ids, size_t n_ids, tarn_error *err)
{
    TARNI_TRY(check_open(s, err));
    return take(s, NULL, 0, true, ids, n_ids, 0, err);
}

tarn_status tarni_intake_end(tarn_session *s, size_t *n_tokens, tarn_error *err)
{
    TARNI_TRY(check_open(s, err));
    tarni_intake *in = &s->intake;
    TARNI_TRY(take(s, NULL, 0, true, in->closing.ids, in->closing.n_ids,
                   in->role == TARN_ROLE_TOKENS ? 0 : TARNP_SEGMENT_CLOSED, err));
    if (n_tokens)
        *n_tokens = (size_t)in->n_tokens;
    tarni_session_end_intake(s);
    return TARN_OK;
}
