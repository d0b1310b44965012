/* bench_resumes.h - how long a long session takes to come back, on a device. */
#ifndef TARN_COMMAND_BENCH_RESUMES_H
#define TARN_COMMAND_BENCH_RESUMES_H

#include "bench_bed.h"

/* Of n tokens, in a row that is named after n_named. Adds park_call_us_N, park_ms_N (until its
 * memory is free), resume_ms_N_pinned (where the engine has pinned memory for it) and
 * resume_ms_N_store, each up to the next token, and resume_N_replayed; N is "32k" or a number. */
tarn_status bench_resumes_run(bench *b, uint32_t n_tokens, uint32_t n_named);

#endif
