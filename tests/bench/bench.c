#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define STREAMS    8
#define PIECES     64
#define FMA_ROUNDS 1000000
#define FMA_CHAINS 12
#define PEAK_RUNS  7

typedef float float16 __attribute__((vector_size(64)));
typedef uint64_t word8 __attribute__((vector_size(64)));

double bench_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_times(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_line(const char *name, const char *shape, double *times_s, uint32_t n, double bytes,
                double flops, const bench_peaks *peaks)
{
    qsort(times_s, n, sizeof *times_s, compare_times);
    double median = times_s[n / 2];
    double gbps = bytes / median / 1e9, gflops = flops / median / 1e9;
    printf("%-9s %-34s n %3u  median %9.1f us  p10 %9.1f  p90 %9.1f  %6.1f GB/s %4.0f %%  "
           "%6.1f GFLOP/s %3.0f %%\n",
           name, shape, n, median * 1e6, times_s[n / 10] * 1e6, times_s[n * 9 / 10] * 1e6, gbps,
           100 * gbps / peaks->read_gbps, gflops, 100 * gflops / peaks->fma_gflops);
    fflush(stdout);
}

typedef struct read_job {
    const uint8_t *memory;
    size_t stream_bytes;
    uint64_t sums[PIECES];
} read_job;

static void read_task(void *arg, uint32_t piece)
{
    read_job *job = arg;
    const uint8_t *from = job->memory + piece * STREAMS * job->stream_bytes;
    word8 sum[STREAMS];
    memset(sum, 0, sizeof sum);
    for (size_t i = 0; i < job->stream_bytes; i += sizeof(word8))
        for (int s = 0; s < STREAMS; s++)
            sum[s] ^= *(const word8 *)(const void *)(from + (size_t)s * job->stream_bytes + i);
    for (int s = 1; s < STREAMS; s++)
        sum[0] ^= sum[s];
    job->sums[piece] = sum[0][0] ^ sum[0][1];
}

static void fma_task(void *arg, uint32_t task_idx)
{
    float *results = arg;
    float16 b = {0}, c = {0}, a[FMA_CHAINS];
    b += 0.999F;
    c += 0.001F;
    for (int i = 0; i < FMA_CHAINS; i++)
        a[i] = c * (float)i;
    for (int n = 0; n < FMA_ROUNDS; n++)
        for (int i = 0; i < FMA_CHAINS; i++)
            a[i] = a[i] * b + c;
    for (int i = 1; i < FMA_CHAINS; i++)
        a[0] += a[i];
    results[task_idx] = a[0][0];
}

bench_peaks bench_measure_peaks(const tarnk_context *context, const void *memory, size_t n_bytes)
{
    bench_peaks best = {0, 0};
    read_job job = {memory, n_bytes / PIECES / STREAMS / 64 * 64, {0}};
    uint32_t n_fma = context->n_threads * 2;
    float *results = calloc(n_fma, sizeof *results);
    for (int run = 0; results && run < PEAK_RUNS; run++) {
        double start = bench_now_s();
        context->run(context->pool, PIECES, read_task, &job);
        double middle = bench_now_s();
        context->run(context->pool, n_fma, fma_task, results);
        double end = bench_now_s();
        double gbps = (double)(job.stream_bytes * STREAMS * PIECES) / (middle - start) / 1e9;
        double gflops = 2.0 * 16 * FMA_CHAINS * FMA_ROUNDS * n_fma / (end - middle) / 1e9;
        best.read_gbps = gbps > best.read_gbps ? gbps : best.read_gbps;
        best.fma_gflops = gflops > best.fma_gflops ? gflops : best.fma_gflops;
    }
    free(results);
    return best;
}
