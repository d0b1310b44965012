/* lossy.h - fp32 made narrower, and back: the arithmetic of the lossy codecs.
 *
 *     4 bf16   the upper half of the fp32, rounded to nearest even
 *     5 fp16   IEEE half times a power of two for each unit (a head's matrix): 8 times as exact
 *     6 int8   q * scale, q in -127 to 127, a scale for each row
 *
 * A snapshot is rounded once a turn, not at every token as by engines that carry narrow states, and
 * a decaying state forgets the error. Values are narrowed into byte planes: the first holds the low
 * bytes, the second the high ones, both of elements rotated left by one bit as in codec.h; int8 has
 * one plane. Units and rows are counted from the first element given; the last may be short. */
#ifndef TARNP_LOSSY_H
#define TARNP_LOSSY_H

#include "memory.h"
#include "store.h"

/* LOSSLESS or lossy; POLICY is none. */
bool tarnp_is_state_codec(uint32_t number);
/* INVALID unless it is POLICY or a codec. */
tarn_status tarnp_state_codec_check(const char *what, tarnp_state_codec codec, tarn_error *err);

/* Bytes of the table of exponents or scales that stands in front of the planes; 0 for bf16.
 * `group` is the elements of a unit (fp16) or of a row (int8). */
size_t tarnp_lossy_table_bytes(tarnp_state_codec codec, size_t n, uint32_t group);
/* The width of a narrow element: 1 or 2 planes. */
uint32_t tarnp_lossy_width(tarnp_state_codec codec);

typedef struct tarnp_lossy {
    tarnp_state_codec codec;
    uint32_t row_elems, unit_elems; /* a unit is whole rows; both at least 1 */
} tarnp_lossy;

/* Narrows n fp32 at `in`. False if they cannot be kept this way: not finite, too large, or off by
 * more than the codec promises; the planes then hold nothing usable. *error is the largest
 * max|x - x'| / max|x| of the units. `high` is not used by int8. */
bool tarnp_lossy_narrow(const tarnp_lossy *how, const uint8_t *in, size_t n, uint8_t *table,
                        uint8_t *low, uint8_t *high, float *error);

/* Back to n fp32 at `out`; `group` as above. CORRUPT where an exponent of the table is none that
 * narrow writes. */
tarn_status tarnp_lossy_widen(tarnp_state_codec codec, uint32_t group, const uint8_t *table,
                              const uint8_t *low, const uint8_t *high, size_t n, uint8_t *out,
                              tarn_error *err);

#endif
