/* memory.cpp - the memory of the device, and the check of every load and store.
 *
 * Each allocation lies between two guards full of NaN, so that a small overrun is reported and does
 * no harm. An address a kernel may touch is on a fiber's stack, in the block's shared memory, in an
 * allocation, or in the program itself (constants, the emulator's own variables). */
#include "inside.hpp"

#include <cstdlib>
#include <map>

extern "C" char __executable_start, _end;

namespace emu
{

namespace
{

#if defined(EMU_ASAN)
constexpr size_t GUARD = 0; /* the address sanitizer has its own */
#else
constexpr size_t GUARD = 4096;
#endif

struct allocation {
    uint8_t *end;
    uint8_t *block;
};
std::map<uint8_t *, allocation> allocations;
const uint8_t *last_begin, *last_end;
size_t total_used;
size_t device_bytes = size_t(8) << 30;

} // namespace

bool is_shared(const void *at)
{
    auto *p = static_cast<const uint8_t *>(at);
    return shared_base && p >= shared_base && p < shared_base + SHARED_MAX;
}

void check_global(const void *at, size_t n_bytes, bool write)
{
    auto *p = static_cast<const uint8_t *>(at);
    if (p >= last_begin && p + n_bytes <= last_end)
        return;
    const uint8_t *begin, *end;
    if (in_range(p, &begin, &end)) {
        if (p + n_bytes > end) {
            fault("%s %zu bytes at %p: %zu are behind the chunks mapped there",
                  write ? "writes" : "reads", n_bytes, at, n_bytes - size_t(end - p));
            return;
        }
        last_begin = begin;
        last_end = end;
        return;
    }
    auto it = allocations.upper_bound(const_cast<uint8_t *>(p));
    if (it != allocations.begin()) {
        --it;
        if (p + n_bytes <= it->second.end) {
            last_begin = it->first;
            last_end = it->second.end;
            return;
        }
    }
    if (it != allocations.end() && p >= it->first && p < it->second.end + GUARD)
        fault("%s %zu bytes at %zd of an allocation of %zd", write ? "writes" : "reads", n_bytes,
              p - it->first, it->second.end - it->first);
    else
        fault("%s %zu bytes at %p, which is in no allocation of the device",
              write ? "writes" : "reads", n_bytes, at);
}

void touch(const void *at, size_t n_bytes, bool write)
{
    if (!in_kernel)
        return;
    if (is_shared(at))
        race_touch(size_t(static_cast<const uint8_t *>(at) - shared_base), n_bytes, write);
    else if (!on_fiber_stack(at)) {
        if (write && !has_waited())
            fault("writes memory that the kernel before may still use: before previous_wait");
        check_global(at, n_bytes, write);
    }
}

static inline void hook(const void *at, size_t n_bytes, bool write)
{
    auto *p = static_cast<const char *>(at);
    if (!in_kernel || on_fiber_stack(at) || (p >= &__executable_start && p < &_end))
        return;
    if (uintptr_t(at) % n_bytes && n_bytes <= 16)
        fault("%s %zu bytes at %p: not aligned to that", write ? "writes" : "reads", n_bytes, at);
    touch(at, n_bytes, write);
}

static inline void hook_any(const void *at, size_t n_bytes, bool write)
{
    auto *p = static_cast<const char *>(at);
    if (in_kernel && !on_fiber_stack(at) && !(p >= &__executable_start && p < &_end))
        touch(at, n_bytes, write);
}

} // namespace emu

/* ---- the calls of -fsanitize=thread ---------------------------------------------------------- */

#define HOOK(n)                                                                                    \
    extern "C" void __tsan_read##n(void *p)                                                        \
    {                                                                                              \
        emu::hook(p, n, false);                                                                    \
    }                                                                                              \
    extern "C" void __tsan_write##n(void *p)                                                       \
    {                                                                                              \
        emu::hook(p, n, true);                                                                     \
    }                                                                                              \
    extern "C" void __tsan_volatile_read##n(void *p)                                               \
    {                                                                                              \
        emu::hook(p, n, false);                                                                    \
    }                                                                                              \
    extern "C" void __tsan_volatile_write##n(void *p)                                              \
    {                                                                                              \
        emu::hook(p, n, true);                                                                     \
    }                                                                                              \
    extern "C" void __tsan_unaligned_read##n(void *p)                                              \
    {                                                                                              \
        emu::hook_any(p, n, false);                                                                \
    }                                                                                              \
    extern "C" void __tsan_unaligned_write##n(void *p)                                             \
    {                                                                                              \
        emu::hook_any(p, n, true);                                                                 \
    }
HOOK(1)
HOOK(2)
HOOK(4)
HOOK(8)
HOOK(16)
extern "C" void __tsan_read_range(void *p, size_t n)
{
    emu::hook_any(p, n, false);
}
extern "C" void __tsan_write_range(void *p, size_t n)
{
    emu::hook_any(p, n, true);
}
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void *, void *) {}
extern "C" void __tsan_vptr_read(void *) {}
extern "C" void *__tsan_memcpy(void *to, const void *from, size_t n)
{
    emu::hook_any(from, n, false);
    emu::hook_any(to, n, true);
    return memcpy(to, from, n);
}
extern "C" void *__tsan_memset(void *to, int value, size_t n)
{
    emu::hook_any(to, n, true);
    return memset(to, value, n);
}

/* ---- allocation ------------------------------------------------------------------------------ */

using namespace emu;

void emu::memory_limit(size_t n_bytes)
{
    emu::turn lock;
    device_bytes = n_bytes;
}

bool emu::take_memory(size_t n_bytes)
{
    bool there = total_used <= device_bytes && n_bytes <= device_bytes - total_used;
    total_used += there ? n_bytes : 0;
    return there;
}

void emu::give_memory(size_t n_bytes)
{
    total_used -= n_bytes;
}

static int pins_left = -1;

void emu::fail_pins(int after)
{
    pins_left = after;
}

void emu::forget_last()
{
    last_begin = last_end = nullptr;
}

cudaError_t cudaMalloc(void **out, size_t n_bytes)
{
    emu::turn lock;
    void *block = nullptr;
    *out = nullptr;
    if (!take_memory(n_bytes))
        return cudaErrorMemoryAllocation;
    if (posix_memalign(&block, 4096, n_bytes + 2 * GUARD + 1)) {
        give_memory(n_bytes);
        return cudaErrorMemoryAllocation;
    }
    memset(block, 0xff, n_bytes + 2 * GUARD); /* NaN in every float format */
    uint8_t *begin = static_cast<uint8_t *>(block) + GUARD;
    allocations[begin] = {begin + n_bytes, static_cast<uint8_t *>(block)};
    *out = begin;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    emu::turn lock;
    if (!p)
        return cudaSuccess;
    cudaDeviceSynchronize();
    auto it = allocations.find(static_cast<uint8_t *>(p));
    if (it == allocations.end())
        return cudaErrorInvalidValue;
    give_memory(size_t(it->second.end - it->first));
    free(it->second.block);
    allocations.erase(it);
    forget_last();
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t n_bytes)
{
    emu::turn lock;
    if (pins_left == 0)
        return cudaErrorMemoryAllocation;
    pins_left -= pins_left > 0;
    return posix_memalign(out, 4096, n_bytes + 1) ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    emu::turn lock;
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    emu::turn lock;
    *free_bytes = total_used < device_bytes ? device_bytes - total_used : 0;
    *total = device_bytes;
    return cudaSuccess;
}
