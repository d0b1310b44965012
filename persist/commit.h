/* commit.h - putting a node inside a write transaction. */
#ifndef TARNP_COMMIT_H
#define TARNP_COMMIT_H

#include "draft.h"
#include "node.h"

/* Puts the node; all of `out` but bytes_written is filled in. After CONFLICT, BUSY, NOT_FOUND,
 * MISMATCH, INVALID, LIMIT and QUOTA with no byte more put than before the transaction is as it
 * was. */
tarn_status tarnp_draft_put(tarnp_write *w, tarnp_draft *draft, tarnp_committed *out,
                            tarn_error *err);
/* The same in a transaction of its own, where need be after making room within a quota. */
tarn_status tarnp_draft_write(tarnp_store *store, tarnp_draft *draft, tarnp_committed *out,
                              tarn_error *err);

#endif
