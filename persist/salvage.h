/* salvage.h - everything of a damaged store that verifies, into a new one.
 *
 * Every session is copied as far as its chain is good from the root on: it ends at the last node
 * whose manifest and tokens are whole, and so do the branches it has left (its tips). A node whose
 * tokens are whole but whose state is not keeps the tokens without the state; so do nodes whose
 * state needs latents that are lost. Names, tags, times and marks are kept; forks go on sharing.
 *
 * A store that does not open is searched for what it held (remains.h). That works with any damage
 * to LMDB's pages, to the store's own records, and with a truncated file. What cannot be saved: a
 * chain behind a lost node; a session whose record, or all of whose nodes, are lost; under the name
 * of a session that was removed or renamed an old version may come back. */
#ifndef TARNP_SALVAGE_H
#define TARNP_SALVAGE_H

#include "bundle.h"

typedef struct tarnp_salvaged {
    uint64_t saved; /* nodes in the new store */
    uint64_t lost;  /* nodes that sessions need and that could not be saved, as far as known */
    uint64_t without_state; /* of the saved: lost their state */
} tarnp_salvaged;

/* `out_path` must not be there: EXISTS. The store at `path` is only read. `options` are of both
 * (create is ignored). NOT_FOUND, FORMAT where there is nothing to save, NO_SPACE, CANCELLED; after
 * an error there is no new store. */
tarn_status tarnp_salvage(const char *path, const char *out_path, const tarnp_options *options,
                          tarnp_progress_fn progress, void *user, tarnp_salvaged *out,
                          tarn_error *err);

#endif
