/* Whose turn it is at a store: nested, held by others, and in a process that did not open it. */
#include "desk.h"

#include "check.h"
#include "fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct bench {
    char dir[64];
    tarni_desk *desk;
} bench;

static void begin(bench *b)
{
    tarnp_store *store;
    tarn_error err;
    char path[80];
    rig_make_folder(b->dir);
    snprintf(path, sizeof path, "%s/store", b->dir);
    const tarnp_options o = {.create = true, .map_bytes = (size_t)1 << 26};
    if (tarnp_store_open(path, &o, &store, &err) != TARN_OK ||
        tarni_desk_open(store, &tarni_heap, &b->desk, &err) != TARN_OK) {
        printf("%s\n", err.detail);
        exit(1);
    }
}

static void end(bench *b)
{
    tarni_desk_close(b->desk);
    rig_remove_folder(b->dir);
}

/* ---- turns ----------------------------------------------------------------------------------- */

typedef struct other {
    tarni_desk *desk;
    pthread_mutex_t mutex;
    pthread_cond_t change;
    int state; /* 1: it has the turn, 2: it may give it back, 3: it has */
} other;

static void go_to(other *o, int state)
{
    pthread_mutex_lock(&o->mutex);
    o->state = state;
    pthread_cond_broadcast(&o->change);
    pthread_mutex_unlock(&o->mutex);
}

static void wait_for(other *o, int state)
{
    pthread_mutex_lock(&o->mutex);
    while (o->state < state)
        pthread_cond_wait(&o->change, &o->mutex);
    pthread_mutex_unlock(&o->mutex);
}

static void *hold(void *arg)
{
    other *o = arg;
    tarni_desk_enter(o->desk);
    go_to(o, 1);
    wait_for(o, 2);
    tarni_desk_leave(o->desk);
    go_to(o, 3);
    return NULL;
}

CASE(one_at_a_time)
{
    bench b;
    pthread_t thread;
    begin(&b);
    other o = {b.desk, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
    REQUIRE(pthread_create(&thread, NULL, hold, &o) == 0);
    wait_for(&o, 1);
    CHECK(!tarni_desk_try_enter(b.desk));
    go_to(&o, 2);
    tarni_desk_enter(b.desk); /* waits for it */
    CHECK(tarni_desk_try_enter(b.desk));
    tarni_desk_leave(b.desk);
    CHECK(tarni_desk_try_enter(b.desk)); /* it is still ours */
    tarni_desk_leave(b.desk);
    tarni_desk_leave(b.desk);
    wait_for(&o, 3);
    CHECK(tarni_desk_try_enter(b.desk)); /* nobody's */
    tarni_desk_leave(b.desk);
    pthread_join(thread, NULL);
    end(&b);
}

/* ---- jobs ------------------------------------------------------------------------------------ */

/* Not ready: the commit behind it is never looked at. */
typedef struct refused {
    tarni_job job;
    atomic_int n_asked;
} refused;

static tarn_status refuse(tarni_job *job, tarn_error *err)
{
    ((refused *)(void *)job)->n_asked++;
    return tarni_fail(err, TARN_E_DEVICE, "it will not come");
}

static void check_refused(refused *r)
{
    CHECK_EQ(r->n_asked, 1);
    CHECK(!r->job.ticket);
    CHECK_STATUS(r->job.error.status, TARN_E_DEVICE);
}

/* Taken out of the queue wherever they stand: by name, or all that are left. */
CASE(jobs_that_are_not_ready)
{
    bench b;
    tarn_error err;
    refused jobs[5] = {0};
    begin(&b);
    tarni_desk_enter(b.desk); /* so that the encoder begins none */
    for (size_t i = 0; i < 5; i++) {
        jobs[i].job.ready = refuse;
        REQUIRE_OK(tarni_desk_put(b.desk, &jobs[i].job, &err), &err);
        CHECK(!tarni_desk_is_done(b.desk, &jobs[i].job));
    }
    static const size_t order[] = {4, 1, 0};
    for (size_t i = 0; i < 3; i++) {
        tarni_desk_finish(b.desk, &jobs[order[i]].job, NULL);
        check_refused(&jobs[order[i]]);
    }
    CHECK(!tarni_desk_is_done(b.desk, &jobs[2].job));
    tarni_desk_drain(b.desk);
    for (size_t i = 0; i < 5; i++) {
        check_refused(&jobs[i]);
        tarni_desk_finish(b.desk, &jobs[i].job, NULL); /* once more: it is done */
        CHECK_EQ(jobs[i].n_asked, 1);
    }
    tarni_desk_leave(b.desk);
    end(&b);
}

/* The number of the first thing that is not as it should be, 0 if all are. */
static int in_a_child(bench *b, refused *waiting)
{
    refused mine = {.job.ready = refuse};
    tarn_error err;
    alarm(30);                      /* it must not wait for threads that are not there */
    if (!tarni_desk_enter(b->desk)) /* whose every call is refused */
        return 1;
    if (!tarni_desk_try_enter(b->desk))
        return 2;
    tarni_desk_leave(b->desk);
    if (tarni_desk_put(b->desk, &mine.job, &err) != TARN_E_INVALID || mine.n_asked != 0)
        return 3;
    tarni_desk_drain(b->desk);
    if (waiting->n_asked != 0)
        return 4;
    tarni_desk_finish(b->desk, &waiting->job, NULL);
    if (waiting->n_asked != 0 || waiting->job.ticket ||
        waiting->job.error.status != TARN_E_INVALID || !tarni_desk_is_done(b->desk, &waiting->job))
        return 5;
    tarni_desk_leave(b->desk);
    tarni_desk_close(b->desk); /* does not wait for an encoder that is not there */
    return 0;
}

CASE(a_child_has_no_encoder)
{
    bench b;
    tarn_error err;
    refused waiting = {.job.ready = refuse};
    int status = -1;
    begin(&b);
    tarni_desk_enter(b.desk);
    REQUIRE_OK(tarni_desk_put(b.desk, &waiting.job, &err), &err);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        exit(in_a_child(&b, &waiting));
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status), 0);
    tarni_desk_finish(b.desk, &waiting.job, NULL); /* here it is as it was */
    check_refused(&waiting);
    tarni_desk_leave(b.desk);
    end(&b);
}

CHECK_MAIN(ENTRY(one_at_a_time), ENTRY(jobs_that_are_not_ready), ENTRY(a_child_has_no_encoder))
