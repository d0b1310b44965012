/* kda.cu - the recurrence token by token; see tarnk_kda_args in kda.h. Long appends in native
 * numerics go to kda_chunk.cu.
 *
 * The state of a head is [V][K] here. Rows of V never meet, so blocks share them out.
 *
 * step (K = 128, V a multiple of 32): 4 lanes hold a row, 32 values each as 8 pieces of 4, so that
 * a warp loads 64 consecutive bytes of each of 8 rows; the state stays in registers over all rows
 * of the sequence and is read and written once. Sums over K are 32 terms in order in a lane, then
 * two shuffles. The state is asked for before previous_wait only when nothing earlier in the stream
 * can have written it, which nobody knows here, so it is asked for after. Bytes: 8 K V a head and
 * session; 9 K V FLOPs a row; no shared memory; at most 128 registers.
 *   What it can reach on an H200, 32 heads: a session is 128 blocks that ask for 16 KB each at
 * once, four side by side on a multiprocessor, 64 KB under way. One session: 4.2 MB, 1 us at 4.3
 * TB/s, and two reads that wait for each other before the state's, 3.5 of 5 us. Eight: 34 MB, 8 us
 * and the same begin, 10.5 of 11. 64: 268 MB, 62 us in 15 rounds of blocks; at 84 % of the copy
 * rate 74 of 75. any: other shapes; a warp is a row, lanes strided over K, the state in device
 * memory.
 *
 * Both sum p = k^T S and o = q^T S apart, over the values the recurrence defines: the identity
 * o = (q exp g)^T S + (q . k) u saves a reduction and subtracts large terms where the update
 * cancels. */
#include "launch.cuh"

#include "kda_chunk.cuh"

#define STEP_THREADS 128u
#define STEP_K       128u
#define STEP_ROWS    32u /* of a block */
#define ANY_WARPS    4u

static __global__ void __launch_bounds__(STEP_THREADS)
    kda_step_kernel(tarnk_kda_args a, uint32_t rows_below)
{
    const uint32_t lane = threadIdx.x % 4, head = blockIdx.y;
    const uint32_t row = blockIdx.x * STEP_ROWS + threadIdx.x / 4;
    previous_wait();
    next_start();
    const tarnk_seq s = a.seqs[blockIdx.z];
    if (s.n_rows == 0 || s.n_rows >= rows_below)
        return;
    const size_t at = (static_cast<size_t>(head) * a.v_dim + row) * STEP_K + lane * 4;
    const auto *from = reinterpret_cast<const float *>(s.state_read + a.state_offset) + at;
    auto *to = reinterpret_cast<float *>(s.state_write + a.state_offset) + at;
    float4 state[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        state[i] = *reinterpret_cast<const float4 *>(from + i * 16);
    for (uint32_t t = 0; t < s.n_rows; t++) {
        const size_t token = (s.row_begin + static_cast<size_t>(t)) * a.n_heads + head;
        const float *g = a.g + token * STEP_K + lane * 4, *k = a.k + token * STEP_K + lane * 4;
        const float *q = a.q + token * STEP_K + lane * 4;
        float4 key[8];
        float p = 0, o = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float4 decay = *reinterpret_cast<const float4 *>(g + i * 16);
            key[i] = *reinterpret_cast<const float4 *>(k + i * 16);
            state[i].x *= expf(decay.x);
            state[i].y *= expf(decay.y);
            state[i].z *= expf(decay.z);
            state[i].w *= expf(decay.w);
            p = fmaf(key[i].x, state[i].x, p);
            p = fmaf(key[i].y, state[i].y, p);
            p = fmaf(key[i].z, state[i].z, p);
            p = fmaf(key[i].w, state[i].w, p);
        }
        p += __shfl_xor_sync(TARNK_WARP_ALL, p, 1);
        p += __shfl_xor_sync(TARNK_WARP_ALL, p, 2);
        const float u = a.beta[token] * (a.v[token * a.v_dim + row] - p);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float4 query = *reinterpret_cast<const float4 *>(q + i * 16);
            state[i].x = fmaf(key[i].x, u, state[i].x);
            state[i].y = fmaf(key[i].y, u, state[i].y);
            state[i].z = fmaf(key[i].z, u, state[i].z);
            state[i].w = fmaf(key[i].w, u, state[i].w);
            o = fmaf(query.x, state[i].x, o);
            o = fmaf(query.y, state[i].y, o);
            o = fmaf(query.z, state[i].z, o);
            o = fmaf(query.w, state[i].w, o);
        }
        o += __shfl_xor_sync(TARNK_WARP_ALL, o, 1);
        o += __shfl_xor_sync(TARNK_WARP_ALL, o, 2);
        if (lane == 0)
            a.out[token * a.v_dim + row] = o;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        *reinterpret_cast<float4 *>(to + i * 16) = state[i];
}

static __global__ void __launch_bounds__(ANY_WARPS * 32) kda_any_kernel(tarnk_kda_args a)
{
    const uint32_t lane = threadIdx.x % 32, head = blockIdx.y;
    const uint32_t row = blockIdx.x * ANY_WARPS + threadIdx.x / 32;
    previous_wait();
    next_start();
    const tarnk_seq s = a.seqs[blockIdx.z];
    if (row >= a.v_dim)
        return;
    const size_t at = (static_cast<size_t>(head) * a.v_dim + row) * a.k_dim;
    const auto *from = reinterpret_cast<const float *>(s.state_read + a.state_offset) + at;
    auto *to = reinterpret_cast<float *>(s.state_write + a.state_offset) + at;
    for (uint32_t t = 0; t < s.n_rows; t++, from = to) {
        const size_t token = (s.row_begin + static_cast<size_t>(t)) * a.n_heads + head;
        const float *g = a.g + token * a.k_dim, *k = a.k + token * a.k_dim;
        const float *q = a.q + token * a.k_dim;
        float p = 0, o = 0;
        for (uint32_t i = lane; i < a.k_dim; i += 32)
            p = fmaf(k[i], from[i] * expf(g[i]), p);
        const float u = a.beta[token] * (a.v[token * a.v_dim + row] - warp_sum(p));
        for (uint32_t i = lane; i < a.k_dim; i += 32) {
            const float next = fmaf(k[i], u, from[i] * expf(g[i]));
            to[i] = next;
            o = fmaf(q[i], next, o);
        }
        o = warp_sum(o);
        if (lane == 0)
            a.out[token * a.v_dim + row] = o;
    }
}

static __global__ void __launch_bounds__(256)
    turn_kernel(const float *from, float *to, uint32_t n_rows, uint32_t n_columns)
{
    const size_t each = static_cast<size_t>(n_rows) * n_columns, head = blockIdx.y * each;
    const size_t i = static_cast<size_t>(blockIdx.x) * 256 + threadIdx.x;
    previous_wait();
    next_start();
    if (i < each)
        to[head + i] = from[head + i % n_rows * n_columns + i / n_rows];
}

extern "C" int tarnk_cuda_turn_state(const float *from, float *to, uint32_t n_heads,
                                     uint32_t from_rows, uint32_t from_columns,
                                     const tarnk_context *context)
{
    return LAUNCH(turn_kernel,
                  dim3(div_up(static_cast<size_t>(from_rows) * from_columns, 256), n_heads), 256, 0,
                  context, from, to, from_rows, from_columns);
}

extern "C" int tarnk_kda_cuda(const tarnk_kda_args *a, const tarnk_context *context)
{
    const tarnk_cuda *cuda = cuda_of(context);
    const uint32_t rows_max = cuda->step.rows_max;
    if (a->k_dim != STEP_K || a->v_dim % STEP_ROWS != 0 || a->state_offset % 16 != 0 ||
        !aligned16(a->q) || !aligned16(a->k) || !aligned16(a->g))
        return LAUNCH(kda_any_kernel, dim3(div_up(a->v_dim, ANY_WARPS), a->n_heads, a->n_seqs),
                      ANY_WARPS * 32, 0, context, *a);
    const bool chunks = rows_max >= TARNK_KDA_CHUNK_MIN && kda_chunk_can(a, cuda);
    TRY_LAUNCH(LAUNCH(kda_step_kernel, dim3(a->v_dim / STEP_ROWS, a->n_heads, a->n_seqs),
                      STEP_THREADS, 0, context, *a,
                      chunks ? static_cast<uint32_t>(TARNK_KDA_CHUNK_MIN) : 0xffffffffu));
    return chunks ? kda_chunk_run(a, context) : 0;
}
