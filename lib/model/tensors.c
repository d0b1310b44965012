/* tensors.c - the list of tensors of a checkpoint, walked without being stored.
 *
 * Names, kinds and shapes stand here and nowhere else; the 48B's 20,493 tensors make a list of
 * megabytes, so the walk formats one tensor at a time and hands it to the caller. */
#include "weights.h"

#include <stdio.h>
#include <string.h>

typedef struct part_info {
    const char *suffix; /* after "model.layers.L." for the parts of a layer */
    tarni_tensor_kind kind;
    bool to_residual;
} part_info;

static const part_info PARTS[TARNI_PART_COUNT] = {
    [TARNI_PART_EMBED] = {"model.embed_tokens.weight", TARNI_TENSOR_EMBED, false},
    [TARNI_PART_NORM] = {"model.norm.weight", TARNI_TENSOR_NORM, false},
    [TARNI_PART_LM_HEAD] = {"lm_head.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_ATTN_NORM] = {"input_layernorm.weight", TARNI_TENSOR_NORM, false},
    [TARNI_PART_FFN_NORM] = {"post_attention_layernorm.weight", TARNI_TENSOR_NORM, false},
    [TARNI_PART_KDA_Q] = {"self_attn.q_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_KDA_K] = {"self_attn.k_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_KDA_V] = {"self_attn.v_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_KDA_CONV_Q] = {"self_attn.q_conv1d.weight", TARNI_TENSOR_CONV, false},
    [TARNI_PART_KDA_CONV_K] = {"self_attn.k_conv1d.weight", TARNI_TENSOR_CONV, false},
    [TARNI_PART_KDA_CONV_V] = {"self_attn.v_conv1d.weight", TARNI_TENSOR_CONV, false},
    [TARNI_PART_KDA_A_LOG] = {"self_attn.A_log", TARNI_TENSOR_A_LOG, false},
    [TARNI_PART_KDA_DT_BIAS] = {"self_attn.dt_bias", TARNI_TENSOR_DT_BIAS, false},
    [TARNI_PART_KDA_F_A] = {"self_attn.f_a_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_KDA_F_B] = {"self_attn.f_b_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_KDA_B] = {"self_attn.b_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_KDA_G_A] = {"self_attn.g_a_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_KDA_G_B] = {"self_attn.g_b_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_KDA_O_NORM] = {"self_attn.o_norm.weight", TARNI_TENSOR_NORM, false},
    [TARNI_PART_KDA_O] = {"self_attn.o_proj.weight", TARNI_TENSOR_MATRIX, true},
    [TARNI_PART_MLA_Q] = {"self_attn.q_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_MLA_KV_A] = {"self_attn.kv_a_proj_with_mqa.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_MLA_KV_NORM] = {"self_attn.kv_a_layernorm.weight", TARNI_TENSOR_NORM, false},
    [TARNI_PART_MLA_KV_B] = {"self_attn.kv_b_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_MLA_O] = {"self_attn.o_proj.weight", TARNI_TENSOR_MATRIX, true},
    [TARNI_PART_MLP_GATE] = {"mlp.gate_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_MLP_UP] = {"mlp.up_proj.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_MLP_DOWN] = {"mlp.down_proj.weight", TARNI_TENSOR_MATRIX, true},
    [TARNI_PART_ROUTER] = {"block_sparse_moe.gate.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_ROUTER_BIAS] = {"block_sparse_moe.gate.e_score_correction_bias",
                                TARNI_TENSOR_ROUTER_BIAS, false},
    [TARNI_PART_W1] = {"w1.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_W3] = {"w3.weight", TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_W2] = {"w2.weight", TARNI_TENSOR_MATRIX, true},
    [TARNI_PART_SHARED_GATE] = {"block_sparse_moe.shared_experts.gate_proj.weight",
                                TARNI_TENSOR_MATRIX, false},
    [TARNI_PART_SHARED_UP] = {"block_sparse_moe.shared_experts.up_proj.weight", TARNI_TENSOR_MATRIX,
                              false},
    [TARNI_PART_SHARED_DOWN] = {"block_sparse_moe.shared_experts.down_proj.weight",
                                TARNI_TENSOR_MATRIX, true},
};

typedef struct walk {
    const tarni_spec *spec;
    tarn_status (*fn)(void *user, const tarni_tensor *tensor);
    void *user;
    uint32_t layer;
    uint32_t expert;
} walk;

static void name_tensor(const walk *w, tarni_part part, char *out, size_t size)
{
    const char *suffix = PARTS[part].suffix;
    if (part <= TARNI_PART_LM_HEAD)
        snprintf(out, size, "%s", suffix);
    else if (part >= TARNI_PART_W1 && part <= TARNI_PART_W2)
        snprintf(out, size, "model.layers.%u.block_sparse_moe.experts.%u.%s", w->layer, w->expert,
                 suffix);
    else
        snprintf(out, size, "model.layers.%u.%s", w->layer, suffix);
}

/* A vector has n_in 0. */
static tarn_status put(walk *w, tarni_part part, uint32_t n_out, uint32_t n_in)
{
    tarni_tensor t = {.part = part,
                      .layer = w->layer,
                      .expert = w->expert,
                      .kind = PARTS[part].kind,
                      .dtype = w->spec->dtype,
                      .n_dims = n_in > 0 ? 2 : 1,
                      .dims = {n_out, n_in, 0, 0},
                      .to_residual = PARTS[part].to_residual};
    if (t.kind == TARNI_TENSOR_CONV) {
        t.n_dims = 3;
        t.dims[1] = 1;
        t.dims[2] = n_in;
    } else if (t.kind == TARNI_TENSOR_A_LOG) {
        t.n_dims = 4;
        t.dims[0] = t.dims[1] = t.dims[3] = 1;
        t.dims[2] = n_out;
    }
    if (t.kind == TARNI_TENSOR_A_LOG || t.kind == TARNI_TENSOR_DT_BIAS)
        t.dtype = TARNK_F32;
    name_tensor(w, part, t.name, sizeof t.name);
    return w->fn(w->user, &t);
}

static tarn_status put_kda(walk *w)
{
    const tarni_spec *s = w->spec;
    uint32_t d = s->hidden, dim = s->kda_dim, channels = s->kda_heads * dim;
    TARNI_TRY(put(w, TARNI_PART_KDA_Q, channels, d));
    TARNI_TRY(put(w, TARNI_PART_KDA_K, channels, d));
    TARNI_TRY(put(w, TARNI_PART_KDA_V, channels, d));
    TARNI_TRY(put(w, TARNI_PART_KDA_CONV_Q, channels, s->conv_width));
    TARNI_TRY(put(w, TARNI_PART_KDA_CONV_K, channels, s->conv_width));
    TARNI_TRY(put(w, TARNI_PART_KDA_CONV_V, channels, s->conv_width));
    TARNI_TRY(put(w, TARNI_PART_KDA_A_LOG, s->kda_heads, 0));
    TARNI_TRY(put(w, TARNI_PART_KDA_DT_BIAS, channels, 0));
    TARNI_TRY(put(w, TARNI_PART_KDA_F_A, dim, d));
    TARNI_TRY(put(w, TARNI_PART_KDA_F_B, channels, dim));
    TARNI_TRY(put(w, TARNI_PART_KDA_B, s->kda_heads, d));
    TARNI_TRY(put(w, TARNI_PART_KDA_G_A, dim, d));
    TARNI_TRY(put(w, TARNI_PART_KDA_G_B, channels, dim));
    TARNI_TRY(put(w, TARNI_PART_KDA_O_NORM, dim, 0));
    return put(w, TARNI_PART_KDA_O, d, channels);
}

static tarn_status put_mla(walk *w)
{
    const tarni_spec *s = w->spec;
    uint32_t d = s->hidden;
    TARNI_TRY(put(w, TARNI_PART_MLA_Q, s->mla_heads * (s->nope + s->rope), d));
    TARNI_TRY(put(w, TARNI_PART_MLA_KV_A, s->rank + s->rope, d));
    TARNI_TRY(put(w, TARNI_PART_MLA_KV_NORM, s->rank, 0));
    TARNI_TRY(put(w, TARNI_PART_MLA_KV_B, s->mla_heads * (s->nope + s->v_dim), s->rank));
    return put(w, TARNI_PART_MLA_O, d, s->mla_heads * s->v_dim);
}

/* `gate` is the first of three parts in a row: gate, up, down. */
static tarn_status put_mlp(walk *w, tarni_part gate, uint32_t width)
{
    TARNI_TRY(put(w, gate, width, w->spec->hidden));
    TARNI_TRY(put(w, gate + 1, width, w->spec->hidden));
    return put(w, gate + 2, w->spec->hidden, width);
}

static tarn_status put_moe(walk *w)
{
    const tarni_spec *s = w->spec;
    TARNI_TRY(put(w, TARNI_PART_ROUTER, s->n_experts, s->hidden));
    TARNI_TRY(put(w, TARNI_PART_ROUTER_BIAS, s->n_experts, 0));
    for (w->expert = 0; w->expert < s->n_experts; w->expert++)
        TARNI_TRY(put_mlp(w, TARNI_PART_W1, s->expert_width));
    w->expert = 0;
    if (s->n_shared == 0)
        return TARN_OK;
    return put_mlp(w, TARNI_PART_SHARED_GATE, s->n_shared * s->expert_width);
}

tarn_status tarni_spec_tensors(const tarni_spec *spec,
                               tarn_status (*fn)(void *user, const tarni_tensor *tensor),
                               void *user)
{
    walk w = {.spec = spec, .fn = fn, .user = user};
    TARNI_TRY(put(&w, TARNI_PART_EMBED, spec->vocab, spec->hidden));
    for (uint32_t l = 0; l < spec->n_layers; l++) {
        w.layer = l;
        TARNI_TRY(put(&w, TARNI_PART_ATTN_NORM, spec->hidden, 0));
        TARNI_TRY(spec->kinds[l] == TARNI_LAYER_MLA ? put_mla(&w) : put_kda(&w));
        TARNI_TRY(put(&w, TARNI_PART_FFN_NORM, spec->hidden, 0));
        TARNI_TRY(tarni_spec_is_moe(spec, l) ? put_moe(&w)
                                             : put_mlp(&w, TARNI_PART_MLP_GATE, spec->dense_width));
    }
    w.layer = 0;
    TARNI_TRY(put(&w, TARNI_PART_NORM, spec->hidden, 0));
    return spec->tied ? TARN_OK : put(&w, TARNI_PART_LM_HEAD, spec->vocab, spec->hidden);
}

typedef struct sizes {
    uint64_t n_parameters, n_bytes;
} sizes;

static void add_product(uint64_t *sum, uint64_t count, uint64_t item)
{
    uint64_t product;
    if (__builtin_mul_overflow(count, item, &product) || __builtin_add_overflow(*sum, product, sum))
        *sum = UINT64_MAX;
}

/* Two dims of up to 2^24 and 2^20: a tensor always fits, their sum might not. */
static tarn_status count_tensor(void *user, const tarni_tensor *t)
{
    sizes *s = user;
    uint64_t count = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        count *= t->dims[i];
    if (s->n_parameters == UINT64_MAX || s->n_bytes == UINT64_MAX)
        return TARN_OK;
    add_product(&s->n_parameters, count, 1);
    add_product(&s->n_bytes, count, t->dtype == TARNK_BF16 ? 2 : 4);
    return TARN_OK;
}

void tarni_spec_sizes(const tarni_spec *spec, uint64_t *n_parameters, uint64_t *n_bytes)
{
    sizes s = {0, 0};
    tarn_status status = tarni_spec_tensors(spec, count_tensor, &s);
    TARN_ASSERT(status == TARN_OK);
    *n_parameters = s.n_parameters;
    *n_bytes = s.n_bytes;
}
