/* What the emulator must catch, planted in small kernels, each beside its corrected form, which it
 * must let pass. */
#include "launch.cuh"

#include "check.h"

static tarnk_cuda cuda;
static tarnk_context context = {nullptr, &cuda, 0, nullptr};

/* Faults of everything enqueued so far. */
static unsigned run(const char **first)
{
    cudaDeviceSynchronize();
    return emu::faults(first);
}

#define CHECK_CLEAN()                                                                              \
    do {                                                                                           \
        const char *text;                                                                          \
        if (run(&text) != 0)                                                                       \
            CHECK_FAIL("%s", text);                                                                \
    } while (0)

#define CHECK_CAUGHT(part)                                                                         \
    do {                                                                                           \
        const char *text;                                                                          \
        if (run(&text) == 0)                                                                       \
            CHECK_FAIL("nothing was found, should be \"%s\"", part);                               \
        else                                                                                       \
            CHECK_HAS(text, part);                                                                 \
    } while (0)

static float *device_floats(size_t n)
{
    void *p = nullptr;
    if (cudaMalloc(&p, n * sizeof(float)) != cudaSuccess)
        exit(1);
    return static_cast<float *>(p);
}

#if !defined(EMU_ASAN) /* these need loads and stores to be seen, or go astray on purpose */

/* Each thread leaves a value and reads its neighbour's. */
static void neighbours(float *out, uint32_t barrier)
{
    previous_wait();
    auto *shared = reinterpret_cast<float *>(shared_bytes());
    shared[threadIdx.x] = float(threadIdx.x);
    if (barrier == 1)
        __syncthreads();
    if (barrier == 2)
        __syncwarp();
    out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

CASE(a_race_in_shared_memory)
{
    float *out = device_floats(64);
    for (uint64_t seed = 0; seed < 5; seed++) {
        emu::seed(seed);
        LAUNCH(neighbours, 1, 64, 256, &context, out, 0u);
        CHECK_CAUGHT("race");
        LAUNCH(neighbours, 1, 64, 256, &context, out, 1u);
        CHECK_CLEAN();
        for (uint32_t i = 0; i < 64; i++)
            CHECK(out[i] == float((i + 1) % 64));
        LAUNCH(neighbours, 1, 64, 256, &context, out,
               2u); /* a warp's barrier is not enough for two */
        CHECK_CAUGHT("race");
        LAUNCH(neighbours, 1, 32, 256, &context, out, 2u);
        CHECK_CLEAN();
    }
    cudaFree(out);
}

/* A write after a read of the round before. */
static void rounds(float *out, uint32_t second_barrier)
{
    previous_wait();
    auto *shared = reinterpret_cast<float *>(shared_bytes());
    float sum = 0;
    for (uint32_t i = 0; i < 3; i++) {
        shared[threadIdx.x] = float(i);
        __syncthreads();
        sum += shared[blockDim.x - 1 - threadIdx.x];
        if (second_barrier)
            __syncthreads();
    }
    out[threadIdx.x] = sum;
}

CASE(a_write_too_early_after_a_read)
{
    float *out = device_floats(96);
    LAUNCH(rounds, 1, 96, 384, &context, out, 0u);
    CHECK_CAUGHT("which thread");
    LAUNCH(rounds, 1, 96, 384, &context, out, 1u);
    CHECK_CLEAN();
    cudaFree(out);
}

static void two_teams(float *out, uint32_t same)
{
    previous_wait();
    auto *shared = reinterpret_cast<float *>(shared_bytes());
    const uint32_t team = threadIdx.x / 64, at = threadIdx.x % 64;
    shared[threadIdx.x] = float(threadIdx.x);
    barrier_some(1 + team, 64);
    out[threadIdx.x] = shared[(same ? team : 1 - team) * 64 + 63 - at];
}

CASE(named_barriers_order_their_own_threads_only)
{
    float *out = device_floats(128);
    LAUNCH(two_teams, 1, 128, 512, &context, out, 1u);
    CHECK_CLEAN();
    CHECK(out[0] == 63 && out[64] == 127);
    LAUNCH(two_teams, 1, 128, 512, &context, out, 0u);
    CHECK_CAUGHT("race");
    cudaFree(out);
}

static void beyond(float *memory, uint32_t at, uint32_t write)
{
    previous_wait();
    if (write)
        memory[at] = 1;
    else
        memory[0] = memory[at];
}

CASE(accesses_outside_of_an_allocation)
{
    float *memory = device_floats(10);
    for (uint32_t write = 0; write < 2; write++) {
        LAUNCH(beyond, 1, 1, 0, &context, memory, 9u, write);
        CHECK_CLEAN();
        LAUNCH(beyond, 1, 1, 0, &context, memory, 10u, write);
        CHECK_CAUGHT(write ? "writes 4 bytes at 40 of an allocation of 40"
                           : "reads 4 bytes at 40 of an allocation of 40");
    }
    auto *host = static_cast<float *>(malloc(64));
    LAUNCH(beyond, 1, 1, 0, &context, host, 0u, 1u);
    CHECK_CAUGHT("in no allocation");
    free(host);
    cudaFree(memory);
}

static void misaligned(unsigned char *memory, float *out)
{
    previous_wait();
    *out = *reinterpret_cast<float *>(memory + 2);
}

CASE(misaligned_accesses_and_shared_overruns)
{
    float *memory = device_floats(4);
    LAUNCH(misaligned, 1, 1, 0, &context, reinterpret_cast<unsigned char *>(memory), memory + 2);
    CHECK_CAUGHT("not aligned");
    LAUNCH(neighbours, 1, 32, 64, &context, memory, 1u);
    CHECK_CAUGHT("the block has 64");
    cudaFree(memory);
}

/* ---- asynchronous copies ---- */

static void fetch(const float *from, float *out, uint32_t wait, uint32_t barrier)
{
    previous_wait();
    auto *shared = reinterpret_cast<float *>(shared_bytes());
    copy_async16(shared + threadIdx.x * 4, from + threadIdx.x * 4, true);
    copy_commit();
    if (wait)
        copy_wait<0>();
    if (barrier)
        __syncthreads();
    out[threadIdx.x] = shared[blockDim.x * 4 - 1 - threadIdx.x * 4];
    if (!wait)
        copy_wait<0>();
}

CASE(a_copy_nobody_waited_for)
{
    float *from = device_floats(256), *out = device_floats(64);
    for (int i = 0; i < 256; i++)
        from[i] = float(i);
    LAUNCH(fetch, 1, 64, 1024, &context, from, out, 1u, 1u);
    CHECK_CLEAN();
    for (int i = 0; i < 64; i++)
        CHECK(out[i] == float(255 - 4 * i));
    LAUNCH(fetch, 1, 64, 1024, &context, from, out, 0u, 1u);
    CHECK_CAUGHT("asynchronous copy");
    LAUNCH(fetch, 1, 64, 1024, &context, from, out, 1u, 0u); /* others' copies need a barrier too */
    {
        const char *text;
        CHECK(run(&text) > 0);
    }
    cudaFree(from);
    cudaFree(out);
}

static void never_waits(const float *from)
{
    previous_wait();
    copy_async16(shared_bytes(), from, true);
    copy_commit();
}

CASE(a_copy_left_behind_and_one_from_outside)
{
    float *from = device_floats(4);
    LAUNCH(never_waits, 1, 1, 1024, &context, from);
    CHECK_CAUGHT("never waited for");
    LAUNCH(never_waits, 1, 1, 1024, &context, from + 4);
    CHECK_CAUGHT("of an allocation of 16");
    cudaFree(from);
}

static void ring(const float *from, float *out, uint32_t wait)
{
    previous_wait();
    auto *bar = reinterpret_cast<uint64_t *>(shared_bytes());
    auto *shared = reinterpret_cast<float *>(shared_bytes() + 128);
    if (threadIdx.x == 0)
        mbarrier_init(bar, 1);
    __syncthreads();
    float sum = 0;
    for (uint32_t i = 0; i < 4; i++) {
        if (threadIdx.x == 0) {
            mbarrier_arrive(bar, 256);
            copy_bulk(shared, from + i * 64, 256, bar);
        }
        if (wait)
            mbarrier_wait(bar, i % 2);
        sum += shared[threadIdx.x];
        __syncthreads();
    }
    out[threadIdx.x] = sum;
}

CASE(bulk_copies_and_their_barrier)
{
    float *from = device_floats(256), *out = device_floats(64);
    for (int i = 0; i < 256; i++)
        from[i] = float(i / 64 * 100 + i % 64);
    for (uint64_t seed = 1; seed < 4; seed++) {
        emu::seed(seed);
        LAUNCH(ring, 1, 64, 1024, &context, from, out, 1u);
        CHECK_CLEAN();
        for (int i = 0; i < 64; i++)
            CHECK(out[i] == float(600 + 4 * i));
    }
    LAUNCH(ring, 1, 64, 1024, &context, from, out, 0u);
    const char *text;
    CHECK(run(&text) > 0); /* read while under way, or before: a matter of who runs first */
    cudaFree(from);
    cudaFree(out);
}

#endif

/* ---- threads that do not meet ---- */

static void half_at_barrier(float *out)
{
    previous_wait();
    float x = 1;
    if (threadIdx.x % 2)
        x = warp_sum(x); /* every lane is asked for, half come */
    out[threadIdx.x] = x;
}

static void waits_for_nobody(float *out)
{
    previous_wait();
    if (threadIdx.x < 32)
        barrier_some(1, 64);
    out[threadIdx.x] = 1;
}

static void some_leave(float *out)
{
    previous_wait();
    if (threadIdx.x >= 32)
        return;
    __syncthreads(); /* who has left is not waited for */
    out[threadIdx.x] = warp_sum(1);
}

CASE(threads_that_wait_for_ever)
{
    float *out = device_floats(64);
    LAUNCH(half_at_barrier, 1, 32, 0, &context, out);
    CHECK_CAUGHT("wait for ever");
    LAUNCH(waits_for_nobody, 1, 64, 0, &context, out);
    CHECK_CAUGHT("named barrier");
    LAUNCH(some_leave, 1, 64, 0, &context, out);
    CHECK_CLEAN();
    CHECK(out[5] == 32);
    cudaFree(out);
}

/* ---- arithmetic ---- */

static void multiply(const float *a, const float *b, float *out)
{
    previous_wait();
    auto *rows = reinterpret_cast<uint16_t *>(shared_bytes());          /* a [16][24] */
    auto *columns = reinterpret_cast<uint16_t *>(shared_bytes() + 768); /* b by row [16][24] */
    for (uint32_t i = threadIdx.x; i < 256; i += 32)
        rows[i / 16 * 24 + i % 16] = uint16_t(bf16_bits(a[i]));
    for (uint32_t i = threadIdx.x; i < 128; i += 32)
        columns[i / 8 * 24 + i % 8] = uint16_t(bf16_bits(b[i]));
    for (uint32_t i = threadIdx.x; i < 16; i += 32)
        for (uint32_t j = 8; j < 16; j++)
            columns[i * 24 + j] = 0;
    __syncthreads();
    const uint32_t lane = threadIdx.x;
    uint32_t x[4], y[4];
    float d[4] = {1, 1, 1, 1};
    load_tiles<false>(x, rows + lane % 16 * 24 + lane / 16 * 8);
    load_tiles<true>(y, columns + lane % 16 * 24 + lane / 16 * 8);
    mma_bf16(d, x, y);
    for (uint32_t i = 0; i < 4; i++)
        out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

CASE(tiles_and_products)
{
    float *a = device_floats(256), *b = device_floats(128), *out = device_floats(128);
    for (int i = 0; i < 256; i++)
        a[i] = float(i * 37 % 23 - 11);
    for (int i = 0; i < 128; i++)
        b[i] = float(i * 29 % 17 - 8);
    LAUNCH(multiply, 1, 32, 2048, &context, a, b, out);
    CHECK_CLEAN();
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++) {
            float want = 1;
            for (int k = 0; k < 16; k++)
                want += a[r * 16 + k] * b[k * 8 + c];
            if (out[r * 8 + c] != want)
                CHECK_FAIL("row %d column %d is %g, should be %g", r, c, double(out[r * 8 + c]),
                           double(want));
        }
    cudaFree(a);
    cudaFree(b);
    cudaFree(out);
}

/* ---- a producer, consumers, and products of a warpgroup ---- */

/* One warp copies, another adds up; two stages that must be free before they are filled again. */
static void relay(const float *from, float *out, uint32_t wait_free)
{
    previous_wait();
    auto *full = reinterpret_cast<uint64_t *>(shared_bytes()), *empty = full + 2;
    auto *stage = reinterpret_cast<float *>(shared_bytes() + 128);
    if (threadIdx.x < 2) {
        mbarrier_init(&full[threadIdx.x], 1);
        mbarrier_init(&empty[threadIdx.x], 32);
    }
    __syncthreads();
    float sum = 0;
    for (uint32_t i = 0; i < 6; i++) {
        const uint32_t s = i % 2, phase = i / 2 % 2;
        if (threadIdx.x == 0) {
            if (wait_free)
                mbarrier_wait(&empty[s], phase ^ 1);
            mbarrier_arrive(&full[s], 128);
            copy_bulk(stage + s * 32, from + i * 32, 128, &full[s]);
        }
        if (threadIdx.x >= 32) {
            mbarrier_wait(&full[s], phase);
            sum += stage[s * 32 + threadIdx.x - 32];
            mbarrier_arrive(&empty[s], 0);
        }
    }
    if (threadIdx.x >= 32)
        out[threadIdx.x - 32] = sum;
}

CASE(a_stage_filled_before_it_is_free)
{
    float *from = device_floats(192), *out = device_floats(32);
    const char *text;
    for (int i = 0; i < 192; i++)
        from[i] = float(i);
    for (uint64_t seed = 1; seed < 6; seed++) {
        emu::seed(seed);
        LAUNCH(relay, 1, 64, 1024, &context, from, out, 1u);
        CHECK_CLEAN();
        CHECK(out[3] == 6 * 3 + 32 * 15);
        LAUNCH(relay, 1, 64, 1024, &context, from, out, 0u);
        CHECK(run(&text) > 0);
    }
    cudaFree(from);
    cudaFree(out);
}

enum slip { NO_SLIP, NO_WGMMA_FENCE, NO_ASYNC_FENCE, NO_WAIT, SUMS_TOUCHED, OPERAND_TOUCHED, LEFT };

/* x [64][16] times y^T, y [128][16]; the first 16 columns of that, as an operand, times z
 * [16][128]: out [64][128]. */
static void warpgroup(const float *x, const float *y, const float *z, float *out, uint32_t slip)
{
    previous_wait();
    auto *a = reinterpret_cast<uint16_t *>(shared_bytes()); /* rows of 64 elements, 48 unused */
    auto *b = reinterpret_cast<uint16_t *>(shared_bytes() + 8192);
    auto *c = reinterpret_cast<uint16_t *>(shared_bytes() + 24576); /* two blocks of 16 rows */
    for (uint32_t i = threadIdx.x; i < 128 * 16; i += 128) {
        const uint32_t r = i / 16, k = i % 16, at = r * 64 + ((k / 8 ^ r % 8) * 8 + k % 8);
        if (r < 64)
            a[at] = uint16_t(bf16_bits(x[i]));
        b[at] = uint16_t(bf16_bits(y[i]));
        const uint32_t row = i / 128, n = i % 128;
        c[n / 64 * 1024 + row * 64 + ((n % 64 / 8 ^ row % 8) * 8 + n % 8)] =
            uint16_t(bf16_bits(z[i]));
    }
    if (slip != NO_ASYNC_FENCE)
        fence_async();
    __syncthreads();
    float s[16][4], o[16][4] = {};
    uint32_t p[4];
    if (slip != NO_WGMMA_FENCE)
        wgmma_fence();
    wgmma_rows(s, wgmma_tile(a, 1024, 16), wgmma_tile(b, 1024, 16), false);
    wgmma_commit();
    if (slip != NO_WAIT)
        wgmma_wait<0>();
    for (uint32_t i = 0; i < 4; i++)
        p[i] = bf16_pack(s[i / 2][i % 2 * 2], s[i / 2][i % 2 * 2 + 1]);
    wgmma_fence();
    wgmma_columns(o, p, wgmma_tile(c, 1024, 2048));
    wgmma_commit();
    if (slip == SUMS_TOUCHED)
        o[0][0] += 1000;
    if (slip == OPERAND_TOUCHED && threadIdx.x == 5)
        c[0] = 0;
    if (slip == LEFT)
        return;
    wgmma_wait<0>();
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t n = 0; n < 16; n++)
        for (uint32_t i = 0; i < 4; i++)
            out[(threadIdx.x / 32 * 16 + lane / 4 + i / 2 * 8) * 128 + n * 8 + lane % 4 * 2 +
                i % 2] = o[n][i];
}

/* How many of the elements are not what they should be. */
static uint32_t wrong_of(const float *x, const float *y, const float *z, const float *out)
{
    uint32_t wrong = 0;
    for (uint32_t r = 0; r < 64; r++)
        for (uint32_t n = 0; n < 128; n++) {
            float sum = 0;
            for (uint32_t j = 0; j < 16; j++) {
                float s = 0;
                for (uint32_t k = 0; k < 16; k++)
                    s += x[r * 16 + k] * y[j * 16 + k];
                sum += bf16_round(s) * z[j * 128 + n];
            }
            wrong += !(out[r * 128 + n] == sum);
        }
    return wrong;
}

CASE(products_of_a_warpgroup)
{
    float *x = device_floats(1024), *y = device_floats(2048), *z = device_floats(2048);
    float *out = device_floats(8192);
    const char *text;
    for (int i = 0; i < 2048; i++) {
        x[i % 1024] = float(i * 37 % 5 - 2);
        y[i] = float(i * 29 % 7 - 3);
        z[i] = float(i * 31 % 9 - 4);
    }
    for (uint64_t seed = 1; seed < 4; seed++) {
        emu::seed(seed);
        LAUNCH(warpgroup, 1, 128, 32768, &context, x, y, z, out, uint32_t(NO_SLIP));
        CHECK_CLEAN();
        CHECK_EQ(wrong_of(x, y, z, out), 0);
    }
    LAUNCH(warpgroup, 1, 128, 32768, &context, x, y, z, out, uint32_t(NO_WGMMA_FENCE));
    CHECK_CAUGHT("no wgmma_fence");
    LAUNCH(warpgroup, 1, 128, 32768, &context, x, y, z, out, uint32_t(LEFT));
    CHECK_CAUGHT("never waited for");
    LAUNCH(warpgroup, 1, 128, 32768, &context, x, y, z, out, uint32_t(NO_WAIT));
    run(&text);
    CHECK_EQ(wrong_of(x, y, z, out), 8192);
    LAUNCH(warpgroup, 1, 128, 32768, &context, x, y, z, out, uint32_t(SUMS_TOUCHED));
    run(&text);
    CHECK_EQ(wrong_of(x, y, z, out), 0); /* what was done to a sum under way is lost */
#if !defined(EMU_ASAN)
    LAUNCH(warpgroup, 1, 128, 32768, &context, x, y, z, out, uint32_t(NO_ASYNC_FENCE));
    CHECK_CAUGHT("no fence_async");
    LAUNCH(warpgroup, 1, 128, 32768, &context, x, y, z, out, uint32_t(OPERAND_TOUCHED));
    CHECK(run(&text) > 0);
#endif
    cudaFree(x);
    cudaFree(y);
    cudaFree(z);
    cudaFree(out);
}

CASE(device_memory_is_nan_until_written)
{
    float *memory = device_floats(3);
    CHECK(memory[0] != memory[0] && memory[2] != memory[2]);
    cudaFree(memory);
}

/* ---- streams ---- */

static void add(float *x, float by)
{
    previous_wait();
    x[0] += by;
}

static void scale(float *x, float by)
{
    previous_wait();
    x[0] *= by;
}

static void too_early(float *x, uint32_t when)
{
    if (when == 1)
        previous_wait();
    x[0] = 1;
    if (when == 2)
        previous_wait();
}

CASE(kernels_that_do_not_wait_for_the_one_before)
{
    float *x = device_floats(1);
    LAUNCH(too_early, 1, 1, 0, &context, x, 1u);
    CHECK_CLEAN();
    LAUNCH(too_early, 1, 1, 0, &context, x, 0u);
    {
        const char *text;
        CHECK(run(&text) > 0);
    }
#if !defined(EMU_ASAN)
    LAUNCH(too_early, 1, 1, 0, &context, x, 2u);
    CHECK_CAUGHT("before previous_wait");
#endif
    cudaFree(x);
}

CASE(work_waits_until_somebody_does)
{
    float *x = device_floats(1), got = 0;
    cudaStream_t a, b;
    cudaEvent_t half;
    cudaStreamCreateWithFlags(&a, 0);
    cudaStreamCreateWithFlags(&b, 0);
    cudaEventCreate(&half);
    x[0] = 1;
    tarnk_context on_a = {nullptr, &cuda, 0, a}, on_b = {nullptr, &cuda, 0, b};
    LAUNCH(add, 1, 1, 0, &on_a, x, 2.0f);
    CHECK(x[0] == 1);
    cudaEventRecord(half, a);
    LAUNCH(add, 1, 1, 0, &on_a, x, 100.0f);
    cudaStreamWaitEvent(b, half, 0);
    LAUNCH(scale, 1, 1, 0, &on_b, x, 10.0f);
    cudaStreamSynchronize(b);
    CHECK(x[0] == 30); /* a ran as far as b asked for */
    CHECK(cudaEventQuery(half) == cudaSuccess);
    cudaMemcpy(&got, x, 4, cudaMemcpyDeviceToHost);
    CHECK(got == 130);
    CHECK_CLEAN();
    cudaEventDestroy(half);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    cudaFree(x);
}

CASE(a_graph_records_and_repeats)
{
    float *x = device_floats(1);
    void *stream, *graph;
    CHECK_EQ(tarnk_cuda_stream_create(&stream), 0);
    tarnk_context c = {nullptr, &cuda, 0, stream};
    x[0] = 1;
    CHECK_EQ(tarnk_cuda_record_begin(stream), 0);
    LAUNCH(add, 1, 1, 0, &c, x, 1.0f);
    LAUNCH(scale, 1, 1, 0, &c, x, 2.0f);
    CHECK_EQ(tarnk_cuda_record_end(stream, &graph), 0);
    CHECK(x[0] == 1);
    CHECK_EQ(tarnk_cuda_graph_run(graph, stream), 0);
    CHECK_EQ(tarnk_cuda_graph_run(graph, stream), 0);
    CHECK_EQ(tarnk_cuda_wait(stream), 0);
    CHECK(x[0] == 10);
    tarnk_cuda_graph_free(graph);
    tarnk_cuda_stream_free(stream);
    cudaFree(x);
}

CASE(launches_that_cannot_be)
{
    float *x = device_floats(1);
    CHECK(LAUNCH(add, 1, 2048, 0, &context, x, 1.0f) == cudaErrorInvalidConfiguration);
    CHECK(LAUNCH(add, dim3(0), 1, 0, &context, x, 1.0f) == cudaErrorInvalidConfiguration);
    CHECK(LAUNCH(add, 1, 1, 300000, &context, x, 1.0f) == cudaErrorInvalidConfiguration);
    cudaFree(x);
}

CASE(devices_that_are_not_there_are_refused_by_name)
{
    char why[256];
    tarnk_cuda none;
    CHECK(tarnk_cuda_open(&none, 3, 0, why, sizeof why) != 0);
    CHECK_HAS(why, "device 3 was asked for, there are 1");
    CHECK(tarnk_cuda_open(&none, 0, size_t(1) << 40, why, sizeof why) != 0);
    CHECK_HAS(why, "1048576 MiB of workspace, 8192 MiB of 8192 are free");
    tarnk_cuda_close(&none);
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    CHECK(tarnk_cuda_open(&none, 0, 0, why, sizeof why) != 0);
    CHECK_HAS(why, "no CUDA device here: cudaErrorNoDevice");
    CHECK_EQ(tarnk_cuda_count(), 0);
    unsetenv("CUDA_VISIBLE_DEVICES");
    CHECK_EQ(tarnk_cuda_count(), 1);
}

#if !defined(EMU_ASAN)
#    define ENTRIES_THAT_WATCH                                                                     \
        ENTRY(a_race_in_shared_memory), ENTRY(a_write_too_early_after_a_read),                     \
            ENTRY(named_barriers_order_their_own_threads_only),                                    \
            ENTRY(accesses_outside_of_an_allocation),                                              \
            ENTRY(misaligned_accesses_and_shared_overruns), ENTRY(a_copy_nobody_waited_for),       \
            ENTRY(a_copy_left_behind_and_one_from_outside), ENTRY(bulk_copies_and_their_barrier),
#else
#    define ENTRIES_THAT_WATCH
#endif

CHECK_MAIN(ENTRIES_THAT_WATCH ENTRY(threads_that_wait_for_ever), ENTRY(tiles_and_products),
           ENTRY(a_stage_filled_before_it_is_free), ENTRY(products_of_a_warpgroup),
           ENTRY(device_memory_is_nan_until_written),
           ENTRY(kernels_that_do_not_wait_for_the_one_before),
           ENTRY(work_waits_until_somebody_does), ENTRY(a_graph_records_and_repeats),
           ENTRY(launches_that_cannot_be), ENTRY(devices_that_are_not_there_are_refused_by_name))
