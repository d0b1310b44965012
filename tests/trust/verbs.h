/* verbs.h - a small store in a folder of its own, and every verb of a store to try on it.
 *
 * Sessions: "main" with four nodes (the first without its state, tagged), "branch" from its second
 * (in group "g"), "old" (expired). One that was dropped is still to be freed, and so is what an
 * import left. Memory comes from a purse (refuse.h), which counts it. */
#ifndef TARN_TESTS_VERBS_H
#define TARN_TESTS_VERBS_H

#include "oracle.h"
#include "refuse.h"
#include "retain_kit.h"
#include "tarn.h"

enum { BENCH_TOKENS = 6, BENCH_STATE_FLOATS = 512 }; /* of a node of "main" */

typedef struct bench {
    kit k; /* its folder; the store of it where a verb of the layer below is tried */
    tarn_store *store;
    purse purse;
    tarn_allocator allocator;
    tarn_store_options options;
    tarn_error err;
    uint8_t *file; /* data.mdb as every trial finds it */
    size_t n_bytes;
    kit_bundle bundle; /* of session "main" */
    uint64_t nodes[4], id, branch_id;
    oracle_commit ready, next; /* of "main"; of "branch" */
    rk_content fourth;         /* what nodes[3] holds */
    char path[260], other[260];
} bench;

enum {
    CLOSED = 1,   /* opens the store itself */
    LOWER = 2,    /* on the store of the kit */
    PARTLY = 4,   /* may be done in part */
    AGAIN_BAD = 8 /* done twice it is refused */
};

typedef struct verb {
    const char *name;
    tarn_status (*run)(bench *b);
    unsigned flags;
    bool (*before)(bench *b);
} verb;

enum { N_VERBS = 46 };
extern const verb verbs[N_VERBS];

bool bench_make(bench *b); /* false, with b->k.err */
bool bench_read(bench *b); /* the file, once more */
/* The file as it was, and nothing else. */
bool bench_reset(bench *b);
bool bench_open(bench *b, const verb *v);
void bench_close(bench *b);
void bench_free(bench *b);

#endif
