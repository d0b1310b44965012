/* sums.h - the checksums of the store: XXH3, against rot and not against attackers. */
#ifndef TARNP_SUMS_H
#define TARNP_SUMS_H

#include <stddef.h>
#include <stdint.h>

#define TARNP_SUM_BYTES 16

/* XXH3-128, low half first, little-endian. */
void tarnp_sum128(const void *data, size_t n_bytes, uint8_t out[TARNP_SUM_BYTES]);
/* XXH3-64. */
uint64_t tarnp_sum64(const void *data, size_t n_bytes, uint64_t seed);

#endif
