/* remains.h - what can be found of a store that may be damaged.
 *
 * Where the store opens and LMDB's pages are good, its tables are read, passing over every record
 * that does not match its checksum. Otherwise the file itself is searched for everything that
 * carries a checksum of its own: manifests, chunks, and the records of sessions, tips and models.
 * That finds old versions and removed ones too, as far as their pages were not used again: of a
 * session the newest version is taken, and one that was removed may come back. */
#ifndef TARNP_REMAINS_H
#define TARNP_REMAINS_H

#include "finds.h"

/* Changes nothing. NOT_FOUND, BUSY (open in this process), NO_MEMORY, IO. */
tarn_status tarnp_remains_open(const char *path, const tarnp_options *options, tarnp_remains *out,
                               tarn_error *err);
void tarnp_remains_close(tarnp_remains *r);
/* Appends a model's descriptor; NOT_FOUND. */
tarn_status tarnp_remains_model(tarnp_remains *r, const uint8_t fp[TARNP_FP_BYTES],
                                tarni_writer *out, tarn_error *err);

#endif
