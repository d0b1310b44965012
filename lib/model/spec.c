/* spec.c - reading config.json into a tarni_spec.
 *
 * The field names and defaults are those of the published configuration class. Sizes come from one
 * table, SIZES; what needs a rule of its own is read below it. Everything else in the file must be
 * on IGNORED or switched off: a checkpoint of a relative (Kimi K3's text part carries the same
 * model_type) is told apart by its switches and by nothing else, and running it without them would
 * be silently wrong. Deriving the layer kinds from a modulus was rejected: the published model
 * breaks its own rule in the last layer, so both lists are required and must agree. */
#include "spec.h"
#include "fields.h"
#include "jsonload.h"
#include "paths.h"
#include "readfile.h"

#include <string.h>

#define MODEL_TYPE       "kimi_linear"
#define KV_NORM_EPS      1e-6f
#define DEFAULT_NORM_EPS 1e-6f
#define VALUES_MAX       (1u << 16)

typedef struct size_field {
    const char *name;
    size_t offset; /* of a uint32_t in tarni_spec */
    uint32_t lo, hi;
    uint64_t absent;
} size_field;

#define SIZE(name, member, lo, hi, absent)                                                         \
    {                                                                                              \
        (name), offsetof(tarni_spec, member), (lo), (hi), (absent)                                 \
    }
#define REQUIRED TARNI_FIELD_REQUIRED

static const size_field SIZES[] = {
    SIZE("vocab_size", vocab, 2, TARNI_VOCAB_MAX, 163840),
    SIZE("hidden_size", hidden, 1, TARNI_DIM_MAX, 4096),
    SIZE("num_hidden_layers", n_layers, 1, TARNI_LAYERS_MAX, 32),
    SIZE("num_attention_heads", mla_heads, 1, TARNI_DIM_MAX, 32),
    SIZE("qk_nope_head_dim", nope, 1, TARNI_DIM_MAX, REQUIRED),
    SIZE("qk_rope_head_dim", rope, 1, TARNI_DIM_MAX, REQUIRED),
    SIZE("v_head_dim", v_dim, 1, TARNI_DIM_MAX, REQUIRED),
    SIZE("kv_lora_rank", rank, 1, TARNI_DIM_MAX, REQUIRED),
    SIZE("intermediate_size", dense_width, 1, TARNI_DIM_MAX, 11008),
    SIZE("first_k_dense_replace", first_moe, 0, TARNI_DIM_MAX, 0),
    SIZE("moe_layer_freq", moe_freq, 1, TARNI_LAYERS_MAX, 1),
    SIZE("num_experts", n_experts, 0, TARNK_EXPERTS_MAX, 0),
    SIZE("num_expert_group", n_groups, 1, TARNK_EXPERTS_MAX, 1),
    SIZE("topk_group", groups_kept, 1, TARNK_EXPERTS_MAX, 1),
};

static const size_field EXPERT_SIZES[] = {
    SIZE("num_experts_per_token", top_k, 1, TARNK_EXPERTS_MAX, REQUIRED),
    SIZE("moe_intermediate_size", expert_width, 1, TARNI_DIM_MAX, REQUIRED),
    SIZE("num_shared_experts", n_shared, 0, TARNK_EXPERTS_MAX, 0),
};

static const size_field KDA_SIZES[] = {
    SIZE("num_heads", kda_heads, 1, TARNI_DIM_MAX, REQUIRED),
    SIZE("head_dim", kda_dim, 1, TARNK_KDA_K_MAX, REQUIRED),
    SIZE("short_conv_kernel_size", conv_width, TARNI_CONV_WIDTH_MIN, TARNI_CONV_WIDTH_MAX,
         REQUIRED),
};

/* Word lists read better in lines. */
/* clang-format off */

/* Read outside the tables. */
static const char *const OTHERS[] = {
    "model_type", "hidden_act", "mla_use_nope", "num_key_value_heads", "rms_norm_eps",
    "linear_attn_config", "model_max_length", "max_position_embeddings", "use_grouped_topk",
    "moe_router_activation_func", "moe_renormalize", "routed_scaling_factor",
    "tie_word_embeddings", "dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id",
    "num_nextn_predict_layers", "topk_method"};

static const char *const KDA_OTHERS[] = {"kda_layers", "full_attn_layers", "gate_lower_bound"};

/* Change nothing in the graph, whatever they hold. `head_dim` and the rope fields are left over
 * from other families; no part of this graph reads them. */
static const char *const IGNORED[] = {
    "architectures", "auto_map", "transformers_version", "use_cache", "initializer_range",
    "head_dim", "rope_theta", "attention_dropout", "name_or_path", "return_dict",
    "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "id2label", "label2id",
    "problem_type", "task_specific_params", "tokenizer_class", "pretraining_tp",
    "unk_token_id", "_name_or_path", "_commit_hash", "_attn_implementation", "ep_size",
    "aux_loss_alpha", "seq_aux"};

/* clang-format on */

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static bool is_listed(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, list[i]) == 0)
            return true;
    return false;
}

static bool is_size(const char *name, const size_field *sizes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, sizes[i].name) == 0)
            return true;
    return false;
}

bool tarni_spec_is_moe(const tarni_spec *spec, uint32_t l)
{
    return spec->n_experts > 0 && l >= spec->first_moe && l % spec->moe_freq == 0;
}

static tarn_status read_sizes(const tarni_fields *f, const size_field *sizes, size_t n,
                              tarni_spec *out, tarn_error *err)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t *member = (uint32_t *)((char *)out + sizes[i].offset);
        TARNI_TRY(tarni_field_u32(f, sizes[i].name, sizes[i].lo, sizes[i].hi, sizes[i].absent,
                                  member, err));
    }
    return TARN_OK;
}

static tarn_status refuse(const tarni_fields *f, const char *name, tarn_error *err)
{
    return tarni_field_fail(f, name, TARN_E_UNSUPPORTED, "which this version does not run", err);
}

static tarn_status refuse_unknown_fields(const tarni_fields *root, tarn_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(root->object, name, value) {
        if (json_is_null(value) || json_is_false(value) || is_size(name, SIZES, COUNT(SIZES)) ||
            is_size(name, EXPERT_SIZES, COUNT(EXPERT_SIZES)) ||
            is_listed(name, OTHERS, COUNT(OTHERS)) || is_listed(name, IGNORED, COUNT(IGNORED)))
            continue;
        return refuse(root, name, err);
    }
    return TARN_OK;
}

static tarn_status refuse_unknown_kda_fields(const tarni_fields *kda, tarn_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(kda->object, name, value) {
        if (json_is_null(value) || json_is_false(value) ||
            is_size(name, KDA_SIZES, COUNT(KDA_SIZES)) ||
            is_listed(name, KDA_OTHERS, COUNT(KDA_OTHERS)))
            continue;
        return refuse(kda, name, err);
    }
    return TARN_OK;
}

/* The field must hold `only`, its one supported value; absent counts as `only` too. */
static tarn_status require_text(const tarni_fields *f, const char *name, const char *only,
                                tarn_error *err)
{
    const char *text;
    TARNI_TRY(tarni_field_text(f, name, only, &text, err));
    return strcmp(text, only) == 0 ? TARN_OK : refuse(f, name, err);
}

static tarn_status read_model_type(const tarni_fields *root, tarn_error *err)
{
    const char *type;
    TARNI_TRY(tarni_field_text(root, "model_type", NULL, &type, err));
    if (strcmp(type, MODEL_TYPE) != 0)
        return tarni_field_fail(root, "model_type", TARN_E_UNSUPPORTED,
                                "should be \"" MODEL_TYPE "\"", err);
    return TARN_OK;
}

static tarn_status read_switches(const tarni_fields *root, tarni_spec *out, tarn_error *err)
{
    uint32_t n_predict;
    bool nope, grouped;
    TARNI_TRY(require_text(root, "hidden_act", "silu", err));
    TARNI_TRY(require_text(root, "topk_method", "noaux_tc", err));
    TARNI_TRY(tarni_field_u32(root, "num_nextn_predict_layers", 0, 0, 0, &n_predict, err));
    TARNI_TRY(tarni_field_bool(root, "mla_use_nope", false, &nope, err));
    if (!nope)
        return tarni_field_fail(root, "mla_use_nope", TARN_E_UNSUPPORTED, "should be true", err);
    TARNI_TRY(tarni_field_bool(root, "use_grouped_topk", true, &grouped, err));
    if (!grouped && out->n_groups > 1)
        return refuse(root, "use_grouped_topk", err);
    TARNI_TRY(tarni_field_bool(root, "tie_word_embeddings", false, &out->tied, err));
    TARNI_TRY(tarni_field_float(root, "rms_norm_eps", DEFAULT_NORM_EPS, &out->eps, err));
    if (!(out->eps > 0 && out->eps < 1))
        return tarni_field_fail(root, "rms_norm_eps", TARN_E_FORMAT, "should be between 0 and 1",
                                err);
    out->kv_norm_eps = KV_NORM_EPS;
    return TARN_OK;
}

static tarn_status read_dtype(const tarni_fields *root, tarni_spec *out, tarn_error *err)
{
    const char *name = tarni_field_find(root, "dtype") ? "dtype" : "torch_dtype", *dtype;
    if (!tarni_field_find(root, name))
        name = "dtype";
    TARNI_TRY(tarni_field_text(root, name, NULL, &dtype, err));
    if (strcmp(dtype, "bfloat16") == 0)
        out->dtype = TARNK_BF16;
    else if (strcmp(dtype, "float32") == 0)
        out->dtype = TARNK_F32;
    else
        return tarni_field_fail(root, name, TARN_E_UNSUPPORTED, "should be bfloat16 or float32",
                                err);
    return TARN_OK;
}

static tarn_status read_context(const tarni_fields *root, tarni_spec *out, tarn_error *err)
{
    const char *name = tarni_field_find(root, "max_position_embeddings") &&
                               !tarni_field_find(root, "model_max_length")
                           ? "max_position_embeddings"
                           : "model_max_length";
    return tarni_field_u32(root, name, 1, TARNI_CONTEXT_MAX, REQUIRED, &out->context, err);
}

/* One of the two 1-indexed layer lists. */
static tarn_status read_layer_list(const tarni_fields *kda, const char *name, tarni_layer_kind kind,
                                   tarni_spec *out, uint32_t *n_layers, tarn_error *err)
{
    json_t *list, *value;
    size_t i;
    TARNI_TRY(tarni_field_container(kda, name, JSON_ARRAY, &list, err));
    if (json_array_size(list) == 0)
        return refuse(kda, name, err);
    json_array_foreach(list, i, value) {
        json_int_t layer = json_is_integer(value) ? json_integer_value(value) : 0;
        const char *file = tarni_path_tail(kda->origin);
        if (layer < 1 || layer > out->n_layers)
            return tarni_fail(err, TARN_E_FORMAT,
                              "%s: field %s%s, entry %zu is not a layer from 1 to %u", file,
                              kda->prefix, name, i, out->n_layers);
        if (out->kinds[layer - 1] != 0)
            return tarni_fail(err, TARN_E_FORMAT, "%s: field %s%s, layer %lld is listed twice",
                              file, kda->prefix, name, (long long)layer);
        out->kinds[layer - 1] = (uint8_t)kind;
    }
    *n_layers = (uint32_t)json_array_size(list);
    return TARN_OK;
}

static tarn_status read_kda(const tarni_fields *root, tarni_spec *out, tarn_error *err)
{
    tarni_fields kda = {.origin = root->origin, .prefix = "linear_attn_config."};
    TARNI_TRY(tarni_field_container(root, "linear_attn_config", JSON_OBJECT, &kda.object, err));
    TARNI_TRY(refuse_unknown_kda_fields(&kda, err));
    TARNI_TRY(read_sizes(&kda, KDA_SIZES, COUNT(KDA_SIZES), out, err));
    TARNI_TRY(read_layer_list(&kda, "kda_layers", TARNI_LAYER_KDA, out, &out->n_kda, err));
    TARNI_TRY(read_layer_list(&kda, "full_attn_layers", TARNI_LAYER_MLA, out, &out->n_mla, err));
    for (uint32_t l = 0; l < out->n_layers; l++)
        if (out->kinds[l] == 0)
            return tarni_fail(err, TARN_E_FORMAT,
                              "%s: layer %u is neither in kda_layers nor in full_attn_layers",
                              tarni_path_tail(root->origin), l + 1);
    out->gate_kind = TARNK_GATE_SOFTPLUS;
    if (tarni_field_find(&kda, "gate_lower_bound")) {
        out->gate_kind = TARNK_GATE_BOUNDED;
        TARNI_TRY(tarni_field_float(&kda, "gate_lower_bound", 0, &out->gate_lower_bound, err));
        if (!(out->gate_lower_bound < 0))
            return tarni_field_fail(&kda, "gate_lower_bound", TARN_E_FORMAT,
                                    "should be below 0, or null", err);
    }
    return TARN_OK;
}

static tarn_status read_moe(const tarni_fields *root, tarni_spec *out, tarn_error *err)
{
    const char *router;
    TARNI_TRY(tarni_field_bool(root, "moe_renormalize", true, &out->renormalize, err));
    TARNI_TRY(tarni_field_float(root, "routed_scaling_factor", 1, &out->routed_scale, err));
    TARNI_TRY(tarni_field_text(root, "moe_router_activation_func", "sigmoid", &router, err));
    if (strcmp(router, "sigmoid") == 0)
        out->router_kind = TARNK_ROUTER_SIGMOID;
    else if (strcmp(router, "softmax") == 0)
        out->router_kind = TARNK_ROUTER_SOFTMAX;
    else
        return refuse(root, "moe_router_activation_func", err);
    if (out->n_experts == 0)
        return TARN_OK;
    TARNI_TRY(read_sizes(root, EXPERT_SIZES, COUNT(EXPERT_SIZES), out, err));
    if (out->n_experts % out->n_groups != 0)
        return tarni_field_fail(root, "num_expert_group", TARN_E_FORMAT,
                                "should divide num_experts", err);
    uint32_t group = out->n_experts / out->n_groups;
    if (out->n_groups > 1 && group < 2)
        return tarni_field_fail(root, "num_expert_group", TARN_E_FORMAT,
                                "should leave two experts a group", err);
    if (out->groups_kept > out->n_groups)
        return tarni_field_fail(root, "topk_group", TARN_E_FORMAT,
                                "should not exceed num_expert_group", err);
    if (out->top_k > out->groups_kept * group)
        return tarni_field_fail(root, "num_experts_per_token", TARN_E_FORMAT,
                                "which is more than there are experts to choose from", err);
    if (out->n_shared > TARNI_DIM_MAX / out->expert_width)
        return tarni_field_fail(root, "num_shared_experts", TARN_E_UNSUPPORTED,
                                "which makes the shared expert too wide", err);
    return TARN_OK;
}

static tarn_status check_widths(const tarni_fields *root, const tarni_spec *spec, tarn_error *err)
{
    uint32_t kv_heads;
    TARNI_TRY(tarni_field_u32(root, "num_key_value_heads", 1, TARNI_DIM_MAX, spec->mla_heads,
                              &kv_heads, err));
    if (kv_heads != spec->mla_heads)
        return tarni_field_fail(root, "num_key_value_heads", TARN_E_UNSUPPORTED,
                                "should equal num_attention_heads", err);
    if ((uint64_t)spec->mla_heads * ((uint64_t)spec->nope + spec->rope + spec->v_dim) >
        TARNI_DIM_MAX)
        return tarni_field_fail(root, "num_attention_heads", TARN_E_UNSUPPORTED,
                                "which makes the heads too wide together", err);
    if ((uint64_t)spec->kda_heads * spec->kda_dim > TARNI_DIM_MAX)
        return tarni_field_fail(root, "linear_attn_config", TARN_E_UNSUPPORTED,
                                "which makes the heads too wide together", err);
    return TARN_OK;
}

static tarn_status read_root(const tarni_fields *root, tarni_spec *out, tarn_error *err)
{
    TARNI_TRY(read_model_type(root, err));
    TARNI_TRY(refuse_unknown_fields(root, err));
    TARNI_TRY(read_sizes(root, SIZES, COUNT(SIZES), out, err));
    TARNI_TRY(read_switches(root, out, err));
    TARNI_TRY(read_dtype(root, out, err));
    TARNI_TRY(read_context(root, out, err));
    TARNI_TRY(read_kda(root, out, err));
    TARNI_TRY(read_moe(root, out, err));
    TARNI_TRY(check_widths(root, out, err));
    TARNI_TRY(
        tarni_field_u32(root, "bos_token_id", 0, out->vocab - 1, UINT32_MAX, &out->bos_id, err));
    TARNI_TRY(
        tarni_field_u32(root, "eos_token_id", 0, out->vocab - 1, UINT32_MAX, &out->eos_id, err));
    return tarni_field_u32(root, "pad_token_id", 0, out->vocab - 1, UINT32_MAX, &out->pad_id, err);
}

tarn_status tarni_spec_parse(const char *json, size_t n_bytes, const char *origin, tarni_spec *out,
                             tarn_error *err)
{
    memset(out, 0, sizeof *out);
    if (n_bytes > TARNI_SPEC_BYTES_MAX)
        return tarni_fail(err, TARN_E_FORMAT, "%s: is %zu bytes, the limit is %u",
                          tarni_path_tail(origin), n_bytes, TARNI_SPEC_BYTES_MAX);
    json_t *object;
    TARNI_TRY(tarni_json_load(tarni_path_tail(origin), json, n_bytes, VALUES_MAX, 0, &object, err));
    tarni_spec spec;
    memset(&spec, 0, sizeof spec);
    tarni_fields root = {.object = object, .origin = origin, .prefix = ""};
    tarn_status status = read_root(&root, &spec, err);
    json_decref(object);
    if (status == TARN_OK)
        *out = spec;
    return status;
}

tarn_status tarni_spec_load_file(const char *path, const tarn_allocator *allocator, tarni_spec *out,
                                 tarn_error *err)
{
    char *text = NULL;
    size_t n_bytes = 0;
    memset(out, 0, sizeof *out);
    TARNI_TRY(tarni_read_file(path, TARNI_SPEC_BYTES_MAX, allocator, &text, &n_bytes, err));
    tarn_status status = tarni_spec_parse(text, n_bytes, path, out, err);
    tarni_free(allocator, text);
    return status;
}

tarn_status tarni_spec_load(const char *dir, const tarn_allocator *allocator, tarni_spec *out,
                            tarn_error *err)
{
    char *path;
    memset(out, 0, sizeof *out);
    TARNI_TRY(tarni_path_join(allocator, dir, "config.json", &path, err));
    tarn_status status = tarni_spec_load_file(path, allocator, out, err);
    tarni_free(allocator, path);
    return status;
}
