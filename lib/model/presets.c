/* presets.c - the specs that synthetic checkpoints are made for.
 *
 * What a preset does not list follows the published 48B: W = 4, sigmoid router, scaling 2.446, one
 * shared expert, layer 0 dense, special ids in the last 256 rows of the embedding. */
#include "synth.h"

#include <string.h>

#define SPECIAL_IDS 256 /* at the end of the vocabulary: bos first, eos third, pad last */

typedef struct preset {
    const char *name;
    uint32_t vocab, hidden, n_layers;
    uint32_t heads, kda_dim, nope, rope, v_dim, rank;
    uint32_t dense_width, n_experts, top_k, expert_width;
    uint32_t context;
    float routed_scale;
    uint8_t mla_layers[8]; /* 1-indexed, up to the first 0 */
} preset;

/* A row is a preset. */
/* clang-format off */
static const preset PRESETS[] = {
    {"tiny", 1024, 256, 6, 2, 64, 32, 32, 32, 64, 512, 8, 2, 64, 1u << 20, 2.446f, {3, 6}},
    {"recall", 1280, 128, 6, 4, 32, 32, 16, 32, 64, 384, 8, 2, 64, 8192, 1.5f, {4, 6}},
    {"geo48", 8192, 2304, 27, 32, 128, 128, 64, 128, 512, 2304, 8, 2, 256, 1u << 20, 2.446f,
     {4, 8, 12, 16, 20, 24, 27}},
    {"moe1b", 16384, 1024, 12, 8, 128, 128, 64, 128, 512, 2048, 64, 8, 256, 1u << 20, 2.446f,
     {4, 8, 12}},
    {"48b", 163840, 2304, 27, 32, 128, 128, 64, 128, 512, 9216, 256, 8, 1024, 1u << 20, 2.446f,
     {4, 8, 12, 16, 20, 24, 27}},
};
/* clang-format on */

static void spec_of(const preset *p, tarni_spec *out)
{
    *out = (tarni_spec){
        .vocab = p->vocab,
        .hidden = p->hidden,
        .n_layers = p->n_layers,
        .context = p->context,
        .eps = 1e-5f,
        .kv_norm_eps = 1e-6f,
        .kda_heads = p->heads,
        .kda_dim = p->kda_dim,
        .conv_width = 4,
        .gate_kind = TARNK_GATE_SOFTPLUS,
        .mla_heads = p->heads,
        .nope = p->nope,
        .rope = p->rope,
        .v_dim = p->v_dim,
        .rank = p->rank,
        .dense_width = p->dense_width,
        .first_moe = 1,
        .moe_freq = 1,
        .n_experts = p->n_experts,
        .top_k = p->top_k,
        .expert_width = p->expert_width,
        .n_shared = 1,
        .n_groups = 1,
        .groups_kept = 1,
        .router_kind = TARNK_ROUTER_SIGMOID,
        .renormalize = true,
        .routed_scale = p->routed_scale,
        .dtype = TARNK_BF16,
        .bos_id = p->vocab - SPECIAL_IDS,
        .eos_id = p->vocab - SPECIAL_IDS + 2,
        .pad_id = p->vocab - 1,
    };
    memset(out->kinds, TARNI_LAYER_KDA, p->n_layers);
    while (p->mla_layers[out->n_mla] != 0)
        out->kinds[p->mla_layers[out->n_mla++] - 1] = TARNI_LAYER_MLA;
    out->n_kda = p->n_layers - out->n_mla;
}

tarn_status tarni_synth_preset(const char *name, tarni_spec *out, tarn_error *err)
{
    for (size_t i = 0; i < sizeof PRESETS / sizeof PRESETS[0]; i++) {
        if (strcmp(name, PRESETS[i].name) == 0) {
            spec_of(&PRESETS[i], out);
            return TARN_OK;
        }
    }
    memset(out, 0, sizeof *out);
    return tarni_fail(err, TARN_E_NOT_FOUND,
                      "no preset \"%.40s\": there are tiny, recall, geo48, moe1b and 48b", name);
}
