# Whether CUDA kernels can be built here, and which files they are.

# The families, of which tests/cuda_emu also builds what runs without a device.
set(TARN_CUDA_FAMILIES cuda cuda_range pointwise norm matmul conv1d kda_gate kda kda_prepare
    kda_chunk mla_latent mla mla_absorb mla_append mla_hopper moe_route moe sample random)
list(TRANSFORM TARN_CUDA_FAMILIES APPEND .cu)

set(TARN_CUDA_FOUND OFF)
if(NOT TARN_CUDA STREQUAL "OFF" AND NOT TARN_SANITIZE)
    find_package(CUDAToolkit 12.0 QUIET)
    if(CUDAToolkit_FOUND AND CUDAToolkit_NVCC_EXECUTABLE)
        set(TARN_CUDA_FOUND ON)
        set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
        set(CMAKE_CUDA_ARCHITECTURES OFF) # each target says its own
        enable_language(CUDA)
    elseif(TARN_CUDA STREQUAL "ON")
        message(FATAL_ERROR "TARN_CUDA is ON, and no CUDA toolkit of version 12 or later was found")
    endif()
endif()
