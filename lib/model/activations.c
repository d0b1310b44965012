/* activations.c - see activations.h. */
#include "activations.h"

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

static void carve_kda(carver *c, const tarni_spec *s, uint32_t n, tarni_kda_scratch *out)
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
                      tarni_mla_scratch *out)
{
    out->q = carve_floats(c, n, (uint64_t)s->mla_heads * (s->nope + s->rope));
    out->kv = carve_floats(c, n, s->rank + s->rope);
    out->out = carve_floats(c, n, (uint64_t)s->mla_heads * s->v_dim);
    out->workspace = carve(c, 1, workspace_bytes, 1);
}

static void carve_ffn(carver *c, const tarni_spec *s, uint32_t n, size_t workspace_bytes,
                      tarni_ffn_scratch *out)
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

size_t tarni_activations_carve(tarni_activations *a, const tarni_device_class *class,
                               const tarni_spec *s, uint32_t n, uint32_t n_logits, void *base)
{
    carver c = {.base = base};
    tarni_workspaces w;
    class->workspaces(s, n, &w);
    a->h = carve_floats(&c, n, s->hidden);
    a->x = carve_floats(&c, n, s->hidden);
    for (int i = 0; i < 2; i++)
        a->packed[i] = carve(&c, 1, w.matmul, 1);
    if (class->on_host) {
        a->kept_seqs = carve(&c, n, 1, sizeof *a->kept_seqs);
        a->kept_rows = carve(&c, n, 1, sizeof *a->kept_rows);
    }
    carver kda = c, mla = c, ffn = c, logits = c;
    carve_kda(&kda, s, n, &a->kda);
    carve_mla(&mla, s, n, w.mla, &a->mla);
    carve_ffn(&ffn, s, n, w.moe, &a->ffn);
    a->logits = class->on_host ? carve_floats(&logits, n, TARNI_LOGIT_COLUMNS)
                               : carve_floats(&logits, n_logits, s->vocab);
    size_t end = kda.at;
    end = mla.at > end ? mla.at : end;
    end = ffn.at > end ? ffn.at : end;
    return logits.at > end ? logits.at : end;
}
