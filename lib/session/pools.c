#include "pools.h"

/* Slots and pages as items of one budget. */
static tarn_status open_trade(tarni_pools *p, const tarni_pools_plan *plan, tarn_error *err)
{
    const tarni_trade_plan both = {
        .item_bytes = {tarni_pools_slot_bytes(&p->spec, &p->layout), p->layout.page_bytes},
        .n_items = {plan->n_slots, plan->n_pages},
        .n_least = {TARNI_SLOTS_MIN, 1},
        .bytes_max = plan->bytes_max,
        .bytes_name = plan->bytes_name};
    const tarn_allocator *a = &p->inner;
    TARNI_TRY(tarni_trade_open(&p->trade, p->device, &both, &p->log, a, err));
    TARNI_TRY(tarni_slots_init_in(&p->slots, &p->trade, a, err));
    p->device->class->fill(p->device, tarni_slots_data(&p->slots, TARNI_SLOT_ZERO), 0,
                           p->slots.slot_bytes);
    return tarni_pages_init_in(&p->pages, &p->trade, &p->layout, plan->n_pages, a, err);
}

tarn_status tarni_pools_open(tarni_pools *p, const tarni_pools_plan *plan, const tarn_allocator *a,
                             tarn_error *err)
{
    size_t slot_bytes = tarni_pools_slot_bytes(&p->spec, &p->layout);
    p->inner = *a;
    if (!p->device->class->on_host)
        TARNI_TRY(tarni_alloc(a, plan->n_slots, sizeof *p->mirrors, &p->mirrors, err));
    if (plan->together)
        return open_trade(p, plan, err);
    TARNI_TRY(tarni_slots_init(&p->slots, slot_bytes, plan->n_slots, a, err));
    tarni_pages_init(&p->pages, &p->layout, plan->n_pages, a);
    return TARN_OK;
}

void tarni_pools_close(tarni_pools *p)
{
    const tarn_allocator *a = &p->inner;
    for (uint32_t i = 0; p->mirrors && i < p->slots.n_max; i++)
        tarni_free(a, p->mirrors[i]);
    if (p->mirrors)
        tarni_free(a, p->mirrors);
    if (p->pages.layout)
        tarni_pages_fini(&p->pages);
    tarni_slots_fini(&p->slots);
    tarni_trade_close(&p->trade);
}

tarn_status tarni_pools_read_logits(tarni_pools *p, uint32_t slot, const float **out,
                                    tarn_error *err)
{
    const float *row = tarni_pools_logits(p, slot);
    *out = row;
    if (p->device->class->on_host)
        return TARN_OK;
    size_t vocab = p->spec.vocab;
    if (!p->mirrors[slot])
        TARNI_TRY(tarni_alloc(&p->inner, vocab, sizeof(float), &p->mirrors[slot], err));
    *out = p->mirrors[slot];
    return p->device->class->read(p->device, p->mirrors[slot], row, vocab * sizeof(float), err);
}
