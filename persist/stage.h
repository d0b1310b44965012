/* stage.h - chunks that are in the store before the nodes that will list them.
 *
 * A session that arrives from elsewhere may be larger than what one transaction should hold, and
 * its input may be slow. So its chunks are put in bounded transactions under a mark, and the last
 * transaction puts the nodes and takes the mark away. Until then nothing refers to the chunks.
 *
 * A mark is a record of table meta:
 *
 *     key     "stage", 8 session id (big-endian), 8 first chunk (big-endian)
 *     value   8 number of chunks, from the first on: those ids belong to the stage
 *
 * The session id is one that was given out for the purpose. While the process that stages lives it
 * holds a lock on byte 2^62 + session id of data.mdb, an open file description's, which the kernel
 * gives up with the process: a mark without its lock is left over, and the next open frees it. */
#ifndef TARNP_STAGE_H
#define TARNP_STAGE_H

#include "handle.h"

typedef struct tarnp_stage {
    uint64_t session_id; /* 0: nothing is staged */
    int file;            /* holds the lock */
    uint64_t first, n;   /* the last mark */
} tarnp_stage;

/* Takes the lock for a session id just given out in `w`. */
tarn_status tarnp_stage_open(tarnp_write *w, uint64_t session_id, tarnp_stage *out,
                             tarn_error *err);
/* Marks chunk ids [first, first + n), given out in `w`, as staged. */
tarn_status tarnp_stage_mark(tarnp_write *w, tarnp_stage *s, uint64_t first, uint64_t n,
                             tarn_error *err);
/* Takes the marks away in the transaction that puts the nodes. */
tarn_status tarnp_stage_settle(tarnp_write *w, const tarnp_stage *s, tarn_error *err);
/* Gives up the lock. With `discard` the chunks still marked are freed first; what cannot be freed
 * now is logged and left to the next open. */
void tarnp_stage_close(tarnp_store *store, tarnp_stage *s, bool discard);

/* Frees what processes that are gone left staged; not through a handle that only reads. */
void tarnp_stage_sweep(tarnp_store *store);

typedef struct tarnp_staged {
    uint64_t first, n;
} tarnp_staged;

/* All marks, by first chunk. Free with tarni_free. */
tarn_status tarnp_stage_list(tarnp_txn *txn, const tarn_allocator *allocator, tarnp_staged **out,
                             size_t *n, tarn_error *err);

#endif
