/* paths.h - joining paths, and naming files in errors. */
#ifndef TARNI_PATHS_H
#define TARNI_PATHS_H

#include "memory.h"

/* dir/name, to be freed with tarni_free. */
tarn_status tarni_path_join(const tarn_allocator *a, const char *dir, const char *name, char **out,
                            tarn_error *err);

/* The last component of a path, short enough that an error line still holds the field and the values
 * after it: borrowed from `path`. */
const char *tarni_path_tail(const char *path);

#endif
