/* lies.h - a store whose records are whole, checksums and all, and say something else: as a bug of
 * an earlier version or somebody hostile would leave them. */
#ifndef TARN_TESTS_LIES_H
#define TARN_TESTS_LIES_H

#include "store.h"

/* Removes, cuts, lengthens, changes or exchanges one to three records of a small store, which ones
 * follows from the seed. False where it could not be written. */
bool lies_tell(tarnp_store *store, uint64_t seed, tarn_error *err);

#endif
