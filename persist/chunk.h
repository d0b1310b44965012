/* chunk.h - the stored value of a chunk: a header of 80 bytes, then the payload of a codec.
 *
 *     OFFSET  SIZE  FIELD                                     (little-endian)
 *     0       4     magic "TCHK"
 *     4       1     header version, 1
 *     5       1     codec (tarnp_codec_id)
 *     6       1     elem (tarnp_elem)
 *     7       1     flags, 0
 *     8       4     raw bytes
 *     12      4     payload bytes
 *     16      8     id
 *     24      16    XXH3-128 of the payload
 *     40      1     owner: section kind
 *     41      3     0
 *     44      4     owner: first (the caller's index)
 *     48      4     owner: count
 *     52      4     0, for the id of an encryption key: only with feature bit 0 (records.h)
 *     56      16    0, for a nonce of random bytes
 *     72      8     XXH3-64 of the bytes before
 *
 * The sum kept in the manifest is the XXH3-128 of the header. The header holds the sum of the
 * payload, so together they cover the whole value; and a payload can be hashed before its id is
 * known, outside the write lock. The header's own sum is for salvage without a manifest. */
#ifndef TARNP_CHUNK_H
#define TARNP_CHUNK_H

#include "codec.h"
#include "sums.h"
#include "tables.h"

#define TARNP_CHUNK_HEAD_BYTES 80

typedef struct tarnp_chunk_head {
    uint64_t id;
    uint32_t codec;
    tarnp_elem elem;
    tarnp_section_kind kind;
    uint32_t first, count;
    uint32_t raw_bytes;
    uint32_t payload_bytes;
    uint8_t payload_sum[TARNP_SUM_BYTES];
} tarnp_chunk_head;

void tarnp_chunk_head_put(const tarnp_chunk_head *head, uint8_t out[TARNP_CHUNK_HEAD_BYTES]);
/* CORRUPT, or FORMAT for a newer header. */
tarn_status tarnp_chunk_head_get(const uint8_t at[TARNP_CHUNK_HEAD_BYTES], tarnp_chunk_head *out,
                                 tarn_error *err);

/* Gives a stored value whose header is good another id; `sum` is then the one for its manifest. */
void tarnp_chunk_renumber(uint8_t *value, uint64_t id, uint8_t sum[TARNP_SUM_BYTES]);

/* What a manifest says of a chunk. */
typedef struct tarnp_chunk_ref {
    uint64_t id;
    tarnp_section_kind kind;
    tarnp_elem elem;
    uint32_t first, count;
    uint32_t raw_bytes;
    uint32_t stored_bytes; /* of the value, header included */
    uint8_t sum[TARNP_SUM_BYTES];
    bool evicted; /* it is not there any more, by right */
} tarnp_chunk_ref;

/* Checks a stored value against its manifest entry, header and payload. Errors name the
 * reason only; the caller knows node and chunk. */
tarn_status tarnp_chunk_check(tarnp_span value, const tarnp_chunk_ref *want, tarnp_chunk_head *out,
                              tarn_error *err);

#endif
