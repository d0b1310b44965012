/* ops.h - the maths of the model as a table of functions, one table for each device and ISA.
 *
 * This folder knows pointers, shapes and strides; it allocates nothing, checks nothing its caller
 * has checked, and on the CPU cannot fail. All sizes are in elements unless the name says bytes.
 * Matrices are row-major and dense unless a stride is given.
 *
 * Ragged batches. A step computes `n_rows` token rows of several sessions at once: row r of every
 * activation belongs to one token. `tarnk_seq` says which rows are whose, where they stand in their
 * session and where that session's memory is. Rows of one session are consecutive and in order.
 *
 * Determinism, for every op of a CPU table: the bits of a row depend on the tokens of its own
 * session alone; not on the other rows, the number of rows, how an append was cut, nor on the
 * number of threads. */
#ifndef TARNK_OPS_H
#define TARNK_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TARNK_PAGE_TOKENS 64 /* token rows of a latent page; attention visits keys in such blocks  \
                              */

typedef enum tarnk_dtype { TARNK_F32 = 0, TARNK_BF16 = 1 } tarnk_dtype;

typedef void (*tarnk_task_fn)(void *arg, uint32_t task_idx);

/* Where an op runs. CPU: `run(pool, n, fn, arg)` calls fn(arg, i) once for every i < n, in any
 * order and on any threads, and returns when all are done. CUDA: `stream`. */
typedef struct tarnk_context {
    void (*run)(void *pool, uint32_t n_tasks, tarnk_task_fn fn, void *arg);
    void *pool;
    uint32_t n_threads; /* how many tasks can run at once: a hint for cutting work */
    void *stream;
} tarnk_context;

/* A weight matrix as it lies in the checkpoint: y = W x. `data` may have any alignment. */
typedef struct tarnk_matrix {
    const void *data; /* [n_out][n_in] */
    tarnk_dtype dtype;
    uint32_t n_out;
    uint32_t n_in;
} tarnk_matrix;

/* The rows of one session in this step. */
typedef struct tarnk_seq {
    uint32_t row_begin;
    uint32_t n_rows;           /* at least 1 */
    uint32_t position;         /* tokens of the session before row_begin */
    const uint8_t *state_read; /* state slot to start from; never NULL */
    uint8_t *state_write;      /* state slot to leave behind; may equal state_read, never overlap
                                  it otherwise */
    uint8_t *const *pages;     /* latent page of token t: pages[t / 64]; rows up to the last one of
                                  this step have a page. Rows not yet written may hold anything */
} tarnk_seq;

/* ---- pointwise ------------------------------------------------------------------------------ */

/* out[r] = table[ids[r]], upcast. ids are within the table. */
typedef struct tarnk_embed_args {
    tarnk_matrix table; /* [vocab][n] */
    const uint32_t *ids;
    float *out; /* [n_rows][n] */
    uint32_t n_rows;
} tarnk_embed_args;

/* out = silu(gate) * up, silu(x) = x * sigmoid(x). `round`: the result is rounded to bf16. */
typedef struct tarnk_silu_mul_args {
    const float *gate; /* [n_rows][n] */
    const float *up;   /* [n_rows][n] */
    float *out;        /* [n_rows][n]; may be gate or up */
    uint32_t n_rows;
    uint32_t n;
    bool round;
} tarnk_silu_mul_args;

/* ---- norm ----------------------------------------------------------------------------------- */

/* out = x * rsqrt(mean(x^2) + eps) * weight */
typedef struct tarnk_norm_rms_args {
    const float *x; /* [n_rows] rows of n, x_stride apart */
    size_t x_stride;
    const float *weight; /* [n] */
    float *out;          /* [n_rows][n]; may be x if x_stride == n */
    uint32_t n_rows;
    uint32_t n;
    float eps;
    bool round;
} tarnk_norm_rms_args;

/* out = x * rsqrt(mean(x^2) + eps) * weight * sigmoid(gate), for each of n_heads heads of n */
typedef struct tarnk_norm_gated_args {
    const float *x;      /* [n_rows][n_heads][n] */
    const float *gate;   /* [n_rows][n_heads][n] */
    const float *weight; /* [n] */
    float *out;          /* [n_rows][n_heads][n]; may be x */
    uint32_t n_rows;
    uint32_t n_heads;
    uint32_t n;
    float eps;
    bool round;
} tarnk_norm_gated_args;

/* ---- matmul --------------------------------------------------------------------------------- */

/* out = x W^T, or out += x W^T. fp32 accumulation over k in one fixed order whatever n_rows is. */
typedef struct tarnk_matmul_args {
    const float *x; /* [n_rows] rows of w.n_in, x_stride apart; already rounded to bf16 where the
                       numerics ask for it */
    size_t x_stride;
    tarnk_matrix w;
    float *out; /* [n_rows] rows of w.n_out, out_stride apart; overlaps no x */
    size_t out_stride;
    uint32_t n_rows;
    bool accumulate;
    bool round; /* the result is rounded to bf16 (not with accumulate) */
} tarnk_matmul_args;

/* ---- conv1d --------------------------------------------------------------------------------- */

#define TARNK_CONV_PARTS 3 /* q, k, v */

/* Causal depthwise convolution of width W, then SiLU, for q, k and v of one layer:
 * y_t[c] = sum_j weight[c][j] x_{t-(W-1)+j}[c]; inputs before the step come from the conv tail.
 * The tail of a slot at conv_offset is [3 parts][W-1 taps, oldest first][n] in conv_dtype; inputs
 * are rounded by the matmul before them where conv_dtype is bf16, so storing loses nothing. */
typedef struct tarnk_conv1d_args {
    const float *x[TARNK_CONV_PARTS];      /* each [n_rows][n] */
    const float *weight[TARNK_CONV_PARTS]; /* each [n][W] */
    float *out[TARNK_CONV_PARTS];          /* each [n_rows][n]; overlaps no x */
    const tarnk_seq *seqs;
    uint32_t n_seqs;
    uint32_t n;
    uint32_t width;     /* W, 2 to 8 */
    size_t conv_offset; /* bytes into the slot */
    tarnk_dtype conv_dtype;
} tarnk_conv1d_args;

/* ---- kda ------------------------------------------------------------------------------------ */

typedef enum tarnk_gate_kind {
    TARNK_GATE_SOFTPLUS = 0, /* g = -exp(A_log) softplus(f + dt_bias): unbounded below */
    TARNK_GATE_BOUNDED = 1   /* g = lower_bound sigmoid(exp(A_log) (f + dt_bias)) */
} tarnk_gate_kind;

/* What stands between the projections and the recurrence, in place:
 * q, k: x / sqrt(sum(x^2) + 1e-6) for each head, q also times head_dim^-0.5;
 * f -> g: the log decay in nats, fp32, <= 0; b -> beta: sigmoid. */
typedef struct tarnk_kda_gate_args {
    float *q;             /* [n_rows][n_heads][head_dim] */
    float *k;             /* [n_rows][n_heads][head_dim] */
    float *f;             /* [n_rows][n_heads][head_dim]; becomes g */
    float *b;             /* [n_rows][n_heads]; becomes beta */
    const float *a_log;   /* [n_heads] */
    const float *dt_bias; /* [n_heads][head_dim] */
    uint32_t n_rows;
    uint32_t n_heads;
    uint32_t head_dim;
    tarnk_gate_kind gate_kind;
    float lower_bound; /* BOUNDED: below 0 */
} tarnk_kda_gate_args;

/* The recurrence, token by token, state S [n_heads][K][V] fp32 at state_offset of the slot:
 *   S <- diag(exp g) S;  u = beta (v - k^T S);  S <- S + k u^T;  o = q^T S. */
typedef struct tarnk_kda_args {
    const float *q;    /* [n_rows][n_heads][k_dim], normalised and scaled */
    const float *k;    /* [n_rows][n_heads][k_dim], normalised */
    const float *v;    /* [n_rows][n_heads][v_dim] */
    const float *g;    /* [n_rows][n_heads][k_dim], nats */
    const float *beta; /* [n_rows][n_heads] */
    float *out;        /* [n_rows][n_heads][v_dim]; may be v */
    const tarnk_seq *seqs;
    uint32_t n_seqs;
    uint32_t n_heads;
    uint32_t k_dim;
    uint32_t v_dim;
    size_t state_offset; /* bytes into the slot, 64-byte aligned */
} tarnk_kda_args;

/* ---- mla ------------------------------------------------------------------------------------ */

/* Writes the latents of this step into their pages: RMS norm with weight over the first `rank`,
 * the last `rope` as they are. A page's part at latent_offset is [64][rank + rope], latent_dtype.
 */
typedef struct tarnk_mla_latent_args {
    const float *kv;     /* [n_rows][rank + rope] */
    const float *weight; /* [rank] */
    const tarnk_seq *seqs;
    uint32_t n_seqs;
    uint32_t rank;
    uint32_t rope;
    float eps;
    size_t latent_offset; /* bytes into the page */
    tarnk_dtype latent_dtype;
} tarnk_mla_latent_args;

/* Causal attention over the latents in the absorbed form, no positions:
 *   qa_h = Wk_h^T q_h[:nope];  score = (qa_h . c + q_h[nope:] . p) (nope + rope)^-0.5 over the keys
 *   c|p up to the row's own;  o_h = Wv_h sum softmax(score) c.
 * kv_b is [n_heads][nope + v_dim][rank]: Wk_h its first nope rows, Wv_h the v_dim after. Keys are
 * visited in blocks of 64 aligned to absolute position, with a running maximum. Rows of a page
 * beyond the own position are never read. */
typedef struct tarnk_mla_args {
    const float *q; /* [n_rows][n_heads][nope + rope] */
    tarnk_matrix kv_b;
    float *out; /* [n_rows][n_heads][v_dim] */
    const tarnk_seq *seqs;
    uint32_t n_seqs;
    uint32_t n_rows;
    uint32_t n_heads;
    uint32_t nope;
    uint32_t rope;
    uint32_t v_dim;
    uint32_t rank;
    size_t latent_offset;
    tarnk_dtype latent_dtype;
    bool round;       /* out is rounded to bf16 */
    float *workspace; /* tarnk_mla_workspace floats */
} tarnk_mla_args;

/* ---- moe ------------------------------------------------------------------------------------ */

typedef enum tarnk_router_kind {
    TARNK_ROUTER_SIGMOID = 0,
    TARNK_ROUTER_SOFTMAX = 1
} tarnk_router_kind;

/* score = sigmoid(logits) (or softmax); the top_k of score + bias are chosen, equal ones by lowest
 * index; weights are the unbiased scores, over their sum + 1e-20 if renormalize, times scale.
 * With n_groups > 1 only the groups_kept groups with the best sum of two highest choice scores
 * take part. Experts of a row are listed by ascending index. */
typedef struct tarnk_moe_route_args {
    const float *logits; /* [n_rows][n_experts] */
    const float *bias;   /* [n_experts] */
    uint32_t *experts;   /* [n_rows][top_k] out */
    float *weights;      /* [n_rows][top_k] out */
    uint32_t n_rows;
    uint32_t n_experts; /* at most TARNK_EXPERTS_MAX */
    uint32_t top_k;
    uint32_t n_groups;
    uint32_t groups_kept;
    tarnk_router_kind kind;
    bool renormalize;
    float scale;
} tarnk_moe_route_args;

#define TARNK_EXPERTS_MAX 4096

/* out += sum over the chosen experts, by ascending index, of weight * w2(silu(w1 x) * w3 x).
 * Rows are grouped by expert so that each expert's weights are read once. */
typedef struct tarnk_moe_args {
    const float *x;          /* [n_rows][n] */
    const tarnk_matrix *w1;  /* [n_experts], each [width][n] */
    const tarnk_matrix *w3;  /* [n_experts], each [width][n] */
    const tarnk_matrix *w2;  /* [n_experts], each [n][width] */
    const uint32_t *experts; /* [n_rows][top_k] ascending in a row */
    const float *weights;    /* [n_rows][top_k] */
    float *out;              /* [n_rows][n], added to */
    uint32_t n_rows;
    uint32_t n;
    uint32_t width;
    uint32_t n_experts;
    uint32_t top_k;
    bool round;      /* the product before w2 is rounded to bf16 */
    void *workspace; /* tarnk_moe_workspace bytes, 64-byte aligned */
} tarnk_moe_args;

/* ---- the table ------------------------------------------------------------------------------ */

/* Every function returns 0, or on a device the device's error number. Work is cut over
 * context->run; a function returns when its outputs are written (CUDA: enqueued). */
typedef struct tarnk_ops {
    const char *name;     /* "cpu-avx512", for people */
    const char *numerics; /* tables with the same text give the same bits */
    int (*embed)(const tarnk_embed_args *, const tarnk_context *);
    int (*silu_mul)(const tarnk_silu_mul_args *, const tarnk_context *);
    int (*norm_rms)(const tarnk_norm_rms_args *, const tarnk_context *);
    int (*norm_gated)(const tarnk_norm_gated_args *, const tarnk_context *);
    /* n_parts products in one go, such as all projections of one normed input. */
    int (*matmul)(const tarnk_matmul_args *parts, uint32_t n_parts, const tarnk_context *);
    int (*conv1d)(const tarnk_conv1d_args *, const tarnk_context *);
    int (*kda_gate)(const tarnk_kda_gate_args *, const tarnk_context *);
    int (*kda)(const tarnk_kda_args *, const tarnk_context *);
    int (*mla_latent)(const tarnk_mla_latent_args *, const tarnk_context *);
    int (*mla)(const tarnk_mla_args *, const tarnk_context *);
    int (*moe_route)(const tarnk_moe_route_args *, const tarnk_context *);
    int (*moe)(const tarnk_moe_args *, const tarnk_context *);
} tarnk_ops;

/* Workspace of one call with up to n_rows rows; grows with n_rows, never with context length. */
size_t tarnk_mla_workspace(uint32_t n_rows, uint32_t n_heads, uint32_t nope, uint32_t rope,
                           uint32_t v_dim, uint32_t rank); /* floats */
size_t tarnk_moe_workspace(uint32_t n_rows, uint32_t n, uint32_t width, uint32_t n_experts,
                           uint32_t top_k); /* bytes */

typedef enum tarnk_isa {
    TARNK_ISA_BEST = 0,    /* the best this processor has */
    TARNK_ISA_GENERIC = 1, /* plain C, any processor */
    TARNK_ISA_AVX2 = 2,    /* AVX2 + FMA */
    TARNK_ISA_AVX512 = 3   /* AVX-512 F, BW, DQ, VL */
} tarnk_isa;

/* The CPU's table; NULL where the processor lacks the ISA. AVX2 and AVX512 give the same bits. */
const tarnk_ops *tarnk_cpu_ops(tarnk_isa isa);

#endif
