/* ptx.cuh - every instruction that CUDA C++ has no word for, as a small inline function.
 *
 * Kernels hold no assembly of their own. Each wrapper has a second body for the emulator of the
 * tests (TARN_CUDA_EMU), so that the same kernels run on a CPU. Wrappers of instructions that only
 * compute capability 9.0 has say so; on older devices they do nothing or must not be reached. */
#ifndef TARNK_PTX_CUH
#define TARNK_PTX_CUH

#include <cstddef>
#include <cstdint>

#if defined(TARN_CUDA_EMU)
#    include "emu.hpp"
#    define TARNK_DEVICE static inline
#else
#    include <cuda_runtime.h>
#    define TARNK_DEVICE static __device__ __forceinline__
#endif

#define TARNK_WARP_ALL 0xffffffffu

/* ---- bf16 ------------------------------------------------------------------------------------ */

TARNK_DEVICE float bf16_wide(uint32_t bits)
{
    return __uint_as_float(bits << 16);
}

TARNK_DEVICE float bf16_low(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}

TARNK_DEVICE float bf16_high(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

#if defined(TARN_CUDA_EMU)
TARNK_DEVICE uint32_t bf16_bits(float x)
{
    uint32_t u = __float_as_uint(x);
    if (x != x)
        return 0x7fff;
    return (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}

TARNK_DEVICE uint32_t bf16_pack(float low, float high)
{
    return bf16_bits(low) | bf16_bits(high) << 16;
}
#else
/* Nearest even; `low` ends in the lower half, which comes first in memory. */
TARNK_DEVICE uint32_t bf16_pack(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

TARNK_DEVICE uint32_t bf16_bits(float x)
{
    return bf16_pack(x, 0.0f) & 0xffffu;
}
#endif

TARNK_DEVICE float bf16_round(float x)
{
    return bf16_wide(bf16_bits(x));
}

/* ---- mathematics ----------------------------------------------------------------------------- */

/* 2^x within 2 ulp; 0 far below. */
TARNK_DEVICE float exp2_fast(float x)
{
#if defined(TARN_CUDA_EMU)
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* The block's dynamic shared memory, at a multiple of 1024. */
TARNK_DEVICE unsigned char *shared_bytes()
{
#if defined(TARN_CUDA_EMU)
    return static_cast<unsigned char *>(emu::shared_memory());
#else
    extern __shared__ __align__(1024) unsigned char tarnk_shared[];
    return tarnk_shared;
#endif
}

#if !defined(TARN_CUDA_EMU)
TARNK_DEVICE uint32_t shared_address(const void *p)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
#endif

/* 16 bytes that are read once: they leave no trace in the first-level cache. */
TARNK_DEVICE uint4 load_once(const void *at)
{
#if defined(TARN_CUDA_EMU)
    return *static_cast<const uint4 *>(at);
#else
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
#endif
}

/* Starts a copy of 16 bytes to shared memory; where `use` is false zeros land instead. */
TARNK_DEVICE void copy_async16(void *to, const void *from, bool use)
{
#if defined(TARN_CUDA_EMU)
    emu::copy_async(to, from, 16, use ? 16 : 0);
#else
    int n = use ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(n)
                 : "memory");
#endif
}

/* How the second-level cache treats what is read once: it goes first. */
TARNK_DEVICE uint64_t policy_once()
{
#if defined(TARN_CUDA_EMU)
    return 0;
#else
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
#endif
}

/* As copy_async16, under a policy. */
TARNK_DEVICE void copy_async16(void *to, const void *from, bool use, uint64_t policy)
{
#if defined(TARN_CUDA_EMU)
    (void)policy;
    emu::copy_async(to, from, 16, use ? 16 : 0);
#else
    int n = use ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(n), "l"(policy)
                 : "memory");
#endif
}

TARNK_DEVICE void copy_commit()
{
#if defined(TARN_CUDA_EMU)
    emu::copy_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Until no more than GROUPS of this thread's committed groups are under way. */
template <int GROUPS> TARNK_DEVICE void copy_wait()
{
#if defined(TARN_CUDA_EMU)
    emu::copy_wait(GROUPS);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
#endif
}

/* ---- tensor cores ---------------------------------------------------------------------------- */

/* Four 8 x 8 tiles of bf16: lane l gives the address of row l % 8 of tile l / 8 and gets, of each
 * tile, the pair at row lane / 4, columns 2 (lane % 4) and the next. With `turn` the tiles come
 * transposed. */
#if defined(TARN_CUDA_EMU)
namespace emu_tile
{
struct lane_tile {
    const void *row;
    uint32_t *out;
};
EMU_PLAIN inline void load(void **payloads, uint32_t, bool turn)
{
    for (uint32_t l = 0; l < 32; l++)
        for (uint32_t m = 0; m < 4; m++) {
            uint16_t pair[2];
            for (uint32_t i = 0; i < 2; i++) {
                uint32_t r = l / 4, c = l % 4 * 2 + i;
                auto *from = static_cast<lane_tile *>(payloads[m * 8 + (turn ? c : r)]);
                pair[i] = static_cast<const uint16_t *>(from->row)[turn ? r : c];
            }
            memcpy(&static_cast<lane_tile *>(payloads[l])->out[m], pair, 4);
        }
}
EMU_PLAIN inline void plain(void **p, uint32_t mask)
{
    load(p, mask, false);
}
EMU_PLAIN inline void turned(void **p, uint32_t mask)
{
    load(p, mask, true);
}
} // namespace emu_tile
#endif

template <bool TURN> TARNK_DEVICE void load_tiles(uint32_t out[4], const void *row)
{
#if defined(TARN_CUDA_EMU)
    emu_tile::lane_tile t = {row, out};
    if (uintptr_t(row) % 16)
        emu::touch(nullptr, 16, false); /* reported as outside of everything */
    emu::touch(row, 16, false);
    emu::warp_meet(TARNK_WARP_ALL, TURN ? emu_tile::turned : emu_tile::plain, &t, "load_tiles");
#else
    if (TURN)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(shared_address(row))
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(shared_address(row))
                     : "memory");
#endif
}

/* d += a b for one 16 x 8 tile over 16 terms, bf16 products, fp32 sums. With g = lane / 4 and
 * t = lane % 4: a holds pairs at (row g, k 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8); b at
 * (k 2t, column g), (2t + 8, g); d at (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1). */
#if defined(TARN_CUDA_EMU)
namespace emu_mma
{
struct lane_mma {
    float *d;
    const uint32_t *a, *b;
};
EMU_PLAIN inline void multiply(void **payloads, uint32_t)
{
    float a[16][16], b[8][16]; /* b by column */
    for (uint32_t l = 0; l < 32; l++) {
        auto *p = static_cast<lane_mma *>(payloads[l]);
        uint32_t g = l / 4, t = l % 4;
        for (uint32_t i = 0; i < 4; i++) {
            a[g + (i & 1) * 8][2 * t + (i >> 1) * 8] = bf16_low(p->a[i]);
            a[g + (i & 1) * 8][2 * t + (i >> 1) * 8 + 1] = bf16_high(p->a[i]);
        }
        for (uint32_t i = 0; i < 2; i++) {
            b[g][2 * t + i * 8] = bf16_low(p->b[i]);
            b[g][2 * t + i * 8 + 1] = bf16_high(p->b[i]);
        }
    }
    for (uint32_t l = 0; l < 32; l++) {
        auto *p = static_cast<lane_mma *>(payloads[l]);
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t row = l / 4 + (i >> 1) * 8, column = l % 4 * 2 + (i & 1);
            float sum = 0;
            for (uint32_t k = 0; k < 16; k++)
                sum += a[row][k] * b[column][k];
            p->d[i] += sum;
        }
    }
}
} // namespace emu_mma
#endif

TARNK_DEVICE void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
#if defined(TARN_CUDA_EMU)
    emu_mma::lane_mma p = {d, a, b};
    emu::warp_meet(TARNK_WARP_ALL, emu_mma::multiply, &p, "mma");
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* ---- tensor cores of 9.0 ----------------------------------------------------------------------
 *
 * Products of a warpgroup (four warps, the first of them a multiple of four): d [64][128] of fp32,
 * 64 sums a thread, d[n][i] as mma_bf16 lays out columns 8n to 8n + 7 of the warp's 16 rows. They
 * run by themselves: between wgmma_fence, which every group of them begins with, and the wait for
 * their group neither sums nor operands may be touched. Compiled for 9.0a only; elsewhere nothing
 * is done. */

#if !defined(TARN_CUDA_EMU) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
#    define TARNK_WGMMA 1
#endif

#if defined(TARN_CUDA_EMU) || defined(TARNK_WGMMA)
constexpr bool WGMMA_HERE = true;
#else
constexpr bool WGMMA_HERE = false;
#endif

/* A tile in shared memory: rows of 128 bytes, the 16-byte piece p of row r at p ^ r % 8, eight rows
 * to 1024 bytes, at whose multiples tiles begin. `next_eight`: bytes from 8 rows to the next 8;
 * `next_column`: from 64 elements of a row to the next 64, where a product takes that many. */
TARNK_DEVICE uint64_t wgmma_tile(const void *start, uint32_t next_eight, uint32_t next_column)
{
#if defined(TARN_CUDA_EMU)
    const auto at = static_cast<uint32_t>(static_cast<const unsigned char *>(start) -
                                          static_cast<unsigned char *>(emu::shared_memory()));
#else
    const uint32_t at = shared_address(start);
#endif
    return static_cast<uint64_t>((at & 0x3ffff) >> 4) |
           static_cast<uint64_t>(next_column >> 4) << 16 |
           static_cast<uint64_t>(next_eight >> 4) << 32 | static_cast<uint64_t>(1) << 62;
}

/* The tile that begins n_bytes behind. */
TARNK_DEVICE uint64_t wgmma_behind(uint64_t tile, uint32_t n_bytes)
{
    return tile + (n_bytes >> 4);
}

/* Keeps the compiler from working out ahead, or keeping in registers, what is made of it. */
TARNK_DEVICE void anew(uint64_t *x)
{
#if defined(TARNK_WGMMA)
    asm volatile("" : "+l"(*x));
#else
    (void)x;
#endif
}

TARNK_DEVICE void anew(uint32_t *x)
{
#if defined(TARNK_WGMMA)
    asm volatile("" : "+r"(*x));
#else
    (void)x;
#endif
}

#define WGMMA_4(d)  "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3])
#define WGMMA_16(d) WGMMA_4((d)[0]), WGMMA_4((d)[1]), WGMMA_4((d)[2]), WGMMA_4((d)[3])
#define WGMMA_64(d) WGMMA_16(d), WGMMA_16((d) + 4), WGMMA_16((d) + 8), WGMMA_16((d) + 12)
#define WGMMA_SUMS                                                                                 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "  \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "   \
    "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "   \
    "%56, %57, %58, %59, %60, %61, %62, %63}"

/* d = a b^T, or d += with `add`, over 16 terms: a 64 rows, b 128 rows, 16 elements of each. */
TARNK_DEVICE void wgmma_rows(float (&d)[16][4], uint64_t a, uint64_t b, bool add)
{
#if defined(TARN_CUDA_EMU)
    emu::wgmma(&d[0][0], nullptr, a, b, false, add);
#elif defined(TARNK_WGMMA)
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WGMMA_SUMS
                 ", %64, %65, p, 1, 1, 0, 0;\n}"
                 : WGMMA_64(d)
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)));
#else
    (void)d, (void)a, (void)b, (void)add;
#endif
}

/* d += a b over 16 terms: a as of mma_bf16, the warp's 16 rows; b 16 rows of 128 elements. */
TARNK_DEVICE void wgmma_columns(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b)
{
#if defined(TARN_CUDA_EMU)
    emu::wgmma(&d[0][0], a, 0, b, true, true);
#elif defined(TARNK_WGMMA)
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WGMMA_SUMS
                 ", {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
                 : WGMMA_64(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#else
    (void)d, (void)a, (void)b;
#endif
}

TARNK_DEVICE void wgmma_fence()
{
#if defined(TARN_CUDA_EMU)
    emu::wgmma_fence();
#elif defined(TARNK_WGMMA)
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

TARNK_DEVICE void wgmma_commit()
{
#if defined(TARN_CUDA_EMU)
    emu::wgmma_commit();
#elif defined(TARNK_WGMMA)
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

/* Until no more than GROUPS of this warp's groups are under way. */
template <int GROUPS> TARNK_DEVICE void wgmma_wait()
{
#if defined(TARN_CUDA_EMU)
    emu::wgmma_wait(GROUPS);
#elif defined(TARNK_WGMMA)
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
#endif
}

/* Keeps the compiler from moving what it does with the sums over this place. */
TARNK_DEVICE void wgmma_settle(float (&d)[16][4])
{
#if defined(TARNK_WGMMA)
    asm volatile("" : WGMMA_64(d)::"memory");
#else
    (void)d;
#endif
}

/* This warpgroup, all of it, has N registers a thread from here on. */
template <int N> TARNK_DEVICE void registers_more()
{
#if defined(TARNK_WGMMA)
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

template <int N> TARNK_DEVICE void registers_fewer()
{
#if defined(TARNK_WGMMA)
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

/* What this thread stored in shared memory may be read by wgmma and bulk copies, of this thread
 * and, after a barrier, of others. */
TARNK_DEVICE void fence_async()
{
#if defined(TARN_CUDA_EMU)
    emu::fence_async();
#elif defined(TARNK_WGMMA)
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* ---- barriers -------------------------------------------------------------------------------- */

/* Barrier `id` (1 to 15) of n_threads threads of the block, whole warps. */
TARNK_DEVICE void barrier_some(uint32_t id, uint32_t n_threads)
{
#if defined(TARN_CUDA_EMU)
    emu::named_barrier(id, n_threads);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
#endif
}

/* A barrier in shared memory that also counts the bytes of bulk copies. 9.0 only. */
TARNK_DEVICE void mbarrier_init(uint64_t *bar, uint32_t arrivals)
{
#if defined(TARN_CUDA_EMU)
    emu::mbarrier_init(bar, arrivals);
#elif __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals)
                 : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
    (void)bar, (void)arrivals;
#endif
}

/* Arrives and announces n_bytes of copies. */
TARNK_DEVICE void mbarrier_arrive(uint64_t *bar, uint32_t n_bytes)
{
#if defined(TARN_CUDA_EMU)
    emu::mbarrier_arrive(bar, n_bytes);
#elif __CUDA_ARCH__ >= 900
    if (n_bytes > 0)
        asm volatile(
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)),
            "r"(n_bytes)
            : "memory");
    else
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar))
                     : "memory");
#else
    (void)bar, (void)n_bytes;
#endif
}

/* Until the phase of this parity (0 is the first) is over. */
TARNK_DEVICE void mbarrier_wait(uint64_t *bar, uint32_t parity)
{
#if defined(TARN_CUDA_EMU)
    emu::mbarrier_wait(bar, parity);
#elif __CUDA_ARCH__ >= 900
    uint32_t done = 0;
    while (!done)
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(shared_address(bar)), "r"(parity)
                     : "memory");
#else
    (void)bar, (void)parity;
#endif
}

/* One thread copies n_bytes (a multiple of 16) to shared memory; `bar` hears of it. 9.0 only. */
TARNK_DEVICE void copy_bulk(void *to, const void *from, uint32_t n_bytes, uint64_t *bar)
{
#if defined(TARN_CUDA_EMU)
    emu::bulk_copy(to, from, n_bytes, bar);
#elif __CUDA_ARCH__ >= 900
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(shared_address(to)),
        "l"(from), "r"(n_bytes), "r"(shared_address(bar))
        : "memory");
#else
    (void)to, (void)from, (void)n_bytes, (void)bar;
#endif
}

/* ---- one kernel after another ---------------------------------------------------------------- */

/* A kernel may be started while the one before it still runs; what that one writes may be read from
 * here on. Every kernel of a stream calls it, in every thread, so that the wait is transitive. */
TARNK_DEVICE void previous_wait()
{
#if defined(TARN_CUDA_EMU)
    emu::dependency_wait();
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel of the stream may be started. */
TARNK_DEVICE void next_start()
{
#if !defined(TARN_CUDA_EMU) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
