/* admit.h - whether a node and its chunks from elsewhere are what a store would have written.
 *
 * Checksums say that bytes are what somebody wrote. These checks say that they make sense: known
 * roles, kinds and flags, tokens in their places, a position that follows from the parent's, chunks
 * that decode. */
#ifndef TARNP_ADMIT_H
#define TARNP_ADMIT_H

#include "handle.h"
#include "node.h"

/* Where in its chain a node comes. */
typedef struct tarnp_admission {
    size_t n_nodes;               /* before it */
    uint64_t n_chunks;            /* of those */
    const tarnp_manifest *before; /* the last of those; all zero for a root */
    const uint8_t *fp;            /* the model of the chain */
} tarnp_admission;

/* CORRUPT or FORMAT says what cannot be. */
tarn_status tarnp_admit_node(const tarnp_admission *a, tarnp_span manifest,
                             const tarn_allocator *allocator, tarnp_manifest *m, tarn_error *err);
/* The value matches the manifest's entry, and it decodes. `scratch` holds TARNP_CHUNK_BYTES_MAX.
 * Errors name the reason only. */
tarn_status tarnp_admit_chunk(tarnp_store *store, tarnp_span value, const tarnp_chunk_ref *want,
                              void *scratch, tarn_error *err);

#endif
