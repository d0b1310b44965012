/* lineage.h - the history of a place: the chain of nodes from the root, cut at a position.
 *
 * Everything that is asked about a place is answered from its lineage: which tokens lead there,
 * which turn is where, which states could be resumed from and at what price. Needs the store alone,
 * no model. */
#ifndef TARNI_LINEAGE_H
#define TARNI_LINEAGE_H

#include "store.h"
#include "tarn.h"

/* Nodes root first. The place is `position`: it lies at or after the end of node n_at - 1, the last
 * node that ends at or before it, and before the end of node n_at, if there is one (n_nodes is n_at
 * or n_at + 1). */
typedef struct tarni_lineage {
    tarnp_store *store;
    const tarn_allocator *allocator;
    tarnp_session session;
    tarnp_node *nodes;
    size_t n_nodes;
    size_t n_at;
    uint64_t position;
} tarni_lineage;

/* The place WHERE (tarn.h) of a session. NOT_FOUND (session, node, place), INVALID (no such form),
 * CORRUPT (which node). After an error *out holds nothing. */
tarn_status tarni_lineage_open(tarnp_store *store, const char *session, const char *where,
                               tarni_lineage *out, tarn_error *err);
void tarni_lineage_fini(tarni_lineage *l);

/* The last node at or before the place. */
const tarnp_node *tarni_lineage_node(const tarni_lineage *l);
/* True if the place is a node of its own; else a node without state has to be made for it. */
bool tarni_lineage_at_node(const tarni_lineage *l);

/* Appends all ids up to the place. */
tarn_status tarni_lineage_tokens(const tarni_lineage *l, tarni_ids *out, tarn_error *err);

/* Stored bytes of the chunks that call reads. */
uint64_t tarni_lineage_token_bytes(const tarni_lineage *l);

/* Can this node be resumed without computing anything? The root can: it is empty. */
bool tarni_node_resumable(const tarnp_node *node);

/* The chunks of latents that give tokens [0, nodes[n - 1].position): nodes are visited from the
 * last one back, and each covers what the later ones do not. Calls fn from the first token on, in
 * the order in which they must be read. NOT_FOUND where a stretch was evicted, CORRUPT where one is
 * missing. fn may be NULL. */
typedef tarn_status (*tarni_latent_fn)(void *user, const tarnp_node *node, tarn_error *err);
tarn_status tarni_lineage_latents(const tarni_lineage *l, size_t n, tarni_latent_fn fn, void *user,
                                  tarn_error *err);

/* The last of nodes[0 .. from - 1] that can be resumed from with what has not been evicted: it is
 * nodes[*n - 1], at worst the root. *evicted is set where a nearer one had to be passed over. */
tarn_status tarni_lineage_state(const tarni_lineage *l, size_t from, size_t *n, bool *evicted,
                                tarn_error *err);

/* The same history up to an earlier or the same position. Borrows from `l`: not to be finished. */
tarni_lineage tarni_lineage_at(const tarni_lineage *l, uint64_t position);

/* What resuming here costs, if nothing is damaged. Latents of a state at or before `shared` tokens
 * are there already. */
tarn_status tarni_lineage_price(const tarni_lineage *l, uint64_t shared, tarn_price *out,
                                tarn_error *err);

/* Commits a node without state at the place (which is at none): the tokens between. With `move` it
 * becomes the session's head if that still is session.head, by the holder of `lease` (NULL: none).
 * Without `move` it needs no lease and the head may be anywhere. */
tarn_status tarni_lineage_make_node(const tarni_lineage *l, bool move, const tarnp_lease *lease,
                                    tarnp_committed *out, tarn_error *err);

#endif
