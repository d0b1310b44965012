/* simd_avx512.h - v16 as one register. Included by simd.h alone, which says what must hold. */
#ifndef TARNK_SIMD_AVX512_H
#define TARNK_SIMD_AVX512_H

#include <immintrin.h>

#include "simd_fold.h"

#if defined(__AVX512BF16__)
#    define SIMD_NUMERICS "cpu-pair16.2"
#else
#    define SIMD_NUMERICS "cpu-fma16.2"
#endif

typedef __m512 v16;

SIMD_INLINE __mmask16 simd_mask(uint32_t n)
{
    return (__mmask16)((1U << n) - 1U);
}

SIMD_INLINE v16 v16_set1(float x)
{
    return _mm512_set1_ps(x);
}

SIMD_INLINE v16 v16_load(const void *p)
{
    return _mm512_loadu_ps(p);
}

SIMD_INLINE v16 v16_load_n(const void *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(simd_mask(n), p);
}

SIMD_INLINE void v16_store(void *p, v16 v)
{
    _mm512_storeu_ps(p, v);
}

SIMD_INLINE void v16_store_n(void *p, v16 v, uint32_t n)
{
    _mm512_mask_storeu_ps(p, simd_mask(n), v);
}

SIMD_INLINE v16 simd_widen(__m256i halves)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

SIMD_INLINE v16 v16_load_bf16(const void *p)
{
    return simd_widen(_mm256_loadu_si256(p));
}

SIMD_INLINE v16 v16_load_bf16_n(const void *p, uint32_t n)
{
    return simd_widen(_mm256_maskz_loadu_epi16(simd_mask(n), p));
}

SIMD_INLINE v16 v16_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}

SIMD_INLINE v16 v16_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}

SIMD_INLINE v16 v16_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}

SIMD_INLINE v16 v16_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}

/* a b + c */
SIMD_INLINE v16 v16_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* The second operand where either is NaN. */
SIMD_INLINE v16 v16_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

SIMD_INLINE v16 v16_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}

SIMD_INLINE v16 v16_neg_abs(v16 a)
{
    return _mm512_or_ps(a, _mm512_set1_ps(-0.0F));
}

/* a where the sign bit of c is set, else b */
SIMD_INLINE v16 v16_where_neg(v16 c, v16 a, v16 b)
{
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(c)), b, a);
}

/* p 2^n, where shifted = n + 1.5 * 2^23 and -252 <= n <= 254: in two steps, so that results down
 * to the smallest denormal come out and larger ones become infinity. */
SIMD_INLINE v16 v16_scale_pow2(v16 p, v16 shifted)
{
    __m512i n = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4b400000));
    __m512i half = _mm512_srai_epi32(n, 1);
    __m512i bias = _mm512_set1_epi32(127);
    __m512i a = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
    __m512i b = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(n, half), bias), 23);
    return _mm512_mul_ps(_mm512_mul_ps(p, _mm512_castsi512_ps(a)), _mm512_castsi512_ps(b));
}

/* To the nearest bf16, ties to even, kept in fp32. NaN stays NaN. */
SIMD_INLINE v16 v16_round_bf16(v16 v)
{
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    __m512i chosen = _mm512_mask_blend_epi32(nan, up, quiet);
    return _mm512_castsi512_ps(_mm512_and_si512(chosen, _mm512_set1_epi32((int)0xffff0000)));
}

/* Rounds and stores n <= 16 lanes. */
SIMD_INLINE void v16_store_bf16_n(void *p, v16 v, uint32_t n)
{
    __m512i bits = _mm512_castps_si512(v16_round_bf16(v));
    __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
    _mm256_mask_storeu_epi16(p, simd_mask(n), halves);
}

SIMD_INLINE __m256 simd_fold_high(v16 v)
{
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

SIMD_INLINE float v16_sum(v16 v)
{
    return simd_fold1(simd_fold_high(v));
}

SIMD_INLINE void v16_sum4(const v16 *v, float *out)
{
    _mm_storeu_ps(out, simd_fold4(simd_fold_high(v[0]), simd_fold_high(v[1]), simd_fold_high(v[2]),
                                  simd_fold_high(v[3])));
}

/* Quarters of two vectors: halves of a next to halves of b, and so on. */
#define SIMD_QUARTERS(a, b, which) _mm512_shuffle_f32x4(a, b, which)

/* The tree's first two levels for four vectors, which then have a quarter each. */
SIMD_INLINE v16 simd_fold_quarters(const v16 *v)
{
    v16 a = v16_add(SIMD_QUARTERS(v[0], v[1], 0x44), SIMD_QUARTERS(v[0], v[1], 0xee));
    v16 b = v16_add(SIMD_QUARTERS(v[2], v[3], 0x44), SIMD_QUARTERS(v[2], v[3], 0xee));
    return v16_add(SIMD_QUARTERS(a, b, 0x88), SIMD_QUARTERS(a, b, 0xdd));
}

/* And a third level: eight vectors, two lanes in a quarter each. */
SIMD_INLINE v16 simd_fold_eighths(const v16 *v)
{
    v16 a = simd_fold_quarters(v), b = simd_fold_quarters(v + 4);
    return v16_add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}

/* Lane i is v16_sum(v[i]): the tree with many vectors side by side in each register. */
SIMD_INLINE v16 v16_sum16(const v16 *v)
{
    /* Where the tree leaves the sums of vectors 0 to 15. */
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    __m512d a = _mm512_castps_pd(simd_fold_eighths(v));
    __m512d b = _mm512_castps_pd(simd_fold_eighths(v + 8));
    v16 sums = v16_add(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    return _mm512_permutexvar_ps(order, sums);
}

/* out[i] is v16_sum(v[i]), for eight. */
SIMD_INLINE void v16_sum8(const v16 *v, float *out)
{
    const __m512i order = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 13, 9, 5, 1, 12, 8, 4, 0);
    v16 a = simd_fold_eighths(v);
    v16 sums = v16_add(a, _mm512_permute_ps(a, 0x4e));
    _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(order, sums)));
}

/* out[c] holds column c of the 16 rows. */
SIMD_INLINE void v16_turn(const v16 *rows, v16 *out)
{
    v16 pairs[16], fours[16];
    SIMD_UNROLL
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    SIMD_UNROLL
    for (int i = 0; i < 16; i += 4) { /* fours[i + c]: columns c, c + 4, .. of rows i to i + 3 */
        SIMD_UNROLL
        for (int c = 0; c < 2; c++) {
            __m512d a = _mm512_castps_pd(pairs[i + c]), b = _mm512_castps_pd(pairs[i + c + 2]);
            fours[i + 2 * c] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            fours[i + 2 * c + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    SIMD_UNROLL
    for (int c = 0; c < 4; c++) {
        v16 lo = SIMD_QUARTERS(fours[c], fours[4 + c], 0x88);
        v16 lo_odd = SIMD_QUARTERS(fours[c], fours[4 + c], 0xdd);
        v16 hi = SIMD_QUARTERS(fours[8 + c], fours[12 + c], 0x88);
        v16 hi_odd = SIMD_QUARTERS(fours[8 + c], fours[12 + c], 0xdd);
        out[c] = SIMD_QUARTERS(lo, hi, 0x88);
        out[c + 8] = SIMD_QUARTERS(lo, hi, 0xdd);
        out[c + 4] = SIMD_QUARTERS(lo_odd, hi_odd, 0x88);
        out[c + 12] = SIMD_QUARTERS(lo_odd, hi_odd, 0xdd);
    }
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

#if defined(__AVX512BF16__)
#    define SIMD_PAIRS 1

/* Thirty-two bf16, as pairs. */
typedef __m512bh vpairs;

SIMD_INLINE vpairs pairs_load(const void *p)
{
    return (vpairs)_mm512_loadu_si512(p);
}

/* n < 32 */
SIMD_INLINE vpairs pairs_load_n(const void *p, uint32_t n)
{
    return (vpairs)_mm512_maskz_loadu_epi16((__mmask32)((1U << n) - 1U), p);
}

SIMD_INLINE vpairs pairs_load_upto(const void *p, uint32_t n)
{
    return n >= 32 ? pairs_load(p) : pairs_load_n(p, n);
}

/* The same pair in every lane. */
SIMD_INLINE vpairs pairs_set1(const uint16_t *pair)
{
    int32_t bits;
    memcpy(&bits, pair, sizeof bits);
    return (vpairs)_mm512_set1_epi32(bits);
}

/* c + a b over pairs: a fused multiply-add of the second elements, then one of the first. Denormals
 * count as zero. */
SIMD_INLINE v16 pairs_fma(vpairs a, vpairs b, v16 c)
{
    return _mm512_dpbf16_ps(c, a, b);
}

/* Elements of a beside those of b as pairs: eight at a time, the first four to *lo. */
SIMD_INLINE void pairs_zip(vpairs a, vpairs b, vpairs *lo, vpairs *hi)
{
    *lo = (vpairs)_mm512_unpacklo_epi16((__m512i)a, (__m512i)b);
    *hi = (vpairs)_mm512_unpackhi_epi16((__m512i)a, (__m512i)b);
}

/* Columns 0 to 31 to the order pairs_zip leaves, and back. */
SIMD_INLINE void pairs_order(v16 first, v16 second, v16 *lo, v16 *hi)
{
    *lo = SIMD_QUARTERS(first, second, 0x88);
    *hi = SIMD_QUARTERS(first, second, 0xdd);
}

SIMD_INLINE void pairs_unorder(v16 lo, v16 hi, v16 *first, v16 *second)
{
    v16 a = SIMD_QUARTERS(lo, hi, 0x44), b = SIMD_QUARTERS(lo, hi, 0xee);
    *first = SIMD_QUARTERS(a, a, 0xd8);
    *second = SIMD_QUARTERS(b, b, 0xd8);
}

/* Rounds to bf16 and stores n <= 16 elements. */
SIMD_INLINE void pairs_store_rounded(void *p, v16 v, uint32_t n)
{
    _mm256_mask_storeu_epi16(p, simd_mask(n), (__m256i)_mm512_cvtneps_pbh(v));
}
#endif

#endif
