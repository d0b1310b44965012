/* pointwise.cu - see pointwise.h. embed: a block a row; silu_mul: a thread an element, 12 bytes and
 * about 25 FLOPs each. */
#include "launch.cuh"

#define THREADS 256u

static __global__ void __launch_bounds__(THREADS) embed_kernel(tarnk_embed_args a)
{
    previous_wait();
    next_start();
    const uint32_t n = a.table.n_in;
    const uint32_t id = a.ids[blockIdx.x]; /* what was drawn from no logits is no id */
    const size_t from = static_cast<size_t>(id < a.table.n_out ? id : 0) * n;
    for (uint32_t i = threadIdx.x; i < n; i += THREADS)
        a.out[static_cast<size_t>(blockIdx.x) * n + i] =
            load_as(a.table.data, a.table.dtype, from + i);
}

static __global__ void __launch_bounds__(THREADS) silu_mul_kernel(tarnk_silu_mul_args a)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    previous_wait();
    next_start();
    if (i < static_cast<size_t>(a.n_rows) * a.n) {
        float y = silu(a.gate[i]) * a.up[i];
        a.out[i] = a.round ? bf16_round(y) : y;
    }
}

extern "C" int tarnk_embed_cuda(const tarnk_embed_args *a, const tarnk_context *context)
{
    return LAUNCH(embed_kernel, a->n_rows, THREADS, 0, context, *a);
}

extern "C" int tarnk_silu_mul_cuda(const tarnk_silu_mul_args *a, const tarnk_context *context)
{
    return LAUNCH(silu_mul_kernel, div_up(static_cast<size_t>(a->n_rows) * a->n, THREADS), THREADS,
                  0, context, *a);
}
