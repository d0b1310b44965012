/* forest.h - all nodes and sessions of a store in memory, for decisions that need all of them: what
 * is collected, what makes room for a commit.
 *
 * It is loaded, decided on and applied inside one transaction, so nothing it says is out of date
 * when it is acted on. 100,000 nodes are some 15 MB and a tenth of a second. */
#ifndef TARNP_FOREST_H
#define TARNP_FOREST_H

#include "handle.h"

#define TARNP_NO_INDEX UINT32_MAX

typedef enum tarnp_why {
    TARNP_WHY_THINNED = 1, /* tokens: one state stays in so many */
    TARNP_WHY_STORE_QUOTA, /* tokens: what computing it again takes */
    TARNP_WHY_GROUP_QUOTA
} tarnp_why;

/* A part of a node that shall go. */
typedef struct tarnp_verdict {
    tarnp_why why; /* 0: it stays */
    uint64_t tokens;
} tarnp_verdict;

typedef struct tarnp_forest_node {
    uint64_t id, session_id, position;
    uint64_t stored_bytes, state_bytes, latent_bytes; /* that are there; the last two within */
    uint64_t latent_begin, latent_end; /* that it holds or held; equal where it never held any */
    uint64_t created_ms;
    uint32_t parent; /* index; TARNP_NO_INDEX for a root */
    uint8_t flags;
    /* Set by tarnp_forest_mark: */
    uint32_t n_children;  /* that live */
    uint64_t last_use_ms; /* of the node, or of a session it is in the history of */
    bool is_head, is_tip; /* of a session that stays */
    bool is_pinned;       /* in the history of a pinned session */
    bool is_dead;         /* no session that stays needs it */
    tarnp_verdict state, latents;
    uint64_t chain_bytes, shared_bytes; /* as bytes_shared of a session that has it as head */
} tarnp_forest_node;

typedef struct tarnp_forest_session {
    tarnp_session record;
    uint32_t head; /* index */
    bool is_gone;  /* shall be removed */
} tarnp_forest_session;

typedef struct tarnp_forest_tip {
    uint32_t session, node; /* indices */
} tarnp_forest_tip;

typedef struct tarnp_forest {
    tarnp_store *store;
    tarnp_forest_node *nodes; /* by id: parents before children */
    size_t n_nodes, nodes_capacity;
    tarnp_forest_session *sessions; /* by id */
    size_t n_sessions, sessions_capacity;
    tarnp_forest_tip *tips;
    size_t n_tips, tips_capacity;
} tarnp_forest;

/* CORRUPT where anything of it cannot be read. After an error *out holds nothing. */
tarn_status tarnp_forest_load(tarnp_store *store, tarnp_txn *txn, tarnp_forest *out,
                              tarn_error *err);
void tarnp_forest_fini(tarnp_forest *f);

uint32_t tarnp_forest_find(const tarnp_forest *f, uint64_t node);
tarnp_forest_session *tarnp_forest_find_session(const tarnp_forest *f, uint64_t id);
/* Anew after is_gone of a session has changed. */
void tarnp_forest_mark(tarnp_forest *f);
/* Does the node have a state that stays? */
bool tarnp_forest_has_state(const tarnp_forest_node *node);

/* Removes the sessions that are gone, evicts what has a verdict, and sets the bytes of all other
 * sessions right. Chunks and nodes are left to the queue. */
tarn_status tarnp_forest_apply(tarnp_write *w, tarnp_forest *f, tarn_error *err);

#endif
