/* device.h - where a model runs and where its sessions' memory lies.
 *
 * The layers above know pointers into a device's memory, hand them to ops and to the functions
 * below, and look behind them only where `on_host` says that they may. Everything that is asked of
 * one device happens in the order it was asked for; `copy`, `save` and `load` only begin it. An
 * error of the device itself (a fault of a kernel, a device that is gone) stays: `fault` names it,
 * every later step fails with it, and what lies in the device's memory is lost. It never ends the
 * process, and the store is not touched by it.
 *
 * Threads: one, but for `await` and `passed`, which any thread may call. */
#ifndef TARNI_DEVICE_H
#define TARNI_DEVICE_H

#include "device_chunks.h"
#include "layout.h"
#include "sample.h"
#include "threads.h"
#include "weights.h"

typedef struct tarni_device tarni_device;

/* One id to be drawn from a row of logits, by the device, at the beginning of a step, and compared
 * with what the row stops at. Its row comes before all that want no logits: row r is logits r. */
typedef struct tarni_pick {
    uint32_t row;        /* of the step: the id is fed there */
    const float *logits; /* [vocab], on the device */
    float temperature;
    float top_p;
    float min_p;
    uint32_t top_k;
    double u; /* in [0, 1) */
    tarnk_stops stops;
} tarni_pick;

/* The rows of one step. */
typedef struct tarni_batch {
    const uint32_t *ids;   /* [n_rows], each below vocab; those of draws do not matter */
    uint32_t n_rows;       /* 1 to n_rows_max */
    const tarnk_seq *seqs; /* by row_begin */
    uint32_t n_seqs;
    const uint32_t *logit_rows; /* rows whose logits are wanted, ascending, each once */
    float *const *logits;       /* [n_logit_rows] where each row's logits go, [vocab] fp32 */
    uint32_t n_logit_rows;
    tarnk_row_result *results; /* [n_logit_rows]: `finite` of each, id and stop where the device
                                  drew; the others' are left alone. NULL: not asked */
    const tarni_pick *draws;   /* where the device draws; rows ascend */
    uint32_t n_draws;
} tarni_batch;

/* What a step computes, over a batch whose arrays lie where ops read them. */
typedef int (*tarni_step_fn)(void *user, const tarni_batch *batch);

/* A session's memory on its way to the host or back. On the host a slot has the order of a CPU's
 * slot (tarni_layout), whatever the device's own is; behind it stand its logits. Of pages go the
 * rows of tokens [begin, end); page i holds tokens 64 i to 64 i + 63. */
typedef struct tarni_transfer {
    uint8_t *slot; /* on the device; NULL: no slot */
    uint8_t *host_slot;
    uint8_t *const *pages; /* on the device */
    uint8_t *const *host_pages;
    uint64_t begin, end;
    void *mark; /* the device's own: when it is done */
} tarni_transfer;

/* What a run may return besides errors of the device: nothing was begun, and the device is whole.
 */
#define TARNI_STEP_NO_MEMORY (-1)

/* Bytes of workspace the ops want for steps of n_rows. */
typedef struct tarni_workspaces {
    size_t matmul; /* of each of two */
    size_t mla;
    size_t moe;
} tarni_workspaces;

typedef struct tarni_device_class {
    bool on_host; /* the host reads and writes its memory in place; nothing is saved or loaded */
    bool plans;   /* its memory is taken when the engine is opened, not as it is needed */
    bool draws;   /* draws ids in a step */
    void (*workspaces)(const tarni_spec *spec, uint32_t n_rows, tarni_workspaces *out);
    /* Beside weights and what is allocated from it. */
    size_t (*own_bytes)(const tarni_spec *spec, uint32_t n_rows, uint32_t n_seqs);
    void (*close)(tarni_device *d);
    /* NO_MEMORY says what is free. `what` names it in errors. A host takes it from `a`. */
    tarn_status (*alloc)(tarni_device *d, const tarn_allocator *a, size_t n_bytes, const char *what,
                         void *out_pointer, tarn_error *err);
    void (*free)(tarni_device *d, const tarn_allocator *a, void *memory);
    uint64_t (*free_bytes)(tarni_device *d);
    const tarni_chunk_class *chunks; /* memory that moves */
    void (*fill)(tarni_device *d, void *to, uint8_t value, size_t n_bytes);
    void (*copy)(tarni_device *d, void *to, const void *from, size_t n_bytes);
    /* Brings the weights to where ops read them and gives them in d->weights. */
    tarn_status (*load_weights)(tarni_device *d, const tarni_weights *weights, tarn_error *err);
    /* Runs a step to its end: draws, `fn`, results. 0, the device's error, or
     * TARNI_STEP_NO_MEMORY. */
    int (*run)(tarni_device *d, const tarni_batch *batch, tarni_step_fn fn, void *user);
    /* Where !on_host: rows [n_rows][vocab] go to where the running step wants its logits. */
    int (*put_logits)(tarni_device *d, const float *rows, uint32_t n_rows);

    /* Where !on_host. Host memory for transfers, counted by the needs' `count` as long as it is
     * taken from the system, which may be longer than it is used. */
    tarn_status (*pin)(tarni_device *d, size_t n_bytes, void *out_pointer, tarn_error *err);
    void (*unpin)(tarni_device *d, void *memory, size_t n_bytes);
    /* The same, not counted: for who has a ceiling of its own. */
    tarn_status (*pin_apart)(tarni_device *d, size_t n_bytes, void *out_pointer, tarn_error *err);
    void (*unpin_apart)(tarni_device *d, void *memory);
    tarn_status (*read)(tarni_device *d, void *to, const void *from, size_t n_bytes,
                        tarn_error *err);
    /* Begins to copy to the host what the steps so far have left; steps to come may run meanwhile,
     * but must not write what is copied. */
    tarn_status (*save)(tarni_device *d, tarni_transfer *t, tarn_error *err);
    /* Begins to copy to the device; steps to come find it. */
    tarn_status (*load)(tarni_device *d, tarni_transfer *t, tarn_error *err);
    /* Until it is done: saved rows can be read, the host memory of loaded ones is free. */
    tarn_status (*await)(tarni_device *d, tarni_transfer *t, tarn_error *err);
    /* Would that return at once? */
    bool (*passed)(tarni_device *d, const tarni_transfer *t);
    void (*forget)(tarni_device *d, tarni_transfer *t); /* its mark; NULL ones too */
} tarni_device_class;

struct tarni_device {
    const tarni_device_class *class;
    char name[96];       /* "cpu-avx512", "cuda:0 NVIDIA H200" */
    char numerics[32];   /* devices with the same text give the same bits */
    uint32_t exact_rows; /* cuts of a session's tokens into steps do not show in its bits as long
                            as each has at most so many rows of it; 0: they never do */
    const tarnk_ops *ops;
    tarnk_context context;
    const tarni_spec *spec;
    const tarni_layout *layout;
    const tarni_weights *weights; /* as ops read them */
    const tarn_allocator *allocator;
    uint32_t n_threads;
    void *impl;     /* the class's own */
    char fault[96]; /* empty: none */
};

/* What a device must be ready for. */
typedef struct tarni_device_needs {
    uint32_t n_rows_max;                                       /* of a step */
    uint32_t n_seqs_max;                                       /* of a step */
    uint32_t n_logits_max;                                     /* rows of logits of a step */
    uint32_t n_stops_max;                                      /* ids one row stops at */
    bool (*progress)(void *user, uint64_t done, uint64_t all); /* of loading weights, in bytes;
                                                                  false: CANCELLED. NULL: none */
    void *progress_user;
    bool (*count)(void *user, size_t n_bytes); /* pinned host memory; false: beyond its ceiling.
                                                  NULL: there is none */
    void (*uncount)(void *user, size_t n_bytes);
    void *count_user;
} tarni_device_needs;

/* "cpu", "cuda:N", or "auto" and NULL: a CUDA device where there is one with room, else the CPU.
 * All but `which` is borrowed and must outlive it. NO_DEVICE, naming what is there. NO_MEMORY. */
tarn_status tarni_device_open(tarni_device *out, const char *which, const tarni_spec *spec,
                              const tarni_layout *layout, const tarni_device_needs *needs,
                              tarni_pool *threads, const tarn_allocator *allocator,
                              tarn_error *err);
void tarni_device_close(tarni_device *d); /* also of a zeroed one */

/* The host. */
extern const tarni_device_class tarni_cpu_class;
/* The class alone, without opening a device: for sizes. NO_DEVICE, INVALID. */
tarn_status tarni_device_class_of(const char *which, const tarni_device_class **out,
                                  tarn_error *err);
uint64_t tarni_device_bytes(const char *which); /* 0: not known */

/* A device of the CPU that runs these ops. */
void tarni_device_of_ops(tarni_device *out, const tarnk_ops *ops, const tarnk_context *context,
                         const tarni_weights *weights);

/* Has the device failed? DEVICE, naming the error. */
tarn_status tarni_device_check(const tarni_device *d, tarn_error *err);

/* CUDA devices: device_cuda.c, or device_none.c in a build without CUDA. */
const tarni_device_class *tarni_cuda_class(void); /* NULL: this build has none */
uint32_t tarni_cuda_count(void);
uint64_t tarni_cuda_bytes(uint32_t index); /* of its memory; 0: there is no such device */
tarn_status tarni_cuda_open(tarni_device *out, uint32_t index, const tarni_device_needs *needs,
                            tarn_error *err);

#endif
