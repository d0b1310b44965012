/* cuda_peak.cu - what the library of the device's maker reaches in a large bf16 product: the
 * ceiling that the matrix kernels are measured against. */
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstdint>

static __global__ void fill_kernel(uint16_t *x, size_t n, uint32_t seed)
{
    for (size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull) {
        uint32_t z = static_cast<uint32_t>(i) * 2654435761u + seed;
        z = (z ^ z >> 15) * 2246822519u;
        z ^= z >> 13;
        x[i] = static_cast<uint16_t>((z & 0x807fu) | 0x3c80u); /* +-0.015 to 0.03 */
    }
}

/* n_values random bf16 values, small and of both signs. */
extern "C" int bench_cuda_fill(void *memory, size_t n_values, uint32_t seed)
{
    fill_kernel<<<1024, 256>>>(static_cast<uint16_t *>(memory), n_values, seed);
    return cudaDeviceSynchronize();
}

/* FLOP/s of n x n x n, best of ten; 0 where it fails. */
extern "C" double bench_cuda_peak_flops(void *memory, int n)
{
    cublasHandle_t handle = nullptr;
    cudaEvent_t begin = nullptr, end = nullptr;
    const size_t each = static_cast<size_t>(n) * n;
    auto *a = static_cast<uint16_t *>(memory);
    const float one = 1, zero = 0;
    float best_ms = 0;
    if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS || cudaEventCreate(&begin) ||
        cudaEventCreate(&end))
        return 0;
    for (int i = 0; i < 13; i++) {
        float ms = 0;
        cudaEventRecord(begin);
        if (cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, a, CUDA_R_16BF, n,
                         a + each, CUDA_R_16BF, n, &zero, a + 2 * each, CUDA_R_16BF, n,
                         CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS)
            return 0;
        cudaEventRecord(end);
        if (cudaEventSynchronize(end) != cudaSuccess)
            return 0;
        cudaEventElapsedTime(&ms, begin, end);
        if (i >= 3 && (best_ms == 0 || ms < best_ms))
            best_ms = ms;
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cublasDestroy(handle);
    return best_ms > 0 ? 2.0 * n * n * n / (best_ms * 1e-3) : 0;
}
