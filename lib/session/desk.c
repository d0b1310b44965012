/* desk.c
 *
 * One mutex guards the turn and the queue; it is never held while the store works. The turn is a
 * flag and not a mutex, so that it can be nested and so that a waiting caller goes before the
 * encoder: a mutex that one thread releases and takes again at once would starve the other.
 *
 * Rejected: encoding in the store's own writer thread. It would then need codecs of its own, and
 * the memory to encode would have to outlive calls that know nothing of sessions. */
#include "desk.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

enum { JOB_QUEUED = 1, JOB_RUNNING, JOB_DONE };

struct tarni_desk {
    tarnp_store *store;
    tarn_allocator allocator;
    pid_t pid; /* of the process that opened it: a forked child has no encoder */
    pthread_mutex_t mutex;
    pthread_cond_t change;
    bool used;
    pthread_t user;   /* while used */
    uint32_t depth;   /* of nested enters */
    uint32_t waiting; /* callers */
    tarni_job *first, *last;
    atomic_uint n_sessions; /* that use the store */
    bool has_encoder, stop;
    pthread_t encoder;
};

tarn_status tarni_desk_open(tarnp_store *store, const tarn_allocator *allocator, tarni_desk **out,
                            tarn_error *err)
{
    tarni_desk *d;
    TARNI_TRY(tarni_alloc(allocator, 1, sizeof *d, &d, err));
    d->store = store;
    d->allocator = *allocator;
    d->pid = getpid();
    pthread_mutex_init(&d->mutex, NULL);
    pthread_cond_init(&d->change, NULL);
    *out = d;
    return TARN_OK;
}

/* In a forked child the mutex may be held by a thread that is gone; the store refuses every call
 * there by itself. */
static bool is_foreign(const tarni_desk *d)
{
    return d->pid != getpid();
}

void tarni_desk_close(tarni_desk *d)
{
    TARN_ASSERT(atomic_load(&d->n_sessions) == 0);
    if (is_foreign(d)) /* its threads are not there, and what they hold cannot be taken apart */
        return;
    TARN_ASSERT(!d->first);
    if (d->has_encoder) {
        pthread_mutex_lock(&d->mutex);
        d->stop = true;
        pthread_cond_broadcast(&d->change);
        pthread_mutex_unlock(&d->mutex);
        pthread_join(d->encoder, NULL);
    }
    tarnp_store_close(d->store);
    pthread_mutex_destroy(&d->mutex);
    pthread_cond_destroy(&d->change);
    tarn_allocator a = d->allocator;
    tarni_free(&a, d);
}

/* ---- the turn ------------------------------------------------------------------------------- */

static bool is_mine(const tarni_desk *d)
{
    return d->used && pthread_equal(d->user, pthread_self());
}

static void take_turn(tarni_desk *d)
{
    d->used = true;
    d->user = pthread_self();
    d->depth = 1;
}

tarnp_store *tarni_desk_enter(tarni_desk *d)
{
    if (!d)
        return NULL;
    if (is_foreign(d))
        return d->store;
    pthread_mutex_lock(&d->mutex);
    if (is_mine(d)) {
        d->depth++;
    } else {
        d->waiting++;
        while (d->used)
            pthread_cond_wait(&d->change, &d->mutex);
        d->waiting--;
        take_turn(d);
    }
    pthread_mutex_unlock(&d->mutex);
    return d->store;
}

bool tarni_desk_try_enter(tarni_desk *d)
{
    if (is_foreign(d))
        return true;
    pthread_mutex_lock(&d->mutex);
    bool mine = is_mine(d), entered = mine || !d->used;
    if (mine)
        d->depth++;
    else if (entered)
        take_turn(d);
    pthread_mutex_unlock(&d->mutex);
    return entered;
}

void tarni_desk_leave(tarni_desk *d)
{
    if (!d || is_foreign(d))
        return;
    pthread_mutex_lock(&d->mutex);
    TARN_ASSERT(is_mine(d));
    if (--d->depth == 0) {
        d->used = false;
        pthread_cond_broadcast(&d->change);
    }
    pthread_mutex_unlock(&d->mutex);
}

void tarni_desk_join(tarni_desk *d)
{
    if (d)
        atomic_fetch_add(&d->n_sessions, 1);
}

void tarni_desk_part(tarni_desk *d)
{
    if (d)
        atomic_fetch_sub(&d->n_sessions, 1);
}

/* ---- jobs ----------------------------------------------------------------------------------- */

/* The turn is this thread's. */
static void encode(tarni_desk *d, tarni_job *job, tarni_pool *pool)
{
    tarnp_store_set_pool(d->store, pool);
    if (job->ready(job, &job->error) != TARN_OK ||
        tarnp_commit_submit(d->store, job->commit, &job->ticket, &job->error) != TARN_OK)
        job->ticket = NULL;
    tarnp_store_set_pool(d->store, NULL);
    pthread_mutex_lock(&d->mutex);
    job->state = JOB_DONE;
    pthread_cond_broadcast(&d->change);
    pthread_mutex_unlock(&d->mutex);
}

static tarni_job *pop(tarni_desk *d)
{
    tarni_job *job = d->first;
    d->first = job->next;
    if (!d->first)
        d->last = NULL;
    job->state = JOB_RUNNING;
    return job;
}

void tarni_desk_drain(tarni_desk *d)
{
    if (is_foreign(d))
        return;
    tarni_desk_enter(d);
    pthread_mutex_lock(&d->mutex);
    while (d->first) {
        tarni_job *job = pop(d);
        pthread_mutex_unlock(&d->mutex);
        encode(d, job, NULL);
        pthread_mutex_lock(&d->mutex);
    }
    pthread_mutex_unlock(&d->mutex);
    tarni_desk_leave(d);
}

static void *encoder_main(void *arg)
{
    tarni_desk *d = arg;
    pthread_mutex_lock(&d->mutex);
    for (;;) {
        while (!d->stop && (!d->first || d->used || d->waiting > 0))
            pthread_cond_wait(&d->change, &d->mutex);
        if (d->stop)
            break;
        take_turn(d);
        tarni_job *job = pop(d);
        pthread_mutex_unlock(&d->mutex);
        encode(d, job, NULL);
        tarni_desk_leave(d);
        pthread_mutex_lock(&d->mutex);
    }
    pthread_mutex_unlock(&d->mutex);
    return NULL;
}

/* Signals are the host's: its handlers must not run on a thread it does not know. */
static tarn_status start_encoder(tarni_desk *d, tarn_error *err)
{
    if (d->has_encoder)
        return TARN_OK;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&d->encoder, NULL, encoder_main, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return tarni_fail_errno(err, failed, "cannot start the store's encoder");
    d->has_encoder = true;
    return TARN_OK;
}

tarn_status tarni_desk_put(tarni_desk *d, tarni_job *job, tarn_error *err)
{
    if (is_foreign(d))
        return tarni_fail(err, TARN_E_INVALID, "the store was opened by the parent process");
    TARNI_TRY(start_encoder(d, err));
    pthread_mutex_lock(&d->mutex);
    job->state = JOB_QUEUED;
    job->next = NULL;
    *(d->last ? &d->last->next : &d->first) = job;
    d->last = job;
    pthread_cond_broadcast(&d->change);
    pthread_mutex_unlock(&d->mutex);
    return TARN_OK;
}

bool tarni_desk_is_done(tarni_desk *d, const tarni_job *job)
{
    if (is_foreign(d)) /* nobody works on it */
        return job->state == JOB_DONE;
    pthread_mutex_lock(&d->mutex);
    bool done = job->state == JOB_DONE;
    pthread_mutex_unlock(&d->mutex);
    return done;
}

/* Takes a job out of the queue, wherever it stands; false: it has begun. */
static bool unqueue(tarni_desk *d, tarni_job *job)
{
    pthread_mutex_lock(&d->mutex);
    bool queued = job->state == JOB_QUEUED;
    tarni_job *before = NULL, *at = d->first;
    for (; queued && at != job; at = at->next)
        before = at;
    if (queued) {
        *(before ? &before->next : &d->first) = job->next;
        if (d->last == job)
            d->last = before;
        job->state = JOB_RUNNING;
    }
    pthread_mutex_unlock(&d->mutex);
    return queued;
}

void tarni_desk_finish(tarni_desk *d, tarni_job *job, tarni_pool *pool)
{
    if (is_foreign(d)) { /* nobody is there who would do it */
        tarni_fail(&job->error, TARN_E_INVALID, "the store was opened by the parent process");
        job->state = JOB_DONE;
        return;
    }
    tarni_desk_enter(d);
    if (unqueue(d, job))
        encode(d, job, pool);
    tarni_desk_leave(d);
    TARN_ASSERT(tarni_desk_is_done(d, job)); /* the encoder works in its own turn only */
}
