/* conv1d.c - see conv1d.h.
 *
 * A task is 64 channels of one part of one session, all its rows. The weights, [channel][tap] in
 * the checkpoint, are turned to [tap][channel] on the stack, and a window of the last W inputs
 * moves along: the old tail is read whole before the new one is written, so both may be the same
 * slot. Unused lanes of the last block compute on zeros. */
#include "conv1d.h"

#include "isa.h"
#include "simd.h"

#define CHANNELS 64 /* of a task */
#define VECS     (CHANNELS / SIMD_LANES)

typedef struct conv1d_job {
    const tarnk_conv1d_args *args;
    uint32_t n_blocks; /* of channels */
} conv1d_job;

static void conv1d_rows(const tarnk_conv1d_args *a, const tarnk_seq *seq, uint32_t part,
                        uint32_t channel, uint32_t n_channels)
{
    const uint32_t width = a->width, taps = width - 1;
    const int is_bf16 = a->conv_dtype == TARNK_BF16;
    float weight[TARNK_CONV_WIDTH_MAX][CHANNELS] = {{0}};
    for (uint32_t c = 0; c < n_channels; c++)
        for (uint32_t j = 0; j < width; j++)
            weight[j][c] = a->weight[part][(size_t)(channel + c) * width + j];

    const size_t tail = (size_t)part * taps * a->n + channel; /* element of the oldest tap */
    v16 window[TARNK_CONV_WIDTH_MAX][VECS];
    for (uint32_t j = 0; j < taps; j++)
        for (uint32_t v = 0; v * SIMD_LANES < n_channels; v++)
            window[j][v] = v16_load_as(seq->state_read + a->conv_offset, is_bf16,
                                       tail + (size_t)j * a->n + v * SIMD_LANES,
                                       simd_lanes_left(n_channels, v * SIMD_LANES));

    for (uint32_t r = 0; r < seq->n_rows; r++) {
        size_t at = (size_t)(seq->row_begin + r) * a->n + channel;
        for (uint32_t v = 0; v * SIMD_LANES < n_channels; v++) {
            uint32_t lanes = simd_lanes_left(n_channels, v * SIMD_LANES);
            window[taps][v] = v16_load_upto(a->x[part] + at + v * SIMD_LANES, lanes);
            v16 y = v16_mul(v16_load(weight[0] + v * SIMD_LANES), window[0][v]);
            for (uint32_t j = 1; j < width; j++)
                y = v16_fma(v16_load(weight[j] + v * SIMD_LANES), window[j][v], y);
            v16_store_upto(a->out[part] + at + v * SIMD_LANES, v16_silu(y), lanes);
            for (uint32_t j = 0; j < taps; j++)
                window[j][v] = window[j + 1][v];
        }
    }

    for (uint32_t j = 0; j < taps; j++)
        for (uint32_t v = 0; v * SIMD_LANES < n_channels; v++)
            v16_store_as(seq->state_write + a->conv_offset, is_bf16,
                         tail + (size_t)j * a->n + v * SIMD_LANES, window[j][v],
                         simd_lanes_left(n_channels, v * SIMD_LANES));
}

static void conv1d_task(void *arg, uint32_t task_idx)
{
    const conv1d_job *job = arg;
    const tarnk_conv1d_args *a = job->args;
    uint32_t channel = task_idx % job->n_blocks * CHANNELS;
    uint32_t part = task_idx / job->n_blocks % TARNK_CONV_PARTS;
    const tarnk_seq *seq = &a->seqs[task_idx / job->n_blocks / TARNK_CONV_PARTS];
    conv1d_rows(a, seq, part, channel, min_u32(CHANNELS, a->n - channel));
}

int TARNK(conv1d)(const tarnk_conv1d_args *args, const tarnk_context *context)
{
    conv1d_job job = {args, div_up(args->n, CHANNELS)};
    context->run(context->pool, args->n_seqs * TARNK_CONV_PARTS * job.n_blocks, conv1d_task, &job);
    return 0;
}
