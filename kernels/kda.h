/* kda.h - Kimi Delta Attention: the gates before it and the recurrence itself. */
#ifndef TARNK_KDA_H
#define TARNK_KDA_H

#include "kernel.h"

#define TARNK_KDA_K_MAX 2048 /* key dimension of a head: decay factors are kept on the stack */

typedef enum tarnk_gate_kind {
    TARNK_GATE_SOFTPLUS = 0, /* g = -exp(A_log) softplus(f + dt_bias): unbounded below */
    TARNK_GATE_BOUNDED = 1   /* g = lower_bound sigmoid(exp(A_log) (f + dt_bias)) */
} tarnk_gate_kind;

/* What stands between the projections and the recurrence, in place.
 * Math         q, k: x / sqrt(sum(x^2) + 1e-6) for each head, q also times head_dim^-0.5;
 *              f -> g, the log decay; b -> beta = sigmoid(b)
 * Shapes       q, k, f [n_rows][n_heads][head_dim], b [n_rows][n_heads], a_log [n_heads], dt_bias
 *              [n_heads][head_dim], all fp32
 * Layout       dense
 * Alignment    none
 * Range        g in nats, <= 0, unbounded below for SOFTPLUS; lower_bound below 0
 * Aliasing     none; results replace inputs
 * Workspace    none
 * Determinism  16 lane sums, then a fixed tree; a head by itself
 * Limits       head_dim at least 1
 * Moved        24 n_rows n_heads head_dim bytes; about 70 FLOPs for each channel of a head */
typedef struct tarnk_kda_gate_args {
    float *q;
    float *k;
    float *f;
    float *b;
    const float *a_log;
    const float *dt_bias;
    uint32_t n_rows;
    uint32_t n_heads;
    uint32_t head_dim;
    tarnk_gate_kind gate_kind;
    float lower_bound;
} tarnk_kda_gate_args;

/* The recurrence, token by token.
 * Math         S <- diag(exp g) S;  u = beta (v - k^T S);  S <- S + k u^T;  o = q^T S
 * Shapes       q (normalised and scaled), k (normalised), g [n_rows][n_heads][k_dim]; v, out
 *              [n_rows][n_heads][v_dim]; beta [n_rows][n_heads]; state [n_heads][K][V]; all fp32
 * Layout       dense; the state at state_offset bytes of the slot
 * Alignment    state_offset a multiple of 64
 * Range        g in nats, <= 0; below -104 the state is forgotten exactly
 * Aliasing     out may be v; state_write may be state_read, otherwise state_read is only read
 * Workspace    none
 * Determinism  even and odd key channels are summed apart, each in order, then together: fixed by
 *              k_dim alone
 * Limits       k_dim from 1 to TARNK_KDA_K_MAX, v_dim at least 1
 * Moved        8 K V bytes of state for each head and session (once for all its rows),
 *              4 n_rows n_heads (3 K + 2 V) bytes; 7 K V FLOPs for each row and head */
typedef struct tarnk_kda_args {
    const float *q;
    const float *k;
    const float *v;
    const float *g;
    const float *beta;
    float *out;
    const tarnk_seq *seqs;
    uint32_t n_seqs;
    uint32_t n_heads;
    uint32_t k_dim;
    uint32_t v_dim;
    size_t state_offset;
} tarnk_kda_args;

#endif
