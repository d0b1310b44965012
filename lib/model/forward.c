/* forward.c - one step of the model, as the ops it is made of.
 *
 * Read from the bottom up: run() walks the layers; of each it norms the residual stream h into x
 * for an attention block (kda_block, mla_block, or last_mla_block), and again for a feed-forward
 * block (dense_block or moe_block); a block works on x and adds its result to h. What is not said
 * there:
 *
 * 1. h, the forget gate, beta, router logits and logits are fp32 in every numerics. Where
 *    layout.round is set, what the next product reads is rounded to bf16 by the op that makes it,
 *    and so are convolution inputs and latents: what a session stores is what was computed with.
 * 2. Routed experts are added to h before the shared expert: a fixed order, hence fixed bits.
 * 3. Products of one input go to the ops in one call, so that a device runs them side by side.
 * 4. What the last layer adds to a row is read by nobody but that row's logits. Where it is an MLA
 *    layer, the host goes on with the wanted rows alone once the latents of all are written: 3.5 %
 *    of the products of a prompt of 512 tokens in 27 layers, none of its bits. (A device's batch
 *    lies in its own memory; there all rows go to the end.) */
#include "forward.h"

#include "activations.h"

#include <string.h>

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
    tarni_activations act;
};

size_t tarni_forward_bytes(const tarni_device_class *class, const tarni_spec *spec,
                           uint32_t n_rows_max, uint32_t n_logits_max)
{
    tarni_activations a;
    return tarni_activations_carve(&a, class, spec, n_rows_max, n_logits_max, NULL);
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
    tarni_activations_carve(&f->act, device->class, spec, n_rows_max, n_logits_max, f->memory);
    for (uint32_t i = 0; device->class->on_host && i < n_rows_max; i++)
        f->act.kept_rows[i] = i;
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
                               .workspace = f->act.packed[0],
                               .x_stride = w.n_in,
                               .w = w,
                               .out = out,
                               .out_stride = w.n_out,
                               .n_rows = n_rows,
                               .round = round};
}

static int add_product(tarni_forward *f, const float *x, tarnk_matrix w, uint32_t n_rows)
{
    tarnk_matmul_args part = product(f, x, w, f->act.h, n_rows, false);
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
    const tarni_kda_scratch *s = &f->act.kda;
    tarnk_matmul_args from_x[] = {product(f, f->act.x, w->q, s->in[0], n, round),
                                  product(f, f->act.x, w->k, s->in[1], n, round),
                                  product(f, f->act.x, w->v, s->in[2], n, round),
                                  product(f, f->act.x, w->f_a, s->f_a, n, round),
                                  product(f, f->act.x, w->g_a, s->g_a, n, round),
                                  product(f, f->act.x, w->b, s->beta, n, false)};
    tarnk_matmul_args from_low_rank[] = {product(f, s->f_a, w->f_b, s->f, n, false),
                                         product(f, s->g_a, w->g_b, s->gate, n, false)};
    from_low_rank[1].workspace = f->act.packed[1];
    TRY_OP(f->ops->matmul(from_x, 6, f->context));
    return f->ops->matmul(from_low_rank, 2, f->context);
}

/* `kda_idx` counts KDA layers: the place of this one in a slot. */
static int kda_block(tarni_forward *f, const tarni_batch *batch, const tarni_kda_weights *w,
                     uint32_t kda_idx)
{
    const tarni_spec *spec = f->spec;
    const tarni_kda_scratch *s = &f->act.kda;
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

/* The latents of a step, from kv_a x. `mla_idx` counts MLA layers: the place of this one in a page.
 */
static int mla_latents(tarni_forward *f, const tarni_batch *batch, const tarni_mla_weights *w,
                       uint32_t mla_idx)
{
    const tarni_spec *spec = f->spec;
    tarnk_mla_latent_args latent = {.kv = f->act.mla.kv,
                                    .weight = w->kv_norm,
                                    .seqs = batch->seqs,
                                    .n_seqs = batch->n_seqs,
                                    .rank = spec->rank,
                                    .rope = spec->rope,
                                    .eps = spec->kv_norm_eps,
                                    .latent_offset = mla_idx * f->layout->latent_stride,
                                    .latent_dtype = f->layout->latent_dtype};
    return f->ops->mla_latent(&latent, f->context);
}

/* From q, computed, to the residual stream. */
static int mla_attention(tarni_forward *f, const tarni_batch *batch, const tarni_mla_weights *w,
                         uint32_t mla_idx)
{
    const tarni_spec *spec = f->spec;
    const tarni_mla_scratch *s = &f->act.mla;
    tarnk_mla_args mla = {.q = s->q,
                          .kv_b = w->kv_b,
                          .out = s->out,
                          .seqs = batch->seqs,
                          .n_seqs = batch->n_seqs,
                          .n_rows = batch->n_rows,
                          .n_heads = spec->mla_heads,
                          .nope = spec->nope,
                          .rope = spec->rope,
                          .v_dim = spec->v_dim,
                          .rank = spec->rank,
                          .latent_offset = mla_idx * f->layout->latent_stride,
                          .latent_dtype = f->layout->latent_dtype,
                          .round = f->layout->round,
                          .workspace = s->workspace};
    TRY_OP(f->ops->mla(&mla, f->context));
    return add_product(f, s->out, w->o, batch->n_rows);
}

static int mla_block(tarni_forward *f, const tarni_batch *batch, const tarni_mla_weights *w,
                     uint32_t mla_idx)
{
    const tarni_mla_scratch *s = &f->act.mla;
    uint32_t n = batch->n_rows;
    tarnk_matmul_args from_x[] = {product(f, f->act.x, w->q, s->q, n, false),
                                  product(f, f->act.x, w->kv_a, s->kv, n, false)};
    TRY_OP(f->ops->matmul(from_x, 2, f->context));
    TRY_OP(mla_latents(f, batch, w, mla_idx));
    return mla_attention(f, batch, w, mla_idx);
}

/* The rows of h and x whose logits are wanted move to the front and are `batch` from now on: each
 * run of neighbours is a sequence. */
static void keep_wanted_rows(tarni_forward *f, tarni_batch *batch)
{
    const uint32_t *rows = batch->logit_rows, n = batch->n_logit_rows;
    const size_t d = f->spec->hidden;
    uint32_t n_seqs = 0, at = 0;
    for (uint32_t s = 0; s < batch->n_seqs; s++) {
        const tarnk_seq *seq = &batch->seqs[s];
        const uint32_t end = seq->row_begin + seq->n_rows;
        for (uint32_t first; at < n && rows[at] < end; n_seqs++) {
            tarnk_seq *kept = &f->act.kept_seqs[n_seqs];
            *kept = *seq;
            kept->position = seq->position + (rows[at] - seq->row_begin);
            kept->row_begin = first = at;
            do {
                memmove(f->act.h + at * d, f->act.h + rows[at] * d, d * sizeof *f->act.h);
                memmove(f->act.x + at * d, f->act.x + rows[at] * d, d * sizeof *f->act.x);
                at++;
            } while (at < n && rows[at] < end && rows[at] == rows[first] + (at - first));
            kept->n_rows = at - first;
        }
    }
    TARN_ASSERT(at == n);
    batch->seqs = f->act.kept_seqs;
    batch->n_seqs = n_seqs;
    batch->logit_rows = f->act.kept_rows;
    batch->n_rows = n;
}

/* The last layer's: latents of all rows, the rest for those of `batch` that it leaves. */
static int last_mla_block(tarni_forward *f, tarni_batch *batch, const tarni_mla_weights *w,
                          uint32_t mla_idx)
{
    const tarni_mla_scratch *s = &f->act.mla;
    tarnk_matmul_args kv = product(f, f->act.x, w->kv_a, s->kv, batch->n_rows, false);
    TRY_OP(f->ops->matmul(&kv, 1, f->context));
    TRY_OP(mla_latents(f, batch, w, mla_idx));
    keep_wanted_rows(f, batch);
    if (batch->n_rows == 0)
        return 0;
    tarnk_matmul_args q = product(f, f->act.x, w->q, s->q, batch->n_rows, false);
    TRY_OP(f->ops->matmul(&q, 1, f->context));
    return mla_attention(f, batch, w, mla_idx);
}

/* From gate and up, both computed, to the residual stream. */
static int finish_mlp(tarni_forward *f, const tarni_mlp_weights *w, uint32_t n_rows)
{
    tarnk_silu_mul_args act = {.gate = f->act.ffn.gate,
                               .up = f->act.ffn.up,
                               .out = f->act.ffn.gate,
                               .n_rows = n_rows,
                               .n = w->gate.n_out,
                               .round = f->layout->round};
    TRY_OP(f->ops->silu_mul(&act, f->context));
    return add_product(f, f->act.ffn.gate, w->down, n_rows);
}

static int dense_block(tarni_forward *f, const tarni_mlp_weights *w, uint32_t n_rows)
{
    tarnk_matmul_args from_x[] = {product(f, f->act.x, w->gate, f->act.ffn.gate, n_rows, false),
                                  product(f, f->act.x, w->up, f->act.ffn.up, n_rows, false)};
    TRY_OP(f->ops->matmul(from_x, 2, f->context));
    return finish_mlp(f, w, n_rows);
}

static int moe_block(tarni_forward *f, const tarni_moe_weights *w, uint32_t n)
{
    const tarni_spec *spec = f->spec;
    const tarni_ffn_scratch *s = &f->act.ffn;
    tarnk_matmul_args from_x[] = {product(f, f->act.x, w->router, s->scores, n, false),
                                  product(f, f->act.x, w->shared.gate, s->gate, n, false),
                                  product(f, f->act.x, w->shared.up, s->up, n, false)};
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
    tarnk_moe_args moe = {.x = f->act.x,
                          .w1 = w->w1,
                          .w3 = w->w3,
                          .w2 = w->w2,
                          .experts = s->experts,
                          .weights = s->weights,
                          .out = f->act.h,
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

static int ffn_block(tarni_forward *f, const tarni_layer_weights *w, uint32_t n_rows)
{
    if (n_rows == 0)
        return 0;
    TRY_OP(norm(f, f->act.h, w->ffn_norm, f->act.x, n_rows));
    return w->is_moe ? moe_block(f, &w->moe, n_rows) : dense_block(f, &w->mlp, n_rows);
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
        TRY_OP(norm(f, f->act.h + row * d, f->weights->norm, f->act.x + begin * d, end - begin));
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
    for (uint32_t begin = 0; begin < vocab; begin += TARNI_LOGIT_COLUMNS) {
        strip.n_out = vocab - begin < TARNI_LOGIT_COLUMNS ? vocab - begin : TARNI_LOGIT_COLUMNS;
        strip.data = (const char *)f->weights->lm_head.data + begin * row_bytes;
        tarnk_matmul_args part =
            product(f, f->act.x, strip, f->act.logits, batch->n_logit_rows, false);
        TRY_OP(f->ops->matmul(&part, 1, f->context));
        for (uint32_t i = 0; i < batch->n_logit_rows; i++)
            memcpy(batch->logits[i] + begin, f->act.logits + (size_t)i * strip.n_out,
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
            product(f, f->act.x, f->weights->lm_head, f->act.logits, batch->n_logit_rows, false);
        TRY_OP(f->ops->matmul(&all, 1, f->context));
        return f->device->class->put_logits(f->device, f->act.logits, batch->n_logit_rows);
    }
    if (!is_one_array(batch, f->spec->vocab, &stride))
        return scattered_logits(f, batch);
    tarnk_matmul_args part =
        product(f, f->act.x, f->weights->lm_head, batch->logits[0], batch->n_logit_rows, false);
    part.out_stride = stride;
    return f->ops->matmul(&part, 1, f->context);
}

/* ---- the step -------------------------------------------------------------------------------- */

static int run_layers(void *user, const tarni_batch *whole)
{
    tarni_forward *f = user;
    tarni_batch batch = *whole; /* with fewer rows in the end */
    uint32_t kda_idx = 0, mla_idx = 0;
    const uint32_t last = f->spec->n_layers - 1;
    tarnk_embed_args embed = {
        .table = f->weights->embed, .ids = batch.ids, .out = f->act.h, .n_rows = batch.n_rows};
    TRY_OP(f->ops->embed(&embed, f->context));
    for (uint32_t l = 0; l <= last; l++) {
        const tarni_layer_weights *w = &f->weights->layers[l];
        TRY_OP(norm(f, f->act.h, w->attn_norm, f->act.x, batch.n_rows));
        if (!w->is_mla)
            TRY_OP(kda_block(f, &batch, &w->kda, kda_idx++));
        else if (l == last && batch.n_logit_rows < batch.n_rows && f->device->class->on_host)
            TRY_OP(last_mla_block(f, &batch, &w->mla, mla_idx++));
        else
            TRY_OP(mla_block(f, &batch, &w->mla, mla_idx++));
        TRY_OP(ffn_block(f, w, batch.n_rows));
    }
    return logits(f, &batch);
}

int tarni_forward_run(tarni_forward *f, const tarni_batch *batch)
{
    TARN_ASSERT(batch->n_rows > 0 && batch->n_rows <= f->n_rows_max);
    return f->device->class->run(f->device, batch, run_layers, f);
}
