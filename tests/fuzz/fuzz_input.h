/* fuzz_input.h - for targets that take an input apart and say what does not hold. */
#ifndef TARN_TESTS_FUZZ_INPUT_H
#define TARN_TESTS_FUZZ_INPUT_H

#include "fuzz.h"

#include <stdbool.h>
#include <string.h>

/* MUST of fuzz.h, with a reason. */
#define FUZZ_CHECK(cond, ...)                                                                      \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: failed: %s: ", __FILE__, __LINE__, #cond);                     \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

typedef struct fuzz_input {
    const uint8_t *data;
    size_t n_bytes; /* left */
} fuzz_input;

/* The next number of n bytes, little-endian; 0 behind the end. */
static inline uint32_t fuzz_take(fuzz_input *in, size_t n)
{
    uint32_t x = 0;
    for (size_t i = 0; i < n && in->n_bytes > 0; i++, in->n_bytes--)
        x |= (uint32_t)*in->data++ << 8 * i;
    return x;
}

#endif
