/* device.c - choosing a device by its name, and the CPU. */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the CPU --------------------------------------------------------------------------------- */

static void cpu_workspaces(const tarni_spec *s, uint32_t n, tarni_workspaces *out)
{
    const uint32_t widths[] = {s->hidden, s->kda_heads * s->kda_dim, s->mla_heads * s->v_dim,
                               s->dense_width, s->n_shared * s->expert_width};
    uint32_t widest = 0; /* the longest row of x any product reads */
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
        widest = widths[i] > widest ? widths[i] : widest;
    out->matmul = tarnk_matmul_workspace(n, widest);
    out->mla = tarnk_mla_workspace(n, s->mla_heads, s->nope, s->rope, s->v_dim, s->rank);
    tarni_mul_size(out->mla, sizeof(float), &out->mla);
    out->moe = s->n_experts == 0
                   ? 0
                   : tarnk_moe_workspace(n, s->hidden, s->expert_width, s->n_experts, s->top_k);
}

static size_t cpu_own_bytes(const tarni_spec *spec, uint32_t n_rows, uint32_t n_seqs)
{
    (void)spec, (void)n_rows, (void)n_seqs;
    return 0;
}

static void cpu_close(tarni_device *d)
{
    (void)d;
}

static tarn_status cpu_alloc(tarni_device *d, const tarn_allocator *a, size_t n_bytes,
                             const char *what, void *out_pointer, tarn_error *err)
{
    (void)d, (void)what;
    uint8_t **out = out_pointer;
    TARNI_TRY(tarni_alloc_aligned(a, n_bytes, 1, out, err));
    tarni_ask_huge_pages(*out, n_bytes);
    return TARN_OK;
}

static void cpu_free(tarni_device *d, const tarn_allocator *a, void *memory)
{
    (void)d;
    tarni_free_aligned(a, memory);
}

static uint64_t cpu_free_bytes(tarni_device *d)
{
    (void)d;
    return UINT64_MAX;
}

static void cpu_fill(tarni_device *d, void *to, uint8_t value, size_t n_bytes)
{
    (void)d;
    memset(to, value, n_bytes);
}

static void cpu_copy(tarni_device *d, void *to, const void *from, size_t n_bytes)
{
    (void)d;
    memcpy(to, from, n_bytes);
}

static tarn_status cpu_load_weights(tarni_device *d, const tarni_weights *weights, tarn_error *err)
{
    if (weights->is_shape)
        return tarni_fail(err, TARN_E_UNSUPPORTED,
                          "a shape without a checkpoint runs on a CUDA device, this is %s",
                          d->name);
    d->weights = weights; /* read where they are mapped */
    return TARN_OK;
}

static bool all_finite(const float *x, uint32_t n)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * 0.0f; /* NaN for NaN and for infinities */
    return sum == 0.0f;
}

static int cpu_run(tarni_device *d, const tarni_batch *batch, tarni_step_fn fn, void *user)
{
    int error = fn(user, batch);
    for (uint32_t i = 0; batch->results && !error && i < batch->n_logit_rows; i++)
        batch->results[i].finite = all_finite(batch->logits[i], d->spec->vocab);
    return error;
}

const tarni_device_class tarni_cpu_class = {
    .on_host = true,
    .workspaces = cpu_workspaces,
    .own_bytes = cpu_own_bytes,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .free_bytes = cpu_free_bytes,
    .chunks = &tarni_cpu_chunks,
    .fill = cpu_fill,
    .copy = cpu_copy,
    .load_weights = cpu_load_weights,
    .run = cpu_run,
};

void tarni_device_of_ops(tarni_device *out, const tarnk_ops *ops, const tarnk_context *context,
                         const tarni_weights *weights)
{
    *out = (tarni_device){
        .class = &tarni_cpu_class, .ops = ops, .context = *context, .weights = weights};
    snprintf(out->name, sizeof out->name, "%s", ops->name);
    snprintf(out->numerics, sizeof out->numerics, "%s", ops->numerics);
}

/* ---- by name --------------------------------------------------------------------------------- */

typedef struct device_name {
    bool any, cuda;
    uint32_t index;
} device_name;

static tarn_status parse(const char *which, device_name *out, tarn_error *err)
{
    *out = (device_name){0};
    if (!which || strcmp(which, "auto") == 0)
        out->any = true;
    else if (strncmp(which, "cuda:", 5) == 0 &&
             strspn(which + 5, "0123456789") == strlen(which + 5) && strlen(which + 5) >= 1 &&
             strlen(which + 5) <= 4)
        *out = (device_name){.cuda = true, .index = (uint32_t)strtoul(which + 5, NULL, 10)};
    else if (strcmp(which, "cpu") != 0)
        return tarni_fail(err, TARN_E_NO_DEVICE, "device is \"%.60s\", this build has: cpu%s",
                          which, tarni_cuda_class() ? ", cuda:N" : "");
    if (out->cuda && !tarni_cuda_class())
        return tarni_fail(err, TARN_E_NO_DEVICE,
                          "device is \"%.60s\", this build has: cpu (it was built without a CUDA "
                          "toolkit)",
                          which);
    return TARN_OK;
}

tarn_status tarni_device_class_of(const char *which, const tarni_device_class **out,
                                  tarn_error *err)
{
    device_name name;
    TARNI_TRY(parse(which, &name, err));
    *out =
        name.cuda || (name.any && tarni_cuda_count() > 0) ? tarni_cuda_class() : &tarni_cpu_class;
    return TARN_OK;
}

uint64_t tarni_device_bytes(const char *which)
{
    device_name name;
    tarn_error err;
    if (parse(which, &name, &err) != TARN_OK || !(name.cuda || name.any))
        return 0;
    return tarni_cuda_bytes(name.index);
}

static void open_cpu(tarni_device *out)
{
    const tarnk_context context = out->context;
    const tarni_device before = *out;
    /* Numerics that round operands to bf16 may multiply bf16; the reference may not. */
    tarni_device_of_ops(out,
                        tarnk_cpu_ops(before.layout->round ? TARNK_ISA_BEST_BF16 : TARNK_ISA_BEST),
                        &context, NULL);
    out->spec = before.spec;
    out->layout = before.layout;
    out->allocator = before.allocator;
    out->n_threads = before.n_threads;
}

tarn_status tarni_device_open(tarni_device *out, const char *which, const tarni_spec *spec,
                              const tarni_layout *layout, const tarni_device_needs *needs,
                              tarni_pool *threads, const tarn_allocator *allocator, tarn_error *err)
{
    device_name name;
    *out = (tarni_device){.spec = spec,
                          .layout = layout,
                          .allocator = allocator,
                          .n_threads = tarni_pool_threads(threads),
                          .context = {.run = tarni_pool_run,
                                      .pool = threads,
                                      .n_threads = tarni_pool_threads(threads)}};
    TARNI_TRY(parse(which, &name, err));
    if (name.cuda || (name.any && tarni_cuda_count() > 0))
        return tarni_cuda_open(out, name.index, needs, err);
    open_cpu(out);
    return TARN_OK;
}

void tarni_device_close(tarni_device *d)
{
    if (d->class)
        d->class->close(d);
    *d = (tarni_device){0};
}

tarn_status tarni_device_check(const tarni_device *d, tarn_error *err)
{
    if (!d->fault[0])
        return TARN_OK;
    return tarni_fail(err, TARN_E_DEVICE, "%s failed: %s; what is in the store is not touched",
                      d->name, d->fault);
}
