/* readfile.h - a whole file of bounded size in memory. */
#ifndef TARN_MODEL_READFILE_H
#define TARN_MODEL_READFILE_H

#include "memory.h"

/* Reads the regular file `path`; *out is the caller's, freed with tarni_free, and has a NUL behind
 * its n bytes. FORMAT if it is no regular file, is longer than n_bytes_max or changes its length
 * while it is read; NOT_FOUND or IO from the system. */
tarn_status tarni_read_file(const char *path, size_t n_bytes_max, const tarn_allocator *allocator,
                            char **out, size_t *n_bytes, tarn_error *err);

#endif
