/* finds.h - the list of what has been found of a store that may be damaged. */
#ifndef TARNP_FINDS_H
#define TARNP_FINDS_H

#include "extract.h"

typedef struct tarnp_found_node {
    uint64_t id, parent, session_id, position;
    uint32_t n_tokens;
    bool readable; /* else only the id is sure, and the rest what the damaged manifest says */
} tarnp_found_node;

typedef struct tarnp_found_tip {
    uint64_t session_id, node;
} tarnp_found_tip;

typedef struct tarnp_remains {
    tarn_allocator allocator;
    tarn_log log;
    tarnp_store *store;      /* NULL: the file is searched */
    struct tarnp_scan *scan; /* NULL: the tables are read */
    tarnp_source source;
    tarnp_found_node *nodes; /* by id */
    size_t n_nodes, nodes_capacity;
    tarnp_session *sessions; /* by id; head 0 and name "" where the record is damaged */
    size_t n_sessions, sessions_capacity;
    tarnp_found_tip *tips;
    size_t n_tips, tips_capacity;
} tarnp_remains;

/* The bytes need not match their checksum. */
tarn_status tarnp_remains_add_node(tarnp_remains *r, tarnp_span manifest, uint64_t id,
                                   tarn_error *err);
tarn_status tarnp_remains_add_session(tarnp_remains *r, tarnp_span record, uint64_t id,
                                      tarn_error *err);
tarn_status tarnp_remains_add_tip(tarnp_remains *r, uint64_t session_id, uint64_t node,
                                  tarn_error *err);

#endif
