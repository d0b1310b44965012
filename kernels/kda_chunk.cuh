/* kda_chunk.cuh - the chunk form of the recurrence, for appends of TARNK_KDA_CHUNK_MIN rows or
 * more; see kda_chunk.cu. */
#ifndef TARNK_KDA_CHUNK_CUH
#define TARNK_KDA_CHUNK_CUH

#include "launch.cuh"

/* Whether this device and these shapes can: K = V = 128, native numerics, room in the workspace. */
bool kda_chunk_can(const tarnk_kda_args *a, const tarnk_cuda *cuda);

/* All sequences of at least TARNK_KDA_CHUNK_MIN rows; others are left alone. */
int kda_chunk_run(const tarnk_kda_args *a, const tarnk_context *context);

#endif
