/* conv1d.h - the short causal convolution before a KDA layer. */
#ifndef TARNK_CONV1D_H
#define TARNK_CONV1D_H

#include "kernel.h"

#define TARNK_CONV_PARTS     3 /* q, k, v */
#define TARNK_CONV_WIDTH_MAX 8

/* Math         y_t[c] = silu(sum_j weight[c][j] x_{t-(W-1)+j}[c]), depthwise; inputs before the
 *              step come from the conv tail, which then holds the last W-1 inputs
 * Shapes       of each part x, out [n_rows][n], weight [n][W] fp32; the tail of a slot at
 *              conv_offset is [3 parts][W-1 taps, oldest first][n] in conv_dtype
 * Layout       dense; conv_offset in bytes from the start of the slot
 * Alignment    none
 * Range        inputs are rounded by the matmul before them where conv_dtype is bf16, so storing
 *              them loses nothing
 * Aliasing     out overlaps no x; state_write may be state_read, otherwise state_read is only read
 * Workspace    none
 * Determinism  taps oldest to newest; each channel by itself
 * Limits       W from 2 to TARNK_CONV_WIDTH_MAX
 * Moved        24 n_rows n + 12 W n bytes and both tails; about (2 W + 25) 3 n FLOPs a row */
typedef struct tarnk_conv1d_args {
    const float *x[TARNK_CONV_PARTS];
    const float *weight[TARNK_CONV_PARTS];
    float *out[TARNK_CONV_PARTS];
    const tarnk_seq *seqs;
    uint32_t n_seqs;
    uint32_t n;
    uint32_t width;
    size_t conv_offset;
    tarnk_dtype conv_dtype;
} tarnk_conv1d_args;

#endif
