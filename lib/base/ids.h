/* ids.h - a growable array of token ids. */
#ifndef TARN_BASE_IDS_H
#define TARN_BASE_IDS_H

#include "memory.h"

typedef struct tarni_ids {
    const tarn_allocator *allocator; /* borrowed, must outlive the array */
    uint32_t *ids;                   /* owned */
    size_t n_ids;
    size_t capacity;
} tarni_ids;

void tarni_ids_init(tarni_ids *a, const tarn_allocator *allocator);
void tarni_ids_fini(tarni_ids *a);
/* Both leave the array unchanged when they fail. */
tarn_status tarni_ids_push(tarni_ids *a, uint32_t id, tarn_error *err);
tarn_status tarni_ids_append(tarni_ids *a, const uint32_t *ids, size_t n_ids, tarn_error *err);

#endif
