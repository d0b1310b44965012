/* kda_gate.c - see tarnk_kda_gate_args in kda.h. A task is a few heads of a row. */
#include "kda.h"

#include "isa.h"
#include "rowsum.h"

#define HEADS 4 /* of a task */

static void scale_head(float *x, uint32_t n, float factor)
{
    for (uint32_t i = 0; i < n; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(n, i);
        v16_store_upto(x + i, v16_mul(v16_load_upto(x + i, lanes), v16_set1(factor)), lanes);
    }
}

static void gate_head(const tarnk_kda_gate_args *a, float *f, const float *dt_bias, float a_log)
{
    v16 rate = v16_set1(simd_exp1(a_log));
    for (uint32_t i = 0; i < a->head_dim; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(a->head_dim, i);
        v16 z = v16_add(v16_load_upto(f + i, lanes), v16_load_upto(dt_bias + i, lanes));
        v16 g;
        if (a->gate_kind == TARNK_GATE_BOUNDED)
            g = v16_mul(v16_set1(a->lower_bound), v16_sigmoid(v16_mul(rate, z)));
        else
            g = v16_mul(v16_sub(v16_set1(0.0F), rate), v16_softplus(z));
        v16_store_upto(f + i, g, lanes);
    }
}

static void kda_gate_task(void *arg, uint32_t task_idx)
{
    const tarnk_kda_gate_args *a = arg;
    const uint32_t n = a->head_dim;
    const float q_scale = inverse_sqrt((float)n);
    uint32_t pieces = div_up(a->n_heads, HEADS);
    uint32_t head = task_idx % pieces * HEADS;
    uint32_t end = min_u32(head + HEADS, a->n_heads);
    for (; head < end; head++) {
        size_t at = (size_t)(task_idx / pieces) * a->n_heads + head;
        float *q = a->q + at * n, *k = a->k + at * n;
        scale_head(q, n, inverse_sqrt(row_sum_squares(q, n) + 1e-6F) * q_scale);
        scale_head(k, n, inverse_sqrt(row_sum_squares(k, n) + 1e-6F));
        gate_head(a, a->f + at * n, a->dt_bias + (size_t)head * n, a->a_log[head]);
        v16_store_n(a->b + at, v16_sigmoid(v16_load_n(a->b + at, 1)), 1);
    }
}

int TARNK(kda_gate)(const tarnk_kda_gate_args *args, const tarnk_context *context)
{
    tarnk_kda_gate_args job = *args;
    context->run(context->pool, job.n_rows * div_up(job.n_heads, HEADS), kda_gate_task, &job);
    return 0;
}
