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

/* The record of a session; out->id 0 where there is none. */
tarn_status tarnp_session_load(tarnp_txn *txn, uint64_t session_id, const tarn_allocator *allocator,
                               tarnp_session *out, tarn_error *err);
/* Gives a name to a session id; EXISTS. */
tarn_status tarnp_name_take(tarnp_write *w, const char *name, uint64_t id, tarn_error *err);

#endif
