/* simd.h - sixteen fp32 lanes, the same on every ISA.
 *
 * A v16 is one AVX-512 register, two AVX2 registers, or an array in plain C, chosen by the flags
 * this file is compiled with; the kernels above are written once. What makes results portable:
 *
 *  1. Every operation is lane by lane and IEEE-exact, or built from such ones here, in one order.
 *  2. v16_sum adds lanes by a fixed tree: lane i to i+8, then to i+4, i+2, i+1. v16_sum4 is the
 *     same tree for four vectors at once.
 *  3. exp and log1p are polynomials over these operations. The C library's are not used: they
 *     differ between versions and between scalar and vector calls.
 *
 * So AVX2 and AVX-512 give the same bits, as do gcc and clang (built without contraction). Plain C
 * has no fused multiply-add: v16_fma rounds twice there, hence its own numerics text.
 *
 * Partial loads fill with zero and touch only the n elements named; 0 < n < 16. */
#ifndef TARNK_SIMD_H
#define TARNK_SIMD_H

#include <stdint.h>
#include <string.h>

#define SIMD_INLINE static inline __attribute__((always_inline, unused))

/* Loops over the elements of a tile, which must become registers. Plain C has none to win, and its
 * sixteen-fold operations would only grow; nor has a sanitizer's build, which would take minutes.
 */
#if !defined(__AVX2__) || defined(SIMD_NO_UNROLL)
#    define SIMD_UNROLL
#elif defined(__clang__)
#    define SIMD_UNROLL _Pragma("clang loop unroll(full)")
#else
#    define SIMD_UNROLL _Pragma("GCC unroll 32")
#endif

#if defined(__AVX512F__)
#    include "simd_avx512.h"
#elif defined(__AVX2__)
#    include "simd_avx2.h"
#else
#    include "simd_plain.h"
#endif

#define SIMD_LANES 16

#if !defined(__AVX512F__) /* else there are shorter ways */
/* Lane i is v16_sum(v[i]). */
SIMD_INLINE v16 v16_sum16(const v16 *v)
{
    float sums[SIMD_LANES];
    for (int i = 0; i < SIMD_LANES; i += 4)
        v16_sum4(v + i, sums + i);
    return v16_load(sums);
}

/* out[i] is v16_sum(v[i]), for eight. */
SIMD_INLINE void v16_sum8(const v16 *v, float *out)
{
    v16_sum4(v, out);
    v16_sum4(v + 4, out + 4);
}

/* out[c] holds column c of the 16 rows. */
SIMD_INLINE void v16_turn(const v16 *rows, v16 *out)
{
    float from[SIMD_LANES][SIMD_LANES], to[SIMD_LANES][SIMD_LANES];
    for (int i = 0; i < SIMD_LANES; i++)
        v16_store(from[i], rows[i]);
    for (int c = 0; c < SIMD_LANES; c++)
        for (int i = 0; i < SIMD_LANES; i++)
            to[c][i] = from[i][c];
    for (int c = 0; c < SIMD_LANES; c++)
        out[c] = v16_load(to[c]);
}
#endif

/* e^x within about 1 ulp; 0 below -104, infinity above 88.8, NaN for NaN, exactly 1 for 0. */
SIMD_INLINE v16 v16_exp(v16 x)
{
    const v16 magic = v16_set1(12582912.0F); /* 1.5 * 2^23: adding it rounds to an integer */
    /* The bound comes first: max and min return their second operand for NaN. */
    x = v16_min(v16_set1(89.5F), v16_max(v16_set1(-110.0F), x));
    v16 shifted = v16_fma(x, v16_set1(1.44269504F), magic);
    v16 n = v16_sub(shifted, magic);
    v16 r = v16_fma(n, v16_set1(-0.693359375F), x); /* ln 2 in two parts, the first times n exact */
    r = v16_fma(n, v16_set1(2.12194440e-4F), r);
    v16 p = v16_set1(1.98412698e-4F); /* Taylor to r^7: |r| <= 0.347, the rest is below 6e-9 */
    p = v16_fma(p, r, v16_set1(1.38888889e-3F));
    p = v16_fma(p, r, v16_set1(8.33333333e-3F));
    p = v16_fma(p, r, v16_set1(4.16666667e-2F));
    p = v16_fma(p, r, v16_set1(1.66666667e-1F));
    p = v16_fma(p, r, v16_set1(0.5F));
    p = v16_fma(p, v16_mul(r, r), r);
    return v16_scale_pow2(v16_add(p, v16_set1(1.0F)), shifted);
}

/* log(1 + e) for 0 <= e <= 1, within about 2 ulp however small e is: 2 atanh(e / (2 + e)). */
SIMD_INLINE v16 v16_log1p_unit(v16 e)
{
    v16 s = v16_div(e, v16_add(e, v16_set1(2.0F))); /* at most 1/3 */
    v16 z = v16_mul(s, s);
    v16 p = v16_set1(1.0F / 17);
    p = v16_fma(p, z, v16_set1(1.0F / 15));
    p = v16_fma(p, z, v16_set1(1.0F / 13));
    p = v16_fma(p, z, v16_set1(1.0F / 11));
    p = v16_fma(p, z, v16_set1(1.0F / 9));
    p = v16_fma(p, z, v16_set1(1.0F / 7));
    p = v16_fma(p, z, v16_set1(1.0F / 5));
    p = v16_fma(p, z, v16_set1(1.0F / 3));
    v16 two_s = v16_add(s, s);
    return v16_fma(v16_mul(p, z), two_s, two_s);
}

/* Never computes e^+|x|: no infinity on the way, and tiny results keep their precision. */
SIMD_INLINE v16 v16_sigmoid(v16 x)
{
    v16 e = v16_exp(v16_neg_abs(x));
    return v16_div(v16_where_neg(x, e, v16_set1(1.0F)), v16_add(v16_set1(1.0F), e));
}

SIMD_INLINE v16 v16_silu(v16 x)
{
    return v16_mul(x, v16_sigmoid(x));
}

/* log(1 + e^x). Equals x beyond 20 without a branch: log1p(e^-20) is below half an ulp of 20. */
SIMD_INLINE v16 v16_softplus(v16 x)
{
    return v16_add(v16_max(v16_set1(0.0F), x), v16_log1p_unit(v16_exp(v16_neg_abs(x))));
}

/* Loads of n lanes, n <= 16; n == 16 known at compile time leaves the full load alone. */
SIMD_INLINE v16 v16_load_upto(const void *p, uint32_t n)
{
    return n >= SIMD_LANES ? v16_load(p) : v16_load_n(p, n);
}

SIMD_INLINE void v16_store_upto(void *p, v16 v, uint32_t n)
{
    if (n >= SIMD_LANES)
        v16_store(p, v);
    else
        v16_store_n(p, v, n);
}

#define SIMD_PART_LANES (SIMD_LANES / SIMD_PARTS)

SIMD_INLINE vpart part_load_as(const void *base, int is_bf16, size_t i)
{
    const uint8_t *bytes = base;
    return is_bf16 ? part_load_bf16(bytes + 2 * i) : part_load(bytes + 4 * i);
}

/* Elements [i, i + n) of an array of fp32 or bf16. */
SIMD_INLINE v16 v16_load_as(const void *base, int is_bf16, size_t i, uint32_t n)
{
    const uint8_t *bytes = base;
    if (is_bf16)
        return n >= SIMD_LANES ? v16_load_bf16(bytes + 2 * i) : v16_load_bf16_n(bytes + 2 * i, n);
    return v16_load_upto(bytes + 4 * i, n);
}

SIMD_INLINE void v16_store_as(void *base, int is_bf16, size_t i, v16 v, uint32_t n)
{
    uint8_t *bytes = base;
    if (!is_bf16)
        v16_store_upto(bytes + 4 * i, v, n);
    else
        v16_store_bf16_n(bytes + 2 * i, v, n);
}

/* Lanes of a loop over n elements that stands at i. */
SIMD_INLINE uint32_t simd_lanes_left(uint32_t n, uint32_t i)
{
    return n - i < SIMD_LANES ? n - i : SIMD_LANES;
}

SIMD_INLINE float simd_exp1(float x)
{
    float lanes[SIMD_LANES];
    v16_store(lanes, v16_exp(v16_set1(x)));
    return lanes[0];
}

#endif
