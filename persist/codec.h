/* codec.h - raw bytes to payload and back.
 *
 *     0 raw       as it is: what no other codec makes smaller
 *     1 zstd      one zstd frame
 *     2 planes4   fp32 in four byte planes
 *     3 planes2   bf16 in two byte planes
 *     4 bf16      fp32 rounded to bf16, in two byte planes     } lossy (lossy.h): only of what
 *     5 fp16      fp32 scaled and rounded to fp16, in two      } the caller asked it for, and
 *     6 int8      fp32 as int8 with a scale for each row       } only where it can be kept so
 *
 * Every element of a plane codec is rotated left by one bit, so that its top byte is exactly the
 * exponent and the sign stands behind the mantissa. The exponents of a state hold 2.9 to 3.4 bits
 * of 8, all other planes are noise: Huffman coding of the exponents alone reaches what there is to
 * reach (fp32 1.17, bf16 1.42), and matching as zstd does at any level loses ratio and time. */
#ifndef TARNP_CODEC_H
#define TARNP_CODEC_H

#include "lossy.h"
#include "memory.h"
#include "store.h"

/* The numbers are stored: fixed for ever. */
typedef enum tarnp_codec_id {
    TARNP_CODEC_RAW = 0,
    TARNP_CODEC_ZSTD = 1,
    TARNP_CODEC_PLANES4 = 2,
    TARNP_CODEC_PLANES2 = 3,
    TARNP_CODEC_BF16 = TARNP_STATE_BF16,
    TARNP_CODEC_FP16 = TARNP_STATE_FP16,
    TARNP_CODEC_INT8 = TARNP_STATE_INT8
} tarnp_codec_id;

/* Contexts and buffers of one worker; one thread at a time. */
typedef struct tarnp_codec tarnp_codec;

tarn_status tarnp_codec_create(const tarn_allocator *allocator, tarnp_codec **out, tarn_error *err);
void tarnp_codec_free(tarnp_codec *codec); /* NULL is allowed */

/* Memory of the codec's, at least n_bytes, until the next such call: for what is decoded next. */
tarn_status tarnp_codec_memory(tarnp_codec *codec, size_t n_bytes, uint8_t **out, tarn_error *err);

/* Bytes of one element, 0 for a number that is no tarnp_elem. */
size_t tarnp_elem_bytes(tarnp_elem elem);

typedef struct tarnp_encoded {
    tarnp_codec_id id;
    uint32_t n_bytes; /* of the payload */
    float max_error;  /* worst max|x - x'| / max|x| of a unit; 0 of a lossless codec */
} tarnp_encoded;

/* Encodes the pieces (raw_bytes in all, at most TARNP_CHUNK_BYTES_MAX) into `out`, which holds
 * raw_bytes; a payload is never larger. `lossy` asks for a lossy codec of fp32, NULL for none; what
 * that cannot keep (lossy.h) or does not make smaller is encoded without loss. NO_MEMORY. */
tarn_status tarnp_encode(tarnp_codec *codec, tarnp_elem elem, const tarnp_lossy *lossy,
                         const tarnp_piece *pieces, size_t n_pieces, uint32_t raw_bytes,
                         uint8_t *out, tarnp_encoded *result, tarn_error *err);
/* Decodes exactly raw_bytes into the pieces, which must add up to them. CORRUPT where the payload
 * is not one of this size, FORMAT for an unknown codec; the pieces then hold nothing usable. */
tarn_status tarnp_decode(tarnp_codec *codec, uint32_t id, const uint8_t *payload, size_t n_bytes,
                         const tarnp_piece *pieces, size_t n_pieces, uint32_t raw_bytes,
                         tarn_error *err);

#endif
