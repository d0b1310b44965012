/* cuda.h - the ops on a CUDA device: the table, and the device it runs on.
 *
 * The table has the contracts of the families' headers with these differences.
 *
 * - Pointers in the arguments point to device memory: activations, weights, workspaces, the arrays
 *   `seqs`, `pages` (and what their elements point to), and `w1`, `w3`, `w2` of moe. The argument
 *   structs themselves, and `parts` of matmul, are read on the host during the call.
 * - Context: context->pool is the tarnk_cuda of the device; context->stream the cudaStream_t. An op
 *   returns when its work is enqueued: 0, or the cudaError_t of the launch. Nothing is allocated
 *   and nothing waits, so every op can be captured in a graph.
 * - Sequences ascend by row_begin. A sequence of no rows is skipped: a graph captured for 8
 *   sessions serves 5, with rows that belong to no sequence computed and never read.
 * - Sizes that decide how much to launch come from tarnk_cuda.step, because the host cannot see
 *   `seqs`; they are upper bounds, so a captured graph keeps serving as sessions grow.
 * - Alignment: matrices and rows at multiples of their element; the fast paths want 16 bytes and
 *   rows of a multiple of 8 elements, and others take a slower path with the same contract.
 * - Numerics: with `native` set, operands of products with bf16 matrices are taken as bf16 (they
 *   are already rounded in that numerics, but for the queries of mla), sums are fp32. Without,
 *   everything is fp32.
 * - State of a KDA head is [V][K] here, the key axis last (tarnk_cuda_turn_state converts).
 * - Workspace of mla and moe: tarnk_cuda_mla_workspace, tarnk_cuda_moe_workspace; besides, the
 *   device keeps one of its own for what the CPU's contracts give no room for.
 * - Determinism: a row's bits depend on its own session's tokens and on how its own appends were
 *   cut; never on other rows, their number, padding, or bounds in `step`. Same device kind and
 *   build: same bits every time.
 */
#ifndef TARNK_CUDA_H
#define TARNK_CUDA_H

#include "ops.h"
#include "sample.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Appends of at least this many rows take the chunk form of KDA; its chunks count from the append's
 * start. */
#define TARNK_KDA_CHUNK_MIN 64

/* Appends of at least this many rows take the expanded form of MLA, where there is one for their
 * shapes. */
#define TARNK_MLA_APPEND_MIN 192

/* A state to be left at a place inside an append, in the same pass: after row `row` of sequence
 * `seq`'s rows, a multiple of 64 below its n_rows, conv tails and KDA state go to `slot` too. */
typedef struct tarnk_export {
    uint32_t seq;
    uint32_t row;
    uint8_t *slot;
} tarnk_export;

/* What the host knows of the steps to come. */
typedef struct tarnk_cuda_step {
    uint32_t n_rows;             /* rows of the step, padding included */
    uint32_t rows_max;           /* at least the longest sequence's rows */
    uint32_t keys_max;           /* at least the longest sequence's position + n_rows */
    const tarnk_export *exports; /* device memory */
    uint32_t n_exports;
} tarnk_cuda_step;

typedef struct tarnk_cuda {
    tarnk_cuda_step step;
    bool native;              /* see above; set by the caller */
    tarnk_dtype expert_dtype; /* of w1, w3 and w2 of moe; set by the caller */
    uint32_t arch;            /* compute capability times 10: 80, 89, 90 */
    uint32_t n_sms;
    size_t shared_bytes_max; /* of a block */
    int device;
    size_t memory_bytes;
    void *workspace;
    size_t workspace_bytes;
    char name[64];
} tarnk_cuda;

#define TARNK_CUDA_ARCH_MIN 80

/* How many devices there are; 0 also where there is no driver. */
int tarnk_cuda_count(void);

/* Makes `device` ready; workspace_bytes of its memory are taken. 0, or the CUDA error with a
 * sentence in `why` that names the numbers: no device, driver too old, device too old, too little
 * memory. */
int tarnk_cuda_open(tarnk_cuda *out, int device, size_t workspace_bytes, char *why,
                    size_t why_bytes);
void tarnk_cuda_close(tarnk_cuda *cuda);
/* What this thread asks from here on is asked of this device: of which it was before is forgotten,
 * and a thread begins with device 0. */
int tarnk_cuda_use(const tarnk_cuda *cuda);

/* A workspace that serves steps of up to n_rows_max rows of up to n_seqs_max sequences without
 * taking slower ways: bf16 copies of inputs, the chunks of KDA, expanded keys. Less is right too,
 * as long as it holds one chunk of each long sequence and 128 keys. */
typedef struct tarnk_cuda_sizes {
    uint32_t n_rows_max;
    uint32_t n_seqs_max;
    uint32_t n_in_max; /* of any product */
    uint32_t kda_heads;
    uint32_t mla_heads;
} tarnk_cuda_sizes;
size_t tarnk_cuda_workspace(const tarnk_cuda_sizes *sizes);

const tarnk_ops *tarnk_cuda_ops(void);

/* In floats, as tarnk_mla_workspace; keys_max bounds the context of a row. */
size_t tarnk_cuda_mla_workspace(uint32_t n_rows, uint32_t n_heads, uint32_t rank, uint32_t rope,
                                uint32_t v_dim, uint32_t keys_max);
size_t tarnk_cuda_moe_workspace(uint32_t n_rows, uint32_t n, uint32_t width, uint32_t n_experts,
                                uint32_t top_k);

/* The kernels moe consists of, one by one and in this order: what a benchmark times. */
typedef enum tarnk_moe_part {
    TARNK_MOE_PLAN = 0,
    TARNK_MOE_GATE_UP = 1,
    TARNK_MOE_DOWN = 2,
    TARNK_MOE_COMBINE = 3
} tarnk_moe_part;
int tarnk_cuda_moe_part(const tarnk_moe_args *args, tarnk_moe_part part,
                        const tarnk_context *context);

/* [n_heads][from_rows][from_columns] to [n_heads][from_columns][from_rows], fp32; no overlap. */
int tarnk_cuda_turn_state(const float *from, float *to, uint32_t n_heads, uint32_t from_rows,
                          uint32_t from_columns, const tarnk_context *context);

/* Sampling, one token a row.
 * Math         logit bias and penalties are in the logits already; temperature 0: the largest,
 * lowest index of equals. Else weights exp((logit - largest) / temperature); the top_k largest (0:
 * all), of these the fewest whose sum reaches top_p of theirs, of these all of at least min_p times
 * the largest; equal weights at the edge by lowest index. The one where the running sum by index
 * passes u times the total
 * Shapes       logits [n_rows] rows of vocab fp32, stride apart; params, u, ids [n_rows]. With
 *              `rows` [n_rows], each row's logits stand where that points, a NULL one is skipped;
 *              with `places` [n_rows], row i's id goes to ids[places[i]]. With `results`, id and
 *              stop (sample.h) go to results at the same place; row i stops at stop_ids from
 *              stops[i].begin on
 * Range        a row with a NaN or +inf gives TARNK_ID_NONE
 * Workspace    none
 * Determinism  a row by itself; sums in a fixed order
 * Moved        4 n_rows vocab bytes, up to 40 times from the second-level cache */
#define TARNK_ID_NONE 0xffffffffu
typedef struct tarnk_sample_params {
    float temperature;
    float top_p;
    float min_p;
    uint32_t top_k;
} tarnk_sample_params;
/* A row's share of the stop ids of a step, in the order of tarnk_stops. */
typedef struct tarnk_stop_range {
    uint32_t begin;
    uint32_t n;
    uint32_t n_turn_ends;
} tarnk_stop_range;
typedef struct tarnk_sample_args {
    const float *logits;
    size_t stride;
    const tarnk_sample_params *params;
    const double *u; /* in [0, 1) */
    uint32_t *ids;
    uint32_t n_rows;
    uint32_t vocab;
    const float *const *rows;
    const uint32_t *places;
    tarnk_row_result *results; /* NULL: not asked */
    const uint32_t *stop_ids;
    const tarnk_stop_range *stops; /* [n_rows] */
} tarnk_sample_args;
int tarnk_cuda_sample(const tarnk_sample_args *args, const tarnk_context *context);

/* Rows of logits to where each belongs.
 * Math         to[i] = from[i]; results[i].finite = 1 if every element is finite, else 0
 * Shapes       from [n_rows][n], to [n_rows] pointers to [n], NULL: skipped; results [n_rows]
 * Aliasing     none
 * Moved        8 n_rows n bytes */
typedef struct tarnk_put_rows_args {
    const float *from;
    float *const *to;
    tarnk_row_result *results;
    uint32_t n_rows;
    uint32_t n;
} tarnk_put_rows_args;
int tarnk_cuda_put_rows(const tarnk_put_rows_args *args, const tarnk_context *context);

/* Random numbers, for weights that nobody trained.
 * Math         to[i] = offset + scale * x, x of mean 0 and deviation 1, near enough normal, within
 *              3.5; a function of (key, i) alone
 * Shapes       to [n] in dtype
 * Moved        the bytes of `to` */
typedef struct tarnk_random_args {
    void *to;
    tarnk_dtype dtype;
    size_t n;
    uint64_t key;
    float scale;
    float offset;
} tarnk_random_args;
int tarnk_cuda_random(const tarnk_random_args *args, const tarnk_context *context);

/* ---- memory, streams, graphs: so that nothing above includes a CUDA header ---------------------
 */

int tarnk_cuda_alloc(void **out, size_t n_bytes);
int tarnk_cuda_memory(size_t *free_bytes, size_t *all_bytes);
void tarnk_cuda_free(void *memory);
int tarnk_cuda_pin(void **out, size_t n_bytes); /* host memory for asynchronous copies */
void tarnk_cuda_unpin(void *memory);
int tarnk_cuda_upload(void *to, const void *from, size_t n_bytes, void *stream);
int tarnk_cuda_download(void *to, const void *from, size_t n_bytes, void *stream);
int tarnk_cuda_copy(void *to, const void *from, size_t n_bytes, void *stream);
int tarnk_cuda_fill(void *to, int value, size_t n_bytes, void *stream);
int tarnk_cuda_stream_create(void **out);
void tarnk_cuda_stream_free(void *stream);
/* Waits; also where faults of kernels come out. */
int tarnk_cuda_wait(void *stream);
int tarnk_cuda_record_begin(void *stream);
int tarnk_cuda_record_end(void *stream, void **graph);
int tarnk_cuda_graph_run(void *graph, void *stream);
void tarnk_cuda_graph_free(void *graph);
int tarnk_cuda_event_create(void **out);
void tarnk_cuda_event_free(void *event);
int tarnk_cuda_event_mark(void *event, void *stream);
int tarnk_cuda_event_wait(void *event);                     /* any thread */
bool tarnk_cuda_event_passed(void *event);                  /* or failed: then waiting says why */
int tarnk_cuda_stream_after(void *stream, void *event);     /* what comes waits for the event */
int tarnk_cuda_event_ms(void *begin, void *end, float *ms); /* waits for `end` */
const char *tarnk_cuda_error(int error);                    /* "cudaErrorIllegalAddress" */

/* ---- ranges: addresses without memory, and chunks of memory that come and go there -------------
 *
 * The driver's virtual memory management. An address keeps its meaning while chunks come and go;
 * touching one that has no chunk is a fault of the kernel that does. */

/* The length of chunks is a multiple of *n_bytes. 0, or the error with a sentence in `why`: this
 * driver or this device cannot. */
int tarnk_cuda_chunk_unit(const tarnk_cuda *cuda, size_t *n_bytes, char *why, size_t why_bytes);
int tarnk_cuda_range_reserve(void **out, size_t n_bytes);
int tarnk_cuda_range_free(void *range, size_t n_bytes); /* nothing may be mapped there */
int tarnk_cuda_chunk_create(const tarnk_cuda *cuda, uint64_t *out, size_t n_bytes);
int tarnk_cuda_chunk_free(uint64_t chunk); /* must not be mapped */
/* Readable and writable for the device; after an error nothing is mapped. What a chunk holds then
 * is anything. */
int tarnk_cuda_chunk_map(const tarnk_cuda *cuda, void *at, size_t n_bytes, uint64_t chunk);
/* Nothing that was asked of the device may still touch it. */
int tarnk_cuda_chunk_unmap(void *at, size_t n_bytes);

#ifdef __cplusplus
}
#endif

#endif
