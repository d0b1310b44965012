/* norm.c - see norm.h. */
#include "norm.h"

#include "isa.h"
#include "rowsum.h"

static void rms_task(void *arg, uint32_t row)
{
    const tarnk_norm_rms_args *a = arg;
    const float *x = a->x + row * a->x_stride;
    float *out = a->out + (size_t)row * a->n;
    v16 factor = v16_set1(row_rms_factor(x, a->n, a->eps));
    for (uint32_t i = 0; i < a->n; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(a->n, i);
        v16 y = v16_mul(v16_mul(v16_load_upto(x + i, lanes), factor),
                        v16_load_upto(a->weight + i, lanes));
        v16_store_upto(out + i, a->round ? v16_round_bf16(y) : y, lanes);
    }
}

int TARNK(norm_rms)(const tarnk_norm_rms_args *args, const tarnk_context *context)
{
    tarnk_norm_rms_args job = *args;
    context->run(context->pool, job.n_rows, rms_task, &job);
    return 0;
}

#define GATED_HEADS 8 /* heads of a task */

static void gated_task(void *arg, uint32_t task_idx)
{
    const tarnk_norm_gated_args *a = arg;
    uint32_t pieces = div_up(a->n_heads, GATED_HEADS);
    uint32_t head = task_idx % pieces * GATED_HEADS;
    uint32_t end = min_u32(head + GATED_HEADS, a->n_heads);
    for (; head < end; head++) {
        size_t at = ((size_t)(task_idx / pieces) * a->n_heads + head) * a->n;
        v16 factor = v16_set1(row_rms_factor(a->x + at, a->n, a->eps));
        for (uint32_t i = 0; i < a->n; i += SIMD_LANES) {
            uint32_t lanes = simd_lanes_left(a->n, i);
            v16 gate = v16_sigmoid(v16_load_upto(a->gate + at + i, lanes));
            v16 y = v16_mul(v16_load_upto(a->x + at + i, lanes), factor);
            y = v16_mul(v16_mul(y, v16_load_upto(a->weight + i, lanes)), gate);
            v16_store_upto(a->out + at + i, a->round ? v16_round_bf16(y) : y, lanes);
        }
    }
}

int TARNK(norm_gated)(const tarnk_norm_gated_args *args, const tarnk_context *context)
{
    tarnk_norm_gated_args job = *args;
    context->run(context->pool, job.n_rows * div_up(job.n_heads, GATED_HEADS), gated_task, &job);
    return 0;
}
