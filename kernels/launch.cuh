/* launch.cuh - what the .cu files share: launching, reductions in a fixed order, finding a row's
 * sequence. */
#ifndef TARNK_LAUNCH_CUH
#define TARNK_LAUNCH_CUH

#include "ptx.cuh"

#include "cuda.h"

constexpr uint32_t SHARED_DEFAULT = 48 * 1024; /* more must be asked for */

static inline const tarnk_cuda *cuda_of(const tarnk_context *context)
{
    return static_cast<const tarnk_cuda *>(context->pool);
}

static inline
#if !defined(TARN_CUDA_EMU)
    __host__ __device__
#endif
        uint32_t
        min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline bool aligned16(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

static inline uint32_t div_up(size_t a, uint32_t b)
{
    return static_cast<uint32_t>((a + b - 1) / b);
}

/* Enqueues a kernel; on 9.0 it may start while the one before it ends (previous_wait). */
#if defined(TARN_CUDA_EMU)
template <typename... P> struct launch_arguments {
    void (*kernel)(P...);
    std::tuple<P...> values;
};
template <typename... P> void launch_call(const void *arguments)
{
    auto *a = static_cast<const launch_arguments<P...> *>(arguments);
    std::apply(a->kernel, a->values);
}
template <typename... P, typename... A>
int launch_named(const char *name, void (*kernel)(P...), dim3 grid, uint32_t n_threads,
                 size_t shared, const tarnk_context *context, A... args)
{
    const launch_arguments<P...> arguments = {kernel, {static_cast<P>(args)...}};
    emu::launch l = {grid, dim3(n_threads), static_cast<uint32_t>(shared), true, name};
    return emu::enqueue_kernel(context->stream, l, launch_call<P...>, &arguments, sizeof arguments);
}
#else
template <typename... P, typename... A>
int launch_named(const char *, void (*kernel)(P...), dim3 grid, uint32_t n_threads, size_t shared,
                 const tarnk_context *context, A... args)
{
    if (shared > SHARED_DEFAULT) {
        cudaError_t error = cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
        if (error != cudaSuccess)
            return error;
    }
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(n_threads);
    config.dynamicSmemBytes = shared;
    config.stream = static_cast<cudaStream_t>(context->stream);
    config.attrs = &early;
    config.numAttrs = cuda_of(context)->arch >= 90 ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}
#endif
#define LAUNCH(kernel, ...) launch_named(#kernel, kernel, __VA_ARGS__)

#define TRY_LAUNCH(expr)                                                                           \
    do {                                                                                           \
        int launch_error = (expr);                                                                 \
        if (launch_error != 0)                                                                     \
            return launch_error;                                                                   \
    } while (0)

/* The same sum in every lane, by a fixed tree. */
#if defined(TARN_CUDA_EMU_FAST) /* the same tree, with one meeting of the lanes for all of it */
TARNK_DEVICE float warp_sum(float x)
{
    return emu::warp_tree(x, false);
}

TARNK_DEVICE float warp_max(float x)
{
    return emu::warp_tree(x, true);
}
#else
TARNK_DEVICE float warp_sum(float x)
{
#    pragma unroll
    for (int bit = 16; bit > 0; bit >>= 1)
        x += __shfl_xor_sync(TARNK_WARP_ALL, x, bit);
    return x;
}

TARNK_DEVICE float warp_max(float x)
{
#    pragma unroll
    for (int bit = 16; bit > 0; bit >>= 1)
        x = fmaxf(x, __shfl_xor_sync(TARNK_WARP_ALL, x, bit));
    return x;
}
#endif

/* The same sum in every thread of a block of whole warps; `work` holds a float for each warp. */
TARNK_DEVICE float block_sum(float x, float *work)
{
    const uint32_t n_warps = blockDim.x / 32;
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0)
        work[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0;
    for (uint32_t w = 0; w < n_warps; w++)
        sum += work[w];
    __syncthreads();
    return sum;
}

TARNK_DEVICE float sigmoid(float x)
{
    const float e = expf(-fabsf(x)); /* never overflows, so far tails keep their digits */
    return (x >= 0 ? 1.0f : e) / (1.0f + e);
}

TARNK_DEVICE float silu(float x)
{
    return x * sigmoid(x);
}

TARNK_DEVICE float inverse_sqrt(float x)
{
    return 1.0f / sqrtf(x);
}

TARNK_DEVICE float load_as(const void *data, tarnk_dtype dtype, size_t i)
{
    return dtype == TARNK_BF16 ? bf16_wide(static_cast<const uint16_t *>(data)[i])
                               : static_cast<const float *>(data)[i];
}

TARNK_DEVICE void store_as(void *data, tarnk_dtype dtype, size_t i, float x)
{
    if (dtype == TARNK_BF16)
        static_cast<uint16_t *>(data)[i] = static_cast<uint16_t>(bf16_bits(x));
    else
        static_cast<float *>(data)[i] = x;
}

/* The sequence a row belongs to; n_seqs where it is padding. */
TARNK_DEVICE uint32_t seq_of_row(const tarnk_seq *seqs, uint32_t n_seqs, uint32_t row)
{
    uint32_t low = 0, high = n_seqs; /* the last one that begins at or before row is below high */
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (seqs[middle].row_begin <= row)
            low = middle + 1;
        else
            high = middle;
    }
    while (low > 0 && seqs[low - 1].n_rows == 0)
        low--;
    if (low == 0 || row >= seqs[low - 1].row_begin + seqs[low - 1].n_rows)
        return n_seqs;
    return low - 1;
}

#endif
