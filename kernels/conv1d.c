/* conv1d.c - see conv1d.h.
 *
 * A task is 64 channels of one part of one session, all its rows, a vector of them at a time. The
 * weights, [channel][tap] in the checkpoint, are turned to [tap][channel] on the stack, and a
 * window of the last W inputs moves along: the old tail is read whole before the new one is
 * written, so both may be the same slot. Unused lanes of the last vector compute on zeros. */
#include "conv1d.h"

#include "isa.h"
#include "simd.h"

#define CHANNELS 64 /* of a task */

typedef struct conv1d_job {
    const tarnk_conv1d_args *args;
    uint32_t n_blocks; /* of channels */
} conv1d_job;

/* One vector of channels. `width` and mostly `lanes` are constants where this is expanded, so that
 * weights and window stay in registers. */
SIMD_INLINE void conv1d_vector(const tarnk_conv1d_args *a, const tarnk_seq *seq, uint32_t part,
                               uint32_t channel, uint32_t lanes, const uint32_t width)
{
    const uint32_t taps = width - 1;
    const int is_bf16 = a->conv_dtype == TARNK_BF16;
    const size_t tail = (size_t)part * taps * a->n + channel; /* element of the oldest tap */
    float turned[TARNK_CONV_WIDTH_MAX][SIMD_LANES] = {{0}};
    for (uint32_t c = 0; c < lanes; c++)
        for (uint32_t j = 0; j < width; j++)
            turned[j][c] = a->weight[part][(size_t)(channel + c) * width + j];
    v16 weight[TARNK_CONV_WIDTH_MAX], window[TARNK_CONV_WIDTH_MAX];
    for (uint32_t j = 0; j < TARNK_CONV_WIDTH_MAX; j++) {
        weight[j] = v16_load(turned[j]);
        window[j] = v16_set1(0.0F);
    }
    for (uint32_t j = 0; j < taps; j++)
        window[j] =
            v16_load_as(seq->state_read + a->conv_offset, is_bf16, tail + (size_t)j * a->n, lanes);
    for (uint32_t r = 0; r < seq->n_rows; r++) {
        const size_t at = (size_t)(seq->row_begin + r) * a->n + channel;
        window[taps] = v16_load_upto(a->x[part] + at, lanes);
        v16 y = v16_mul(weight[0], window[0]);
        for (uint32_t j = 1; j < width; j++)
            y = v16_fma(weight[j], window[j], y);
        v16_store_upto(a->out[part] + at, v16_silu(y), lanes);
        for (uint32_t j = 0; j < taps; j++)
            window[j] = window[j + 1];
    }
    for (uint32_t j = 0; j < taps; j++)
        v16_store_as(seq->state_write + a->conv_offset, is_bf16, tail + (size_t)j * a->n, window[j],
                     lanes);
}

static void conv1d_rows(const tarnk_conv1d_args *a, const tarnk_seq *seq, uint32_t part,
                        uint32_t channel, uint32_t end)
{
    for (; channel < end; channel += SIMD_LANES) {
        const uint32_t lanes = simd_lanes_left(end, channel);
        if (a->width == 4 && lanes == SIMD_LANES) /* what the models have */
            conv1d_vector(a, seq, part, channel, SIMD_LANES, 4);
        else
            conv1d_vector(a, seq, part, channel, lanes, a->width);
    }
}

static void conv1d_task(void *arg, uint32_t task_idx)
{
    const conv1d_job *job = arg;
    const tarnk_conv1d_args *a = job->args;
    uint32_t channel = task_idx % job->n_blocks * CHANNELS;
    uint32_t part = task_idx / job->n_blocks % TARNK_CONV_PARTS;
    const tarnk_seq *seq = &a->seqs[task_idx / job->n_blocks / TARNK_CONV_PARTS];
    conv1d_rows(a, seq, part, channel, channel + min_u32(CHANNELS, a->n - channel));
}

int TARNK(conv1d)(const tarnk_conv1d_args *args, const tarnk_context *context)
{
    conv1d_job job = {args, div_up(args->n, CHANNELS)};
    context->run(context->pool, args->n_seqs * TARNK_CONV_PARTS * job.n_blocks, conv1d_task, &job);
    return 0;
}
