#include "check.h"
#include "threads.h"

#include <stdatomic.h>
#include <time.h>

typedef struct counts {
    _Atomic uint32_t per_task[64];
    uint32_t round;
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
    static counts c;
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

CASE(too_many_threads_are_refused)
{
    tarn_error err = {0};
    tarni_pool *pool;
    CHECK_STATUS(tarni_pool_create(TARNI_THREADS_MAX + 1, &tarni_heap, &pool, &err),
                 TARN_E_INVALID);
    CHECK(pool == NULL);
    tarni_pool_free(NULL);
}

CHECK_MAIN(ENTRY(each_task_once_with_one_thread), ENTRY(each_task_once_with_two_threads),
           ENTRY(each_task_once_with_more_threads_than_cores), ENTRY(an_idle_pool_sleeps),
           ENTRY(too_many_threads_are_refused))
