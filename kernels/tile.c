/* tile.c - see tile.h.
 *
 * dots. Lanes run over k, because a row of a checkpoint is contiguous in k: weights are read in
 * place, unaligned, whatever their row length, and no repacked copy exists. An element has one
 * v16 accumulator over k in steps of 16 (the last one filled with zeros), then the tree of simd.h.
 * A tile of OUT x ROWS elements only sets how many accumulators are in flight: it fills the
 * registers, so that bf16 weights are widened once for all its rows. A tile at the edge repeats its
 * last weight row and drops the result rather than having code of its own. While a tile is
 * computed, the weights 8 rows on are asked for: rows are a few kilobytes, and the processor's own
 * prefetch starts anew at each row and each 4 KiB page. Measured with weights out of cache (Zen 4,
 * two cores, one row): 66 % of the read bandwidth without, 90 % with it; into the second-level
 * cache, as asking for the first level or for non-temporal lines was as slow as nothing. 1 to 8
 * weight rows side by side made no difference then.
 *
 * sums. Lanes run over the columns, terms are added one after another into registers.
 *
 * Rejected: packed weights with lanes over outputs, the usual form. It saves the trees (about 5 %
 * at k = 2304), but needs a second copy of the weights, 98 GB for the model this is for, and the
 * mapped checkpoint is shared between processes as it is. */
#include "tile.h"

#include "simd.h"

#if defined(__AVX512F__)
#    define DOT_OUT  4 /* 24 accumulators of 32 registers */
#    define DOT_ROWS 6
#    define SUM_VECS 4
#    define SUM_ROWS 6
#else
#    define DOT_OUT  2 /* 6 accumulators of two registers each, of 16 */
#    define DOT_ROWS 3
#    define SUM_VECS 2
#    define SUM_ROWS 3
#endif

#define DOT_OUT_ONE   4 /* with a single x row */
#define DOT_SUMS      ((DOT_OUT * DOT_ROWS + 3) / 4 * 4)
#define PREFETCH_ROWS 8

/* Adds products of 16 values of k to the accumulators of a tile; `lanes` < 16 at the end of a row.
 * The sizes are constants wherever this is expanded. */
SIMD_INLINE void dot_step(vpart (*acc)[SIMD_PARTS], const uint8_t *const *w, int is_bf16,
                          const float *const *x, uint32_t i, uint32_t lanes, const int n_out,
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
            vpart xv = lanes == SIMD_LANES ? part_load(x[r] + at)
                                           : v16_part(v16_load_n(x[r] + i, lanes), p);
            SIMD_UNROLL
            for (int o = 0; o < n_out; o++)
                acc[r * n_out + o][p] = part_fma(wv[o], xv, acc[r * n_out + o][p]);
        }
    }
}

/* sums[r * n_out + o]. The weights `ahead` bytes on are asked for meanwhile. */
SIMD_INLINE void dot_tile(const uint8_t *const *w, int is_bf16, const float *const *x, uint32_t k,
                          size_t ahead, float *sums, const int n_out, const int n_rows)
{
    vpart acc[DOT_SUMS][SIMD_PARTS];
    SIMD_UNROLL
    for (int a = 0; a < DOT_SUMS; a++) {
        SIMD_UNROLL
        for (int p = 0; p < SIMD_PARTS; p++)
            acc[a][p] = part_set1(0.0F);
    }
    uint32_t i = 0;
    for (; i + SIMD_LANES <= k; i += SIMD_LANES) {
        SIMD_UNROLL
        for (int o = 0; o < n_out; o++)
            __builtin_prefetch(w[o] + (is_bf16 ? 2 : 4) * (size_t)i + ahead, 0, 2);
        dot_step(acc, w, is_bf16, x, i, SIMD_LANES, n_out, n_rows);
    }
    if (i < k)
        dot_step(acc, w, is_bf16, x, i, k - i, n_out, n_rows);
    SIMD_UNROLL
    for (int a = 0; a < n_out * n_rows; a += 4) {
        v16 four[4] = {v16_join(acc[a]), v16_join(acc[a + 1]), v16_join(acc[a + 2]),
                       v16_join(acc[a + 3])};
        v16_sum4(four, sums + a);
    }
}

typedef void (*dot_fn)(const uint8_t *const *w, const float *const *x, uint32_t k, size_t ahead,
                       float *sums);

#define DOT_DEFINE(rows, out)                                                                      \
    static void dot_f32_##rows(const uint8_t *const *w, const float *const *x, uint32_t k,         \
                               size_t ahead, float *sums)                                          \
    {                                                                                              \
        dot_tile(w, 0, x, k, ahead, sums, out, rows);                                              \
    }                                                                                              \
    static void dot_bf16_##rows(const uint8_t *const *w, const float *const *x, uint32_t k,        \
                                size_t ahead, float *sums)                                         \
    {                                                                                              \
        dot_tile(w, 1, x, k, ahead, sums, out, rows);                                              \
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

/* One row of a tile: n sums to their place. */
static void finish_row(float *out, const float *sums, uint32_t n, tile_finish finish)
{
    v16 v = v16_load_n(sums, n);
    if (finish == TILE_ADD)
        v = v16_add(v16_load_n(out, n), v);
    else if (finish == TILE_ROUND)
        v = v16_round_bf16(v);
    v16_store_n(out, v, n);
}

void TARNK(tile_dots)(const tile_weights *w, uint32_t n_out, const float *const *x, uint32_t n_rows,
                      uint32_t k, float *out, size_t out_stride, tile_finish finish)
{
    const uint32_t out_step = n_rows == 1 ? DOT_OUT_ONE : DOT_OUT;
    const uint32_t n_tiles = div_up(n_rows, DOT_ROWS);
    const size_t ahead = PREFETCH_ROWS * w->row_bytes;
    for (uint32_t o = 0; o < n_out; o += out_step) {
        const uint8_t *rows[8];
        uint32_t outs = min_u32(out_step, n_out - o);
        for (uint32_t i = 0; i < out_step; i++)
            rows[i] = w->data + (o + min_u32(i, outs - 1)) * w->row_bytes;
        for (uint32_t t = 0, r = 0; t < n_tiles; t++) {
            /* Tiles of nearly equal height; none has one row unless it is the only one. */
            uint32_t height = (n_rows - r) / (n_tiles - t);
            float sums[DOT_SUMS];
            dot_fns[w->dtype == TARNK_BF16][height - 1](rows, x + r, k, ahead, sums);
            for (uint32_t i = 0; i < height; i++, r++)
                finish_row(out + r * out_stride + o, sums + i * out_step, outs, finish);
        }
    }
}

/* Columns [i, i + lanes) of n_rows results, n_vecs vectors of them; n_rows and n_vecs constant.
 * `lanes` counts in the last vector. */
SIMD_INLINE void sum_tile(const tile_weights *w, uint32_t n_terms, uint32_t i, uint32_t lanes,
                          const float *const *coef, float *const *out, const float *scale,
                          int is_bf16, const int n_rows, const int n_vecs)
{
    vpart acc[SUM_ROWS][SUM_VECS][SIMD_PARTS];
    SIMD_UNROLL
    for (int r = 0; r < n_rows; r++) {
        SIMD_UNROLL
        for (int v = 0; v < n_vecs; v++) {
            v16 old = v16_set1(0.0F);
            if (scale)
                old =
                    v16_mul(v16_set1(scale[r]), v16_load_upto(out[r] + i + v * SIMD_LANES, lanes));
            SIMD_UNROLL
            for (int p = 0; p < SIMD_PARTS; p++)
                acc[r][v][p] = v16_part(old, p);
        }
    }
    const uint8_t *row = w->data;
    for (uint32_t t = 0; t < n_terms; t++, row += w->row_bytes) {
        SIMD_UNROLL
        for (int p = 0; p < SIMD_PARTS; p++) {
            vpart wv[SUM_VECS];
            SIMD_UNROLL
            for (int v = 0; v < n_vecs; v++) {
                uint32_t at = i + (uint32_t)(v * SIMD_LANES);
                wv[v] = lanes == SIMD_LANES
                            ? part_load_as(row, is_bf16, at + (uint32_t)(p * SIMD_PART_LANES))
                            : v16_part(v16_load_as(row, is_bf16, at, lanes), p);
            }
            SIMD_UNROLL
            for (int r = 0; r < n_rows; r++) {
                vpart c = part_set1(coef[r][t]);
                SIMD_UNROLL
                for (int v = 0; v < n_vecs; v++)
                    acc[r][v][p] = part_fma(c, wv[v], acc[r][v][p]);
            }
        }
    }
    SIMD_UNROLL
    for (int r = 0; r < n_rows; r++) {
        SIMD_UNROLL
        for (int v = 0; v < n_vecs; v++)
            v16_store_upto(out[r] + i + v * SIMD_LANES, v16_join(acc[r][v]), lanes);
    }
}

/* Full tiles while they fit, then single vectors, the last one partial. */
SIMD_INLINE void sum_rows(const tile_weights *w, uint32_t n_terms, uint32_t n,
                          const float *const *coef, float *const *out, const float *scale,
                          int is_bf16, const int n_rows)
{
    uint32_t i = 0;
    for (; i + SUM_VECS * SIMD_LANES <= n; i += SUM_VECS * SIMD_LANES)
        sum_tile(w, n_terms, i, SIMD_LANES, coef, out, scale, is_bf16, n_rows, SUM_VECS);
    for (; i + SIMD_LANES <= n; i += SIMD_LANES)
        sum_tile(w, n_terms, i, SIMD_LANES, coef, out, scale, is_bf16, n_rows, 1);
    if (i < n)
        sum_tile(w, n_terms, i, n - i, coef, out, scale, is_bf16, n_rows, 1);
}

typedef void (*sum_fn)(const tile_weights *w, uint32_t n_terms, uint32_t n,
                       const float *const *coef, float *const *out, const float *scale);

#define SUM_DEFINE(rows)                                                                           \
    static void sum_f32_##rows(const tile_weights *w, uint32_t n_terms, uint32_t n,                \
                               const float *const *coef, float *const *out, const float *scale)    \
    {                                                                                              \
        sum_rows(w, n_terms, n, coef, out, scale, 0, rows);                                        \
    }                                                                                              \
    static void sum_bf16_##rows(const tile_weights *w, uint32_t n_terms, uint32_t n,               \
                                const float *const *coef, float *const *out, const float *scale)   \
    {                                                                                              \
        sum_rows(w, n_terms, n, coef, out, scale, 1, rows);                                        \
    }

SUM_DEFINE(1)
SUM_DEFINE(2)
SUM_DEFINE(3)
#if SUM_ROWS > 3
SUM_DEFINE(4)
SUM_DEFINE(5)
SUM_DEFINE(6)
#endif

static const sum_fn sum_fns[2][SUM_ROWS] = {
#if SUM_ROWS > 3
    {sum_f32_1, sum_f32_2, sum_f32_3, sum_f32_4, sum_f32_5, sum_f32_6},
    {sum_bf16_1, sum_bf16_2, sum_bf16_3, sum_bf16_4, sum_bf16_5, sum_bf16_6},
#else
    {sum_f32_1, sum_f32_2, sum_f32_3},
    {sum_bf16_1, sum_bf16_2, sum_bf16_3},
#endif
};

void TARNK(tile_sums)(const tile_weights *w, uint32_t n_terms, uint32_t n, const float *const *coef,
                      uint32_t n_rows, float *const *out, const float *scale)
{
    const uint32_t n_tiles = div_up(n_rows, SUM_ROWS);
    for (uint32_t t = 0, r = 0; t < n_tiles; t++) {
        uint32_t height = (n_rows - r) / (n_tiles - t);
        sum_fns[w->dtype == TARNK_BF16][height - 1](w, n_terms, n, coef + r, out + r,
                                                    scale ? scale + r : NULL);
        r += height;
    }
}
