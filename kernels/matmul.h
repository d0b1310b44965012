/* matmul.h - products of activation rows with weights as they lie in the checkpoint. */
#ifndef TARNK_MATMUL_H
#define TARNK_MATMUL_H

#include "kernel.h"

/* Math         out = x W^T, or out += x W^T with `accumulate`
 * Shapes       x [n_rows] rows of w.n_in fp32, w [n_out][n_in] fp32 or bf16, out [n_rows] rows of
 *              w.n_out fp32
 * Layout       rows of x are x_stride, rows of out out_stride elements apart; w is dense
 * Alignment    workspace 64 bytes; else none, for w not even that of its element
 * Range        x is already rounded to bf16 where the numerics ask for it: a table of bf16
 *              products (ops.h) rounds it before bf16 weights, which then changes nothing.
 *              `round`: the result is rounded to bf16 (not with accumulate)
 * Aliasing     out overlaps no x, and no out of another part
 * Workspace    tarnk_matmul_workspace bytes for each part; consecutive parts with the same x,
 *              x_stride and n_rows may share it
 * Determinism  an element is 16 lane sums over k in order, then a fixed tree, whatever n_rows, the
 *              tile or the thread; fp32 throughout, bf16 weights widened exactly. Bf16 products:
 *              lane i takes k = 2i + 1, then 2i of each 32, by fused multiply-adds that count
 *              denormals as zero
 * Limits       n_in, n_out and n_rows at least 1
 * Moved        the weights once for each block of 24 to 72 rows, 4 n_rows (n_in + n_out) bytes;
 *              2 n_rows n_out n_in FLOPs */
typedef struct tarnk_matmul_args {
    const float *x;
    size_t x_stride;
    tarnk_matrix w;
    float *out;
    size_t out_stride;
    uint32_t n_rows;
    bool accumulate;
    bool round;
    void *workspace;
} tarnk_matmul_args;

/* Workspace of a part with up to n_rows rows of x, in bytes. */
size_t tarnk_matmul_workspace(uint32_t n_rows, uint32_t n_in);

#endif
