/* draft.h - a commit on its way: checked, encoded and hashed, not yet in a transaction.
 *
 * All encoded chunks of a commit are in memory at once, each in its own part of one slab: LMDB
 * keeps the dirty pages of a transaction in memory anyway, and encoding under the write lock would
 * make every other process wait for the entropy coder. */
#ifndef TARNP_DRAFT_H
#define TARNP_DRAFT_H

#include "chunk.h"
#include "handle.h"

/* One chunk. */
typedef struct tarnp_parcel {
    const tarnp_piece *pieces;
    size_t n_pieces;
    tarnp_piece own_piece;    /* of a chunk of tokens */
    const tarnp_lossy *lossy; /* NULL: without loss */
    tarnp_chunk_ref ref;      /* id and sum are filled in by the put */
    tarnp_chunk_head head;    /* id too */
    float max_error;
    uint8_t *at; /* in the slab: head and payload */
} tarnp_parcel;

typedef struct tarnp_draft {
    tarnp_commit commit;     /* of its pointers only numerics and segments are used after making */
    tarnp_section *sections; /* tokens first, then the caller's; of them only what they are */
    uint32_t n_sections, n_chunks;
    tarnp_parcel *parcels;
    tarnp_chunk_ref *refs; /* the manifest's table */
    uint64_t chunk_bytes;
    uint64_t needed_bytes; /* of chunks and manifest, known before they are put */
    tarnp_state_codec state_codec;
    tarnp_lossy *lossy; /* one a section */
    bool is_lossy;      /* a section is */
    uint8_t prefix[TARNP_PREFIX_SUM_BYTES];
    uint8_t *slab;
    size_t slab_bytes;
    void *owned; /* segments, call ids, numerics; NULL: the caller's */
} tarnp_draft;

/* What can be said of a commit without the store: INVALID, LIMIT. */
tarn_status tarnp_commit_check(const tarnp_commit *commit, tarn_error *err);

/* Checks and encodes, on this thread and the store's pool. With `own` nothing of the caller's is
 * looked at later, else all of it must outlive the draft. */
tarn_status tarnp_draft_make(tarnp_store *store, const tarnp_commit *commit, bool own,
                             tarnp_draft **out, tarn_error *err);
/* Any thread. NULL is allowed. */
void tarnp_draft_free(tarnp_store *store, tarnp_draft *draft);
/* Memory it takes. */
size_t tarnp_draft_bytes(const tarnp_draft *draft);

#endif
