#include "slots.h"

#include <string.h>

tarn_status tarni_slots_init_in(tarni_slots *p, uint8_t *slab, size_t slot_bytes, uint32_t n_max,
                                const tarn_allocator *allocator, tarn_error *err)
{
    *p = (tarni_slots){
        .allocator = *allocator, .slab = slab, .slot_bytes = slot_bytes, .n_max = n_max};
    TARN_ASSERT(n_max >= TARNI_SLOTS_MIN);
    TARNI_TRY(tarni_alloc(allocator, p->n_max, sizeof *p->memory, &p->memory, err));
    tarn_status status = tarni_alloc(allocator, p->n_max, sizeof *p->refs, &p->refs, err);
    uint32_t zero;
    if (status == TARN_OK)
        status = tarni_slots_take(p, &zero, err);
    if (status != TARN_OK) {
        tarni_slots_fini(p);
        return status;
    }
    TARN_ASSERT(zero == TARNI_SLOT_ZERO);
    if (!slab)
        memset(p->memory[zero], 0, slot_bytes);
    return TARN_OK;
}

tarn_status tarni_slots_init(tarni_slots *p, size_t slot_bytes, uint32_t n_max,
                             const tarn_allocator *allocator, tarn_error *err)
{
    return tarni_slots_init_in(p, NULL, slot_bytes, n_max, allocator, err);
}

void tarni_slots_fini(tarni_slots *p)
{
    for (uint32_t i = 0; p->memory && !p->slab && i < p->n_max; i++)
        tarni_free_aligned(&p->allocator, p->memory[i]);
    if (p->memory) {
        tarni_free(&p->allocator, p->memory);
        tarni_free(&p->allocator, p->refs);
    }
    *p = (tarni_slots){0};
}

/* One below `ceiling` slots in use. */
static tarn_status take(tarni_slots *p, uint32_t ceiling, uint32_t *out, tarn_error *err)
{
    while (p->n_used >= ceiling && p->relieve && p->relieve(p->relieve_user))
        ;
    for (uint32_t i = 0; i < p->n_max && p->n_used < ceiling; i++) {
        if (p->refs[i] > 0)
            continue;
        if (p->slab)
            p->memory[i] = p->slab + i * p->slot_bytes;
        else if (!p->memory[i])
            TARNI_TRY(tarni_alloc_aligned(&p->allocator, p->slot_bytes, 1, &p->memory[i], err));
        p->refs[i] = 1;
        p->n_used++;
        *out = i;
        return TARN_OK;
    }
    return tarni_fail(err, TARN_E_LIMIT,
                      "%u of %u state slots of %zu bytes are in use by sessions with work or "
                      "uncommitted tokens",
                      p->n_used, p->n_max, p->slot_bytes);
}

tarn_status tarni_slots_take(tarni_slots *p, uint32_t *out, tarn_error *err)
{
    return take(p, p->n_max - 1, out, err);
}

tarn_status tarni_slots_take_last(tarni_slots *p, uint32_t *out, tarn_error *err)
{
    return take(p, p->n_max, out, err);
}

void tarni_slots_share(tarni_slots *p, uint32_t slot)
{
    TARN_ASSERT(slot < p->n_max && p->refs[slot] > 0);
    p->refs[slot]++;
}

void tarni_slots_release(tarni_slots *p, uint32_t slot)
{
    TARN_ASSERT(slot < p->n_max && p->refs[slot] > 0);
    if (--p->refs[slot] == 0)
        p->n_used--;
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
