/* oracle.h - reads the stored op-level cases: small safetensors files in tests/data/oracle/ops.
 *
 * They hold fp32 inputs and what a float64 implementation of the op made of them, rounded to fp32.
 * Names are CASE.TENSOR. For trusted files only: the product's own reader is elsewhere. */
#ifndef TARN_TESTS_ORACLE_H
#define TARN_TESTS_ORACLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORACLE_NAME_MAX 128

typedef struct oracle {
    json_t *header;
    uint8_t *data;
} oracle;

/* Opens NAME.safetensors; false, with a line on standard output, where it cannot. */
bool oracle_open(oracle *o, const char *name);
void oracle_close(oracle *o);

/* The values of CASE.TENSOR, or of TENSOR if case_name is empty; NULL and a line where it is not
 * there. Valid until oracle_close. */
const float *oracle_f32(const oracle *o, const char *case_name, const char *tensor);
const int32_t *oracle_i32(const oracle *o, const char *case_name, const char *tensor);

/* Size of one of its dimensions. */
uint32_t oracle_dim(const oracle *o, const char *case_name, const char *tensor, size_t dim);

/* Calls fn for each case that has TENSOR, and returns how many there were. */
int oracle_each(const oracle *o, const char *tensor,
                void (*fn)(const oracle *o, const char *case_name, void *user), void *user);

#endif
