/* peaks.h - what this machine can do at best: reading memory and multiplying in registers. */
#ifndef TARN_COMMAND_PEAKS_H
#define TARN_COMMAND_PEAKS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct peaks {
    double read_gbps;   /* many streams over memory far larger than the caches */
    double fma_gflops;  /* fp32 multiply-add, the widest this processor has */
    double bf16_gflops; /* bf16 products into fp32; 0 where it has none */
} peaks;

typedef struct peaks_bench peaks_bench;

/* Takes 512 MiB; NULL: no memory. */
peaks_bench *peaks_begin(uint32_t n_threads);
void peaks_end(peaks_bench *bench);
/* About a quarter of a second; medians of several tries. */
peaks peaks_measure(peaks_bench *bench);

/* Seconds of a clock that only goes forward. */
double peaks_now(void);

#endif
