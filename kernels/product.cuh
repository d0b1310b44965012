/* product.cuh - the one way all products with weights are summed on CUDA, for matmul and moe.
 *
 * y = W x with bf16 operands. Rows of W are the 16 rows of an mma, tokens its 8 columns, so that
 * one token costs what eight do and a token's bits do not depend on how many there are. Weights are
 * read as they lie in the checkpoint: an mma does not care in which order the terms of a sum stand,
 * if both operands agree; so of 32 terms lane t takes 8t to 8t + 7, which is one load of 16 bytes a
 * row, and two mmas share them. Nothing is shuffled at load, and no second copy is needed for
 * another kernel.
 *
 * The order of a sum: the terms are cut into 8 slices of whole 32s, by their number alone; a warp
 * (or a stage of the wide kernel) sums a slice mma by mma, and the slices are added first to last.
 * Every kernel here keeps to that order, so a row's bits are the same for 1 row and for 8192.
 *
 * Without `native`, or where rows are not 16-byte aligned, fp32: a warp sums a row, lanes strided
 * over the terms, then a fixed tree. */
#ifndef TARNK_PRODUCT_CUH
#define TARNK_PRODUCT_CUH

#include "launch.cuh"

constexpr uint32_t SLICES = 8;
constexpr uint32_t SLICE_UNIT = 32; /* terms of two mmas */
constexpr uint32_t PRODUCT_THREADS = SLICES * 32;

struct slice_range {
    uint32_t begin, end; /* in units */
};

TARNK_DEVICE slice_range slice_of(uint32_t n_in, uint32_t slice)
{
    const uint32_t units = (n_in + SLICE_UNIT - 1) / SLICE_UNIT;
    const uint32_t each = (units + SLICES - 1) / SLICES;
    return {min_u32(slice * each, units), min_u32((slice + 1) * each, units)};
}

/* Eight consecutive values as bf16. */
TARNK_DEVICE uint4 load_eight(const float *x)
{
    const float4 a = *reinterpret_cast<const float4 *>(x);
    const float4 b = *reinterpret_cast<const float4 *>(x + 4);
    return make_uint4(bf16_pack(a.x, a.y), bf16_pack(a.z, a.w), bf16_pack(b.x, b.y),
                      bf16_pack(b.z, b.w));
}

TARNK_DEVICE uint4 load_eight(const uint16_t *x)
{
    return *reinterpret_cast<const uint4 *>(x);
}

TARNK_DEVICE void mma_pair(float d[4], const uint4 &low, const uint4 &high, const uint4 &x)
{
    const uint32_t a0[4] = {low.x, high.x, low.y, high.y}, b0[2] = {x.x, x.y};
    const uint32_t a1[4] = {low.z, high.z, low.w, high.w}, b1[2] = {x.z, x.w};
    mma_bf16(d, a0, b0);
    mma_bf16(d, a1, b1);
}

/* One warp's slice for MT tiles of 16 rows and NT of 8 tokens. `rows`: rows g and g + 8 of each
 * tile, for g = lane / 4, NULL behind the end; `tokens`: token g of each tile, or NULL. The first
 * AHEAD units of weights are asked for before previous_wait: weights depend on no kernel. */
template <int MT, int NT, int AHEAD, typename X>
TARNK_DEVICE void product_slice(float acc[MT][NT][4], const uint16_t *const (&rows)[MT][2],
                                const X *const (&tokens)[NT], uint32_t n_in, uint32_t slice,
                                uint32_t lane)
{
    const slice_range range = slice_of(n_in, slice);
    const uint32_t part = lane % 4 * 8;
    const uint4 none = make_uint4(0, 0, 0, 0);
    uint4 ring[AHEAD][MT][2];
#pragma unroll
    for (int d = 0; d < AHEAD; d++)
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint32_t k = (range.begin + d) * SLICE_UNIT + part;
                ring[d][m][h] = rows[m][h] && range.begin + d < range.end && k < n_in
                                    ? load_once(rows[m][h] + k)
                                    : none;
            }
    previous_wait();
    for (uint32_t unit = range.begin; unit < range.end; unit += AHEAD) {
#pragma unroll
        for (int d = 0; d < AHEAD; d++) {
            if (unit + d >= range.end)
                break;
            const uint32_t k = (unit + d) * SLICE_UNIT + part;
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const uint4 x = tokens[n] && k < n_in ? load_eight(tokens[n] + k) : none;
#pragma unroll
                for (int m = 0; m < MT; m++)
                    mma_pair(acc[m][n], ring[d][m][0], ring[d][m][1], x);
            }
            const uint32_t next = unit + d + AHEAD, k_next = next * SLICE_UNIT + part;
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    ring[d][m][h] = rows[m][h] && next < range.end && k_next < n_in
                                        ? load_once(rows[m][h] + k_next)
                                        : none;
        }
    }
}

/* Adds the slices of all warps, first to last: sums [MT * 16][NT * 8 + 1] in shared memory. */
template <int MT, int NT>
TARNK_DEVICE void product_gather(float *sums, const float acc[MT][NT][4], uint32_t warp,
                                 uint32_t lane)
{
    constexpr uint32_t stride = NT * 8 + 1;
    for (uint32_t w = 0; w < SLICES; w++) {
        if (warp == w) {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < NT; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        uint32_t row = m * 16 + lane / 4 + i / 2 * 8;
                        float *to = sums + row * stride + n * 8 + lane % 4 * 2 + i % 2;
                        *to = w == 0 ? acc[m][n][i] : *to + acc[m][n][i];
                    }
        }
        __syncthreads();
    }
}

template <int MT, int NT> constexpr size_t product_shared()
{
    return MT * 16 * (NT * 8 + 1) * sizeof(float);
}

/* fp32: N tokens (NULL: none) times one row, in every lane. */
template <int N>
TARNK_DEVICE void product_plain(float sums[N], const void *w, tarnk_dtype dtype, size_t row_begin,
                                const float *const (&tokens)[N], uint32_t n_in, uint32_t lane)
{
#pragma unroll
    for (int n = 0; n < N; n++)
        sums[n] = 0;
    for (uint32_t k = lane; k < n_in; k += 32) {
        const float weight = load_as(w, dtype, row_begin + k);
#pragma unroll
        for (int n = 0; n < N; n++)
            if (tokens[n])
                sums[n] = fmaf(weight, tokens[n][k], sums[n]);
    }
#pragma unroll
    for (int n = 0; n < N; n++)
        sums[n] = warp_sum(sums[n]);
}

#endif
