#include "ids.h"

#include <string.h>

void tarni_ids_init(tarni_ids *a, const tarn_allocator *allocator)
{
    *a = (tarni_ids){.allocator = allocator};
}

void tarni_ids_fini(tarni_ids *a)
{
    if (a->allocator)
        tarni_free(a->allocator, a->ids);
    *a = (tarni_ids){0};
}

tarn_status tarni_ids_push(tarni_ids *a, uint32_t id, tarn_error *err)
{
    return tarni_ids_append(a, &id, 1, err);
}

tarn_status tarni_ids_append(tarni_ids *a, const uint32_t *ids, size_t n_ids, tarn_error *err)
{
    size_t wanted;
    if (!tarni_add_size(a->n_ids, n_ids, &wanted))
        return tarni_fail_memory(err, SIZE_MAX);
    TARNI_TRY(tarni_grow(a->allocator, &a->ids, &a->capacity, wanted, sizeof *ids, err));
    if (n_ids > 0)
        memcpy(a->ids + a->n_ids, ids, n_ids * sizeof *ids);
    a->n_ids = wanted;
    return TARN_OK;
}
