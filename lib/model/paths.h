/* paths.h - joining paths, and naming files in errors. */
#ifndef TARNI_PATHS_H
#define TARNI_PATHS_H

#include "memory.h"

/* dir/name, to be freed with tarni_free. */
tarn_status tarni_path_join(const tarn_allocator *a, const char *dir, const char *name, char **out,
                            tarn_error *err);

/* What errors call a file: its folder's name and its own, "FOLDER/config.json", however it was
 * reached, and short enough that an error line still holds the field and the values after it.
 * Borrowed from `path`. */
const char *tarni_path_tail(const char *path);

#endif
