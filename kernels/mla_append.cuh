/* mla_append.cuh - attention of long appends; see mla_append.cu. */
#ifndef TARNK_MLA_APPEND_CUH
#define TARNK_MLA_APPEND_CUH

#include "launch.cuh"

/* Whether sequences of at least TARNK_MLA_APPEND_MIN rows are computed here: shapes, numerics,
 * room.
 */
bool mla_append_can(const tarnk_mla_args *a, const tarnk_cuda *cuda);

/* All such sequences; others are left alone. */
int mla_append_run(const tarnk_mla_args *a, const tarnk_context *context);

/* The i-th sequence of at least that many rows; n_seqs if there are not so many. */
TARNK_DEVICE uint32_t long_append(const tarnk_seq *seqs, uint32_t n_seqs, uint32_t i)
{
    for (uint32_t s = 0; s < n_seqs; s++)
        if (seqs[s].n_rows >= TARNK_MLA_APPEND_MIN && i-- == 0)
            return s;
    return n_seqs;
}

#endif
