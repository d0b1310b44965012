/* mla_append.cu - attention of mla.h for long appends, in the expanded form.
 *
 * Absorbed, a query and key cost 2 * 1088 FLOPs a head, expanded 2 * 320, and each key once 2 * 512
 * * 256 more: from about 170 rows on expanding pays. Keys are taken in chunks that the workspace
 * has room for. expand makes K|V of a chunk, bf16, with the sums of product.cuh, in tiles of 128
 * keys of a head as mla_append.cuh has them; attend walks them. Between chunks O stays in `out`,
 * its largest score and sum in the workspace, all fp32: where chunks begin does not show in the
 * bits.
 *
 * Here is attend for 8.0 and 8.9 (9.0: mla_hopper.cu): 64 keys at a time for 64 rows of a head, S =
 * Q K^T and O += P V in registers. Tiles begin at multiples of 64 of the position.
 *
 * Bytes: expand 16 KB a key, the latents once for each 128 outputs, from the second-level cache;
 * attend 640 a key and head for each 64 rows, likewise. FLOPs as above. Shared: expand 96 KB;
 * attend 109 KB with two stages, 67 KB with one. Registers: expand at most 216, attend 168. */
#include "mla_append.cuh"

#include "wide.cuh"

#define TILE           64u /* rows, and keys, of a step of attend */
#define K_STRIDE       (APPEND_QK + 8u)
#define V_STRIDE       (APPEND_V + 8u)
#define ATTEND_THREADS 128u
#define EXPANDED       (APPEND_NOPE + APPEND_V) /* of a key and head */
#define CHUNK_KEYS_MAX 8192u
#define OUT_STRIDE     (WIDE_SIDE + 8u)
static_assert(APPEND_KEYS == WIDE_SIDE, "a block of expand is a tile of keys");
static_assert(WIDE_SIDE * OUT_STRIDE * 2 <= WIDE_SHARED, "results pass through the stages");

TARNK_DEVICE const uint16_t *latent_of(const tarnk_mla_args &a, const tarnk_seq &s, uint32_t key)
{
    return reinterpret_cast<const uint16_t *>(s.pages[key / TARNK_PAGE_TOKENS] + a.latent_offset) +
           static_cast<size_t>(key % TARNK_PAGE_TOKENS) * APPEND_LATENT;
}

/* ---- expand ---------------------------------------------------------------------------------- */

/* The shared parts of a tile's keys. */
TARNK_DEVICE void put_ropes(const tarnk_mla_args &a, const tarnk_seq &s, uint32_t key,
                            uint32_t n_keys, append_block *to)
{
    for (uint32_t i = threadIdx.x; i < APPEND_KEYS * (APPEND_ROPE / 8); i += WIDE_THREADS) {
        const uint32_t r = i / (APPEND_ROPE / 8), at = i % (APPEND_ROPE / 8) * 8;
        uint4 rope = make_uint4(0, 0, 0, 0);
        if (key + r < n_keys)
            rope = load_eight(latent_of(a, s, key + r) + APPEND_RANK + at);
        *reinterpret_cast<uint4 *>(to->row + append_place(r, at)) = rope;
    }
}

/* A block is a tile of keys and the 128 keys' or values' elements of a head. */
static __global__ void __launch_bounds__(WIDE_THREADS, 1)
    mla_expand_wide_kernel(tarnk_mla_args a, append_chunk c)
{
    auto *stages = reinterpret_cast<wide_stage *>(shared_bytes());
    auto *results = reinterpret_cast<uint16_t *>(shared_bytes());
    const uint32_t first = blockIdx.x * WIDE_SIDE, key = c.key + blockIdx.y * APPEND_KEYS;
    previous_wait();
    next_start();
    const uint32_t idx = long_append(a.seqs, a.n_seqs, c.which);
    if (idx == a.n_seqs)
        return;
    const tarnk_seq s = a.seqs[idx];
    const uint32_t n_keys = s.position + s.n_rows;
    if (key >= n_keys)
        return;
    if (blockIdx.x == 0)
        put_ropes(a, s, key, n_keys, c.ropes + blockIdx.y);
    const auto *w = static_cast<const uint16_t *>(a.kv_b.data);
    wide_rows from = {{}, {}, w};
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) { /* n_heads * 256 outputs: no tile reaches behind the end */
        const uint32_t at = key + wide_row(i);
        from.row[i] = w + static_cast<size_t>(first + wide_row(i)) * APPEND_RANK;
        from.token[i] = at < n_keys ? latent_of(a, s, at) : nullptr;
    }
    float total[4][4][4] = {};
    wide_product(total, stages, from, APPEND_RANK);
    __syncthreads(); /* the stages are free */
#pragma unroll
    for (uint32_t m = 0; m < 4; m++)
#pragma unroll
        for (uint32_t n = 0; n < 4; n++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                results[wide_token(n, i) * OUT_STRIDE + wide_out(m, i)] =
                    static_cast<uint16_t>(bf16_bits(total[m][n][i]));
    __syncthreads();
    append_tile *tile = c.tiles + static_cast<size_t>(blockIdx.y) * a.n_heads + blockIdx.x / 2;
    append_block *to = blockIdx.x % 2 == 0 ? tile->k : tile->v;
    for (uint32_t i = threadIdx.x; i < APPEND_KEYS * (WIDE_SIDE / 8); i += WIDE_THREADS) {
        const uint32_t r = i / (WIDE_SIDE / 8), at = i % (WIDE_SIDE / 8) * 8;
        *reinterpret_cast<uint4 *>(to[at / 64].row + append_place(r, at % 64)) =
            *reinterpret_cast<const uint4 *>(results + r * OUT_STRIDE + at);
    }
}

/* ---- attend ---------------------------------------------------------------------------------- */

template <int STAGES> struct attend_shared {
    uint16_t q[TILE * K_STRIDE];
    uint16_t k[STAGES][TILE * K_STRIDE];
    uint16_t v[STAGES][TILE * V_STRIDE];
};
static_assert(sizeof(attend_shared<2>) <= 163 * 1024, "a block of 8.0 has no more");
static_assert(sizeof(attend_shared<1>) <= 99 * 1024, "a block of 8.9 has no more");

/* Keys from `key` on, of the chunk; those from key_end on are zeros or become them. */
TARNK_DEVICE void fetch_keys(const tarnk_mla_args &a, const append_chunk &c, uint32_t head,
                             uint32_t key, uint32_t key_end, uint16_t *k, uint16_t *v)
{
    if (key < key_end) {
        const uint32_t tile = (key - c.key) / APPEND_KEYS, from = (key - c.key) % APPEND_KEYS;
        const append_tile *kv = c.tiles + static_cast<size_t>(tile) * a.n_heads + head;
        for (uint32_t i = threadIdx.x; i < TILE * (APPEND_NOPE / 8); i += ATTEND_THREADS) {
            const uint32_t r = i / (APPEND_NOPE / 8), at = i % (APPEND_NOPE / 8) * 8;
            const uint32_t place = append_place(from + r, at % 64);
            copy_async16(k + r * K_STRIDE + at, kv->k[at / 64].row + place, true);
            copy_async16(v + r * V_STRIDE + at, kv->v[at / 64].row + place, true);
        }
        for (uint32_t i = threadIdx.x; i < TILE * (APPEND_ROPE / 8); i += ATTEND_THREADS) {
            const uint32_t r = i / (APPEND_ROPE / 8), at = i % (APPEND_ROPE / 8) * 8;
            copy_async16(k + r * K_STRIDE + APPEND_NOPE + at,
                         c.ropes[tile].row + append_place(from + r, at), true);
        }
    }
    copy_commit();
}

/* S of 16 rows and 64 keys. */
TARNK_DEVICE void tile_scores(float score[8][4], const uint16_t *q, const uint16_t *k,
                              uint32_t warp, uint32_t lane)
{
    const uint16_t *q_row = q + (warp * 16 + lane % 16) * K_STRIDE + lane / 16 * 8;
    const uint16_t *k_row = k + (lane / 16 * 8 + lane % 8) * K_STRIDE + lane / 8 % 2 * 8;
#pragma unroll 2
    for (uint32_t d = 0; d < APPEND_QK; d += 16) {
        uint32_t x[4];
        load_tiles<false>(x, q_row + d);
#pragma unroll
        for (uint32_t n = 0; n < 8; n += 2) {
            uint32_t y[4];
            load_tiles<false>(y, k_row + n * 8 * K_STRIDE + d);
            mma_bf16(score[n], x, y);
            mma_bf16(score[n + 1], x, y + 2);
        }
    }
}

/* Scores to probabilities in place; o shrinks with the sums. n_seen: keys of the tile that row g
 * sees; row g + 8 sees 8 more. */
TARNK_DEVICE void tile_softmax(float score[8][4], float o[16][4], row_state *state, int32_t n_seen,
                               float scale, uint32_t t)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = state->top[h];
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const auto key = static_cast<int32_t>(n * 8 + t * 2 + c);
                float *x = &score[n][2 * h + c];
                *x = key < n_seen + 8 * h ? *x * scale : -INFINITY;
                top = fmaxf(top, *x);
            }
        top = fmaxf(top, __shfl_xor_sync(TARNK_WARP_ALL, top, 1));
        top = fmaxf(top, __shfl_xor_sync(TARNK_WARP_ALL, top, 2));
        /* The first key is seen by every row that is there, so the rest may subtract it. */
        const float base = top == -INFINITY ? 0.0f : top;
        const float shrink = exp2_fast(state->top[h] - base);
        float sum = 0;
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                score[n][2 * h + c] = exp2_fast(score[n][2 * h + c] - base);
                sum += score[n][2 * h + c];
            }
        sum += __shfl_xor_sync(TARNK_WARP_ALL, sum, 1);
        sum += __shfl_xor_sync(TARNK_WARP_ALL, sum, 2);
        state->sum[h] = state->sum[h] * shrink + sum;
        state->top[h] = top;
#pragma unroll
        for (int n = 0; n < 16; n++) {
            o[n][2 * h] *= shrink;
            o[n][2 * h + 1] *= shrink;
        }
    }
}

/* o += P V; P's accumulators are laid out as an operand wants them. */
TARNK_DEVICE void tile_values(float o[16][4], const float p[8][4], const uint16_t *v, uint32_t lane)
{
#pragma unroll
    for (uint32_t k = 0; k < 4; k++) {
        const uint32_t x[4] = {bf16_pack(p[2 * k][0], p[2 * k][1]),
                               bf16_pack(p[2 * k][2], p[2 * k][3]),
                               bf16_pack(p[2 * k + 1][0], p[2 * k + 1][1]),
                               bf16_pack(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (uint32_t n = 0; n < 16; n += 2) {
            uint32_t y[4];
            load_tiles<true>(y, v + (k * 16 + lane % 16) * V_STRIDE + n * 8 + lane / 16 * 8);
            mma_bf16(o[n], x, y);
            mma_bf16(o[n + 1], x, y + 2);
        }
    }
}

TARNK_DEVICE void fetch_queries(const tarnk_mla_args &a, const tarnk_seq &s, uint32_t head,
                                uint32_t first, uint16_t *to)
{
    for (uint32_t i = threadIdx.x; i < TILE * (APPEND_QK / 8); i += ATTEND_THREADS) {
        const uint32_t r = i / (APPEND_QK / 8), at = i % (APPEND_QK / 8) * 8;
        uint4 q = make_uint4(0, 0, 0, 0);
        if (first + r < s.n_rows)
            q = load_eight(a.q +
                           ((s.row_begin + static_cast<size_t>(first + r)) * a.n_heads + head) *
                               APPEND_QK +
                           at);
        *reinterpret_cast<uint4 *>(to + r * K_STRIDE + at) = q;
    }
}

TARNK_DEVICE void load_rows(const row_place &p, bool anew, float o[16][4], row_state *state)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const bool old = !anew && p.there[h];
        state->top[h] = old ? p.limits[h][0] : -INFINITY;
        state->sum[h] = old ? p.limits[h][1] : 0.0f;
#pragma unroll
        for (int n = 0; n < 16; n++)
#pragma unroll
            for (int c = 0; c < 2; c++)
                o[n][2 * h + c] = old ? p.out[h][n * 8 + c] : 0.0f;
    }
}

template <int STAGES>
static __global__ void __launch_bounds__(ATTEND_THREADS)
    mla_attend_kernel(tarnk_mla_args a, append_chunk c)
{
    auto *shared = reinterpret_cast<attend_shared<STAGES> *>(shared_bytes());
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y;
    const uint32_t first = (gridDim.x - 1 - blockIdx.x) * TILE; /* the longest begin first */
    const float scale = APPEND_LOG2_E / sqrtf(static_cast<float>(APPEND_QK));
    previous_wait();
    next_start();
    const uint32_t idx = long_append(a.seqs, a.n_seqs, c.which);
    if (idx == a.n_seqs || first >= a.seqs[idx].n_rows)
        return;
    const tarnk_seq s = a.seqs[idx];
    const uint32_t tile_end = s.position + min_u32(first + TILE, s.n_rows);
    const uint32_t key_end = min_u32(tile_end, c.key + c.n_keys);
    if (key_end <= c.key)
        return;
    const uint32_t row = first + warp * 16 + lane / 4;
    const row_place place = place_rows(a, c, s, head, row, lane % 4);
    float o[16][4];
    row_state state;
    load_rows(place, c.key == 0, o, &state);
#pragma unroll
    for (uint32_t p = 0; p + 1 < STAGES; p++)
        fetch_keys(a, c, head, c.key + p * TILE, key_end, shared->k[p], shared->v[p]);
    fetch_queries(a, s, head, first, shared->q);
    for (uint32_t key = c.key, i = 0; key < key_end; key += TILE, i++) {
        const uint32_t next = (i + STAGES - 1) % STAGES;
        fetch_keys(a, c, head, key + (STAGES - 1) * TILE, key_end, shared->k[next],
                   shared->v[next]);
        copy_wait<STAGES - 1>();
        __syncthreads();
        float score[8][4] = {};
        tile_scores(score, shared->q, shared->k[i % STAGES], warp, lane);
        const int32_t n_seen =
            static_cast<int32_t>(s.position + row + 1) - static_cast<int32_t>(key);
        tile_softmax(score, o, &state, n_seen, scale, lane % 4);
        tile_values(o, score, shared->v[i % STAGES], lane);
        __syncthreads(); /* the stage is free */
    }
    copy_wait<0>();
    store_rows(place, tile_end <= c.key + c.n_keys, a.round, o, state, lane % 4);
}

/* ---- the host's part ------------------------------------------------------------------------- */

static size_t limits_bytes(const tarnk_mla_args *a)
{
    const size_t n_bytes = static_cast<size_t>(a->n_rows) * a->n_heads * 2 * sizeof(float);
    return (n_bytes + 255) / 256 * 256;
}

/* Tiles of keys of a chunk that the workspace has room for, behind the limits of all rows. */
static uint32_t chunk_tiles(const tarnk_mla_args *a, const tarnk_cuda *cuda)
{
    const size_t tile = a->n_heads * sizeof(append_tile) + sizeof(append_block);
    if (cuda->workspace_bytes < limits_bytes(a))
        return 0;
    const size_t n = (cuda->workspace_bytes - limits_bytes(a)) / tile,
                 most = CHUNK_KEYS_MAX / APPEND_KEYS;
    return static_cast<uint32_t>(n < most ? n : most);
}

bool mla_append_can(const tarnk_mla_args *a, const tarnk_cuda *cuda)
{
    return cuda->native && a->nope == APPEND_NOPE && a->rope == APPEND_ROPE &&
           a->v_dim == APPEND_V && a->rank == APPEND_RANK && a->latent_dtype == TARNK_BF16 &&
           a->kv_b.dtype == TARNK_BF16 && aligned16(a->kv_b.data) && aligned16(a->q) &&
           a->latent_offset % 16 == 0 && sizeof(attend_shared<1>) <= cuda->shared_bytes_max &&
           WIDE_SHARED <= cuda->shared_bytes_max;
}

static int attend(const tarnk_mla_args *a, const append_chunk *c, const tarnk_context *context)
{
    const tarnk_cuda *cuda = cuda_of(context);
    const uint32_t rows_max = cuda->step.rows_max;
    const dim3 grid(div_up(rows_max, TILE), a->n_heads);
    if (cuda->arch == 90 && mla_hopper_shared() <= cuda->shared_bytes_max)
        return mla_hopper_attend(a, c, rows_max, context);
    if (sizeof(attend_shared<2>) <= cuda->shared_bytes_max)
        return LAUNCH(mla_attend_kernel<2>, grid, ATTEND_THREADS, sizeof(attend_shared<2>), context,
                      *a, *c);
    return LAUNCH(mla_attend_kernel<1>, grid, ATTEND_THREADS, sizeof(attend_shared<1>), context, *a,
                  *c);
}

int mla_append_run(const tarnk_mla_args *a, const tarnk_context *context)
{
    const tarnk_cuda *cuda = cuda_of(context);
    const tarnk_cuda_step *step = &cuda->step;
    const uint32_t n_long = min_u32(a->n_seqs, a->n_rows / TARNK_MLA_APPEND_MIN);
    const uint32_t room = chunk_tiles(a, cuda);
    if (room == 0)
        return cudaErrorMemoryAllocation;
    auto *memory = static_cast<uint8_t *>(cuda->workspace);
    append_chunk c;
    c.limits = reinterpret_cast<float *>(memory);
    c.tiles = reinterpret_cast<append_tile *>(memory + limits_bytes(a));
    c.ropes = reinterpret_cast<append_block *>(c.tiles + static_cast<size_t>(room) * a->n_heads);
    for (c.which = 0; c.which < n_long; c.which++)
        for (c.key = 0; c.key < step->keys_max; c.key += c.n_keys) {
            const uint32_t n_tiles = min_u32(room, div_up(step->keys_max - c.key, APPEND_KEYS));
            c.n_keys = n_tiles * APPEND_KEYS;
            TRY_LAUNCH(LAUNCH(mla_expand_wide_kernel,
                              dim3(a->n_heads * EXPANDED / WIDE_SIDE, n_tiles), WIDE_THREADS,
                              WIDE_SHARED, context, *a, c));
            TRY_LAUNCH(attend(a, &c, context));
        }
    return 0;
}
