/* entries.h - nodes and sessions as the tables hold them, one at a time, inside a transaction. */
#ifndef TARNP_ENTRIES_H
#define TARNP_ENTRIES_H

#include "handle.h"
#include "node.h"

/* Puts the manifest and counts the node. n_bytes of `m` is filled in. */
tarn_status tarnp_node_put(tarnp_write *w, tarnp_manifest *m, const tarnp_segment *segments,
                           const tarnp_section *sections, const tarnp_chunk_ref *chunks,
                           tarn_error *err);
/* Copies `numerics` (NULL: none) into the manifest; INVALID where it is too long. */
tarn_status tarnp_numerics_set(tarnp_manifest *m, const char *numerics, tarn_error *err);
/* What tarnp_session.bytes_shared is for this session and head. */
tarn_status tarnp_shared_bytes(tarnp_txn *txn, uint64_t session_id, uint64_t head, uint64_t *out,
                               tarn_error *err);

/* The record of a session; out->id 0 where there is none. */
tarn_status tarnp_session_load(tarnp_txn *txn, uint64_t session_id, const tarn_allocator *allocator,
                               tarnp_session *out, tarn_error *err);
/* The session of this name; NOT_FOUND. A name that points to another session is damage. */
tarn_status tarnp_session_load_named(tarnp_store *store, tarnp_txn *txn, const char *name,
                                     tarnp_session *out, tarn_error *err);
/* Gives a name to a session id; EXISTS. */
tarn_status tarnp_name_take(tarnp_write *w, const char *name, uint64_t id, tarn_error *err);

#endif
