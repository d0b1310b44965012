#include "staging.h"

#include <string.h>

static size_t pages_of(uint64_t n_tokens)
{
    return (size_t)((n_tokens + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS);
}

/* Where the memory is the host's: itself. */
static void point_at(const tarni_pools *pools, const tarni_staged *what, tarni_image *image)
{
    if (what->slot != TARNI_SLOT_NONE) {
        image->slot = tarni_slots_data(&pools->slots, what->slot);
        image->logits = tarni_pools_logits(pools, what->slot);
    }
    image->pages = (uint8_t **)(uintptr_t)what->pages;
}

/* Where pages of a staging begin and end, and what stands before them. */
typedef struct extent {
    size_t first, end; /* pages */
    size_t slot_bytes; /* up to the first page */
    size_t n_bytes;
} extent;

/* What is staged lies in memory already: no sum of it overflows. */
static extent measure(const tarni_pools *pools, const tarni_staged *what)
{
    const tarni_layout *l = &pools->layout;
    size_t slot_bytes = what->slot != TARNI_SLOT_NONE ? pools->slots.slot_bytes : 0;
    extent x = {.first = (size_t)(what->begin / TARNK_PAGE_TOKENS), .end = pages_of(what->end)};
    if (what->begin >= what->end || l->n_mla == 0)
        x.first = x.end = 0;
    x.slot_bytes = (slot_bytes + TARNI_ALIGNMENT - 1) / TARNI_ALIGNMENT * TARNI_ALIGNMENT;
    x.n_bytes = x.slot_bytes + (x.end - x.first) * l->page_bytes;
    if (x.n_bytes == 0)
        x.n_bytes = TARNI_ALIGNMENT;
    return x;
}

uint64_t tarni_staging_bytes(const tarni_pools *pools, const tarni_staged *what)
{
    return measure(pools, what).n_bytes;
}

/* Pinned memory for the slot, then for each page of the rows. */
static tarn_status take_memory(const tarni_pools *pools, const tarni_staged *what,
                               tarni_image *image, tarni_staging *s, tarn_error *err)
{
    const tarni_layout *l = &pools->layout;
    const extent x = measure(pools, what);
    TARNI_TRY(tarni_alloc(s->allocator, x.end, sizeof *s->host_pages, &s->host_pages, err));
    s->n_bytes = x.n_bytes;
    if (!what->memory)
        TARNI_TRY(s->device->class->pin(s->device, x.n_bytes, &s->memory, err));
    uint8_t *memory = what->memory ? what->memory : s->memory;
    for (size_t i = x.first; i < x.end; i++)
        s->host_pages[i] = memory + x.slot_bytes + (i - x.first) * l->page_bytes;
    s->n_pages = x.end;
    s->transfer = (tarni_transfer){
        .pages = what->pages, .host_pages = s->host_pages, .begin = what->begin, .end = what->end};
    if (x.end == 0)
        s->transfer.begin = s->transfer.end = 0;
    if (what->slot != TARNI_SLOT_NONE) {
        s->transfer.slot = tarni_slots_data(&pools->slots, what->slot);
        s->transfer.host_slot = memory;
        image->slot = memory;
        image->logits = (float *)(void *)(memory + l->slot_bytes);
    }
    image->pages = s->host_pages;
    return TARN_OK;
}

tarn_status tarni_staging_begin(const tarni_pools *pools, const tarni_staged *what,
                                tarni_image *image, tarni_staging *out, tarn_error *err)
{
    *out = (tarni_staging){0};
    if (pools->device->class->on_host) {
        point_at(pools, what, image);
        return TARN_OK;
    }
    out->device = pools->device;
    out->allocator = &pools->allocator;
    tarn_status status = take_memory(pools, what, image, out, err);
    if (status != TARN_OK)
        tarni_staging_fini(out);
    return status;
}

tarn_status tarni_staging_save(const tarni_pools *pools, const tarni_staged *what,
                               tarni_image *image, tarni_staging *out, tarn_error *err)
{
    TARNI_TRY(tarni_staging_begin(pools, what, image, out, err));
    if (!out->device)
        return TARN_OK;
    tarn_status status = out->device->class->save(out->device, &out->transfer, err);
    if (status != TARN_OK)
        tarni_staging_fini(out);
    return status;
}

tarn_status tarni_staging_put(tarni_staging *s, tarn_error *err)
{
    return s->device ? s->device->class->load(s->device, &s->transfer, err) : TARN_OK;
}

tarn_status tarni_staging_await(tarni_staging *s, tarn_error *err)
{
    return s->device ? s->device->class->await(s->device, &s->transfer, err) : TARN_OK;
}

bool tarni_staging_passed(const tarni_staging *s)
{
    return s->device->class->passed(s->device, &s->transfer);
}

void tarni_staging_fini(tarni_staging *s)
{
    tarn_error err;
    if (!s->device)
        return;
    if (tarni_staging_await(s, &err) != TARN_OK) /* the device is gone: nothing writes here */
        err.status = TARN_OK;
    s->device->class->forget(s->device, &s->transfer);
    if (s->memory)
        s->device->class->unpin(s->device, s->memory, s->n_bytes);
    tarni_free(s->allocator, s->host_pages);
    *s = (tarni_staging){0};
}
