/* mla_latent.cu - see tarnk_mla_latent_args in mla.h. A block is a row: it finds its sequence,
 * norms the first `rank` values and stores all of them in the token's place of its page. */
#include "launch.cuh"

#define THREADS 128u

static __global__ void __launch_bounds__(THREADS) mla_latent_kernel(tarnk_mla_latent_args a)
{
    auto *work = reinterpret_cast<float *>(shared_bytes());
    const uint32_t row = blockIdx.x, n = a.rank + a.rope;
    previous_wait();
    next_start();
    const uint32_t idx = seq_of_row(a.seqs, a.n_seqs, row);
    if (idx == a.n_seqs)
        return;
    const tarnk_seq s = a.seqs[idx];
    const uint32_t token = s.position + (row - s.row_begin);
    const float *kv = a.kv + static_cast<size_t>(row) * n;
    uint8_t *page = s.pages[token / TARNK_PAGE_TOKENS] + a.latent_offset;
    const size_t at = static_cast<size_t>(token % TARNK_PAGE_TOKENS) * n;
    float sum = 0;
    for (uint32_t i = threadIdx.x; i < a.rank; i += THREADS)
        sum = fmaf(kv[i], kv[i], sum);
    const float factor = inverse_sqrt(block_sum(sum, work) / static_cast<float>(a.rank) + a.eps);
    for (uint32_t i = threadIdx.x; i < n; i += THREADS)
        store_as(page, a.latent_dtype, at + i, i < a.rank ? kv[i] * factor * a.weight[i] : kv[i]);
}

extern "C" int tarnk_mla_latent_cuda(const tarnk_mla_latent_args *a, const tarnk_context *context)
{
    return LAUNCH(mla_latent_kernel, cuda_of(context)->step.n_rows, THREADS,
                  THREADS / 32 * sizeof(float), context, *a);
}
