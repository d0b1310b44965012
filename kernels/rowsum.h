/* rowsum.h - the sum of squares of a row in the one order all norms use: 16 lane sums over the row,
 * then the tree. */
#ifndef TARNK_ROWSUM_H
#define TARNK_ROWSUM_H

#include "simd.h"

static inline float row_sum_squares(const float *x, uint32_t n)
{
    v16 sum = v16_set1(0.0F);
    for (uint32_t i = 0; i < n; i += SIMD_LANES) {
        v16 v = v16_load_upto(x + i, simd_lanes_left(n, i));
        sum = v16_fma(v, v, sum);
    }
    return v16_sum(sum);
}

/* 1 / sqrt(x); the square root is exact to the last bit by IEEE 754, unlike every other function of
 * the C library. */
static inline float inverse_sqrt(float x)
{
    return 1.0F / __builtin_sqrtf(x);
}

/* The factor of an RMS norm: 1 / sqrt(mean(x^2) + eps). */
static inline float row_rms_factor(const float *x, uint32_t n, float eps)
{
    return inverse_sqrt(row_sum_squares(x, n) / (float)n + eps);
}

#endif
