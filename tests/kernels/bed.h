/* bed.h - what the kernel tests share: tables, thread counts, memory that ends with the case, and
 * pseudo-random inputs. */
#ifndef TARN_TESTS_BED_H
#define TARN_TESTS_BED_H

#include "ops.h"

#define BED_TABLES_MAX 4

/* The tables this processor can run, generic first; returns how many. */
int bed_tables(const tarnk_ops *tables[BED_TABLES_MAX]);

/* Does it multiply bf16 pairs, and so round what meets bf16 weights? */
bool bed_rounds(const tarnk_ops *ops);

/* A context over a pool of 1 to 3 threads. */
const tarnk_context *bed_context(uint32_t n_threads);

/* n_bytes of memory, exactly as long as asked for (so that a sanitizer sees each overrun), filled
 * with 0xff: NaN as fp32 and as bf16. bed_end frees all. */
void *bed_alloc(size_t n_bytes);
void bed_end(void);

/* n values, roughly normal, times scale. The same seed gives the same values. */
float *bed_floats(size_t n, uint64_t seed, float scale);
uint64_t bed_random(uint64_t *state);
void *bed_copy(const void *from, size_t n_bytes);
float *bed_filled(size_t n, float value);

/* Nearest bf16, as fp32. */
float bed_round_bf16(float x);
void bed_round_all(float *x, size_t n);

/* A random weight matrix of about unit gain, its first byte `misaligned` bytes off a 64-byte line.
 */
tarnk_matrix bed_matrix(uint32_t n_out, uint32_t n_in, tarnk_dtype dtype, size_t misaligned,
                        uint64_t seed);
/* Given values as a matrix. */
tarnk_matrix bed_matrix_of(const float *values, uint32_t n_out, uint32_t n_in, tarnk_dtype dtype);

/* What a product wants of that size. */
void *bed_workspace(uint32_t n_rows, uint32_t n_in);

/* Largest |got - want| / max |want|; infinity where got is not finite. */
double bed_error(const float *got, const double *want, size_t n);

uint64_t bed_hash(uint64_t hash, const void *bytes, size_t n_bytes);

#endif
