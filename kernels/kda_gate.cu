/* kda_gate.cu - see tarnk_kda_gate_args in kda.h. A warp is one head of a row: 24 bytes and about
 * 70 FLOPs a channel, no shared memory. */
#include "launch.cuh"

#define HEADS_A_BLOCK 4u

TARNK_DEVICE float softplus(float z)
{
    return z > 20.0f ? z : log1pf(expf(z));
}

TARNK_DEVICE void scale_to_unit(float *x, uint32_t n, uint32_t lane, float factor)
{
    float sum = 0;
    for (uint32_t i = lane; i < n; i += 32)
        sum = fmaf(x[i], x[i], sum);
    factor *= inverse_sqrt(warp_sum(sum) + 1e-6f);
    for (uint32_t i = lane; i < n; i += 32)
        x[i] *= factor;
}

static __global__ void __launch_bounds__(HEADS_A_BLOCK * 32) kda_gate_kernel(tarnk_kda_gate_args a)
{
    const size_t at = static_cast<size_t>(blockIdx.x) * HEADS_A_BLOCK + threadIdx.x / 32;
    const uint32_t lane = threadIdx.x % 32, n = a.head_dim;
    previous_wait();
    next_start();
    if (at >= static_cast<size_t>(a.n_rows) * a.n_heads)
        return;
    const uint32_t head = static_cast<uint32_t>(at % a.n_heads);
    scale_to_unit(a.q + at * n, n, lane, inverse_sqrt(static_cast<float>(n)));
    scale_to_unit(a.k + at * n, n, lane, 1.0f);
    const float rate = expf(a.a_log[head]);
    float *f = a.f + at * n;
    for (uint32_t i = lane; i < n; i += 32) {
        float z = f[i] + a.dt_bias[static_cast<size_t>(head) * n + i];
        f[i] = a.gate_kind == TARNK_GATE_BOUNDED ? a.lower_bound * sigmoid(rate * z)
                                                 : -rate * softplus(z);
    }
    if (lane == 0)
        a.b[at] = sigmoid(a.b[at]);
}

extern "C" int tarnk_kda_gate_cuda(const tarnk_kda_gate_args *a, const tarnk_context *context)
{
    return LAUNCH(kda_gate_kernel,
                  div_up(static_cast<size_t>(a->n_rows) * a->n_heads, HEADS_A_BLOCK),
                  HEADS_A_BLOCK * 32, 0, context, *a);
}
