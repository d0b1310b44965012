/* survey.h - what a verification has seen so far: every node, what refers to it, every session.
 *
 * survey.c walks the tables of nodes, of sessions and of what refers to them and lists what does
 * not agree; verify.c goes on with chunks and counters. */
#ifndef TARNP_SURVEY_H
#define TARNP_SURVEY_H

#include "handle.h"
#include "stage.h"

/* What is known of a node, and what has been counted for it. */
typedef struct tarnp_seen {
    uint64_t id, parent, session_id, position;
    /* Of what is there: from the root through this node, and through the last node on its way that
     * another session wrote. */
    uint64_t chain_bytes, shared_bytes;
    uint64_t first_chunk, stored_bytes;
    uint32_t n_chunks, n_evicted, n_tokens, turns;
    bool readable;       /* else only id is set */
    bool chain_readable; /* and all before it */
    bool evicting;       /* evicted chunks may still be there, */
    uint64_t evict_from; /* from this one on */
    uint64_t refs, own_children;
    uint64_t refs_found, own_found;
    uint8_t fp[TARNP_FP_BYTES];
    uint64_t n_chunks_found;
} tarnp_seen;

/* Evicted chunks of a node that follow one another. */
typedef struct tarnp_chunk_run {
    uint64_t first, n;
} tarnp_chunk_run;

typedef struct tarnp_survey {
    tarnp_store *store;
    tarnp_txn txn;
    tarnp_verified *out;
    size_t bad_capacity;
    tarnp_seen *nodes; /* by id */
    size_t n_nodes, nodes_capacity;
    tarnp_chunk_run *evicted; /* by number */
    size_t n_evicted, evicted_capacity;
    uint64_t n_unreadable;   /* nodes: what they refer to cannot be counted */
    tarnp_session *sessions; /* by id */
    size_t n_sessions, sessions_capacity;
    tarnp_staged *staged; /* by first chunk: of no node yet */
    size_t n_staged;
    uint64_t *owned; /* by session: stored bytes of its nodes */
    tarnp_counters counters;
    uint64_t n_chunks, n_node_records, bytes_stored;
    tarn_error *err;
} tarnp_survey;

/* Adds to the list of what is bad. */
tarn_status tarnp_survey_bad(tarnp_survey *v, uint64_t node, uint64_t chunk, const char *format,
                             ...) TARN_PRINTF(4, 5);
/* Damage met by a function that reports it as an error (v->err) becomes an entry of the list. */
tarn_status tarnp_survey_note(tarnp_survey *v, tarn_status status, uint64_t node, uint64_t chunk);
/* Calls fn for every entry of a table. An entry that does not match its checksum is listed. */
tarn_status tarnp_survey_each(tarnp_survey *v, tarnp_table table,
                              tarn_status (*fn)(tarnp_survey *, tarnp_span key, tarnp_span value));

/* Nodes, sessions and what refers to them, in the survey's transaction; v->counters is loaded. */
tarn_status tarnp_survey_tables(tarnp_survey *v);
void tarnp_survey_fini(tarnp_survey *v);

/* NULL, SIZE_MAX: there is none. */
tarnp_seen *tarnp_survey_node(const tarnp_survey *v, uint64_t id);
size_t tarnp_survey_session(const tarnp_survey *v, uint64_t id);
/* How many evicted chunks have numbers in [begin, end). */
uint64_t tarnp_survey_evicted(const tarnp_survey *v, uint64_t begin, uint64_t end);

#endif
