/* mla_block.cuh - the rows that mla.cu takes at a time, and what its kernels leave one another. */
#ifndef TARNK_MLA_BLOCK_CUH
#define TARNK_MLA_BLOCK_CUH

#include "launch.cuh"

#define BLOCK_ROWS 64u /* as on the CPU */

struct mla_block {
    uint32_t row, n_rows; /* of the step; with `compact`, of those of short appends alone */
    uint32_t compact;
    uint32_t splits_max;
    float *query;  /* [BLOCK_ROWS][n_heads][rank + rope] */
    float *mixed;  /* [BLOCK_ROWS][n_heads][rank] */
    float *limits; /* [BLOCK_ROWS][splits_max][n_heads][2]: largest exponent, sum */
    float *parts;  /* [BLOCK_ROWS][splits_max][n_heads][rank] */
};

#define NO_ROW 0xffffffffu

/* The row of the step that is the r-th of the block. */
TARNK_DEVICE uint32_t row_of(const tarnk_mla_args &a, const mla_block &b, uint32_t r)
{
    if (r >= b.n_rows)
        return NO_ROW;
    uint32_t i = b.row + r;
    if (!b.compact)
        return i;
    for (uint32_t s = 0; s < a.n_seqs; s++) {
        const uint32_t n = a.seqs[s].n_rows;
        if (n >= TARNK_MLA_APPEND_MIN)
            continue;
        if (i < n)
            return a.seqs[s].row_begin + i;
        i -= n;
    }
    return NO_ROW;
}

/* The first and the last kernel of a block, see mla_absorb.cu. */
int mla_query(const tarnk_mla_args *a, const mla_block *b, const tarnk_context *context);
int mla_value(const tarnk_mla_args *a, const mla_block *b, const tarnk_context *context);

#endif
