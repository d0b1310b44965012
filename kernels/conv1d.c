/* conv1d.c - see conv1d.h.
 *
 * A task is up to 256 channels of one part, for every session of the step: the weights, [channel]
 * [tap] in the checkpoint, are turned to [tap][channel] once, and where many sessions have a row
 * each the tails are read and written in pieces long enough for the memory. Inputs of earlier rows
 * are read again where they lie, as they are in the first-level cache; the old tail is copied
 * before the new one is written, so both may be the same slot. Unused lanes of a last vector
 * compute on zeros. */
#include "conv1d.h"

#include "isa.h"
#include "simd.h"

#define CHANNELS_MAX 256 /* of a task; a multiple of the lanes */

typedef struct conv1d_job {
    const tarnk_conv1d_args *args;
    uint32_t piece; /* channels of a task */
} conv1d_job;

/* Rows of a task's channels. */
typedef struct conv1d_taps {
    float of[TARNK_CONV_WIDTH_MAX][CHANNELS_MAX];
} conv1d_taps;

/* The channels of a task. */
typedef struct conv1d_block {
    const tarnk_conv1d_args *args;
    uint32_t part;
    uint32_t channel;
    uint32_t n;
    conv1d_taps weight;
} conv1d_block;

static void turn_weights(conv1d_block *b)
{
    const uint32_t width = b->args->width;
    for (uint32_t c = 0; c < b->n; c++)
        for (uint32_t j = 0; j < width; j++)
            b->weight.of[j][c] = b->args->weight[b->part][(size_t)(b->channel + c) * width + j];
    for (uint32_t c = b->n; c % SIMD_LANES > 0; c++)
        for (uint32_t j = 0; j < width; j++)
            b->weight.of[j][c] = 0;
}

/* The tail's element of the block's first channel at tap j. */
static size_t tail_at(const conv1d_block *b, uint32_t j)
{
    const tarnk_conv1d_args *a = b->args;
    return ((size_t)b->part * (a->width - 1) + j) * a->n + b->channel;
}

/* The input `ahead` rows behind the oldest of the tail: a row of the tail, or of the step. */
static const float *input_row(const conv1d_block *b, const tarnk_seq *seq, const conv1d_taps *tail,
                              uint32_t ahead)
{
    const tarnk_conv1d_args *a = b->args;
    if (ahead < a->width - 1)
        return tail->of[ahead];
    return a->x[b->part] + (size_t)(seq->row_begin + ahead - (a->width - 1)) * a->n + b->channel;
}

/* One row. `width` is mostly a constant where this is expanded. */
SIMD_INLINE void conv1d_row(const conv1d_block *b, const float *const *in, float *out,
                            const uint32_t width)
{
    for (uint32_t c = 0; c < b->n; c += SIMD_LANES) {
        const uint32_t lanes = simd_lanes_left(b->n, c);
        v16 y = v16_mul(v16_load(b->weight.of[0] + c), v16_load_upto(in[0] + c, lanes));
        for (uint32_t j = 1; j < width; j++)
            y = v16_fma(v16_load(b->weight.of[j] + c), v16_load_upto(in[j] + c, lanes), y);
        v16_store_upto(out + c, v16_silu(y), lanes);
    }
}

static void conv1d_seq(const conv1d_block *b, const tarnk_seq *seq)
{
    const tarnk_conv1d_args *a = b->args;
    const uint32_t taps = a->width - 1;
    const int is_bf16 = a->conv_dtype == TARNK_BF16;
    conv1d_taps tail;
    for (uint32_t j = 0; j < taps; j++)
        for (uint32_t c = 0; c < b->n; c += SIMD_LANES)
            v16_store(tail.of[j] + c, v16_load_as(seq->state_read + a->conv_offset, is_bf16,
                                                  tail_at(b, j) + c, simd_lanes_left(b->n, c)));
    for (uint32_t r = 0; r < seq->n_rows; r++) {
        const float *in[TARNK_CONV_WIDTH_MAX];
        float *out = a->out[b->part] + (size_t)(seq->row_begin + r) * a->n + b->channel;
        for (uint32_t j = 0; j < a->width; j++)
            in[j] = input_row(b, seq, &tail, r + j);
        if (a->width == 4) /* what the models have */
            conv1d_row(b, in, out, 4);
        else
            conv1d_row(b, in, out, a->width);
    }
    for (uint32_t j = 0; j < taps; j++) {
        const float *last = input_row(b, seq, &tail, seq->n_rows + j);
        for (uint32_t c = 0; c < b->n; c += SIMD_LANES) {
            const uint32_t lanes = simd_lanes_left(b->n, c);
            v16_store_as(seq->state_write + a->conv_offset, is_bf16, tail_at(b, j) + c,
                         v16_load_upto(last + c, lanes), lanes);
        }
    }
}

static void conv1d_task(void *arg, uint32_t task_idx)
{
    const conv1d_job *job = arg;
    const tarnk_conv1d_args *a = job->args;
    conv1d_block b;
    b.args = a;
    b.part = task_idx % TARNK_CONV_PARTS;
    b.channel = task_idx / TARNK_CONV_PARTS * job->piece;
    b.n = min_u32(job->piece, a->n - b.channel);
    turn_weights(&b);
    for (uint32_t s = 0; s < a->n_seqs; s++)
        conv1d_seq(&b, &a->seqs[s]);
}

int TARNK(conv1d)(const tarnk_conv1d_args *args, const tarnk_context *context)
{
    conv1d_job job = {args, piece_size(context, args->n, TARNK_CONV_PARTS, 64, CHANNELS_MAX)};
    context->run(context->pool, TARNK_CONV_PARTS * div_up(args->n, job.piece), conv1d_task, &job);
    return 0;
}
