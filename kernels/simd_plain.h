/* simd_plain.h - v16 as an array, for any processor. Included by simd.h alone, which says what must
 * hold. Multiply-adds round twice here: portable C has no fast fused one. */
#ifndef TARNK_SIMD_PLAIN_H
#define TARNK_SIMD_PLAIN_H

#define SIMD_NUMERICS "cpu-plain16.2"

typedef struct v16 {
    float lane[16];
} v16;

#define SIMD_EACH for (int i = 0; i < 16; i++)

SIMD_INLINE uint32_t simd_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

SIMD_INLINE float simd_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

SIMD_INLINE v16 v16_set1(float x)
{
    v16 r;
    SIMD_EACH r.lane[i] = x;
    return r;
}

SIMD_INLINE v16 v16_load(const void *p)
{
    v16 r;
    memcpy(r.lane, p, sizeof r.lane);
    return r;
}

SIMD_INLINE v16 v16_load_n(const void *p, uint32_t n)
{
    v16 r = {{0}};
    memcpy(r.lane, p, n * sizeof *r.lane);
    return r;
}

SIMD_INLINE void v16_store(void *p, v16 v)
{
    memcpy(p, v.lane, sizeof v.lane);
}

SIMD_INLINE void v16_store_n(void *p, v16 v, uint32_t n)
{
    memcpy(p, v.lane, n * sizeof *v.lane);
}

SIMD_INLINE v16 v16_load_bf16_n(const void *p, uint32_t n)
{
    uint16_t halves[16] = {0};
    memcpy(halves, p, n * sizeof *halves);
    v16 r;
    SIMD_EACH r.lane[i] = simd_float((uint32_t)halves[i] << 16);
    return r;
}

SIMD_INLINE v16 v16_load_bf16(const void *p)
{
    return v16_load_bf16_n(p, 16);
}

SIMD_INLINE v16 v16_add(v16 a, v16 b)
{
    SIMD_EACH a.lane[i] = a.lane[i] + b.lane[i];
    return a;
}

SIMD_INLINE v16 v16_sub(v16 a, v16 b)
{
    SIMD_EACH a.lane[i] = a.lane[i] - b.lane[i];
    return a;
}

SIMD_INLINE v16 v16_mul(v16 a, v16 b)
{
    SIMD_EACH a.lane[i] = a.lane[i] * b.lane[i];
    return a;
}

SIMD_INLINE v16 v16_div(v16 a, v16 b)
{
    SIMD_EACH a.lane[i] = a.lane[i] / b.lane[i];
    return a;
}

/* a b + c */
SIMD_INLINE v16 v16_fma(v16 a, v16 b, v16 c)
{
    SIMD_EACH a.lane[i] = a.lane[i] * b.lane[i] + c.lane[i];
    return a;
}

/* The second operand where either is NaN. */
SIMD_INLINE v16 v16_max(v16 a, v16 b)
{
    SIMD_EACH a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}

SIMD_INLINE v16 v16_min(v16 a, v16 b)
{
    SIMD_EACH a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}

SIMD_INLINE v16 v16_neg_abs(v16 a)
{
    SIMD_EACH a.lane[i] = simd_float(simd_bits(a.lane[i]) | 0x80000000U);
    return a;
}

/* a where the sign bit of c is set, else b */
SIMD_INLINE v16 v16_where_neg(v16 c, v16 a, v16 b)
{
    SIMD_EACH a.lane[i] = simd_bits(c.lane[i]) >> 31 ? a.lane[i] : b.lane[i];
    return a;
}

/* p 2^n, where shifted = n + 1.5 * 2^23 and -252 <= n <= 254: in two steps, so that results down
 * to the smallest denormal come out and larger ones become infinity. */
SIMD_INLINE v16 v16_scale_pow2(v16 p, v16 shifted)
{
    SIMD_EACH
    {
        uint32_t n = simd_bits(shifted.lane[i]) - 0x4b400000U;
        uint32_t half = n >> 1 | (n & 0x80000000U); /* shifted as a signed number */
        float a = simd_float((half + 127U) << 23);
        float b = simd_float((n - half + 127U) << 23);
        p.lane[i] = p.lane[i] * a * b;
    }
    return p;
}

/* To the nearest bf16, ties to even, kept in fp32. NaN stays NaN. */
SIMD_INLINE v16 v16_round_bf16(v16 v)
{
    SIMD_EACH
    {
        uint32_t bits = simd_bits(v.lane[i]);
        uint32_t up = bits + 0x7fffU + (bits >> 16 & 1U);
        uint32_t chosen = v.lane[i] == v.lane[i] ? up : bits | 0x00400000U;
        v.lane[i] = simd_float(chosen & 0xffff0000U);
    }
    return v;
}

/* Rounds and stores n <= 16 lanes. */
SIMD_INLINE void v16_store_bf16_n(void *p, v16 v, uint32_t n)
{
    v16 r = v16_round_bf16(v);
    uint16_t halves[16];
    SIMD_EACH halves[i] = (uint16_t)(simd_bits(r.lane[i]) >> 16);
    memcpy(p, halves, n * sizeof *halves);
}

SIMD_INLINE float v16_sum(v16 v)
{
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            v.lane[i] = v.lane[i] + v.lane[i + width];
    return v.lane[0];
}

SIMD_INLINE void v16_sum4(const v16 *v, float *out)
{
    for (int i = 0; i < 4; i++)
        out[i] = v16_sum(v[i]);
}

/* The register-sized parts of a v16, for loops that must keep many sums in registers. */
#define SIMD_PARTS 1
typedef v16 vpart;

SIMD_INLINE vpart part_set1(float x)
{
    return v16_set1(x);
}

SIMD_INLINE vpart part_load(const void *p)
{
    return v16_load(p);
}

SIMD_INLINE vpart part_load_bf16(const void *p)
{
    return v16_load_bf16(p);
}

SIMD_INLINE vpart part_fma(vpart a, vpart b, vpart c)
{
    return v16_fma(a, b, c);
}

SIMD_INLINE vpart v16_part(v16 v, int part)
{
    (void)part;
    return v;
}

SIMD_INLINE v16 v16_join(const vpart *parts)
{
    return parts[0];
}

#endif
