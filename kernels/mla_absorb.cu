/* mla_absorb.cu - kv_b on the two sides of attention over the latents, fp32 sums; see mla.cu.
 *
 * query: qa_h = Wk_h^T q_h with q_h's shared part behind it. Any shape: a thread is a column of
 * rank for 8 rows. Where 16 bytes of a row of kv_b can be read at a time, a thread is 8 columns and
 * 8 terms, all of which it asks for at once, before it waits for the kernel before it, and 16
 * threads' sums are added in order. value: Wv_h o_h; a warp is one output for 8 rows, likewise 16
 * bytes at a time where it can.
 *
 * Bytes: half of kv_b each, once for each 8 rows, 4.2 MB; FLOPs: 2 rank (nope + v_dim) a row and
 * head. Shared: query 8 KB. Registers: at most 80. On an H200 128 and 1024 blocks ask for all of it
 * in one go or two, so that each takes about 2 us; with combine these are 3 more launches in a
 * graph, and 8 us come to attend: a ninth of 8 sessions of 32K keys. */
#include "mla_block.cuh"
#include "product.cuh"

#define ROWS_AT_ONCE 8

static __global__ void __launch_bounds__(128) mla_query_kernel(tarnk_mla_args a, mla_block b)
{
    const uint32_t col = blockIdx.x * 128 + threadIdx.x, head = blockIdx.y;
    const uint32_t first = blockIdx.z * ROWS_AT_ONCE, q_dim = a.nope + a.rope;
    const size_t len = static_cast<size_t>(a.rank) + a.rope, stride = a.n_heads * len;
    float *out = b.query + (static_cast<size_t>(first) * a.n_heads + head) * len;
    const size_t w = static_cast<size_t>(head) * (a.nope + a.v_dim) * a.rank + col;
    const float *q[ROWS_AT_ONCE];
    previous_wait();
    next_start();
#pragma unroll
    for (uint32_t r = 0; r < ROWS_AT_ONCE; r++) {
        const uint32_t row = row_of(a, b, first + r);
        q[r] =
            row == NO_ROW ? nullptr : a.q + (static_cast<size_t>(row) * a.n_heads + head) * q_dim;
    }
    if (col < a.rank) {
        float sum[ROWS_AT_ONCE] = {};
#pragma unroll 4
        for (uint32_t n = 0; n < a.nope; n++) {
            const float weight =
                load_as(a.kv_b.data, a.kv_b.dtype, w + static_cast<size_t>(n) * a.rank);
#pragma unroll
            for (uint32_t r = 0; r < ROWS_AT_ONCE; r++)
                if (q[r])
                    sum[r] = fmaf(q[r][n], weight, sum[r]);
        }
#pragma unroll
        for (uint32_t r = 0; r < ROWS_AT_ONCE; r++)
            if (q[r])
                out[r * stride + col] = sum[r];
    }
    if (blockIdx.x == 0)
        for (uint32_t i = threadIdx.x; i < a.rope; i += 128)
#pragma unroll
            for (uint32_t r = 0; r < ROWS_AT_ONCE; r++)
                if (q[r])
                    out[r * stride + a.rank + i] = q[r][a.nope + i];
}

#define QUERY_THREADS 256u
#define QUERY_COLUMNS 128u /* of a block, 8 of a thread */
#define QUERY_TERMS   8u   /* of a thread */
#define QUERY_SLICES  (QUERY_THREADS * 8 / QUERY_COLUMNS)
#define QUERY_NOPE    (QUERY_SLICES * QUERY_TERMS)

/* As mla_query_kernel: nope 128, rank a multiple of 128, bf16 weights at multiples of 16 bytes. */
static __global__ void __launch_bounds__(QUERY_THREADS)
    mla_query_wide_kernel(tarnk_mla_args a, mla_block b)
{
    auto *parts = reinterpret_cast<float *>(shared_bytes()); /* [QUERY_SLICES][QUERY_COLUMNS] */
    const uint32_t group = threadIdx.x % (QUERY_COLUMNS / 8), slice = threadIdx.x / 16;
    const uint32_t head = blockIdx.y, first = blockIdx.z * ROWS_AT_ONCE;
    const uint32_t col = blockIdx.x * QUERY_COLUMNS, q_dim = a.nope + a.rope;
    const size_t len = static_cast<size_t>(a.rank) + a.rope;
    const auto *w =
        static_cast<const uint16_t *>(a.kv_b.data) +
        (static_cast<size_t>(head) * (a.nope + a.v_dim) + slice * QUERY_TERMS) * a.rank + col +
        group * 8;
    uint4 weights[QUERY_TERMS];
#pragma unroll
    for (uint32_t n = 0; n < QUERY_TERMS; n++) /* weights depend on no kernel */
        weights[n] = load_once(w + static_cast<size_t>(n) * a.rank);
    previous_wait();
    next_start();
    for (uint32_t r = 0; r < ROWS_AT_ONCE; r++) {
        const uint32_t row = row_of(a, b, first + r);
        if (row == NO_ROW)
            return;
        const float *q = a.q + (static_cast<size_t>(row) * a.n_heads + head) * q_dim;
        float *out = b.query + (static_cast<size_t>(first + r) * a.n_heads + head) * len;
        float sum[8] = {};
#pragma unroll
        for (uint32_t n = 0; n < QUERY_TERMS; n++) {
            const float x = q[slice * QUERY_TERMS + n];
            const uint32_t pairs[4] = {weights[n].x, weights[n].y, weights[n].z, weights[n].w};
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                sum[2 * i] = fmaf(x, bf16_low(pairs[i]), sum[2 * i]);
                sum[2 * i + 1] = fmaf(x, bf16_high(pairs[i]), sum[2 * i + 1]);
            }
        }
        auto *to = reinterpret_cast<float4 *>(parts + slice * QUERY_COLUMNS + group * 8);
        to[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
        to[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
        __syncthreads();
        if (threadIdx.x < QUERY_COLUMNS) {
            float total = 0;
#pragma unroll
            for (uint32_t i = 0; i < QUERY_SLICES; i++)
                total += parts[i * QUERY_COLUMNS + threadIdx.x];
            out[col + threadIdx.x] = total;
        }
        __syncthreads();
        if (blockIdx.x == 0)
            for (uint32_t i = threadIdx.x; i < a.rope; i += QUERY_THREADS)
                out[a.rank + i] = q[a.nope + i];
    }
}

/* Eight rows times 16 bytes a lane of a row of weights at a time. */
TARNK_DEVICE void value_eights(float sums[ROWS_AT_ONCE], const uint16_t *w,
                               const float *const (&tokens)[ROWS_AT_ONCE], uint32_t n,
                               uint32_t lane)
{
#pragma unroll
    for (uint32_t r = 0; r < ROWS_AT_ONCE; r++)
        sums[r] = 0;
#pragma unroll 2
    for (uint32_t k = lane * 8; k < n; k += 256) {
        const uint4 weight = load_once(w + k);
        const uint32_t pairs[4] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
        for (uint32_t r = 0; r < ROWS_AT_ONCE; r++) {
            if (!tokens[r])
                continue;
            const float4 low = *reinterpret_cast<const float4 *>(tokens[r] + k);
            const float4 high = *reinterpret_cast<const float4 *>(tokens[r] + k + 4);
            const float x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                sums[r] = fmaf(x[2 * i], bf16_low(pairs[i]), sums[r]);
                sums[r] = fmaf(x[2 * i + 1], bf16_high(pairs[i]), sums[r]);
            }
        }
    }
#pragma unroll
    for (uint32_t r = 0; r < ROWS_AT_ONCE; r++)
        sums[r] = warp_sum(sums[r]);
}

/* WIDE: rows of kv_b and of what was mixed can be read 16 bytes at a time. */
template <bool WIDE>
static __global__ void __launch_bounds__(128) mla_value_kernel(tarnk_mla_args a, mla_block b)
{
    const uint32_t lane = threadIdx.x % 32, head = blockIdx.y;
    const uint32_t o = blockIdx.x * 4 + threadIdx.x / 32, row = blockIdx.z * ROWS_AT_ONCE;
    previous_wait();
    next_start();
    if (o >= a.v_dim)
        return;
    const float *tokens[ROWS_AT_ONCE];
    float sums[ROWS_AT_ONCE];
#pragma unroll
    for (int r = 0; r < ROWS_AT_ONCE; r++)
        tokens[r] = row + r < b.n_rows
                        ? b.mixed + (static_cast<size_t>(row + r) * a.n_heads + head) * a.rank
                        : nullptr;
    const size_t w_row = static_cast<size_t>(head) * (a.nope + a.v_dim) + a.nope + o;
    if (WIDE)
        value_eights(sums, static_cast<const uint16_t *>(a.kv_b.data) + w_row * a.rank, tokens,
                     a.rank, lane);
    else
        product_plain<ROWS_AT_ONCE>(sums, a.kv_b.data, a.kv_b.dtype, w_row * a.rank, tokens, a.rank,
                                    lane);
#pragma unroll
    for (uint32_t r = 0; r < ROWS_AT_ONCE; r++) {
        const uint32_t to = lane == r ? row_of(a, b, row + r) : NO_ROW;
        if (to != NO_ROW)
            a.out[(static_cast<size_t>(to) * a.n_heads + head) * a.v_dim + o] =
                a.round ? bf16_round(sums[r]) : sums[r];
    }
}

/* ---- the host's part ------------------------------------------------------------------------- */

static bool can_wide(const tarnk_mla_args *a, const tarnk_context *context)
{
    return cuda_of(context)->native && a->kv_b.dtype == TARNK_BF16 && a->rank % 8 == 0 &&
           aligned16(a->kv_b.data) && aligned16(a->workspace);
}

int mla_query(const tarnk_mla_args *a, const mla_block *b, const tarnk_context *context)
{
    const dim3 grid(div_up(a->rank, 128), a->n_heads, div_up(b->n_rows, ROWS_AT_ONCE));
    if (can_wide(a, context) && a->nope == QUERY_NOPE && a->rank % QUERY_COLUMNS == 0)
        return LAUNCH(mla_query_wide_kernel, grid, QUERY_THREADS,
                      QUERY_SLICES * QUERY_COLUMNS * sizeof(float), context, *a, *b);
    return LAUNCH(mla_query_kernel, grid, 128, 0, context, *a, *b);
}

int mla_value(const tarnk_mla_args *a, const mla_block *b, const tarnk_context *context)
{
    const dim3 grid(div_up(a->v_dim, 4), a->n_heads, div_up(b->n_rows, ROWS_AT_ONCE));
    return can_wide(a, context) ? LAUNCH(mla_value_kernel<true>, grid, 128, 0, context, *a, *b)
                                : LAUNCH(mla_value_kernel<false>, grid, 128, 0, context, *a, *b);
}
