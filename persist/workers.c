/* workers.c - spreads independent chunks over the store's pool (tarnp_each of handle.h). */
#include "handle.h"

#include <stdatomic.h>

typedef struct job {
    tarnp_each_fn fn;
    void *arg;
    size_t n;
    tarnp_codec **codecs;
    _Atomic size_t next;
    _Atomic size_t first_bad; /* n: none */
    tarn_error *errors;       /* one a worker: of the lowest i it saw fail */
    size_t *failed_at;
} job;

static void work(void *arg, uint32_t worker)
{
    job *j = arg;
    for (;;) {
        size_t i = atomic_fetch_add(&j->next, 1);
        if (i >= j->n || i >= atomic_load(&j->first_bad))
            return;
        tarn_error err = {0};
        if (j->fn(j->arg, j->codecs[worker], i, &err) == TARN_OK)
            continue;
        /* A worker takes ever larger i, so its first failure is its lowest. */
        j->errors[worker] = err;
        j->failed_at[worker] = i;
        size_t bad = atomic_load(&j->first_bad);
        while (i < bad && !atomic_compare_exchange_weak(&j->first_bad, &bad, i))
            ;
        return;
    }
}

static tarn_status make_codecs(tarnp_store *store, size_t n, tarn_error *err)
{
    TARNI_TRY(tarni_grow(&store->allocator, &store->codecs, &store->codecs_capacity, n,
                         sizeof(tarnp_codec *), err));
    for (; store->n_codecs < n; store->n_codecs++)
        TARNI_TRY(tarnp_codec_create(&store->allocator, &store->codecs[store->n_codecs], err));
    return TARN_OK;
}

tarn_status tarnp_each(tarnp_store *store, size_t n, tarnp_each_fn fn, void *arg, tarn_error *err)
{
    if (n == 0)
        return TARN_OK;
    size_t n_workers = store->pool ? tarni_pool_threads(store->pool) : 1;
    if (n_workers > n)
        n_workers = n;
    TARNI_TRY(make_codecs(store, n_workers, err));
    tarn_error errors[TARNI_THREADS_MAX];
    size_t failed_at[TARNI_THREADS_MAX];
    for (size_t i = 0; i < n_workers; i++)
        failed_at[i] = n;
    job j = {.fn = fn,
             .arg = arg,
             .n = n,
             .codecs = store->codecs,
             .first_bad = n,
             .errors = errors,
             .failed_at = failed_at};
    if (n_workers == 1)
        work(&j, 0);
    else
        tarni_pool_run(store->pool, (uint32_t)n_workers, work, &j);
    size_t first_bad = atomic_load(&j.first_bad);
    for (size_t i = 0; i < n_workers && first_bad < n; i++) {
        if (failed_at[i] == first_bad) {
            *err = errors[i];
            return err->status;
        }
    }
    return TARN_OK;
}
