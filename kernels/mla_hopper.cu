/* mla_hopper.cu - attend of mla_append.cu for 9.0: wgmma, and a warp that only copies.
 *
 * A block is 128 rows of a head: two warpgroups of 64 rows and one whose first lane asks for keys
 * and values, a tile of 128 of each, two tiles ahead. Tiles lie in the workspace as they shall lie
 * in shared memory, so a tile is three bulk copies and no address is worked out for it. While the
 * tensor cores multiply tile j's queries and keys and tile j - 1's probabilities and values, one
 * after the other, the warpgroup takes the exponents of tile j; besides, one warpgroup's exponents
 * run beside the other's products. The order of a row's sums is by key tiles alone: where chunks
 * begin does not show in the bits, which are not those of the other attend.
 *
 * Bytes: 80 KB a tile of keys for each 128 rows of a head, from the second-level cache, where the
 * 16 blocks of a head that walk the same tiles side by side find them; O and limits 8 V a row, head
 * and chunk. FLOPs: 2 * 320 a row, head and key.
 *
 * What it can reach on an H200: a tile is 10.5 MFLOP, 2450 clocks of a multiprocessor at the 990
 * TFLOP/s of the tensor cores, 16,384 exponents are 1024 clocks of their unit and their scaling,
 * sums and rounding about 900 of the others. Were nothing to overlap, 4400 clocks: 550 TFLOP/s; 80
 * KB in 4400 clocks of 132 multiprocessors are 4.3 TB/s of the second-level cache's 5.5. Half of
 * the exponents hidden, 640. The tiles' expansion is 0.28 TFLOP for 32K keys, 0.8 ms at what
 * wide.cuh reaches: 6 % of an append of 8192 rows, 20 % of one of 2048.
 *
 * Shared: 209 KB. Registers: 168 to begin with, then 240 for those that multiply. */
#include "mla_append.cuh"

#include "product.cuh"

#define ROWS           128u /* of a block */
#define TEAM           128u /* threads of a warpgroup */
#define TEAMS          2u
#define THREADS        ((TEAMS + 1u) * TEAM)
#define COPY_REGISTERS 24
#define TEAM_REGISTERS 240
#define STAGES         2u
#define COLUMNS        3u    /* blocks of 64 of a query or key */
#define EIGHT          1024u /* bytes of 8 rows of a block */
#define STEP           16u   /* terms of a product */

struct hopper_keys {
    append_block k[COLUMNS]; /* the last is the shared part */
};
struct hopper_shared {
    append_block q[COLUMNS];
    hopper_keys keys[STAGES];
    append_block values[STAGES][APPEND_V / 64];
    uint64_t keys_full[STAGES], keys_free[STAGES], values_full[STAGES], values_free[STAGES];
};
static_assert(sizeof(hopper_shared) <= 227 * 1024, "a block of 9.0 has no more");
static_assert(sizeof(append_block) % EIGHT == 0, "tiles begin at its multiples");

/* Which stage tile i is in, and in which of two phases its barriers are. */
TARNK_DEVICE uint32_t stage_of(uint32_t i)
{
    return i % STAGES;
}

TARNK_DEVICE uint32_t phase_of(uint32_t i)
{
    return i / STAGES % 2;
}

/* ---- the copying warp ------------------------------------------------------------------------ */

TARNK_DEVICE void ask_for_keys(hopper_shared *s, const append_tile *tile, const append_block *rope,
                               uint32_t i)
{
    const uint32_t stage = stage_of(i);
    uint64_t *full = &s->keys_full[stage];
    mbarrier_wait(&s->keys_free[stage], phase_of(i) ^ 1);
    mbarrier_arrive(full, sizeof(hopper_keys));
    copy_bulk(s->keys[stage].k, tile->k, sizeof tile->k, full);
    copy_bulk(&s->keys[stage].k[2], rope, sizeof *rope, full);
}

TARNK_DEVICE void ask_for_values(hopper_shared *s, const append_tile *tile, uint32_t i)
{
    const uint32_t stage = stage_of(i);
    uint64_t *full = &s->values_full[stage];
    mbarrier_wait(&s->values_free[stage], phase_of(i) ^ 1);
    mbarrier_arrive(full, sizeof tile->v);
    copy_bulk(s->values[stage], tile->v, sizeof tile->v, full);
}

TARNK_DEVICE void copy_tiles(hopper_shared *s, const append_chunk &c, uint32_t n_heads,
                             uint32_t head, uint32_t n_tiles)
{
    const append_tile *tile = c.tiles + head;
    ask_for_keys(s, tile, c.ropes, 0);
    for (uint32_t i = 0; i < n_tiles; i++, tile += n_heads) {
        if (i + 1 < n_tiles)
            ask_for_keys(s, tile + n_heads, c.ropes + i + 1, i + 1);
        ask_for_values(s, tile, i);
    }
}

/* ---- the warpgroups -------------------------------------------------------------------------- */

TARNK_DEVICE void fetch_queries(const tarnk_mla_args &a, const tarnk_seq &s, uint32_t head,
                                uint32_t first, append_block *to)
{
    for (uint32_t i = threadIdx.x; i < ROWS * (APPEND_QK / 8); i += THREADS) {
        const uint32_t r = i / (APPEND_QK / 8), at = i % (APPEND_QK / 8) * 8;
        uint4 q = make_uint4(0, 0, 0, 0);
        if (first + r < s.n_rows)
            q = load_eight(a.q +
                           ((s.row_begin + static_cast<size_t>(first + r)) * a.n_heads + head) *
                               APPEND_QK +
                           at);
        *reinterpret_cast<uint4 *>(to[at / 64].row + append_place(r, at % 64)) = q;
    }
}

/* Starts S of this warpgroup's rows and a tile of keys. */
TARNK_DEVICE void start_scores(float (&score)[16][4], const hopper_shared *s, uint32_t stage,
                               uint32_t team)
{
    wgmma_settle(score);
    wgmma_fence();
    uint64_t q = wgmma_tile(s->q[0].row + team * 64 * 64, EIGHT, 16);
    uint64_t k = wgmma_tile(s->keys[stage].k[0].row, EIGHT, 16);
    anew(&q);
    anew(&k);
#pragma unroll
    for (uint32_t d = 0; d < APPEND_QK; d += STEP) {
        const auto behind = static_cast<uint32_t>(d / 64 * sizeof(append_block) + d % 64 * 2);
        wgmma_rows(score, wgmma_behind(q, behind), wgmma_behind(k, behind), d > 0);
    }
    wgmma_commit();
}

/* Starts O += P V of a tile. */
TARNK_DEVICE void start_values(float (&o)[16][4], const uint32_t (&p)[8][4], const hopper_shared *s,
                               uint32_t stage)
{
    wgmma_settle(o);
    wgmma_fence();
    uint64_t v = wgmma_tile(s->values[stage][0].row, EIGHT, sizeof(append_block));
    anew(&v);
#pragma unroll
    for (uint32_t k = 0; k < APPEND_KEYS; k += STEP)
        wgmma_columns(o, p[k / STEP], wgmma_behind(v, k * 128));
    wgmma_commit();
}

/* Scores to probabilities in place. n_seen: keys of the tile that row g sees; row g + 8 sees 8
 * more. shrink: what all before is to be multiplied by. */
TARNK_DEVICE void tile_softmax(float (&score)[16][4], row_state *state, float shrink[2],
                               int32_t n_seen, float scale, uint32_t t)
{
    if (n_seen < static_cast<int32_t>(APPEND_KEYS))
#pragma unroll
        for (int n = 0; n < 16; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const auto key = static_cast<int32_t>(n * 8 + t * 2) + i % 2;
                score[n][i] = key < n_seen + i / 2 * 8 ? score[n][i] : -INFINITY;
            }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = state->top[h], sum = 0;
#pragma unroll
        for (int n = 0; n < 16; n++)
            top = fmaxf(top, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(TARNK_WARP_ALL, top, 1));
        top = fmaxf(top, __shfl_xor_sync(TARNK_WARP_ALL, top, 2));
        /* The first key is seen by every row that is there, so the rest may subtract it. */
        const float base = top == -INFINITY ? 0.0f : top * scale;
        shrink[h] = exp2_fast(fmaf(state->top[h], scale, -base));
#pragma unroll
        for (int n = 0; n < 16; n++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                score[n][2 * h + c] = exp2_fast(fmaf(score[n][2 * h + c], scale, -base));
                sum += score[n][2 * h + c];
            }
        sum += __shfl_xor_sync(TARNK_WARP_ALL, sum, 1);
        sum += __shfl_xor_sync(TARNK_WARP_ALL, sum, 2);
        state->sum[h] = fmaf(state->sum[h], shrink[h], sum);
        state->top[h] = top;
    }
}

/* P as an operand, and O shrunk, for the next start_values. */
TARNK_DEVICE void ready_values(float (&o)[16][4], uint32_t (&p)[8][4], const float (&score)[16][4],
                               const float shrink[2])
{
#pragma unroll
    for (int n = 0; n < 16; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            o[n][2 * h] *= shrink[h];
            o[n][2 * h + 1] *= shrink[h];
            p[n / 2][n % 2 * 2 + h] = bf16_pack(score[n][2 * h], score[n][2 * h + 1]);
        }
}

TARNK_DEVICE void attend_tiles(hopper_shared *s, float (&o)[16][4], row_state *state,
                               uint32_t n_tiles, int32_t n_seen, uint32_t team, uint32_t lane)
{
    const float scale = APPEND_LOG2_E / sqrtf(static_cast<float>(APPEND_QK));
    float score[16][4], shrink[2];
    uint32_t p[8][4];
    mbarrier_wait(&s->keys_full[0], 0);
    start_scores(score, s, 0, team);
    wgmma_wait<0>();
    wgmma_settle(score);
    if (lane == 0)
        mbarrier_arrive(&s->keys_free[0], 0);
    tile_softmax(score, state, shrink, n_seen, scale, lane % 4);
    ready_values(o, p, score, shrink);
#pragma unroll 1
    for (uint32_t i = 1; i < n_tiles; i++) {
        const uint32_t stage = stage_of(i), before = stage_of(i - 1);
        n_seen -= static_cast<int32_t>(APPEND_KEYS);
        mbarrier_wait(&s->keys_full[stage], phase_of(i));
        start_scores(score, s, stage, team);
        mbarrier_wait(&s->values_full[before], phase_of(i - 1));
        start_values(o, p, s, before);
        wgmma_wait<1>();
        wgmma_settle(score);
        if (lane == 0)
            mbarrier_arrive(&s->keys_free[stage], 0);
        tile_softmax(score, state, shrink, n_seen, scale, lane % 4);
        wgmma_wait<0>();
        wgmma_settle(o);
        if (lane == 0)
            mbarrier_arrive(&s->values_free[before], 0);
        ready_values(o, p, score, shrink);
    }
    mbarrier_wait(&s->values_full[stage_of(n_tiles - 1)], phase_of(n_tiles - 1));
    start_values(o, p, s, stage_of(n_tiles - 1));
    wgmma_wait<0>();
    wgmma_settle(o);
}

/* What the chunk before left. A row that is not there takes the last one's: nothing of it is kept.
 */
TARNK_DEVICE void load_rows(const row_place &p, float (&o)[16][4], row_state *state)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        state->top[h] = p.limits[h][0];
        state->sum[h] = p.limits[h][1];
#pragma unroll
        for (int n = 0; n < 16; n++) {
            o[n][2 * h] = p.out[h][n * 8];
            o[n][2 * h + 1] = p.out[h][n * 8 + 1];
        }
    }
}

/* FIRST: of the sequence's chunks; nothing was left before. */
template <bool FIRST>
static __global__ void __launch_bounds__(THREADS, 1)
    mla_hopper_kernel(tarnk_mla_args a, append_chunk c)
{
    auto *s = reinterpret_cast<hopper_shared *>(shared_bytes());
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y;
    const uint32_t first = (gridDim.x - 1 - blockIdx.x) * ROWS; /* the longest begin first */
    previous_wait();
    next_start();
    if (!WGMMA_HERE) /* compiled for another architecture: never launched there */
        return;
    const uint32_t idx = long_append(a.seqs, a.n_seqs, c.which);
    if (idx == a.n_seqs || first >= a.seqs[idx].n_rows)
        return;
    const tarnk_seq seq = a.seqs[idx];
    const uint32_t rows_end = seq.position + min_u32(first + ROWS, seq.n_rows);
    const uint32_t key_end = min_u32(rows_end, c.key + c.n_keys);
    if (key_end <= c.key)
        return;
    const uint32_t n_tiles = (key_end - c.key + APPEND_KEYS - 1) / APPEND_KEYS;
    if (threadIdx.x == 0)
        for (uint32_t i = 0; i < STAGES; i++) {
            mbarrier_init(&s->keys_full[i], 1);
            mbarrier_init(&s->values_full[i], 1);
            mbarrier_init(&s->keys_free[i], TEAMS * TEAM / 32);
            mbarrier_init(&s->values_free[i], TEAMS * TEAM / 32);
        }
    fetch_queries(a, seq, head, first, s->q);
    fence_async();
    __syncthreads();
    if (warp / 4 == TEAMS) {
        registers_fewer<COPY_REGISTERS>();
        if (warp % 4 == 0 && lane == 0)
            copy_tiles(s, c, a.n_heads, head, n_tiles);
    } else {
        registers_more<TEAM_REGISTERS>();
        uint32_t row = first + warp * 16 + lane / 4;
        float o[16][4] = {};
        row_state state = {{-INFINITY, -INFINITY}, {0, 0}};
        if (!FIRST)
            load_rows(place_rows(a, c, seq, head, row, lane % 4), o, &state);
        attend_tiles(s, o, &state, n_tiles,
                     static_cast<int32_t>(seq.position + row + 1) - static_cast<int32_t>(c.key),
                     warp / 4, lane);
        anew(&row);
        store_rows(place_rows(a, c, seq, head, row, lane % 4), rows_end <= c.key + c.n_keys,
                   a.round, o, state, lane % 4);
    }
}

size_t mla_hopper_shared()
{
    return sizeof(hopper_shared);
}

int mla_hopper_attend(const tarnk_mla_args *a, const append_chunk *c, uint32_t rows_max,
                      const tarnk_context *context)
{
    const dim3 grid(div_up(rows_max, ROWS), a->n_heads);
    return c->key == 0 ? LAUNCH(mla_hopper_kernel<true>, grid, THREADS, sizeof(hopper_shared),
                                context, *a, *c)
                       : LAUNCH(mla_hopper_kernel<false>, grid, THREADS, sizeof(hopper_shared),
                                context, *a, *c);
}
