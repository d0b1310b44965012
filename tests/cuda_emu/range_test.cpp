/* Ranges of addresses and their chunks: what the library's calls do, what the emulated driver
 * refuses, and that a kernel which touches what was taken away is caught. */
#include "launch.cuh"

#include "check.h"
#include "driver.hpp"

static tarnk_cuda cuda;
static tarnk_context context = {nullptr, &cuda, 0, nullptr};

enum { CHUNK = 64 << 10, N_CHUNKS = 4 };

#define CHECK_CLEAN()                                                                              \
    do {                                                                                           \
        const char *text;                                                                          \
        cudaDeviceSynchronize();                                                                   \
        if (emu::faults(&text) != 0)                                                               \
            CHECK_FAIL("%s", text);                                                                \
    } while (0)

#define CHECK_CAUGHT(part)                                                                         \
    do {                                                                                           \
        const char *text;                                                                          \
        cudaDeviceSynchronize();                                                                   \
        if (emu::faults(&text) == 0)                                                               \
            CHECK_FAIL("nothing was found, should be \"%s\"", part);                               \
        else                                                                                       \
            CHECK_HAS(text, part);                                                                 \
    } while (0)

struct field {
    uint8_t *base = nullptr;
    uint64_t chunks[N_CHUNKS];

    field()
    {
        void *range = nullptr;
        emu::range_unit(CHUNK);
        CHECK_EQ(tarnk_cuda_range_reserve(&range, N_CHUNKS * CHUNK), 0);
        base = static_cast<uint8_t *>(range);
        for (uint64_t &c : chunks)
            CHECK_EQ(tarnk_cuda_chunk_create(&cuda, &c, CHUNK), 0);
    }
    uint8_t *at(size_t place) const
    {
        return base + place * CHUNK;
    }
    int map(size_t place, size_t chunk) const
    {
        return tarnk_cuda_chunk_map(&cuda, at(place), CHUNK, chunks[chunk]);
    }
    int unmap(size_t place) const
    {
        return tarnk_cuda_chunk_unmap(at(place), CHUNK);
    }
    void close() /* nothing may be mapped */
    {
        for (uint64_t c : chunks)
            CHECK_EQ(tarnk_cuda_chunk_free(c), 0);
        CHECK_EQ(tarnk_cuda_range_free(base, N_CHUNKS * CHUNK), 0);
        emu::range_unit(0);
    }
};

template <typename F> static F entry(const char *name)
{
    void *found = nullptr;
    cudaDriverEntryPointQueryResult result;
    CHECK_EQ(cudaGetDriverEntryPointByVersion(name, &found, 10020, cudaEnableDefault, &result), 0);
    CHECK_EQ(result, cudaDriverEntryPointSuccess);
    return reinterpret_cast<F>(found);
}

static size_t free_memory()
{
    size_t left = 0, all = 0;
    CHECK_EQ(tarnk_cuda_memory(&left, &all), 0);
    return left;
}

CASE(chunks_come_and_go_and_addresses_stay)
{
    size_t left = free_memory();
    field f;
    CHECK_EQ(left - free_memory(), N_CHUNKS * CHUNK);
    CHECK_EQ(f.map(0, 2), 0);
    CHECK_EQ(f.map(1, 0), 0);
    uint8_t pattern[100], back[100];
    memset(pattern, 7, sizeof pattern);
    uint8_t *across = f.at(1) - 50; /* one copy over two chunks */
    CHECK_EQ(tarnk_cuda_upload(across, pattern, sizeof pattern, nullptr), 0);
    CHECK_EQ(tarnk_cuda_download(back, across, sizeof back, nullptr), 0);
    CHECK_CLEAN();
    CHECK_BYTES(back, pattern, sizeof back);
    CHECK_EQ(f.unmap(0), 0);
    CHECK_EQ(f.map(3, 2), 0); /* the same memory elsewhere */
    uint32_t word = 0;
    CHECK_EQ(tarnk_cuda_download(&word, f.at(3), sizeof word, nullptr), 0);
    CHECK_EQ(tarnk_cuda_download(back, f.at(1), 50, nullptr), 0);
    CHECK_CLEAN();
    CHECK_EQ(word, 0xffffffffu);    /* nobody may count on what it held */
    CHECK_BYTES(back, pattern, 50); /* the neighbour is as it was */
    CHECK_EQ(left - free_memory(), N_CHUNKS * CHUNK);
    CHECK_EQ(f.unmap(1), 0);
    CHECK_EQ(f.unmap(3), 0);
    f.close();
    CHECK_EQ(free_memory(), left);
}

/* Said by the checks of loads and stores; clang checks what is read and then written at the write
 * alone, and the read has been stopped by then. */
#if !defined(EMU_ASAN) && !defined(__clang__)
#    define WATCHED(part) CHECK_CAUGHT(part)
#else
#    define WATCHED(part) CHECK_CAUGHT("without a chunk")
#endif

static void add_one(float *x)
{
    previous_wait();
    x[threadIdx.x] += 1;
}

CASE(a_stale_pointer_is_a_fault)
{
    field f;
    float words[32] = {0};
    CHECK_EQ(f.map(0, 0), 0);
    CHECK_EQ(f.map(1, 1), 0);
    auto *x = reinterpret_cast<float *>(f.at(1));
    CHECK_EQ(tarnk_cuda_upload(x, words, sizeof words, nullptr), 0);
    LAUNCH(add_one, 1, 32, 0, &context, x);
    CHECK_CLEAN();
    CHECK_EQ(f.unmap(1), 0);
    LAUNCH(add_one, 1, 32, 0, &context, x);
    WATCHED("behind the chunks mapped there");
    CHECK_EQ(tarnk_cuda_upload(x, words, sizeof words, nullptr), 0);
    CHECK_CAUGHT("writes 128 bytes");
    CHECK_EQ(tarnk_cuda_download(words, f.at(1) - 64, 128, nullptr), 0); /* half of it is there */
    CHECK_CAUGHT("64 are behind the chunks mapped there");
    words[0] = *x; /* the host, whom nobody watches */
    CHECK_CAUGHT("without a chunk");
    CHECK(tarnk_cuda_wait(nullptr) == 0); /* asked and answered: it goes on */
    CHECK_EQ(f.map(1, 2), 0);
    CHECK_EQ(tarnk_cuda_upload(x, words, sizeof words, nullptr), 0);
    CHECK_CLEAN();
    CHECK_EQ(f.unmap(0), 0);
    CHECK_EQ(f.unmap(1), 0);
    f.close();
}

CASE(a_fault_makes_every_later_call_fail)
{
    field f;
    auto *x = reinterpret_cast<float *>(f.at(2));
    LAUNCH(add_one, 1, 1, 0, &context, x);
    CHECK_EQ(tarnk_cuda_wait(nullptr), cudaErrorIllegalAddress);
    CHECK_EQ(tarnk_cuda_wait(nullptr), cudaErrorIllegalAddress);
    emu::faults(nullptr);
    f.close();
}

CASE(what_the_driver_refuses)
{
    field f;
    void *stream = nullptr;
    const char *text;
    void *range;
    uint64_t odd;
    CHECK_EQ(tarnk_cuda_range_reserve(&range, CHUNK / 2), cudaErrorInvalidValue);
    CHECK(range == nullptr);
    CHECK_EQ(tarnk_cuda_chunk_create(&cuda, &odd, CHUNK + 4096), cudaErrorInvalidValue);
    CHECK_EQ(f.map(0, 0), 0);
    CHECK_EQ(f.map(0, 1), cudaErrorAlreadyMapped); /* the place */
    CHECK_EQ(f.map(1, 0), cudaErrorAlreadyMapped); /* the chunk */
    CHECK_EQ(tarnk_cuda_chunk_map(&cuda, f.at(1) + 4096, CHUNK, f.chunks[1]),
             cudaErrorInvalidValue);
    CHECK_EQ(tarnk_cuda_chunk_map(&cuda, f.at(1), 2 * CHUNK, f.chunks[1]), cudaErrorInvalidValue);
    CHECK_EQ(tarnk_cuda_chunk_map(&cuda, f.at(N_CHUNKS), CHUNK, f.chunks[1]),
             cudaErrorInvalidValue);
    CHECK_EQ(tarnk_cuda_chunk_map(&cuda, f.at(1), CHUNK, 12345), cudaErrorInvalidValue);
    CHECK_EQ(tarnk_cuda_chunk_free(f.chunks[0]), cudaErrorInvalidValue); /* while mapped */
    CHECK_EQ(tarnk_cuda_range_free(f.base, N_CHUNKS * CHUNK), cudaErrorInvalidValue);
    CHECK_EQ(f.unmap(1), cudaErrorNotMapped);
    CHECK_EQ(tarnk_cuda_chunk_unmap(f.at(0) + 4096, CHUNK), cudaErrorInvalidValue);
    CHECK_EQ(tarnk_cuda_stream_create(&stream), 0);
    CHECK_EQ(tarnk_cuda_fill(f.at(0), 0, 64, stream), 0);
    CHECK_EQ(f.unmap(0), cudaErrorIllegalState); /* work is in flight */
    CHECK_EQ(tarnk_cuda_wait(stream), 0);
    CHECK_EQ(f.unmap(0), 0);
    emu::fail_maps(1);
    CHECK_EQ(f.map(0, 0), 0);
    CHECK_EQ(f.map(1, 1), cudaErrorMemoryAllocation);
    emu::fail_maps(-1);
    CHECK_EQ(f.map(1, 1), 0);
    CHECK_EQ(f.unmap(0), 0);
    CHECK_EQ(f.unmap(1), 0);
    tarnk_cuda_stream_free(stream);
    CHECK_EQ(emu::faults(&text), 0);
    f.close();
    emu::memory_limit(CHUNK);
    emu::range_unit(CHUNK);
    CHECK_EQ(tarnk_cuda_chunk_create(&cuda, &odd, 2 * CHUNK), cudaErrorMemoryAllocation);
    emu::memory_limit(size_t(8) << 30);
    emu::range_unit(0);
}

CASE(access_is_set_and_mappings_are_taken_away_whole)
{
    auto map = entry<PFN_cuMemMap_v10020>("cuMemMap");
    auto allow = entry<PFN_cuMemSetAccess_v10020>("cuMemSetAccess");
    auto create = entry<PFN_cuMemCreate_v10020>("cuMemCreate");
    field f;
    CUmemAllocationProp memory = {CU_MEM_ALLOCATION_TYPE_PINNED, {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemAccessDesc access = {memory.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle two;
    auto at = reinterpret_cast<CUdeviceptr>(f.at(1));
    float words[32] = {0};
    CHECK_EQ(create(&two, 2 * CHUNK, &memory, 0), CUDA_SUCCESS);
    CHECK_EQ(allow(at, 2 * CHUNK, &access, 1), CUDA_ERROR_INVALID_VALUE); /* nothing is there */
    CHECK_EQ(map(at, 2 * CHUNK, 0, two, 0), CUDA_SUCCESS);
    CHECK_EQ(tarnk_cuda_upload(f.at(1), words, sizeof words, nullptr), 0);
    CHECK_CAUGHT("behind the chunks mapped there"); /* mapped, and access not set */
    CHECK_EQ(allow(at, 2 * CHUNK, &access, 1), CUDA_SUCCESS);
    CHECK_EQ(tarnk_cuda_upload(f.at(1), words, sizeof words, nullptr), 0);
    CHECK_CLEAN();
    CHECK_EQ(f.unmap(1), cudaErrorInvalidValue); /* its first half */
    CHECK_EQ(f.unmap(2), cudaErrorInvalidValue);
    CHECK_EQ(tarnk_cuda_chunk_unmap(f.at(1), 2 * CHUNK), 0);
    CHECK_EQ(tarnk_cuda_chunk_free(two), 0);
    f.close();
}

CASE(what_a_device_or_a_driver_lacks_is_said)
{
    size_t n_bytes = 1;
    char why[96] = "";
    CHECK_EQ(tarnk_cuda_chunk_unit(&cuda, &n_bytes, why, sizeof why), 0);
    CHECK_EQ(n_bytes, 2 << 20);
    emu::range_support(false);
    CHECK_EQ(tarnk_cuda_chunk_unit(&cuda, &n_bytes, why, sizeof why), cudaErrorNotSupported);
    CHECK_HAS(why, "the device has no virtual memory management");
    CHECK_EQ(n_bytes, 0);
    emu::range_support(true);
    static const char *const names[] = {"cuMemAddressReserve",
                                        "cuMemAddressFree",
                                        "cuMemCreate",
                                        "cuMemRelease",
                                        "cuMemMap",
                                        "cuMemUnmap",
                                        "cuMemSetAccess",
                                        "cuMemGetAllocationGranularity"};
    for (const char *name : names) {
        emu::hide_entry(name);
        CHECK_EQ(tarnk_cuda_chunk_unit(&cuda, &n_bytes, why, sizeof why), cudaErrorSymbolNotFound);
        CHECK_HAS(why, name);
    }
    emu::hide_entry("cuDeviceGetAttribute");
    CHECK_EQ(tarnk_cuda_chunk_unit(&cuda, &n_bytes, why, sizeof why), cudaErrorSymbolNotFound);
    CHECK_HAS(why, "cudaErrorSymbolNotFound");
    emu::hide_entry(nullptr);
}

CHECK_MAIN(ENTRY(chunks_come_and_go_and_addresses_stay), ENTRY(a_stale_pointer_is_a_fault),
           ENTRY(a_fault_makes_every_later_call_fail), ENTRY(what_the_driver_refuses),
           ENTRY(access_is_set_and_mappings_are_taken_away_whole),
           ENTRY(what_a_device_or_a_driver_lacks_is_said))
