/* chains.h - from a head back to the root through what is left of a store.
 *
 * A damaged manifest in the middle hides its parent. One bit of it is wrong, as a rule, so what it
 * says of its parent and of its tokens is compared with what its child, or the session, says of it;
 * the node that fits best is its parent. Where that leaves several, the chain goes on from what
 * they have in common: never from a branch that may be another. */
#ifndef TARNP_CHAINS_H
#define TARNP_CHAINS_H

#include "remains.h"

/* What is known of nodes[i] of the remains. */
typedef struct tarnp_place {
    bool has_own_child, is_tip;
    bool needed; /* a chain that was asked for leads through it */
} tarnp_place;

/* A node that cannot be read, and where its chain goes on. */
typedef struct tarnp_gap {
    uint64_t lost;
    size_t parent; /* index */
} tarnp_gap;

typedef struct tarnp_chains {
    const tarnp_remains *from;
    tarnp_place *places;
    uint64_t *missing; /* ids that are needed and of which nothing is there; with repetitions */
    size_t n_missing, missing_capacity;
    tarnp_gap *gaps;
    size_t n_gaps, gaps_capacity;
    size_t *chain; /* what the last walk found: indices, root first */
    size_t n_chain, chain_capacity;
} tarnp_chains;

/* Finish it also after an error. The remains must outlive it. */
tarn_status tarnp_chains_init(tarnp_chains *c, const tarnp_remains *from, tarn_error *err);
void tarnp_chains_fini(tarnp_chains *c);

/* Fills c->chain with the longest chain from the root towards `head` whose manifests are whole. `s`
 * is the session it is the head (or a tip) of. */
tarn_status tarnp_chains_walk(tarnp_chains *c, uint64_t head, const tarnp_session *s,
                              tarn_error *err);
/* How many of the ids in `missing` are different; sorts them. */
size_t tarnp_chains_missing(tarnp_chains *c);

/* The index of a node in the remains, SIZE_MAX if it is not there. */
size_t tarnp_found_at(const tarnp_remains *r, uint64_t id);

#endif
