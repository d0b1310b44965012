#include "check.h"
#include "threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

typedef struct counts {
    _Atomic uint32_t per_task[64];
} counts;

static void count(void *arg, uint32_t i)
{
    counts *c = arg;
    atomic_fetch_add(&c->per_task[i], 1);
}

static void many_loops(uint32_t n_threads)
{
    tarn_error err = {0};
    tarni_pool *pool;
    REQUIRE_OK(tarni_pool_create(n_threads, &tarni_heap, &pool, &err), &err);
    CHECK_EQ(tarni_pool_threads(pool), n_threads);
    counts c;
    for (uint32_t round = 0; round < 20000; round++) {
        uint32_t n = round % 64 + 1;
        memset((void *)&c, 0, sizeof c);
        tarni_pool_run(pool, n, count, &c);
        for (uint32_t i = 0; i < 64; i++)
            if (c.per_task[i] != (i < n)) {
                CHECK_FAIL("round %u: task %u of %u ran %u times", round, i, n, c.per_task[i]);
                tarni_pool_free(pool);
                return;
            }
    }
    tarni_pool_free(pool);
}

CASE(each_task_once_with_one_thread)
{
    many_loops(1);
}

CASE(each_task_once_with_two_threads)
{
    many_loops(2);
}

CASE(each_task_once_with_more_threads_than_cores)
{
    many_loops(7);
}

static _Atomic int n_signals, n_elsewhere;
static pthread_t test_thread;

static void on_signal(int number)
{
    (void)number;
    n_signals++;
    n_elsewhere += !pthread_equal(pthread_self(), test_thread);
}

CASE(signals_are_not_taken_by_a_worker)
{
    tarn_error err = {0};
    tarni_pool *pool;
    static counts c;
    sigset_t usr, before;
    struct sigaction action = {.sa_handler = on_signal}, action_before;
    test_thread = pthread_self();
    sigemptyset(&usr);
    sigaddset(&usr, SIGUSR1);
    sigaction(SIGUSR1, &action, &action_before);
    REQUIRE_OK(tarni_pool_create(3, &tarni_heap, &pool, &err), &err);
    pthread_sigmask(SIG_BLOCK, &usr, &before);
    kill(getpid(), SIGUSR1);
    tarni_pool_run(pool, 64, count, &c);
    CHECK_EQ(n_signals, 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL); /* it has waited for this thread */
    CHECK_EQ(n_signals, 1);
    tarni_pool_free(pool);
    CHECK_EQ(n_signals, 1);
    CHECK_EQ(n_elsewhere, 0);
    sigaction(SIGUSR1, &action_before, NULL);
}

CASE(an_idle_pool_sleeps)
{
    tarn_error err = {0};
    tarni_pool *pool;
    static counts c;
    REQUIRE_OK(tarni_pool_create(2, &tarni_heap, &pool, &err), &err);
    tarni_pool_run(pool, 64, count, &c);
    struct timespec pause = {0, 50000000};
    nanosleep(&pause, NULL); /* workers go to sleep */
    clock_t before = clock();
    nanosleep(&pause, NULL);
    nanosleep(&pause, NULL);
    CHECK((double)(clock() - before) / CLOCKS_PER_SEC < 0.05);
    tarni_pool_run(pool, 64, count, &c); /* and wake up again */
    CHECK_EQ(c.per_task[63], 2);
    tarni_pool_free(pool);
}

static void slow_for_others(void *arg, uint32_t i)
{
    const pthread_t *caller = arg;
    struct timespec pause = {0, 20000000};
    (void)i;
    if (!pthread_equal(*caller, pthread_self()))
        nanosleep(&pause, NULL);
}

/* The caller has done its tasks long before a worker has: it is woken when that one is through. */
CASE(a_caller_that_waits_long_sleeps)
{
    tarn_error err = {0};
    tarni_pool *pool;
    pthread_t self = pthread_self();
    REQUIRE_OK(tarni_pool_create(3, &tarni_heap, &pool, &err), &err);
    for (int round = 0; round < 20; round++)
        tarni_pool_run(pool, 200000, slow_for_others, &self);
    tarni_pool_free(pool);
}

CASE(too_many_threads_are_refused)
{
    tarn_error err = {0};
    tarni_pool *pool;
    CHECK_STATUS(tarni_pool_create(TARNI_THREADS_MAX + 1, &tarni_heap, &pool, &err),
                 TARN_E_INVALID);
    CHECK(pool == NULL);
    tarni_pool_free(NULL);
}

static void square(void *arg, uint32_t i)
{
    uint32_t *plain = arg; /* not atomic: run() itself orders what tasks write */
    plain[i] = plain[i] * plain[i] + 1;
}

CASE(the_caller_sees_what_tasks_wrote)
{
    tarn_error err = {0};
    tarni_pool *pool;
    REQUIRE_OK(tarni_pool_create(3, &tarni_heap, &pool, &err), &err);
    static uint32_t plain[512];
    for (uint32_t round = 0; round < 500; round++) {
        for (uint32_t i = 0; i < 512; i++)
            plain[i] = i + round;
        tarni_pool_run(pool, 512, square, plain);
        for (uint32_t i = 0; i < 512; i++)
            if (plain[i] != (i + round) * (i + round) + 1) {
                CHECK_FAIL("round %u: place %u holds %u", round, i, plain[i]);
                tarni_pool_free(pool);
                return;
            }
    }
    tarni_pool_free(pool);
}

CASE(no_task_is_no_work)
{
    tarn_error err = {0};
    tarni_pool *pool;
    REQUIRE_OK(tarni_pool_create(2, &tarni_heap, &pool, &err), &err);
    tarni_pool_run(pool, 0, NULL, NULL);
    tarni_pool_free(pool);
}

CASE(zero_threads_means_every_core)
{
    tarn_error err = {0};
    tarni_pool *pool;
    static counts c;
    REQUIRE_OK(tarni_pool_create(0, &tarni_heap, &pool, &err), &err);
    CHECK(tarni_pool_threads(pool) >= 1 && tarni_pool_threads(pool) <= TARNI_THREADS_MAX);
    tarni_pool_run(pool, 64, count, &c);
    for (uint32_t i = 0; i < 64; i++)
        CHECK_EQ(c.per_task[i], 1);
    tarni_pool_free(pool);
}

/* Each pool has its own loop: two callers of two pools do not meet. */
static void *run_own_pool(void *arg)
{
    (void)arg;
    many_loops(2);
    return NULL;
}

CASE(pools_are_independent)
{
    pthread_t other;
    REQUIRE(pthread_create(&other, NULL, run_own_pool, NULL) == 0);
    many_loops(3);
    pthread_join(other, NULL);
}

static int calls_left, calls_open;

static void *counting_alloc(void *user, size_t n)
{
    (void)user;
    void *memory = calls_left-- > 0 ? malloc(n) : NULL;
    calls_open += memory != NULL;
    return memory;
}

static void *no_resize(void *user, void *memory, size_t n)
{
    (void)user, (void)memory, (void)n;
    return NULL;
}

static void counting_release(void *user, void *memory)
{
    (void)user;
    calls_open--;
    free(memory);
}

CASE(a_pool_without_memory_leaves_nothing)
{
    tarn_allocator a = {counting_alloc, no_resize, counting_release, NULL};
    tarn_error err = {0};
    tarni_pool *pool;
    tarn_status status = TARN_E_NO_MEMORY;
    for (int n = 0; status != TARN_OK && n < 10; n++) {
        calls_left = n;
        status = tarni_pool_create(2, &a, &pool, &err);
        if (status != TARN_OK) {
            CHECK_STATUS(status, TARN_E_NO_MEMORY);
            CHECK(pool == NULL);
            CHECK_EQ(calls_open, 0);
        }
    }
    REQUIRE_OK(status, &err);
    tarni_pool_free(pool);
    CHECK_EQ(calls_open, 0);
}

CHECK_MAIN(ENTRY(the_caller_sees_what_tasks_wrote), ENTRY(no_task_is_no_work),
           ENTRY(zero_threads_means_every_core), ENTRY(pools_are_independent),
           ENTRY(a_pool_without_memory_leaves_nothing), ENTRY(each_task_once_with_one_thread),
           ENTRY(each_task_once_with_two_threads),
           ENTRY(each_task_once_with_more_threads_than_cores),
           ENTRY(signals_are_not_taken_by_a_worker), ENTRY(an_idle_pool_sleeps),
           ENTRY(a_caller_that_waits_long_sleeps), ENTRY(too_many_threads_are_refused))
