/* evict.h - parts leaving a node: what can be computed again goes, what cannot stays. */
#ifndef TARNP_EVICT_H
#define TARNP_EVICT_H

#include "handle.h"

/* Marks these parts in the node's manifest as gone and queues their chunks, which count as stored
 * until they are freed (tarnp_refs_drain). *freed_bytes is 0 where nothing of them was there.
 * Setting the bytes of sessions right is the caller's (tarnp_forest_apply). */
tarn_status tarnp_evict(tarnp_write *w, uint64_t node, unsigned parts, uint64_t *freed_bytes,
                        tarn_error *err);

#endif
