/* desk.h - one open store, and who is using it: the caller's thread, or the encoder.
 *
 * A store handle takes one call at a time. The desk is that turn: every use of the store by the
 * layers above happens between enter and leave, and so does the work of the encoder, a thread that
 * is started by the first job and encodes what sessions commit in the background. Whoever waits for
 * the turn gets it before the encoder's next job. Enter may be nested.
 *
 *     tarni_desk_put      job --> QUEUED --> (encoder) --> DONE
 *     tarni_desk_finish            \--> (this thread) --> DONE
 *
 * A job is owned by whoever put it: it must be DONE before it goes. */
#ifndef TARNI_DESK_H
#define TARNI_DESK_H

#include "store.h"

typedef struct tarni_desk tarni_desk;

typedef struct tarni_job {
    const tarnp_commit *commit; /* with all it points to; borrowed until the job is done */
    /* Waits for what the commit points to, before it is encoded: any thread. */
    tarn_status (*ready)(struct tarni_job *job, tarn_error *err);
    struct tarni_job *next;
    int state;            /* the desk's own */
    tarnp_ticket *ticket; /* of a job that is done; NULL: it failed */
    tarn_error error;
} tarni_job;

/* Takes the store over; on an error it is the caller's still. */
tarn_status tarni_desk_open(tarnp_store *store, const tarn_allocator *allocator, tarni_desk **out,
                            tarn_error *err);
/* Ends the encoder, which must have no job, and closes the store. In a forked child it only forgets
 * them. */
void tarni_desk_close(tarni_desk *d);

/* NULL is allowed: no store, nothing to wait for. */
tarnp_store *tarni_desk_enter(tarni_desk *d);
void tarni_desk_leave(tarni_desk *d);
/* False: somebody uses the store. */
bool tarni_desk_try_enter(tarni_desk *d);

/* A session uses the store, and does no longer. The desk may be NULL. */
void tarni_desk_join(tarni_desk *d);
void tarni_desk_part(tarni_desk *d);

/* Queues a job. The first one starts the encoder: IO. */
tarn_status tarni_desk_put(tarni_desk *d, tarni_job *job, tarn_error *err);
bool tarni_desk_is_done(tarni_desk *d, const tarni_job *job);
/* Returns when the job is done: does it now, with this pool, if the encoder has not begun it. */
void tarni_desk_finish(tarni_desk *d, tarni_job *job, tarni_pool *pool);
/* The same for every job there is: all of them are with the store's writer then, or failed. */
void tarni_desk_drain(tarni_desk *d);

#endif
