/* structure.h - checks the pages of an LMDB file before LMDB trusts them. */
#ifndef TARNP_STRUCTURE_H
#define TARNP_STRUCTURE_H

#include "memory.h"

/* The two meta pages of a file of file_bytes, of which the first n_read stand at `head`. CORRUPT
 * where they are damaged, FORMAT where this is no LMDB 0.9 file. */
tarn_status tarnp_structure_check_head(const uint8_t *head, size_t n_read, uint64_t file_bytes,
                                       uint32_t *page_bytes, tarn_error *err);

typedef struct tarnp_structure_result {
    bool found;    /* a meta page of this transaction id is there */
    bool complete; /* false: stopped after pages_max tree pages */
} tarnp_structure_result;

/* Every tree page reachable in the snapshot `txn_id`, which the caller holds with a read
 * transaction. `file` is the whole file, mapped. Damage is CORRUPT and names the page. */
tarn_status tarnp_structure_check_tree(const uint8_t *file, size_t n_bytes, uint64_t txn_id,
                                       uint64_t pages_max, const tarn_allocator *allocator,
                                       tarnp_structure_result *out, tarn_error *err);

#endif
