/* weights.h - the tensors of a checkpoint, mapped from its safetensors files.
 *
 * Matrices point into read-only maps in the checkpoint's own dtype; nothing is repacked, so opening
 * costs page-table work and the page cache is shared between processes. Small vectors (norms,
 * convolutions, gates, router bias) are upcast to fp32 once. Immutable after open: any thread. */
#ifndef TARNI_WEIGHTS_H
#define TARNI_WEIGHTS_H

#include "spec.h"

typedef struct tarni_kda_weights {
    tarnk_matrix q, k, v;  /* [H*K][d] */
    tarnk_matrix f_a, f_b; /* [K][d], [H*K][K] */
    tarnk_matrix b;        /* [H][d] */
    tarnk_matrix g_a, g_b; /* [K][d], [H*K][K] */
    tarnk_matrix o;        /* [d][H*K] */
    const float *conv[3];  /* q, k, v: [H*K][W] */
    const float *a_log;    /* [H] */
    const float *dt_bias;  /* [H*K] */
    const float *o_norm;   /* [K] */
} tarni_kda_weights;

typedef struct tarni_mla_weights {
    tarnk_matrix q;       /* [heads*(nope+rope)][d] */
    tarnk_matrix kv_a;    /* [rank+rope][d] */
    const float *kv_norm; /* [rank] */
    tarnk_matrix kv_b;    /* [heads*(nope+v)][rank] */
    tarnk_matrix o;       /* [d][heads*v] */
} tarni_mla_weights;

typedef struct tarni_mlp_weights {
    tarnk_matrix gate, up, down; /* [w][d], [w][d], [d][w] */
} tarni_mlp_weights;

typedef struct tarni_moe_weights {
    tarnk_matrix router;              /* [E][d] */
    const float *bias;                /* [E] */
    const tarnk_matrix *w1, *w3, *w2; /* [E] each */
    bool has_shared;
    tarni_mlp_weights shared;
} tarni_moe_weights;

typedef struct tarni_layer_weights {
    const float *attn_norm; /* input_layernorm [d] */
    const float *ffn_norm;  /* post_attention_layernorm [d] */
    bool is_mla, is_moe;
    tarni_kda_weights kda;
    tarni_mla_weights mla;
    tarni_mlp_weights mlp;
    tarni_moe_weights moe;
} tarni_layer_weights;

/* What stands where the numbers of a tensor would, in weights that are only a shape. */
typedef struct tarni_shaped {
    uint64_t key; /* of its random numbers */
    float scale, offset;
} tarni_shaped;

typedef struct tarni_weights {
    bool is_shape;        /* each `data` and vector points to a tarni_shaped */
    tarnk_matrix embed;   /* [vocab][d] */
    const float *norm;    /* [d] */
    tarnk_matrix lm_head; /* [vocab][d] */
    tarni_layer_weights *layers;
    uint64_t n_parameters;
    uint64_t n_bytes;                 /* of tensors in the files */
    struct tarni_weight_files *files; /* maps and fp32 copies, owned */
} tarni_weights;

/* Maps model.safetensors, or else the shards of model.safetensors.index.json. Every tensor the spec
 * asks for must be there once, BF16 or F32 each on its own, and none besides; byte ranges must tile
 * the data section. Shapes are exact but for A_log, which may be flat, and longer than the heads if
 * the rest is zero, as relatives of the model ship it.
 * The matrices stay in the files: what reads them does so between tarni_filemap_enter and leave.
 * NOT_FOUND, FORMAT, UNSUPPORTED, IO: naming file and tensor. `allocator` must outlive *out. */
tarn_status tarni_weights_open(const char *dir, const tarni_spec *spec,
                               const tarn_allocator *allocator, tarni_weights *out,
                               tarn_error *err);
/* Weights of these shapes, drawn from `seed` by the device that loads them; there are no files. */
tarn_status tarni_weights_shape(const tarni_spec *spec, uint64_t seed,
                                const tarn_allocator *allocator, tarni_weights *out,
                                tarn_error *err);
void tarni_weights_close(tarni_weights *weights);

/* IO, naming the file, if one was cut short or written to since it was opened: whatever was
 * computed since the last check must be thrown away. One look at each file, no bytes read. */
tarn_status tarni_weights_check(const tarni_weights *weights, tarn_error *err);

/* BLAKE2b-256 of the names, dtypes and XXH3-128 sums of all tensors in name order: independent of
 * how they are spread over files. Reads every byte, unless `cache_dir` (NULL: none) holds the sum
 * of files with the same paths, sizes, times and inodes and `fresh` is false; a fresh sum is put
 * there, the folder made if absent (a cache that cannot be read or written is no error). */
tarn_status tarni_weights_digest(const tarni_weights *weights, const char *cache_dir, bool fresh,
                                 uint8_t out[32], tarn_error *err);

/* Sizes from the spec alone: what tarni_weights_open would count where every tensor has the spec's
 * dtype. UINT64_MAX where a size does not fit. */
void tarni_spec_sizes(const tarni_spec *spec, uint64_t *n_parameters, uint64_t *n_bytes);

/* Which member of the structs above a tensor is. */
typedef enum tarni_part {
    TARNI_PART_EMBED,
    TARNI_PART_NORM,
    TARNI_PART_LM_HEAD,
    TARNI_PART_ATTN_NORM,
    TARNI_PART_FFN_NORM,
    TARNI_PART_KDA_Q,
    TARNI_PART_KDA_K,
    TARNI_PART_KDA_V,
    TARNI_PART_KDA_CONV_Q,
    TARNI_PART_KDA_CONV_K,
    TARNI_PART_KDA_CONV_V,
    TARNI_PART_KDA_A_LOG,
    TARNI_PART_KDA_DT_BIAS,
    TARNI_PART_KDA_F_A,
    TARNI_PART_KDA_F_B,
    TARNI_PART_KDA_B,
    TARNI_PART_KDA_G_A,
    TARNI_PART_KDA_G_B,
    TARNI_PART_KDA_O_NORM,
    TARNI_PART_KDA_O,
    TARNI_PART_MLA_Q,
    TARNI_PART_MLA_KV_A,
    TARNI_PART_MLA_KV_NORM,
    TARNI_PART_MLA_KV_B,
    TARNI_PART_MLA_O,
    TARNI_PART_MLP_GATE,
    TARNI_PART_MLP_UP,
    TARNI_PART_MLP_DOWN,
    TARNI_PART_ROUTER,
    TARNI_PART_ROUTER_BIAS,
    TARNI_PART_W1,
    TARNI_PART_W3,
    TARNI_PART_W2,
    TARNI_PART_SHARED_GATE,
    TARNI_PART_SHARED_UP,
    TARNI_PART_SHARED_DOWN,
    TARNI_PART_COUNT
} tarni_part;

/* Every tensor a checkpoint of this spec holds, in file order: the one list that the loader, the
 * writer of synthetic checkpoints and the sizes above walk. */
typedef enum tarni_tensor_kind {
    TARNI_TENSOR_MATRIX = 0, /* [n_out][n_in], the spec's dtype */
    TARNI_TENSOR_EMBED = 1,
    TARNI_TENSOR_NORM = 2,
    TARNI_TENSOR_CONV = 3,    /* [n][1][W] */
    TARNI_TENSOR_A_LOG = 4,   /* F32 [1][1][H][1] */
    TARNI_TENSOR_DT_BIAS = 5, /* F32 */
    TARNI_TENSOR_ROUTER_BIAS = 6
} tarni_tensor_kind;

typedef struct tarni_tensor {
    char name[128];
    tarni_part part;
    uint32_t layer;  /* 0-based */
    uint32_t expert; /* of W1, W3, W2 */
    tarni_tensor_kind kind;
    tarnk_dtype dtype;
    uint32_t n_dims;
    uint32_t dims[4];
    bool to_residual; /* writes to the residual stream: scaled down in synthetic checkpoints */
} tarni_tensor;

/* Calls fn for each; stops at the first status that is not TARN_OK and returns it. */
tarn_status tarni_spec_tensors(const tarni_spec *spec,
                               tarn_status (*fn)(void *user, const tarni_tensor *tensor),
                               void *user);

#endif
