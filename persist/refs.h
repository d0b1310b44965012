/* refs.h - which nodes are needed: reference counts, tips, and freeing what nothing needs.
 *
 *     references(node) = children + sessions whose head it is + tips + drops still queued
 *
 * A tip keeps a node of a session alive that no head and no child of the session's own keeps. */
#ifndef TARNP_REFS_H
#define TARNP_REFS_H

#include "handle.h"
#include "node.h"

/* The manifest of a node that can be referenced: NOT_FOUND where it is absent or being freed. The
 * span may be NULL. */
tarn_status tarnp_node_get(tarnp_txn *txn, uint64_t node, tarnp_manifest *out, tarnp_span *value,
                           tarn_error *err);

/* Another head; takes over the reference of the session's tip if the node was one. */
tarn_status tarnp_refs_arrive(tarnp_write *w, uint64_t session_id, uint64_t node, tarn_error *err);
/* A session's head leaves a node, which becomes a tip unless a child of the session's own stays. */
tarn_status tarnp_refs_leave(tarnp_write *w, uint64_t session_id, uint64_t node, tarn_error *err);
/* A new child, written by `session_id`, of `parent`: it is no tip of that session any more. */
tarn_status tarnp_refs_adopt(tarnp_write *w, uint64_t session_id, const tarnp_manifest *parent,
                             tarn_error *err);
/* A new node without a head: a tip. Its first reference is put here. */
tarn_status tarnp_refs_detach(tarnp_write *w, uint64_t session_id, uint64_t node, tarn_error *err);

/* Takes away the tips of a session, and queues them and `head` to be dropped. */
tarn_status tarnp_refs_release(tarnp_write *w, uint64_t session_id, uint64_t head, tarn_error *err);

/* Queues the chunks of a node's evicted sections; the manifest must say so already. */
tarn_status tarnp_refs_queue_evicted(tarnp_write *w, uint64_t node, tarn_error *err);

/* Frees what is queued, in transactions of bounded size. What cannot be freed now (a full disk, a
 * damaged manifest) is logged and left to the next call or to verify. */
void tarnp_refs_drain(tarnp_store *store);

#endif
