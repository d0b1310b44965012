/* graft.h - a chain of nodes from elsewhere becomes a session of a store.
 *
 *     begin -> node, its chunks -> node, its chunks -> ... -> session (or tip) -> end
 *
 * Nodes come as extract.h makes them, and nothing of them is believed: structure, places, sums and
 * that every chunk decodes are checked before it is stored. Nodes the store has already (the same
 * commit key and the same content) are used instead of copied, as far as the chain is the same from
 * the root on. Chunks go into the store in bounded transactions under a stage mark; the last
 * transaction makes nodes, name and head visible together. Without it, end frees what was staged.
 *
 * Memory: the manifests of the chain, and the chunks of one transaction. */
#ifndef TARNP_GRAFT_H
#define TARNP_GRAFT_H

#include "handle.h"
#include "node.h"
#include "stage.h"

typedef struct tarnp_graft_node {
    uint64_t id; /* in the store; 0: not known yet */
    uint64_t first_chunk;
    size_t manifest_at, manifest_bytes;
    uint64_t chunks_before; /* of the nodes before it */
    uint32_t n_chunks;
    bool used; /* it is in the store already */
} tarnp_graft_node;

typedef struct tarnp_graft_chunk {
    size_t node; /* index */
    uint32_t i;  /* chunk of it */
    size_t at, n_bytes;
} tarnp_graft_chunk;

typedef struct tarnp_graft {
    tarnp_store *store;
    uint8_t fp[TARNP_FP_BYTES];
    tarnp_stage stage;
    uint64_t session_id; /* given out for the nodes to come; 0: not yet */
    tarnp_graft_node *nodes;
    size_t n_nodes, nodes_capacity;
    size_t n_reserved;      /* nodes that have ids */
    tarnp_manifest last;    /* of the last node that came */
    tarni_writer manifests; /* of all nodes, end to end */
    tarni_writer sums;      /* of all chunks as they are stored, 16 bytes each */
    uint64_t n_chunks;      /* of all nodes so far */
    uint64_t copied_bytes;  /* what those that are copied take, and how much of it is staged */
    uint64_t staged_bytes;
    uint32_t n_seen; /* chunks of the last node that came */
    tarnp_graft_chunk *pending;
    size_t n_pending, pending_capacity;
    tarni_writer slab; /* their values */
    void *scratch;     /* what they decode to */
} tarnp_graft;

/* All nodes must be of model `fp`. */
void tarnp_graft_begin(tarnp_graft *g, tarnp_store *store, const uint8_t fp[TARNP_FP_BYTES]);
/* Before the first node: the chain goes on from a node of the store, which counts as its first, so
 * that the first to come is number 2. */
tarn_status tarnp_graft_go_on(tarnp_graft *g, uint64_t node, tarn_error *err);
/* CORRUPT, FORMAT, NO_SPACE, IO, QUOTA (nothing is evicted for it): end it then. */
tarn_status tarnp_graft_put_node(tarnp_graft *g, tarnp_span manifest, tarn_error *err);
tarn_status tarnp_graft_put_chunk(tarnp_graft *g, tarnp_span value, tarn_error *err);

/* Links the chain as a new session: name, tags, times and marks are those of `like`, the rest is
 * ignored. `descriptor` (data NULL: none) is the model's. EXISTS, CONFLICT (the model is known with
 * another descriptor, or a node that was to be used is gone), QUOTA. */
tarn_status tarnp_graft_session(tarnp_graft *g, const tarnp_session *like, tarnp_span descriptor,
                                tarnp_session *out, tarn_error *err);
/* Links the chain as a tip of a session: a branch it has left. */
tarn_status tarnp_graft_tip(tarnp_graft *g, uint64_t session_id, tarn_error *err);
void tarnp_graft_end(tarnp_graft *g);

/* The store's id of node i (from 0) after a link. */
uint64_t tarnp_graft_node_id(const tarnp_graft *g, size_t i);

/* ---- between graft.c and link.c ------------------------------------------------------------- */

/* CORRUPT where there is no root, or a chunk of the last node is missing. */
tarn_status tarnp_graft_complete(const tarnp_graft *g, tarn_error *err);
/* The manifest of node i as it came. */
tarnp_manifest tarnp_graft_manifest(const tarnp_graft *g, size_t i);
/* Whether all that came so far fits the store's quota: what a refused graft has staged goes again,
 * so the sooner it is refused the better. */
tarn_status tarnp_graft_quota(const tarnp_graft *g, tarnp_write *w, tarn_error *err);
/* Gives ids to the nodes from *n_reserved on. Node ids and chunk ids come together: a chunk that
 * comes later finds its id here. */
tarn_status tarnp_graft_reserve(tarnp_graft *g, tarnp_write *w, size_t *n_reserved,
                                tarn_error *err);
/* Stages the chunks that are still in memory. */
tarn_status tarnp_graft_flush(tarnp_graft *g, tarn_error *err);

#endif
