/* lossy.c
 *
 * Every loop is free of branches and calls, for the compiler's vectoriser (this file is built with
 * -O3). Largest values are found as integers: the bits of non-negative floats have their order, and
 * a maximum of floats would need -ffast-math to be vectorised. NaN and infinities come out above
 * every finite value and are refused after the loop.
 *
 * Invariants:
 *  1. Each step is a single IEEE operation in a fixed order, so every compiler writes the same
 *     bytes, and the error measured is that of what a reader gets.
 *  2. What cannot be kept within ERROR_MAX is refused, not clipped; the caller keeps such a chunk
 *     without loss.
 *
 * Rejected: stochastic rounding (worse for what is rounded once), fp8 (2 to 3 times the error of
 * int8 with a scale for each row, at the same size), int4 and low rank (errors of 5 to 10 %). */
#include "lossy.h"

#include "bytes.h"
#include "status.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define ABS_BITS     0x7FFFFFFF
#define INF_BITS     0x7F800000
#define BF16_TOO_BIG 0x7F7F8000 /* rounds to infinity */
#define ERROR_MAX    0x1p-7F    /* above every error of a normal value: bf16 2^-8, int8 1/253 */
#define HALF_TOP     14         /* the largest value of a unit is scaled to 2^14 up to 2^15 */
#define EXPONENT_MAX 163        /* 14 - the exponent of the smallest denormal */

static_assert((int)TARNP_STATE_BF16 == 4 && (int)TARNP_STATE_FP16 == 5 &&
                  (int)TARNP_STATE_INT8 == 6,
              "the lossy codecs have the numbers they are stored with");

bool tarnp_is_state_codec(uint32_t number)
{
    return number == TARNP_STATE_LOSSLESS || number == TARNP_STATE_BF16 ||
           number == TARNP_STATE_FP16 || number == TARNP_STATE_INT8;
}

tarn_status tarnp_state_codec_check(const char *what, tarnp_state_codec codec, tarn_error *err)
{
    if (codec != TARNP_STATE_POLICY && !tarnp_is_state_codec((uint32_t)codec))
        return tarni_fail(err, TARN_E_INVALID, "%s is %d, which is no codec", what, (int)codec);
    return TARN_OK;
}

size_t tarnp_lossy_table_bytes(tarnp_state_codec codec, size_t n, uint32_t group)
{
    size_t groups = n / group + (n % group != 0);
    return codec == TARNP_STATE_FP16 ? 2 * groups : codec == TARNP_STATE_INT8 ? 4 * groups : 0;
}

uint32_t tarnp_lossy_width(tarnp_state_codec codec)
{
    return codec == TARNP_STATE_INT8 ? 1 : 2;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Bits of the largest |x|. */
static int32_t top_of(const uint8_t *in, size_t n)
{
    int32_t top = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t v;
        memcpy(&v, in + 4 * i, sizeof v);
        int32_t a = (int32_t)(v & ABS_BITS);
        top = a > top ? a : top;
    }
    return top;
}

/* Takes one unit's error into account; false where it is too large. */
static bool note_error(float off, int32_t top, float *error)
{
    float e = top == 0 ? 0 : off / float_of((uint32_t)top);
    *error = e > *error ? e : *error;
    return e <= ERROR_MAX; /* false for NaN too */
}

/* ---- bf16 ----------------------------------------------------------------------------------- */

static bool narrow_bf16(const uint8_t *restrict in, size_t n, uint8_t *restrict low,
                        uint8_t *restrict high, float *error)
{
    int32_t top = 0, off = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t v;
        memcpy(&v, in + 4 * i, sizeof v);
        uint32_t kept = (v + 0x7FFF + (v >> 16 & 1)) & 0xFFFF0000u;
        int32_t a = (int32_t)(v & ABS_BITS);
        int32_t d = (int32_t)(bits_of(float_of(v) - float_of(kept)) & ABS_BITS);
        top = a > top ? a : top;
        off = d > off ? d : off;
        uint32_t h = kept >> 15 | kept >> 31;
        low[i] = (uint8_t)h;
        high[i] = (uint8_t)(h >> 8);
    }
    return top < BF16_TOO_BIG && note_error(float_of((uint32_t)off), top, error);
}

static void widen_bf16(const uint8_t *restrict low, const uint8_t *restrict high, size_t n,
                       uint8_t *restrict out)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t h = low[i] | (uint32_t)high[i] << 8;
        uint32_t v = (h >> 1 | h << 15) << 16;
        memcpy(out + 4 * i, &v, sizeof v);
    }
}

/* ---- fp16 with an exponent for each unit ---------------------------------------------------- */

/* 2^e as a product of two powers that are both normal floats. */
static void two_powers(int e, float *a, float *b)
{
    *a = ldexpf(1, e / 2);
    *b = ldexpf(1, e - e / 2);
}

/* Returns bits of the largest error, of values scaled by a * b. */
static int32_t halve_unit(const uint8_t *restrict in, size_t n, float a, float b,
                          uint8_t *restrict low, uint8_t *restrict high)
{
    int32_t off = 0;
    for (size_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, in + 4 * i, sizeof x);
        uint32_t v = bits_of(x * a * b), m = v & ABS_BITS;
        float y = float_of(m);
        uint32_t normal = (m + 0xFFF + (m >> 13 & 1) - 0x38000000u) >> 13;
        uint32_t denormal = bits_of(y + 0.5F) - 0x3F000000u; /* rounded at 2^-24 by the sum */
        /* A choice by ?: would keep gcc from vectorising: the sum above may trap. */
        uint32_t small = 0 - ((m - 0x38800000u) >> 31);
        uint32_t h = (denormal & small) | (normal & ~small);
        int32_t d = (int32_t)(bits_of(y - float_of(h << 13) * 0x1p112F) & ABS_BITS);
        off = d > off ? d : off;
        h = h << 1 | v >> 31;
        low[i] = (uint8_t)h;
        high[i] = (uint8_t)(h >> 8);
    }
    return off;
}

static bool narrow_fp16(const uint8_t *in, size_t n, uint32_t unit, uint8_t *table, uint8_t *low,
                        uint8_t *high, float *error)
{
    for (size_t at = 0; at < n; at += unit, table += 2) {
        size_t count = n - at < unit ? n - at : unit;
        int32_t top = top_of(in + 4 * at, count);
        if (top >= INF_BITS)
            return false;
        int up = top == 0 ? 0 : HALF_TOP - ilogbf(float_of((uint32_t)top));
        float a, b;
        two_powers(up, &a, &b);
        int32_t off = halve_unit(in + 4 * at, count, a, b, low + at, high + at);
        float scaled_top = float_of((uint32_t)top) * a * b;
        if (!note_error(float_of((uint32_t)off), (int32_t)bits_of(scaled_top), error))
            return false;
        tarni_store_u16(table, (uint16_t)-up);
    }
    return true;
}

static void widen_unit(const uint8_t *restrict low, const uint8_t *restrict high, size_t n, float a,
                       float b, uint8_t *restrict out)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t h = low[i] | (uint32_t)high[i] << 8;
        float y = float_of((h >> 1) << 13) * 0x1p112F * a * b;
        uint32_t v = bits_of(y) | h << 31;
        memcpy(out + 4 * i, &v, sizeof v);
    }
}

static tarn_status widen_fp16(uint32_t unit, const uint8_t *table, const uint8_t *low,
                              const uint8_t *high, size_t n, uint8_t *out, tarn_error *err)
{
    for (size_t at = 0; at < n; at += unit, table += 2) {
        int e = (int16_t)tarni_load_u16(table);
        if (e < -EXPONENT_MAX || e > EXPONENT_MAX)
            return tarni_fail(err, TARN_E_CORRUPT, "payload: exponent %d of a unit", e);
        float a, b;
        two_powers(e, &a, &b);
        widen_unit(low + at, high + at, n - at < unit ? n - at : unit, a, b, out + 4 * at);
    }
    return TARN_OK;
}

/* ---- int8 with a scale for each row --------------------------------------------------------- */

/* Returns bits of the largest error. */
static int32_t quantise_row(const uint8_t *restrict in, size_t n, float inverse, float scale,
                            uint8_t *restrict q)
{
    const float magic = 0x1.8p23F; /* adding it rounds to a whole number, in the lowest bits */
    int32_t off = 0;
    for (size_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, in + 4 * i, sizeof x);
        float rounded = x * inverse + magic;
        q[i] = (uint8_t)bits_of(rounded);
        int32_t d = (int32_t)(bits_of(x - (rounded - magic) * scale) & ABS_BITS);
        off = d > off ? d : off;
    }
    return off;
}

static bool narrow_int8(const uint8_t *in, size_t n, uint32_t row, uint32_t unit, uint8_t *table,
                        uint8_t *q, float *error)
{
    for (size_t begin = 0; begin < n; begin += unit) {
        size_t end = n - begin < unit ? n : begin + unit;
        int32_t unit_top = 0, unit_off = 0;
        for (size_t at = begin; at < end; at += row, table += 4) {
            size_t count = end - at < row ? end - at : row;
            int32_t top = top_of(in + 4 * at, count);
            if (top >= INF_BITS)
                return false;
            float most = float_of((uint32_t)top), inverse = 127 / most, scale = most / 127;
            if (!(inverse <= 0x1p127F)) /* zero, or so small beside any other row that it may be */
                inverse = scale = 0;
            int32_t off = quantise_row(in + 4 * at, count, inverse, scale, q + at);
            tarni_store_u32(table, bits_of(scale));
            unit_top = top > unit_top ? top : unit_top;
            unit_off = off > unit_off ? off : unit_off;
        }
        if (!note_error(float_of((uint32_t)unit_off), unit_top, error))
            return false;
    }
    return true;
}

static void widen_int8(uint32_t row, const uint8_t *table, const uint8_t *restrict q, size_t n,
                       uint8_t *restrict out)
{
    for (size_t at = 0; at < n; at += row, table += 4) {
        size_t end = n - at < row ? n : at + row;
        float scale = float_of(tarni_load_u32(table));
        for (size_t i = at; i < end; i++) {
            float x = (float)(int8_t)q[i] * scale;
            memcpy(out + 4 * i, &x, sizeof x);
        }
    }
}

/* ---- all of them ---------------------------------------------------------------------------- */

/* bf16 has no table, but its error is measured unit by unit as well. */
static bool narrow_bf16_units(const uint8_t *in, size_t n, uint32_t unit, uint8_t *low,
                              uint8_t *high, float *error)
{
    for (size_t at = 0; at < n; at += unit)
        if (!narrow_bf16(in + 4 * at, n - at < unit ? n - at : unit, low + at, high + at, error))
            return false;
    return true;
}

bool tarnp_lossy_narrow(const tarnp_lossy *how, const uint8_t *in, size_t n, uint8_t *table,
                        uint8_t *low, uint8_t *high, float *error)
{
    *error = 0;
    if (how->codec == TARNP_STATE_BF16)
        return narrow_bf16_units(in, n, how->unit_elems, low, high, error);
    if (how->codec == TARNP_STATE_FP16)
        return narrow_fp16(in, n, how->unit_elems, table, low, high, error);
    return narrow_int8(in, n, how->row_elems, how->unit_elems, table, low, error);
}

tarn_status tarnp_lossy_widen(tarnp_state_codec codec, uint32_t group, const uint8_t *table,
                              const uint8_t *low, const uint8_t *high, size_t n, uint8_t *out,
                              tarn_error *err)
{
    if (codec == TARNP_STATE_FP16)
        return widen_fp16(group, table, low, high, n, out, err);
    if (codec == TARNP_STATE_BF16)
        widen_bf16(low, high, n, out);
    else
        widen_int8(group, table, low, n, out);
    return TARN_OK;
}
