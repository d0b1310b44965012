/* mla_latent.c - see tarnk_mla_latent_args in mla.h. A task is one row. */
#include "mla.h"

#include "isa.h"
#include "rowsum.h"

static void store_latent(const tarnk_mla_latent_args *a, const float *kv, uint8_t *latent)
{
    const int is_bf16 = a->latent_dtype == TARNK_BF16;
    v16 factor = v16_set1(row_rms_factor(kv, a->rank, a->eps));
    for (uint32_t i = 0; i < a->rank; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(a->rank, i);
        v16 y = v16_mul(v16_mul(v16_load_upto(kv + i, lanes), factor),
                        v16_load_upto(a->weight + i, lanes));
        v16_store_as(latent, is_bf16, i, y, lanes);
    }
    for (uint32_t i = 0; i < a->rope; i += SIMD_LANES) {
        uint32_t lanes = simd_lanes_left(a->rope, i);
        v16_store_as(latent, is_bf16, a->rank + i, v16_load_upto(kv + a->rank + i, lanes), lanes);
    }
}

static void latent_task(void *arg, uint32_t task_idx)
{
    const tarnk_mla_latent_args *a = arg;
    const tarnk_seq *seq = a->seqs;
    for (; task_idx >= seq->n_rows; seq++)
        task_idx -= seq->n_rows;
    const size_t n = (size_t)a->rank + a->rope;
    const uint32_t token = seq->position + task_idx;
    uint8_t *page = seq->pages[token / TARNK_PAGE_TOKENS] + a->latent_offset;
    store_latent(a, a->kv + (seq->row_begin + task_idx) * n,
                 page + token % TARNK_PAGE_TOKENS * n * dtype_bytes(a->latent_dtype));
}

int TARNK(mla_latent)(const tarnk_mla_latent_args *args, const tarnk_context *context)
{
    tarnk_mla_latent_args job = *args;
    uint32_t n_rows = 0;
    for (uint32_t s = 0; s < args->n_seqs; s++)
        n_rows += args->seqs[s].n_rows;
    context->run(context->pool, n_rows, latent_task, &job);
    return 0;
}
