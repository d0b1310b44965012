/* emu.hpp - enough of CUDA to compile the kernels with a C++ compiler and run them on the CPU.
 *
 * Every thread of a block is a fiber; one block runs at a time. The emulator is a bad-tempered GPU:
 * it picks the next fiber at random (by seed), lets asynchronous copies land at the last moment a
 * program may count on, fills memory nobody wrote with NaN, and reports
 *   - shared memory touched by two threads with no barrier between (vector clocks, not a guess),
 *   - shared memory touched while an asynchronous copy into it is under way,
 *   - any access outside of the allocations of the device,
 *   - a kernel that does not wait for the one before it, or writes before it has,
 *   - threads that wait for ever, and warp operations whose lanes do not agree.
 * Loads and stores are seen through the calls that -fsanitize=thread plants before each of them;
 * the emulator brings its own functions for these and the thread sanitizer is never linked. In a
 * build with the address sanitizer that one watches instead, and races are not looked for.
 *
 * Work given to a stream runs when somebody waits for it, not before. */
#ifndef TARN_CUDA_EMU_HPP
#define TARN_CUDA_EMU_HPP

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>

#if defined(__SANITIZE_ADDRESS__)
#    define EMU_ASAN 1
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define EMU_ASAN 1
#    endif
#endif

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define EMU_PLAIN    __attribute__((no_sanitize("thread")))

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct uint3 {
    uint32_t x, y, z;
};
struct dim3 {
    uint32_t x, y, z;
    dim3(uint32_t a = 1, uint32_t b = 1, uint32_t c = 1) : x(a), y(b), z(c) {}
};
static inline float2 make_float2(float x, float y)
{
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}
static inline uint2 make_uint2(uint32_t x, uint32_t y)
{
    return {x, y};
}
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return {x, y, z, w};
}

namespace emu
{

/* What a running thread can see of itself; a switch of fibers sets it. */
struct here {
    uint3 thread;
    uint3 block;
    uint3 block_dim;
    uint3 grid_dim;
    uint32_t lane;
};
extern const here *now;

/* ---- for kernels ---- */
void *shared_memory();
void block_barrier();
void named_barrier(uint32_t id, uint32_t n_threads);
using warp_fn = void (*)(void **payloads, uint32_t mask);
/* All lanes of the mask come here with the same fn, which then sees all payloads at once. */
void warp_meet(uint32_t mask, warp_fn fn, void *payload, const char *what);
void warp_barrier(uint32_t mask);
void copy_async(void *to, const void *from, uint32_t n_bytes, uint32_t n_read);
void copy_commit();
void copy_wait(uint32_t groups_left);
void mbarrier_init(uint64_t *bar, uint32_t arrivals);
void mbarrier_arrive(uint64_t *bar, uint32_t tx_bytes);
bool mbarrier_done(uint64_t *bar, uint32_t parity);
void mbarrier_wait(uint64_t *bar, uint32_t parity);
void bulk_copy(void *to, const void *from, uint32_t n_bytes, uint64_t *bar);
/* What the calling thread stored so far may be read by the tensor cores and the copy engine. */
void fence_async();
/* Products of a warpgroup, see ptx.cuh: d [16][4] of each thread, a [4] or NULL and a descriptor.
 */
void wgmma(float *d, const uint32_t *a, uint64_t a_tile, uint64_t b_tile, bool b_by_column,
           bool add);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(uint32_t groups_left);
/* A read or write made inside the emulator for a kernel: ldmatrix, atomics. */
void touch(const void *at, size_t n_bytes, bool write);
void dependency_wait();

/* ---- for the host ---- */
struct launch {
    dim3 grid;
    dim3 block;
    uint32_t shared_bytes;
    bool dependent; /* launched to start before the kernel before it has ended */
    const char *name;
};
/* `arguments` are copied; call(copy) runs one thread. */
int enqueue_kernel(void *stream, const launch &l, void (*call)(const void *), const void *arguments,
                   size_t n_bytes);

/* Scheduling seed of the blocks that run from here on. */
void seed(uint64_t value);
/* From here on the last to become ready runs first: the same every time, and faster, as a warp
 * stays together. For tests of what lies above the kernels. */
void calm();
/* Faults found since the last call, and the first one as a sentence. */
unsigned faults(const char **first);
/* A fault of nobody in particular: for tests of what comes after one. */
void break_down();
void break_after(int pieces); /* of work that is done; -1: not */
void device_count(int n);
void memory_limit(size_t n_bytes); /* of the device, from now on */
void fail_pins(int after);         /* memory of the host is pinned so often, then not; -1: always */
/* Ranges of addresses (driver.hpp): the unit of chunks while there is no range, 0: as on a device;
 * maps fail after so many more, -1: they do not; does the device have ranges at all; an entry that
 * the driver lacks, NULL: none. */
void range_unit(size_t n_bytes);
void fail_maps(int after);
void range_support(bool value);
void hide_entry(const char *name);

/* What is done from now on, in order: two letters a piece of work, which stream ('0' the default,
 * then as they were made) and what (k kernel, u upload, d download, c copy, f fill). */
void watch_begin();
const char *watch_end();

} // namespace emu

#define threadIdx (::emu::now->thread)
#define blockIdx  (::emu::now->block)
#define blockDim  (::emu::now->block_dim)
#define gridDim   (::emu::now->grid_dim)

/* ---- device functions ------------------------------------------------------------------------ */

static inline void __syncthreads()
{
    emu::block_barrier();
}
static inline void __syncwarp(uint32_t mask = 0xffffffffu)
{
    emu::warp_barrier(mask);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

namespace emu
{
struct shuffle {
    uint64_t value;
    uint64_t result;
    uint32_t from; /* lane */
};
EMU_PLAIN inline void do_shuffle(void **payloads, uint32_t mask)
{
    for (uint32_t l = 0; l < 32; l++)
        if (mask >> l & 1) {
            auto *s = static_cast<shuffle *>(payloads[l]);
            auto *other = static_cast<shuffle *>(payloads[s->from & 31]);
            s->result = other ? other->value : 0xffffffffffffffffu;
        }
}
template <typename T> EMU_PLAIN inline T shuffled(uint32_t mask, T value, uint32_t from)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
    shuffle s{0, 0, from};
    memcpy(&s.value, &value, sizeof value);
    warp_meet(mask, do_shuffle, &s, "shuffle");
    memcpy(&value, &s.result, sizeof value);
    return value;
}
struct tree {
    float x;
    bool largest;
};
/* What 5 rounds of shuffles with 16, 8, 4, 2 and 1 leave in every lane. */
inline void do_tree(void **payloads, uint32_t)
{
    float x[32];
    const bool largest = static_cast<tree *>(payloads[0])->largest;
    for (uint32_t l = 0; l < 32; l++)
        x[l] = static_cast<tree *>(payloads[l])->x;
    for (uint32_t n = 16; n > 0; n /= 2)
        for (uint32_t l = 0; l < n; l++)
            x[l] = largest ? fmaxf(x[l], x[l + n]) : x[l] + x[l + n];
    for (uint32_t l = 0; l < 32; l++)
        static_cast<tree *>(payloads[l])->x = x[0];
}
inline float warp_tree(float x, bool largest)
{
    tree t{x, largest};
    warp_meet(0xffffffffu, do_tree, &t, "reduction");
    return t.x;
}
EMU_PLAIN inline void do_ballot(void **payloads, uint32_t mask)
{
    uint64_t bits = 0;
    for (uint32_t l = 0; l < 32; l++)
        if ((mask >> l & 1) && static_cast<shuffle *>(payloads[l])->value)
            bits |= uint64_t(1) << l;
    for (uint32_t l = 0; l < 32; l++)
        if (mask >> l & 1)
            static_cast<shuffle *>(payloads[l])->result = bits;
}
} // namespace emu

template <typename T> static inline T __shfl_sync(uint32_t mask, T v, int from, int width = 32)
{
    uint32_t w = uint32_t(width), l = emu::now->lane;
    return emu::shuffled(mask, v, (l & ~(w - 1)) | (uint32_t(from) & (w - 1)));
}
template <typename T> static inline T __shfl_xor_sync(uint32_t mask, T v, int bits)
{
    return emu::shuffled(mask, v, emu::now->lane ^ uint32_t(bits));
}
template <typename T> static inline T __shfl_up_sync(uint32_t mask, T v, uint32_t by)
{
    uint32_t l = emu::now->lane;
    return emu::shuffled(mask, v, l < by ? l : l - by);
}
template <typename T> static inline T __shfl_down_sync(uint32_t mask, T v, uint32_t by)
{
    uint32_t l = emu::now->lane;
    return emu::shuffled(mask, v, l + by > 31 ? l : l + by);
}
EMU_PLAIN static inline uint32_t __ballot_sync(uint32_t mask, int predicate)
{
    emu::shuffle s{uint64_t(predicate != 0), 0, 0};
    emu::warp_meet(mask, emu::do_ballot, &s, "ballot");
    return uint32_t(s.result);
}
static inline int __any_sync(uint32_t mask, int p)
{
    return __ballot_sync(mask, p) != 0;
}
static inline int __all_sync(uint32_t mask, int p)
{
    return __ballot_sync(mask, p) == mask;
}

template <typename T> EMU_PLAIN static inline T atomicAdd(T *at, T value)
{
    emu::touch(at, sizeof *at, false);
    T old = *at;
    *at = old + value;
    return old;
}
template <typename T> EMU_PLAIN static inline T atomicMax(T *at, T value)
{
    emu::touch(at, sizeof *at, false);
    T old = *at;
    *at = old > value ? old : value;
    return old;
}

EMU_PLAIN static inline uint32_t __float_as_uint(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
EMU_PLAIN static inline float __uint_as_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}
static inline int __popc(uint32_t x)
{
    return __builtin_popcount(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz(uint32_t(x)) : 32;
}
static inline uint32_t __umulhi(uint32_t a, uint32_t b)
{
    return uint32_t(uint64_t(a) * b >> 32);
}
static inline uint32_t min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
static inline uint32_t max(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* ---- the runtime ----------------------------------------------------------------------------- */

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorAlreadyMapped = 208,
    cudaErrorNotMapped = 211,
    cudaErrorIllegalState = 401,
    cudaErrorSymbolNotFound = 500,
    cudaErrorIllegalAddress = 700,
    cudaErrorNotReady = 600,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureInvalidated = 901
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int multiProcessorCount;
    int major, minor;
    size_t sharedMemPerBlockOptin;
};
using cudaStream_t = struct emu_stream *;
using cudaEvent_t = struct emu_event *;
using cudaGraph_t = struct emu_graph *;
using cudaGraphExec_t = struct emu_graph *;
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0;

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaMalloc(void **out, size_t n_bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **out, size_t n_bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *to, int value, size_t n_bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventCreate(cudaEvent_t *out);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetLastError();
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);
template <typename F> cudaError_t cudaFuncSetAttribute(F *, cudaFuncAttribute, int)
{
    return cudaSuccess;
}

#endif
