#include "timeline.h"

#include "sampler.h"

#include <string.h>

tarn_status tarni_timeline_init(tarni_timeline *t, tarni_pools *pools, tarn_error *err)
{
    *t = (tarni_timeline){.slot = TARNI_SLOT_ZERO, .bit_exact = true};
    TARNI_TRY(
        tarni_alloc(&pools->allocator, pools->spec.vocab, sizeof *t->logits, &t->logits, err));
    t->pools = pools;
    tarni_ids_init(&t->tokens, &pools->allocator);
    tarni_sampling_defaults(&t->sampling);
    t->base_sampling = t->sampling;
    tarni_slots_share(&pools->slots, TARNI_SLOT_ZERO);
    return TARN_OK;
}

void tarni_timeline_fini(tarni_timeline *t)
{
    if (!t->pools)
        return;
    tarni_slots_release(&t->pools->slots, t->slot);
    tarni_page_table_fini(&t->pools->pages, &t->pages);
    tarni_segments_fini(&t->segments, &t->pools->allocator);
    tarni_ledger_fini(&t->calls, &t->pools->allocator);
    tarni_free(&t->pools->allocator, t->logits);
    tarni_ids_fini(&t->tokens);
    *t = (tarni_timeline){0};
}

tarn_status tarni_timeline_fork(const tarni_timeline *t, tarni_timeline *out, tarn_error *err)
{
    tarni_pools *pools = t->pools;
    TARNI_TRY(tarni_timeline_init(out, pools, err));
    tarni_timeline fresh = *out;
    *out = *t; /* all plain fields; what is owned is given its own copy below */
    out->tokens = fresh.tokens;
    out->slot = fresh.slot;
    out->pages = fresh.pages;
    out->logits = fresh.logits;
    out->segments = fresh.segments;
    out->calls = fresh.calls;
    tarn_status status = tarni_ids_append(&out->tokens, t->tokens.ids, t->tokens.n_ids, err);
    if (status == TARN_OK)
        status =
            tarni_page_table_share(&pools->pages, &t->pages, t->tokens.n_ids, &out->pages, err);
    if (status == TARN_OK)
        status = tarni_segments_copy(&t->segments, &pools->allocator, &out->segments, err);
    if (status == TARN_OK)
        status = tarni_ledger_copy(&t->calls, &pools->allocator, &out->calls, err);
    if (status != TARN_OK) {
        tarni_timeline_fini(out);
        return status;
    }
    tarni_slots_release(&pools->slots, out->slot);
    tarni_slots_share(&pools->slots, t->slot);
    out->slot = t->slot;
    memcpy(out->logits, t->logits, pools->spec.vocab * sizeof *t->logits);
    return TARN_OK;
}

tarn_status tarni_segment_to_ledger(const tarnp_segment *s, tarni_ledger *l,
                                    const tarn_allocator *a, tarn_error *err)
{
    size_t n_bytes = 0;
    if (s->role == TARN_ROLE_ASSISTANT && !(s->flags & TARNP_SEGMENT_CONTINUES))
        tarni_ledger_turn(l);
    for (size_t i = 0; i < s->n_call_ids; i++)
        n_bytes += strlen(s->call_ids[i]) + 1;
    if (s->role == TARN_ROLE_ASSISTANT)
        TARNI_TRY(tarni_ledger_reserve(l, a, s->n_call_ids, n_bytes, err));
    for (size_t i = 0; i < s->n_call_ids; i++)
        if (s->role == TARN_ROLE_ASSISTANT)
            tarni_ledger_call(l, s->call_ids[i]);
        else
            tarni_ledger_answer(l, s->call_ids[i]);
    return TARN_OK;
}

bool tarni_timeline_dirty(const tarni_timeline *t)
{
    return t->segments.n > 0 || !tarni_sampling_equal(&t->sampling, &t->base_sampling);
}

static void free_segment(tarnp_segment *s, const tarn_allocator *a)
{
    for (size_t i = 0; i < s->n_call_ids; i++)
        tarni_free(a, s->call_ids[i]);
    tarni_free(a, s->call_ids);
}

tarn_status tarni_segments_begin(tarni_segments *s, const tarn_allocator *a, tarn_role role,
                                 uint8_t flags, const char *call_id, tarn_error *err)
{
    TARNI_TRY(tarni_grow(a, &s->items, &s->capacity, s->n + 1, sizeof *s->items, err));
    s->items[s->n] = (tarnp_segment){.role = role, .flags = flags};
    s->n++;
    tarn_status status = call_id ? tarni_segments_add_call(s, a, call_id, err) : TARN_OK;
    if (status != TARN_OK)
        s->n--;
    return status;
}

tarn_status tarni_segments_add_call(tarni_segments *s, const tarn_allocator *a, const char *call_id,
                                    tarn_error *err)
{
    TARN_ASSERT(s->n > 0);
    tarnp_segment *last = &s->items[s->n - 1];
    char *copy, **longer;
    TARNI_TRY(tarni_copy_text(a, call_id, strlen(call_id), &copy, err));
    longer = a->resize(a->user, last->call_ids, (last->n_call_ids + 1) * sizeof *longer);
    if (!longer) {
        tarni_free(a, copy);
        return tarni_fail_memory(err, (last->n_call_ids + 1) * sizeof *longer);
    }
    last->call_ids = longer;
    last->call_ids[last->n_call_ids++] = copy;
    return TARN_OK;
}

tarn_status tarni_segments_copy(const tarni_segments *from, const tarn_allocator *a,
                                tarni_segments *out, tarn_error *err)
{
    *out = (tarni_segments){0};
    tarn_status status = TARN_OK;
    for (size_t i = 0; status == TARN_OK && i < from->n; i++) {
        const tarnp_segment *s = &from->items[i];
        status = tarni_segments_begin(out, a, s->role, s->flags, NULL, err);
        if (status == TARN_OK)
            out->items[i].n_tokens = s->n_tokens;
        for (size_t k = 0; status == TARN_OK && k < s->n_call_ids; k++)
            status = tarni_segments_add_call(out, a, s->call_ids[k], err);
    }
    if (status != TARN_OK)
        tarni_segments_fini(out, a);
    return status;
}

void tarni_segments_clear(tarni_segments *s, const tarn_allocator *a)
{
    for (size_t i = 0; i < s->n; i++)
        free_segment(&s->items[i], a);
    s->n = 0;
}

void tarni_segments_fini(tarni_segments *s, const tarn_allocator *a)
{
    tarni_segments_clear(s, a);
    tarni_free(a, s->items);
    *s = (tarni_segments){0};
}
