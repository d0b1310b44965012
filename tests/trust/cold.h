/* cold.h - what a model says to ids, computed from the first one each time.
 *
 * A session of an engine of its own, without a store, is given all ids in one append; what every
 * prefix of them gives is remembered by its hash, for sequences that begin alike are asked for
 * again and again. Nothing of what it is compared with has a part in it: no fork, no resume, no
 * batch, no kept state. */
#ifndef TARN_TESTS_COLD_H
#define TARN_TESTS_COLD_H

#include "tarn.h"

enum { COLD_ROWS = 1 << 17, COLD_IDS = 400 };

typedef struct cold {
    tarn_model *model; /* borrowed */
    tarn_engine *engine;
    uint32_t vocab;
    uint64_t keys[COLD_ROWS], rows[COLD_ROWS]; /* hashes of ids, of their logits; 0: none */
    size_t n_rows;
    const uint32_t *feeding; /* while a session is fed */
    tarn_error err;
} cold;

bool cold_open(cold *c, tarn_model *model);
void cold_close(cold *c);

/* Hashes: of a row, and of the row that must come after these ids (n_ids > 0); 0 after an error. */
uint64_t cold_hash(const void *data, size_t n_bytes);
uint64_t cold_row(cold *c, const uint32_t *ids, size_t n_ids);

/* The ids a generation of at most n_max must give after these; their number, -1 after an error. */
long cold_generate(cold *c, const uint32_t *ids, size_t n_ids, const tarn_sampling *sampling,
                   uint32_t n_max, uint32_t *out);

#endif
