#include "slots.h"

#include <string.h>

static bool find(tarni_slots *p, bool last, uint32_t *out)
{
    if (p->trade)
        return tarni_trade_take(p->trade, TARNI_SLOTS, last, out);
    for (*out = 0; p->refs[*out] > 0; ++*out) /* below the ceiling one is free */
        ;
    return true;
}

/* One below the ceiling, or the last one of it. */
static tarn_status take(tarni_slots *p, bool last, uint32_t *out, tarn_error *err)
{
    const uint32_t ceiling = last ? p->n_max : p->n_max - 1;
    uint32_t slot;
    while (p->n_used >= ceiling || !find(p, last, &slot))
        if (!p->relieve || !p->relieve(p->relieve_user)) {
            if (p->n_used < ceiling)
                return tarni_trade_refuse(p->trade, TARNI_SLOTS, err);
            return tarni_fail(err, TARN_E_LIMIT,
                              "%u of %u state slots of %zu bytes are in use by sessions with work "
                              "or uncommitted tokens",
                              p->n_used, p->n_max, p->slot_bytes);
        }
    if (p->trade)
        p->memory[slot] = tarni_trade_at(p->trade, TARNI_SLOTS, slot);
    else if (!p->memory[slot])
        TARNI_TRY(tarni_alloc_aligned(&p->allocator, p->slot_bytes, 1, &p->memory[slot], err));
    p->refs[slot] = 1;
    p->n_used++;
    *out = slot;
    return TARN_OK;
}

static tarn_status init(tarni_slots *p, tarn_error *err)
{
    TARN_ASSERT(p->n_max >= TARNI_SLOTS_MIN);
    TARNI_TRY(tarni_alloc(&p->allocator, p->n_max, sizeof *p->memory, &p->memory, err));
    tarn_status status = tarni_alloc(&p->allocator, p->n_max, sizeof *p->refs, &p->refs, err);
    uint32_t zero;
    if (status == TARN_OK)
        status = tarni_slots_take(p, &zero, err);
    if (status != TARN_OK) {
        tarni_slots_fini(p);
        return status;
    }
    TARN_ASSERT(zero == TARNI_SLOT_ZERO);
    return TARN_OK;
}

tarn_status tarni_slots_init_in(tarni_slots *p, tarni_trade *trade, const tarn_allocator *allocator,
                                tarn_error *err)
{
    const tarni_range *items = &trade->ranges[TARNI_SLOTS];
    *p = (tarni_slots){.allocator = *allocator,
                       .trade = trade,
                       .slot_bytes = items->item_bytes,
                       .n_max = items->n_items};
    return init(p, err);
}

tarn_status tarni_slots_init(tarni_slots *p, size_t slot_bytes, uint32_t n_max,
                             const tarn_allocator *allocator, tarn_error *err)
{
    *p = (tarni_slots){.allocator = *allocator, .slot_bytes = slot_bytes, .n_max = n_max};
    TARNI_TRY(init(p, err));
    memset(p->memory[TARNI_SLOT_ZERO], 0, slot_bytes);
    return TARN_OK;
}

void tarni_slots_fini(tarni_slots *p)
{
    for (uint32_t i = 0; p->memory && !p->trade && i < p->n_max; i++)
        tarni_free_aligned(&p->allocator, p->memory[i]);
    for (uint32_t i = 0; p->refs && p->trade && i < p->n_max; i++)
        if (p->refs[i] > 0)
            tarni_trade_release(p->trade, TARNI_SLOTS, i);
    tarni_free(&p->allocator, p->memory);
    tarni_free(&p->allocator, p->refs);
    *p = (tarni_slots){0};
}

tarn_status tarni_slots_take(tarni_slots *p, uint32_t *out, tarn_error *err)
{
    return take(p, false, out, err);
}

tarn_status tarni_slots_take_last(tarni_slots *p, uint32_t *out, tarn_error *err)
{
    return take(p, true, out, err);
}

void tarni_slots_share(tarni_slots *p, uint32_t slot)
{
    TARN_ASSERT(slot < p->n_max && p->refs[slot] > 0);
    p->refs[slot]++;
}

void tarni_slots_release(tarni_slots *p, uint32_t slot)
{
    TARN_ASSERT(slot < p->n_max && p->refs[slot] > 0);
    if (--p->refs[slot] > 0)
        return;
    p->n_used--;
    if (p->trade)
        tarni_trade_release(p->trade, TARNI_SLOTS, slot);
}

bool tarni_slots_shared(const tarni_slots *p, uint32_t slot)
{
    TARN_ASSERT(slot < p->n_max && p->refs[slot] > 0);
    return slot == TARNI_SLOT_ZERO || p->refs[slot] > 1;
}

uint8_t *tarni_slots_data(const tarni_slots *p, uint32_t slot)
{
    TARN_ASSERT(slot < p->n_max && p->refs[slot] > 0);
    return p->memory[slot];
}
