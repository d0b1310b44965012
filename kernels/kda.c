/* kda.c - the recurrence; see tarnk_kda_args in kda.h.
 *
 * Columns of the state never meet, so a task is some columns of one head of one session, and within
 * it COLS columns at a time stay in the first-level cache. Tokens are taken in chunks whose decay
 * factors exp(g), times k too, are computed once on the stack for all columns of the task.
 *
 * Reading a token's u needs all of k^T S before S can be updated, which would be two passes over S.
 * The update pass of token t therefore already sums the k^T S of token t + 1 from the values it is
 * about to store; only the first token of a chunk has a pass of its own. The sums see the same
 * values in the same order either way, so chunks do not show in the bits. The first update of a
 * step reads state_read and writes state_write: no copy is made.
 *
 * The pass of a chunk's last token asks for the state that comes next, so that memory does not rest
 * while the update computes: 37 -> 41 GB/s read and written where 16 sessions decode, in huge pages
 * 40 -> 45 (Zen 4, two cores, states out of cache).
 *
 * Rejected: o = (q exp g)^T S + (q . k) u, which needs S once less: it subtracts large terms where
 * the update cancels. The chunked (matrix) form of the literature: other bits for every cut. */
#include "kda.h"

#include "isa.h"
#include "simd.h"

#if defined(__AVX512F__)
#    define VECS 2 /* 8 sums, and u, in registers */
#else
#    define VECS 1
#endif
#define COLS         (VECS * SIMD_LANES)
#define CHUNK_FLOATS TARNK_KDA_K_MAX
#define CHUNK_TOKENS 16

/* A chunk of one head's tokens. */
typedef struct kda_chunk {
    uint32_t n_tokens;
    uint32_t k_dim;
    size_t stride_k; /* floats from token to token in q, k */
    size_t stride_v; /* in v, out */
    size_t stride_beta;
    const float *q;
    const float *k;
    const float *v;
    const float *beta;
    float *out;
    float decay[CHUNK_FLOATS];   /* [n_tokens][k_dim]: exp(g) */
    float k_decay[CHUNK_FLOATS]; /* k exp(g) */
} kda_chunk;

/* Even and odd channels are summed apart: two chains a vector keep the multiplier busy. */
typedef struct kda_sums {
    v16 part[2][VECS];
} kda_sums;

SIMD_INLINE void sums_clear(kda_sums *s, const int n_vecs)
{
    SIMD_UNROLL
    for (int v = 0; v < n_vecs; v++)
        s->part[0][v] = s->part[1][v] = v16_set1(0.0F);
}

/* k^T exp(g) S over a pass of its own. */
SIMD_INLINE void predict(kda_sums *p, const float *k_decay, uint32_t k_dim, const float *state,
                         size_t v_dim, uint32_t lanes, const int n_vecs)
{
    sums_clear(p, n_vecs);
    uint32_t i = 0;
    for (; i + 2 <= k_dim; i += 2) {
        SIMD_UNROLL
        for (int odd = 0; odd < 2; odd++) {
            const float *row = state + (i + (uint32_t)odd) * v_dim;
            v16 ka = v16_set1(k_decay[i + (uint32_t)odd]);
            SIMD_UNROLL
            for (int v = 0; v < n_vecs; v++)
                p->part[odd][v] =
                    v16_fma(ka, v16_load_upto(row + v * SIMD_LANES, lanes), p->part[odd][v]);
        }
    }
    if (i < k_dim) {
        SIMD_UNROLL
        for (int v = 0; v < n_vecs; v++)
            p->part[0][v] =
                v16_fma(v16_set1(k_decay[i]),
                        v16_load_upto(state + i * v_dim + v * SIMD_LANES, lanes), p->part[0][v]);
    }
}

/* One channel of the update: S <- decay S + k u into `to`, o += q S, next += next_k_decay S. */
SIMD_INLINE void update_channel(const float *from, float *to, float decay, float k, float q,
                                const float *next_k_decay, const v16 *u, v16 *o, v16 *next,
                                uint32_t lanes, const int n_vecs)
{
    SIMD_UNROLL
    for (int v = 0; v < n_vecs; v++) {
        v16 s = v16_mul(v16_set1(decay), v16_load_upto(from + v * SIMD_LANES, lanes));
        s = v16_fma(v16_set1(k), u[v], s);
        v16_store_upto(to + v * SIMD_LANES, s, lanes);
        o[v] = v16_fma(v16_set1(q), s, o[v]);
        if (next_k_decay)
            next[v] = v16_fma(v16_set1(*next_k_decay), s, next[v]);
    }
}

/* Two rows of n_vecs vectors. They may lie behind the last state: an address that is only asked for
 * is never read. */
SIMD_INLINE void ask_for(const float *rows, size_t v_dim, const int n_vecs)
{
    SIMD_UNROLL
    for (int v = 0; v < n_vecs; v++) {
        __builtin_prefetch(rows + v * SIMD_LANES);
        __builtin_prefetch(rows + v_dim + v * SIMD_LANES);
    }
}

/* The pass of token t. With `has_next`, p becomes the prediction for token t + 1; without, what
 * lies at `after` is asked for. */
SIMD_INLINE void update(const kda_chunk *c, uint32_t t, kda_sums *p, const float *from, float *to,
                        const float *after, size_t v_dim, size_t col, uint32_t lanes,
                        const int n_vecs, const int has_next)
{
    const uint32_t k_dim = c->k_dim;
    const float *q = c->q + t * c->stride_k, *k = c->k + t * c->stride_k;
    const float *decay = c->decay + t * k_dim;
    const float *next = c->k_decay + (t + 1) * k_dim;
    v16 u[VECS];
    kda_sums o, n;
    SIMD_UNROLL
    for (int v = 0; v < n_vecs; v++) {
        v16 want = v16_load_upto(c->v + t * c->stride_v + col + v * SIMD_LANES, lanes);
        u[v] = v16_mul(v16_set1(c->beta[t * c->stride_beta]),
                       v16_sub(want, v16_add(p->part[0][v], p->part[1][v])));
    }
    sums_clear(&o, n_vecs);
    sums_clear(&n, n_vecs);
    uint32_t i = 0;
    for (; i + 2 <= k_dim; i += 2) {
        if (!has_next)
            ask_for(after + i * v_dim, v_dim, n_vecs);
        SIMD_UNROLL
        for (uint32_t odd = 0; odd < 2; odd++)
            update_channel(from + (i + odd) * v_dim, to + (i + odd) * v_dim, decay[i + odd],
                           k[i + odd], q[i + odd], has_next ? next + i + odd : NULL, u, o.part[odd],
                           n.part[odd], lanes, n_vecs);
    }
    if (i < k_dim)
        update_channel(from + i * v_dim, to + i * v_dim, decay[i], k[i], q[i],
                       has_next ? next + i : NULL, u, o.part[0], n.part[0], lanes, n_vecs);
    SIMD_UNROLL
    for (int v = 0; v < n_vecs; v++)
        v16_store_upto(c->out + t * c->stride_v + col + v * SIMD_LANES,
                       v16_add(o.part[0][v], o.part[1][v]), lanes);
    if (has_next)
        *p = n;
}

/* A chunk for n_vecs vectors of columns at `col`; `lanes` counts in each. The columns that come
 * next are those behind, or those of the next head. */
SIMD_INLINE void run_columns(const kda_chunk *c, const float *from, float *to, size_t v_dim,
                             size_t col, uint32_t lanes, const int n_vecs)
{
    kda_sums p;
    const size_t end = col + (size_t)n_vecs * SIMD_LANES;
    const float *after = from + (end < v_dim ? end : c->k_dim * v_dim);
    from += col;
    to += col;
    predict(&p, c->k_decay, c->k_dim, from, v_dim, lanes, n_vecs);
    for (uint32_t t = 0; t + 1 < c->n_tokens; t++, from = to)
        update(c, t, &p, from, to, after, v_dim, col, lanes, n_vecs, 1);
    update(c, c->n_tokens - 1, &p, from, to, after, v_dim, col, lanes, n_vecs, 0);
}

static void run_chunk(const kda_chunk *c, const float *from, float *to, uint32_t v_dim,
                      uint32_t col, uint32_t col_end)
{
    for (; col + COLS <= col_end; col += COLS)
        run_columns(c, from, to, v_dim, col, SIMD_LANES, VECS);
    for (; col + SIMD_LANES <= col_end; col += SIMD_LANES)
        run_columns(c, from, to, v_dim, col, SIMD_LANES, 1);
    if (col < col_end)
        run_columns(c, from, to, v_dim, col, col_end - col, 1);
}

static void chunk_fill(kda_chunk *c, const tarnk_kda_args *a, uint32_t row, uint32_t head,
                       uint32_t n_tokens)
{
    const size_t at = (size_t)row * a->n_heads + head;
    c->n_tokens = n_tokens;
    c->q = a->q + at * a->k_dim;
    c->k = a->k + at * a->k_dim;
    c->v = a->v + at * a->v_dim;
    c->beta = a->beta + at;
    c->out = a->out + at * a->v_dim;
    for (uint32_t t = 0; t < n_tokens; t++) {
        const float *g = a->g + at * a->k_dim + t * c->stride_k;
        for (uint32_t i = 0; i < a->k_dim; i += SIMD_LANES) {
            uint32_t lanes = simd_lanes_left(a->k_dim, i);
            v16 decay = v16_exp(v16_load_upto(g + i, lanes));
            v16 k = v16_load_upto(c->k + t * c->stride_k + i, lanes);
            v16_store_upto(c->decay + t * a->k_dim + i, decay, lanes);
            v16_store_upto(c->k_decay + t * a->k_dim + i, v16_mul(k, decay), lanes);
        }
    }
}

typedef struct kda_job {
    const tarnk_kda_args *args;
    uint32_t cols; /* of a task */
} kda_job;

static void kda_task(void *arg, uint32_t task_idx)
{
    const kda_job *job = arg;
    const tarnk_kda_args *a = job->args;
    const uint32_t pieces = div_up(a->v_dim, job->cols);
    const uint32_t col = task_idx % pieces * job->cols;
    const uint32_t col_end = min_u32(col + job->cols, a->v_dim);
    const uint32_t head = task_idx / pieces % a->n_heads;
    const tarnk_seq *seq = &a->seqs[task_idx / pieces / a->n_heads];
    const size_t state = (size_t)head * a->k_dim * a->v_dim;
    const float *from = (const float *)(const void *)(seq->state_read + a->state_offset) + state;
    float *to = (float *)(void *)(seq->state_write + a->state_offset) + state;
    const uint32_t tokens = min_u32(CHUNK_TOKENS, CHUNK_FLOATS / a->k_dim);

    kda_chunk c;
    c.k_dim = a->k_dim;
    c.stride_k = (size_t)a->n_heads * a->k_dim;
    c.stride_v = (size_t)a->n_heads * a->v_dim;
    c.stride_beta = a->n_heads;
    for (uint32_t r = 0; r < seq->n_rows; r += tokens, from = to) {
        chunk_fill(&c, a, seq->row_begin + r, head, min_u32(tokens, seq->n_rows - r));
        run_chunk(&c, from, to, a->v_dim, col, col_end);
    }
}

int TARNK(kda)(const tarnk_kda_args *args, const tarnk_context *context)
{
    kda_job job = {args, piece_size(context, args->v_dim, args->n_seqs * args->n_heads, COLS,
                                    (args->v_dim + COLS - 1) / COLS * COLS)};
    context->run(context->pool, args->n_seqs * args->n_heads * div_up(args->v_dim, job.cols),
                 kda_task, &job);
    return 0;
}
