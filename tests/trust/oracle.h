/* oracle.h - what a store must hold, kept in plain arrays, and random operations on both.
 *
 * An operation is three numbers; what they mean depends on what there is, so any part of a list of
 * operations is a list of operations, which is what makes shrinking one easy. The contents of a
 * node follow from its seed (store_kit.h).
 *
 * Alive is what is reachable: of every session its head, all it wrote, and the heads it has left,
 * with all their ancestors. */
#ifndef TARN_TESTS_ORACLE_H
#define TARN_TESTS_ORACLE_H

#include "bundle_kit.h"
#include "compact.h"

enum { ORACLE_NODES = 400, ORACLE_SESSIONS = 10, ORACLE_KEPT = 40 };

typedef struct oracle_node {
    uint64_t id, parent, owner;
    uint64_t seed;    /* 0: a root, or nothing is checked */
    uint64_t lacking; /* the operation from which on it may lack its state; 0: never */
    bool keyed;       /* it is what the commit key of its seed finds */
} oracle_node;

typedef struct oracle_session {
    char name[16], group[8], tag[8];
    uint64_t id, head, expires_ms;
    bool pinned;
    size_t n_kept;
    uint64_t kept[ORACLE_KEPT];
} oracle_session;

typedef struct oracle {
    uint64_t n_ops;
    size_t n_nodes, n_sessions;
    oracle_node nodes[ORACLE_NODES];
    oracle_session sessions[ORACLE_SESSIONS];
} oracle;

typedef enum op_kind {
    OP_APPEND, /* onto the head of a session */
    OP_BRANCH, /* a node beside: a tip */
    OP_SUBMIT, /* some through the writer */
    OP_CREATE,
    OP_FORK,
    OP_MOVE,
    OP_RENAME,
    OP_REMOVE,
    OP_MARK, /* tag, pin, expiry, group */
    OP_EVICT,
    OP_COLLECT,
    OP_IMPORT, /* of what was exported just before */
    OP_LEASE,
    OP_LOOK, /* keys, prefixes, figures, policy, quota */
    OP_REOPEN,
    OP_COMPACT,
    OP_KINDS
} op_kind;

typedef struct op {
    op_kind kind;
    uint64_t a, b;
    bool cut; /* the power fails during it */
} op;

/* The size of what a seed stands for (kit_floats): small mostly; some with pages of their own. */
static inline void oracle_size(uint64_t seed)
{
    kit_floats = (seed >> 8) % 8 == 0 ? 640 : 24;
}

/* The operation number i of a seed; mixes the kinds as sessions use them. */
op op_random(uint64_t *random);
const char *op_name(op_kind kind);

/* A commit of a tip with all it points to; c.state is the caller's to free. */
typedef struct oracle_commit {
    kit_content c;
    kit_layout l;
    char *ids[1];
    tarnp_segment segments[2];
    tarnp_commit commit;
} oracle_commit;

void oracle_prepare(oracle_commit *x, uint64_t session, uint64_t parent, uint64_t seed);

/* Does it, and compares what it returns. True: the oracle has followed. False with `why`. */
bool oracle_apply(oracle *o, kit *k, op what, char why[200]);

oracle_session *oracle_session_named(oracle *o, const char *name); /* NULL: none */
const oracle_node *oracle_node_of(const oracle *o, uint64_t id);   /* NULL: none */

/* Takes away the expired sessions whose bits `which` has, in the order they stand; false where
 * there are fewer. */
bool oracle_expire(oracle *o, unsigned which);

/* States between those before and after an operation, which may be several transactions: number 0
 * is `before`. False where there are no more. */
bool oracle_between(const oracle *before, const oracle *after, op_kind kind, unsigned part,
                    oracle *out);

/* Compares sessions, marks, heads, the number of nodes, and (deep) what verify says and the
 * contents of every node. `next` may be NULL: the oracle after the operation that was interrupted,
 * which may have evicted already. */
bool oracle_match(const oracle *o, const oracle *next, kit *k, bool deep, char why[200]);

#endif
