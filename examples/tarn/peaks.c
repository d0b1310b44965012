/* peaks.c - see peaks.h.
 *
 * The command is built for any processor, so each loop is compiled for the instructions it needs
 * and chosen when it runs. Threads are started for each try, then let go together. */
#include "peaks.h"

#include "rows.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#    include <immintrin.h>
#endif

#define MEMORY_BYTES ((size_t)512 << 20)
#define STREAMS      4
#define STREAM_BYTES ((size_t)256 << 10)
#define CHAINS       12
#define ROUNDS       200000
#define TRIES        5
#define THREADS_MAX  256

typedef float (*loop_fn)(const uint8_t *memory, size_t n_bytes);

struct peaks_bench {
    uint32_t n_threads;
    uint8_t *memory;
    loop_fn read, fma, bf16;
    double fma_flops, bf16_flops; /* of one round */
};

typedef struct worker {
    pthread_t thread;
    pthread_barrier_t *barrier;
    loop_fn fn;
    const uint8_t *memory;
    size_t n_bytes;
    float result;
} worker;

double peaks_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the loops ------------------------------------------------------------------------------- */

static float read_plain(const uint8_t *memory, size_t n_bytes)
{
    uint64_t sum[STREAMS] = {0};
    for (size_t at = 0; at < n_bytes; at += STREAMS * STREAM_BYTES)
        for (size_t i = at; i < at + STREAM_BYTES; i += sizeof *sum)
            for (size_t s = 0; s < STREAMS; s++) {
                uint64_t word;
                memcpy(&word, memory + i + s * STREAM_BYTES, sizeof word);
                sum[s] ^= word;
            }
    return (float)(sum[0] ^ sum[1] ^ sum[2] ^ sum[3]);
}

static float fma_plain(const uint8_t *memory, size_t n_bytes)
{
    float sums[CHAINS] = {0}, factor = (float)memory[0] * 0.001F;
    (void)n_bytes;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < CHAINS; i++)
            sums[i] = sums[i] * factor + 0.5F;
    for (int i = 1; i < CHAINS; i++)
        sums[0] += sums[i];
    return sums[0];
}

#if defined(__x86_64__)
/* Keeps the compiler from computing a loop beforehand. */
#    define OPAQUE(x) __asm__ volatile("" : "+v"(x))

__attribute__((target("avx2"))) static float read_avx2(const uint8_t *memory, size_t n_bytes)
{
    __m256i sum[STREAMS];
    for (int s = 0; s < STREAMS; s++)
        sum[s] = _mm256_setzero_si256();
    for (size_t at = 0; at < n_bytes; at += STREAMS * STREAM_BYTES)
        for (size_t i = at; i < at + STREAM_BYTES; i += sizeof *sum)
            for (size_t s = 0; s < STREAMS; s++) {
                const void *from = memory + i + s * STREAM_BYTES;
                sum[s] = _mm256_xor_si256(sum[s], _mm256_loadu_si256(from));
            }
    sum[0] = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
    return (float)_mm256_extract_epi32(sum[0], 0);
}

__attribute__((target("avx2,fma"))) static float fma_avx2(const uint8_t *memory, size_t n_bytes)
{
    __m256 sums[CHAINS], factor = _mm256_set1_ps((float)memory[0] * 0.001F);
    (void)n_bytes;
    for (int i = 0; i < CHAINS; i++)
        sums[i] = _mm256_setzero_ps();
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CHAINS; i++)
            sums[i] = _mm256_fmadd_ps(sums[i], factor, factor);
        OPAQUE(factor);
    }
    for (int i = 1; i < CHAINS; i++)
        sums[0] = _mm256_add_ps(sums[0], sums[i]);
    return _mm256_cvtss_f32(sums[0]);
}

__attribute__((target("avx512f"))) static float fma_avx512(const uint8_t *memory, size_t n_bytes)
{
    __m512 sums[CHAINS], factor = _mm512_set1_ps((float)memory[0] * 0.001F);
    (void)n_bytes;
    for (int i = 0; i < CHAINS; i++)
        sums[i] = _mm512_setzero_ps();
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CHAINS; i++)
            sums[i] = _mm512_fmadd_ps(sums[i], factor, factor);
        OPAQUE(factor);
    }
    for (int i = 1; i < CHAINS; i++)
        sums[0] = _mm512_add_ps(sums[0], sums[i]);
    return _mm512_cvtss_f32(sums[0]);
}

__attribute__((target("avx512f,avx512bf16"))) static float bf16_avx512(const uint8_t *memory,
                                                                       size_t n_bytes)
{
    __m512 sums[CHAINS];
    __m512i pairs = _mm512_set1_epi32(0x3c803c80 + memory[0]);
    (void)n_bytes;
    for (int i = 0; i < CHAINS; i++)
        sums[i] = _mm512_setzero_ps();
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CHAINS; i++)
            sums[i] = _mm512_dpbf16_ps(sums[i], (__m512bh)pairs, (__m512bh)pairs);
        OPAQUE(pairs);
    }
    for (int i = 1; i < CHAINS; i++)
        sums[0] = _mm512_add_ps(sums[0], sums[i]);
    return _mm512_cvtss_f32(sums[0]);
}
#endif

static void choose(peaks_bench *b)
{
    b->read = read_plain;
    b->fma = fma_plain;
    b->fma_flops = 2;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        b->read = read_avx2;
        b->fma = fma_avx2;
        b->fma_flops = 16;
    }
    if (__builtin_cpu_supports("avx512f")) {
        b->fma = fma_avx512;
        b->fma_flops = 32;
    }
    if (__builtin_cpu_supports("avx512bf16")) {
        b->bf16 = bf16_avx512;
        b->bf16_flops = 64;
    }
#endif
}

/* ---- running them ---------------------------------------------------------------------------- */

peaks_bench *peaks_begin(uint32_t n_threads)
{
    peaks_bench *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->n_threads = n_threads > THREADS_MAX ? THREADS_MAX : n_threads;
    b->memory = malloc(MEMORY_BYTES);
    if (!b->memory) {
        free(b);
        return NULL;
    }
    memset(b->memory, 1, MEMORY_BYTES); /* pages of zeros would all be one */
    choose(b);
    return b;
}

void peaks_end(peaks_bench *bench)
{
    if (bench)
        free(bench->memory);
    free(bench);
}

static void *run_worker(void *arg)
{
    worker *w = arg;
    pthread_barrier_wait(w->barrier);
    w->result = w->fn(w->memory, w->n_bytes);
    pthread_barrier_wait(w->barrier);
    return NULL;
}

/* Seconds all threads take for one call each; 0 where they could not be started. */
static double run_once(const peaks_bench *b, loop_fn fn)
{
    worker workers[THREADS_MAX];
    pthread_barrier_t barrier;
    uint32_t n = b->n_threads, started = 1;
    const size_t unit = STREAMS * STREAM_BYTES, part = MEMORY_BYTES / n / unit * unit;
    if (pthread_barrier_init(&barrier, NULL, n) != 0)
        return 0;
    for (uint32_t i = 0; i < n; i++)
        workers[i] = (worker){
            .barrier = &barrier, .fn = fn, .memory = b->memory + i * part, .n_bytes = part};
    for (; started < n; started++)
        if (pthread_create(&workers[started].thread, NULL, run_worker, &workers[started]) != 0) {
            fprintf(stderr, "tarn: cannot start thread %u of %u\n", started + 1, n);
            exit(1); /* those that wait can only be released by as many as were promised */
        }
    pthread_barrier_wait(&barrier);
    double start = peaks_now();
    workers[0].result = fn(workers[0].memory, part);
    pthread_barrier_wait(&barrier);
    double took = peaks_now() - start;
    for (uint32_t i = 1; i < n; i++)
        pthread_join(workers[i].thread, NULL);
    pthread_barrier_destroy(&barrier);
    return took;
}

static double median_rate(const peaks_bench *b, loop_fn fn, double work)
{
    double rates[TRIES];
    if (!fn)
        return 0;
    for (uint32_t i = 0; i < TRIES; i++) {
        double took = run_once(b, fn);
        rates[i] = took > 0 ? work / took / 1e9 : 0;
    }
    return rows_median(rates, TRIES);
}

peaks peaks_measure(peaks_bench *b)
{
    const size_t unit = STREAMS * STREAM_BYTES;
    const double n = b->n_threads, rounds = (double)CHAINS * ROUNDS;
    const double bytes = n * (double)(MEMORY_BYTES / b->n_threads / unit * unit);
    return (peaks){.read_gbps = median_rate(b, b->read, bytes),
                   .fma_gflops = median_rate(b, b->fma, n * rounds * b->fma_flops),
                   .bf16_gflops = median_rate(b, b->bf16, n * rounds * b->bf16_flops)};
}
