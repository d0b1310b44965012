/* threads.c
 *
 * A loop is published by closing `next`, storing the loop's fields, opening `next` and then bumping
 * `epoch`. Whoever runs it takes task numbers from `next` until they are used up. `next` carries
 * the loop's epoch in its upper half, so a worker that was put off its core between reading the
 * fields and taking a number cannot take one of another loop: its compare-and-swap fails.
 *
 * Invariants:
 *  1. fn, arg and n_tasks are written only while `next` is closed, and only after the loop before
 *     is done: run() returns when `done` reached n_tasks. Each is stored with release and loaded
 *     with acquire: whoever sees a new field then sees `next` closed, and its swap fails. Relaxed
 *     stores may pass the closing on a weakly ordered CPU.
 *  2. Sleeping and publishing `epoch` are under `mutex`, so no wake-up is lost.
 *  3. The caller says that it sleeps before it looks at `done` for the last time; whoever finishes
 *     the last task adds to `done` before it looks whether the caller sleeps. All four are
 *     sequentially consistent, so one of the two sees the other.
 *
 * Rejected: OpenMP (spins while idle by default, clashes with a host's own runtime, and TSan cannot
 * see its barriers), and one queue per worker (the loops are short and balanced). */
#include "threads.h"
#include "filemap.h"

#include "cores.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#define CLOSED      UINT32_MAX /* a task number no loop reaches */
#define SPIN_ROUNDS 4000       /* about 20 to 50 microseconds: a few decode ops */
#define YIELDS      64         /* of the caller, before it sleeps too */

struct tarni_pool {
    tarn_allocator allocator;
    pthread_t *threads;
    uint32_t n_workers; /* started threads: n_threads - 1 */

    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_cond_t finished;
    uint32_t n_sleeping;        /* under mutex */
    _Atomic bool caller_sleeps; /* written under mutex */
    _Atomic bool quit;          /* stored before the last epoch */

    _Atomic uint32_t epoch;
    _Atomic uint64_t next; /* epoch << 32 | next task number */
    _Atomic uint32_t done;
    _Atomic(tarni_task_fn) fn;
    _Atomic(void *) arg;
    _Atomic uint32_t n_tasks;
};

static void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* Takes and runs tasks of loop `epoch` until none is left. */
static void work(tarni_pool *pool, uint32_t epoch)
{
    uint64_t at = atomic_load_explicit(&pool->next, memory_order_acquire);
    while (at >> 32 == epoch) {
        uint32_t n_tasks = atomic_load_explicit(&pool->n_tasks, memory_order_acquire);
        tarni_task_fn fn = atomic_load_explicit(&pool->fn, memory_order_acquire);
        void *arg = atomic_load_explicit(&pool->arg, memory_order_acquire);
        uint32_t task_idx = (uint32_t)at;
        if (task_idx >= n_tasks)
            return;
        if (!atomic_compare_exchange_weak_explicit(&pool->next, &at, at + 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        fn(arg, task_idx);
        if (atomic_fetch_add(&pool->done, 1) + 1 == n_tasks && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->mutex);
        }
        at = atomic_load_explicit(&pool->next, memory_order_acquire);
    }
}

/* Waits for a loop later than `seen`: spins, then sleeps. */
static uint32_t wait_for_loop(tarni_pool *pool, uint32_t seen)
{
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        uint32_t epoch = atomic_load_explicit(&pool->epoch, memory_order_acquire);
        if (epoch != seen)
            return epoch;
        cpu_relax();
    }
    pthread_mutex_lock(&pool->mutex);
    uint32_t epoch;
    while ((epoch = atomic_load_explicit(&pool->epoch, memory_order_acquire)) == seen) {
        pool->n_sleeping++;
        pthread_cond_wait(&pool->wake, &pool->mutex);
        pool->n_sleeping--;
    }
    pthread_mutex_unlock(&pool->mutex);
    return epoch;
}

static void *worker_main(void *arg)
{
    tarni_pool *pool = arg;
    uint32_t seen = 0;
    tarni_filemap_unblock(); /* tasks read mapped weights */
    for (;;) {
        seen = wait_for_loop(pool, seen);
        if (atomic_load_explicit(&pool->quit, memory_order_relaxed))
            return NULL;
        work(pool, seen);
    }
}

static void announce(tarni_pool *pool, uint32_t epoch)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_store_explicit(&pool->epoch, epoch, memory_order_release);
    if (pool->n_sleeping > 0)
        pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

/* The tasks others hold: spins, then gives the core away (a worker may have been put off it with
 * the last task in hand), then sleeps. */
static void wait_for_rest(tarni_pool *pool, uint32_t n_tasks)
{
    for (int i = 0; i < SPIN_ROUNDS + YIELDS; i++) {
        if (atomic_load_explicit(&pool->done, memory_order_acquire) == n_tasks)
            return;
        if (i < SPIN_ROUNDS)
            cpu_relax();
        else
            sched_yield();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->done) != n_tasks)
        pthread_cond_wait(&pool->finished, &pool->mutex);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
}

void tarni_pool_run(void *handle, uint32_t n_tasks, tarni_task_fn fn, void *arg)
{
    tarni_pool *pool = handle;
    if (n_tasks == 0)
        return;
    if (n_tasks == 1 || pool->n_workers == 0) {
        for (uint32_t i = 0; i < n_tasks; i++)
            fn(arg, i);
        return;
    }
    TARN_ASSERT(n_tasks < CLOSED);
    uint32_t epoch = atomic_load_explicit(&pool->epoch, memory_order_relaxed) + 1;
    atomic_store(&pool->next, (uint64_t)epoch << 32 | CLOSED);
    atomic_store_explicit(&pool->fn, fn, memory_order_release);
    atomic_store_explicit(&pool->arg, arg, memory_order_release);
    atomic_store_explicit(&pool->n_tasks, n_tasks, memory_order_release);
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->next, (uint64_t)epoch << 32, memory_order_release);
    announce(pool, epoch);
    work(pool, epoch);
    wait_for_rest(pool, n_tasks);
}

/* Signals are the host's: its handlers must not run on a thread it does not know, nor a signal come
 * here that another thread waits for. Faults stay with the thread that makes them. */
static int start_worker(tarni_pool *pool)
{
    static const int faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&blocked, faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int error = pthread_create(&pool->threads[pool->n_workers], NULL, worker_main, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

tarn_status tarni_pool_create(uint32_t n_threads, const tarn_allocator *allocator, tarni_pool **out,
                              tarn_error *err)
{
    *out = NULL;
    if (n_threads > TARNI_THREADS_MAX)
        return tarni_fail(err, TARN_E_INVALID, "threads is %u, the limit is %d", n_threads,
                          TARNI_THREADS_MAX);
    if (n_threads == 0)
        n_threads = tarni_cores_usable();
    if (n_threads > TARNI_THREADS_MAX)
        n_threads = TARNI_THREADS_MAX;
    tarni_pool *pool;
    TARNI_TRY(tarni_alloc(allocator, 1, sizeof *pool, &pool, err));
    pool->allocator = *allocator;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->finished, NULL);
    tarn_status status =
        tarni_alloc(allocator, n_threads, sizeof *pool->threads, &pool->threads, err);
    while (status == TARN_OK && pool->n_workers + 1 < n_threads) {
        int error = start_worker(pool);
        if (error != 0)
            status = tarni_fail_errno(err, error, "cannot start thread %u of %u",
                                      pool->n_workers + 2, n_threads);
        else
            pool->n_workers++;
    }
    if (status != TARN_OK) {
        tarni_pool_free(pool);
        return status;
    }
    *out = pool;
    return TARN_OK;
}

void tarni_pool_free(tarni_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->quit, true);
    announce(pool, atomic_load_explicit(&pool->epoch, memory_order_relaxed) + 1);
    for (uint32_t i = 0; i < pool->n_workers; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->finished);
    pthread_mutex_destroy(&pool->mutex);
    tarn_allocator allocator = pool->allocator;
    tarni_free(&allocator, pool->threads);
    tarni_free(&allocator, pool);
}

uint32_t tarni_pool_threads(const tarni_pool *pool)
{
    return pool->n_workers + 1;
}
