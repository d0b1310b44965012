/* pointwise.h - embedding rows, SiLU times up. */
#ifndef TARNK_POINTWISE_H
#define TARNK_POINTWISE_H

#include "kernel.h"

/* Math         out[r] = table[ids[r]], upcast to fp32
 * Shapes       table [vocab][n] fp32 or bf16, ids [n_rows], out [n_rows][n] fp32; n = table.n_in
 * Layout       dense rows
 * Alignment    none
 * Range        ids below table.n_out
 * Aliasing     none
 * Workspace    none
 * Determinism  exact
 * Limits       none
 * Moved        n_rows n (table element + 4) bytes; no FLOPs */
typedef struct tarnk_embed_args {
    tarnk_matrix table;
    const uint32_t *ids;
    float *out;
    uint32_t n_rows;
} tarnk_embed_args;

/* Math         out = silu(gate) * up, silu(x) = x sigmoid(x)
 * Shapes       gate, up, out [n_rows][n] fp32
 * Layout       dense
 * Alignment    none
 * Range        any; `round`: the result is rounded to bf16
 * Aliasing     out may be gate or up
 * Workspace    none
 * Determinism  each element by itself
 * Limits       none
 * Moved        12 n_rows n bytes; about 25 FLOPs an element */
typedef struct tarnk_silu_mul_args {
    const float *gate;
    const float *up;
    float *out;
    uint32_t n_rows;
    uint32_t n;
    bool round;
} tarnk_silu_mul_args;

#endif
