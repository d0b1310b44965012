/* driver.hpp - the entries of the driver that manage ranges of addresses, as far as the kernels'
 * host code asks for them.
 *
 * As on a device: memory is mapped in multiples of a unit, a mapping can be touched only after
 * access was set, and only a whole mapping can be taken away. Stricter than a device: a chunk can
 * be mapped in one place at a time and must not be released there, it holds NaN whenever it is
 * mapped, and taking a mapping away while any stream has work left is an error. */
#ifndef TARN_CUDA_EMU_DRIVER_HPP
#define TARN_CUDA_EMU_DRIVER_HPP

#include "emu.hpp"

#define CUDART_VERSION 13000

enum CUresult {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_ALREADY_MAPPED = 208,
    CUDA_ERROR_NOT_MAPPED = 211,
    CUDA_ERROR_ILLEGAL_STATE = 401,
    CUDA_ERROR_NOT_SUPPORTED = 801
};
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUmemGenericAllocationHandle = unsigned long long;
enum CUdevice_attribute { CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 102 };
enum CUmemAllocationType { CU_MEM_ALLOCATION_TYPE_INVALID, CU_MEM_ALLOCATION_TYPE_PINNED };
enum CUmemLocationType { CU_MEM_LOCATION_TYPE_INVALID, CU_MEM_LOCATION_TYPE_DEVICE };
enum CUmemAccess_flags { CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3 };
enum CUmemAllocationGranularity_flags { CU_MEM_ALLOC_GRANULARITY_MINIMUM };
struct CUmemLocation {
    CUmemLocationType type;
    int id;
};
struct CUmemAllocationProp {
    CUmemAllocationType type;
    CUmemLocation location;
};
struct CUmemAccessDesc {
    CUmemLocation location;
    CUmemAccess_flags flags;
};

using PFN_cuDeviceGetAttribute_v2000 = CUresult (*)(int *, CUdevice_attribute, CUdevice);
using PFN_cuMemGetAllocationGranularity_v10020 = CUresult (*)(size_t *, const CUmemAllocationProp *,
                                                              CUmemAllocationGranularity_flags);
using PFN_cuMemAddressReserve_v10020 = CUresult (*)(CUdeviceptr *, size_t n_bytes, size_t alignment,
                                                    CUdeviceptr wanted, unsigned long long flags);
using PFN_cuMemAddressFree_v10020 = CUresult (*)(CUdeviceptr, size_t n_bytes);
using PFN_cuMemCreate_v10020 = CUresult (*)(CUmemGenericAllocationHandle *, size_t n_bytes,
                                            const CUmemAllocationProp *, unsigned long long flags);
using PFN_cuMemRelease_v10020 = CUresult (*)(CUmemGenericAllocationHandle);
using PFN_cuMemMap_v10020 = CUresult (*)(CUdeviceptr, size_t n_bytes, size_t offset,
                                         CUmemGenericAllocationHandle, unsigned long long flags);
using PFN_cuMemUnmap_v10020 = CUresult (*)(CUdeviceptr, size_t n_bytes);
using PFN_cuMemSetAccess_v10020 = CUresult (*)(CUdeviceptr, size_t n_bytes, const CUmemAccessDesc *,
                                               size_t n);

enum cudaDriverEntryPointQueryResult {
    cudaDriverEntryPointSuccess,
    cudaDriverEntryPointSymbolNotFound
};
constexpr unsigned long long cudaEnableDefault = 0;
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **entry, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult *result);

#endif
