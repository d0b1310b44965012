/* tile_sums.c - linear combinations of weight rows; see tile.h.
 *
 * Lanes run over the columns, terms are added one after another into registers. Where the processor
 * multiplies bf16 pairs, two rows of bf16 weights are zipped into pairs as they are read, and terms
 * go in twos. */
#include "tile.h"

#include "simd.h"

#if defined(__AVX512F__)
#    define SUM_VECS 4
#    define SUM_ROWS 6
#else
#    define SUM_VECS 2
#    define SUM_ROWS 3
#endif

#define PAIR_VECS  2   /* of 32 columns */
#define PAIR_TERMS 128 /* even: pairs do not depend on where a stretch ends */

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

#if TILE_PAIRS
/* Up to PAIR_TERMS terms of n_rows results, coefficients as pairs. */
typedef struct pair_coefs {
    uint16_t of[SUM_ROWS][PAIR_TERMS];
} pair_coefs;

static void pair_coefs_fill(pair_coefs *c, const float *const *coef, uint32_t first,
                            uint32_t n_terms, uint32_t n_rows)
{
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t t = 0; t < n_terms; t += SIMD_LANES) {
            v16 v = v16_load_upto(coef[r] + first + t, simd_lanes_left(n_terms, t));
            pairs_store_rounded(c->of[r] + t, v, SIMD_LANES);
        }
}

/* Columns [i, i + lanes) of n_rows results, lanes <= 32 in each of n_vecs; `scale` as above, NULL
 * with old values kept as they are if `more`. */
SIMD_INLINE void pair_sum_tile(const tile_weights *w, uint32_t n_terms, uint32_t i, uint32_t lanes,
                               const pair_coefs *coefs, float *const *out, const float *scale,
                               bool more, const int n_rows, const int n_vecs)
{
    v16 acc[SUM_ROWS][PAIR_VECS][2];
    const uint32_t first = min_u32(lanes, SIMD_LANES), second = lanes - first;
    SIMD_UNROLL
    for (int r = 0; r < n_rows; r++) {
        SIMD_UNROLL
        for (int v = 0; v < n_vecs; v++) {
            v16 a = v16_set1(0.0F), b = a;
            const float *old = out[r] + i + v * TILE_PAIR_STEP;
            if (scale || more) {
                v16 factor = v16_set1(more ? 1.0F : scale[r]);
                a = v16_mul(factor, v16_load_upto(old, first));
                b = second > 0 ? v16_mul(factor, v16_load_upto(old + SIMD_LANES, second)) : b;
            }
            pairs_order(a, b, &acc[r][v][0], &acc[r][v][1]);
        }
    }
    const uint8_t *after = w->next ? w->next : w->data;
    for (uint32_t t = 0; t < n_terms; t += 2) {
        const size_t offset = t * w->row_bytes + 2 * (size_t)i;
        const uint8_t *row = w->data + offset;
        vpairs lo[PAIR_VECS], hi[PAIR_VECS];
        SIMD_UNROLL
        for (int v = 0; v < n_vecs; v++) {
            /* A last term alone is paired with zeros: what lies behind it is not read. */
            const uint8_t *at = row + 2 * v * TILE_PAIR_STEP;
            __builtin_prefetch(after + offset + 2 * v * TILE_PAIR_STEP, 0, 2);
            __builtin_prefetch(after + offset + 2 * v * TILE_PAIR_STEP + w->row_bytes, 0, 2);
            pairs_zip(pairs_load_upto(at, lanes),
                      t + 1 < n_terms ? pairs_load_upto(at + w->row_bytes, lanes) : (vpairs){0},
                      &lo[v], &hi[v]);
        }
        SIMD_UNROLL
        for (int r = 0; r < n_rows; r++) {
            vpairs c = pairs_set1(coefs->of[r] + t);
            SIMD_UNROLL
            for (int v = 0; v < n_vecs; v++) {
                acc[r][v][0] = pairs_fma(lo[v], c, acc[r][v][0]);
                acc[r][v][1] = pairs_fma(hi[v], c, acc[r][v][1]);
            }
        }
    }
    SIMD_UNROLL
    for (int r = 0; r < n_rows; r++) {
        SIMD_UNROLL
        for (int v = 0; v < n_vecs; v++) {
            v16 a, b;
            float *to = out[r] + i + v * TILE_PAIR_STEP;
            pairs_unorder(acc[r][v][0], acc[r][v][1], &a, &b);
            v16_store_upto(to, a, first);
            if (second > 0)
                v16_store_upto(to + SIMD_LANES, b, second);
        }
    }
}

/* Terms a stretch at a time: an element continues from its value in memory, bit for bit. */
SIMD_INLINE void sum_rows_pairs(const tile_weights *w, uint32_t n_terms, uint32_t n,
                                const float *const *coef, float *const *out, const float *scale,
                                const int n_rows)
{
    pair_coefs coefs;
    for (uint32_t first = 0; first < n_terms; first += PAIR_TERMS) {
        const uint32_t terms = min_u32(PAIR_TERMS, n_terms - first);
        const size_t begin = first * w->row_bytes;
        const tile_weights part = {w->data + begin, w->row_bytes, w->dtype,
                                   w->next ? w->next + begin : NULL};
        const bool more = first > 0;
        const uint32_t wide = PAIR_VECS * TILE_PAIR_STEP;
        uint32_t i = 0;
        pair_coefs_fill(&coefs, coef, first, terms, (uint32_t)n_rows);
        for (; i + wide <= n; i += wide)
            pair_sum_tile(&part, terms, i, TILE_PAIR_STEP, &coefs, out, scale, more, n_rows,
                          PAIR_VECS);
        for (; i < n; i += TILE_PAIR_STEP)
            pair_sum_tile(&part, terms, i, min_u32(TILE_PAIR_STEP, n - i), &coefs, out, scale, more,
                          n_rows, 1);
    }
}
#endif

#if TILE_PAIRS
#    define SUM_ROWS_BF16(w, n_terms, n, coef, out, scale, rows)                                   \
        sum_rows_pairs(w, n_terms, n, coef, out, scale, rows)
#else
#    define SUM_ROWS_BF16(w, n_terms, n, coef, out, scale, rows)                                   \
        sum_rows(w, n_terms, n, coef, out, scale, 1, rows)
#endif

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
        SUM_ROWS_BF16(w, n_terms, n, coef, out, scale, rows);                                      \
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
