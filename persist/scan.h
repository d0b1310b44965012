/* scan.h - searching a data.mdb that LMDB cannot be trusted with. */
#ifndef TARNP_SCAN_H
#define TARNP_SCAN_H

#include "finds.h"

typedef struct tarnp_scan tarnp_scan;

/* Maps the file and adds all it finds to `r`. IO, FORMAT (nothing of a store is in it). */
/* KEY where all there is is sealed with another key than the options', or they have none. */
tarn_status tarnp_scan_open(const char *path, const tarnp_options *options, tarnp_remains *r,
                            tarnp_scan **out, tarn_error *err);
void tarnp_scan_close(tarnp_scan *scan); /* NULL is allowed */
tarnp_source tarnp_scan_source(tarnp_scan *scan);
tarn_status tarnp_scan_model(const tarnp_scan *scan, const uint8_t fp[TARNP_FP_BYTES],
                             tarni_writer *out, tarn_error *err);

#endif
