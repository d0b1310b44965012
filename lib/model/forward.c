/* forward.c - one step of the model, as the ops it is made of.
 *
 * Read from the bottom up: run() walks the layers; each layer is an attention block (kda_block or
 * mla_block) and a feed-forward block (dense_block or moe_block); every block norms the residual
 * stream h into x, works on x, and adds its result to h. What is not said in the blocks:
 *
 * 1. h, the forget gate, beta, router logits and logits are fp32 in every numerics. Where
 *    layout.round is set, what the next product reads is rounded to bf16 by the op that makes it,
 *    and so are convolution inputs and latents: what a session stores is what was computed with.
 * 2. Routed experts are added to h before the shared expert: a fixed order, hence fixed bits.
 * 3. Products of one input go to the ops in one call, so that a device runs them side by side.
 * 4. Blocks run one after the other, so all share one scratch memory; sizes come from walking the
 *    same carving function with no memory behind it. */
#include "forward.h"

#include <string.h>

#define LOGIT_COLUMNS 2048 /* of lm_head at a time, where logits rows lie apart */

typedef struct kda_scratch {
    float *in[TARNK_CONV_PARTS]; /* q, k, v before the convolution [n][H*K] */
    float *q, *k, *v;            /* after it; v becomes the recurrence's output */
    float *f_a, *g_a;            /* [n][K] */
    float *f;                    /* [n][H*K], becomes the log decay */
    float *gate;                 /* output gate [n][H*K] */
    float *beta;                 /* [n][H] */
} kda_scratch;

typedef struct mla_scratch {
    float *q;   /* [n][heads*(nope+rope)] */
    float *kv;  /* [n][rank+rope] */
    float *out; /* [n][heads*v] */
    float *workspace;
} mla_scratch;

typedef struct ffn_scratch {
    float *gate, *up;   /* dense or shared expert [n][width] */
    float *scores;      /* router logits [n][E] */
    uint32_t *experts;  /* [n][top_k] */
    float *weights;     /* [n][top_k] */
    uint8_t *workspace; /* of the routed experts */
} ffn_scratch;

struct tarni_forward {
    const tarni_spec *spec;
    const tarni_weights *weights;
    const tarni_layout *layout;
    tarni_device *device;
    const tarnk_ops *ops;
    const tarnk_context *context;
    const tarn_allocator *allocator;
    uint32_t n_rows_max;
    void *memory;
    float *h; /* residual stream [n][d] */
    float *x; /* normed input of the current block [n][d] */
    kda_scratch kda;
    mla_scratch mla;
    ffn_scratch ffn;
    float *logits;   /* the host's: [n][LOGIT_COLUMNS], else [n_logits_max][vocab] */
    void *packed[2]; /* workspaces of products side by side: of one x, and of a second */
};

/* ---- memory ---------------------------------------------------------------------------------- */

typedef struct carver {
    char *base; /* NULL: only counts */
    size_t at;
} carver;

/* 64-byte aligned; a size too large to count sticks at SIZE_MAX. */
static void *carve(carver *c, uint64_t n_rows, uint64_t n_columns, size_t item)
{
    size_t n_bytes, end;
    void *part = c->base ? c->base + c->at : NULL;
    if (!tarni_mul_size(n_rows, n_columns, &n_bytes) || !tarni_mul_size(n_bytes, item, &n_bytes) ||
        !tarni_add_size(c->at, n_bytes, &end) || end > SIZE_MAX - TARNI_ALIGNMENT)
        c->at = SIZE_MAX - TARNI_ALIGNMENT;
    else
        c->at = (end + TARNI_ALIGNMENT - 1) / TARNI_ALIGNMENT * TARNI_ALIGNMENT;
    return part;
}

static float *carve_floats(carver *c, uint64_t n_rows, uint64_t n_columns)
{
    return carve(c, n_rows, n_columns, sizeof(float));
}

static void carve_kda(carver *c, const tarni_spec *s, uint32_t n, kda_scratch *out)
{
    uint64_t channels = (uint64_t)s->kda_heads * s->kda_dim;
    for (int i = 0; i < TARNK_CONV_PARTS; i++)
        out->in[i] = carve_floats(c, n, channels);
    out->q = carve_floats(c, n, channels);
    out->k = carve_floats(c, n, channels);
    out->v = carve_floats(c, n, channels);
    out->f_a = carve_floats(c, n, s->kda_dim);
    out->g_a = carve_floats(c, n, s->kda_dim);
    out->f = carve_floats(c, n, channels);
    out->gate = carve_floats(c, n, channels);
    out->beta = carve_floats(c, n, s->kda_heads);
}

static void carve_mla(carver *c, const tarni_spec *s, uint32_t n, size_t workspace_bytes,
                      mla_scratch *out)
{
    out->q = carve_floats(c, n, (uint64_t)s->mla_heads * (s->nope + s->rope));
    out->kv = carve_floats(c, n, s->rank + s->rope);
    out->out = carve_floats(c, n, (uint64_t)s->mla_heads * s->v_dim);
    out->workspace = carve(c, 1, workspace_bytes, 1);
}

static void carve_ffn(carver *c, const tarni_spec *s, uint32_t n, size_t workspace_bytes,
                      ffn_scratch *out)
{
    uint32_t width = s->dense_width, shared_width = s->n_shared * s->expert_width;
    if (width < shared_width)
        width = shared_width;
    out->gate = carve_floats(c, n, width);
    out->up = carve_floats(c, n, width);
    if (s->n_experts == 0)
        return;
    out->scores = carve_floats(c, n, s->n_experts);
    out->experts = carve(c, n, s->top_k, sizeof(uint32_t));
    out->weights = carve_floats(c, n, s->top_k);
    out->workspace = carve(c, 1, workspace_bytes, 1);
}

/* Places everything of `f` for n rows at `base`; returns the bytes it takes. */
static size_t carve_all(tarni_forward *f, const tarni_device_class *class, const tarni_spec *s,
                        uint32_t n, uint32_t n_logits, void *base)
{
    carver c = {.base = base};
    tarni_workspaces w;
    class->workspaces(s, n, &w);
    f->h = carve_floats(&c, n, s->hidden);
    f->x = carve_floats(&c, n, s->hidden);
    for (int i = 0; i < 2; i++)
        f->packed[i] = carve(&c, 1, w.matmul, 1);
    carver kda = c, mla = c, ffn = c, logits = c;
    carve_kda(&kda, s, n, &f->kda);
    carve_mla(&mla, s, n, w.mla, &f->mla);
    carve_ffn(&ffn, s, n, w.moe, &f->ffn);
    f->logits = class->on_host ? carve_floats(&logits, n, LOGIT_COLUMNS)
                               : carve_floats(&logits, n_logits, s->vocab);
    size_t end = kda.at;
    end = mla.at > end ? mla.at : end;
    end = ffn.at > end ? ffn.at : end;
    return logits.at > end ? logits.at : end;
}

size_t tarni_forward_bytes(const tarni_device_class *class, const tarni_spec *spec,
                           uint32_t n_rows_max, uint32_t n_logits_max)
{
    tarni_forward f;
    return carve_all(&f, class, spec, n_rows_max, n_logits_max, NULL);
}

tarn_status tarni_forward_create(const tarni_spec *spec, const tarni_layout *layout,
                                 tarni_device *device, uint32_t n_rows_max, uint32_t n_logits_max,
                                 const tarn_allocator *allocator, tarni_forward **out,
                                 tarn_error *err)
{
    tarni_forward *f;
    *out = NULL;
    TARN_ASSERT(n_rows_max > 0);
    TARNI_TRY(tarni_alloc(allocator, 1, sizeof *f, &f, err));
    f->spec = spec;
    f->weights = device->weights;
    f->layout = layout;
    f->device = device;
    f->ops = device->ops;
    f->context = &device->context;
    f->allocator = allocator;
    f->n_rows_max = n_rows_max;
    size_t n_bytes = tarni_forward_bytes(device->class, spec, n_rows_max, n_logits_max);
    tarn_status status =
        device->class->alloc(device, allocator, n_bytes, "a step's workspace", &f->memory, err);
    if (status != TARN_OK) {
        tarni_free(allocator, f);
        return status;
    }
    carve_all(f, device->class, spec, n_rows_max, n_logits_max, f->memory);
    *out = f;
    return TARN_OK;
}

void tarni_forward_free(tarni_forward *f)
{
    if (!f)
        return;
    const tarn_allocator *a = f->allocator;
    f->device->class->free(f->device, a, f->memory);
    tarni_free(a, f);
}

/* ---- the blocks ------------------------------------------------------------------------------ */

#define TRY_OP(expr)                                                                               \
    do {                                                                                           \
        int op_error = (expr);                                                                     \
        if (op_error != 0)                                                                         \
            return op_error;                                                                       \
    } while (0)

/* out = x W^T with dense rows on both sides. */
static tarnk_matmul_args product(const tarni_forward *f, const float *x, tarnk_matrix w, float *out,
                                 uint32_t n_rows, bool round)
{
    return (tarnk_matmul_args){.x = x,
                               .workspace = f->packed[0],
                               .x_stride = w.n_in,
                               .w = w,
                               .out = out,
                               .out_stride = w.n_out,
                               .n_rows = n_rows,
                               .round = round};
}

static int add_product(tarni_forward *f, const float *x, tarnk_matrix w, uint32_t n_rows)
{
    tarnk_matmul_args part = product(f, x, w, f->h, n_rows, false);
    part.accumulate = true;
    return f->ops->matmul(&part, 1, f->context);
}

static int norm(tarni_forward *f, const float *x, const float *weight, float *out, uint32_t n_rows)
{
    tarnk_norm_rms_args args = {.x = x,
                                .x_stride = f->spec->hidden,
                                .weight = weight,
                                .out = out,
                                .n_rows = n_rows,
                                .n = f->spec->hidden,
                                .eps = f->spec->eps,
                                .round = f->layout->round};
    return f->ops->norm_rms(&args, f->context);
}

static int kda_projections(tarni_forward *f, const tarni_kda_weights *w, uint32_t n)
{
    bool round = f->layout->round;
    const kda_scratch *s = &f->kda;
    tarnk_matmul_args from_x[] = {
        product(f, f->x, w->q, s->in[0], n, round), product(f, f->x, w->k, s->in[1], n, round),
        product(f, f->x, w->v, s->in[2], n, round), product(f, f->x, w->f_a, s->f_a, n, round),
        product(f, f->x, w->g_a, s->g_a, n, round), product(f, f->x, w->b, s->beta, n, false)};
    tarnk_matmul_args from_low_rank[] = {product(f, s->f_a, w->f_b, s->f, n, false),
                                         product(f, s->g_a, w->g_b, s->gate, n, false)};
    from_low_rank[1].workspace = f->packed[1];
    TRY_OP(f->ops->matmul(from_x, 6, f->context));
    return f->ops->matmul(from_low_rank, 2, f->context);
}

/* `kda_idx` counts KDA layers: the place of this one in a slot. */
static int kda_block(tarni_forward *f, const tarni_batch *batch, const tarni_kda_weights *w,
                     uint32_t kda_idx)
{
    const tarni_spec *spec = f->spec;
    const kda_scratch *s = &f->kda;
    uint32_t n = batch->n_rows, heads = spec->kda_heads, dim = spec->kda_dim;
    tarnk_conv1d_args conv = {.x = {s->in[0], s->in[1], s->in[2]},
                              .weight = {w->conv[0], w->conv[1], w->conv[2]},
                              .out = {s->q, s->k, s->v},
                              .seqs = batch->seqs,
                              .n_seqs = batch->n_seqs,
                              .n = heads * dim,
                              .width = spec->conv_width,
                              .conv_offset =
                                  f->layout->conv_begin + kda_idx * f->layout->conv_stride,
                              .conv_dtype = f->layout->conv_dtype};
    tarnk_kda_gate_args gate = {.q = s->q,
                                .k = s->k,
                                .f = s->f,
                                .b = s->beta,
                                .a_log = w->a_log,
                                .dt_bias = w->dt_bias,
                                .n_rows = n,
                                .n_heads = heads,
                                .head_dim = dim,
                                .gate_kind = spec->gate_kind,
                                .lower_bound = spec->gate_lower_bound};
    tarnk_kda_args kda = {.q = s->q,
                          .k = s->k,
                          .v = s->v,
                          .g = s->f,
                          .beta = s->beta,
                          .out = s->v,
                          .seqs = batch->seqs,
                          .n_seqs = batch->n_seqs,
                          .n_heads = heads,
                          .k_dim = dim,
                          .v_dim = dim,
                          .state_offset = kda_idx * f->layout->state_stride};
    tarnk_norm_gated_args out_norm = {.x = s->v,
                                      .gate = s->gate,
                                      .weight = w->o_norm,
                                      .out = s->v,
                                      .n_rows = n,
                                      .n_heads = heads,
                                      .n = dim,
                                      .eps = spec->eps,
                                      .round = f->layout->round};
    TRY_OP(kda_projections(f, w, n));
    TRY_OP(f->ops->conv1d(&conv, f->context));
    TRY_OP(f->ops->kda_gate(&gate, f->context));
    TRY_OP(f->ops->kda(&kda, f->context));
    TRY_OP(f->ops->norm_gated(&out_norm, f->context));
    return add_product(f, s->v, w->o, n);
}

/* `mla_idx` counts MLA layers: the place of this one in a page. */
static int mla_block(tarni_forward *f, const tarni_batch *batch, const tarni_mla_weights *w,
                     uint32_t mla_idx)
{
    const tarni_spec *spec = f->spec;
    const mla_scratch *s = &f->mla;
    uint32_t n = batch->n_rows;
    size_t offset = mla_idx * f->layout->latent_stride;
    tarnk_matmul_args from_x[] = {product(f, f->x, w->q, s->q, n, false),
                                  product(f, f->x, w->kv_a, s->kv, n, false)};
    tarnk_mla_latent_args latent = {.kv = s->kv,
                                    .weight = w->kv_norm,
                                    .seqs = batch->seqs,
                                    .n_seqs = batch->n_seqs,
                                    .rank = spec->rank,
                                    .rope = spec->rope,
                                    .eps = spec->kv_norm_eps,
                                    .latent_offset = offset,
                                    .latent_dtype = f->layout->latent_dtype};
    tarnk_mla_args mla = {.q = s->q,
                          .kv_b = w->kv_b,
                          .out = s->out,
                          .seqs = batch->seqs,
                          .n_seqs = batch->n_seqs,
                          .n_rows = n,
                          .n_heads = spec->mla_heads,
                          .nope = spec->nope,
                          .rope = spec->rope,
                          .v_dim = spec->v_dim,
                          .rank = spec->rank,
                          .latent_offset = offset,
                          .latent_dtype = f->layout->latent_dtype,
                          .round = f->layout->round,
                          .workspace = s->workspace};
    TRY_OP(f->ops->matmul(from_x, 2, f->context));
    TRY_OP(f->ops->mla_latent(&latent, f->context));
    TRY_OP(f->ops->mla(&mla, f->context));
    return add_product(f, s->out, w->o, n);
}

/* From gate and up, both computed, to the residual stream. */
static int finish_mlp(tarni_forward *f, const tarni_mlp_weights *w, uint32_t n_rows)
{
    tarnk_silu_mul_args act = {.gate = f->ffn.gate,
                               .up = f->ffn.up,
                               .out = f->ffn.gate,
                               .n_rows = n_rows,
                               .n = w->gate.n_out,
                               .round = f->layout->round};
    TRY_OP(f->ops->silu_mul(&act, f->context));
    return add_product(f, f->ffn.gate, w->down, n_rows);
}

static int dense_block(tarni_forward *f, const tarni_mlp_weights *w, uint32_t n_rows)
{
    tarnk_matmul_args from_x[] = {product(f, f->x, w->gate, f->ffn.gate, n_rows, false),
                                  product(f, f->x, w->up, f->ffn.up, n_rows, false)};
    TRY_OP(f->ops->matmul(from_x, 2, f->context));
    return finish_mlp(f, w, n_rows);
}

static int moe_block(tarni_forward *f, const tarni_moe_weights *w, uint32_t n)
{
    const tarni_spec *spec = f->spec;
    const ffn_scratch *s = &f->ffn;
    tarnk_matmul_args from_x[] = {product(f, f->x, w->router, s->scores, n, false),
                                  product(f, f->x, w->shared.gate, s->gate, n, false),
                                  product(f, f->x, w->shared.up, s->up, n, false)};
    tarnk_moe_route_args route = {.logits = s->scores,
                                  .bias = w->bias,
                                  .experts = s->experts,
                                  .weights = s->weights,
                                  .n_rows = n,
                                  .n_experts = spec->n_experts,
                                  .top_k = spec->top_k,
                                  .n_groups = spec->n_groups,
                                  .groups_kept = spec->groups_kept,
                                  .kind = spec->router_kind,
                                  .renormalize = spec->renormalize,
                                  .scale = spec->routed_scale};
    tarnk_moe_args moe = {.x = f->x,
                          .w1 = w->w1,
                          .w3 = w->w3,
                          .w2 = w->w2,
                          .experts = s->experts,
                          .weights = s->weights,
                          .out = f->h,
                          .n_rows = n,
                          .n = spec->hidden,
                          .width = spec->expert_width,
                          .n_experts = spec->n_experts,
                          .top_k = spec->top_k,
                          .round = f->layout->round,
                          .workspace = s->workspace};
    TRY_OP(f->ops->matmul(from_x, w->has_shared ? 3 : 1, f->context));
    TRY_OP(f->ops->moe_route(&route, f->context));
    TRY_OP(f->ops->moe(&moe, f->context));
    return w->has_shared ? finish_mlp(f, &w->shared, n) : 0;
}

/* ---- logits ---------------------------------------------------------------------------------- */

/* Norms the wanted rows of h into the first rows of x; rows next to one another go together. */
static int norm_logit_rows(tarni_forward *f, const tarni_batch *batch)
{
    size_t d = f->spec->hidden;
    for (uint32_t begin = 0, end; begin < batch->n_logit_rows; begin = end) {
        uint32_t row = batch->logit_rows[begin];
        for (end = begin + 1; end < batch->n_logit_rows; end++)
            if (batch->logit_rows[end] != row + (end - begin))
                break;
        TRY_OP(norm(f, f->h + row * d, f->weights->norm, f->x + begin * d, end - begin));
    }
    return 0;
}

/* Are the rows of logits one array? Then *stride is the floats from one to the next. */
static bool is_one_array(const tarni_batch *batch, uint32_t vocab, size_t *stride)
{
    *stride = vocab;
    if (batch->n_logit_rows == 1)
        return true;
    uintptr_t first = (uintptr_t)batch->logits[0], step = (uintptr_t)batch->logits[1] - first;
    for (uint32_t i = 1; i < batch->n_logit_rows; i++)
        if ((uintptr_t)batch->logits[i] != first + i * step)
            return false;
    *stride = step / sizeof(float);
    return (uintptr_t)batch->logits[1] > first && step % sizeof(float) == 0 && *stride >= vocab;
}

/* Rows that lie apart are computed a strip of columns at a time: lm_head is read once for all. */
static int scattered_logits(tarni_forward *f, const tarni_batch *batch)
{
    tarnk_matrix strip = f->weights->lm_head;
    size_t row_bytes = (size_t)strip.n_in * (strip.dtype == TARNK_BF16 ? 2 : 4);
    uint32_t vocab = strip.n_out;
    for (uint32_t begin = 0; begin < vocab; begin += LOGIT_COLUMNS) {
        strip.n_out = vocab - begin < LOGIT_COLUMNS ? vocab - begin : LOGIT_COLUMNS;
        strip.data = (const char *)f->weights->lm_head.data + begin * row_bytes;
        tarnk_matmul_args part = product(f, f->x, strip, f->logits, batch->n_logit_rows, false);
        TRY_OP(f->ops->matmul(&part, 1, f->context));
        for (uint32_t i = 0; i < batch->n_logit_rows; i++)
            memcpy(batch->logits[i] + begin, f->logits + (size_t)i * strip.n_out,
                   strip.n_out * sizeof(float));
    }
    return 0;
}

static int logits(tarni_forward *f, const tarni_batch *batch)
{
    size_t stride;
    if (batch->n_logit_rows == 0)
        return 0;
    TRY_OP(norm_logit_rows(f, batch));
    if (!f->device->class->on_host) {
        tarnk_matmul_args all =
            product(f, f->x, f->weights->lm_head, f->logits, batch->n_logit_rows, false);
        TRY_OP(f->ops->matmul(&all, 1, f->context));
        return f->device->class->put_logits(f->device, f->logits, batch->n_logit_rows);
    }
    if (!is_one_array(batch, f->spec->vocab, &stride))
        return scattered_logits(f, batch);
    tarnk_matmul_args part =
        product(f, f->x, f->weights->lm_head, batch->logits[0], batch->n_logit_rows, false);
    part.out_stride = stride;
    return f->ops->matmul(&part, 1, f->context);
}

/* ---- the step -------------------------------------------------------------------------------- */

static int run_layers(void *user, const tarni_batch *batch)
{
    tarni_forward *f = user;
    uint32_t n = batch->n_rows, kda_idx = 0, mla_idx = 0;
    tarnk_embed_args embed = {
        .table = f->weights->embed, .ids = batch->ids, .out = f->h, .n_rows = n};
    TRY_OP(f->ops->embed(&embed, f->context));
    for (uint32_t l = 0; l < f->spec->n_layers; l++) {
        const tarni_layer_weights *w = &f->weights->layers[l];
        TRY_OP(norm(f, f->h, w->attn_norm, f->x, n));
        TRY_OP(w->is_mla ? mla_block(f, batch, &w->mla, mla_idx++)
                         : kda_block(f, batch, &w->kda, kda_idx++));
        TRY_OP(norm(f, f->h, w->ffn_norm, f->x, n));
        TRY_OP(w->is_moe ? moe_block(f, &w->moe, n) : dense_block(f, &w->mlp, n));
    }
    return logits(f, batch);
}

int tarni_forward_run(tarni_forward *f, const tarni_batch *batch)
{
    TARN_ASSERT(batch->n_rows > 0 && batch->n_rows <= f->n_rows_max);
    return f->device->class->run(f->device, batch, run_layers, f);
}
