/* queue.c
 *
 *     submit: encode -> [queue] -> writer thread: one transaction for many -> tickets
 *
 * A durable commit costs two disk syncs, whatever it holds; twenty sessions that commit at the same
 * time need not pay twenty times. The writer takes all that is queued (up to GROUP_BYTES_MAX), so
 * groups form by themselves while the transaction before is being synced.
 *
 * Invariants:
 *  1. Fields of the queue and of its tickets are read and written under `mutex`, which is never
 * held during a transaction or a sync. A ticket's draft is the writer's from submit on.
 *  2. Tickets are written in the order they were submitted.
 *  3. A ticket that is refused fails alone: refusals come before a commit's first put
 *     (tarnp_draft_put). One beyond a quota is tried again alone, with room made. Whatever else
 *     goes wrong aborts the transaction, and each of the group is tried again in one of its own;
 *     LMDB's nested transactions would spare that, and are broken in the LMDB that Debian ships.
 *  4. A ticket lives until both its owner and the queue have let go of it. */
#include "queue.h"

#include "commit.h"
#include "log.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

#define QUEUE_BYTES_MAX  ((size_t)256 << 20)
#define QUEUE_LENGTH_MAX 64
#define GROUP_BYTES_MAX  ((size_t)64 << 20)

typedef struct tarnp_queue tarnp_queue;

struct tarnp_ticket {
    tarnp_queue *queue;
    tarnp_ticket *next; /* in the queue or in a group */
    tarnp_draft *draft; /* NULL when written */
    size_t n_bytes;     /* of the draft */
    struct timespec submitted;
    bool done, abandoned;
    uint64_t group; /* of the transaction it was written in; 0: in none */
    tarnp_committed result;
    tarn_error error; /* status OK: none */
};

struct tarnp_queue {
    tarnp_store *store;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t work;   /* the writer waits for it */
    pthread_cond_t change; /* everybody else */
    tarnp_ticket *first, *last;
    uint32_t length; /* queued and being written */
    size_t n_bytes;  /* of these */
    uint32_t n_tickets;
    bool urgent; /* somebody waits: no more delay */
    bool stop;
    uint64_t written, synced; /* groups */
};

/* ---- writing -------------------------------------------------------------------------------- */

static bool is_refusal(tarn_status status)
{
    return status == TARN_E_CONFLICT || status == TARN_E_BUSY || status == TARN_E_NOT_FOUND ||
           status == TARN_E_MISMATCH || status == TARN_E_INVALID || status == TARN_E_LIMIT ||
           status == TARN_E_QUOTA;
}

static void fail_all(tarnp_ticket *first, const tarn_error *err)
{
    for (tarnp_ticket *t = first; t; t = t->next) {
        t->result = (tarnp_committed){0};
        t->error = *err;
    }
}

/* Puts the commits of the group. OK also where all were refused. */
static tarn_status put_group(tarnp_write *w, tarnp_ticket *first, tarn_error *err)
{
    for (tarnp_ticket *t = first; t; t = t->next) {
        tarnp_counters counters = w->counters;
        uint64_t put = w->txn.bytes_put;
        t->error = (tarn_error){0};
        tarn_status status = tarnp_draft_put(w, t->draft, &t->result, err);
        uint64_t n_bytes = w->txn.bytes_put - put;
        if (status != TARN_OK && (!is_refusal(status) || n_bytes > 0))
            return status;
        if (status != TARN_OK) {
            t->result = (tarnp_committed){0};
            t->error = *err;
            w->counters = counters;
        } else if (n_bytes > 0) {
            t->result.bytes_written = n_bytes + (put == 0 ? TARNP_COUNTERS_VALUE : 0);
        }
    }
    return TARN_OK;
}

/* One transaction. False: nothing of it is in the store, and `err` says why. */
static bool write_group(tarnp_store *store, tarnp_ticket *first, tarn_error *err)
{
    tarnp_write w;
    if (tarnp_write_begin(store, &w, err) != TARN_OK)
        return false;
    if (put_group(&w, first, err) != TARN_OK) {
        tarnp_write_abort(&w, err->status);
        return false;
    }
    if (w.txn.bytes_put == 0) {
        tarnp_write_abort(&w, TARN_OK);
        return true;
    }
    return tarnp_write_commit(&w, NULL, err) == TARN_OK;
}

static void write_alone(tarnp_store *store, tarnp_ticket *t)
{
    t->error = (tarn_error){0};
    if (tarnp_draft_write(store, t->draft, &t->result, &t->error) == TARN_OK)
        t->error = (tarn_error){0}; /* of an attempt before there was room */
}

static void write_tickets(tarnp_store *store, tarnp_ticket *first)
{
    tarn_error err = {0};
    bool written = write_group(store, first, &err);
    if (!written && atomic_load(&store->poisoned)) {
        fail_all(first, &err);
        return;
    }
    for (tarnp_ticket *t = first; t; t = t->next)
        if (!written || t->error.status == TARN_E_QUOTA)
            write_alone(store, t);
}

/* ---- the writer ----------------------------------------------------------------------------- */

static struct timespec later(struct timespec at, uint32_t ms)
{
    at.tv_sec += ms / 1000;
    at.tv_nsec += (long)(ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_nsec -= 1000000000;
        at.tv_sec++;
    }
    return at;
}

static size_t bytes_max(const tarnp_queue *q)
{
    return q->store->queue_bytes_max ? q->store->queue_bytes_max : QUEUE_BYTES_MAX;
}

static uint32_t length_max(const tarnp_queue *q)
{
    return q->store->queue_length_max ? q->store->queue_length_max : QUEUE_LENGTH_MAX;
}

/* Half full, so that nobody has to wait for the delay to end. */
static bool is_filling(const tarnp_queue *q)
{
    return q->length > length_max(q) / 2 || q->n_bytes > bytes_max(q) / 2;
}

/* Returns when there is something to write; false when there is nothing and never will be. */
static bool wait_for_work(tarnp_queue *q)
{
    while (!q->first && !q->stop)
        pthread_cond_wait(&q->work, &q->mutex);
    if (!q->first)
        return false;
    if (q->store->durability != TARNP_DEFERRED)
        return true;
    struct timespec end = later(q->first->submitted, TARNP_GROUP_DELAY_MS);
    int waited = 0;
    while (!q->urgent && !q->stop && !is_filling(q) && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&q->work, &q->mutex, &end);
    return true;
}

/* Takes the head of the queue, at least one. */
static tarnp_ticket *take_group(tarnp_queue *q)
{
    tarnp_ticket *first = q->first, *last = first;
    size_t n_bytes = first->n_bytes;
    while (last->next && last->next->n_bytes <= GROUP_BYTES_MAX &&
           n_bytes <= GROUP_BYTES_MAX - last->next->n_bytes) {
        last = last->next;
        n_bytes += last->n_bytes;
    }
    q->first = last->next;
    last->next = NULL;
    if (!q->first) {
        q->last = NULL;
        q->urgent = false;
    }
    return first;
}

static void free_ticket(tarnp_queue *q, tarnp_ticket *t)
{
    q->n_tickets--;
    tarni_free(&q->store->allocator, t);
}

/* Under the mutex. */
static void publish(tarnp_queue *q, tarnp_ticket *first)
{
    q->written++;
    if (q->store->durability == TARNP_DURABLE || q->store->durability == TARNP_DEFERRED)
        q->synced = q->written;
    for (tarnp_ticket *t = first, *next; t; t = next) {
        next = t->next;
        t->next = NULL;
        t->group = q->written;
        t->done = true;
        q->length--;
        q->n_bytes -= t->n_bytes;
        if (t->abandoned)
            free_ticket(q, t);
    }
    pthread_cond_broadcast(&q->change);
}

/* What fails without an owner to tell. `abandoned` may become true after the look: then the owner
 * could have seen it. */
static void log_lost(tarnp_queue *q, tarnp_ticket *first)
{
    for (tarnp_ticket *t = first; t; t = t->next) {
        pthread_mutex_lock(&q->mutex);
        bool abandoned = t->abandoned;
        pthread_mutex_unlock(&q->mutex);
        if (abandoned && t->error.status != TARN_OK)
            TARNI_LOG(&q->store->log, TARN_LOG_WARN, "a submitted commit failed: %s",
                      t->error.detail);
    }
}

static void *writer_main(void *arg)
{
    tarnp_queue *q = arg;
    pthread_mutex_lock(&q->mutex);
    while (wait_for_work(q)) {
        tarnp_ticket *group = take_group(q);
        pthread_mutex_unlock(&q->mutex);
        write_tickets(q->store, group);
        for (tarnp_ticket *t = group; t; t = t->next) {
            tarnp_draft_free(q->store, t->draft);
            t->draft = NULL;
        }
        log_lost(q, group);
        pthread_mutex_lock(&q->mutex);
        publish(q, group);
    }
    pthread_mutex_unlock(&q->mutex);
    return NULL;
}

/* ---- begin and end -------------------------------------------------------------------------- */

static void free_queue(tarnp_queue *q)
{
    tarn_allocator allocator = q->store->allocator;
    pthread_cond_destroy(&q->work);
    pthread_cond_destroy(&q->change);
    pthread_mutex_destroy(&q->mutex);
    tarni_free(&allocator, q);
}

/* Signals are the host's: its handlers must not run on a thread it does not know. */
static int start_thread(tarnp_queue *q)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&q->thread, NULL, writer_main, q);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

static tarn_status start_queue(tarnp_store *store, tarn_error *err)
{
    if (store->queue)
        return TARN_OK;
    tarnp_queue *q;
    pthread_condattr_t steady;
    TARNI_TRY(tarni_alloc(&store->allocator, 1, sizeof *q, &q, err));
    q->store = store;
    pthread_condattr_init(&steady);
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    pthread_mutex_init(&q->mutex, NULL);
    pthread_cond_init(&q->work, &steady);
    pthread_cond_init(&q->change, &steady);
    pthread_condattr_destroy(&steady);
    int failed = start_thread(q);
    if (failed) {
        free_queue(q);
        return tarni_fail_errno(err, failed, "cannot start the store's writer");
    }
    store->queue = q;
    return TARN_OK;
}

void tarnp_queue_stop(tarnp_store *store)
{
    tarnp_queue *q = store->queue;
    if (!q)
        return;
    pthread_mutex_lock(&q->mutex);
    q->stop = true;
    pthread_cond_signal(&q->work);
    pthread_mutex_unlock(&q->mutex);
    pthread_join(q->thread, NULL);
    TARN_ASSERT(q->n_tickets == 0);
    free_queue(q);
    store->queue = NULL;
}

/* ---- tickets -------------------------------------------------------------------------------- */

/* Under the mutex. */
static tarnp_ticket_state state_of(const tarnp_ticket *t)
{
    if (!t->done)
        return TARNP_TICKET_MEMORY;
    if (t->error.status != TARN_OK)
        return TARNP_TICKET_FAILED;
    return t->group <= t->queue->synced ? TARNP_TICKET_SYNCED : TARNP_TICKET_WRITTEN;
}

static void push(tarnp_queue *q, tarnp_ticket *t)
{
    pthread_mutex_lock(&q->mutex);
    while (q->length > 0 && (q->length >= length_max(q) || t->n_bytes > bytes_max(q) ||
                             q->n_bytes > bytes_max(q) - t->n_bytes)) {
        q->urgent = true;
        pthread_cond_signal(&q->work);
        pthread_cond_wait(&q->change, &q->mutex);
    }
    clock_gettime(CLOCK_MONOTONIC, &t->submitted);
    *(q->last ? &q->last->next : &q->first) = t;
    q->last = t;
    q->length++;
    q->n_bytes += t->n_bytes;
    q->n_tickets++;
    pthread_cond_signal(&q->work);
    pthread_mutex_unlock(&q->mutex);
}

tarn_status tarnp_commit_submit(tarnp_store *store, const tarnp_commit *commit, tarnp_ticket **out,
                                tarn_error *err)
{
    tarnp_ticket *t;
    *out = NULL;
    TARNI_TRY(tarnp_store_enter(store, err));
    TARNI_TRY(start_queue(store, err));
    TARNI_TRY(tarni_alloc(&store->allocator, 1, sizeof *t, &t, err));
    t->queue = store->queue;
    tarn_status status = tarnp_draft_make(store, commit, true, &t->draft, err);
    if (status != TARN_OK) {
        tarni_free(&store->allocator, t);
        return status;
    }
    t->n_bytes = tarnp_draft_bytes(t->draft);
    push(store->queue, t);
    *out = t;
    return TARN_OK;
}

/* Syncs what is written; called and returns under the mutex. */
static tarn_status sync_written(tarnp_queue *q, tarn_error *err)
{
    uint64_t written = q->written;
    pthread_mutex_unlock(&q->mutex);
    tarn_status status = tarnp_tables_sync(q->store->tables, err);
    if (status != TARN_OK) /* the kernel may have dropped the pages: what is there is not known */
        atomic_store(&q->store->poisoned, true);
    pthread_mutex_lock(&q->mutex);
    if (status == TARN_OK && written > q->synced)
        q->synced = written;
    return status;
}

static tarn_status wait_done(tarnp_queue *q, const tarnp_ticket *t, uint32_t timeout_ms,
                             tarn_error *err)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end = later(end, timeout_ms);
    if (!t->done) {
        q->urgent = true;
        pthread_cond_signal(&q->work);
    }
    int waited = 0;
    while (!t->done && waited != ETIMEDOUT)
        waited = timeout_ms == TARNP_WAIT_FOREVER
                     ? pthread_cond_wait(&q->change, &q->mutex)
                     : pthread_cond_timedwait(&q->change, &q->mutex, &end);
    return t->done ? TARN_OK
                   : tarni_fail(err, TARN_E_BUSY, "the commit was not written within %u ms",
                                timeout_ms);
}

tarn_status tarnp_ticket_wait(tarnp_store *store, tarnp_ticket *t, tarnp_ticket_state state,
                              uint32_t timeout_ms, tarnp_committed *out, tarn_error *err)
{
    tarnp_queue *q = t->queue;
    if (out)
        *out = (tarnp_committed){0};
    if (store->pid != getpid()) /* the writer is the parent's */
        return tarnp_store_enter(store, err);
    if (state == TARNP_TICKET_SYNCED && store->durability == TARNP_SCRATCH)
        return tarni_fail(err, TARN_E_UNSUPPORTED, "a scratch store is never synced");
    pthread_mutex_lock(&q->mutex);
    tarn_status status = TARN_OK;
    if (state > TARNP_TICKET_MEMORY)
        status = wait_done(q, t, timeout_ms, err);
    if (status == TARN_OK && state_of(t) == TARNP_TICKET_WRITTEN && state == TARNP_TICKET_SYNCED)
        status = sync_written(q, err);
    if (status == TARN_OK && t->done && t->error.status != TARN_OK) {
        *err = t->error;
        status = err->status;
    }
    if (status == TARN_OK && t->done && out)
        *out = t->result;
    pthread_mutex_unlock(&q->mutex);
    return status;
}

tarnp_ticket_state tarnp_ticket_poll(tarnp_ticket *t, tarnp_committed *out, tarn_error *err)
{
    if (t->queue->store->pid != getpid()) /* nobody writes it, and the mutex may be held */
        return state_of(t);
    pthread_mutex_lock(&t->queue->mutex);
    tarnp_ticket_state state = state_of(t);
    if (out && t->done)
        *out = t->result;
    if (err && state == TARNP_TICKET_FAILED)
        *err = t->error;
    pthread_mutex_unlock(&t->queue->mutex);
    return state;
}

void tarnp_ticket_free(tarnp_ticket *t)
{
    if (!t || t->queue->store->pid != getpid())
        return;
    tarnp_queue *q = t->queue;
    pthread_mutex_lock(&q->mutex);
    t->abandoned = true;
    if (t->done)
        free_ticket(q, t);
    pthread_mutex_unlock(&q->mutex);
}

tarn_status tarnp_store_flush(tarnp_store *store, tarn_error *err)
{
    TARNI_TRY(tarnp_store_enter(store, err));
    tarnp_queue *q = store->queue;
    if (q) {
        pthread_mutex_lock(&q->mutex);
        while (q->length > 0) {
            q->urgent = true;
            pthread_cond_signal(&q->work);
            pthread_cond_wait(&q->change, &q->mutex);
        }
        pthread_mutex_unlock(&q->mutex);
        TARNI_TRY(tarnp_store_enter(store, err));
    }
    if (store->durability != TARNP_RELAXED)
        return TARN_OK;
    tarn_status status = TARN_OK;
    if (!q)
        return tarnp_tables_sync(store->tables, err);
    pthread_mutex_lock(&q->mutex);
    status = sync_written(q, err);
    pthread_mutex_unlock(&q->mutex);
    return status;
}
