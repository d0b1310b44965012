/* kda_chunk.cu - the recurrence of kda.h for whole chunks of 64 tokens, on tensor cores.
 *
 * Per head and chunk, with G the running sum of g log2(e) from the chunk's start, row by row:
 *   A[r][s] = beta_r sum_d k_r k_s 2^(G_r - G_s), s < r      P[r][s] = sum_d q_r k_s 2^(G_r - G_s)
 *   M = (I + A)^-1     W = M (beta k 2^G)     U = M (beta v)
 *   v' = U - W S       o = (q 2^G) S + P v'   S <- 2^G_last S + (k 2^(G_last - G))^T v'
 *
 * prepare (a block a chunk and head) makes W, U, P, q 2^G, k 2^(G_last - G) and 2^G_last, which
 * depend on no state; pass (a block a head and 32 columns of V) walks the chunks in order with its
 * part of S in fp32 registers. Columns of V never meet, so cutting them is exact.
 *
 * No exponent is positive, whatever the gate: of a 16 x 16 block below the diagonal blocks both
 * factors are anchored at the row block's first row; on the diagonal blocks 2^(G_r - G_s) is taken
 * pair by pair and channel by channel in fp32. M comes by forward substitution in fp32, 16 rows at
 * a time, and block by block from there; a Neumann series would cancel where keys are alike.
 * Rounded to bf16: q, k, v, what the products read, and S as an operand; S itself never.
 *
 * A row that is not there has beta 0, g 0, k, q, v 0 and leaves all as it is. Chunks count from the
 * start of the append. Appends are taken in segments of as many chunks as the workspace holds; the
 * state goes through its slot between them.
 *
 * Bytes: prepare reads 20 a channel and token and writes 74,240 a chunk and head, which pass reads
 * 4 times from the second-level cache (60 KB each); state 8 K V a segment. FLOPs: about 110,000 a
 * token and head. Shared: prepare 99 KB; pass 146 KB with two stages, 80 KB with one. Registers: at
 * most 168. */
#include "kda_chunk.cuh"

#define CHUNK           64u
#define DIM             128u /* K and V of a head */
#define SUB             16u
#define SLICE           32u /* columns of V of a block of pass */
#define PREPARE_THREADS 256u
#define PASS_THREADS    128u
#define LOG2_E          1.44269504088896340736f

/* 2^-160 is 0 in fp32: a channel forgets all of it. Sums of less would only lose digits. */
#define FORGOTTEN (-160.0f)

#define G_STRIDE     (DIM + 2u) /* floats; beta of the row is in the first of the two behind */
#define X_STRIDE     (DIM + 8u) /* bf16 */
#define A_STRIDE     (CHUNK + 1u)
#define M_STRIDE     (CHUNK + 8u)
#define V_STRIDE     (SLICE + 8u)
#define DIAG_TILES   36u /* of 2 x 2 on and below the diagonal of a 16 x 16 block */
#define DIAG_THREADS (4 * DIAG_TILES)

/* What prepare leaves of a chunk and head, in bf16 but for the last. */
struct chunk_record {
    uint16_t w[CHUNK * DIM];
    uint16_t q[CHUNK * DIM];
    uint16_t k[CHUNK * DIM];
    uint16_t u[CHUNK * DIM];
    uint16_t p[CHUNK * CHUNK];
    float decay[DIM];
};
static_assert(sizeof(chunk_record) == 74240, "the workspace is counted in these");

struct chunk_segment {
    chunk_record *records;    /* [long sequences][n_chunks][n_heads] */
    uint32_t chunk, n_chunks; /* first one, and how many, of each sequence */
    const tarnk_export *exports;
    uint32_t n_exports;
};

/* The i-th sequence that is long enough; n_seqs if there are not so many. */
TARNK_DEVICE uint32_t long_seq(const tarnk_kda_args &a, uint32_t i)
{
    for (uint32_t s = 0; s < a.n_seqs; s++)
        if (a.seqs[s].n_rows >= TARNK_KDA_CHUNK_MIN && i-- == 0)
            return s;
    return a.n_seqs;
}

/* ---- prepare --------------------------------------------------------------------------------- */

struct prepare_shared {
    float g[CHUNK * G_STRIDE];
    uint16_t q[CHUNK * X_STRIDE]; /* later the block sums of the inverse, then operands */
    uint16_t k[CHUNK * X_STRIDE];
    float a[CHUNK * A_STRIDE]; /* later M as bf16 */
    float m[CHUNK * A_STRIDE];
};
static_assert(sizeof(prepare_shared) <= 99 * 1024, "a block of 8.9 has no more");

struct chunk_place {
    size_t token;  /* of row 0: index of its head's vectors */
    size_t stride; /* from row to row: heads */
    uint32_t n_rows;
};

TARNK_DEVICE void load_chunk(const tarnk_kda_args &a, const chunk_place &c, prepare_shared *s)
{
    for (uint32_t i = threadIdx.x; i < CHUNK * DIM; i += PREPARE_THREADS) {
        const uint32_t r = i / DIM, d = i % DIM;
        const size_t at = (c.token + r * c.stride) * DIM + d;
        const bool there = r < c.n_rows;
        s->g[r * G_STRIDE + d] = there ? fmaxf(a.g[at] * LOG2_E, FORGOTTEN) : 0.0f;
        s->q[r * X_STRIDE + d] = there ? static_cast<uint16_t>(bf16_bits(a.q[at])) : uint16_t(0);
        s->k[r * X_STRIDE + d] = there ? static_cast<uint16_t>(bf16_bits(a.k[at])) : uint16_t(0);
    }
    if (threadIdx.x < CHUNK)
        s->g[threadIdx.x * G_STRIDE + DIM] =
            threadIdx.x < c.n_rows ? a.beta[c.token + threadIdx.x * c.stride] : 0.0f;
    __syncthreads();
    if (threadIdx.x < DIM) {
        float sum = 0;
        for (uint32_t r = 0; r < CHUNK; r++) {
            sum += s->g[r * G_STRIDE + threadIdx.x];
            s->g[r * G_STRIDE + threadIdx.x] = sum;
        }
    }
    __syncthreads();
}

TARNK_DEVICE void put_pair(prepare_shared *s, chunk_record *out, uint32_t r, uint32_t c, float a,
                           float p)
{
    s->a[r * A_STRIDE + c] = c < r ? s->g[r * G_STRIDE + DIM] * a : 0.0f;
    out->p[r * CHUNK + c] = static_cast<uint16_t>(bf16_bits(c <= r ? p : 0.0f));
}

TARNK_DEVICE uint32_t pair_at(const uint16_t *x, uint32_t row, uint32_t d)
{
    return *reinterpret_cast<const uint32_t *>(x + row * X_STRIDE + d);
}

TARNK_DEVICE float2 g_at(const prepare_shared *s, uint32_t row, uint32_t d)
{
    return *reinterpret_cast<const float2 *>(s->g + row * G_STRIDE + d);
}

/* Two rows times two columns of a diagonal block, exactly. */
TARNK_DEVICE void diagonal_tile(prepare_shared *s, chunk_record *out)
{
    const uint32_t block = threadIdx.x / DIAG_TILES, tile = threadIdx.x % DIAG_TILES;
    uint32_t y = 0;
    while ((y + 1) * (y + 2) / 2 <= tile)
        y++;
    const uint32_t x = tile - y * (y + 1) / 2;
    const uint32_t r = block * SUB + 2 * y, c = block * SUB + 2 * x;
    float a[2][2] = {}, p[2][2] = {};
#pragma unroll 2
    for (uint32_t d = 0; d < DIM; d += 2) {
        float2 gr[2], gc[2];
        uint32_t kr[2], kc[2], qr[2];
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            gr[i] = g_at(s, r + i, d);
            gc[i] = g_at(s, c + i, d);
            kr[i] = pair_at(s->k, r + i, d);
            kc[i] = pair_at(s->k, c + i, d);
            qr[i] = pair_at(s->q, r + i, d);
        }
#pragma unroll
        for (uint32_t i = 0; i < 2; i++)
#pragma unroll
            for (uint32_t j = 0; j < 2; j++) {
                /* Above the diagonal the exponent would be positive; what comes of it is dropped.
                 */
                const float low = bf16_low(kc[j]) * exp2_fast(fminf(gr[i].x - gc[j].x, 0.0f));
                const float high = bf16_high(kc[j]) * exp2_fast(fminf(gr[i].y - gc[j].y, 0.0f));
                a[i][j] = fmaf(bf16_low(kr[i]), low, fmaf(bf16_high(kr[i]), high, a[i][j]));
                p[i][j] = fmaf(bf16_low(qr[i]), low, fmaf(bf16_high(qr[i]), high, p[i][j]));
            }
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; i++)
#pragma unroll
        for (uint32_t j = 0; j < 2; j++)
            put_pair(s, out, r + i, c + j, a[i][j], p[i][j]);
}

TARNK_DEVICE uint32_t scaled_pair(uint32_t pair, const float2 &over, const float2 &under)
{
    return bf16_pack(bf16_low(pair) * exp2_fast(over.x - under.x),
                     bf16_high(pair) * exp2_fast(over.y - under.y));
}

/* Block (i, j), i > j, by one warp; both factors are anchored at the first row of i. */
TARNK_DEVICE void lower_block(prepare_shared *s, chunk_record *out, uint32_t i, uint32_t j)
{
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, first = i * SUB;
    float a[2][4] = {}, p[2][4] = {};
#pragma unroll 1
    for (uint32_t d0 = 0; d0 < DIM; d0 += 16) {
        uint32_t left_k[4], left_q[4], right[2][2];
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t d = d0 + half * 8 + 2 * t;
            const float2 anchor = g_at(s, first, d);
#pragma unroll
            for (uint32_t h = 0; h < 2; h++) {
                const uint32_t row = first + g + h * 8, column = j * SUB + h * 8 + g;
                const float2 own = g_at(s, row, d);
                left_k[half * 2 + h] = scaled_pair(pair_at(s->k, row, d), own, anchor);
                left_q[half * 2 + h] = scaled_pair(pair_at(s->q, row, d), own, anchor);
                right[h][half] = scaled_pair(pair_at(s->k, column, d), anchor, g_at(s, column, d));
            }
        }
#pragma unroll
        for (uint32_t n = 0; n < 2; n++) {
            mma_bf16(a[n], left_k, right[n]);
            mma_bf16(p[n], left_q, right[n]);
        }
    }
#pragma unroll
    for (uint32_t n = 0; n < 2; n++)
#pragma unroll
        for (uint32_t c = 0; c < 4; c++)
            put_pair(s, out, first + g + c / 2 * 8, j * SUB + n * 8 + 2 * t + c % 2, a[n][c],
                     p[n][c]);
}

/* A and P: diagonal blocks by the first threads, the six others by the last three warps. */
TARNK_DEVICE void make_pairs(prepare_shared *s, chunk_record *out)
{
    const uint32_t warp = threadIdx.x / 32;
    if (threadIdx.x < DIAG_THREADS) {
        diagonal_tile(s, out);
    } else if (warp >= 5) {
        lower_block(s, out, warp - 4, 0);                          /* (1,0) (2,0) (3,0) */
        lower_block(s, out, warp == 5 ? 2 : 3, warp == 7 ? 2 : 1); /* (2,1) (3,1) (3,2) */
    }
    for (uint32_t i = threadIdx.x; i < CHUNK * CHUNK; i += PREPARE_THREADS) {
        const uint32_t r = i / CHUNK, c = i % CHUNK;
        if (c / 2 > r / 2 && c / SUB == r / SUB)
            put_pair(s, out, r, c, 0, 0);
        else if (c / SUB > r / SUB)
            out->p[i] = 0;
    }
    __syncthreads();
}

/* q 2^G, k 2^(G_last - G), 2^G_last. */
TARNK_DEVICE void put_decayed(const prepare_shared *s, chunk_record *out)
{
    for (uint32_t i = threadIdx.x; i < CHUNK * DIM / 2; i += PREPARE_THREADS) {
        const uint32_t r = i / (DIM / 2), d = i % (DIM / 2) * 2;
        const float2 g = g_at(s, r, d), last = g_at(s, CHUNK - 1, d);
        const float2 zero = make_float2(0, 0);
        *reinterpret_cast<uint32_t *>(out->q + r * DIM + d) =
            scaled_pair(pair_at(s->q, r, d), g, zero);
        *reinterpret_cast<uint32_t *>(out->k + r * DIM + d) =
            scaled_pair(pair_at(s->k, r, d), last, g);
    }
    if (threadIdx.x < DIM)
        out->decay[threadIdx.x] = exp2_fast(s->g[(CHUNK - 1) * G_STRIDE + threadIdx.x]);
    __syncthreads();
}

/* m = (I + a)^-1. */
TARNK_DEVICE void invert(prepare_shared *s)
{
    auto *work = reinterpret_cast<float *>(s->q); /* [SUB][SUB + 1] */
    for (uint32_t i = threadIdx.x; i < CHUNK * CHUNK; i += PREPARE_THREADS)
        if (i / CHUNK / SUB != i % CHUNK / SUB)
            s->m[i / CHUNK * A_STRIDE + i % CHUNK] = 0;
    if (threadIdx.x < CHUNK) { /* a thread a column of a diagonal block */
        const uint32_t first = threadIdx.x / SUB * SUB, c = threadIdx.x % SUB;
        float column[SUB];
#pragma unroll
        for (uint32_t r = 0; r < SUB; r++) {
            float sum = r == c ? 1.0f : 0.0f;
#pragma unroll
            for (uint32_t k = 0; k < r; k++)
                sum = fmaf(-s->a[(first + r) * A_STRIDE + first + k], column[k], sum);
            column[r] = sum;
            s->m[(first + r) * A_STRIDE + first + c] = sum;
        }
    }
    __syncthreads();
    const uint32_t r = threadIdx.x / SUB, c = threadIdx.x % SUB;
    for (uint32_t apart = 1; apart < CHUNK / SUB; apart++)
        for (uint32_t j = 0; j + apart < CHUNK / SUB; j++) {
            const uint32_t row = (j + apart) * SUB, column = j * SUB;
            float sum = 0;
            for (uint32_t k = column; k < row; k++)
                sum = fmaf(s->a[(row + r) * A_STRIDE + k], s->m[k * A_STRIDE + column + c], sum);
            work[r * (SUB + 1) + c] = sum;
            __syncthreads();
            sum = 0;
#pragma unroll
            for (uint32_t k = 0; k < SUB; k++)
                sum = fmaf(-s->m[(row + r) * A_STRIDE + row + k], work[k * (SUB + 1) + c], sum);
            s->m[(row + r) * A_STRIDE + column + c] = sum;
            __syncthreads();
        }
    auto *narrow = reinterpret_cast<uint16_t *>(s->a);
    for (uint32_t i = threadIdx.x; i < CHUNK * CHUNK; i += PREPARE_THREADS)
        narrow[i / CHUNK * M_STRIDE + i % CHUNK] =
            static_cast<uint16_t>(bf16_bits(s->m[i / CHUNK * A_STRIDE + i % CHUNK]));
    __syncthreads();
}

/* out [64][128] = M x, x in shared memory as q was. */
TARNK_DEVICE void times_inverse(const prepare_shared *s, uint16_t *out)
{
    const auto *m = reinterpret_cast<const uint16_t *>(s->a);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t row = warp % 4 * 16, column = warp / 4 * 64;
    float acc[8][4] = {};
#pragma unroll
    for (uint32_t k = 0; k < CHUNK; k += 16) {
        uint32_t a[4];
        load_tiles<false>(a, m + (row + lane % 16) * M_STRIDE + k + lane / 16 * 8);
#pragma unroll
        for (uint32_t n = 0; n < 8; n += 2) {
            uint32_t b[4];
            load_tiles<true>(b, s->q + (k + lane % 16) * X_STRIDE + column + n * 8 + lane / 16 * 8);
            mma_bf16(acc[n], a, b);
            mma_bf16(acc[n + 1], a, b + 2);
        }
    }
#pragma unroll
    for (uint32_t n = 0; n < 8; n++)
#pragma unroll
        for (uint32_t h = 0; h < 2; h++)
            *reinterpret_cast<uint32_t *>(out + (row + lane / 4 + h * 8) * DIM + column + n * 8 +
                                          lane % 4 * 2) =
                bf16_pack(acc[n][2 * h], acc[n][2 * h + 1]);
    __syncthreads();
}

static __global__ void __launch_bounds__(PREPARE_THREADS)
    kda_prepare_kernel(tarnk_kda_args a, chunk_segment segment)
{
    auto *s = reinterpret_cast<prepare_shared *>(shared_bytes());
    const uint32_t head = blockIdx.y, chunk = segment.chunk + blockIdx.x;
    previous_wait();
    next_start();
    const uint32_t idx = long_seq(a, blockIdx.z);
    if (idx == a.n_seqs || chunk * CHUNK >= a.seqs[idx].n_rows)
        return;
    chunk_place c;
    c.token = (a.seqs[idx].row_begin + static_cast<size_t>(chunk) * CHUNK) * a.n_heads + head;
    c.stride = a.n_heads;
    c.n_rows = min_u32(CHUNK, a.seqs[idx].n_rows - chunk * CHUNK);
    chunk_record *out =
        segment.records +
        (static_cast<size_t>(blockIdx.z) * segment.n_chunks + blockIdx.x) * a.n_heads + head;
    load_chunk(a, c, s);
    make_pairs(s, out);
    put_decayed(s, out);
    invert(s);
    for (uint32_t i = threadIdx.x; i < CHUNK * DIM; i += PREPARE_THREADS) {
        const uint32_t r = i / DIM, d = i % DIM;
        const float *g = s->g + r * G_STRIDE;
        s->q[r * X_STRIDE + d] = static_cast<uint16_t>(
            bf16_bits(g[DIM] * bf16_wide(s->k[r * X_STRIDE + d]) * exp2_fast(g[d])));
    }
    __syncthreads();
    times_inverse(s, out->w);
    for (uint32_t i = threadIdx.x; i < CHUNK * DIM; i += PREPARE_THREADS) {
        const uint32_t r = i / DIM, d = i % DIM;
        const float v = r < c.n_rows ? a.v[(c.token + r * c.stride) * DIM + d] : 0.0f;
        s->q[r * X_STRIDE + d] = static_cast<uint16_t>(bf16_bits(s->g[r * G_STRIDE + DIM] * v));
    }
    __syncthreads();
    times_inverse(s, out->u);
}

/* ---- pass ------------------------------------------------------------------------------------ */

struct pass_stage {
    uint16_t w[CHUNK * X_STRIDE];
    uint16_t q[CHUNK * X_STRIDE];
    uint16_t k[CHUNK * X_STRIDE];
    uint16_t p[CHUNK * M_STRIDE];
    uint16_t u[CHUNK * V_STRIDE];
    float decay[DIM];
};

template <int STAGES> struct pass_shared {
    pass_stage stage[STAGES];
    uint16_t state[DIM * V_STRIDE]; /* S as an operand */
    uint16_t v[CHUNK * V_STRIDE];   /* v' */
};
static_assert(sizeof(pass_shared<2>) <= 163 * 1024, "a block of 8.0 has no more");
static_assert(sizeof(pass_shared<1>) <= 99 * 1024, "a block of 8.9 has no more");

/* Rows of `from` (n_from long) to rows of `to` (stride apart), n_columns of each, by 8. */
TARNK_DEVICE void fetch_rows(uint16_t *to, uint32_t stride, const uint16_t *from, uint32_t n_from,
                             uint32_t n_rows, uint32_t n_columns)
{
    const uint32_t eights = n_columns / 8;
    for (uint32_t i = threadIdx.x; i < n_rows * eights; i += PASS_THREADS)
        copy_async16(to + i / eights * stride + i % eights * 8,
                     from + i / eights * n_from + i % eights * 8, true);
}

TARNK_DEVICE void fetch_record(pass_stage *to, const chunk_record *from, uint32_t slice)
{
    if (from) {
        fetch_rows(to->w, X_STRIDE, from->w, DIM, CHUNK, DIM);
        fetch_rows(to->q, X_STRIDE, from->q, DIM, CHUNK, DIM);
        fetch_rows(to->k, X_STRIDE, from->k, DIM, CHUNK, DIM);
        fetch_rows(to->p, M_STRIDE, from->p, CHUNK, CHUNK, CHUNK);
        fetch_rows(to->u, V_STRIDE, from->u + slice * SLICE, DIM, CHUNK, SLICE);
        for (uint32_t i = threadIdx.x; i < DIM / 4; i += PASS_THREADS)
            copy_async16(to->decay + i * 4, from->decay + i * 4, true);
    }
    copy_commit();
}

/* d [16][32] += a x, a: 16 rows of 16 n_steps columns at `a_row`, x [16 n_steps][32]. */
TARNK_DEVICE void times_slice(float d[4][4], const uint16_t *a_row, uint32_t a_stride,
                              const uint16_t *x, uint32_t n_steps, uint32_t lane)
{
#pragma unroll 4
    for (uint32_t k = 0; k < n_steps; k++) {
        uint32_t a[4];
        load_tiles<false>(a, a_row + lane % 16 * a_stride + k * 16 + lane / 16 * 8);
#pragma unroll
        for (uint32_t n = 0; n < 4; n += 2) {
            uint32_t b[4];
            load_tiles<true>(b, x + (k * 16 + lane % 16) * V_STRIDE + n * 8 + lane / 16 * 8);
            mma_bf16(d[n], a, b);
            mma_bf16(d[n + 1], a, b + 2);
        }
    }
}

/* Element i of the thread's part of S: channel and column within the slice. */
TARNK_DEVICE uint32_t state_channel(uint32_t m, uint32_t c)
{
    return threadIdx.x / 32 * 32 + m * 16 + threadIdx.x % 32 / 4 + c / 2 * 8;
}

TARNK_DEVICE uint32_t state_column(uint32_t n, uint32_t c)
{
    return n * 8 + threadIdx.x % 4 * 2 + c % 2;
}

TARNK_DEVICE void store_state(const float s[2][4][4], float *to)
{
#pragma unroll
    for (uint32_t m = 0; m < 2; m++)
#pragma unroll
        for (uint32_t n = 0; n < 4; n++)
#pragma unroll
            for (uint32_t c = 0; c < 4; c++)
                to[state_column(n, c) * DIM + state_channel(m, c)] = s[m][n][c];
}

/* One chunk: outputs of its rows, and S goes on. */
template <int STAGES>
TARNK_DEVICE void pass_chunk(float s[2][4][4], pass_shared<STAGES> *shared, const pass_stage *in,
                             float *out, size_t out_stride, uint32_t n_rows)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (uint32_t m = 0; m < 2; m++)
#pragma unroll
        for (uint32_t n = 0; n < 4; n++)
#pragma unroll
            for (uint32_t h = 0; h < 2; h++)
                *reinterpret_cast<uint32_t *>(shared->state + state_channel(m, 2 * h) * V_STRIDE +
                                              state_column(n, 0)) =
                    bf16_pack(s[m][n][2 * h], s[m][n][2 * h + 1]);
    __syncthreads();
    float ws[4][4] = {}, o[4][4] = {};
    times_slice(ws, in->w + warp * 16 * X_STRIDE, X_STRIDE, shared->state, DIM / 16, lane);
    times_slice(o, in->q + warp * 16 * X_STRIDE, X_STRIDE, shared->state, DIM / 16, lane);
#pragma unroll
    for (uint32_t n = 0; n < 4; n++)
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            const uint32_t at = (warp * 16 + g + h * 8) * V_STRIDE + n * 8 + 2 * t;
            const uint32_t u = *reinterpret_cast<const uint32_t *>(in->u + at);
            *reinterpret_cast<uint32_t *>(shared->v + at) =
                bf16_pack(bf16_low(u) - ws[n][2 * h], bf16_high(u) - ws[n][2 * h + 1]);
        }
    __syncthreads();
    times_slice(o, in->p + warp * 16 * M_STRIDE, M_STRIDE, shared->v, warp + 1, lane);
#pragma unroll
    for (uint32_t n = 0; n < 4; n++)
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            const uint32_t row = warp * 16 + g + h * 8;
            if (row < n_rows)
                *reinterpret_cast<float2 *>(out + row * out_stride + n * 8 + 2 * t) =
                    make_float2(o[n][2 * h], o[n][2 * h + 1]);
        }
#pragma unroll
    for (uint32_t m = 0; m < 2; m++)
#pragma unroll
        for (uint32_t c = 0; c < 4; c++) {
            const float decay = in->decay[state_channel(m, c)];
#pragma unroll
            for (uint32_t n = 0; n < 4; n++)
                s[m][n][c] *= decay;
        }
#pragma unroll
    for (uint32_t k = 0; k < CHUNK; k += 16) {
        uint32_t b[2][4];
#pragma unroll
        for (uint32_t n = 0; n < 2; n++)
            load_tiles<true>(b[n], shared->v + (k + lane % 16) * V_STRIDE + n * 16 + lane / 16 * 8);
#pragma unroll
        for (uint32_t m = 0; m < 2; m++) {
            uint32_t a[4];
            load_tiles<true>(a, in->k + (k + lane / 16 * 8 + lane % 8) * X_STRIDE + warp * 32 +
                                    m * 16 + lane / 8 % 2 * 8);
#pragma unroll
            for (uint32_t n = 0; n < 4; n++)
                mma_bf16(s[m][n], a, b[n / 2] + n % 2 * 2);
        }
    }
    __syncthreads(); /* the stage and the operands are free */
}

template <int STAGES>
static __global__ void __launch_bounds__(PASS_THREADS)
    kda_pass_kernel(tarnk_kda_args a, chunk_segment segment)
{
    auto *shared = reinterpret_cast<pass_shared<STAGES> *>(shared_bytes());
    const uint32_t slice = blockIdx.x, head = blockIdx.y;
    previous_wait();
    next_start();
    const uint32_t idx = long_seq(a, blockIdx.z);
    if (idx == a.n_seqs || segment.chunk * CHUNK >= a.seqs[idx].n_rows)
        return;
    const tarnk_seq seq = a.seqs[idx];
    const uint32_t n_chunks =
        min_u32(segment.n_chunks, (seq.n_rows + CHUNK - 1) / CHUNK - segment.chunk);
    const chunk_record *records =
        segment.records + static_cast<size_t>(blockIdx.z) * segment.n_chunks * a.n_heads + head;
    const size_t part = (static_cast<size_t>(head) * DIM + slice * SLICE) * DIM;
    const uint8_t *slot = segment.chunk == 0 ? seq.state_read : seq.state_write;
    const float *from = reinterpret_cast<const float *>(slot + a.state_offset) + part;
    float s[2][4][4];
#pragma unroll
    for (uint32_t m = 0; m < 2; m++)
#pragma unroll
        for (uint32_t n = 0; n < 4; n++)
#pragma unroll
            for (uint32_t c = 0; c < 4; c++)
                s[m][n][c] = from[state_column(n, c) * DIM + state_channel(m, c)];
#pragma unroll
    for (uint32_t i = 0; i + 1 < STAGES; i++)
        fetch_record(&shared->stage[i],
                     i < n_chunks ? records + static_cast<size_t>(i) * a.n_heads : nullptr, slice);
    for (uint32_t i = 0; i < n_chunks; i++) {
        const uint32_t next = i + STAGES - 1, row = (segment.chunk + i) * CHUNK;
        fetch_record(&shared->stage[next % STAGES],
                     next < n_chunks ? records + static_cast<size_t>(next) * a.n_heads : nullptr,
                     slice);
        copy_wait<STAGES - 1>(); /* pass_chunk meets before it reads */
        float *out = a.out + ((seq.row_begin + static_cast<size_t>(row)) * a.n_heads + head) * DIM +
                     slice * SLICE;
        pass_chunk<STAGES>(s, shared, &shared->stage[i % STAGES], out,
                           static_cast<size_t>(a.n_heads) * DIM, min_u32(CHUNK, seq.n_rows - row));
        for (uint32_t e = 0; e < segment.n_exports; e++)
            if (segment.exports[e].seq == idx && segment.exports[e].row == row + CHUNK)
                store_state(s, reinterpret_cast<float *>(segment.exports[e].slot + a.state_offset) +
                                   part);
    }
    copy_wait<0>();
    store_state(s, reinterpret_cast<float *>(seq.state_write + a.state_offset) + part);
}

/* ---- the host's part ------------------------------------------------------------------------- */

bool kda_chunk_can(const tarnk_kda_args *a, const tarnk_cuda *cuda)
{
    return cuda->native && a->k_dim == DIM && a->v_dim == DIM &&
           sizeof(pass_shared<1>) <= cuda->shared_bytes_max &&
           sizeof(prepare_shared) <= cuda->shared_bytes_max;
}

int kda_chunk_run(const tarnk_kda_args *a, const tarnk_context *context)
{
    const tarnk_cuda *cuda = cuda_of(context);
    const uint32_t n_long = min_u32(a->n_seqs, cuda->step.n_rows / TARNK_KDA_CHUNK_MIN);
    const uint32_t n_chunks = div_up(cuda->step.rows_max, CHUNK);
    const size_t room = cuda->workspace_bytes / sizeof(chunk_record) / a->n_heads / n_long;
    if (room == 0)
        return cudaErrorMemoryAllocation;
    chunk_segment segment;
    segment.records = static_cast<chunk_record *>(cuda->workspace);
    segment.n_chunks = room < n_chunks ? static_cast<uint32_t>(room) : n_chunks;
    segment.exports = cuda->step.exports;
    segment.n_exports = cuda->step.n_exports;
    const bool two = sizeof(pass_shared<2>) <= cuda->shared_bytes_max;
    const dim3 grid(DIM / SLICE, a->n_heads, n_long);
    for (segment.chunk = 0; segment.chunk < n_chunks; segment.chunk += segment.n_chunks) {
        TRY_LAUNCH(LAUNCH(kda_prepare_kernel, dim3(segment.n_chunks, a->n_heads, n_long),
                          PREPARE_THREADS, sizeof(prepare_shared), context, *a, segment));
        TRY_LAUNCH(two ? LAUNCH(kda_pass_kernel<2>, grid, PASS_THREADS, sizeof(pass_shared<2>),
                                context, *a, segment)
                       : LAUNCH(kda_pass_kernel<1>, grid, PASS_THREADS, sizeof(pass_shared<1>),
                                context, *a, segment));
    }
    return 0;
}
