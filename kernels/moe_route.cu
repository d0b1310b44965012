/* moe_route.cu - see tarnk_moe_route_args in moe.h.
 *
 * A warp is one row. Choice scores become integers of the same order (NaN as the worst), zero for
 * what has been taken; each round takes the largest (score, lowest index) over all lanes, so equal
 * scores go to the lowest index whatever the lanes. What is taken is listed by index at the end.
 *
 * Moved: 4 (n_experts + 2 top_k) bytes a row; shared: 8 bytes an expert and a group. */
#include "launch.cuh"

#define WORST (-INFINITY)

/* Larger floats have larger keys; none is 0. */
TARNK_DEVICE uint32_t order_key(float x)
{
    if (x != x)
        x = WORST;
    uint32_t u = __float_as_uint(x + 0.0f); /* -0 orders as 0 */
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* The index of the largest key of n, the lowest of equals, in every lane. */
TARNK_DEVICE uint32_t best_key(const uint32_t *keys, uint32_t n, uint32_t lane)
{
    uint64_t best = 0;
    for (uint32_t i = lane; i < n; i += 32) {
        uint64_t candidate = static_cast<uint64_t>(keys[i]) << 32 | ~i;
        best = candidate > best ? candidate : best;
    }
#pragma unroll
    for (int bit = 16; bit > 0; bit >>= 1) {
        uint64_t other = __shfl_xor_sync(TARNK_WARP_ALL, best, bit);
        best = other > best ? other : best;
    }
    return ~static_cast<uint32_t>(best);
}

TARNK_DEVICE void softmax_scores(float *scores, const float *logits, uint32_t n, uint32_t lane)
{
    float top = WORST, sum = 0;
    bool nan = false;
    for (uint32_t i = lane; i < n; i += 32) {
        nan = nan || logits[i] != logits[i];
        top = fmaxf(top, logits[i]);
    }
    top = __any_sync(TARNK_WARP_ALL, nan) ? NAN : warp_max(top);
    for (uint32_t i = lane; i < n; i += 32) {
        scores[i] = expf(logits[i] - top);
        sum += scores[i];
    }
    sum = warp_sum(sum);
    for (uint32_t i = lane; i < n; i += 32)
        scores[i] /= sum;
}

/* Experts of groups that are not among the best become the worst. */
TARNK_DEVICE void keep_groups(const tarnk_moe_route_args &a, const float *scores, uint32_t *keys,
                              uint32_t *group_keys, uint32_t lane)
{
    const uint32_t size = a.n_experts / a.n_groups;
    for (uint32_t g = lane; g < a.n_groups; g += 32) {
        float first = WORST, second = WORST;
        for (uint32_t i = g * size; i < (g + 1) * size; i++) {
            float c = scores[i] + a.bias[i];
            if (c > first) {
                second = first;
                first = c;
            } else if (c > second) {
                second = c;
            }
        }
        group_keys[g] = order_key(size > 1 ? first + second : first);
    }
    __syncwarp();
    for (uint32_t i = 0; i < a.groups_kept; i++) {
        uint32_t g = best_key(group_keys, a.n_groups, lane);
        __syncwarp();
        if (lane == 0)
            group_keys[g] = 0;
        __syncwarp();
    }
    for (uint32_t e = lane; e < a.n_experts; e += 32)
        if (group_keys[e / size] != 0)
            keys[e] = order_key(WORST);
    __syncwarp();
}

static __global__ void __launch_bounds__(32) moe_route_kernel(tarnk_moe_route_args a)
{
    auto *scores = reinterpret_cast<float *>(shared_bytes());
    auto *keys = reinterpret_cast<uint32_t *>(scores + a.n_experts);
    const uint32_t lane = threadIdx.x, row = blockIdx.x;
    previous_wait();
    next_start();
    const float *logits = a.logits + static_cast<size_t>(row) * a.n_experts;
    uint32_t *experts = a.experts + static_cast<size_t>(row) * a.top_k;
    float *weights = a.weights + static_cast<size_t>(row) * a.top_k;
    if (a.kind == TARNK_ROUTER_SOFTMAX)
        softmax_scores(scores, logits, a.n_experts, lane);
    else
        for (uint32_t e = lane; e < a.n_experts; e += 32)
            scores[e] = sigmoid(logits[e]);
    for (uint32_t e = lane; e < a.n_experts; e += 32)
        keys[e] = order_key(scores[e] + a.bias[e]);
    __syncwarp();
    if (a.n_groups > 1)
        keep_groups(a, scores, keys, keys + a.n_experts, lane);
    for (uint32_t i = 0; i < a.top_k; i++) {
        uint32_t e = best_key(keys, a.n_experts, lane);
        __syncwarp();
        if (lane == 0)
            keys[e] = 0;
        __syncwarp();
    }
    float sum = 0;
    for (uint32_t pass = 0; pass < 2; pass++) {
        uint32_t at = 0;
        for (uint32_t base = 0; base < a.n_experts; base += 32) {
            uint32_t e = base + lane;
            uint32_t taken = __ballot_sync(TARNK_WARP_ALL, e < a.n_experts && keys[e] == 0);
            if (pass == 0) /* by ascending index, in every lane alike */
                for (uint32_t left = taken; left; left &= left - 1)
                    sum += scores[base + static_cast<uint32_t>(__ffs(static_cast<int>(left))) - 1];
            else if (taken >> lane & 1) {
                uint32_t to = at + static_cast<uint32_t>(__popc(taken & ((1u << lane) - 1)));
                experts[to] = e;
                weights[to] = (a.renormalize ? scores[e] / (sum + 1e-20f) : scores[e]) * a.scale;
            }
            at += static_cast<uint32_t>(__popc(taken));
        }
    }
}

extern "C" int tarnk_moe_route_cuda(const tarnk_moe_route_args *a, const tarnk_context *context)
{
    size_t shared = (2 * static_cast<size_t>(a->n_experts) + a->n_groups) * 4;
    return LAUNCH(moe_route_kernel, a->n_rows, 32, shared, context, *a);
}
