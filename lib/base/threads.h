/* threads.h - a small pool for data-parallel loops.
 *
 * The calling thread works too, so a pool of n threads starts n - 1. Workers spin for a bounded
 * time after a loop (the next one usually follows within microseconds), then sleep: an idle pool
 * costs nothing, and a busy neighbour on the same cores slows it down but cannot stall it.
 *
 * One loop at a time: tarni_pool_run must not be called from two threads at once, nor from within a
 * task. Tasks must not block on one another; their order and thread are unspecified. */
#ifndef TARN_BASE_THREADS_H
#define TARN_BASE_THREADS_H

#include "memory.h"

#define TARNI_THREADS_MAX 256

typedef struct tarni_pool tarni_pool;
typedef void (*tarni_task_fn)(void *arg, uint32_t task_idx);

/* n_threads 0: as many as this process has physical cores to run on. */
tarn_status tarni_pool_create(uint32_t n_threads, const tarn_allocator *allocator, tarni_pool **out,
                              tarn_error *err);
void tarni_pool_free(tarni_pool *pool); /* joins the workers; NULL is allowed */
uint32_t tarni_pool_threads(const tarni_pool *pool);

/* Calls fn(arg, i) once for every i < n_tasks and returns when all are done; everything the tasks
 * wrote is visible to the caller. `pool` is a tarni_pool; void so that it can be handed to the
 * kernels as a plain callback. */
void tarni_pool_run(void *pool, uint32_t n_tasks, tarni_task_fn fn, void *arg);

#endif
