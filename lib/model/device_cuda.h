/* device_cuda.h - what the files of the CUDA device share. */
#ifndef TARNI_DEVICE_CUDA_H
#define TARNI_DEVICE_CUDA_H

#include "cuda.h"
#include "device.h"

#define TARNI_GRAPHS_MAX 64
#define TARNI_PINS_MAX   8 /* blocks of pinned memory kept for the next transfer */

/* Everything a step reads that changes from step to step, as one block: filled on the host, sent in
 * one copy, at fixed places, so that graphs find it. */
typedef struct tarni_step_arrays {
    uint32_t *stop_ids;          /* [n_seqs][n_stops] one row's behind the other's; first: not sent
                                    where they are as they were */
    tarnk_seq *seqs;             /* [n_seqs] */
    float **logits;              /* [n_logits] */
    const float **draw_rows;     /* [n_seqs] */
    tarnk_sample_params *params; /* [n_seqs] */
    double *u;                   /* [n_seqs] */
    uint32_t *places;            /* [n_seqs] */
    tarnk_stop_range *stops;     /* [n_seqs] */
    tarnk_row_result *results;   /* [n_logits] all that comes back */
    uint32_t *ids;               /* [n_rows] last: sent so far as used */
    uint8_t *base;
} tarni_step_arrays;

/* A decode step for up to n_rows sessions of up to n_keys tokens. */
typedef struct tarni_graph {
    uint32_t n_rows;
    uint32_t n_keys;
    void *graph; /* NULL: asked for once, and run without */
} tarni_graph;

typedef struct tarni_pin {
    void *memory;
    size_t n_bytes;
    bool used;
} tarni_pin;

typedef struct tarni_cuda {
    tarnk_cuda cuda;
    tarni_pool *threads;
    tarni_device_needs needs;
    void *stream;     /* steps, and what they must find */
    void *copies;     /* what goes to the host beside them */
    void *steps_done; /* event */
    tarni_step_arrays host, device;
    uint8_t **tables, **device_tables; /* the page tables of a step, one behind the other */
    size_t tables_capacity, tables_used;
    bool stop_ids_sent;    /* once */
    uint32_t *row_numbers; /* 0, 1, 2, ... */
    tarni_graph graphs[TARNI_GRAPHS_MAX];
    uint32_t n_graphs;
    uint8_t *turned[2]; /* states the other way round: on their way out, on their way in */
    tarni_pin pins[TARNI_PINS_MAX];
    size_t step_bytes;     /* of the arrays of a step */
    tarni_weights weights; /* on the device; layers are the host's */
    tarnk_matrix *experts; /* arrays of the layers, as the device has them */
    uint8_t *weights_memory;
    int error; /* of the device, 0: none */
} tarni_cuda;

static inline tarni_cuda *tarni_cuda_of(const tarni_device *d)
{
    return d->impl;
}

/* First in everything that is asked of the device: another thread, or another engine of this one,
 * may have asked another device last. */
static inline tarni_cuda *tarni_cuda_enter(const tarni_device *d)
{
    tarni_cuda *c = tarni_cuda_of(d);
    (void)tarnk_cuda_use(&c->cuda); /* what it cannot do the next call says */
    return c;
}

/* Keeps the first error of the device, and passes it on. */
int tarni_cuda_note(tarni_device *d, int error);
tarn_status tarni_cuda_alloc(tarni_device *d, const tarn_allocator *a, size_t n_bytes,
                             const char *what, void *out_pointer, tarn_error *err);

/* device_cuda_chunks.c */
extern const tarni_chunk_class tarni_cuda_chunks;

/* device_cuda_weights.c */
tarn_status tarni_cuda_load_weights(tarni_device *d, const tarni_weights *weights, tarn_error *err);
void tarni_cuda_drop_weights(tarni_device *d);

/* device_cuda_step.c */
tarn_status tarni_cuda_open_step(tarni_device *d, tarn_error *err);
void tarni_cuda_close_step(tarni_device *d);
int tarni_cuda_run(tarni_device *d, const tarni_batch *batch, tarni_step_fn fn, void *user);
int tarni_cuda_put_logits(tarni_device *d, const float *rows, uint32_t n_rows);

/* device_cuda_pin.c */
tarn_status tarni_cuda_pin(tarni_device *d, size_t n_bytes, void *out_pointer, tarn_error *err);
void tarni_cuda_unpin(tarni_device *d, void *memory, size_t n_bytes);
tarn_status tarni_cuda_pin_apart(tarni_device *d, size_t n_bytes, void *out_pointer,
                                 tarn_error *err);
void tarni_cuda_unpin_apart(tarni_device *d, void *memory);
/* A block that is not kept for the next transfer. */
tarn_status tarni_cuda_pin_block(tarni_device *d, size_t n_bytes, void **out, tarn_error *err);
void tarni_cuda_unpin_block(tarni_device *d, void *memory, size_t n_bytes); /* NULL is allowed */
void tarni_cuda_drop_pins(tarni_device *d);

/* device_cuda_copy.c */
tarn_status tarni_cuda_open_copies(tarni_device *d, tarn_error *err);
void tarni_cuda_close_copies(tarni_device *d);
tarn_status tarni_cuda_read(tarni_device *d, void *to, const void *from, size_t n_bytes,
                            tarn_error *err);
tarn_status tarni_cuda_save(tarni_device *d, tarni_transfer *t, tarn_error *err);
tarn_status tarni_cuda_load(tarni_device *d, tarni_transfer *t, tarn_error *err);
tarn_status tarni_cuda_await(tarni_device *d, tarni_transfer *t, tarn_error *err);
bool tarni_cuda_passed(tarni_device *d, const tarni_transfer *t);
void tarni_cuda_forget(tarni_device *d, tarni_transfer *t);

#endif
