/* twin.h - the ops once more, plainly and in double precision: what the tables are checked against.
 *
 * Each takes the arguments of the op and writes its results apart, leaving the op's own outputs
 * alone. Attention is in the expanded form, so that the absorbed one is checked by other maths. */
#ifndef TARN_TESTS_TWIN_H
#define TARN_TESTS_TWIN_H

#include "ops.h"

double twin_weight(const tarnk_matrix *m, uint32_t o, uint32_t i);
double twin_bf16(uint16_t bits);

/* out [n_rows][n]. */
void twin_silu_mul(const tarnk_silu_mul_args *a, double *out);
void twin_norm_rms(const tarnk_norm_rms_args *a, double *out);
void twin_norm_gated(const tarnk_norm_gated_args *a, double *out);
/* out and sizes [n_rows][n_out], without rounding; sizes: the sum of |x| |w|, which bounds errors.
 */
void twin_matmul(const tarnk_matmul_args *a, double *out, double *sizes);
/* out: 3 parts of [n_rows][n]. */
void twin_conv1d(const tarnk_conv1d_args *a, double *const *out);
/* Results in the shapes of q, k, f and b. */
void twin_kda_gate(const tarnk_kda_gate_args *a, double *q, double *k, double *g, double *beta);
/* One session; state [n_heads][K][V] in and out, out [n_rows][n_heads][v_dim]. */
void twin_kda(const tarnk_kda_args *a, double *state, double *out);
/* One session; latents come from its pages. */
void twin_mla(const tarnk_mla_args *a, double *out);
void twin_moe_route(const tarnk_moe_route_args *a, uint32_t *experts, double *weights);
/* out [n_rows][n]: what is added. */
void twin_moe(const tarnk_moe_args *a, double *out);

#endif
