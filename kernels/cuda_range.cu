/* cuda_range.cu - ranges of addresses, and chunks of memory in them.
 *
 * The runtime has no words for it and libcuda is not linked, so that the library loads where there
 * is no driver: its entries are asked of the driver by name and version when they are needed, which
 * is when an engine is opened and when a chunk moves. Errors of the driver have the numbers of the
 * runtime's. */
#include "launch.cuh"

#include <cstdio>

#if defined(TARN_CUDA_EMU)
#    include "driver.hpp"
#else
#    include <cudaTypedefs.h>
#endif

constexpr unsigned MANAGEMENT_SINCE = 10020; /* the version of CUDA that brought these entries */

/* The entry `name` as it was in `since`, in *out. */
template <typename F> static cudaError_t find(const char *name, unsigned since, F *out)
{
    void *entry = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    cudaError_t error =
        cudaGetDriverEntryPointByVersion(name, &entry, since, cudaEnableDefault, &result);
#else
    (void)since;
    cudaError_t error = cudaGetDriverEntryPoint(name, &entry, cudaEnableDefault, &result);
#endif
    *out = reinterpret_cast<F>(entry);
    if (error != cudaSuccess)
        return error;
    return result == cudaDriverEntryPointSuccess && entry ? cudaSuccess : cudaErrorSymbolNotFound;
}

#define FIND(name, version, out)   find(#name, version, out)
#define FIND_MANAGEMENT(name, out) FIND(name, MANAGEMENT_SINCE, out)

static CUmemAllocationProp memory_of(const tarnk_cuda *cuda)
{
    CUmemAllocationProp memory = {};
    memory.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    memory.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    memory.location.id = cuda->device;
    return memory;
}

static CUdeviceptr address(void *at)
{
    return reinterpret_cast<CUdeviceptr>(at);
}

/* Are all entries there, those that are asked for later too? */
static const char *missing_entry()
{
    static const char *const names[] = {"cuMemAddressReserve",
                                        "cuMemAddressFree",
                                        "cuMemCreate",
                                        "cuMemRelease",
                                        "cuMemMap",
                                        "cuMemUnmap",
                                        "cuMemSetAccess",
                                        "cuMemGetAllocationGranularity"};
    void *entry;
    for (const char *name : names)
        if (find(name, MANAGEMENT_SINCE, &entry) != cudaSuccess)
            return name;
    return nullptr;
}

int tarnk_cuda_chunk_unit(const tarnk_cuda *cuda, size_t *n_bytes, char *why, size_t why_bytes)
{
    PFN_cuDeviceGetAttribute_v2000 attribute;
    PFN_cuMemGetAllocationGranularity_v10020 granularity;
    int able = 0;
    *n_bytes = 0;
    const char *missing = missing_entry();
    if (missing) {
        snprintf(why, why_bytes, "the driver has no %s", missing);
        return cudaErrorSymbolNotFound;
    }
    int error = FIND(cuDeviceGetAttribute, 2000, &attribute);
    if (!error)
        error =
            attribute(&able, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, cuda->device);
    if (!error && !able) {
        snprintf(why, why_bytes, "the device has no virtual memory management");
        return cudaErrorNotSupported;
    }
    const CUmemAllocationProp memory = memory_of(cuda);
    if (!error)
        error = FIND_MANAGEMENT(cuMemGetAllocationGranularity, &granularity);
    if (!error)
        error = granularity(n_bytes, &memory, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    if (error)
        snprintf(why, why_bytes, "virtual memory management: %s",
                 cudaGetErrorName(static_cast<cudaError_t>(error)));
    return error;
}

int tarnk_cuda_range_reserve(void **out, size_t n_bytes)
{
    PFN_cuMemAddressReserve_v10020 reserve;
    CUdeviceptr at = 0;
    *out = nullptr;
    int error = FIND_MANAGEMENT(cuMemAddressReserve, &reserve);
    if (!error)
        error = reserve(&at, n_bytes, 0, 0, 0);
    if (!error)
        *out = reinterpret_cast<void *>(at);
    return error;
}

int tarnk_cuda_range_free(void *range, size_t n_bytes)
{
    PFN_cuMemAddressFree_v10020 give_back;
    int error = FIND_MANAGEMENT(cuMemAddressFree, &give_back);
    return error ? error : give_back(address(range), n_bytes);
}

int tarnk_cuda_chunk_create(const tarnk_cuda *cuda, uint64_t *out, size_t n_bytes)
{
    PFN_cuMemCreate_v10020 create;
    const CUmemAllocationProp memory = memory_of(cuda);
    CUmemGenericAllocationHandle chunk = 0;
    int error = FIND_MANAGEMENT(cuMemCreate, &create);
    if (!error)
        error = create(&chunk, n_bytes, &memory, 0);
    *out = chunk;
    return error;
}

int tarnk_cuda_chunk_free(uint64_t chunk)
{
    PFN_cuMemRelease_v10020 release;
    int error = FIND_MANAGEMENT(cuMemRelease, &release);
    return error ? error : release(chunk);
}

int tarnk_cuda_chunk_map(const tarnk_cuda *cuda, void *at, size_t n_bytes, uint64_t chunk)
{
    PFN_cuMemMap_v10020 map;
    PFN_cuMemSetAccess_v10020 allow;
    CUmemAccessDesc access = {};
    access.location = memory_of(cuda).location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    int error = FIND_MANAGEMENT(cuMemMap, &map);
    if (!error)
        error = FIND_MANAGEMENT(cuMemSetAccess, &allow);
    if (!error)
        error = map(address(at), n_bytes, 0, chunk, 0);
    if (error)
        return error;
    error = allow(address(at), n_bytes, &access, 1);
    if (error)
        tarnk_cuda_chunk_unmap(at, n_bytes);
    return error;
}

int tarnk_cuda_chunk_unmap(void *at, size_t n_bytes)
{
    PFN_cuMemUnmap_v10020 unmap;
    int error = FIND_MANAGEMENT(cuMemUnmap, &unmap);
    return error ? error : unmap(address(at), n_bytes);
}
