/* compact.h - giving the disk back what a store no longer uses. */
#ifndef TARNP_COMPACT_H
#define TARNP_COMPACT_H

#include "bundle.h"

/* Copies the store without its free pages, verifies the copy and puts it in place of the old file,
 * by one rename: a crash leaves the one or the other. Nobody may have the store open, this process
 * included: BUSY. CORRUPT where anything of the store is damaged: then it stays as it is (salvage
 * it). UNSUPPORTED for a scratch store. NO_SPACE, CANCELLED and every other error leave it too.
 * `progress` is of the verification.
 *
 * Who has a store open holds a shared lock (flock) on its folder. Compacting asks for it alone, and
 * while it has it nobody can open the store. */
tarn_status tarnp_compact(const char *path, const tarnp_options *options,
                          tarnp_progress_fn progress, void *user, uint64_t *bytes_before,
                          uint64_t *bytes_after, tarn_error *err);

#endif
