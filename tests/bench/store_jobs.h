/* store_jobs.h - one job in five hands: make 40 MiB of state durable, and bring it back. */
#ifndef TARN_BENCH_STORE_JOBS_H
#define TARN_BENCH_STORE_JOBS_H

#include "store.h"
#include "store_data.h"

typedef struct job {
    const char *prefix;             /* of its metrics */
    double (*commit)(struct job *); /* ms; the session's last one is replaced or added to */
    double (*resume)(struct job *); /* ms; into `back`, checked where it is lossless */
    void (*close)(struct job *);
    size_t stored_bytes; /* of one state */
    float *state, *back;
    void *own;
} job;

/* The store at `path` with codec LOSSLESS or a lossy one. The session is emptied again and again,
 * so that the file reuses its pages as that of a long-lived store does. */
void job_tarn(job *j, const char *prefix, tarnp_store *store, tarnp_state_codec codec);
/* zstd level 1 of every chunk, then as job_file. */
void job_zstd(job *j, const char *folder);
/* One file: write, fdatasync, rename over the old one, fsync of the folder. No checksum. */
void job_file(job *j, const char *folder);
/* A row of raw bytes a chunk, one transaction, WAL, synchronous FULL. False without SQLite. */
bool job_sqlite(job *j, const char *folder);

/* One chunk of the state: 8 heads, 512 KiB. */
#define CHUNKS      80
#define CHUNK_BYTES (STATE_BYTES / CHUNKS)

extern const uint8_t bench_fp[TARNP_FP_BYTES];
void bench_key(uint8_t key[TARNP_KEY_BYTES]); /* a new one */
void bench_stop(const char *what, const char *why);
/* Ends the program if the call failed. */
void bench_must(tarn_status status, const char *what, const tarn_error *err);

#endif
