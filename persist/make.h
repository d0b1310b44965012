/* make.h - a new store on disk, before anybody opens it. Paths are clean (folder.h). */
#ifndef TARNP_MAKE_H
#define TARNP_MAKE_H

#include "handle.h"

/* Whether there is something to open at `path`. NOT_FOUND where there is not and `create` is false,
 * FORMAT for a file or a folder with something else in it. */
tarn_status tarnp_find_store(const char *path, bool create, bool *exists, tarn_error *err);
/* Removes what processes that died while they made a store at `path` have left beside it: folders
 * with its name and ".being-made-" and six characters, in none of which anybody is at work. */
void tarnp_make_sweep(const char *path);
/* Makes an empty store at `path`, which must be absent or an empty folder. Losing the race against
 * another process that does the same is success. */
tarn_status tarnp_make_store(const char *path, const tarnp_options *options,
                             const tarn_allocator *allocator, tarn_error *err);
/* Makes the scratch store at `path` empty. */
tarn_status tarnp_wipe_store(const char *path, const tarnp_options *options,
                             const tarn_allocator *allocator, tarn_error *err);

#endif
