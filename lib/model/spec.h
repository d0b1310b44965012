/* spec.h - config.json of a kimi_linear checkpoint: what the model is, checked.
 *
 * Everything the graph depends on is read; a field that would change the graph in a way this
 * library does not run is refused by name. A spec is plain data: copy it, compare its digest. */
#ifndef TARNI_SPEC_H
#define TARNI_SPEC_H

#include "bytes.h"
#include "ops.h"

#define TARNI_LAYERS_MAX   512
#define TARNI_STOP_IDS_MAX 8

/* Limits of what config.json may ask for. With them no product of two sizes leaves 64 bits. */
#define TARNI_DIM_MAX        (1u << 20) /* widths, and heads times head size */
#define TARNI_VOCAB_MAX      (1u << 24)
#define TARNI_CONTEXT_MAX    (1u << 31)
#define TARNI_CONV_WIDTH_MIN 2u
#define TARNI_CONV_WIDTH_MAX 8u
#define TARNI_SPEC_BYTES_MAX (16u << 20) /* of config.json */

typedef enum tarni_layer_kind { TARNI_LAYER_KDA = 1, TARNI_LAYER_MLA = 2 } tarni_layer_kind;

typedef struct tarni_spec {
    uint32_t vocab;  /* embedding rows */
    uint32_t hidden; /* d */
    uint32_t n_layers;
    uint32_t context;                /* model_max_length (or max_position_embeddings) */
    uint8_t kinds[TARNI_LAYERS_MAX]; /* tarni_layer_kind of 0-based layer l */
    uint32_t n_kda, n_mla;
    float eps;         /* rms_norm_eps: every norm but the one below */
    float kv_norm_eps; /* kv_a_layernorm: 1e-6, as the reference builds it */

    uint32_t kda_heads;
    uint32_t kda_dim;    /* head_dim: K = V */
    uint32_t conv_width; /* W */
    tarnk_gate_kind gate_kind;
    float gate_lower_bound;

    uint32_t mla_heads;
    uint32_t nope, rope, v_dim, rank;

    uint32_t dense_width; /* intermediate_size */
    uint32_t first_moe;   /* first_k_dense_replace */
    uint32_t moe_freq;
    uint32_t n_experts; /* 0: every layer is dense */
    uint32_t top_k;
    uint32_t expert_width;
    uint32_t n_shared; /* shared experts; width n_shared * expert_width in one */
    uint32_t n_groups, groups_kept;
    tarnk_router_kind router_kind;
    bool renormalize;
    float routed_scale;

    bool tied;                       /* lm_head is the embedding */
    tarnk_dtype dtype;               /* of the big tensors */
    uint32_t bos_id, eos_id, pad_id; /* UINT32_MAX if absent */
} tarni_spec;

/* Is layer l's feed-forward a mixture of experts? */
bool tarni_spec_is_moe(const tarni_spec *spec, uint32_t l);

/* Reads DIR/config.json. NOT_FOUND, FORMAT (file, field, value), UNSUPPORTED (field, value).
 *
 * An absent or null field has the default of the reference. A field this library does not know is
 * ignored if it is on a list of fields that change nothing, or is null or false: switched off.
 * Any other is refused, since it may change the graph. */
tarn_status tarni_spec_load(const char *dir, const tarn_allocator *allocator, tarni_spec *out,
                            tarn_error *err);
/* The same from a file of any name. */
tarn_status tarni_spec_load_file(const char *path, const tarn_allocator *allocator, tarni_spec *out,
                                 tarn_error *err);
/* The same from text; `origin` names it in errors. */
tarn_status tarni_spec_parse(const char *json, size_t n_bytes, const char *origin, tarni_spec *out,
                             tarn_error *err);
/* Writes a config.json that parses to the same spec. */
tarn_status tarni_spec_write(const tarni_spec *spec, tarni_writer *out, tarn_error *err);

/* BLAKE2b-256 over the fields the results depend on, in a fixed order: independent of spacing, key
 * order and fields that change nothing. Context length and special ids are not in it. */
void tarni_spec_digest(const tarni_spec *spec, uint8_t out[32]);

#endif
