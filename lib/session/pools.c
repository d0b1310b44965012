#include "pools.h"

/* Slots, then pages, in one piece. */
static tarn_status take_slab(tarni_pools *p, uint32_t n_slots, uint64_t n_pages,
                             const tarn_allocator *a, tarn_error *err)
{
    const tarni_device_class *class = p->device->class;
    size_t slot_bytes = tarni_pools_slot_bytes(&p->spec, &p->layout), slots, pages, all;
    if (!tarni_mul_size(n_slots, slot_bytes, &slots) ||
        !tarni_mul_size(n_pages, p->layout.page_bytes, &pages) ||
        !tarni_add_size(slots, pages, &all))
        return tarni_fail_memory(err, SIZE_MAX);
    TARNI_TRY(class->alloc(p->device, a, all, "states and latents", &p->slab, err));
    class->fill(p->device, p->slab, 0, slot_bytes); /* the slot of the empty session */
    TARNI_TRY(tarni_slots_init_in(&p->slots, p->slab, slot_bytes, n_slots, a, err));
    return tarni_pages_init_in(&p->pages, p->device, p->slab + slots, &p->layout, n_pages, a, err);
}

tarn_status tarni_pools_open(tarni_pools *p, uint32_t n_slots, uint64_t n_pages,
                             const tarn_allocator *a, tarn_error *err)
{
    p->inner = *a;
    if (!p->device->class->on_host)
        TARNI_TRY(tarni_alloc(a, n_slots, sizeof *p->mirrors, &p->mirrors, err));
    if (p->device->class->plans)
        return take_slab(p, n_slots, n_pages, a, err);
    TARNI_TRY(
        tarni_slots_init(&p->slots, tarni_pools_slot_bytes(&p->spec, &p->layout), n_slots, a, err));
    tarni_pages_init(&p->pages, &p->layout, n_pages, a);
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
    if (p->slab)
        p->device->class->free(p->device, a, p->slab);
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
