/* tile.h - the two small products everything large is made of.
 *
 * dots: x rows times weight rows, lanes over k. sums: linear combinations of weight rows, lanes
 * over their columns. Both take fp32 or bf16 weights at any address and row length, and give each
 * element the same bits whatever else is computed with it. */
#ifndef TARNK_TILE_H
#define TARNK_TILE_H

#include "isa.h"
#include "workspace.h"

/* Does this ISA multiply bf16 pairs? */
#if defined(__AVX512BF16__)
#    define TILE_PAIRS 1
#else
#    define TILE_PAIRS 0
#endif

/* Rows of weights, or of latents. */
typedef struct tile_weights {
    const uint8_t *data; /* row 0 */
    size_t row_bytes;
    tarnk_dtype dtype;
    const uint8_t *next; /* as much that will be read after these: sums ask for it; or NULL */
} tile_weights;

typedef enum tile_finish { TILE_STORE = 0, TILE_ADD = 1, TILE_ROUND = 2 } tile_finish;

#define TILE_ROWS_MAX 72 /* x rows of one call: they should stay in the second-level cache */

/* Are x rows that meet such weights packed? */
static inline bool tile_packs(tarnk_dtype dtype)
{
    return TILE_PAIRS && dtype == TARNK_BF16;
}

/* A row of k values as dots wants it: rounded to bf16, zeros behind it. `out` has room for
 * packed_stride(k) elements. */
#if TILE_PAIRS
void TARNK(tile_pack)(const float *x, uint32_t k, uint16_t *out);
#endif

/* out[r * out_stride + o] = x[r] . w[o] over k elements, for o < n_out, r < n_rows <= MAX. Rows of
 * x are fp32, or packed where tile_packs(w->dtype). */
void TARNK(tile_dots)(const tile_weights *w, uint32_t n_out, const void *const *x, uint32_t n_rows,
                      uint32_t k, float *out, size_t out_stride, tile_finish finish);

/* out[r][i] = scale[r] out[r][i] + sum_t coef[r][t] w[t][i], t ascending, for i < n, r < n_rows;
 * without `scale` the old out is not read. Where tile_packs(w->dtype), coef is rounded to bf16 and
 * of each pair of terms the second comes first. */
void TARNK(tile_sums)(const tile_weights *w, uint32_t n_terms, uint32_t n, const float *const *coef,
                      uint32_t n_rows, float *const *out, const float *scale);

/* How many of n_rows x rows of k elements to put in one call of dots: blocks of nearly equal
 * height, whole tiles of six. */
static inline uint32_t tile_rows_for(uint32_t k, uint32_t n_rows)
{
    uint32_t most = (512U * 1024U / (TILE_PAIRS ? 2U : 4U)) / (k + 1U);
    most = most < 24U ? 24U : most > TILE_ROWS_MAX ? TILE_ROWS_MAX : most;
    return min_u32(most, div_up(div_up(n_rows, div_up(n_rows, most)), 6) * 6);
}

static inline tile_weights tile_weights_of(const tarnk_matrix *m, uint32_t first_row)
{
    size_t row_bytes = m->n_in * dtype_bytes(m->dtype);
    return (tile_weights){.data = (const uint8_t *)m->data + first_row * row_bytes,
                          .row_bytes = row_bytes,
                          .dtype = m->dtype};
}

#endif
