/* simd_fold.h - the lower levels of the sum tree, shared by AVX2 and AVX-512: eight lanes to one by
 * i+4, i+2, i+1. */
#ifndef TARNK_SIMD_FOLD_H
#define TARNK_SIMD_FOLD_H

#include <immintrin.h>

SIMD_INLINE __m128 simd_fold_half(__m256 v)
{
    return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

SIMD_INLINE float simd_fold1(__m256 v)
{
    __m128 a = simd_fold_half(v);
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}

SIMD_INLINE __m128 simd_fold4(__m256 va, __m256 vb, __m256 vc, __m256 vd)
{
    __m128 a = simd_fold_half(va), b = simd_fold_half(vb);
    __m128 c = simd_fold_half(vc), d = simd_fold_half(vd);
    /* (a0+a2, b0+b2, a1+a3, b1+b3), and the same of c and d */
    __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

#endif
