/* norm.h - RMS norm, plain and with the sigmoid gate of a KDA head. */
#ifndef TARNK_NORM_H
#define TARNK_NORM_H

#include "kernel.h"

/* Math         out = x * rsqrt(mean(x^2) + eps) * weight
 * Shapes       x [n_rows] rows of n, weight [n], out [n_rows][n], all fp32
 * Layout       rows of x are x_stride elements apart, out is dense
 * Alignment    none
 * Range        sums are fp32: |x| up to about 1e18; `round`: the result is rounded to bf16
 * Aliasing     out may be x if x_stride == n
 * Workspace    none
 * Determinism  16 lane sums over n in order, then a fixed tree; a row by itself
 * Limits       n at least 1
 * Moved        8 n_rows n bytes (and the weight once); 4 FLOPs an element */
typedef struct tarnk_norm_rms_args {
    const float *x;
    size_t x_stride;
    const float *weight;
    float *out;
    uint32_t n_rows;
    uint32_t n;
    float eps;
    bool round;
} tarnk_norm_rms_args;

/* Math         out = x * rsqrt(mean(x^2) + eps) * weight * sigmoid(gate), head by head
 * Shapes       x, gate, out [n_rows][n_heads][n], weight [n] for all heads, all fp32
 * Layout       dense
 * Alignment    none
 * Range        as tarnk_norm_rms_args
 * Aliasing     out may be x or gate
 * Workspace    none
 * Determinism  as tarnk_norm_rms_args; a head by itself
 * Limits       n at least 1
 * Moved        12 n_rows n_heads n bytes; about 28 FLOPs an element */
typedef struct tarnk_norm_gated_args {
    const float *x;
    const float *gate;
    const float *weight;
    float *out;
    uint32_t n_rows;
    uint32_t n_heads;
    uint32_t n;
    float eps;
    bool round;
} tarnk_norm_gated_args;

#endif
