/* conv1d.cu - see conv1d.h.
 *
 * A thread is one channel of one part of a session, for a tile of rows. Where the step has only one
 * tile a session, the thread also leaves the new tail: it has read the old one before, so both may
 * be the same slot. With more tiles the tails are written by a second kernel, because the first
 * tile, in another block, still reads the old ones. Tails inside an append (tarnk_export) consist
 * of inputs of the step alone.
 *
 * Moved: 24 bytes a row and channel, tails twice; about 3 (2 W + 25) FLOPs; no shared memory. */
#include "launch.cuh"

#define THREADS   128u
#define TILE_ROWS 32u

TARNK_DEVICE float conv_input(const tarnk_conv1d_args &a, const tarnk_seq &s, uint32_t part,
                              uint32_t channel, int64_t t)
{
    if (t >= 0)
        return a.x[part][(s.row_begin + static_cast<size_t>(t)) * a.n + channel];
    const size_t taps = a.width - 1;
    return load_as(s.state_read + a.conv_offset, a.conv_dtype,
                   (part * taps + static_cast<size_t>(t + static_cast<int64_t>(taps))) * a.n +
                       channel);
}

/* The inputs before row `end` of the sequence become the tail of `slot`. */
TARNK_DEVICE void leave_tail(const tarnk_conv1d_args &a, const tarnk_seq &s, uint32_t part,
                             uint32_t channel, uint32_t end, uint8_t *slot)
{
    const uint32_t taps = a.width - 1;
    float tail[TARNK_CONV_WIDTH_MAX];
#pragma unroll
    for (uint32_t j = 0; j < TARNK_CONV_WIDTH_MAX - 1; j++)
        if (j < taps)
            tail[j] = conv_input(a, s, part, channel,
                                 static_cast<int64_t>(end) - static_cast<int64_t>(taps - j));
#pragma unroll
    for (uint32_t j = 0; j < TARNK_CONV_WIDTH_MAX - 1; j++)
        if (j < taps)
            store_as(slot + a.conv_offset, a.conv_dtype,
                     (static_cast<size_t>(part) * taps + j) * a.n + channel, tail[j]);
}

static __global__ void __launch_bounds__(THREADS)
    conv1d_kernel(const __grid_constant__ tarnk_conv1d_args a, uint32_t leave_tails)
{
    const uint32_t channel = blockIdx.x * THREADS + threadIdx.x;
    const uint32_t part = blockIdx.z % TARNK_CONV_PARTS;
    previous_wait();
    next_start();
    const tarnk_seq s = a.seqs[blockIdx.z / TARNK_CONV_PARTS];
    if (channel >= a.n || blockIdx.y * TILE_ROWS >= s.n_rows)
        return;
    float weight[TARNK_CONV_WIDTH_MAX], window[TARNK_CONV_WIDTH_MAX];
    const uint32_t first = blockIdx.y * TILE_ROWS;
    const uint32_t end = min_u32(first + TILE_ROWS, s.n_rows);
    /* The window is aligned to its end, so that every index is known to the compiler. */
#pragma unroll
    for (uint32_t j = 0; j < TARNK_CONV_WIDTH_MAX; j++) {
        const uint32_t back = TARNK_CONV_WIDTH_MAX - 1 - j; /* rows before the current one */
        weight[j] =
            back < a.width
                ? a.weight[part][static_cast<size_t>(channel) * a.width + (a.width - 1 - back)]
                : 0.0f;
        window[j] = back > 0 && back < a.width
                        ? conv_input(a, s, part, channel,
                                     static_cast<int64_t>(first) - static_cast<int64_t>(back))
                        : 0.0f;
    }
    for (uint32_t t = first; t < end; t++) {
        const size_t at = (s.row_begin + static_cast<size_t>(t)) * a.n + channel;
        window[TARNK_CONV_WIDTH_MAX - 1] = a.x[part][at];
        float y = 0;
#pragma unroll
        for (uint32_t j = 0; j < TARNK_CONV_WIDTH_MAX; j++)
            y = fmaf(weight[j], window[j], y);
        a.out[part][at] = silu(y);
#pragma unroll
        for (uint32_t j = 0; j + 1 < TARNK_CONV_WIDTH_MAX; j++)
            window[j] = j + a.width >= TARNK_CONV_WIDTH_MAX ? window[j + 1] : 0.0f;
    }
    if (leave_tails)
        leave_tail(a, s, part, channel, s.n_rows, s.state_write);
}

static __global__ void __launch_bounds__(THREADS)
    conv1d_tails_kernel(const __grid_constant__ tarnk_conv1d_args a)
{
    const uint32_t channel = blockIdx.x * THREADS + threadIdx.x;
    previous_wait();
    next_start();
    const tarnk_seq s = a.seqs[blockIdx.z / TARNK_CONV_PARTS];
    if (channel < a.n && s.n_rows > 0)
        leave_tail(a, s, blockIdx.z % TARNK_CONV_PARTS, channel, s.n_rows, s.state_write);
}

static __global__ void __launch_bounds__(THREADS)
    conv1d_exports_kernel(const __grid_constant__ tarnk_conv1d_args a, const tarnk_export *exports)
{
    const uint32_t channel = blockIdx.x * THREADS + threadIdx.x;
    previous_wait();
    next_start();
    const tarnk_export e = exports[blockIdx.z / TARNK_CONV_PARTS];
    if (channel < a.n)
        leave_tail(a, a.seqs[e.seq], blockIdx.z % TARNK_CONV_PARTS, channel, e.row, e.slot);
}

extern "C" int tarnk_conv1d_cuda(const tarnk_conv1d_args *a, const tarnk_context *context)
{
    const tarnk_cuda_step *step = &cuda_of(context)->step;
    const uint32_t tiles = div_up(step->rows_max, TILE_ROWS), blocks = div_up(a->n, THREADS);
    const uint32_t parts = a->n_seqs * TARNK_CONV_PARTS;
    TRY_LAUNCH(LAUNCH(conv1d_kernel, dim3(blocks, tiles, parts), THREADS, 0, context, *a,
                      tiles == 1 ? 1u : 0u));
    if (step->n_exports > 0)
        TRY_LAUNCH(LAUNCH(conv1d_exports_kernel,
                          dim3(blocks, 1, step->n_exports * TARNK_CONV_PARTS), THREADS, 0, context,
                          *a, step->exports));
    return tiles == 1
               ? 0
               : LAUNCH(conv1d_tails_kernel, dim3(blocks, 1, parts), THREADS, 0, context, *a);
}
