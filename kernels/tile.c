/* tile.c - see tile.h.
 *
 * dots. Lanes run over k, because a row of a checkpoint is contiguous in k: weights are read in
 * place, unaligned, whatever their row length, and no repacked copy exists. An element has one
 * v16 accumulator over k in steps of 16 (the last one filled with zeros), then the tree of simd.h.
 * A tile of OUT x ROWS elements only sets how many accumulators are in flight: it fills the
 * registers, so that bf16 weights are widened once for all its rows.
 *
 * Where the processor multiplies bf16 pairs (TILE_PAIRS), bf16 weights meet x rounded to bf16: the
 * accumulator takes 32 of k at a time, lane i the pair 2i, 2i + 1. A whole tile has the same form.
 *
 * The weight rows of a tile do not lie next to one another: the outputs are cut into OUT streams,
 * each read from end to end, and a tile takes one row of each. The processor's own prefetch starts
 * anew at each row of a few kilobytes when four neighbours are read side by side, but follows four
 * long streams. Measured out of cache (Zen 4, K 2304, one row), in GB/s on one core and on two:
 * four neighbours 16 and 26, asking for them 8 rows ahead 21 and 29, streams 27 and 32; the plain
 * read loop 26 and 31.
 *
 * Rejected: weights repacked to [N/16][K/2][16][2] with lanes over outputs, the usual form. It
 * reads as fast (28 and 32 GB/s) and saves the trees: 229 GFLOP/s a core at every K where this form
 * has 226 at K 2304, 228 at 4096, 222 at 1024 and 189 at 256 (the processor's peak is 231). Those
 * few per cent would cost a second copy of the weights, 98 GB for the model this is for, made or
 * mapped before the first token; the mapped checkpoint is ready at once and shared between
 * processes.
 *
 * Rejected: stretches of k for all tiles of a weight row, their accumulators kept in memory from
 * one stretch to the next, so that the first-level cache holds what is read. It costs more than it
 * saves: 300 GFLOP/s on two cores with stretches of 512, 374 with 1,152, 390 without (K 2304, 512
 * rows, weights out of cache). Fetching further ahead, nearer, or each line only once moves nothing
 * by more than the noise of 3 %; nor does asking for the lines of results before they are stored,
 * storing them past the caches, or taking four neighbours and storing each tile at once.
 *
 * Rejected: the form of the repacked weights, turned as they are read, so that no copy is needed.
 * In quarters of 16 bytes (four outputs a register, sixteen bytes of x in each quarter) products of
 * 512 rows reach 425 GFLOP/s where this form has 384, but those of 72 rows stay where they are, and
 * of 16 and fewer, which a step of sessions is made of, fall by 7 to 20 %: turning and spreading
 * want the ports that multiply (8 products and 8 spreading loads take 10.6 cycles, 8 products
 * alone 7.9). And with four sums more per element, so that both forms give the same bits, nothing
 * is left of the gain.
 *
 * Tried, and not taken: lanes over 16 rows of x, packed so that one pair of all of them lies
 * together, and a weight's pair spread as it is loaded, in place. It needs no trees and a quarter
 * of the bytes. Out of cache 64 rows go from 245 to 373 GFLOP/s at K 128, from 385 to 432 at 4096
 * and not at all at 2304; 16 rows from 330 to 370. But in whole steps of a model (2 cores; old and
 * new step by step in turn, medians of the ratios) 512 rows take 0.99 of the time, 64 rows behind
 * 1,024 tokens 1.00, 16 sessions 1.04, 8 sessions 1.01, and one session, whose element must then
 * have the same four sums, 1.04 (with weights asked for 3 KB ahead; 1.1 with 1 KB). */
#include "tile.h"

#include "simd.h"

#if defined(__AVX512F__)
#    define DOT_OUT  4 /* 24 accumulators of 32 registers */
#    define DOT_ROWS 6
#else
#    define DOT_OUT  2 /* 6 accumulators of two registers each, of 16 */
#    define DOT_ROWS 3
#endif

#define DOT_OUT_ONE 4  /* with a single x row */
#define DOT_SUMS    32 /* at least OUT x ROWS, whole groups of 16 */
#define DOT_RUN     16 /* outputs of each stream before their results are stored */
#define TILES_MAX   ((TILE_ROWS_MAX + DOT_ROWS - 1) / DOT_ROWS)
#define AHEAD_BYTES 1024

/* Results of a tile's rows before they are stored: DOT_RUN neighbours of each stream, row r and
 * stream o at r n_out + o. They are turned when a run is done: a tile's own end must be short, it
 * is a quarter of its time at K 256. */
typedef struct dot_kept {
    float of[DOT_RUN][DOT_SUMS];
} dot_kept;

/* Sums of n_out x n_rows accumulators (and of those that fill up a group of four) to
 * kept->of[place]. */
SIMD_INLINE void dot_fold(const v16 *acc, dot_kept *kept, uint32_t place, const int n_out,
                          const int n_rows)
{
    float *sums = kept->of[place];
    const int n = n_out * n_rows, sixteens = n / 16 * 16, eights = n / 8 * 8;
    SIMD_UNROLL
    for (int a = 0; a < sixteens; a += 16)
        v16_store(sums + a, v16_sum16(acc + a));
    SIMD_UNROLL
    for (int a = sixteens; a < eights; a += 8)
        v16_sum8(acc + a, sums + a);
    SIMD_UNROLL
    for (int a = eights; a < n; a += 4)
        v16_sum4(acc + a, sums + a);
}

/* Adds products of 16 values of k to the accumulators of a tile; `lanes` < 16 at the end of a row.
 * The sizes are constants wherever this is expanded. */
SIMD_INLINE void dot_step(vpart (*acc)[SIMD_PARTS], const uint8_t *const *w, int is_bf16,
                          const void *const *rows, uint32_t i, uint32_t lanes, const int n_out,
                          const int n_rows)
{
    SIMD_UNROLL
    for (int p = 0; p < SIMD_PARTS; p++) {
        uint32_t at = i + (uint32_t)(p * SIMD_PART_LANES);
        vpart wv[8];
        SIMD_UNROLL
        for (int o = 0; o < n_out; o++)
            wv[o] = lanes == SIMD_LANES ? part_load_as(w[o], is_bf16, at)
                                        : v16_part(v16_load_as(w[o], is_bf16, i, lanes), p);
        SIMD_UNROLL
        for (int r = 0; r < n_rows; r++) {
            const float *x = rows[r];
            vpart xv =
                lanes == SIMD_LANES ? part_load(x + at) : v16_part(v16_load_n(x + i, lanes), p);
            SIMD_UNROLL
            for (int o = 0; o < n_out; o++)
                acc[r * n_out + o][p] = part_fma(wv[o], xv, acc[r * n_out + o][p]);
        }
    }
}

/* Which weights a tile asks for while it computes: at byte b of its rows, those at begin + b rate /
 * 256. Where one tile reads a row, it runs ahead of itself; where several do, each fetches its part
 * of the stream's next row, so that the first of them does not wait for memory. */
typedef struct dot_ahead {
    size_t begin;
    size_t rate;
} dot_ahead;

static dot_ahead ahead_of(size_t row_bytes, uint32_t tile, uint32_t n_tiles)
{
    if (n_tiles == 1)
        return (dot_ahead){AHEAD_BYTES, 256};
    return (dot_ahead){row_bytes + row_bytes * tile / n_tiles, 256 / n_tiles + 1};
}

SIMD_INLINE void dot_fetch(const uint8_t *const *w, size_t b, const dot_ahead *ahead,
                           const int n_out)
{
    const size_t at = ahead->begin + (b * ahead->rate >> 8);
    SIMD_UNROLL
    for (int o = 0; o < n_out; o++)
        __builtin_prefetch(w[o] + at, 0, 2);
}

SIMD_INLINE void dot_tile(const uint8_t *const *w, int is_bf16, const void *const *x, uint32_t k,
                          const dot_ahead *ahead, dot_kept *kept, uint32_t place, const int n_out,
                          const int n_rows)
{
    vpart acc[DOT_SUMS][SIMD_PARTS];
    v16 joined[DOT_SUMS];
    SIMD_UNROLL
    for (int a = 0; a < n_out * n_rows; a++) {
        SIMD_UNROLL
        for (int p = 0; p < SIMD_PARTS; p++)
            acc[a][p] = part_set1(0.0F);
    }
    uint32_t i = 0;
    for (; i + SIMD_LANES <= k; i += SIMD_LANES) {
        dot_fetch(w, (is_bf16 ? 2 : 4) * (size_t)i, ahead, n_out);
        dot_step(acc, w, is_bf16, x, i, SIMD_LANES, n_out, n_rows);
    }
    if (i < k)
        dot_step(acc, w, is_bf16, x, i, k - i, n_out, n_rows);
    SIMD_UNROLL
    for (int a = 0; a < (n_out * n_rows + 3) / 4 * 4; a++)
        joined[a] = a < n_out * n_rows ? v16_join(acc[a]) : v16_set1(0.0F);
    dot_fold(joined, kept, place, n_out, n_rows);
}

#if TILE_PAIRS
/* Adds products of 32 values of k; `lanes` < 32 at the end of a weight row. */
SIMD_INLINE void pair_step(v16 *acc, const uint8_t *const *w, const void *const *rows, size_t i,
                           uint32_t lanes, const int n_out, const int n_rows)
{
    vpairs wv[8];
    SIMD_UNROLL
    for (int o = 0; o < n_out; o++)
        wv[o] = pairs_load_upto(w[o] + 2 * i, lanes);
    SIMD_UNROLL
    for (int r = 0; r < n_rows; r++) {
        vpairs xv = pairs_load((const uint16_t *)rows[r] + i);
        SIMD_UNROLL
        for (int o = 0; o < n_out; o++)
            acc[r * n_out + o] = pairs_fma(wv[o], xv, acc[r * n_out + o]);
    }
}

/* The same of bf16 pairs; a row of x goes on with zeros to a multiple of 32. */
SIMD_INLINE void dot_tile_pairs(const uint8_t *const *w, const void *const *rows, uint32_t k,
                                const dot_ahead *ahead, dot_kept *kept, uint32_t place,
                                const int n_out, const int n_rows)
{
    v16 acc[DOT_SUMS];
    SIMD_UNROLL
    for (int a = 0; a < n_out * n_rows; a++)
        acc[a] = v16_set1(0.0F);
    const size_t end = k / TILE_PAIR_STEP * TILE_PAIR_STEP;
    size_t i = 0;
    for (; i < end; i += TILE_PAIR_STEP) {
        dot_fetch(w, 2 * i, ahead, n_out);
        pair_step(acc, w, rows, i, TILE_PAIR_STEP, n_out, n_rows);
    }
    if (i < k)
        pair_step(acc, w, rows, i, k - (uint32_t)i, n_out, n_rows);
    dot_fold(acc, kept, place, n_out, n_rows);
}
#endif

typedef void (*dot_fn)(const uint8_t *const *w, const void *const *x, uint32_t k,
                       const dot_ahead *ahead, dot_kept *kept, uint32_t place);

#if TILE_PAIRS
#    define DOT_TILE_BF16(w, x, k, ahead, kept, place, out, rows)                                  \
        dot_tile_pairs(w, x, k, ahead, kept, place, out, rows)
#else
#    define DOT_TILE_BF16(w, x, k, ahead, kept, place, out, rows)                                  \
        dot_tile(w, 1, x, k, ahead, kept, place, out, rows)
#endif

#define DOT_DEFINE(rows, out)                                                                      \
    static void dot_f32_##rows(const uint8_t *const *w, const void *const *x, uint32_t k,          \
                               const dot_ahead *ahead, dot_kept *kept, uint32_t place)             \
    {                                                                                              \
        dot_tile(w, 0, x, k, ahead, kept, place, out, rows);                                       \
    }                                                                                              \
    static void dot_bf16_##rows(const uint8_t *const *w, const void *const *x, uint32_t k,         \
                                const dot_ahead *ahead, dot_kept *kept, uint32_t place)            \
    {                                                                                              \
        DOT_TILE_BF16(w, x, k, ahead, kept, place, out, rows);                                     \
    }

DOT_DEFINE(1, DOT_OUT_ONE)
DOT_DEFINE(2, DOT_OUT)
DOT_DEFINE(3, DOT_OUT)
#if DOT_ROWS > 3
DOT_DEFINE(4, DOT_OUT)
DOT_DEFINE(5, DOT_OUT)
DOT_DEFINE(6, DOT_OUT)
#endif

static const dot_fn dot_fns[2][DOT_ROWS] = {
#if DOT_ROWS > 3
    {dot_f32_1, dot_f32_2, dot_f32_3, dot_f32_4, dot_f32_5, dot_f32_6},
    {dot_bf16_1, dot_bf16_2, dot_bf16_3, dot_bf16_4, dot_bf16_5, dot_bf16_6},
#else
    {dot_f32_1, dot_f32_2, dot_f32_3},
    {dot_bf16_1, dot_bf16_2, dot_bf16_3},
#endif
};

/* One call of tile_dots. */
typedef struct dot_call {
    const tile_weights *w;
    const void *const *x;
    uint32_t n_rows;
    uint32_t k;
    float *out;
    size_t out_stride;
    tile_finish finish;
} dot_call;

/* n outputs of a row to their place. */
static void finish_row(float *out, v16 v, uint32_t n, tile_finish finish)
{
    if (finish == TILE_ADD)
        v = v16_add(v16_load_n(out, n), v);
    else if (finish == TILE_ROUND)
        v = v16_round_bf16(v);
    v16_store_n(out, v, n);
}

/* The n places of a tile of n_rows rows to `out`: those of stream s begin at s x apart. */
static void finish_tile(const dot_call *c, const dot_kept *kept, float *out, uint32_t n_rows,
                        uint32_t step, uint32_t n_streams, uint32_t apart, uint32_t n)
{
    for (uint32_t at = 0; at < step * n_rows; at += SIMD_LANES) {
        v16 rows[SIMD_LANES], turned[SIMD_LANES];
        for (uint32_t i = 0; i < SIMD_LANES; i++)
            rows[i] = i < n ? v16_load(kept->of[i] + at) : v16_set1(0.0F);
        v16_turn(rows, turned);
        for (uint32_t i = 0; i < SIMD_LANES && at + i < step * n_rows; i++) {
            const uint32_t r = (at + i) / step, s = (at + i) % step;
            if (s < n_streams)
                finish_row(out + r * c->out_stride + s * apart, turned[i], n, c->finish);
        }
    }
}

/* Tiles of nearly equal height; none has one row unless it is the only one. */
static uint32_t tile_height(const dot_call *c, uint32_t first_row, uint32_t tile, uint32_t n_tiles)
{
    return (c->n_rows - first_row) / (n_tiles - tile);
}

/* Outputs [first, first + n) of n_streams streams which begin `apart` outputs apart; a tile has
 * `step` of them and repeats its last one where there are fewer. */
static void dot_run(const dot_call *c, uint32_t step, uint32_t n_streams, uint32_t apart,
                    uint32_t first, uint32_t n)
{
    dot_kept kept[TILES_MAX];
    const uint32_t n_tiles = div_up(c->n_rows, DOT_ROWS);
    const dot_fn *fns = dot_fns[c->w->dtype == TARNK_BF16];
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *rows[DOT_OUT_ONE];
        for (uint32_t s = 0; s < step; s++)
            rows[s] = c->w->data +
                      (size_t)(first + i + min_u32(s, n_streams - 1) * apart) * c->w->row_bytes;
        for (uint32_t t = 0, r = 0, height; t < n_tiles; t++, r += height) {
            const dot_ahead ahead = ahead_of(c->w->row_bytes, t, n_tiles);
            height = tile_height(c, r, t, n_tiles);
            fns[height - 1](rows, c->x + r, c->k, &ahead, &kept[t], i);
        }
    }
    for (uint32_t t = 0, r = 0, height; t < n_tiles; t++, r += height) {
        height = tile_height(c, r, t, n_tiles);
        finish_tile(c, &kept[t], c->out + r * c->out_stride + first, height, step, n_streams, apart,
                    n);
    }
}

void TARNK(tile_dots)(const tile_weights *w, uint32_t n_out, const void *const *x, uint32_t n_rows,
                      uint32_t k, float *out, size_t out_stride, tile_finish finish)
{
    const dot_call call = {w, x, n_rows, k, out, out_stride, finish};
    const uint32_t step = n_rows == 1 ? DOT_OUT_ONE : DOT_OUT, apart = n_out / step;
    for (uint32_t i = 0; i < apart; i += DOT_RUN)
        dot_run(&call, step, step, apart, i, min_u32(DOT_RUN, apart - i));
    if (n_out % step > 0)
        dot_run(&call, step, n_out % step, 1, apart * step, 1);
}

#if TILE_PAIRS
void TARNK(tile_pack)(const float *x, uint32_t k, uint16_t *out)
{
    const uint32_t end = div_up(k, TILE_PAIR_STEP) * TILE_PAIR_STEP;
    for (uint32_t i = 0; i < end; i += SIMD_LANES) {
        v16 v = i >= k ? v16_set1(0.0F) : v16_load_upto(x + i, simd_lanes_left(k, i));
        pairs_store_rounded(out + i, v, SIMD_LANES);
    }
}
#endif
