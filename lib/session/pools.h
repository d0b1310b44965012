/* pools.h - the memory sessions of one engine live in. */
#ifndef TARNI_POOLS_H
#define TARNI_POOLS_H

#include "log.h"
#include "pages.h"
#include "slots.h"

typedef struct tarni_pools {
    tarn_allocator allocator;
    tarn_log log;
    tarni_spec spec;
    tarni_layout layout;
    const char *numerics; /* of the ops table: what nodes of this engine are marked with */
    tarni_slots slots;
    tarni_pages pages;
} tarni_pools;

#endif
