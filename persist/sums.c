#include "sums.h"

#include "bytes.h"

#include <xxhash.h>

void tarnp_sum128(const void *data, size_t n_bytes, uint8_t out[TARNP_SUM_BYTES])
{
    XXH128_hash_t sum = XXH3_128bits(data, n_bytes);
    tarni_store_u64(out, sum.low64);
    tarni_store_u64(out + 8, sum.high64);
}

uint64_t tarnp_sum64(const void *data, size_t n_bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, n_bytes, seed);
}
