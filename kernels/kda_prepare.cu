/* kda_prepare.cu - what the chunk form of the recurrence makes of a chunk before any state is
 * known; the sums are those at the top of kda_chunk.cu.
 *
 * A block is a chunk of a head. No exponent is positive, whatever the gate: of a block below the
 * diagonal blocks both factors are anchored at its first row; on the diagonal 2^(G_r - G_s) is
 * taken pair by pair and channel by channel in fp32, in blocks of 8, as blocks of 16 would double
 * the exponents. M comes by forward substitution in fp32, 16 rows at a time, and block by block
 * from there; a Neumann series would cancel where keys are alike.
 *
 * Bytes: 20 a channel and token read, 74,240 a chunk and head written. FLOPs: about 60,000 a token
 * and head. Shared: 99 KB, two blocks a multiprocessor. Registers: at most 128.
 *
 * What it can reach on an H200, 8192 tokens of 32 heads: 4096 blocks, 31 a multiprocessor. Bytes:
 * 672 MB, 0.16 ms at 4.3 TB/s. A block issues about 21,000 warp instructions for the pairs and
 * 10,000 besides, 4.4 us of its four schedulers; 45,000 exponents are 1.6 us of theirs. What waits
 * for each other in a block - a read of memory, a scan of 64 rows, pairs, 10 barriers of the
 * inverse, two products - takes about 11 us, of which two blocks at a time hide half: 31 * 5.5 us
 * are 0.17 ms. */
#include "kda_chunk.cuh"

#define SUB             16u
#define PREPARE_THREADS 256u
#define VALUE_FOURS     (CHUNK * DIM / 4 / PREPARE_THREADS)
#define LOG2_E          1.44269504088896340736f

/* 2^-160 is 0 in fp32: a channel forgets all of it. Sums of less would only lose digits. */
#define FORGOTTEN (-160.0f)

#define G_STRIDE     (DIM + 2u) /* floats; beta of the row is in the first of the two behind */
#define A_STRIDE     (CHUNK + 1u)
#define EXACT        8u  /* rows of a diagonal block that is taken pair by pair */
#define DIAG_TILES   10u /* of 2 x 2 on and below the diagonal of such a block */
#define DIAG_THREADS (2 * DIAG_TILES * CHUNK / EXACT)
static_assert(DIAG_THREADS == 160, "five whole warps");

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

/* Four consecutive values of row r, or zeros. */
TARNK_DEVICE float4 load_four(const float *x, const chunk_place &c, uint32_t r, uint32_t d)
{
    return r < c.n_rows ? *reinterpret_cast<const float4 *>(x + (c.token + r * c.stride) * DIM + d)
                        : make_float4(0, 0, 0, 0);
}

TARNK_DEVICE float2 log2_decay(float x, float y)
{
    return make_float2(fmaxf(x * LOG2_E, FORGOTTEN), fmaxf(y * LOG2_E, FORGOTTEN));
}

/* All that a thread wants of a row's tensor is asked for before the first of it is used. */
TARNK_DEVICE void load_chunk(const tarnk_kda_args &a, const chunk_place &c, prepare_shared *s)
{
    constexpr uint32_t FOURS = CHUNK * DIM / 4 / PREPARE_THREADS, AT_ONCE = 4;
    if (threadIdx.x < CHUNK)
        s->g[threadIdx.x * G_STRIDE + DIM] =
            threadIdx.x < c.n_rows ? a.beta[c.token + threadIdx.x * c.stride] : 0.0f;
#pragma unroll
    for (uint32_t first = 0; first < FOURS; first += AT_ONCE) {
        float4 g[AT_ONCE], q[AT_ONCE], k[AT_ONCE];
#pragma unroll
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            const uint32_t at = threadIdx.x + (first + i) * PREPARE_THREADS;
            g[i] = load_four(a.g, c, at / (DIM / 4), at % (DIM / 4) * 4);
            q[i] = load_four(a.q, c, at / (DIM / 4), at % (DIM / 4) * 4);
            k[i] = load_four(a.k, c, at / (DIM / 4), at % (DIM / 4) * 4);
        }
#pragma unroll
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            const uint32_t at = threadIdx.x + (first + i) * PREPARE_THREADS;
            const uint32_t r = at / (DIM / 4), d = at % (DIM / 4) * 4;
            auto *to = reinterpret_cast<float2 *>(s->g + r * G_STRIDE + d);
            to[0] = log2_decay(g[i].x, g[i].y);
            to[1] = log2_decay(g[i].z, g[i].w);
            *reinterpret_cast<uint2 *>(s->q + r * X_STRIDE + d) =
                make_uint2(bf16_pack(q[i].x, q[i].y), bf16_pack(q[i].z, q[i].w));
            *reinterpret_cast<uint2 *>(s->k + r * X_STRIDE + d) =
                make_uint2(bf16_pack(k[i].x, k[i].y), bf16_pack(k[i].z, k[i].w));
        }
    }
    __syncthreads();
    if (threadIdx.x < DIM) { /* a thread a channel, eight rows under way */
        float sum = 0;
        for (uint32_t r = 0; r < CHUNK; r += 8) {
            float g[8];
#pragma unroll
            for (uint32_t i = 0; i < 8; i++)
                g[i] = s->g[(r + i) * G_STRIDE + threadIdx.x];
#pragma unroll
            for (uint32_t i = 0; i < 8; i++) {
                sum += g[i];
                s->g[(r + i) * G_STRIDE + threadIdx.x] = sum;
            }
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

/* Two rows times two columns of a diagonal block of 8, exactly; two lanes take half of the channels
 * each. */
TARNK_DEVICE void diagonal_tile(prepare_shared *s, chunk_record *out)
{
    const uint32_t idx = threadIdx.x / 2, half = threadIdx.x % 2 * (DIM / 2);
    const uint32_t block = idx / DIAG_TILES, tile = idx % DIAG_TILES;
    uint32_t y = 0;
    while ((y + 1) * (y + 2) / 2 <= tile)
        y++;
    const uint32_t x = tile - y * (y + 1) / 2;
    const uint32_t r = block * EXACT + 2 * y, c = block * EXACT + 2 * x;
    float a[2][2] = {}, p[2][2] = {};
#pragma unroll 2
    for (uint32_t d = half; d < half + DIM / 2; d += 2) {
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
        for (uint32_t j = 0; j < 2; j++) {
            a[i][j] += __shfl_xor_sync(TARNK_WARP_ALL, a[i][j], 1);
            p[i][j] += __shfl_xor_sync(TARNK_WARP_ALL, p[i][j], 1);
            if (half == 0)
                put_pair(s, out, r + i, c + j, a[i][j], p[i][j]);
        }
}

TARNK_DEVICE uint32_t scaled_pair(uint32_t pair, const float2 &over, const float2 &under)
{
    return bf16_pack(bf16_low(pair) * exp2_fast(over.x - under.x),
                     bf16_high(pair) * exp2_fast(over.y - under.y));
}

/* ROWS rows from `first` on times as many columns before them, by one warp; both factors are
 * anchored at the first row. */
template <uint32_t ROWS>
TARNK_DEVICE void lower_block(prepare_shared *s, chunk_record *out, uint32_t first,
                              uint32_t first_column)
{
    constexpr uint32_t EIGHTS = ROWS / 8;
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float a[2][4] = {}, p[2][4] = {};
#pragma unroll 1
    for (uint32_t d0 = 0; d0 < DIM; d0 += 16) {
        uint32_t left_k[4] = {}, left_q[4] = {}, right[2][2];
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t d = d0 + half * 8 + 2 * t;
            const float2 anchor = g_at(s, first, d);
#pragma unroll
            for (uint32_t h = 0; h < EIGHTS; h++) {
                const uint32_t row = first + g + h * 8, column = first_column + h * 8 + g;
                const float2 own = g_at(s, row, d);
                left_k[half * 2 + h] = scaled_pair(pair_at(s->k, row, d), own, anchor);
                left_q[half * 2 + h] = scaled_pair(pair_at(s->q, row, d), own, anchor);
                right[h][half] = scaled_pair(pair_at(s->k, column, d), anchor, g_at(s, column, d));
            }
        }
#pragma unroll
        for (uint32_t n = 0; n < EIGHTS; n++) {
            mma_bf16(a[n], left_k, right[n]);
            mma_bf16(p[n], left_q, right[n]);
        }
    }
#pragma unroll
    for (uint32_t n = 0; n < EIGHTS; n++)
#pragma unroll
        for (uint32_t c = 0; c < 2 * EIGHTS; c++)
            put_pair(s, out, first + g + c / 2 * 8, first_column + n * 8 + 2 * t + c % 2, a[n][c],
                     p[n][c]);
}

/* A and P: diagonal blocks of 8 by five warps, what is below them by three. */
TARNK_DEVICE void make_pairs(prepare_shared *s, chunk_record *out)
{
    const uint32_t warp = threadIdx.x / 32, w = warp - DIAG_THREADS / 32;
    if (threadIdx.x < DIAG_THREADS) {
        diagonal_tile(s, out);
    } else {
        lower_block<SUB>(s, out, (w + 1) * SUB, 0); /* (1,0) (2,0) (3,0) of 16, then (2,1) .. */
        lower_block<SUB>(s, out, w == 0 ? 2 * SUB : 3 * SUB, w == 2 ? 2 * SUB : SUB);
        for (uint32_t i = w; i < CHUNK / SUB; i += 3)
            lower_block<EXACT>(s, out, i * SUB + EXACT, i * SUB);
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
    constexpr uint32_t WORK = SUB * (SUB + 1); /* of a block */
    auto *work = reinterpret_cast<float *>(s->q);
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
    for (uint32_t apart = 1; apart < CHUNK / SUB;
         apart++) { /* blocks equally far below, together */
        for (uint32_t j = 0; j + apart < CHUNK / SUB; j++) {
            const uint32_t row = (j + apart) * SUB, column = j * SUB;
            float sum = 0;
#pragma unroll 8
            for (uint32_t k = column; k < row; k++)
                sum = fmaf(s->a[(row + r) * A_STRIDE + k], s->m[k * A_STRIDE + column + c], sum);
            work[j * WORK + r * (SUB + 1) + c] = sum;
        }
        __syncthreads();
        for (uint32_t j = 0; j + apart < CHUNK / SUB; j++) {
            const uint32_t row = (j + apart) * SUB, column = j * SUB;
            float sum = 0;
#pragma unroll
            for (uint32_t k = 0; k < SUB; k++)
                sum = fmaf(-s->m[(row + r) * A_STRIDE + row + k],
                           work[j * WORK + k * (SUB + 1) + c], sum);
            s->m[(row + r) * A_STRIDE + column + c] = sum;
        }
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

TARNK_DEVICE void load_values(const tarnk_kda_args &a, const chunk_place &c, float4 v[VALUE_FOURS])
{
#pragma unroll
    for (uint32_t i = 0; i < VALUE_FOURS; i++) {
        const uint32_t at = threadIdx.x + i * PREPARE_THREADS;
        v[i] = load_four(a.v, c, at / (DIM / 4), at % (DIM / 4) * 4);
    }
}

/* beta v, where q was. */
TARNK_DEVICE void put_values(prepare_shared *s, const float4 v[VALUE_FOURS])
{
#pragma unroll
    for (uint32_t i = 0; i < VALUE_FOURS; i++) {
        const uint32_t at = threadIdx.x + i * PREPARE_THREADS;
        const uint32_t r = at / (DIM / 4), d = at % (DIM / 4) * 4;
        const float beta = s->g[r * G_STRIDE + DIM];
        *reinterpret_cast<uint2 *>(s->q + r * X_STRIDE + d) = make_uint2(
            bf16_pack(beta * v[i].x, beta * v[i].y), bf16_pack(beta * v[i].z, beta * v[i].w));
    }
    __syncthreads();
}

static __global__ void __launch_bounds__(PREPARE_THREADS, 2)
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
    float4 v[VALUE_FOURS];
    load_values(a, c, v); /* they come while W is made */
    times_inverse(s, out->w);
    put_values(s, v);
    times_inverse(s, out->u);
}

size_t kda_prepare_shared_bytes()
{
    return sizeof(prepare_shared);
}

int kda_prepare(const tarnk_kda_args *a, const chunk_segment *segment, uint32_t n_long,
                const tarnk_context *context)
{
    return LAUNCH(kda_prepare_kernel, dim3(segment->n_chunks, a->n_heads, n_long), PREPARE_THREADS,
                  sizeof(prepare_shared), context, *a, *segment);
}
