#include "ledger.h"

#include <string.h>

tarn_status tarni_ledger_reserve(tarni_ledger *l, const tarn_allocator *a, size_t n_calls,
                                 size_t n_bytes, tarn_error *err)
{
    TARNI_TRY(tarni_grow(a, &l->calls, &l->calls_max, l->n_calls + n_calls, sizeof *l->calls, err));
    return tarni_grow(a, &l->text, &l->text_max, l->text_bytes + n_bytes, 1, err);
}

void tarni_ledger_call(tarni_ledger *l, const char *id)
{
    size_t n_bytes = strlen(id) + 1;
    TARN_ASSERT(l->n_calls < l->calls_max && n_bytes <= l->text_max - l->text_bytes);
    l->calls[l->n_calls++] = (tarni_call_mark){.id_at = l->text_bytes};
    memcpy(l->text + l->text_bytes, id, n_bytes);
    l->text_bytes += n_bytes;
}

/* The last call with this id, or NULL. */
static tarni_call_mark *find(const tarni_ledger *l, const char *id)
{
    for (size_t i = l->n_calls; i > 0; i--)
        if (strcmp(l->text + l->calls[i - 1].id_at, id) == 0)
            return &l->calls[i - 1];
    return NULL;
}

void tarni_ledger_answer(tarni_ledger *l, const char *id)
{
    tarni_call_mark *call = find(l, id);
    if (call)
        call->answered = true;
}

void tarni_ledger_turn(tarni_ledger *l)
{
    l->n_lapsed = l->n_calls;
}

tarn_status tarni_ledger_check(const tarni_ledger *l, const char *session, const char *id,
                               tarn_error *err)
{
    const tarni_call_mark *call = find(l, id), *waiting = NULL;
    size_t n_waiting = 0;
    if (call && call->answered)
        return tarni_fail(err, TARN_E_EXISTS, "session %s: call %.80s was answered already",
                          session, id);
    for (size_t i = l->n_lapsed; i < l->n_calls; i++)
        if (!l->calls[i].answered) {
            n_waiting++;
            if (!waiting)
                waiting = &l->calls[i];
        }
    if (call || !waiting)
        return TARN_OK;
    return tarni_fail(err, TARN_E_INVALID,
                      "session %s: no call %.60s was made; %zu wait for an answer, first %.60s",
                      session, id, n_waiting, l->text + waiting->id_at);
}

tarn_status tarni_ledger_copy(const tarni_ledger *from, const tarn_allocator *a, tarni_ledger *out,
                              tarn_error *err)
{
    *out = (tarni_ledger){0};
    tarn_status status = tarni_ledger_reserve(out, a, from->n_calls, from->text_bytes, err);
    if (status != TARN_OK) {
        tarni_ledger_fini(out, a);
        return status;
    }
    if (from->n_calls > 0) {
        memcpy(out->calls, from->calls, from->n_calls * sizeof *from->calls);
        memcpy(out->text, from->text, from->text_bytes);
    }
    out->n_calls = from->n_calls;
    out->n_lapsed = from->n_lapsed;
    out->text_bytes = from->text_bytes;
    return TARN_OK;
}

void tarni_ledger_fini(tarni_ledger *l, const tarn_allocator *a)
{
    tarni_free(a, l->calls);
    tarni_free(a, l->text);
    *l = (tarni_ledger){0};
}
