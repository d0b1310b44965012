/* pointwise.c - see pointwise.h. */
#include "pointwise.h"

#include "isa.h"
#include "simd.h"

#define BLOCK 4096 /* elements of a silu_mul task */

static void embed_task(void *arg, uint32_t row)
{
    const tarnk_embed_args *a = arg;
    const int is_bf16 = a->table.dtype == TARNK_BF16;
    const uint32_t n = a->table.n_in;
    const uint8_t *from =
        (const uint8_t *)a->table.data + (size_t)a->ids[row] * n * dtype_bytes(a->table.dtype);
    float *out = a->out + (size_t)row * n;
    for (uint32_t i = 0; i < n; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(n, i);
        v16_store_upto(out + i, v16_load_as(from, is_bf16, i, lanes), lanes);
    }
}

int TARNK(embed)(const tarnk_embed_args *args, const tarnk_context *context)
{
    tarnk_embed_args job = *args;
    context->run(context->pool, job.n_rows, embed_task, &job);
    return 0;
}

static void silu_mul_task(void *arg, uint32_t task_idx)
{
    const tarnk_silu_mul_args *a = arg;
    size_t begin = (size_t)task_idx * BLOCK, total = (size_t)a->n_rows * a->n;
    uint32_t n = total - begin < BLOCK ? (uint32_t)(total - begin) : BLOCK;
    for (uint32_t i = 0; i < n; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(n, i);
        size_t at = begin + i;
        v16 y =
            v16_mul(v16_silu(v16_load_upto(a->gate + at, lanes)), v16_load_upto(a->up + at, lanes));
        v16_store_upto(a->out + at, a->round ? v16_round_bf16(y) : y, lanes);
    }
}

int TARNK(silu_mul)(const tarnk_silu_mul_args *args, const tarnk_context *context)
{
    tarnk_silu_mul_args job = *args;
    size_t total = (size_t)job.n_rows * job.n;
    context->run(context->pool, (uint32_t)((total + BLOCK - 1) / BLOCK), silu_mul_task, &job);
    return 0;
}
