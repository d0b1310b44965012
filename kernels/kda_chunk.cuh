/* kda_chunk.cuh - the chunk form of the recurrence, for appends of TARNK_KDA_CHUNK_MIN rows or
 * more; see kda_chunk.cu. */
#ifndef TARNK_KDA_CHUNK_CUH
#define TARNK_KDA_CHUNK_CUH

#include "launch.cuh"

/* Whether this device and these shapes can: K = V = 128, native numerics, room in the workspace. */
bool kda_chunk_can(const tarnk_kda_args *a, const tarnk_cuda *cuda);

/* All sequences of at least TARNK_KDA_CHUNK_MIN rows; others are left alone. */
int kda_chunk_run(const tarnk_kda_args *a, const tarnk_context *context);

#define CHUNK    64u
#define DIM      128u       /* K and V of a head */
#define X_STRIDE (DIM + 8u) /* bf16, in shared memory */
#define M_STRIDE (CHUNK + 8u)

/* What prepare leaves of a chunk and head, in bf16 but for the last. */
struct chunk_record {
    uint16_t w[CHUNK * DIM];
    uint16_t q[CHUNK * DIM];
    uint16_t k[CHUNK * DIM];
    uint16_t u[CHUNK * DIM];
    uint16_t p[CHUNK * CHUNK];
    float decay[DIM];
};
static_assert(sizeof(chunk_record) == 74240, "the workspace is counted in these");

struct chunk_segment {
    chunk_record *records;    /* [long sequences][n_chunks][n_heads] */
    uint32_t chunk, n_chunks; /* first one, and how many, of each sequence */
    const tarnk_export *exports;
    uint32_t n_exports;
};

/* The i-th sequence that is long enough; n_seqs if there are not so many. */
TARNK_DEVICE uint32_t long_seq(const tarnk_kda_args &a, uint32_t i)
{
    for (uint32_t s = 0; s < a.n_seqs; s++)
        if (a.seqs[s].n_rows >= TARNK_KDA_CHUNK_MIN && i-- == 0)
            return s;
    return a.n_seqs;
}

/* prepare of kda_prepare.cu, for up to n_long sequences. */
size_t kda_prepare_shared_bytes();
int kda_prepare(const tarnk_kda_args *a, const chunk_segment *segment, uint32_t n_long,
                const tarnk_context *context);

#endif
