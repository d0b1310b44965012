/* simd_avx2.h - v16 as two registers. Included by simd.h alone, which says what must hold. */
#ifndef TARNK_SIMD_AVX2_H
#define TARNK_SIMD_AVX2_H

#include <immintrin.h>

#include "simd_fold.h"

#define SIMD_NUMERICS "cpu-fma16.2"

typedef struct v16 {
    __m256 lo; /* lanes 0 to 7 */
    __m256 hi;
} v16;

#define SIMD_BOTH(expr_lo, expr_hi)                                                                \
    (v16)                                                                                          \
    {                                                                                              \
        (expr_lo), (expr_hi)                                                                       \
    }

/* Eight lanes of ones where first + lane < n. */
SIMD_INLINE __m256i simd_mask(uint32_t n, int first)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - first), lane);
}

SIMD_INLINE v16 v16_set1(float x)
{
    return SIMD_BOTH(_mm256_set1_ps(x), _mm256_set1_ps(x));
}

SIMD_INLINE v16 v16_load(const void *p)
{
    const char *bytes = p;
    return SIMD_BOTH(_mm256_loadu_ps((const float *)(const void *)bytes),
                     _mm256_loadu_ps((const float *)(const void *)(bytes + 32)));
}

SIMD_INLINE v16 v16_load_n(const void *p, uint32_t n)
{
    const char *bytes = p;
    return SIMD_BOTH(
        _mm256_maskload_ps((const float *)(const void *)bytes, simd_mask(n, 0)),
        _mm256_maskload_ps((const float *)(const void *)(bytes + 32), simd_mask(n, 8)));
}

SIMD_INLINE void v16_store(void *p, v16 v)
{
    char *bytes = p;
    _mm256_storeu_ps((float *)(void *)bytes, v.lo);
    _mm256_storeu_ps((float *)(void *)(bytes + 32), v.hi);
}

SIMD_INLINE void v16_store_n(void *p, v16 v, uint32_t n)
{
    char *bytes = p;
    _mm256_maskstore_ps((float *)(void *)bytes, simd_mask(n, 0), v.lo);
    _mm256_maskstore_ps((float *)(void *)(bytes + 32), simd_mask(n, 8), v.hi);
}

SIMD_INLINE __m256 simd_widen(__m128i halves)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

SIMD_INLINE v16 v16_load_bf16(const void *p)
{
    const __m128i *halves = p;
    return SIMD_BOTH(simd_widen(_mm_loadu_si128(halves)), simd_widen(_mm_loadu_si128(halves + 1)));
}

SIMD_INLINE v16 v16_load_bf16_n(const void *p, uint32_t n)
{
    uint16_t halves[16] = {0};
    memcpy(halves, p, n * sizeof *halves);
    return v16_load_bf16(halves);
}

SIMD_INLINE v16 v16_add(v16 a, v16 b)
{
    return SIMD_BOTH(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi));
}

SIMD_INLINE v16 v16_sub(v16 a, v16 b)
{
    return SIMD_BOTH(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi));
}

SIMD_INLINE v16 v16_mul(v16 a, v16 b)
{
    return SIMD_BOTH(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi));
}

SIMD_INLINE v16 v16_div(v16 a, v16 b)
{
    return SIMD_BOTH(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi));
}

/* a b + c */
SIMD_INLINE v16 v16_fma(v16 a, v16 b, v16 c)
{
    return SIMD_BOTH(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}

/* The second operand where either is NaN. */
SIMD_INLINE v16 v16_max(v16 a, v16 b)
{
    return SIMD_BOTH(_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi));
}

SIMD_INLINE v16 v16_min(v16 a, v16 b)
{
    return SIMD_BOTH(_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi));
}

SIMD_INLINE v16 v16_neg_abs(v16 a)
{
    __m256 sign = _mm256_set1_ps(-0.0F);
    return SIMD_BOTH(_mm256_or_ps(a.lo, sign), _mm256_or_ps(a.hi, sign));
}

/* a where the sign bit of c is set, else b */
SIMD_INLINE v16 v16_where_neg(v16 c, v16 a, v16 b)
{
    return SIMD_BOTH(_mm256_blendv_ps(b.lo, a.lo, c.lo), _mm256_blendv_ps(b.hi, a.hi, c.hi));
}

SIMD_INLINE __m256 simd_scale_pow2(__m256 p, __m256 shifted)
{
    __m256i n = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x4b400000));
    __m256i half = _mm256_srai_epi32(n, 1);
    __m256i bias = _mm256_set1_epi32(127);
    __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

/* p 2^n, where shifted = n + 1.5 * 2^23 and -252 <= n <= 254: in two steps, so that results down
 * to the smallest denormal come out and larger ones become infinity. */
SIMD_INLINE v16 v16_scale_pow2(v16 p, v16 shifted)
{
    return SIMD_BOTH(simd_scale_pow2(p.lo, shifted.lo), simd_scale_pow2(p.hi, shifted.hi));
}

SIMD_INLINE __m256 simd_round_bf16(__m256 v)
{
    __m256i bits = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    __m256i chosen = _mm256_blendv_epi8(up, quiet, _mm256_castps_si256(nan));
    return _mm256_castsi256_ps(_mm256_and_si256(chosen, _mm256_set1_epi32((int)0xffff0000)));
}

/* To the nearest bf16, ties to even, kept in fp32. NaN stays NaN. */
SIMD_INLINE v16 v16_round_bf16(v16 v)
{
    return SIMD_BOTH(simd_round_bf16(v.lo), simd_round_bf16(v.hi));
}

/* Rounds and stores n <= 16 lanes. */
SIMD_INLINE void v16_store_bf16_n(void *p, v16 v, uint32_t n)
{
    v16 r = v16_round_bf16(v);
    __m256i lo = _mm256_srli_epi32(_mm256_castps_si256(r.lo), 16);
    __m256i hi = _mm256_srli_epi32(_mm256_castps_si256(r.hi), 16);
    /* packing works within 128 bits: put the quarters back in order */
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(lo, hi), 0xd8);
    if (n >= 16) {
        _mm256_storeu_si256(p, packed);
        return;
    }
    uint16_t halves[16];
    _mm256_storeu_si256((void *)halves, packed);
    memcpy(p, halves, n * sizeof *halves);
}

SIMD_INLINE float v16_sum(v16 v)
{
    return simd_fold1(_mm256_add_ps(v.lo, v.hi));
}

SIMD_INLINE void v16_sum4(const v16 *v, float *out)
{
    _mm_storeu_ps(out,
                  simd_fold4(_mm256_add_ps(v[0].lo, v[0].hi), _mm256_add_ps(v[1].lo, v[1].hi),
                             _mm256_add_ps(v[2].lo, v[2].hi), _mm256_add_ps(v[3].lo, v[3].hi)));
}

/* The register-sized parts of a v16, for loops that must keep many sums in registers. */
#define SIMD_PARTS 2
typedef __m256 vpart;

SIMD_INLINE vpart part_set1(float x)
{
    return _mm256_set1_ps(x);
}

SIMD_INLINE vpart part_load(const void *p)
{
    return _mm256_loadu_ps(p);
}

SIMD_INLINE vpart part_load_bf16(const void *p)
{
    return simd_widen(_mm_loadu_si128(p));
}

SIMD_INLINE vpart part_fma(vpart a, vpart b, vpart c)
{
    return _mm256_fmadd_ps(a, b, c);
}

SIMD_INLINE vpart v16_part(v16 v, int part)
{
    return part == 0 ? v.lo : v.hi;
}

SIMD_INLINE v16 v16_join(const vpart *parts)
{
    return SIMD_BOTH(parts[0], parts[1]);
}

#endif
