/* queue.h - the thread behind tarnp_commit_submit. */
#ifndef TARNP_QUEUE_H
#define TARNP_QUEUE_H

#include "handle.h"

/* Writes what is queued and joins the thread; every ticket must have been freed: asserted. A store
 * that never submitted anything has no queue. */
void tarnp_queue_stop(tarnp_store *store);

#endif
