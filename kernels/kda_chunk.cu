#include "kda_chunk.cuh"
bool kda_chunk_can(const tarnk_kda_args *, const tarnk_cuda *) { return false; }
int kda_chunk_run(const tarnk_kda_args *, const tarnk_context *) { return 0; }
