/* cuda_peak.cu - what the library of the device's maker reaches in a large bf16 product: the
 * ceiling that the matrix kernels are measured against. */
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstdint>

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
