/* norm.cu - see norm.h.
 *
 * norm_rms: a block a row, its elements strided over the threads; 8 n_rows n bytes, 4 FLOPs an
 * element; 128 B shared. norm_gated: a warp a head; 12 bytes and about 28 FLOPs an element. Both
 * are far below what the memory gives; at few rows they cost their launch. */
#include "launch.cuh"

#define ROW_THREADS   256u
#define HEADS_A_BLOCK 4u

static __global__ void __launch_bounds__(ROW_THREADS) norm_rms_kernel(tarnk_norm_rms_args a)
{
    auto *work = reinterpret_cast<float *>(shared_bytes());
    const float *x = a.x + blockIdx.x * a.x_stride;
    float *out = a.out + static_cast<size_t>(blockIdx.x) * a.n;
    previous_wait();
    next_start();
    float sum = 0;
    for (uint32_t i = threadIdx.x; i < a.n; i += ROW_THREADS)
        sum = fmaf(x[i], x[i], sum);
    float factor = inverse_sqrt(block_sum(sum, work) / static_cast<float>(a.n) + a.eps);
    for (uint32_t i = threadIdx.x; i < a.n; i += ROW_THREADS) {
        float y = x[i] * factor * a.weight[i];
        out[i] = a.round ? bf16_round(y) : y;
    }
}

static __global__ void __launch_bounds__(HEADS_A_BLOCK * 32)
    norm_gated_kernel(tarnk_norm_gated_args a)
{
    const size_t head = static_cast<size_t>(blockIdx.x) * HEADS_A_BLOCK + threadIdx.x / 32;
    const uint32_t lane = threadIdx.x % 32;
    previous_wait();
    next_start();
    if (head >= static_cast<size_t>(a.n_rows) * a.n_heads)
        return;
    const float *x = a.x + head * a.n, *gate = a.gate + head * a.n;
    float *out = a.out + head * a.n;
    float sum = 0;
    for (uint32_t i = lane; i < a.n; i += 32)
        sum = fmaf(x[i], x[i], sum);
    float factor = inverse_sqrt(warp_sum(sum) / static_cast<float>(a.n) + a.eps);
    for (uint32_t i = lane; i < a.n; i += 32) {
        float y = x[i] * factor * a.weight[i] * sigmoid(gate[i]);
        out[i] = a.round ? bf16_round(y) : y;
    }
}

extern "C" int tarnk_norm_rms_cuda(const tarnk_norm_rms_args *a, const tarnk_context *context)
{
    return LAUNCH(norm_rms_kernel, a->n_rows, ROW_THREADS, ROW_THREADS / 32 * sizeof(float),
                  context, *a);
}

extern "C" int tarnk_norm_gated_cuda(const tarnk_norm_gated_args *a, const tarnk_context *context)
{
    return LAUNCH(norm_gated_kernel,
                  div_up(static_cast<size_t>(a->n_rows) * a->n_heads, HEADS_A_BLOCK),
                  HEADS_A_BLOCK * 32, 0, context, *a);
}
