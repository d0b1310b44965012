/* mla_append.cu - attention of mla.h for long appends, in the expanded form.
 *
 * Absorbed, a query and key cost 2 * 1088 FLOPs a head, expanded 2 * 320, and each key once 2 * 512
 * * 256 more: from about 170 rows on expanding pays. Keys are taken in chunks that the workspace
 * has room for. expand makes K|V of a chunk, [key][head][128 + 128] bf16, with the sums of
 * product.cuh; attend walks it in tiles of 64 keys for 64 rows of a head, S = Q K^T and O += P V in
 * registers. Between chunks O stays in `out`, its largest exponent and sum in the workspace, all
 * fp32: where chunks begin does not show in the bits. Tiles begin at multiples of 64 of the
 * position.
 *
 * Bytes: expand 16 KB a key and the latents once for each 32 outputs, from the second-level cache;
 * attend 640 a key and head for each 64 rows, likewise. FLOPs as above. Shared: 109 KB with two
 * stages, 67 KB with one. Registers at most 192.
 *
 * Rejected for now: wgmma with a warp that only copies. It should reach half as much again, and it
 * waits for a device to be measured on; this kernel stays its twin. */
#include "mla_append.cuh"

#include "product.cuh"

#define NOPE           128u
#define ROPE           64u
#define QK             (NOPE + ROPE)
#define V_DIM          128u
#define RANK           512u
#define LATENT         (RANK + ROPE)
#define EXPANDED       (NOPE + V_DIM) /* of a key and head */
#define TILE           64u            /* rows, and keys, of a step of attend */
#define K_STRIDE       (QK + 8u)
#define V_STRIDE       (V_DIM + 8u)
#define ATTEND_THREADS 128u
#define CHUNK_KEYS_MAX 8192u
#define LOG2_E         1.44269504088896340736f

struct append_chunk {
    uint16_t *kv;  /* [n_keys][n_heads][EXPANDED] */
    float *limits; /* [rows of the step][n_heads][2]: largest exponent, sum */
    uint32_t key, n_keys;
    uint32_t which; /* of the long sequences */
};

TARNK_DEVICE const uint16_t *latent_of(const tarnk_mla_args &a, const tarnk_seq &s, uint32_t key)
{
    return reinterpret_cast<const uint16_t *>(s.pages[key / TARNK_PAGE_TOKENS] + a.latent_offset) +
           static_cast<size_t>(key % TARNK_PAGE_TOKENS) * LATENT;
}

/* ---- expand ---------------------------------------------------------------------------------- */

#define EXPAND_MT 2
#define EXPAND_NT 8

static __global__ void __launch_bounds__(PRODUCT_THREADS)
    mla_expand_kernel(tarnk_mla_args a, append_chunk c)
{
    auto *sums = reinterpret_cast<float *>(shared_bytes());
    constexpr uint32_t OUTS = EXPAND_MT * 16, KEYS = EXPAND_NT * 8, STRIDE = KEYS + 1;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    const uint32_t first = blockIdx.x * OUTS, key = blockIdx.y * KEYS;
    previous_wait();
    next_start();
    const uint32_t idx = long_append(a.seqs, a.n_seqs, c.which);
    if (idx == a.n_seqs)
        return;
    const tarnk_seq s = a.seqs[idx];
    const uint32_t n_keys = s.position + s.n_rows;
    if (c.key + key >= n_keys)
        return;
    const auto *w = static_cast<const uint16_t *>(a.kv_b.data);
    const uint16_t *rows[EXPAND_MT][2], *tokens[EXPAND_NT];
#pragma unroll
    for (int m = 0; m < EXPAND_MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) /* n_heads * 256 outputs: no tile reaches behind the end */
            rows[m][h] = w + static_cast<size_t>(first + m * 16 + h * 8 + g) * RANK;
#pragma unroll
    for (int n = 0; n < EXPAND_NT; n++) {
        const uint32_t at = c.key + key + n * 8 + g;
        tokens[n] = at < n_keys ? latent_of(a, s, at) : nullptr;
    }
    float acc[EXPAND_MT][EXPAND_NT][4] = {};
    product_slice<EXPAND_MT, EXPAND_NT, 2, uint16_t>(acc, rows, tokens, RANK, warp, lane);
    product_gather<EXPAND_MT, EXPAND_NT>(sums, acc, warp, lane);
    for (uint32_t i = threadIdx.x; i < OUTS * KEYS; i += PRODUCT_THREADS) {
        const uint32_t o = i % OUTS, at = i / OUTS;
        c.kv[static_cast<size_t>(key + at) * a.n_heads * EXPANDED + first + o] =
            static_cast<uint16_t>(bf16_bits(sums[o * STRIDE + at]));
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

/* Keys from `key` on, of the chunk; those from key_end on become zeros. */
TARNK_DEVICE void fetch_keys(const tarnk_mla_args &a, const append_chunk &c, const tarnk_seq &s,
                             uint32_t head, uint32_t key, uint32_t key_end, uint16_t *k,
                             uint16_t *v)
{
    if (key < key_end) {
        for (uint32_t i = threadIdx.x; i < TILE * (EXPANDED / 8); i += ATTEND_THREADS) {
            const uint32_t r = i / (EXPANDED / 8), at = i % (EXPANDED / 8) * 8;
            const uint16_t *from =
                c.kv + (static_cast<size_t>(key - c.key + r) * a.n_heads + head) * EXPANDED + at;
            uint16_t *to = at < NOPE ? k + r * K_STRIDE + at : v + r * V_STRIDE + at - NOPE;
            copy_async16(to, from, key + r < key_end);
        }
        for (uint32_t i = threadIdx.x; i < TILE * (ROPE / 8); i += ATTEND_THREADS) {
            const uint32_t r = i / (ROPE / 8), at = i % (ROPE / 8) * 8;
            const bool there = key + r < key_end;
            copy_async16(k + r * K_STRIDE + NOPE + at,
                         latent_of(a, s, there ? key + r : key) + RANK + at, there);
        }
    }
    copy_commit();
}

/* A row's softmax so far, of rows g and g + 8 of the warp. */
struct row_state {
    float top[2], sum[2];
};

/* S of 16 rows and 64 keys. */
TARNK_DEVICE void tile_scores(float score[8][4], const uint16_t *q, const uint16_t *k,
                              uint32_t warp, uint32_t lane)
{
    const uint16_t *q_row = q + (warp * 16 + lane % 16) * K_STRIDE + lane / 16 * 8;
    const uint16_t *k_row = k + (lane / 16 * 8 + lane % 8) * K_STRIDE + lane / 8 % 2 * 8;
#pragma unroll 2
    for (uint32_t d = 0; d < QK; d += 16) {
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
    for (uint32_t i = threadIdx.x; i < TILE * (QK / 8); i += ATTEND_THREADS) {
        const uint32_t r = i / (QK / 8), at = i % (QK / 8) * 8;
        uint4 q = make_uint4(0, 0, 0, 0);
        if (first + r < s.n_rows)
            q = load_eight(
                a.q + ((s.row_begin + static_cast<size_t>(first + r)) * a.n_heads + head) * QK +
                at);
        *reinterpret_cast<uint4 *>(to + r * K_STRIDE + at) = q;
    }
}

/* Where the thread's two rows and their O stand; out[n * 8 + 0 or 1]. */
struct row_place {
    float *out[2];
    float *limits[2];
    bool there[2];
};

TARNK_DEVICE row_place place_rows(const tarnk_mla_args &a, const append_chunk &c,
                                  const tarnk_seq &s, uint32_t head, uint32_t row, uint32_t t)
{
    row_place p;
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        const size_t at = (s.row_begin + static_cast<size_t>(row + 8 * h)) * a.n_heads + head;
        p.there[h] = row + 8 * h < s.n_rows;
        p.out[h] = a.out + at * V_DIM + 2 * t;
        p.limits[h] = c.limits + at * 2;
    }
    return p;
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

TARNK_DEVICE void store_rows(const row_place &p, bool last, bool round, const float o[16][4],
                             const row_state &state, uint32_t t)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (!p.there[h])
            continue;
        if (!last && t == 0) {
            p.limits[h][0] = state.top[h];
            p.limits[h][1] = state.sum[h];
        }
#pragma unroll
        for (int n = 0; n < 16; n++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const float y = last ? o[n][2 * h + c] / state.sum[h] : o[n][2 * h + c];
                p.out[h][n * 8 + c] = last && round ? bf16_round(y) : y;
            }
    }
}

template <int STAGES>
static __global__ void __launch_bounds__(ATTEND_THREADS)
    mla_attend_kernel(tarnk_mla_args a, append_chunk c)
{
    auto *shared = reinterpret_cast<attend_shared<STAGES> *>(shared_bytes());
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y;
    const uint32_t first = (gridDim.x - 1 - blockIdx.x) * TILE; /* the longest begin first */
    const float scale = LOG2_E / sqrtf(static_cast<float>(QK));
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
        fetch_keys(a, c, s, head, c.key + p * TILE, key_end, shared->k[p], shared->v[p]);
    fetch_queries(a, s, head, first, shared->q);
    for (uint32_t key = c.key, i = 0; key < key_end; key += TILE, i++) {
        const uint32_t next = (i + STAGES - 1) % STAGES;
        fetch_keys(a, c, s, head, key + (STAGES - 1) * TILE, key_end, shared->k[next],
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

/* Keys of a chunk that the workspace has room for, behind the limits of all rows. */
static uint32_t chunk_keys(const tarnk_mla_args *a, const tarnk_cuda *cuda)
{
    const size_t limits = static_cast<size_t>(a->n_rows) * a->n_heads * 2 * sizeof(float) + 256;
    const size_t key = static_cast<size_t>(a->n_heads) * EXPANDED * sizeof(uint16_t);
    if (cuda->workspace_bytes < limits)
        return 0;
    const size_t n = (cuda->workspace_bytes - limits) / key / TILE * TILE;
    return n < CHUNK_KEYS_MAX ? static_cast<uint32_t>(n) : CHUNK_KEYS_MAX;
}

bool mla_append_can(const tarnk_mla_args *a, const tarnk_cuda *cuda)
{
    return cuda->native && a->nope == NOPE && a->rope == ROPE && a->v_dim == V_DIM &&
           a->rank == RANK && a->latent_dtype == TARNK_BF16 && a->kv_b.dtype == TARNK_BF16 &&
           aligned16(a->kv_b.data) && aligned16(a->q) && a->latent_offset % 16 == 0 &&
           sizeof(attend_shared<1>) <= cuda->shared_bytes_max;
}

int mla_append_run(const tarnk_mla_args *a, const tarnk_context *context)
{
    const tarnk_cuda *cuda = cuda_of(context);
    const tarnk_cuda_step *step = &cuda->step;
    const uint32_t n_long = min_u32(a->n_seqs, a->n_rows / TARNK_MLA_APPEND_MIN);
    const uint32_t room = chunk_keys(a, cuda), tiles = div_up(step->rows_max, TILE);
    const bool two = sizeof(attend_shared<2>) <= cuda->shared_bytes_max;
    if (room == 0)
        return cudaErrorMemoryAllocation;
    append_chunk c;
    const size_t limits = (static_cast<size_t>(a->n_rows) * a->n_heads * 2 * 4 + 255) / 256 * 256;
    c.limits = static_cast<float *>(cuda->workspace);
    c.kv = reinterpret_cast<uint16_t *>(static_cast<uint8_t *>(cuda->workspace) + limits);
    for (c.which = 0; c.which < n_long; c.which++)
        for (c.key = 0; c.key < step->keys_max; c.key += c.n_keys) {
            c.n_keys = min_u32(room, (step->keys_max - c.key + TILE - 1) / TILE * TILE);
            TRY_LAUNCH(LAUNCH(
                mla_expand_kernel, dim3(a->n_heads * EXPANDED / (EXPAND_MT * 16), c.n_keys / TILE),
                PRODUCT_THREADS, (product_shared<EXPAND_MT, EXPAND_NT>()), context, *a, c));
            TRY_LAUNCH(two ? LAUNCH(mla_attend_kernel<2>, dim3(tiles, a->n_heads), ATTEND_THREADS,
                                    sizeof(attend_shared<2>), context, *a, c)
                           : LAUNCH(mla_attend_kernel<1>, dim3(tiles, a->n_heads), ATTEND_THREADS,
                                    sizeof(attend_shared<1>), context, *a, c));
        }
    return 0;
}
