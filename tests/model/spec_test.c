#include "check.h"
#include "forward.h"
#include "layout.h"
#include "scratch.h"
#include "spec.h"
#include "weights.h"

#include <jansson.h>

/* The published config of the 48B with one value changed: PATH is a key, or OUTER.KEY; value NULL
 * removes it. */
static const char BASE[] =
    "{\"architectures\":[\"KimiLinearForCausalLM\"],\"auto_map\":{},\"bos_token_id\":163584,"
    "\"dtype\":\"bfloat16\",\"eos_token_id\":163586,\"first_k_dense_replace\":1,\"head_dim\":72,"
    "\"hidden_act\":\"silu\",\"hidden_size\":2304,\"initializer_range\":0.02,"
    "\"intermediate_size\":9216,\"kv_lora_rank\":512,\"linear_attn_config\":{"
    "\"full_attn_layers\":[4,8,12,16,20,24,27],\"head_dim\":128,\"kda_layers\":[1,2,3,5,6,7,9,10,"
    "11,13,14,15,17,18,19,21,22,23,25,26],\"num_heads\":32,\"short_conv_kernel_size\":4},"
    "\"mla_use_nope\":true,\"model_max_length\":1048576,\"model_type\":\"kimi_linear\","
    "\"moe_intermediate_size\":1024,\"moe_layer_freq\":1,\"moe_renormalize\":true,"
    "\"moe_router_activation_func\":\"sigmoid\",\"num_attention_heads\":32,\"num_expert_group\":1,"
    "\"num_experts\":256,\"num_experts_per_token\":8,\"num_hidden_layers\":27,"
    "\"num_key_value_heads\":32,\"num_nextn_predict_layers\":0,\"num_shared_experts\":1,"
    "\"pad_token_id\":163839,\"q_lora_rank\":null,\"qk_nope_head_dim\":128,"
    "\"qk_rope_head_dim\":64,\"rms_norm_eps\":1e-05,\"rope_scaling\":null,\"rope_theta\":10000.0,"
    "\"routed_scaling_factor\":2.446,\"tie_word_embeddings\":false,\"topk_group\":1,"
    "\"transformers_version\":\"4.57.1\",\"use_cache\":true,\"use_grouped_topk\":true,"
    "\"v_head_dim\":128,\"vocab_size\":163840}";

static void change(json_t *root, const char *path, const char *value)
{
    const char *dot = strchr(path, '.');
    json_t *object = root;
    if (dot) {
        char outer[64];
        snprintf(outer, sizeof outer, "%.*s", (int)(dot - path), path);
        object = json_object_get(root, outer);
        path = dot + 1;
    }
    if (value)
        json_object_set_new(object, path, json_loads(value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(object, path);
}

static tarn_status parse_changed(const char *path, const char *value, tarni_spec *spec,
                                 tarn_error *err)
{
    json_t *root = json_loads(BASE, 0, NULL);
    if (path)
        change(root, path, value);
    char *text = json_dumps(root, 0);
    memset(err, 0, sizeof *err);
    tarn_status status = tarni_spec_parse(text, strlen(text), "dir/config.json", spec, err);
    free(text);
    json_decref(root);
    return status;
}

CASE(reads_every_field_of_the_published_model)
{
    tarni_spec s;
    tarn_error err;
    REQUIRE_OK(parse_changed(NULL, NULL, &s, &err), &err);
    CHECK_EQ(s.vocab, 163840);
    CHECK_EQ(s.hidden, 2304);
    CHECK_EQ(s.n_layers, 27);
    CHECK_EQ(s.context, 1048576);
    CHECK_EQ(s.n_kda, 20);
    CHECK_EQ(s.n_mla, 7);
    for (uint32_t l = 0; l < 27; l++)
        CHECK_EQ(s.kinds[l], l == 26 || (l < 24 && l % 4 == 3) ? TARNI_LAYER_MLA : TARNI_LAYER_KDA);
    CHECK(s.eps == 1e-5f && s.kv_norm_eps == 1e-6f);
    CHECK_EQ(s.kda_heads, 32);
    CHECK_EQ(s.kda_dim, 128);
    CHECK_EQ(s.conv_width, 4);
    CHECK_EQ(s.gate_kind, TARNK_GATE_SOFTPLUS);
    CHECK_EQ(s.mla_heads, 32);
    CHECK_EQ(s.nope, 128);
    CHECK_EQ(s.rope, 64);
    CHECK_EQ(s.v_dim, 128);
    CHECK_EQ(s.rank, 512);
    CHECK_EQ(s.dense_width, 9216);
    CHECK_EQ(s.first_moe, 1);
    CHECK_EQ(s.moe_freq, 1);
    CHECK_EQ(s.n_experts, 256);
    CHECK_EQ(s.top_k, 8);
    CHECK_EQ(s.expert_width, 1024);
    CHECK_EQ(s.n_shared, 1);
    CHECK_EQ(s.n_groups, 1);
    CHECK_EQ(s.groups_kept, 1);
    CHECK_EQ(s.router_kind, TARNK_ROUTER_SIGMOID);
    CHECK(s.renormalize && !s.tied && s.routed_scale == 2.446f);
    CHECK_EQ(s.dtype, TARNK_BF16);
    CHECK_EQ(s.bos_id, 163584);
    CHECK_EQ(s.eos_id, 163586);
    CHECK_EQ(s.pad_id, 163839);
    CHECK(!tarni_spec_is_moe(&s, 0) && tarni_spec_is_moe(&s, 1) && tarni_spec_is_moe(&s, 26));
}

CASE(absent_fields_have_the_defaults_of_the_reference)
{
    tarni_spec s;
    tarn_error err;
    REQUIRE_OK(parse_changed("rms_norm_eps", NULL, &s, &err), &err);
    CHECK(s.eps == 1e-6f);
    REQUIRE_OK(parse_changed("routed_scaling_factor", NULL, &s, &err), &err);
    CHECK(s.routed_scale == 1.0f);
    REQUIRE_OK(parse_changed("first_k_dense_replace", NULL, &s, &err), &err);
    CHECK(tarni_spec_is_moe(&s, 0));
    REQUIRE_OK(parse_changed("num_shared_experts", NULL, &s, &err), &err);
    CHECK_EQ(s.n_shared, 0);
    REQUIRE_OK(parse_changed("num_key_value_heads", NULL, &s, &err), &err);
    REQUIRE_OK(parse_changed("hidden_act", NULL, &s, &err), &err);
    REQUIRE_OK(parse_changed("moe_router_activation_func", NULL, &s, &err), &err);
    CHECK_EQ(s.router_kind, TARNK_ROUTER_SIGMOID);
    REQUIRE_OK(parse_changed("eos_token_id", NULL, &s, &err), &err);
    CHECK(s.eos_id == UINT32_MAX);
    REQUIRE_OK(parse_changed("num_experts", NULL, &s, &err), &err);
    CHECK(s.n_experts == 0 && !tarni_spec_is_moe(&s, 5));
    REQUIRE_OK(parse_changed("vocab_size", NULL, &s, &err), &err);
    CHECK_EQ(s.vocab, 163840);
}

CASE(accepts_what_changes_nothing_or_is_supported)
{
    static const char *const fields[][2] = {
        {"hidden_size", "2304.0"},
        {"moe_layer_freq", "2"},
        {"moe_router_activation_func", "\"softmax\""},
        {"moe_renormalize", "false"},
        {"tie_word_embeddings", "true"},
        {"linear_attn_config.gate_lower_bound", "null"},
        {"linear_attn_config.use_full_rank_gate", "false"},
        {"mla_use_output_gate", "false"},
        {"attn_res_block_size", "null"},
        {"quantization_config", "null"},
        {"topk_method", "\"noaux_tc\""},
        {"_name_or_path", "\"x\""},
        {"rope_theta", "5e5"},
    };
    tarni_spec s;
    tarn_error err;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (parse_changed(fields[i][0], fields[i][1], &s, &err) != TARN_OK)
            CHECK_FAIL("%s = %s: %s", fields[i][0], fields[i][1], err.detail);
    REQUIRE_OK(parse_changed("linear_attn_config.gate_lower_bound", "-5.0", &s, &err), &err);
    CHECK(s.gate_kind == TARNK_GATE_BOUNDED && s.gate_lower_bound == -5.0f);
    REQUIRE_OK(parse_changed("moe_layer_freq", "2", &s, &err), &err);
    CHECK(!tarni_spec_is_moe(&s, 1) && tarni_spec_is_moe(&s, 2));
    REQUIRE_OK(parse_changed("linear_attn_config.short_conv_kernel_size", "8", &s, &err), &err);
    CHECK_EQ(s.conv_width, 8);
}

typedef struct refusal {
    const char *path, *value;
    tarn_status status;
    const char *names; /* in the detail */
} refusal;

#define FORMAT      TARN_E_FORMAT
#define UNSUPPORTED TARN_E_UNSUPPORTED

static const refusal REFUSALS[] = {
    {"model_type", "\"kimi_k3\"", UNSUPPORTED, "field model_type is \"kimi_k3\""},
    {"model_type", NULL, FORMAT, "model_type is missing"},
    {"model_type", "7", FORMAT, "model_type is 7"},
    {"text_config", "{\"model_type\":\"kimi_linear\"}", UNSUPPORTED, "field text_config is"},
    {"q_lora_rank", "1536", UNSUPPORTED, "field q_lora_rank is 1536"},
    {"mla_use_nope", "false", UNSUPPORTED, "field mla_use_nope is false"},
    {"mla_use_nope", NULL, UNSUPPORTED, "mla_use_nope is missing"},
    {"mla_use_nope", "1", FORMAT, "mla_use_nope is 1"},
    {"hidden_act", "\"situ\"", UNSUPPORTED, "field hidden_act is \"situ\""},
    {"hidden_act", "[]", FORMAT, "hidden_act"},
    {"quantization_config", "{\"bits\":4}", UNSUPPORTED, "quantization_config"},
    {"linear_attn_config.use_full_rank_gate", "true", UNSUPPORTED,
     "linear_attn_config.use_full_rank_gate is true"},
    {"mla_use_output_gate", "true", UNSUPPORTED, "mla_use_output_gate"},
    {"routed_expert_hidden_size", "3584", UNSUPPORTED, "routed_expert_hidden_size is 3584"},
    {"attn_res_block_size", "12", UNSUPPORTED, "attn_res_block_size is 12"},
    {"activation_situ_beta", "4.0", UNSUPPORTED, "activation_situ_beta is 4.0"},
    {"activation_situ_linear_beta", "25.0", UNSUPPORTED, "activation_situ_linear_beta"},
    {"latent_moe_use_norm", "true", UNSUPPORTED, "latent_moe_use_norm"},
    {"num_nextn_predict_layers", "1", UNSUPPORTED, "num_nextn_predict_layers is 1"},
    {"rope_scaling", "{\"type\":\"yarn\"}", UNSUPPORTED, "rope_scaling"},
    {"some_new_switch", "3", UNSUPPORTED, "some_new_switch is 3"},
    {"topk_method", "\"greedy\"", UNSUPPORTED, "topk_method"},
    {"moe_router_activation_func", "\"tanh\"", UNSUPPORTED, "moe_router_activation_func"},
    {"num_key_value_heads", "8", UNSUPPORTED, "num_key_value_heads is 8"},
    {"dtype", "\"float16\"", UNSUPPORTED, "dtype is \"float16\""},
    {"dtype", NULL, FORMAT, "dtype is missing"},
    {"linear_attn_config", NULL, FORMAT, "linear_attn_config is missing"},
    {"linear_attn_config", "[]", FORMAT, "linear_attn_config is []"},
    {"linear_attn_config.kda_layers", NULL, FORMAT, "kda_layers is missing"},
    {"linear_attn_config.kda_layers", "[1,2,3]", FORMAT, "layer 5 is neither in kda_layers"},
    {"linear_attn_config.kda_layers", "[1,1]", FORMAT, "layer 1 is listed twice"},
    {"linear_attn_config.kda_layers", "[0]", FORMAT, "kda_layers, entry 0 is not a layer"},
    {"linear_attn_config.kda_layers", "[28]", FORMAT, "kda_layers, entry 0 is not a layer"},
    {"linear_attn_config.kda_layers", "[1.5]", FORMAT, "kda_layers, entry 0 is not a layer"},
    {"linear_attn_config.kda_layers", "[]", UNSUPPORTED, "linear_attn_config.kda_layers is []"},
    {"linear_attn_config.full_attn_layers", "[3,4]", FORMAT, "layer 3 is listed twice"},
    {"linear_attn_config.gate_lower_bound", "0", FORMAT, "gate_lower_bound is 0"},
    {"linear_attn_config.gate_lower_bound", "\"-5\"", FORMAT, "gate_lower_bound is \"-5\""},
    {"linear_attn_config.short_conv_kernel_size", "1", FORMAT, "short_conv_kernel_size is 1"},
    {"linear_attn_config.short_conv_kernel_size", "9", UNSUPPORTED, "short_conv_kernel_size is 9"},
    {"linear_attn_config.head_dim", "2049", UNSUPPORTED,
     "linear_attn_config.head_dim is 2049, should be an integer from 1 to 2048"},
    {"linear_attn_config.num_heads", "16384", UNSUPPORTED, "too wide"},
    {"linear_attn_config.num_heads", NULL, FORMAT, "linear_attn_config.num_heads is missing"},
    {"num_attention_heads", "0", FORMAT, "num_attention_heads is 0"},
    {"hidden_size", "0", FORMAT, "hidden_size is 0"},
    {"hidden_size", "-1", FORMAT, "hidden_size is -1"},
    {"hidden_size", "2304.5", FORMAT, "hidden_size is 2304.5"},
    {"hidden_size", "\"2304\"", FORMAT, "hidden_size is \"2304\", should be an integer"},
    {"hidden_size", "1048577", UNSUPPORTED, "hidden_size is 1048577"},
    {"hidden_size", "9223372036854775807", UNSUPPORTED, "hidden_size is 9223372036854775807"},
    {"vocab_size", "16777217", UNSUPPORTED, "vocab_size is 16777217"},
    {"num_hidden_layers", "0", FORMAT, "num_hidden_layers is 0"},
    {"num_hidden_layers", "513", UNSUPPORTED, "num_hidden_layers is 513"},
    {"num_hidden_layers", "28", FORMAT, "layer 28 is neither"},
    {"num_hidden_layers", "26", FORMAT, "full_attn_layers, entry 6 is not a layer from 1 to 26"},
    {"kv_lora_rank", NULL, FORMAT, "kv_lora_rank is missing"},
    {"qk_rope_head_dim", "0", FORMAT, "qk_rope_head_dim is 0"},
    {"v_head_dim", "40000", UNSUPPORTED, "num_attention_heads is 32, which makes the heads"},
    {"intermediate_size", "0", FORMAT, "intermediate_size is 0"},
    {"moe_intermediate_size", NULL, FORMAT, "moe_intermediate_size is missing"},
    {"num_experts", "4097", UNSUPPORTED, "num_experts is 4097"},
    {"num_experts", "4", FORMAT, "num_experts_per_token is 8"},
    {"num_experts_per_token", "0", FORMAT, "num_experts_per_token is 0"},
    {"num_experts_per_token", NULL, FORMAT, "num_experts_per_token is missing"},
    {"num_expert_group", "3", FORMAT, "num_expert_group is 3, should divide"},
    {"num_expert_group", "256", FORMAT, "num_expert_group is 256"},
    {"topk_group", "2", FORMAT, "topk_group is 2"},
    {"num_shared_experts", "1025", UNSUPPORTED, "num_shared_experts is 1025"},
    {"moe_layer_freq", "0", FORMAT, "moe_layer_freq is 0"},
    {"model_max_length", NULL, FORMAT, "model_max_length is missing"},
    {"rms_norm_eps", "0", FORMAT, "rms_norm_eps is 0"},
    {"rms_norm_eps", "\"1e-5\"", FORMAT, "rms_norm_eps"},
    {"routed_scaling_factor", "1e300", FORMAT, "routed_scaling_factor"},
    {"tie_word_embeddings", "0", FORMAT, "tie_word_embeddings is 0"},
    {"eos_token_id", "163840", UNSUPPORTED, "eos_token_id is 163840"},
    {"bos_token_id", "-1", FORMAT, "bos_token_id is -1"},
};

CASE(refuses_by_name)
{
    tarni_spec s;
    tarn_error err;
    for (size_t i = 0; i < sizeof REFUSALS / sizeof REFUSALS[0]; i++) {
        const refusal *r = &REFUSALS[i];
        tarn_status status = parse_changed(r->path, r->value, &s, &err);
        if (status != r->status || err.status != status || !strstr(err.detail, r->names) ||
            !strstr(err.detail, "config.json"))
            CHECK_FAIL("%s = %s: %s \"%s\", should be %s with \"%s\"", r->path,
                       r->value ? r->value : "(absent)", tarn_status_name(status), err.detail,
                       tarn_status_name(r->status), r->names);
        CHECK_EQ(s.vocab, 0);
    }
}

/* Every number at every extreme: refused with the field's name, or a model whose sizes fit. */
CASE(extremes_are_refused_or_fit)
{
    static const char *const fields[] = {"vocab_size",
                                         "hidden_size",
                                         "num_hidden_layers",
                                         "num_attention_heads",
                                         "num_key_value_heads",
                                         "qk_nope_head_dim",
                                         "qk_rope_head_dim",
                                         "v_head_dim",
                                         "kv_lora_rank",
                                         "intermediate_size",
                                         "first_k_dense_replace",
                                         "moe_layer_freq",
                                         "num_experts",
                                         "num_expert_group",
                                         "topk_group",
                                         "num_experts_per_token",
                                         "moe_intermediate_size",
                                         "num_shared_experts",
                                         "linear_attn_config.num_heads",
                                         "linear_attn_config.head_dim",
                                         "linear_attn_config.short_conv_kernel_size",
                                         "linear_attn_config.gate_lower_bound",
                                         "model_max_length",
                                         "rms_norm_eps",
                                         "routed_scaling_factor",
                                         "bos_token_id",
                                         "eos_token_id",
                                         "pad_token_id",
                                         "num_nextn_predict_layers"};
    static const char *const values[] = {"-9223372036854775808",
                                         "-2147483649",
                                         "-1",
                                         "-0.0",
                                         "0",
                                         "1",
                                         "2",
                                         "255",
                                         "256",
                                         "257",
                                         "2048",
                                         "4096",
                                         "65535",
                                         "1048576",
                                         "16777216",
                                         "2147483647",
                                         "2147483648",
                                         "4294967295",
                                         "4294967296",
                                         "9007199254740993",
                                         "9223372036854775807",
                                         "1e308",
                                         "-1e308",
                                         "1e-320",
                                         "1e-46",
                                         "3.5e38",
                                         "0.5",
                                         "true",
                                         "\"1\"",
                                         "[]",
                                         "{}"};
    size_t n_parsed = 0;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        for (size_t k = 0; k < sizeof values / sizeof values[0]; k++) {
            tarni_spec s;
            tarn_error err;
            tarni_layout layout;
            uint64_t n_parameters, n_bytes;
            tarn_status status = parse_changed(fields[i], values[k], &s, &err);
            const char *dot = strchr(fields[i], '.');
            if (status == TARN_OK) {
                tarni_layout_init(&s, TARNI_NUMERICS_F32, &layout);
                CHECK(layout.slot_bytes > 0 && layout.slot_bytes < (size_t)1 << 48);
                CHECK(layout.page_bytes > 0 && layout.page_bytes < (size_t)1 << 48);
                CHECK(tarni_forward_bytes(&tarni_cpu_class, &s, 65536, 0) >
                      tarni_forward_bytes(&tarni_cpu_class, &s, 1, 0));
                tarni_spec_sizes(&s, &n_parameters, &n_bytes);
                CHECK(n_parameters > 0 && n_bytes >= n_parameters);
                n_parsed++;
            } else if ((status != TARN_E_FORMAT && status != TARN_E_UNSUPPORTED) ||
                       !strstr(err.detail, "config.json: ") ||
                       (!strstr(err.detail, dot ? dot + 1 : fields[i]) &&
                        !strstr(err.detail, "field ") && !strstr(err.detail, "layer ")))
                CHECK_FAIL("%s = %s: %s \"%s\"", fields[i], values[k], tarn_status_name(status),
                           err.detail);
        }
    CHECK(n_parsed > 100);
}

/* All sizes at their limits at once: none of the products may wrap. */
CASE(limits_together_fit)
{
    tarni_spec s;
    tarn_error err;
    tarni_layout layout;
    uint64_t n_parameters, n_bytes;
    REQUIRE_OK(parse_changed(NULL, NULL, &s, &err), &err);
    s.dtype = TARNK_F32;
    s.vocab = TARNI_VOCAB_MAX;
    s.hidden = s.rank = s.rope = s.dense_width = s.expert_width = TARNI_DIM_MAX;
    s.kda_dim = TARNK_KDA_K_MAX;
    s.kda_heads = TARNI_DIM_MAX / TARNK_KDA_K_MAX;
    s.conv_width = TARNI_CONV_WIDTH_MAX;
    s.mla_heads = 1;
    tarni_layout_init(&s, TARNI_NUMERICS_F32, &layout);
    CHECK(layout.slot_bytes > layout.state_bytes && layout.slot_bytes < (size_t)1 << 48);
    CHECK(layout.page_bytes > layout.latent_row_bytes && layout.page_bytes < (size_t)1 << 48);
    CHECK(tarni_forward_bytes(&tarni_cpu_class, &s, 1, 0) > (size_t)TARNI_DIM_MAX * 4);
    tarni_spec_sizes(&s, &n_parameters, &n_bytes);
    CHECK(n_bytes == 4 * n_parameters || n_bytes == UINT64_MAX);
}

CASE(refuses_grouped_routing_it_cannot_do)
{
    tarni_spec s;
    tarn_error err;
    json_t *root = json_loads(BASE, 0, NULL);
    change(root, "num_expert_group", "8");
    change(root, "use_grouped_topk", "false");
    char *text = json_dumps(root, 0);
    CHECK_STATUS(tarni_spec_parse(text, strlen(text), "c", &s, &err), TARN_E_UNSUPPORTED);
    CHECK_HAS(err.detail, "use_grouped_topk");
    free(text);
    change(root, "use_grouped_topk", "true");
    change(root, "topk_group", "4");
    text = json_dumps(root, 0);
    REQUIRE_OK(tarni_spec_parse(text, strlen(text), "c", &s, &err), &err);
    CHECK(s.n_groups == 8 && s.groups_kept == 4);
    free(text);
    json_decref(root);
}

CASE(refuses_text_that_is_no_config)
{
    tarni_spec s;
    tarn_error err;
    static const char *const texts[] = {
        "", "{", "[]", "7", "{} x", "{\"a\":1,\"a\":2}", "{\"model_type\":\"kimi_linear\""};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        CHECK_STATUS(tarni_spec_parse(texts[i], strlen(texts[i]), "c.json", &s, &err),
                     TARN_E_FORMAT);
        CHECK_HAS(err.detail, "c.json");
    }
    size_t n = 100000;
    char *deep = malloc(n);
    memset(deep, '[', n);
    CHECK_STATUS(tarni_spec_parse(deep, n, "c.json", &s, &err), TARN_E_FORMAT);
    free(deep);
    CHECK_STATUS(tarni_spec_parse("{}", TARNI_SPEC_BYTES_MAX + 1u, "c.json", &s, &err),
                 TARN_E_FORMAT);
    CHECK_HAS(err.detail, "limit");
}

static bool same_spec(const tarni_spec *a, const tarni_spec *b)
{
    uint8_t x[32], y[32];
    tarni_spec_digest(a, x);
    tarni_spec_digest(b, y);
    return memcmp(x, y, 32) == 0 && a->context == b->context && a->bos_id == b->bos_id &&
           a->eos_id == b->eos_id && a->pad_id == b->pad_id && a->n_kda == b->n_kda &&
           a->n_mla == b->n_mla;
}

CASE(writes_what_it_reads)
{
    static const char *const fields[][2] = {
        {"hidden_size", "2304"},
        {"linear_attn_config.gate_lower_bound", "-5.5"},
        {"dtype", "\"float32\""},
        {"eos_token_id", NULL},
        {"num_experts", "0"},
        {"moe_router_activation_func", "\"softmax\""},
        {"routed_scaling_factor", "16777216"},
        {"routed_scaling_factor", "0.333333343"},
        {"tie_word_embeddings", "true"},
    };
    tarn_error err;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        tarni_spec s, again;
        tarni_writer w;
        REQUIRE_OK(parse_changed(fields[i][0], fields[i][1], &s, &err), &err);
        tarni_writer_init(&w, &tarni_heap);
        REQUIRE_OK(tarni_spec_write(&s, &w, &err), &err);
        REQUIRE_OK(tarni_spec_parse((char *)w.data, w.n_bytes, "c", &again, &err), &err);
        if (!same_spec(&s, &again))
            CHECK_FAIL("%s = %s is lost by writing", fields[i][0],
                       fields[i][1] ? fields[i][1] : "(absent)");
        tarni_writer_fini(&w);
    }
}

CASE(writing_reports_missing_memory)
{
    tarni_spec s;
    tarn_error err;
    failing f = {0, 0};
    tarn_allocator a = failing_allocator(&f);
    tarni_writer w;
    REQUIRE_OK(parse_changed(NULL, NULL, &s, &err), &err);
    tarni_writer_init(&w, &a);
    CHECK_STATUS(tarni_spec_write(&s, &w, &err), TARN_E_NO_MEMORY);
    tarni_writer_fini(&w);
}

CASE(digest_follows_the_results_only)
{
    static const char *const same[][2] = {{"model_max_length", "4096"},
                                          {"transformers_version", "\"5\""},
                                          {"hidden_size", "2304.0"},
                                          {"rope_theta", "1"},
                                          {"eos_token_id", "5"}};
    static const char *const other[][2] = {
        {"hidden_size", "2305"},      {"rms_norm_eps", "1e-6"},
        {"dtype", "\"float32\""},     {"routed_scaling_factor", "2.4461"},
        {"moe_renormalize", "false"}, {"linear_attn_config.gate_lower_bound", "-5"},
        {"num_shared_experts", "2"}};
    tarni_spec s;
    tarn_error err;
    uint8_t base[32], got[32];
    REQUIRE_OK(parse_changed(NULL, NULL, &s, &err), &err);
    tarni_spec_digest(&s, base);
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        REQUIRE_OK(parse_changed(same[i][0], same[i][1], &s, &err), &err);
        tarni_spec_digest(&s, got);
        CHECK_BYTES(got, base, 32);
    }
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        REQUIRE_OK(parse_changed(other[i][0], other[i][1], &s, &err), &err);
        tarni_spec_digest(&s, got);
        if (memcmp(got, base, 32) == 0)
            CHECK_FAIL("%s does not change the digest", other[i][0]);
    }
}

CASE(loads_from_a_folder)
{
    tarni_spec s;
    tarn_error err;
    REQUIRE_OK(tarni_spec_load(TEST_EXAMPLES "/model", &tarni_heap, &s, &err), &err);
    CHECK_EQ(s.n_layers, 6);
    CHECK_EQ(s.n_mla, 2);
    CHECK_STATUS(tarni_spec_load(TEST_DATA "/no such folder", &tarni_heap, &s, &err),
                 TARN_E_NOT_FOUND);
    CHECK_HAS(err.detail, "config.json");
}

CASE(loading_survives_missing_memory)
{
    tarni_spec s;
    tarn_error err;
    tarn_status status = TARN_E_NO_MEMORY;
    for (long n = 0; n < 50 && status != TARN_OK; n++) {
        failing f = {n, 0};
        tarn_allocator a = failing_allocator(&f);
        status = tarni_spec_load(TEST_EXAMPLES "/model", &a, &s, &err);
        if (status != TARN_OK)
            CHECK_STATUS(status, TARN_E_NO_MEMORY);
        CHECK_EQ(f.blocks, 0);
    }
    CHECK_STATUS(status, TARN_OK);
}

CHECK_MAIN(ENTRY(reads_every_field_of_the_published_model),
           ENTRY(absent_fields_have_the_defaults_of_the_reference),
           ENTRY(accepts_what_changes_nothing_or_is_supported), ENTRY(refuses_by_name),
           ENTRY(extremes_are_refused_or_fit), ENTRY(limits_together_fit),
           ENTRY(refuses_grouped_routing_it_cannot_do), ENTRY(refuses_text_that_is_no_config),
           ENTRY(writes_what_it_reads), ENTRY(writing_reports_missing_memory),
           ENTRY(digest_follows_the_results_only), ENTRY(loads_from_a_folder),
           ENTRY(loading_survives_missing_memory))
