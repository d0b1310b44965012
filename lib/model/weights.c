/* weights.c - a checked set of tensors as the pointers the graph reads.
 *
 * The walk of tarni_spec_tensors runs twice. The first run checks names, dtypes and shapes and
 * counts what must be allocated, so a hostile config.json cannot make us allocate more than its
 * files back up; the second binds each tensor to its member by the table MEMBERS. Every tensor of
 * the set was then asked for exactly when the counts agree, because names are unique on both sides.
 */
#include "weight_files.h"

#include "draw.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(tarni_layer_weights, member)

/* Where the parts of a layer go; the model's own three and the experts are bound by hand. */
static const size_t MEMBERS[TARNI_PART_COUNT] = {
    [TARNI_PART_ATTN_NORM] = AT(attn_norm),
    [TARNI_PART_FFN_NORM] = AT(ffn_norm),
    [TARNI_PART_KDA_Q] = AT(kda.q),
    [TARNI_PART_KDA_K] = AT(kda.k),
    [TARNI_PART_KDA_V] = AT(kda.v),
    [TARNI_PART_KDA_CONV_Q] = AT(kda.conv[0]),
    [TARNI_PART_KDA_CONV_K] = AT(kda.conv[1]),
    [TARNI_PART_KDA_CONV_V] = AT(kda.conv[2]),
    [TARNI_PART_KDA_A_LOG] = AT(kda.a_log),
    [TARNI_PART_KDA_DT_BIAS] = AT(kda.dt_bias),
    [TARNI_PART_KDA_F_A] = AT(kda.f_a),
    [TARNI_PART_KDA_F_B] = AT(kda.f_b),
    [TARNI_PART_KDA_B] = AT(kda.b),
    [TARNI_PART_KDA_G_A] = AT(kda.g_a),
    [TARNI_PART_KDA_G_B] = AT(kda.g_b),
    [TARNI_PART_KDA_O_NORM] = AT(kda.o_norm),
    [TARNI_PART_KDA_O] = AT(kda.o),
    [TARNI_PART_MLA_Q] = AT(mla.q),
    [TARNI_PART_MLA_KV_A] = AT(mla.kv_a),
    [TARNI_PART_MLA_KV_NORM] = AT(mla.kv_norm),
    [TARNI_PART_MLA_KV_B] = AT(mla.kv_b),
    [TARNI_PART_MLA_O] = AT(mla.o),
    [TARNI_PART_MLP_GATE] = AT(mlp.gate),
    [TARNI_PART_MLP_UP] = AT(mlp.up),
    [TARNI_PART_MLP_DOWN] = AT(mlp.down),
    [TARNI_PART_ROUTER] = AT(moe.router),
    [TARNI_PART_ROUTER_BIAS] = AT(moe.bias),
    [TARNI_PART_SHARED_GATE] = AT(moe.shared.gate),
    [TARNI_PART_SHARED_UP] = AT(moe.shared.up),
    [TARNI_PART_SHARED_DOWN] = AT(moe.shared.down),
};

typedef struct binder {
    const tarni_spec *spec;
    const tarni_safetensors *set;
    const char *dir;
    tarni_weights *weights;
    size_t n_tensors, n_floats, n_experts; /* what the first run counts */
    float *floats;                         /* the next free ones in the second run */
    tarnk_matrix *experts;
    tarni_shaped *shaped;
    uint64_t seed;
    tarn_error *err;
} binder;

static bool is_matrix(const tarni_tensor *t)
{
    return t->kind == TARNI_TENSOR_MATRIX || t->kind == TARNI_TENSOR_EMBED;
}

static uint64_t count_items(const uint64_t *dims, uint32_t n_dims)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < n_dims; i++)
        n *= dims[i];
    return n;
}

static float item_of(const tarni_safetensor *found, size_t i)
{
    uint32_t bits;
    float value;
    if (strcmp(found->dtype, "BF16") == 0)
        bits = (uint32_t)tarni_load_u16(found->data + 2 * i) << 16;
    else
        bits = tarni_load_u32(found->data + 4 * i);
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A_log: flat or [1, 1, n, 1], with n at least the heads and zeros beyond them. */
static bool fits_a_log(const tarni_safetensor *found, uint32_t n_heads)
{
    uint64_t n = count_items(found->dims, found->n_dims), longest = 0;
    for (uint32_t i = 0; i < found->n_dims; i++)
        longest = found->dims[i] > longest ? found->dims[i] : longest;
    if (n != longest || n < n_heads || n > TARNI_DIM_MAX)
        return false;
    for (size_t i = n_heads; i < n; i++)
        if (item_of(found, i) != 0)
            return false;
    return true;
}

static bool fits(const tarni_safetensor *found, const tarni_tensor *t)
{
    if (t->kind == TARNI_TENSOR_A_LOG)
        return fits_a_log(found, t->dims[2]);
    if (found->n_dims != t->n_dims)
        return false;
    for (uint32_t i = 0; i < t->n_dims; i++)
        if (found->dims[i] != t->dims[i])
            return false;
    return true;
}

static tarn_status check_tensor(void *user, const tarni_tensor *t)
{
    binder *b = user;
    char want[64], got[64];
    uint64_t dims[4] = {t->dims[0], t->dims[1], t->dims[2], t->dims[3]};
    uint64_t n_items = count_items(dims, t->n_dims);
    tarni_shape_text(dims, t->n_dims, want, sizeof want);
    const tarni_safetensor *found = tarni_safetensors_find(b->set, t->name);
    if (!found)
        return tarni_fail(b->err, TARN_E_FORMAT, "%s: tensor %s is missing, should be %s",
                          tarni_path_tail(b->dir), t->name, want);
    const char *file = tarni_safetensors_origin(b->set, found);
    if (strcmp(found->dtype, "BF16") != 0 && strcmp(found->dtype, "F32") != 0)
        return tarni_fail(b->err, TARN_E_UNSUPPORTED, "%s: tensor %s is %s, should be BF16 or F32",
                          file, t->name, found->dtype);
    if (!fits(found, t)) {
        tarni_shape_text(found->dims, found->n_dims, got, sizeof got);
        return tarni_fail(b->err, TARN_E_FORMAT, "%s: tensor %s is %s, should be %s", file, t->name,
                          got, want);
    }
    b->n_tensors++;
    if (!is_matrix(t))
        b->n_floats += (size_t)n_items;
    if (t->part >= TARNI_PART_W1 && t->part <= TARNI_PART_W2)
        b->n_experts++;
    b->weights->n_parameters += n_items;
    b->weights->n_bytes += found->n_bytes;
    return TARN_OK;
}

/* ---- the second run -------------------------------------------------------------------------- */

static tarnk_matrix matrix_of(const tarni_safetensor *found, const tarni_tensor *t)
{
    return (tarnk_matrix){.data = found->data,
                          .dtype = strcmp(found->dtype, "BF16") == 0 ? TARNK_BF16 : TARNK_F32,
                          .n_out = t->dims[0],
                          .n_in = t->dims[1]};
}

static const float *upcast(binder *b, const tarni_safetensor *found, const tarni_tensor *t)
{
    float *out = b->floats;
    size_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        n *= t->dims[i];
    for (size_t i = 0; i < n; i++)
        out[i] = item_of(found, i);
    b->floats += n;
    return out;
}

static void bind_expert(binder *b, tarni_moe_weights *moe, const tarni_tensor *t,
                        tarnk_matrix matrix)
{
    size_t n = b->spec->n_experts;
    if (!moe->w1) { /* the layer's first expert takes the arrays of all */
        moe->w1 = b->experts;
        moe->w3 = b->experts + n;
        moe->w2 = b->experts + 2 * n;
        b->experts += 3 * n;
    }
    const tarnk_matrix *array = t->part == TARNI_PART_W1   ? moe->w1
                                : t->part == TARNI_PART_W3 ? moe->w3
                                                           : moe->w2;
    ((tarnk_matrix *)(uintptr_t)array)[t->expert] = matrix;
}

/* A tensor as the member it is: `matrix`, or where it is none `vector`. */
static void bind_part(binder *b, const tarni_tensor *t, tarnk_matrix matrix, const float *vector)
{
    tarni_weights *w = b->weights;
    tarni_layer_weights *layer = &w->layers[t->layer];
    if (t->part == TARNI_PART_EMBED)
        w->embed = matrix;
    else if (t->part == TARNI_PART_LM_HEAD)
        w->lm_head = matrix;
    else if (t->part == TARNI_PART_NORM)
        w->norm = vector;
    else if (t->part >= TARNI_PART_W1 && t->part <= TARNI_PART_W2)
        bind_expert(b, &layer->moe, t, matrix);
    else if (is_matrix(t))
        *(tarnk_matrix *)((char *)layer + MEMBERS[t->part]) = matrix;
    else
        *(const float **)((char *)layer + MEMBERS[t->part]) = vector;
}

static tarn_status bind_tensor(void *user, const tarni_tensor *t)
{
    binder *b = user;
    const tarni_safetensor *found = tarni_safetensors_find(b->set, t->name);
    TARN_ASSERT(found != NULL);
    if (is_matrix(t))
        bind_part(b, t, matrix_of(found, t), NULL);
    else
        bind_part(b, t, (tarnk_matrix){0}, upcast(b, found, t));
    return TARN_OK;
}

/* ---- a shape alone --------------------------------------------------------------------------- */

static tarn_status count_shaped(void *user, const tarni_tensor *t)
{
    binder *b = user;
    const uint64_t dims[4] = {t->dims[0], t->dims[1], t->dims[2], t->dims[3]};
    uint64_t n_items = count_items(dims, t->n_dims);
    b->n_tensors++;
    b->n_experts += t->part >= TARNI_PART_W1 && t->part <= TARNI_PART_W2;
    b->weights->n_parameters += n_items;
    b->weights->n_bytes += n_items * (t->dtype == TARNK_BF16 ? 2 : 4);
    return TARN_OK;
}

static tarn_status bind_shaped(void *user, const tarni_tensor *t)
{
    binder *b = user;
    tarni_shaped *s = b->shaped++;
    s->key = b->seed + (uint64_t)(s - b->weights->files->shaped) * 0x9E3779B97F4A7C15u;
    tarni_draw_likeness(b->spec, t, &s->scale, &s->offset);
    const tarnk_matrix matrix = {
        .data = s, .dtype = t->dtype, .n_out = t->dims[0], .n_in = t->dims[1]};
    bind_part(b, t, matrix, (const float *)(const void *)s);
    return TARN_OK;
}

static tarn_status bind_all(binder *b)
{
    tarni_weights *w = b->weights;
    const tarn_allocator *a = w->files->allocator;
    TARNI_TRY(tarni_alloc(a, b->spec->n_layers, sizeof *w->layers, &w->layers, b->err));
    TARNI_TRY(tarni_alloc_aligned(a, b->n_floats, sizeof(float), &w->files->floats, b->err));
    TARNI_TRY(tarni_alloc(a, b->n_experts, sizeof(tarnk_matrix), &w->files->experts, b->err));
    b->floats = w->files->floats;
    b->experts = w->files->experts;
    TARNI_TRY(tarni_spec_tensors(b->spec, w->is_shape ? bind_shaped : bind_tensor, b));
    TARN_ASSERT(b->floats == w->files->floats + b->n_floats);
    TARN_ASSERT(b->experts == w->files->experts + b->n_experts);
    if (b->spec->tied)
        w->lm_head = w->embed;
    for (uint32_t l = 0; l < b->spec->n_layers; l++) {
        w->layers[l].is_mla = b->spec->kinds[l] == TARNI_LAYER_MLA;
        w->layers[l].is_moe = tarni_spec_is_moe(b->spec, l);
        w->layers[l].moe.has_shared = w->layers[l].is_moe && b->spec->n_shared > 0;
    }
    return TARN_OK;
}

typedef struct name_marks {
    const tarni_safetensors *set;
    bool *marks; /* of each tensor of the set */
} name_marks;

static tarn_status mark_name(void *user, const tarni_tensor *t)
{
    name_marks *m = user;
    m->marks[tarni_safetensors_find(m->set, t->name) - m->set->tensors] = true;
    return TARN_OK;
}

/* There are more tensors than the model has: names the first. */
static tarn_status refuse_extra(const tarni_spec *spec, const tarni_safetensors *set,
                                tarn_error *err)
{
    name_marks m = {.set = set};
    TARNI_TRY(tarni_alloc(set->allocator, set->n_tensors, sizeof *m.marks, &m.marks, err));
    tarn_status status = tarni_spec_tensors(spec, mark_name, &m);
    size_t i = 0;
    while (i < set->n_tensors && m.marks[i])
        i++;
    TARN_ASSERT(status == TARN_OK && i < set->n_tensors);
    tarni_free(set->allocator, m.marks);
    return tarni_fail(err, TARN_E_FORMAT, "%s: tensor %.120s is not one of this model's",
                      tarni_safetensors_origin(set, &set->tensors[i]), set->tensors[i].name);
}

/* Everything of opening that reads tensors. */
static tarn_status check_and_bind(binder *b)
{
    TARNI_TRY(tarni_spec_tensors(b->spec, check_tensor, b));
    if (b->n_tensors != b->set->n_tensors)
        TARNI_TRY(refuse_extra(b->spec, b->set, b->err));
    return bind_all(b);
}

tarn_status tarni_weights_open(const char *dir, const tarni_spec *spec,
                               const tarn_allocator *allocator, tarni_weights *out, tarn_error *err)
{
    tarn_status status;
    tarni_filemap_entry entry;
    memset(out, 0, sizeof *out);
    TARNI_TRY(tarni_alloc(allocator, 1, sizeof *out->files, &out->files, err));
    out->files->allocator = allocator;
    TARNI_TRY_GOTO(tarni_safetensors_open(dir, allocator, &out->files->set, err));
    const tarni_safetensors *set = &out->files->set;
    binder b = {.spec = spec, .set = set, .dir = dir, .weights = out, .err = err};
    tarni_filemap_enter(&entry);
    status = check_and_bind(&b);
    tarni_filemap_leave(&entry);
    if (status == TARN_OK)
        status = tarni_weights_check(out, err);
    if (status == TARN_OK)
        return TARN_OK;
fail:
    tarni_weights_close(out);
    return status;
}

tarn_status tarni_weights_shape(const tarni_spec *spec, uint64_t seed,
                                const tarn_allocator *allocator, tarni_weights *out,
                                tarn_error *err)
{
    memset(out, 0, sizeof *out);
    TARNI_TRY(tarni_alloc(allocator, 1, sizeof *out->files, &out->files, err));
    out->files->allocator = allocator;
    out->is_shape = true;
    binder b = {.spec = spec, .weights = out, .seed = seed, .err = err};
    tarn_status status = tarni_spec_tensors(spec, count_shaped, &b);
    if (status == TARN_OK)
        status = tarni_alloc(allocator, b.n_tensors, sizeof *b.shaped, &out->files->shaped, err);
    b.shaped = out->files->shaped;
    if (status == TARN_OK)
        status = bind_all(&b);
    if (status != TARN_OK)
        tarni_weights_close(out);
    return status;
}

tarn_status tarni_weights_check(const tarni_weights *weights, tarn_error *err)
{
    return tarni_safetensors_check(&weights->files->set, err);
}

void tarni_weights_close(tarni_weights *weights)
{
    tarni_weight_files *files = weights->files;
    if (files) {
        const tarn_allocator *a = files->allocator;
        tarni_free(a, weights->layers);
        tarni_free(a, files->experts);
        tarni_free_aligned(a, files->floats);
        tarni_free(a, files->shaped);
        tarni_safetensors_close(&files->set);
        tarni_free(a, files);
    }
    memset(weights, 0, sizeof *weights);
}
