/* commit.h - putting a node inside a write transaction. */
#ifndef TARNP_COMMIT_H
#define TARNP_COMMIT_H

#include "handle.h"
#include "node.h"

/* Puts the manifest and counts the node. `m` comes with everything but n_bytes, and with the
 * parent's chain_bytes; both are filled in. */
tarn_status tarnp_node_put(tarnp_write *w, tarnp_manifest *m, const tarnp_segment *segments,
                           const tarnp_section *sections, const tarnp_chunk_ref *chunks,
                           tarn_error *err);

/* Copies `numerics` (NULL: none) into the manifest; INVALID where it is too long. */
tarn_status tarnp_numerics_set(tarnp_manifest *m, const char *numerics, tarn_error *err);

/* A commit encoded and hashed, ready for a transaction. */
typedef struct tarnp_draft tarnp_draft;

/* Checks and encodes, on this thread and the store's pool. With `own` nothing of the caller's is
 * looked at later, else all of it must outlive the draft. */
tarn_status tarnp_draft_make(tarnp_store *store, const tarnp_commit *commit, bool own,
                             tarnp_draft **out, tarn_error *err);
/* Any thread. NULL is allowed. */
void tarnp_draft_free(tarnp_store *store, tarnp_draft *draft);
/* Memory it takes. */
size_t tarnp_draft_bytes(const tarnp_draft *draft);
/* Puts the node; all of `out` but bytes_written is filled in. After CONFLICT, BUSY, NOT_FOUND,
 * MISMATCH, INVALID and LIMIT with no byte more put than before the transaction is as it was. */
tarn_status tarnp_draft_put(tarnp_write *w, tarnp_draft *draft, tarnp_committed *out,
                            tarn_error *err);

/* The record of a session; out->id 0 where there is none. */
tarn_status tarnp_session_load(tarnp_txn *txn, uint64_t session_id, const tarn_allocator *allocator,
                               tarnp_session *out, tarn_error *err);

#endif
