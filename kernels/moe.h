/* moe.h - the router and the experts. */
#ifndef TARNK_MOE_H
#define TARNK_MOE_H

#include "kernel.h"

#define TARNK_EXPERTS_MAX 4096

typedef enum tarnk_router_kind {
    TARNK_ROUTER_SIGMOID = 0,
    TARNK_ROUTER_SOFTMAX = 1
} tarnk_router_kind;

/* Math         score = sigmoid(logits) (or softmax); the top_k of score + bias are chosen, equal
 *              ones by lowest index; weights are the unbiased scores, over their sum + 1e-20 if
 *              renormalize, times scale. With n_groups > 1 only the groups_kept groups with the
 *              best sum of two highest choice scores take part
 * Shapes       logits [n_rows][n_experts], bias [n_experts], weights [n_rows][top_k] fp32; experts
 *              [n_rows][top_k], ascending in a row
 * Layout       dense
 * Alignment    none
 * Range        a NaN counts as the worst choice score: indices are valid and distinct whatever the
 *              logits, and the NaN reaches the weights
 * Aliasing     none
 * Workspace    none
 * Determinism  a row by itself
 * Limits       n_experts at most TARNK_EXPERTS_MAX; 1 <= top_k <= n_experts; n_groups divides
 *              n_experts and 1 <= groups_kept <= n_groups, both ignored with n_groups <= 1
 * Moved        4 n_rows (n_experts + 2 top_k) bytes; about 25 FLOPs a logit */
typedef struct tarnk_moe_route_args {
    const float *logits;
    const float *bias;
    uint32_t *experts;
    float *weights;
    uint32_t n_rows;
    uint32_t n_experts;
    uint32_t top_k;
    uint32_t n_groups;
    uint32_t groups_kept;
    tarnk_router_kind kind;
    bool renormalize;
    float scale;
} tarnk_moe_route_args;

/* Math         out += sum over the chosen experts, by ascending index, of
 *              weight * w2(silu(w1 x) * w3 x)
 * Shapes       x, out [n_rows][n] fp32; w1, w3 [n_experts] matrices [width][n], w2 [n_experts]
 *              matrices [n][width], each fp32 or bf16; experts, weights [n_rows][top_k], experts
 *              ascending and distinct in a row
 * Layout       dense
 * Alignment    workspace 64 bytes
 * Range        `round`: the product before w2 is rounded to bf16
 * Aliasing     out overlaps no x
 * Workspace    tarnk_moe_workspace bytes
 * Determinism  products as tarnk_matmul_args, each row's experts added in order; a row by itself
 * Limits       n_rows top_k below 2^32
 * Moved        the weights of each chosen expert once for each block of its rows; 6 n_rows top_k n
 *              width FLOPs */
typedef struct tarnk_moe_args {
    const float *x;
    const tarnk_matrix *w1;
    const tarnk_matrix *w3;
    const tarnk_matrix *w2;
    const uint32_t *experts;
    const float *weights;
    float *out;
    uint32_t n_rows;
    uint32_t n;
    uint32_t width;
    uint32_t n_experts;
    uint32_t top_k;
    bool round;
    void *workspace;
} tarnk_moe_args;

/* Workspace of one call with up to n_rows rows, in bytes. */
size_t tarnk_moe_workspace(uint32_t n_rows, uint32_t n, uint32_t width, uint32_t n_experts,
                           uint32_t top_k);

#endif
