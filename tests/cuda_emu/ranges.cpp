/* ranges.cpp - reserved addresses and the chunks mapped there.
 *
 * A range is address space of the process that nobody may touch; a chunk becomes memory where and
 * as long as it is mapped. Whoever touches another part, a kernel whose loads and stores nobody
 * watches or the host, is stopped by the processor: the fault is kept, and what was touched is
 * opened so that the program goes on to where it asks how it went. */
#include "driver.hpp"
#include "inside.hpp"

#include <csignal>
#include <map>
#include <sys/mman.h>
#include <vector>

namespace emu
{

namespace
{

constexpr size_t UNIT = size_t(2) << 20; /* as devices have it */

struct place { /* `unit` bytes of a range */
    CUmemGenericAllocationHandle chunk = 0;
    bool first = false, open = false; /* of its mapping; may be touched */
    bool stray = false;               /* was touched, and may not be */
};
struct range {
    uint8_t *block; /* of the process, with what alignment took */
    size_t block_bytes;
    std::vector<place> places;
};
struct chunk {
    size_t n_bytes;
    bool mapped;
};

std::map<uint8_t *, range> ranges;
std::map<CUmemGenericAllocationHandle, chunk> chunks;
CUmemGenericAllocationHandle n_created;
size_t unit = UNIT;
bool supported = true;
int maps_left = -1;
const char *hidden;

using found = std::map<uint8_t *, range>::iterator;

found range_at(const uint8_t *p)
{
    auto it = ranges.upper_bound(const_cast<uint8_t *>(p));
    if (it == ranges.begin())
        return ranges.end();
    --it;
    return p < it->first + it->second.places.size() * unit ? it : ranges.end();
}

/* The places of [at, at + n_bytes), or false where that is not a part of a range in whole units. */
bool places_of(CUdeviceptr at, size_t n_bytes, found *in, size_t *begin, size_t *end)
{
    auto *p = reinterpret_cast<uint8_t *>(at);
    *in = range_at(p);
    if (*in == ranges.end() || n_bytes == 0 || n_bytes % unit || size_t(p - (*in)->first) % unit)
        return false;
    *begin = size_t(p - (*in)->first) / unit;
    *end = *begin + n_bytes / unit;
    return *end <= (*in)->second.places.size();
}

struct sigaction others; /* what is done about other addresses */

void keep_fault(int signal, siginfo_t *info, void *context)
{
    auto *p = static_cast<const uint8_t *>(info->si_addr);
    auto in = range_at(p);
    if (in == ranges.end()) {
        sigaction(signal, &others, nullptr); /* it happens again, to whom it belongs */
        return;
    }
    (void)context;
    place &where = in->second.places[size_t(p - in->first) / unit];
    uint8_t *begin = in->first + size_t(p - in->first) / unit * unit;
    if (!where.stray)
        fault("touches %p, a part of a range without a chunk", info->si_addr);
    where.stray = true;
    mprotect(begin, unit, PROT_READ | PROT_WRITE);
    memset(begin, 0xff, unit);
}

void watch()
{
    struct sigaction action = {}, now_there;
    action.sa_sigaction = keep_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, nullptr, &now_there);
    if (now_there.sa_sigaction == keep_fault)
        return;
    others = now_there;
    sigaction(SIGSEGV, &action, nullptr);
}

CUresult attribute(int *value, CUdevice_attribute, CUdevice)
{
    *value = supported;
    return CUDA_SUCCESS;
}

CUresult granularity(size_t *out, const CUmemAllocationProp *, CUmemAllocationGranularity_flags)
{
    *out = unit;
    return CUDA_SUCCESS;
}

CUresult reserve(CUdeviceptr *out, size_t n_bytes, size_t, CUdeviceptr, unsigned long long)
{
    turn lock;
    if (n_bytes == 0 || n_bytes % unit)
        return CUDA_ERROR_INVALID_VALUE;
    const size_t block_bytes = n_bytes + unit;
    void *block =
        mmap(nullptr, block_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    watch();
    auto *base = reinterpret_cast<uint8_t *>((uintptr_t(block) + unit - 1) / unit * unit);
    ranges[base] = {static_cast<uint8_t *>(block), block_bytes, std::vector<place>(n_bytes / unit)};
    *out = reinterpret_cast<CUdeviceptr>(base);
    return CUDA_SUCCESS;
}

CUresult free_range(CUdeviceptr at, size_t n_bytes)
{
    turn lock;
    auto it = ranges.find(reinterpret_cast<uint8_t *>(at));
    if (it == ranges.end() || it->second.places.size() * unit != n_bytes)
        return CUDA_ERROR_INVALID_VALUE;
    for (const place &p : it->second.places)
        if (p.chunk)
            return CUDA_ERROR_INVALID_VALUE;
    munmap(it->second.block, it->second.block_bytes);
    ranges.erase(it);
    return CUDA_SUCCESS;
}

CUresult create(CUmemGenericAllocationHandle *out, size_t n_bytes, const CUmemAllocationProp *prop,
                unsigned long long)
{
    turn lock;
    if (n_bytes == 0 || n_bytes % unit || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
        prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    if (!take_memory(n_bytes))
        return CUDA_ERROR_OUT_OF_MEMORY;
    *out = ++n_created;
    chunks[*out] = {n_bytes, false};
    return CUDA_SUCCESS;
}

CUresult release(CUmemGenericAllocationHandle handle)
{
    turn lock;
    auto it = chunks.find(handle);
    if (it == chunks.end() || it->second.mapped)
        return CUDA_ERROR_INVALID_VALUE;
    give_memory(it->second.n_bytes);
    chunks.erase(it);
    return CUDA_SUCCESS;
}

CUresult map(CUdeviceptr at, size_t n_bytes, size_t offset, CUmemGenericAllocationHandle handle,
             unsigned long long)
{
    turn lock;
    found in;
    size_t begin, end;
    auto it = chunks.find(handle);
    if (it == chunks.end() || it->second.n_bytes != n_bytes || offset != 0 ||
        !places_of(at, n_bytes, &in, &begin, &end))
        return CUDA_ERROR_INVALID_VALUE;
    if (it->second.mapped)
        return CUDA_ERROR_ALREADY_MAPPED;
    for (size_t i = begin; i < end; i++)
        if (in->second.places[i].chunk)
            return CUDA_ERROR_ALREADY_MAPPED;
    if (maps_left == 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    maps_left -= maps_left > 0;
    for (size_t i = begin; i < end; i++)
        in->second.places[i] = {handle, i == begin, false};
    it->second.mapped = true;
    return CUDA_SUCCESS;
}

CUresult allow(CUdeviceptr at, size_t n_bytes, const CUmemAccessDesc *access, size_t n)
{
    turn lock;
    found in;
    size_t begin, end;
    if (n != 1 || access->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE ||
        !places_of(at, n_bytes, &in, &begin, &end))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = begin; i < end; i++)
        if (!in->second.places[i].chunk)
            return CUDA_ERROR_INVALID_VALUE;
    auto *p = reinterpret_cast<void *>(at);
    if (mprotect(p, n_bytes, PROT_READ | PROT_WRITE))
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(p, 0xff, n_bytes); /* NaN in every float format */
    for (size_t i = begin; i < end; i++)
        in->second.places[i].open = true;
    return CUDA_SUCCESS;
}

CUresult unmap(CUdeviceptr at, size_t n_bytes)
{
    turn lock;
    found in;
    size_t begin, end;
    if (!places_of(at, n_bytes, &in, &begin, &end))
        return CUDA_ERROR_INVALID_VALUE;
    const std::vector<place> &all = in->second.places;
    for (size_t i = begin; i < end; i++)
        if (!all[i].chunk)
            return CUDA_ERROR_NOT_MAPPED;
    if (!all[begin].first || (end < all.size() && all[end].chunk && !all[end].first))
        return CUDA_ERROR_INVALID_VALUE; /* a part of a mapping */
    if (work_left())
        return CUDA_ERROR_ILLEGAL_STATE;
    auto *p = reinterpret_cast<void *>(at);
    if (mprotect(p, n_bytes, PROT_NONE) || madvise(p, n_bytes, MADV_DONTNEED))
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = begin; i < end; i++) {
        chunks[all[i].chunk].mapped = false;
        in->second.places[i] = {};
    }
    forget_last();
    return CUDA_SUCCESS;
}

struct entry {
    const char *name;
    void *function;
};
const entry entries[] = {
    {"cuDeviceGetAttribute", reinterpret_cast<void *>(attribute)},
    {"cuMemGetAllocationGranularity", reinterpret_cast<void *>(granularity)},
    {"cuMemAddressReserve", reinterpret_cast<void *>(reserve)},
    {"cuMemAddressFree", reinterpret_cast<void *>(free_range)},
    {"cuMemCreate", reinterpret_cast<void *>(create)},
    {"cuMemRelease", reinterpret_cast<void *>(release)},
    {"cuMemMap", reinterpret_cast<void *>(map)},
    {"cuMemUnmap", reinterpret_cast<void *>(unmap)},
    {"cuMemSetAccess", reinterpret_cast<void *>(allow)},
};

} // namespace

bool in_range(const uint8_t *p, const uint8_t **begin, const uint8_t **end)
{
    auto it = range_at(p);
    if (it == ranges.end())
        return false;
    const std::vector<place> &all = it->second.places;
    size_t i = size_t(p - it->first) / unit, j = i;
    *begin = *end = p;
    if (!all[i].open)
        return true;
    while (i > 0 && all[i - 1].open)
        i--;
    while (j < all.size() && all[j].open)
        j++;
    *begin = it->first + i * unit;
    *end = it->first + j * unit;
    return true;
}

void close_strays()
{
    for (auto &r : ranges)
        for (size_t i = 0; i < r.second.places.size(); i++)
            if (r.second.places[i].stray) {
                r.second.places[i].stray = false;
                if (!r.second.places[i].open)
                    mprotect(r.first + i * unit, unit, PROT_NONE);
            }
}

void range_unit(size_t n_bytes)
{
    unit = n_bytes > 0 ? n_bytes : UNIT;
}

void fail_maps(int after)
{
    maps_left = after;
}

void range_support(bool value)
{
    supported = value;
}

void hide_entry(const char *name)
{
    hidden = name;
}

} // namespace emu

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **out, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult *result)
{
    *out = nullptr;
    for (const emu::entry &e : emu::entries)
        if (strcmp(e.name, name) == 0 && !(emu::hidden && strcmp(emu::hidden, name) == 0))
            *out = e.function;
    *result = *out ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
