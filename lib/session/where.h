/* where.h - places in a session as text: "@n:ID", "@t:POS", "@turn:K", "@before:CALL_ID". */
#ifndef TARNI_WHERE_H
#define TARNI_WHERE_H

#include "store.h"

typedef enum tarni_where_kind {
    TARNI_WHERE_HEAD,
    TARNI_WHERE_NODE,
    TARNI_WHERE_TOKEN,
    TARNI_WHERE_TURN,
    TARNI_WHERE_BEFORE
} tarni_where_kind;

typedef struct tarni_where {
    tarni_where_kind kind;
    uint64_t node;
    uint64_t token;
    int64_t turn;
    const char *call_id; /* borrowed from the text */
} tarni_where;

/* NULL and "" are the head. INVALID says which forms there are. */
tarn_status tarni_where_parse(const char *text, tarni_where *out, tarn_error *err);

/* A chain of nodes, root first, of the session called `session`. */
typedef struct tarni_chain {
    const char *session;
    const tarnp_node *nodes;
    size_t n_nodes; /* at least 1 */
    const tarn_allocator *allocator;
} tarni_chain;

/* The position of a place in a chain that ends at its node or head. NOT_FOUND says what there is
 * instead. */
tarn_status tarni_where_find(const tarni_where *w, const tarni_chain *chain, uint64_t *position,
                             tarn_error *err);

/* The positions at which turns end, first turn first. Free `ends` with the chain's allocator. */
typedef struct tarni_turns {
    uint64_t *ends;
    size_t n;
    size_t capacity;
} tarni_turns;
tarn_status tarni_chain_turns(const tarni_chain *chain, tarni_turns *out, tarn_error *err);

#endif
