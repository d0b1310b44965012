#include "api.h"
#include "synth.h"

#include <sodium.h>
#include <string.h>

tarn_status tarn_model_open(const char *dir, const tarn_model_options *options, tarn_model **out,
                            tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = NULL;
    TARNI_API_REQUIRE(dir);
    tarn_model_options o;
    tarn_allocator a;
    tarn_model *model;
    TARNI_TRY(tarni_api_options(&o, sizeof o, options, "tarn_model_options", err));
    if (o.flags & ~(uint32_t)(TARN_MODEL_TOKENIZER_ONLY | TARN_MODEL_VERIFY | TARN_MODEL_SHAPE))
        return tarni_fail(err, TARN_E_INVALID, "tarn_model_options: flags are %#x", o.flags);
    TARNI_TRY(tarni_allocator_check(o.allocator, &a, err));
    TARNI_TRY(tarni_alloc(&a, 1, sizeof *model, &model, err));
    tarn_status status =
        o.flags & TARN_MODEL_SHAPE
            ? tarni_model_init_shape(&model->model, dir, &a, o.log, err)
            : tarni_model_init(&model->model, dir, o.flags & TARN_MODEL_TOKENIZER_ONLY,
                               o.flags & TARN_MODEL_VERIFY, o.cache_dir, &a, o.log, err);
    if (status != TARN_OK) {
        tarni_free(&a, model);
        return status;
    }
    *out = model;
    return TARN_OK;
}

void tarn_model_close(tarn_model *model)
{
    if (!model)
        return;
    tarn_allocator a = model->model.allocator;
    tarni_model_fini(&model->model);
    tarni_free(&a, model);
}

/* Is it used only for rows whose logits are wanted, on the CPU? */
static bool is_tail(const tarni_spec *spec, const tarni_tensor *t)
{
    return t->layer + 1 == spec->n_layers && spec->kinds[t->layer] == TARNI_LAYER_MLA &&
           (t->part >= TARNI_PART_MLA_KV_B || t->part == TARNI_PART_MLA_Q ||
            t->part == TARNI_PART_FFN_NORM);
}

typedef struct step_cost {
    const tarni_spec *spec;
    tarn_model_info *info;
    uint32_t moe_layer; /* whose first expert is weighed */
} step_cost;

static tarn_status add_step_bytes(void *user, const tarni_tensor *t)
{
    const step_cost *cost = user;
    tarn_model_info *info = cost->info;
    uint64_t n_bytes = t->dtype == TARNK_BF16 ? 2 : 4;
    for (uint32_t i = 0; i < t->n_dims; i++)
        n_bytes *= t->dims[i];
    if (t->part >= TARNI_PART_W1 && t->part <= TARNI_PART_W2) {
        info->expert_bytes += t->layer == cost->moe_layer && t->expert == 0 ? n_bytes : 0;
        return TARN_OK;
    }
    info->step_weight_bytes += t->part == TARNI_PART_EMBED ? 0 : n_bytes;
    info->logits_weight_bytes += t->part == TARNI_PART_LM_HEAD ? n_bytes : 0;
    info->tail_weight_bytes += is_tail(cost->spec, t) ? n_bytes : 0;
    return TARN_OK;
}

/* Fills what a step costs. */
static tarn_status describe_step(const tarni_spec *spec, tarn_model_info *info)
{
    step_cost cost = {.spec = spec, .info = info};
    for (uint32_t l = 0; l < spec->n_layers; l++)
        if (tarni_spec_is_moe(spec, l)) {
            cost.moe_layer = l;
            info->n_moe_layers++;
        }
    TARNI_TRY(tarni_spec_tensors(spec, add_step_bytes, &cost));
    info->n_experts = spec->n_experts;
    info->experts_per_token = spec->top_k;
    if (spec->tied) {
        info->logits_weight_bytes =
            (uint64_t)spec->vocab * spec->hidden * (spec->dtype == TARNK_BF16 ? 2 : 4);
        info->step_weight_bytes += info->logits_weight_bytes;
    }
    info->recurrence_flops_per_token =
        7ULL * spec->n_kda * spec->kda_heads * spec->kda_dim * spec->kda_dim;
    info->attention_flops_per_key =
        2ULL * spec->n_mla * spec->mla_heads * (2ULL * spec->rank + spec->rope);
    return TARN_OK;
}

tarn_status tarn_model_describe(tarn_model *model, tarn_numerics numerics, tarn_model_info *out,
                                tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(model);
    TARNI_API_REQUIRE(out);
    if (numerics != TARN_NUMERICS_NATIVE && numerics != TARN_NUMERICS_F32)
        return tarni_fail(err, TARN_E_INVALID, "numerics is %d, must be native or f32",
                          (int)numerics);
    TARNI_TRY(tarni_model_need_weights(&model->model, err));
    const tarni_spec *spec = &model->model.spec;
    tarni_layout layout;
    tarni_identity identity;
    tarni_layout_init(
        spec, numerics == TARN_NUMERICS_F32 ? TARNI_NUMERICS_F32 : TARNI_NUMERICS_NATIVE, &layout);
    TARNI_TRY(tarni_model_identity(&model->model, &layout, &identity, err));
    tarn_model_info info = {
        .size = out->size,
        .n_parameters = model->model.weights.n_parameters,
        .weights_bytes = model->model.weights.n_bytes,
        .vocab = spec->vocab,
        .context = spec->context,
        .n_kda_layers = spec->n_kda,
        .n_mla_layers = spec->n_mla,
        .state_bytes = (uint64_t)layout.state_bytes * layout.n_kda,
        .conv_bytes = (uint64_t)layout.conv_bytes * layout.n_kda,
        .latent_bytes_per_token = (uint64_t)layout.latent_row_bytes * layout.n_mla,
    };
    sodium_bin2hex(info.fingerprint, sizeof info.fingerprint, identity.fp, sizeof identity.fp);
    TARNI_TRY(describe_step(spec, &info));
    tarni_api_result(out, &info, sizeof info);
    return TARN_OK;
}

static tarn_status need_tokenizer(const tarn_model *model, tarn_error *err)
{
    if (!model->model.tokenizer)
        return tarni_fail(err, TARN_E_UNSUPPORTED, "%s has no tokenizer", model->model.dir);
    return TARN_OK;
}

tarn_status tarn_model_tokenize(const tarn_model *model, const char *text, size_t n_bytes,
                                bool specials, tarn_ids *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = (tarn_ids){0};
    TARNI_API_REQUIRE(model);
    if (n_bytes > 0)
        TARNI_API_REQUIRE(text);
    TARNI_TRY(need_tokenizer(model, err));
    tarni_ids ids;
    tarni_ids_init(&ids, &model->model.allocator);
    tarn_status status =
        tarni_tokenizer_encode(model->model.tokenizer, text, n_bytes, specials, &ids, err);
    if (status == TARN_OK)
        tarni_api_give_ids(&ids, out);
    tarni_ids_fini(&ids);
    return status;
}

tarn_status tarn_model_detokenize(const tarn_model *model, const uint32_t *ids, size_t n_ids,
                                  tarn_text *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = (tarn_text){0};
    TARNI_API_REQUIRE(model);
    if (n_ids > 0)
        TARNI_API_REQUIRE(ids);
    TARNI_TRY(need_tokenizer(model, err));
    tarni_writer w;
    tarni_writer_init(&w, &model->model.allocator);
    tarn_status status = tarni_tokenizer_decode(model->model.tokenizer, ids, n_ids, &w, err);
    tarni_put_u8(&w, 0);
    if (status == TARN_OK && w.failed)
        status = tarni_fail_memory(err, w.n_bytes);
    if (status != TARN_OK) {
        tarni_writer_fini(&w);
        return status;
    }
    *out = (tarn_text){(char *)w.data, w.n_bytes - 1, model->model.allocator};
    return TARN_OK;
}

tarn_status tarn_model_render_chat(const tarn_model *model, const char *json, size_t n_bytes,
                                   tarn_ids *out, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_REQUIRE(out);
    *out = (tarn_ids){0};
    TARNI_API_REQUIRE(model);
    TARNI_API_REQUIRE(json);
    TARNI_TRY(need_tokenizer(model, err));
    tarni_chat chat;
    TARNI_TRY(tarni_chat_init(&chat, model->model.tokenizer, err));
    tarni_ids ids;
    tarni_ids_init(&ids, &model->model.allocator);
    tarn_status status = tarni_chat_conversation(&chat, json, n_bytes, &ids, err);
    if (status == TARN_OK)
        tarni_api_give_ids(&ids, out);
    tarni_ids_fini(&ids);
    return status;
}

static tarn_status synth_spec(const tarn_synth_options *o, const tarn_allocator *a, tarni_spec *out,
                              tarn_error *err)
{
    if (!o->preset == !o->config)
        return tarni_fail(err, TARN_E_INVALID, "one of preset and config must be given");
    if (o->preset)
        return tarni_synth_preset(o->preset, out, err);
    return tarni_spec_load_file(o->config, a, out, err);
}

tarn_status tarn_model_synth(const char *dir, const tarn_synth_options *options,
                             uint64_t *n_parameters, uint64_t *n_bytes, tarn_error *err)
{
    TARNI_API_ERROR(err);
    TARNI_API_CLEAR(n_parameters);
    TARNI_API_CLEAR(n_bytes);
    TARNI_API_REQUIRE(dir);
    TARNI_API_REQUIRE(options);
    tarn_synth_options o;
    tarn_allocator a;
    tarni_spec spec;
    uint64_t parameters, bytes;
    TARNI_TRY(tarni_api_options(&o, sizeof o, options, "tarn_synth_options", err));
    TARNI_TRY(tarni_allocator_check(o.allocator, &a, err));
    TARNI_TRY(synth_spec(&o, &a, &spec, err));
    tarni_synth_options s = {
        .seed = o.seed, .dry_run = o.dry_run, .progress = o.progress, .user = o.user};
    TARNI_TRY(tarni_synth_write(dir, &spec, &s, &a, &parameters, &bytes, err));
    if (n_parameters)
        *n_parameters = parameters;
    if (n_bytes)
        *n_bytes = bytes;
    return TARN_OK;
}
