/* kda_chunk.cu - the recurrence of kda.h for whole chunks of 64 tokens, on tensor cores.
 *
 * Per head and chunk, with G the running sum of g log2(e) from the chunk's start, row by row:
 *   A[r][s] = beta_r sum_d k_r k_s 2^(G_r - G_s), s < r      P[r][s] = sum_d q_r k_s 2^(G_r - G_s)
 *   M = (I + A)^-1     W = M (beta k 2^G)     U = M (beta v)
 *   v' = U - W S       o = (q 2^G) S + P v'   S <- 2^G_last S + (k 2^(G_last - G))^T v'
 *
 * prepare (kda_prepare.cu: a block a chunk and head) makes W, U, P, q 2^G, k 2^(G_last - G) and
 * 2^G_last, which depend on no state; pass, here (a block a head and 32 columns of V), walks the
 * chunks in order with its part of S in fp32 registers. Columns of V never meet, so cutting them is
 * exact. Rounded to bf16: q, k, v, what the products read, and S as an operand; S itself never.
 *
 * A row that is not there has beta 0, g 0, k, q, v 0 and leaves all as it is. Chunks count from the
 * start of the append. Appends are taken in segments of as many chunks as the workspace holds; the
 * state goes through its slot between them. States asked for inside an append are stored on the
 * way.
 *
 * Bytes of pass: 60 KB a chunk, head and 32 columns, from the second-level cache; O 4 V a token and
 * head; state 8 K V a segment. FLOPs: about 50,000 a token and head. Shared: 146 KB with two
 * stages, 80 KB with one. Registers: at most 168, 128 on 9.0.
 *
 * What it can reach on an H200, 8192 tokens of 32 heads: 128 blocks on 132 multiprocessors, 128
 * chunks one after the other. A warp issues 120 mmas a chunk at 13 clocks, 1550, and waits four
 * times for about 100: 1.1 us. But 128 blocks that read 60 KB each in 1.1 us ask 7 TB/s of a cache
 * that gives about 5.5: 1.4 us, 0.18 ms in all. With prepare's 0.17 ms, 0.35 of the 0.40 ms asked
 * for. A cluster that shares the three tiles which all four blocks of a head read would take the
 * cache out of the way, and is worth 0.04 ms. */
#include "kda_chunk.cuh"

#define SLICE        32u /* columns of V of a block of pass */
#define PASS_THREADS 128u
#define V_STRIDE     (SLICE + 8u)

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
    return cuda->native && a->k_dim == DIM && a->v_dim == DIM && aligned16(a->q) &&
           aligned16(a->k) && aligned16(a->g) && aligned16(a->v) &&
           sizeof(pass_shared<1>) <= cuda->shared_bytes_max &&
           kda_prepare_shared_bytes() <= cuda->shared_bytes_max;
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
        TRY_LAUNCH(kda_prepare(a, &segment, n_long, context));
        TRY_LAUNCH(two ? LAUNCH(kda_pass_kernel<2>, grid, PASS_THREADS, sizeof(pass_shared<2>),
                                context, *a, segment)
                       : LAUNCH(kda_pass_kernel<1>, grid, PASS_THREADS, sizeof(pass_shared<1>),
                                context, *a, segment));
    }
    return 0;
}
