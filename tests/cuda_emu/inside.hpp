/* inside.hpp - what the files of the emulator share. */
#ifndef TARN_CUDA_EMU_INSIDE_HPP
#define TARN_CUDA_EMU_INSIDE_HPP

#include "emu.hpp"

namespace emu
{

constexpr uint32_t THREADS_MAX = 1024;
constexpr uint32_t SHARED_MAX = 232448; /* of a block, as on sm_90 */

/* Keeps the first sentence and counts. */
void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));

bool faulty(); /* since the last call of faults */

/* Calls of the runtime come from any thread; one at a time is served, kernels and all. */
struct turn {
    turn();
    ~turn();
    turn(const turn &) = delete;
    turn &operator=(const turn &) = delete;
};

/* fiber.cpp */
struct thread;
extern bool in_kernel;
uint32_t thread_idx(); /* of the running thread in its block */
uint32_t n_threads();  /* of the running block */
bool on_fiber_stack(const void *at);
bool has_waited();                          /* the running thread, for the kernel before its own */
constexpr size_t ARGUMENT_BYTES_MAX = 4096; /* as on a device */
void run_grid(const launch &l, void (*call)(const void *), const void *arguments, size_t n_bytes);

/* race.cpp: who may touch what in shared memory. `clock`s count a thread's releases. */
extern uint8_t *shared_base; /* SHARED_MAX bytes */
extern uint32_t shared_bytes;
void race_begin_block(uint32_t n_threads);
void race_join_block(); /* all threads met */
void race_join_lanes(uint32_t warp, uint32_t mask);
void race_join(const uint32_t *threads, uint32_t n); /* these met */
void race_release(uint32_t *clocks); /* clocks[THREADS_MAX] := max with this thread's */
void race_acquire(const uint32_t *clocks);
void race_touch(size_t offset, size_t n_bytes, bool write);
void race_in_flight(size_t offset, size_t n_bytes, bool begins);
/* The copy engine and the tensor cores see what a thread stored itself only after its fence. */
void race_fence();
void race_read_by_engine(size_t offset, size_t n_bytes);
/* A copy that `thread` asked for has landed; who acquires `clocks` knows of it. */
void race_land(uint32_t thread, size_t offset, size_t n_bytes, uint32_t *clocks);

/* memory.cpp */
void check_global(const void *at, size_t n_bytes, bool write);
bool is_shared(const void *at);
bool take_memory(size_t n_bytes); /* of the device; false: there is not so much */
void give_memory(size_t n_bytes);
void forget_last(); /* what was looked up last may be gone */

/* ranges.cpp: is p in a reserved range, and which bytes around it may be touched, [p, p) if none */
bool in_range(const uint8_t *p, const uint8_t **begin, const uint8_t **end);
void close_strays(); /* what was touched without a chunk is out of reach again */

/* runtime.cpp */
bool work_left(); /* in any stream */

/* asyncs.cpp */
void asyncs_begin_block();
void asyncs_end_thread();
void asyncs_end_block();

/* wgmma.cpp */
void wgmma_begin_block();
void wgmma_end_thread();

/* Blocks the running thread until wake(its index). */
void sleep_on(const char *what);
void wake(uint32_t thread);
uint32_t live_threads();
void yield();

} // namespace emu

#endif
