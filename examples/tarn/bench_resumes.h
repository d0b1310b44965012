/* bench_resumes.h - how long a long session takes to come back, on a device. */
#ifndef TARN_COMMAND_BENCH_RESUMES_H
#define TARN_COMMAND_BENCH_RESUMES_H

#include "rows.h"

typedef struct bench_resumes {
    tarn_engine *engine;
    tarn_store *store;
    rows *rows;
    uint32_t n_tokens; /* of the session */
    uint32_t vocab;
    double step_ms; /* a decode step: the floor */
    tarn_error *err;
} bench_resumes;

/* Adds park_ms_N, resume_ms_N_pinned (where the engine has pinned memory for it), each up to the
 * next token, and resume_ms_N_store; N is "32k" or a number. */
tarn_status bench_resumes_run(const bench_resumes *r);

#endif
