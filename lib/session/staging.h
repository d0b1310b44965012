/* staging.h - a session's memory where the host can reach it: for the store to write and to read.
 *
 * On a device whose memory is the host's that is the memory itself, and every call here returns at
 * once. Else it is pinned memory, laid out as the host's would be, and copies between the two that
 * go on beside what the device computes. */
#ifndef TARNI_STAGING_H
#define TARNI_STAGING_H

#include "checkpoint.h"
#include "pools.h"

typedef struct tarni_staging {
    tarni_device *device; /* NULL: nothing is held */
    const tarn_allocator *allocator;
    uint8_t *memory; /* pinned; NULL: the caller's is used */
    size_t n_bytes;
    uint8_t **host_pages; /* [n_pages], NULL for those not staged */
    size_t n_pages;
    tarni_transfer transfer;
} tarni_staging;

/* What a staging is made of. */
typedef struct tarni_staged {
    uint32_t slot;         /* TARNI_SLOT_NONE: none */
    uint8_t *const *pages; /* of a page table */
    uint64_t begin, end;   /* tokens whose rows are staged */
    uint8_t *memory;       /* pinned, tarni_staging_bytes; NULL: taken for the time */
} tarni_staged;

/* How much pinned memory that takes, where the host cannot reach it. */
uint64_t tarni_staging_bytes(const tarni_pools *pools, const tarni_staged *what);

/* Sets slot, logits and pages of *image to where the host will find them, and begins to copy what
 * the steps so far have left there. */
tarn_status tarni_staging_save(const tarni_pools *pools, const tarni_staged *what,
                               tarni_image *image, tarni_staging *out, tarn_error *err);
/* Until it can be read. Any thread. */
tarn_status tarni_staging_await(tarni_staging *s, tarn_error *err);
/* Would that return at once? Never waits. Of one that was begun, on a device that is not the host.
 */
bool tarni_staging_passed(const tarni_staging *s);

/* Sets them to where the host puts what `put` then begins to copy to the device. */
tarn_status tarni_staging_begin(const tarni_pools *pools, const tarni_staged *what,
                                tarni_image *image, tarni_staging *out, tarn_error *err);
tarn_status tarni_staging_put(tarni_staging *s, tarn_error *err);

/* Waits for what is on its way; also of a zeroed one. */
void tarni_staging_fini(tarni_staging *s);

#endif
