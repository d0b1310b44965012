/* random.cu - see tarnk_random_args in cuda.h. A thread draws 8 elements of its own; nothing is
 * carried from one to the next. */
#include "launch.cuh"

#define THREADS 256u
#define EACH    8u

/* The finaliser of splitmix64: every bit of the counter reaches every bit of the result. */
TARNK_DEVICE uint64_t mixed(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The sum of four 16-bit uniforms, centred, over its standard deviation. */
TARNK_DEVICE float normal_of(uint64_t bits)
{
    const uint32_t sum =
        static_cast<uint32_t>(bits & 0xffff) + static_cast<uint32_t>(bits >> 16 & 0xffff) +
        static_cast<uint32_t>(bits >> 32 & 0xffff) + static_cast<uint32_t>(bits >> 48);
    return (static_cast<float>(sum) - 131070.0f) / 37837.23f;
}

static __global__ void __launch_bounds__(THREADS) random_kernel(tarnk_random_args a)
{
    const size_t first = (static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x) * EACH;
    previous_wait();
    next_start();
    for (size_t i = first; i < first + EACH && i < a.n; i++) {
        const uint64_t bits = mixed(a.key + (i + 1) * 0x9e3779b97f4a7c15u);
        store_as(a.to, a.dtype, i, a.offset + a.scale * normal_of(bits));
    }
}

extern "C" int tarnk_cuda_random(const tarnk_random_args *a, const tarnk_context *context)
{
    return LAUNCH(random_kernel, div_up(a->n, THREADS * EACH), THREADS, 0, context, *a);
}
