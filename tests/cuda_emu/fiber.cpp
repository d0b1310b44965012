/* fiber.cpp - blocks as fibers: one stack a thread, a switch of our own, barriers, warp operations.
 *
 * A thread that must wait leaves the list of the ready; who completes a meeting puts all of it
 * back. The next to run is drawn at random. When nobody is ready and somebody still waits, that is
 * a hang: it is reported with what the first of them waits for, and the block is abandoned. */
#include "inside.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <vector>

#if defined(EMU_ASAN)
#    include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#    error "the switch of fibers is written for x86-64"
#endif

/* void emu_switch(void **save_sp, void *load_sp): what a function call need not keep, is not kept.
 */
asm(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
    "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n"
    ".size emu_switch,.-emu_switch\n.section .note.GNU-stack,\"\",@progbits\n.text\n");
extern "C" void emu_switch(void **save_sp, void *load_sp);

namespace emu
{

const here nowhere = {};
const here *now = &nowhere;
bool in_kernel;

namespace
{

#if defined(EMU_ASAN)
constexpr size_t STACK_BYTES = 512 * 1024;
#else
constexpr size_t STACK_BYTES = 128 * 1024;
#endif

struct meeting {
    uint32_t mask, arrived;
    warp_fn fn;
    void *payloads[32];
};
constexpr uint32_t MEETINGS = 4; /* of one warp at a time: lanes that went different ways */

struct fiber {
    void *sp;
    here seen;
    bool done;
    bool waited; /* for the kernel before */
    const char *waits_for;
    void *fake_stack;
};

fiber fibers[THREADS_MAX];
meeting meetings[THREADS_MAX / 32][MEETINGS];
struct named {
    uint32_t arrived, threads[THREADS_MAX];
} named_barriers[16];
uint32_t ready[THREADS_MAX], n_ready, n_live, n_all, current;
uint32_t at_barrier, barrier_list[THREADS_MAX];
uint8_t *stacks;
void *scheduler_sp;
#if defined(EMU_ASAN)
void *scheduler_fake_stack;
const void *scheduler_stack;
size_t scheduler_stack_bytes;
#endif
void (*call_now)(const void *);
/* The program's own memory, so that kernels may read it. */
alignas(64) uint8_t arguments_now[ARGUMENT_BYTES_MAX];
uint64_t random_state = 1;
bool is_calm;
unsigned n_faults;
char first_fault[512];
const char *kernel_name = "?";

uint64_t draw()
{
    uint64_t x = random_state;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return random_state = x;
}

/* Takes one of the ready, at random, off their list. */
uint32_t next_ready()
{
    if (is_calm)
        return ready[--n_ready];
    uint32_t at = uint32_t((draw() >> 32) * n_ready >> 32), i = ready[at];
    ready[at] = ready[--n_ready];
    return i;
}

/* Gives way: to the next one at once, or where nobody is ready to run_block. */
void to_scheduler()
{
    fiber &f = fibers[current];
#if !defined(EMU_ASAN)
    if (n_ready > 0) {
        current = next_ready();
        fiber &next = fibers[current];
        now = &next.seen;
        if (&next != &f)
            emu_switch(&f.sp, next.sp);
        return;
    }
#endif
#if defined(EMU_ASAN)
    __sanitizer_start_switch_fiber(f.done ? nullptr : &f.fake_stack, scheduler_stack,
                                   scheduler_stack_bytes);
#endif
    emu_switch(&f.sp, scheduler_sp);
#if defined(EMU_ASAN)
    __sanitizer_finish_switch_fiber(f.fake_stack, nullptr, nullptr);
#endif
}

void complete_barrier()
{
    race_join_block();
    uint32_t n = at_barrier;
    at_barrier = 0;
    for (uint32_t i = 0; i < n; i++)
        wake(barrier_list[i]);
}

/* The first frame of every fiber. */
extern "C" void emu_fiber_main()
{
#if defined(EMU_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
    call_now(arguments_now);
    if (!fibers[current].waited)
        fault("ends without previous_wait");
    asyncs_end_thread();
    wgmma_end_thread();
    fibers[current].done = true;
    n_live--;
    if (at_barrier > 0 && at_barrier == n_live) /* who has left is waited for no longer */
        complete_barrier();
    to_scheduler();
    abort();
}

void make_fiber(uint32_t i)
{
    fiber &f = fibers[i];
    /* Tops lie apart in the caches too. */
    uint8_t *top = stacks + (size_t(i) + 1) * STACK_BYTES - i % 64 * 832;
    auto *sp = reinterpret_cast<uint64_t *>(top);
    *--sp = 0; /* keeps the stack aligned as after a call */
    *--sp = uint64_t(uintptr_t(&emu_fiber_main));
    for (int r = 0; r < 6; r++)
        *--sp = 0;
    f.sp = sp;
    f.done = f.waited = false;
    f.waits_for = nullptr;
    f.fake_stack = nullptr;
}

void resume(uint32_t i)
{
    current = i;
    now = &fibers[i].seen;
#if defined(EMU_ASAN)
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, stacks + size_t(i) * STACK_BYTES,
                                   STACK_BYTES);
#endif
    emu_switch(&scheduler_sp, fibers[i].sp);
#if defined(EMU_ASAN)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

void run_block(const launch &l, uint3 block)
{
    n_all = n_live = l.block.x * l.block.y * l.block.z;
    n_ready = at_barrier = 0;
    memset(meetings, 0, sizeof meetings[0] * ((n_all + 31) / 32));
    for (named &b : named_barriers)
        b.arrived = 0;
    race_begin_block(n_all);
    asyncs_begin_block();
    wgmma_begin_block();
    for (uint32_t i = 0; i < n_all; i++) {
        make_fiber(i);
        here &h = fibers[i].seen;
        h.thread = {i % l.block.x, i / l.block.x % l.block.y, i / l.block.x / l.block.y};
        h.block = block;
        h.block_dim = {l.block.x, l.block.y, l.block.z};
        h.grid_dim = {l.grid.x, l.grid.y, l.grid.z};
        h.lane = i % 32;
        ready[n_ready++] = i;
    }
    while (n_ready > 0) {
        uint32_t i = next_ready();
        in_kernel = true;
        resume(i);
        in_kernel = false;
    }
    if (n_live > 0) {
        for (uint32_t i = 0; i < n_all; i++)
            if (!fibers[i].done) {
                fault("%u threads wait for ever; thread %u: %s", n_live, i, fibers[i].waits_for);
                break;
            }
    }
    asyncs_end_block();
}

} // namespace

void fault(const char *format, ...)
{
    if (n_faults++ > 0)
        return;
    int n = snprintf(first_fault, sizeof first_fault, "%s, block %u,%u,%u thread %u: ", kernel_name,
                     now->block.x, now->block.y, now->block.z, in_kernel ? current : 0);
    va_list args;
    va_start(args, format);
    vsnprintf(first_fault + n, sizeof first_fault - size_t(n), format, args);
    va_end(args);
}

void break_down()
{
    fault("a planted one");
}

unsigned faults(const char **first)
{
    unsigned n = n_faults;
    close_strays();
    if (first)
        *first = first_fault;
    n_faults = 0;
    return n;
}

void dependency_wait()
{
    fibers[current].waited = true;
}

bool has_waited()
{
    return fibers[current].waited;
}

bool faulty()
{
    return n_faults > 0;
}
void seed(uint64_t value)
{
    random_state = value * 0x9e3779b97f4a7c15u | 1;
}
void calm()
{
    is_calm = true;
}
uint32_t thread_idx()
{
    return current;
}
uint32_t n_threads()
{
    return n_all;
}
uint32_t live_threads()
{
    return n_live;
}
void *shared_memory()
{
    return shared_base;
}

bool on_fiber_stack(const void *at)
{
    auto *p = static_cast<const uint8_t *>(at);
    return p >= stacks && p < stacks + STACK_BYTES * THREADS_MAX;
}

void wake(uint32_t i)
{
    fibers[i].waits_for = nullptr;
    ready[n_ready++] = i;
}

void sleep_on(const char *what)
{
    fibers[current].waits_for = what;
    to_scheduler();
}

void yield()
{
    ready[n_ready++] = ready[0]; /* last in line, in a calm program too */
    ready[0] = current;
    to_scheduler();
}

void block_barrier()
{
    barrier_list[at_barrier++] = current;
    if (at_barrier == n_live) {
        complete_barrier();
        to_scheduler(); /* not first in line because last to come */
    } else {
        sleep_on("block barrier");
    }
}

void named_barrier(uint32_t id, uint32_t n)
{
    named &b = named_barriers[id & 15];
    b.threads[b.arrived++] = current;
    if (b.arrived == n) {
        race_join(b.threads, n);
        b.arrived = 0;
        for (uint32_t i = 0; i < n; i++)
            wake(b.threads[i]);
        to_scheduler();
    } else {
        sleep_on("named barrier");
    }
}

void warp_meet(uint32_t mask, warp_fn fn, void *payload, const char *what)
{
    uint32_t warp = current / 32, lane = current % 32;
    meeting *m = nullptr;
    if (!(mask >> lane & 1)) {
        fault("%s: lane %u is not in its own mask %08x", what, lane, mask);
        return;
    }
    for (uint32_t i = 0; i < MEETINGS && !m; i++)
        if (meetings[warp][i].arrived && meetings[warp][i].mask == mask)
            m = &meetings[warp][i];
    for (uint32_t i = 0; i < MEETINGS && !m; i++)
        if (!meetings[warp][i].arrived)
            m = &meetings[warp][i], m->fn = fn, m->mask = mask;
    if (!m || m->fn != fn || (m->arrived >> lane & 1)) {
        fault("%s: the lanes of mask %08x are at different operations", what, mask);
        sleep_on(what);
        return;
    }
    m->payloads[lane] = payload;
    m->arrived |= 1u << lane;
    if (m->arrived != mask) {
        sleep_on(what);
        return;
    }
    for (uint32_t l = 0; l < 32; l++)
        if (!(mask >> l & 1))
            m->payloads[l] = nullptr;
    fn(m->payloads, mask);
    m->arrived = 0;
    for (uint32_t l = 0; l < 32; l++)
        if ((mask >> l & 1))
            wake(warp * 32 + l);
    to_scheduler();
}

static void join_lanes(void **, uint32_t mask)
{
    race_join_lanes(current / 32, mask);
}
void warp_barrier(uint32_t mask)
{
    warp_meet(mask, join_lanes, nullptr, "warp barrier");
}

void run_grid(const launch &l, void (*call)(const void *), const void *arguments, size_t n_bytes)
{
    kernel_name = l.name;
    uint64_t threads = uint64_t(l.block.x) * l.block.y * l.block.z;
    if (threads == 0 || threads > THREADS_MAX || l.shared_bytes > SHARED_MAX || l.grid.y > 65535 ||
        l.grid.z > 65535) {
        fault("a grid of %u x %u x %u, blocks of %u threads, %u bytes shared cannot be launched",
              l.grid.x, l.grid.y, l.grid.z, unsigned(threads), l.shared_bytes);
        return;
    }
    if (!stacks) {
        void *p = mmap(nullptr, STACK_BYTES * THREADS_MAX, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            abort();
        stacks = static_cast<uint8_t *>(p);
        if (const char *other = getenv("TARN_EMU_SEED"))
            seed(strtoull(other, nullptr, 10));
    }
    call_now = call;
    memcpy(arguments_now, arguments, n_bytes);
    shared_bytes = l.shared_bytes;
    /* Blocks in an order of their own: first and last change places at random. */
    uint64_t n = uint64_t(l.grid.x) * l.grid.y * l.grid.z;
    bool backwards = draw() & 1;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t b = backwards ? n - 1 - i : i;
        run_block(l, {uint32_t(b % l.grid.x), uint32_t(b / l.grid.x % l.grid.y),
                      uint32_t(b / l.grid.x / l.grid.y)});
    }
}

} // namespace emu
