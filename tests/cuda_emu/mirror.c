#include "mirror.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS_MAX      4096
#define WORKSPACE_BYTES ((size_t)64 << 20)

/* From hooks.cpp of the emulator, or hooks_none.c on a device. */
unsigned mirror_faults(const char **first);

typedef struct block {
    const void *host; /* NULL: device only */
    void *device;
    size_t n_bytes;
    void *back_to;                 /* where it comes back, or NULL */
    size_t skip;                   /* bytes before `host` on the device */
    uint32_t heads, rows, columns; /* of a state that is turned; rows 0: none */
} block;

static tarnk_cuda cuda;
static tarnk_context context;
static block blocks[BLOCKS_MAX];
static uint32_t n_blocks;
static int first_error;

tarnk_cuda *mirror_cuda(void)
{
    return &cuda;
}

const tarnk_context *mirror_context(void)
{
    return &context;
}

static void note(int error, const char *what)
{
    if (error != 0 && first_error == 0) {
        first_error = error;
        printf("%s: %s\n", what, tarnk_cuda_error(error));
    }
}

static block *find(const void *host, size_t skip)
{
    for (uint32_t i = 0; i < n_blocks; i++)
        if (host && blocks[i].host == host && blocks[i].skip == skip)
            return &blocks[i];
    return NULL;
}

/* Device memory of skip + n_bytes; what the host has goes behind the skipped ones. */
static block *up(const void *host, size_t skip, size_t n_bytes)
{
    block *b = find(host, skip);
    if (b && b->n_bytes >= n_bytes)
        return b;
    if (n_blocks == BLOCKS_MAX) {
        printf("more than %d blocks on the device\n", BLOCKS_MAX);
        exit(1);
    }
    b = &blocks[n_blocks++];
    *b = (block){.host = host, .n_bytes = n_bytes, .skip = skip};
    note(tarnk_cuda_alloc(&b->device, skip + n_bytes), "allocation");
    note(tarnk_cuda_fill(b->device, 0xff, skip + n_bytes, context.stream), "fill");
    if (host)
        note(tarnk_cuda_upload((uint8_t *)b->device + skip, host, n_bytes, context.stream),
             "upload");
    return b;
}

void *mirror_up(const void *host, size_t n_bytes)
{
    return up(host, 0, n_bytes)->device;
}

void mirror_down(void *host, size_t n_bytes)
{
    up(host, 0, n_bytes)->back_to = host;
}

static void *out(void *host, size_t n_bytes)
{
    mirror_down(host, n_bytes);
    return find(host, 0)->device;
}

static void turn(const float *from, float *to, uint32_t heads, uint32_t rows, uint32_t columns)
{
    for (size_t h = 0; h < heads; h++)
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t c = 0; c < columns; c++)
                to[(h * columns + c) * rows + r] = from[(h * rows + r) * columns + c];
}

/* A KDA state at host + skip, [heads][k][v], turned on the device. */
static block *up_state(const uint8_t *slot, size_t skip, uint32_t heads, uint32_t k, uint32_t v)
{
    const size_t n_bytes = (size_t)heads * k * v * 4;
    block *b = find(slot + skip, skip);
    if (b)
        return b;
    float *turned = malloc(n_bytes), *straight = malloc(n_bytes);
    if (!turned || !straight)
        exit(1);
    memcpy(straight, slot + skip, n_bytes);
    turn(straight, turned, heads, k, v);
    b = up(slot + skip, skip, n_bytes);
    note(tarnk_cuda_upload((uint8_t *)b->device + skip, turned, n_bytes, context.stream), "upload");
    note(tarnk_cuda_wait(context.stream), "upload");
    b->heads = heads;
    b->rows = k;
    b->columns = v;
    free(turned);
    free(straight);
    return b;
}

static void bring_back(const block *b)
{
    note(tarnk_cuda_download(b->back_to, (const uint8_t *)b->device + b->skip, b->n_bytes,
                             context.stream),
         "download");
    note(tarnk_cuda_wait(context.stream), "download");
    if (b->rows == 0)
        return;
    float *turned = malloc(b->n_bytes), *straight = malloc(b->n_bytes);
    if (!turned || !straight)
        exit(1);
    memcpy(turned, b->back_to, b->n_bytes);
    turn(turned, straight, b->heads, b->columns, b->rows);
    memcpy(b->back_to, straight, b->n_bytes);
    free(turned);
    free(straight);
}

int mirror_end(int error)
{
    const char *fault;
    note(error, "launch");
    note(tarnk_cuda_wait(context.stream), "run");
    if (mirror_faults(&fault) > 0) {
        printf("%s\n", fault);
        first_error = first_error != 0 ? first_error : 1;
    }
    for (uint32_t i = 0; i < n_blocks; i++)
        if (blocks[i].back_to)
            bring_back(&blocks[i]);
    for (uint32_t i = 0; i < n_blocks; i++)
        tarnk_cuda_free(blocks[i].device);
    n_blocks = 0;
    error = first_error;
    first_error = 0;
    return error;
}

static tarnk_matrix up_matrix(const tarnk_matrix *m)
{
    tarnk_matrix on_device = *m;
    size_t n_bytes = (size_t)m->n_out * m->n_in * (m->dtype == TARNK_BF16 ? 2 : 4);
    on_device.data = mirror_up(m->data, n_bytes);
    return on_device;
}

/* The sequences on the device, with the pointers fn gives; also what step wants to know. */
static const tarnk_seq *up_seqs(const tarnk_seq *seqs, uint32_t n,
                                void (*fn)(const void *args, tarnk_seq *s), const void *args)
{
    tarnk_seq *copies = malloc(n * sizeof *copies);
    if (!copies)
        exit(1);
    cuda.step.n_rows = cuda.step.rows_max = cuda.step.keys_max = 0;
    for (uint32_t i = 0; i < n; i++) {
        tarnk_seq *s = &copies[i];
        *s = seqs[i];
        if (s->row_begin + s->n_rows > cuda.step.n_rows)
            cuda.step.n_rows = s->row_begin + s->n_rows;
        if (s->n_rows > cuda.step.rows_max)
            cuda.step.rows_max = s->n_rows;
        if (s->position + s->n_rows > cuda.step.keys_max)
            cuda.step.keys_max = s->position + s->n_rows;
        fn(args, s);
    }
    block *b = up(NULL, 0, n * sizeof *copies);
    note(tarnk_cuda_upload(b->device, copies, n * sizeof *copies, context.stream), "upload");
    note(tarnk_cuda_wait(context.stream), "upload"); /* the copies end here */
    free(copies);
    return b->device;
}

static size_t floats(size_t rows, size_t columns)
{
    return rows * columns * sizeof(float);
}

static size_t strided(size_t rows, size_t stride, size_t columns)
{
    return ((rows - 1) * stride + columns) * sizeof(float);
}

/* ---- the ops --------------------------------------------------------------------------------- */

static int embed(const tarnk_embed_args *host, const tarnk_context *c)
{
    (void)c;
    tarnk_embed_args a = *host;
    a.table = up_matrix(&a.table);
    a.ids = mirror_up(a.ids, a.n_rows * sizeof *a.ids);
    a.out = out(a.out, floats(a.n_rows, a.table.n_in));
    return mirror_end(tarnk_cuda_ops()->embed(&a, &context));
}

static int silu_mul(const tarnk_silu_mul_args *host, const tarnk_context *c)
{
    (void)c;
    tarnk_silu_mul_args a = *host;
    a.gate = mirror_up(a.gate, floats(a.n_rows, a.n));
    a.up = mirror_up(a.up, floats(a.n_rows, a.n));
    a.out = out(a.out, floats(a.n_rows, a.n));
    return mirror_end(tarnk_cuda_ops()->silu_mul(&a, &context));
}

static int norm_rms(const tarnk_norm_rms_args *host, const tarnk_context *c)
{
    (void)c;
    tarnk_norm_rms_args a = *host;
    a.x = mirror_up(a.x, strided(a.n_rows, a.x_stride, a.n));
    a.weight = mirror_up(a.weight, floats(1, a.n));
    a.out = out(a.out, floats(a.n_rows, a.n));
    return mirror_end(tarnk_cuda_ops()->norm_rms(&a, &context));
}

static int norm_gated(const tarnk_norm_gated_args *host, const tarnk_context *c)
{
    (void)c;
    tarnk_norm_gated_args a = *host;
    size_t all = floats(a.n_rows, (size_t)a.n_heads * a.n);
    a.x = mirror_up(a.x, all);
    a.gate = mirror_up(a.gate, all);
    a.weight = mirror_up(a.weight, floats(1, a.n));
    a.out = out(a.out, all);
    return mirror_end(tarnk_cuda_ops()->norm_gated(&a, &context));
}

static int matmul(const tarnk_matmul_args *parts, uint32_t n_parts, const tarnk_context *c)
{
    (void)c;
    tarnk_matmul_args *a = malloc(n_parts * sizeof *a);
    if (!a)
        exit(1);
    for (uint32_t i = 0; i < n_parts; i++) {
        a[i] = parts[i];
        a[i].x = mirror_up(a[i].x, strided(a[i].n_rows, a[i].x_stride, a[i].w.n_in));
        a[i].w = up_matrix(&a[i].w);
        a[i].out = out(a[i].out, strided(a[i].n_rows, a[i].out_stride, a[i].w.n_out));
    }
    int error = mirror_end(tarnk_cuda_ops()->matmul(a, n_parts, &context));
    free(a);
    return error;
}

static void conv_slots(const void *args, tarnk_seq *s)
{
    const tarnk_conv1d_args *a = args;
    size_t n_bytes =
        (size_t)TARNK_CONV_PARTS * (a->width - 1) * a->n * (a->conv_dtype == TARNK_BF16 ? 2 : 4);
    uint8_t *to = s->state_write + a->conv_offset;
    s->state_read = up(s->state_read + a->conv_offset, a->conv_offset, n_bytes)->device;
    block *b = up(to, a->conv_offset, n_bytes);
    b->back_to = to;
    s->state_write = b->device;
}

static int conv1d(const tarnk_conv1d_args *host, const tarnk_context *c)
{
    (void)c;
    tarnk_conv1d_args a = *host;
    a.seqs = up_seqs(host->seqs, a.n_seqs, conv_slots, host);
    for (int p = 0; p < TARNK_CONV_PARTS; p++) {
        a.x[p] = mirror_up(a.x[p], floats(cuda.step.n_rows, a.n));
        a.weight[p] = mirror_up(a.weight[p], floats(a.n, a.width));
        a.out[p] = out(a.out[p], floats(cuda.step.n_rows, a.n));
    }
    return mirror_end(tarnk_cuda_ops()->conv1d(&a, &context));
}

static int kda_gate(const tarnk_kda_gate_args *host, const tarnk_context *c)
{
    (void)c;
    tarnk_kda_gate_args a = *host;
    size_t all = floats(a.n_rows, (size_t)a.n_heads * a.head_dim);
    a.q = out(a.q, all);
    a.k = out(a.k, all);
    a.f = out(a.f, all);
    a.b = out(a.b, floats(a.n_rows, a.n_heads));
    a.a_log = mirror_up(a.a_log, floats(1, a.n_heads));
    a.dt_bias = mirror_up(a.dt_bias, floats(a.n_heads, a.head_dim));
    return mirror_end(tarnk_cuda_ops()->kda_gate(&a, &context));
}

static void kda_slots(const void *args, tarnk_seq *s)
{
    const tarnk_kda_args *a = args;
    uint8_t *to = s->state_write;
    s->state_read =
        up_state(s->state_read, a->state_offset, a->n_heads, a->k_dim, a->v_dim)->device;
    block *b = up_state(to, a->state_offset, a->n_heads, a->k_dim, a->v_dim);
    b->back_to = to + a->state_offset;
    s->state_write = b->device;
}

static int kda(const tarnk_kda_args *host, const tarnk_context *c)
{
    (void)c;
    tarnk_kda_args a = *host;
    a.seqs = up_seqs(host->seqs, a.n_seqs, kda_slots, host);
    size_t heads = (size_t)cuda.step.n_rows * a.n_heads;
    a.q = mirror_up(a.q, floats(heads, a.k_dim));
    a.k = mirror_up(a.k, floats(heads, a.k_dim));
    a.g = mirror_up(a.g, floats(heads, a.k_dim));
    a.v = mirror_up(a.v, floats(heads, a.v_dim));
    a.beta = mirror_up(a.beta, floats(heads, 1));
    a.out = out(a.out, floats(heads, a.v_dim));
    return mirror_end(tarnk_cuda_ops()->kda(&a, &context));
}

/* The pages of a sequence; they come back if told so. */
static void up_pages(tarnk_seq *s, size_t offset, size_t row_bytes, bool come_back)
{
    uint32_t n = (s->position + s->n_rows + TARNK_PAGE_TOKENS - 1) / TARNK_PAGE_TOKENS;
    uint8_t **pages = malloc((n + 1) * sizeof *pages);
    if (!pages)
        exit(1);
    for (uint32_t p = 0; p < n; p++) {
        uint8_t *host = s->pages[p] + offset;
        block *b = up(host, offset, TARNK_PAGE_TOKENS * row_bytes);
        b->back_to = come_back ? host : NULL;
        pages[p] = b->device;
    }
    block *b = up(NULL, 0, n * sizeof *pages);
    note(tarnk_cuda_upload(b->device, pages, n * sizeof *pages, context.stream), "upload");
    note(tarnk_cuda_wait(context.stream), "upload");
    free(pages);
    s->pages = b->device;
}

static void latent_pages(const void *args, tarnk_seq *s)
{
    const tarnk_mla_latent_args *a = args;
    up_pages(s, a->latent_offset,
             (size_t)(a->rank + a->rope) * (a->latent_dtype == TARNK_BF16 ? 2 : 4), true);
}

static int mla_latent(const tarnk_mla_latent_args *host, const tarnk_context *c)
{
    (void)c;
    tarnk_mla_latent_args a = *host;
    a.seqs = up_seqs(host->seqs, a.n_seqs, latent_pages, host);
    a.kv = mirror_up(a.kv, floats(cuda.step.n_rows, a.rank + a.rope));
    a.weight = mirror_up(a.weight, floats(1, a.rank));
    return mirror_end(tarnk_cuda_ops()->mla_latent(&a, &context));
}

static void mla_pages(const void *args, tarnk_seq *s)
{
    const tarnk_mla_args *a = args;
    up_pages(s, a->latent_offset,
             (size_t)(a->rank + a->rope) * (a->latent_dtype == TARNK_BF16 ? 2 : 4), false);
}

static int mla(const tarnk_mla_args *host, const tarnk_context *c)
{
    (void)c;
    tarnk_mla_args a = *host;
    a.seqs = up_seqs(host->seqs, a.n_seqs, mla_pages, host);
    a.q = mirror_up(a.q, floats(a.n_rows, (size_t)a.n_heads * (a.nope + a.rope)));
    a.kv_b = up_matrix(&a.kv_b);
    a.out = out(a.out, floats(a.n_rows, (size_t)a.n_heads * a.v_dim));
    a.workspace = up(NULL, 0,
                     sizeof(float) * tarnk_cuda_mla_workspace(a.n_rows, a.n_heads, a.rank, a.rope,
                                                              a.v_dim, cuda.step.keys_max))
                      ->device;
    return mirror_end(tarnk_cuda_ops()->mla(&a, &context));
}

static int moe_route(const tarnk_moe_route_args *host, const tarnk_context *c)
{
    (void)c;
    tarnk_moe_route_args a = *host;
    a.logits = mirror_up(a.logits, floats(a.n_rows, a.n_experts));
    a.bias = mirror_up(a.bias, floats(1, a.n_experts));
    a.experts = out(a.experts, floats(a.n_rows, a.top_k));
    a.weights = out(a.weights, floats(a.n_rows, a.top_k));
    return mirror_end(tarnk_cuda_ops()->moe_route(&a, &context));
}

static const tarnk_matrix *up_matrices(const tarnk_matrix *m, uint32_t n)
{
    tarnk_matrix *copies = malloc(n * sizeof *copies);
    if (!copies)
        exit(1);
    for (uint32_t i = 0; i < n; i++)
        copies[i] = up_matrix(&m[i]);
    block *b = up(NULL, 0, n * sizeof *copies);
    note(tarnk_cuda_upload(b->device, copies, n * sizeof *copies, context.stream), "upload");
    note(tarnk_cuda_wait(context.stream), "upload");
    free(copies);
    return b->device;
}

static int moe(const tarnk_moe_args *host, const tarnk_context *c)
{
    (void)c;
    tarnk_moe_args a = *host;
    cuda.expert_dtype = a.w1[0].dtype;
    a.w1 = up_matrices(a.w1, a.n_experts);
    a.w3 = up_matrices(a.w3, a.n_experts);
    a.w2 = up_matrices(a.w2, a.n_experts);
    a.x = mirror_up(a.x, floats(a.n_rows, a.n));
    a.experts = mirror_up(a.experts, floats(a.n_rows, a.top_k));
    a.weights = mirror_up(a.weights, floats(a.n_rows, a.top_k));
    a.out = out(a.out, floats(a.n_rows, a.n));
    a.workspace =
        up(NULL, 0, tarnk_cuda_moe_workspace(a.n_rows, a.n, a.width, a.n_experts, a.top_k))->device;
    return mirror_end(tarnk_cuda_ops()->moe(&a, &context));
}

const tarnk_ops *mirror_ops(bool native, size_t workspace_bytes)
{
    static const tarnk_ops exact = {"cuda, fp32", "cuda", embed,     silu_mul, norm_rms,
                                    norm_gated,   matmul, conv1d,    kda_gate, kda,
                                    mla_latent,   mla,    moe_route, moe};
    static const tarnk_ops fast = {"cuda, native", "cuda", embed,     silu_mul, norm_rms,
                                   norm_gated,     matmul, conv1d,    kda_gate, kda,
                                   mla_latent,     mla,    moe_route, moe};
    char why[256];
    tarnk_cuda_close(&cuda);
    if (tarnk_cuda_open(&cuda, 0, workspace_bytes > 0 ? workspace_bytes : WORKSPACE_BYTES, why,
                        sizeof why) != 0) {
        printf("%s\n", why);
        return NULL;
    }
    if (!context.stream && tarnk_cuda_stream_create(&context.stream) != 0)
        return NULL;
    context.pool = &cuda;
    cuda.native = native;
    return native ? &fast : &exact;
}
