/* budget.h - an allocator that counts what it has given out, and stops at a ceiling.
 *
 * Threads: any, as every allocator. */
#ifndef TARNI_BUDGET_H
#define TARNI_BUDGET_H

#include "memory.h"

#include <stdatomic.h>

typedef struct tarni_budget {
    tarn_allocator inner;
    uint64_t bytes_max; /* UINT64_MAX: none */
    _Atomic uint64_t bytes;
} tarni_budget;

/* Memory that came another way; false: beyond the ceiling. `budget` is a tarni_budget. */
bool tarni_budget_count(void *budget, size_t n_bytes);
void tarni_budget_uncount(void *budget, size_t n_bytes);

/* bytes_max 0: no ceiling. The budget must stay where it is while the allocator is used. */
tarn_allocator tarni_budget_init(tarni_budget *b, const tarn_allocator *inner, uint64_t bytes_max);

#endif
