/* bench.h - times, medians, and what this machine can do at best. */
#ifndef TARN_BENCH_H
#define TARN_BENCH_H

#include <stddef.h>
#include <stdint.h>

#include "kernel.h"

double bench_now_s(void);

/* Sorts n times; prints median, p10, p90 and what the median means for the bytes moved and the
 * FLOPs done, beside the peaks of this run. */
typedef struct bench_peaks {
    double read_gbps;
    double fma_gflops;
} bench_peaks;

void bench_line(const char *name, const char *shape, double *times_s, uint32_t n, double bytes,
                double flops, const bench_peaks *peaks);

/* Reads n_bytes at `memory`, eight streams a thread, and multiplies in registers; best of several
 * runs, as these are the ceilings. */
bench_peaks bench_measure_peaks(const tarnk_context *context, const void *memory, size_t n_bytes);

#endif
