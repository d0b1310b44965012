#include "timeline.h"

#include "sampler.h"

#include <string.h>

void tarni_timeline_init(tarni_timeline *t, tarni_pools *pools)
{
    *t = (tarni_timeline){.slot = TARNI_SLOT_ZERO, .bit_exact = true};
    t->pools = pools;
    tarni_ids_init(&t->tokens, &pools->allocator);
    tarni_sampling_defaults(&t->sampling);
    t->base_sampling = t->sampling;
    tarni_slots_share(&pools->slots, TARNI_SLOT_ZERO);
    t->logits = tarni_pools_logits(pools, TARNI_SLOT_ZERO);
}

void tarni_timeline_set_slot(tarni_timeline *t, uint32_t slot)
{
    tarni_slots_release(&t->pools->slots, t->slot);
    t->slot = slot;
    t->logits = tarni_pools_logits(t->pools, slot);
}

void tarni_timeline_empty(tarni_timeline *t)
{
    tarni_slots_share(&t->pools->slots, TARNI_SLOT_ZERO);
    tarni_timeline_set_slot(t, TARNI_SLOT_ZERO);
    tarni_page_table_trim(&t->pools->pages, &t->pages, 0);
}

void tarni_timeline_fini(tarni_timeline *t)
{
    if (!t->pools)
        return;
    tarni_slots_release(&t->pools->slots, t->slot);
    tarni_page_table_fini(&t->pools->pages, &t->pages);
    tarni_segments_fini(&t->segments, &t->pools->allocator);
    tarni_ledger_fini(&t->calls, &t->pools->allocator);
    tarni_ids_fini(&t->tokens);
    *t = (tarni_timeline){0};
}

tarn_status tarni_timeline_fork(const tarni_timeline *t, tarni_timeline *out, tarn_error *err)
{
    tarni_pools *pools = t->pools;
    tarni_timeline_init(out, pools);
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
    tarni_slots_share(&pools->slots, t->slot);
    tarni_timeline_set_slot(out, t->slot);
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

tarni_segments_mark tarni_segments_here(const tarni_segments *s)
{
    if (s->n == 0)
        return (tarni_segments_mark){0};
    const tarnp_segment *last = &s->items[s->n - 1];
    return (tarni_segments_mark){s->n, last->n_tokens, last->flags, last->n_call_ids};
}

/* Takes what was there at the mark off the segment it was in; false: nothing came since. */
static bool cut_last(tarnp_segment *last, const tarn_allocator *a, const tarni_segments_mark *mark)
{
    if (last->n_tokens == mark->n_tokens) {
        TARN_ASSERT(last->flags == mark->flags && last->n_call_ids == mark->n_call_ids);
        return false;
    }
    last->n_tokens -= mark->n_tokens;
    last->flags |= TARNP_SEGMENT_CONTINUES;
    for (size_t i = 0; i < mark->n_call_ids; i++)
        tarni_free(a, last->call_ids[i]);
    last->n_call_ids -= mark->n_call_ids;
    for (size_t i = 0; i < last->n_call_ids; i++)
        last->call_ids[i] = last->call_ids[i + mark->n_call_ids];
    return true;
}

void tarni_segments_cut(tarni_segments *s, const tarn_allocator *a, const tarni_segments_mark *mark)
{
    if (mark->n == 0)
        return;
    TARN_ASSERT(mark->n <= s->n);
    size_t n_gone = mark->n - cut_last(&s->items[mark->n - 1], a, mark);
    for (size_t i = 0; i < n_gone; i++)
        free_segment(&s->items[i], a);
    memmove(s->items, s->items + n_gone, (s->n - n_gone) * sizeof *s->items);
    s->n -= n_gone;
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
