/* spec_write.c - a tarni_spec as config.json text, and as a digest.
 *
 * The text has the keys of the published checkpoint in its order (sorted), two spaces deep. Floats
 * are written with the fewest digits that read back to the same fp32 number, and with a point
 * whatever the host's locale says. */
#include "spec.h"

#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_format(tarni_writer *out, const char *format, ...) TARN_PRINTF(2, 3);

static void put_format(tarni_writer *out, const char *format, ...)
{
    char text[160];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    TARN_ASSERT(length >= 0 && (size_t)length < sizeof text);
    tarni_put_bytes(out, text, (size_t)length);
}

static void put_u32(tarni_writer *out, const char *name, uint32_t value)
{
    put_format(out, "  \"%s\": %u,\n", name, value);
}

static void put_bool(tarni_writer *out, const char *name, bool value)
{
    put_format(out, "  \"%s\": %s,\n", name, value ? "true" : "false");
}

static void put_float(tarni_writer *out, const char *indent, const char *name, float value)
{
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    bool is_whole = true;
    for (char *c = text; *c; c++) {
        if (!strchr("+-0123456789e", *c))
            *c = '.';
        if (*c == '.' || *c == 'e')
            is_whole = false;
    }
    put_format(out, "%s\"%s\": %s%s,\n", indent, name, text, is_whole ? ".0" : "");
}

/* Special ids may be absent. */
static void put_id(tarni_writer *out, const char *name, uint32_t id)
{
    if (id != UINT32_MAX)
        put_u32(out, name, id);
}

static void put_layers(tarni_writer *out, const char *name, const tarni_spec *spec,
                       tarni_layer_kind kind)
{
    const char *separator = "";
    put_format(out, "    \"%s\": [", name);
    for (uint32_t l = 0; l < spec->n_layers; l++) {
        if (spec->kinds[l] != kind)
            continue;
        put_format(out, "%s\n      %u", separator, l + 1);
        separator = ",";
    }
    put_format(out, "\n    ],\n");
}

static void put_kda(tarni_writer *out, const tarni_spec *spec)
{
    put_format(out, "  \"linear_attn_config\": {\n");
    put_layers(out, "full_attn_layers", spec, TARNI_LAYER_MLA);
    if (spec->gate_kind == TARNK_GATE_BOUNDED)
        put_float(out, "    ", "gate_lower_bound", spec->gate_lower_bound);
    put_format(out, "    \"head_dim\": %u,\n", spec->kda_dim);
    put_layers(out, "kda_layers", spec, TARNI_LAYER_KDA);
    put_format(out, "    \"num_heads\": %u,\n", spec->kda_heads);
    put_format(out, "    \"short_conv_kernel_size\": %u\n  },\n", spec->conv_width);
}

tarn_status tarni_spec_write(const tarni_spec *spec, tarni_writer *out, tarn_error *err)
{
    bool has_experts = spec->n_experts > 0;
    put_format(out, "{\n  \"architectures\": [\n    \"KimiLinearForCausalLM\"\n  ],\n");
    put_id(out, "bos_token_id", spec->bos_id);
    put_format(out, "  \"dtype\": \"%s\",\n", spec->dtype == TARNK_BF16 ? "bfloat16" : "float32");
    put_id(out, "eos_token_id", spec->eos_id);
    put_u32(out, "first_k_dense_replace", spec->first_moe);
    put_format(out, "  \"hidden_act\": \"silu\",\n");
    put_u32(out, "hidden_size", spec->hidden);
    put_u32(out, "intermediate_size", spec->dense_width);
    put_u32(out, "kv_lora_rank", spec->rank);
    put_kda(out, spec);
    put_bool(out, "mla_use_nope", true);
    put_u32(out, "model_max_length", spec->context);
    put_format(out, "  \"model_type\": \"kimi_linear\",\n");
    if (has_experts)
        put_u32(out, "moe_intermediate_size", spec->expert_width);
    put_u32(out, "moe_layer_freq", spec->moe_freq);
    put_bool(out, "moe_renormalize", spec->renormalize);
    put_format(out, "  \"moe_router_activation_func\": \"%s\",\n",
               spec->router_kind == TARNK_ROUTER_SIGMOID ? "sigmoid" : "softmax");
    put_u32(out, "num_attention_heads", spec->mla_heads);
    put_u32(out, "num_expert_group", spec->n_groups);
    put_u32(out, "num_experts", spec->n_experts);
    if (has_experts)
        put_u32(out, "num_experts_per_token", spec->top_k);
    put_u32(out, "num_hidden_layers", spec->n_layers);
    put_u32(out, "num_key_value_heads", spec->mla_heads);
    put_u32(out, "num_nextn_predict_layers", 0);
    if (has_experts)
        put_u32(out, "num_shared_experts", spec->n_shared);
    put_id(out, "pad_token_id", spec->pad_id);
    put_format(out, "  \"q_lora_rank\": null,\n");
    put_u32(out, "qk_nope_head_dim", spec->nope);
    put_u32(out, "qk_rope_head_dim", spec->rope);
    put_float(out, "  ", "rms_norm_eps", spec->eps);
    put_format(out, "  \"rope_scaling\": null,\n");
    put_float(out, "  ", "routed_scaling_factor", spec->routed_scale);
    put_bool(out, "tie_word_embeddings", spec->tied);
    put_u32(out, "topk_group", spec->groups_kept);
    put_bool(out, "use_cache", true);
    put_bool(out, "use_grouped_topk", true);
    put_u32(out, "v_head_dim", spec->v_dim);
    put_format(out, "  \"vocab_size\": %u\n}\n", spec->vocab);
    return out->failed ? tarni_fail_memory(err, out->n_bytes) : TARN_OK;
}

static void hash_u32(crypto_generichash_state *state, uint32_t value)
{
    uint8_t bytes[4];
    tarni_store_u32(bytes, value);
    crypto_generichash_update(state, bytes, sizeof bytes);
}

static void hash_float(crypto_generichash_state *state, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    hash_u32(state, bits);
}

void tarni_spec_digest(const tarni_spec *spec, uint8_t out[32])
{
    static const uint8_t title[] = "tarn spec 1";
    /* The order is stored in every node of every store: append, never reorder. */
    const uint32_t sizes[] = {
        spec->vocab,       spec->hidden,      spec->n_layers,     spec->kda_heads, spec->kda_dim,
        spec->conv_width,  spec->gate_kind,   spec->mla_heads,    spec->nope,      spec->rope,
        spec->v_dim,       spec->rank,        spec->dense_width,  spec->first_moe, spec->moe_freq,
        spec->n_experts,   spec->top_k,       spec->expert_width, spec->n_shared,  spec->n_groups,
        spec->groups_kept, spec->router_kind, spec->renormalize,  spec->tied,      spec->dtype};
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, 32);
    crypto_generichash_update(&state, title, sizeof title);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        hash_u32(&state, sizes[i]);
    hash_float(&state, spec->eps);
    hash_float(&state, spec->kv_norm_eps);
    hash_float(&state, spec->gate_lower_bound);
    hash_float(&state, spec->routed_scale);
    crypto_generichash_update(&state, spec->kinds, spec->n_layers);
    crypto_generichash_final(&state, out, 32);
}
