/* kernel.h - what all kernel families share: dtypes, matrices, the rows of a step, where to run. */
#ifndef TARNK_KERNEL_H
#define TARNK_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Token rows of a latent page; attention visits keys in such blocks. */
#define TARNK_PAGE_TOKENS 64

typedef enum tarnk_dtype { TARNK_F32 = 0, TARNK_BF16 = 1 } tarnk_dtype;

typedef void (*tarnk_task_fn)(void *arg, uint32_t task_idx);

/* Where an op runs. CPU: `run(pool, n, fn, arg)` calls fn(arg, i) once for every i < n, in any
 * order and on any threads, and returns when all are done. CUDA: `stream`. */
typedef struct tarnk_context {
    void (*run)(void *pool, uint32_t n_tasks, tarnk_task_fn fn, void *arg);
    void *pool;
    uint32_t n_threads; /* how many tasks can run at once: a hint for cutting work */
    void *stream;
} tarnk_context;

/* A weight matrix as it lies in the checkpoint: y = W x. `data` may have any alignment. */
typedef struct tarnk_matrix {
    const void *data; /* [n_out][n_in] */
    tarnk_dtype dtype;
    uint32_t n_out;
    uint32_t n_in;
} tarnk_matrix;

/* The rows of one session in this step. */
typedef struct tarnk_seq {
    uint32_t row_begin;
    uint32_t n_rows;           /* at least 1 */
    uint32_t position;         /* tokens of the session before row_begin */
    const uint8_t *state_read; /* state slot to start from; never NULL */
    uint8_t *state_write;      /* state slot to leave behind; may equal state_read, never overlap
                                  it otherwise */
    uint8_t *const *pages;     /* latent page of token t: pages[t / 64]; rows up to the last one of
                                  this step have a page. Rows not yet written may hold anything */
} tarnk_seq;

#endif
