/* codec.h - raw bytes to payload and back, without loss.
 *
 *     0 raw       as it is: what no other codec makes smaller
 *     1 zstd      one zstd frame
 *     2 planes4   fp32 in four byte planes
 *     3 planes2   bf16 in two byte planes
 *
 * Every element of a plane codec is rotated left by one bit, so that its top byte is exactly the
 * exponent and the sign stands behind the mantissa. The exponents of a state hold 2.9 to 3.4 bits
 * of 8, all other planes are noise: Huffman coding of the exponents alone reaches what there is to
 * reach (fp32 1.17, bf16 1.42), and matching as zstd does at any level loses ratio and time. */
#ifndef TARNP_CODEC_H
#define TARNP_CODEC_H

#include "memory.h"
#include "store.h"

/* The numbers are stored: fixed for ever. */
typedef enum tarnp_codec_id {
    TARNP_CODEC_RAW = 0,
    TARNP_CODEC_ZSTD = 1,
    TARNP_CODEC_PLANES4 = 2,
    TARNP_CODEC_PLANES2 = 3
} tarnp_codec_id;

/* Contexts and buffers of one worker; one thread at a time. */
typedef struct tarnp_codec tarnp_codec;

tarn_status tarnp_codec_create(const tarn_allocator *allocator, tarnp_codec **out, tarn_error *err);
void tarnp_codec_free(tarnp_codec *codec); /* NULL is allowed */

/* Bytes of one element, 0 for a number that is no tarnp_elem. */
size_t tarnp_elem_bytes(tarnp_elem elem);

/* Encodes the pieces (raw_bytes in all, at most TARNP_CHUNK_BYTES_MAX) into `out`, which holds
 * raw_bytes; a payload is never larger. NO_MEMORY. */
tarn_status tarnp_encode(tarnp_codec *codec, tarnp_elem elem, const tarnp_piece *pieces,
                         size_t n_pieces, uint32_t raw_bytes, uint8_t *out, tarnp_codec_id *id,
                         uint32_t *n_out, tarn_error *err);
/* Decodes exactly raw_bytes into the pieces, which must add up to them. CORRUPT where the payload
 * is not one of this size, FORMAT for an unknown codec; the pieces then hold nothing usable. */
tarn_status tarnp_decode(tarnp_codec *codec, uint32_t id, const uint8_t *payload, size_t n_bytes,
                         const tarnp_piece *pieces, size_t n_pieces, uint32_t raw_bytes,
                         tarn_error *err);

#endif
