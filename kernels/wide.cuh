/* wide.cuh - products of many tokens: the sums of product.cuh with operands shared by a block.
 *
 * A block is 128 outputs by 128 tokens, 8 warps of 64 by 32. Stages of 64 terms of all its rows
 * come by cp.async, two ahead of the one in use; in shared memory the 32 terms of a unit lie row by
 * row, so that the eight lanes that are served at a time read 128 consecutive bytes. A lane reads
 * the 16 bytes that product.cuh gives it, the mmas are the same ones on the same operands, and the
 * eight slices are added first to last: the bits are those of the kernels for few tokens.
 *
 * What it can reach on an H200: mma.sync gives about 62 % of the chip's 990 TFLOP/s; a warp reads 6
 * KB of shared memory for 32 mmas, 48 clocks against 51; the second-level cache gives 64 FLOPs a
 * byte of its about 5.5 TB/s. So 350 TFLOP/s, where kernels without shared operands end at 117.
 *
 * Shared: 96 KB, one block a multiprocessor, 64 KB of copies under way. Registers: at most 255. */
#ifndef TARNK_WIDE_CUH
#define TARNK_WIDE_CUH

#include "product.cuh"

constexpr uint32_t WIDE_SIDE = 128; /* outputs, and tokens, of a block */
constexpr uint32_t WIDE_UNITS = 2;  /* of a stage */
constexpr uint32_t WIDE_STAGES = 3;
constexpr uint32_t WIDE_THREADS = 256;

struct wide_stage {
    uint16_t rows[WIDE_UNITS][WIDE_SIDE * SLICE_UNIT];
    uint16_t tokens[WIDE_UNITS][WIDE_SIDE * SLICE_UNIT];
};
constexpr size_t WIDE_SHARED = WIDE_STAGES * sizeof(wide_stage);
static_assert(WIDE_SHARED <= 99 * 1024, "a block of 8.9 has no more");

/* What a thread copies: its pieces of two rows of weights and of two tokens; NULL where there is
 * none. */
struct wide_rows {
    const uint16_t *row[2];
    const uint16_t *token[2];
    const uint16_t *somewhere; /* in device memory; nothing is read of it */
};

/* Row i of what a thread copies, of the block's 128. */
TARNK_DEVICE uint32_t wide_row(uint32_t i)
{
    return threadIdx.x / 4 + i * (WIDE_SIDE / 2);
}

TARNK_DEVICE void wide_fetch(wide_stage *to, const wide_rows &from, uint32_t step, uint32_t n_in)
{
#pragma unroll
    for (uint32_t u = 0; u < WIDE_UNITS; u++) {
        const uint32_t k = (step * WIDE_UNITS + u) * SLICE_UNIT + threadIdx.x % 4 * 8;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t at = wide_row(i) * SLICE_UNIT + threadIdx.x % 4 * 8;
            const bool row = from.row[i] && k < n_in, token = from.token[i] && k < n_in;
            copy_async16(to->rows[u] + at, row ? from.row[i] + k : from.somewhere, row);
            copy_async16(to->tokens[u] + at, token ? from.token[i] + k : from.somewhere, token);
        }
    }
}

/* One unit: 64 outputs by 32 tokens of this warp. */
TARNK_DEVICE void wide_unit(float acc[4][4][4], const uint16_t *rows, const uint16_t *tokens,
                            uint32_t warp, uint32_t lane)
{
    const uint32_t at = lane / 4 * SLICE_UNIT + lane % 4 * 8;
    uint4 x[4];
#pragma unroll
    for (uint32_t n = 0; n < 4; n++)
        x[n] = *reinterpret_cast<const uint4 *>(tokens + (warp / 2 * 32 + n * 8) * SLICE_UNIT + at);
#pragma unroll
    for (uint32_t m = 0; m < 4; m++) {
        const uint16_t *row = rows + (warp % 2 * 64 + m * 16) * SLICE_UNIT + at;
        const uint4 low = *reinterpret_cast<const uint4 *>(row);
        const uint4 high = *reinterpret_cast<const uint4 *>(row + 8 * SLICE_UNIT);
        const uint32_t a0[4] = {low.x, high.x, low.y, high.y};
        const uint32_t a1[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (uint32_t n = 0; n < 4; n++) {
            const uint32_t b0[2] = {x[n].x, x[n].y};
            mma_bf16(acc[m][n], a0, b0);
        }
#pragma unroll
        for (uint32_t n = 0; n < 4; n++) {
            const uint32_t b1[2] = {x[n].z, x[n].w};
            mma_bf16(acc[m][n], a1, b1);
        }
    }
}

/* The end of a slice. Sums begin with 0 and so never are -0, and slices of no terms, or a first one
 * that is added to 0, change nothing. */
TARNK_DEVICE void wide_add(float total[4][4][4], float acc[4][4][4])
{
#pragma unroll
    for (uint32_t m = 0; m < 4; m++)
#pragma unroll
        for (uint32_t n = 0; n < 4; n++)
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                total[m][n][i] += acc[m][n][i];
                acc[m][n][i] = 0;
            }
}

/* total[m][n][i], 0 before: output wide_out(m, i) times token wide_token(n, i). All threads of the
 * block come here, and the stages are free again when they have met once more. */
TARNK_DEVICE void wide_product(float total[4][4][4], wide_stage *stages, const wide_rows &from,
                               uint32_t n_in)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t n_units = (n_in + SLICE_UNIT - 1) / SLICE_UNIT;
    const uint32_t n_steps = (n_units + WIDE_UNITS - 1) / WIDE_UNITS;
    const uint32_t each = (n_units + SLICES - 1) / SLICES;
    float acc[4][4][4] = {};
    uint32_t left = each; /* units of this slice */
#pragma unroll
    for (uint32_t s = 0; s + 1 < WIDE_STAGES; s++) {
        if (s < n_steps)
            wide_fetch(&stages[s], from, s, n_in);
        copy_commit();
    }
#pragma unroll 1
    for (uint32_t step = 0; step < n_steps; step++) {
        const uint32_t next = step + WIDE_STAGES - 1;
        copy_wait<WIDE_STAGES - 2>();
        __syncthreads(); /* the stage is there, and the one before it free */
        if (next < n_steps)
            wide_fetch(&stages[next % WIDE_STAGES], from, next, n_in);
        copy_commit();
        const wide_stage *stage = &stages[step % WIDE_STAGES];
#pragma unroll
        for (uint32_t u = 0; u < WIDE_UNITS; u++) {
            if (step * WIDE_UNITS + u >= n_units)
                break;
            wide_unit(acc, stage->rows[u], stage->tokens[u], warp, lane);
            if (--left == 0) {
                wide_add(total, acc);
                left = each;
            }
        }
    }
    copy_wait<0>();
    wide_add(total, acc);
}

TARNK_DEVICE uint32_t wide_out(uint32_t m, uint32_t i)
{
    return threadIdx.x / 32 % 2 * 64 + m * 16 + threadIdx.x % 32 / 4 + i / 2 * 8;
}

TARNK_DEVICE uint32_t wide_token(uint32_t n, uint32_t i)
{
    return threadIdx.x / 64 * 32 + n * 8 + threadIdx.x % 4 * 2 + i % 2;
}

/* fp32 rows to dense bf16 rows; n_in is a multiple of 8. */
template <typename X>
static __global__ void __launch_bounds__(256)
    narrow_kernel(const X *x, size_t x_stride, uint16_t *out, uint32_t n_in, size_t n_eights)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * 256 + threadIdx.x;
    previous_wait();
    next_start();
    if (i >= n_eights)
        return;
    const size_t row = i / (n_in / 8), k = i % (n_in / 8) * 8;
    *reinterpret_cast<uint4 *>(out + row * n_in + k) = load_eight(x + row * x_stride + k);
}

static inline int launch_narrow(const float *x, size_t x_stride, uint16_t *out, uint32_t n_in,
                                size_t n_rows, const tarnk_context *context)
{
    const size_t n_eights = n_rows * n_in / 8;
    return LAUNCH(narrow_kernel<float>, div_up(n_eights, 256), 256, 0, context, x, x_stride, out,
                  n_in, n_eights);
}

#endif
