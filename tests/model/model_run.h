/* model_run.h - a model opened for a test, and the memory of one session. */
#ifndef TARN_TESTS_MODEL_RUN_H
#define TARN_TESTS_MODEL_RUN_H

#include "forward.h"
#include "threads.h"

typedef struct model_run {
    tarni_spec spec;
    tarni_weights weights;
    tarni_layout layout;
    tarni_pool *pool;
    tarnk_context context;
    tarni_device device;
    tarni_forward *forward;
} model_run;

/* Prints why and returns false where something does not open. */
bool model_run_open(model_run *m, const char *dir, tarni_numerics numerics, const tarnk_ops *ops,
                    uint32_t n_threads, uint32_t n_rows_max);
void model_run_close(model_run *m);

/* One state slot, and pages whose every byte is 0xFF (NaN) until it is written. */
typedef struct session_memory {
    uint8_t *slot;
    uint8_t **pages;
    uint32_t n_pages;
    uint32_t position; /* tokens so far */
} session_memory;

void session_memory_init(session_memory *s, const tarni_layout *layout, uint32_t n_tokens_max);
void session_memory_fini(session_memory *s);
/* The next n rows of this session in a step, from its slot into its slot. */
tarnk_seq session_memory_seq(const session_memory *s, uint32_t row_begin, uint32_t n_rows);

/* Feeds n ids in one step. `logits` takes all n rows, or is NULL. */
int model_run_feed(model_run *m, session_memory *s, const uint32_t *ids, uint32_t n, float *logits);
/* The same in steps of up to n_rows_max; `last` takes the last row. */
int model_run_append(model_run *m, session_memory *s, const uint32_t *ids, uint32_t n,
                     uint32_t n_rows_max, float *last);

/* The index of the largest; the first of equals. */
uint32_t argmax(const float *x, uint32_t n);

#endif
