/* device_cuda.c - a CUDA device: opening it, its memory, its class.
 *
 * Two streams: one for steps and all they must find, one for what is copied to the host beside
 * them. The caller's thread waits once a step. Nothing is allocated in a step but room for longer
 * page tables.
 *
 * The first error stays (tarni_cuda.error): after a fault of a kernel the runtime answers every
 * call of the process with it, so nothing is gained by asking on. */
#include "device_cuda.h"

#include <stdio.h>
#include <string.h>

int tarni_cuda_note(tarni_device *d, int error)
{
    tarni_cuda *c = tarni_cuda_of(d);
    if (error && !c->error) {
        c->error = error;
        snprintf(d->fault, sizeof d->fault, "%s", tarnk_cuda_error(error));
    }
    return error;
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static uint32_t widest_input(const tarni_spec *s)
{
    const uint32_t widths[] = {s->hidden,       s->kda_heads * s->kda_dim,
                               s->dense_width,  s->mla_heads * s->v_dim,
                               s->expert_width, s->n_shared * s->expert_width};
    uint32_t widest = 0;
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
        widest = widths[i] > widest ? widths[i] : widest;
    return widest;
}

static void workspaces(const tarni_spec *s, uint32_t n, tarni_workspaces *out)
{
    out->matmul = 0; /* the device keeps its own */
    out->mla = tarnk_cuda_mla_workspace(n, s->mla_heads, s->rank, s->rope, s->v_dim, s->context);
    tarni_mul_size(out->mla, sizeof(float), &out->mla);
    out->moe = s->n_experts == 0 ? 0
                                 : tarnk_cuda_moe_workspace(n, s->hidden, s->expert_width,
                                                            s->n_experts, s->top_k);
}

static size_t ops_workspace(const tarni_spec *s, uint32_t n_rows, uint32_t n_seqs)
{
    const tarnk_cuda_sizes sizes = {.n_rows_max = n_rows,
                                    .n_seqs_max = n_seqs,
                                    .n_in_max = widest_input(s),
                                    .kda_heads = s->kda_heads,
                                    .mla_heads = s->mla_heads};
    return tarnk_cuda_workspace(&sizes);
}

/* Besides the workspace of the ops: two turned states. */
static size_t own_bytes(const tarni_spec *s, uint32_t n_rows, uint32_t n_seqs)
{
    tarni_layout layout;
    tarni_layout_init(s, TARNI_NUMERICS_F32, &layout);
    return ops_workspace(s, n_rows, n_seqs) + 2 * s->n_kda * layout.state_stride;
}

/* ---- memory ---------------------------------------------------------------------------------- */

tarn_status tarni_cuda_alloc(tarni_device *d, const tarn_allocator *a, size_t n_bytes,
                             const char *what, void *out_pointer, tarn_error *err)
{
    void *memory = NULL;
    (void)a;
    tarni_cuda_enter(d);
    int error = tarnk_cuda_alloc(&memory, n_bytes > 0 ? n_bytes : 1);
    memcpy(out_pointer, &memory, sizeof memory);
    if (!error)
        return TARN_OK;
    size_t left = 0, all = 0;
    tarnk_cuda_memory(&left, &all);
    return tarni_fail(err, TARN_E_NO_MEMORY, "%s: %zu MiB for %s, %zu of %zu MiB are free: %s",
                      d->name, n_bytes >> 20, what, left >> 20, all >> 20, tarnk_cuda_error(error));
}

static void free_memory(tarni_device *d, const tarn_allocator *a, void *memory)
{
    (void)a;
    tarni_cuda_enter(d);
    tarnk_cuda_free(memory);
}

static uint64_t free_bytes(tarni_device *d)
{
    size_t left = 0, all = 0;
    tarni_cuda_enter(d);
    tarnk_cuda_memory(&left, &all);
    return left;
}

static void fill(tarni_device *d, void *to, uint8_t value, size_t n_bytes)
{
    tarni_cuda_note(d, tarnk_cuda_fill(to, value, n_bytes, tarni_cuda_enter(d)->stream));
}

static void copy(tarni_device *d, void *to, const void *from, size_t n_bytes)
{
    tarni_cuda_note(d, tarnk_cuda_copy(to, from, n_bytes, tarni_cuda_enter(d)->stream));
}

/* ---- open and close -------------------------------------------------------------------------- */

static void close_device(tarni_device *d)
{
    tarni_cuda *c = tarni_cuda_of(d);
    if (!c)
        return;
    tarni_cuda_enter(d);
    if (c->stream)
        tarnk_cuda_wait(c->stream);
    tarni_cuda_close_copies(d);
    tarni_cuda_close_step(d);
    tarni_cuda_drop_weights(d);
    tarnk_cuda_event_free(c->steps_done);
    tarnk_cuda_stream_free(c->copies);
    tarnk_cuda_stream_free(c->stream);
    tarnk_cuda_close(&c->cuda);
    tarni_free(d->allocator, c);
}

static const tarni_device_class cuda_class = {
    .plans = true,
    .draws = true,
    .workspaces = workspaces,
    .own_bytes = own_bytes,
    .close = close_device,
    .alloc = tarni_cuda_alloc,
    .free = free_memory,
    .free_bytes = free_bytes,
    .chunks = &tarni_cuda_chunks,
    .fill = fill,
    .copy = copy,
    .load_weights = tarni_cuda_load_weights,
    .run = tarni_cuda_run,
    .put_logits = tarni_cuda_put_logits,
    .pin = tarni_cuda_pin,
    .unpin = tarni_cuda_unpin,
    .pin_apart = tarni_cuda_pin_apart,
    .unpin_apart = tarni_cuda_unpin_apart,
    .read = tarni_cuda_read,
    .save = tarni_cuda_save,
    .load = tarni_cuda_load,
    .await = tarni_cuda_await,
    .passed = tarni_cuda_passed,
    .forget = tarni_cuda_forget,
};

const tarni_device_class *tarni_cuda_class(void)
{
    return &cuda_class;
}

uint32_t tarni_cuda_count(void)
{
    return (uint32_t)tarnk_cuda_count();
}

uint64_t tarni_cuda_bytes(uint32_t index)
{
    tarnk_cuda cuda;
    char why[192];
    if (tarnk_cuda_open(&cuda, (int)index, 0, why, sizeof why))
        return 0;
    uint64_t n_bytes = cuda.memory_bytes;
    tarnk_cuda_close(&cuda);
    return n_bytes;
}

static tarn_status open_streams(tarni_device *d, tarn_error *err)
{
    tarni_cuda *c = tarni_cuda_of(d);
    int error = tarnk_cuda_stream_create(&c->stream);
    if (!error)
        error = tarnk_cuda_stream_create(&c->copies);
    if (!error)
        error = tarnk_cuda_event_create(&c->steps_done);
    if (error)
        return tarni_fail(err, TARN_E_DEVICE, "%s: no stream: %s", d->name,
                          tarnk_cuda_error(error));
    d->context.stream = c->stream;
    return TARN_OK;
}

/* Long appends take other forms of the recurrence and of attention, where there are any for their
 * shapes; with fp32 there are none. */
static uint32_t exact_rows(const tarni_device *d)
{
    const tarni_spec *s = d->spec;
    if (!d->layout->round)
        return 0;
    if (s->n_kda > 0 && s->kda_dim == 128)
        return TARNK_KDA_CHUNK_MIN - 1;
    return s->n_mla > 0 && s->rank == 512 ? TARNK_MLA_APPEND_MIN - 1 : 0;
}

tarn_status tarni_cuda_open(tarni_device *out, uint32_t index, const tarni_device_needs *needs,
                            tarn_error *err)
{
    tarni_cuda *c;
    char why[192] = "";
    TARNI_TRY(tarni_alloc(out->allocator, 1, sizeof *c, &c, err));
    c->threads = out->context.pool;
    c->needs = *needs;
    if (c->needs.n_seqs_max > needs->n_rows_max)
        c->needs.n_seqs_max = needs->n_rows_max;
    size_t n_bytes = ops_workspace(out->spec, needs->n_rows_max, c->needs.n_seqs_max);
    int error = tarnk_cuda_open(&c->cuda, (int)index, n_bytes, why, sizeof why);
    if (error) {
        bool no_memory = strcmp(tarnk_cuda_error(error), "cudaErrorMemoryAllocation") == 0;
        tarn_status status = tarni_fail(err, no_memory ? TARN_E_NO_MEMORY : TARN_E_NO_DEVICE,
                                        "cuda:%u: %s", index, why);
        tarni_free(out->allocator, c);
        return status;
    }
    out->class = &cuda_class;
    out->impl = c;
    out->ops = tarnk_cuda_ops();
    snprintf(out->name, sizeof out->name, "cuda:%u %s", index, c->cuda.name);
    snprintf(out->numerics, sizeof out->numerics, "%s-sm%u", out->ops->numerics, c->cuda.arch);
    c->cuda.native = out->layout->round;
    out->exact_rows = exact_rows(out);
    c->cuda.expert_dtype = out->spec->dtype;
    out->context.pool = &c->cuda;
    tarn_status status = open_streams(out, err);
    if (status == TARN_OK)
        status = tarni_cuda_open_step(out, err);
    if (status == TARN_OK)
        status = tarni_cuda_open_copies(out, err);
    if (status != TARN_OK)
        tarni_device_close(out);
    return status;
}
