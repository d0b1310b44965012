/* activations.h - where the values of a step lie between its ops, for up to n rows.
 *
 * Blocks run one after the other, so all share one scratch memory; its size comes from walking the
 * same carving function with no memory behind it. */
#ifndef TARNI_ACTIVATIONS_H
#define TARNI_ACTIVATIONS_H

#include "device.h"

#define TARNI_LOGIT_COLUMNS 2048 /* of lm_head at a time, where logits rows lie apart */

typedef struct tarni_kda_scratch {
    float *in[TARNK_CONV_PARTS]; /* q, k, v before the convolution [n][H*K] */
    float *q, *k, *v;            /* after it; v becomes the recurrence's output */
    float *f_a, *g_a;            /* [n][K] */
    float *f;                    /* [n][H*K], becomes the log decay */
    float *gate;                 /* output gate [n][H*K] */
    float *beta;                 /* [n][H] */
} tarni_kda_scratch;

typedef struct tarni_mla_scratch {
    float *q;   /* [n][heads*(nope+rope)] */
    float *kv;  /* [n][rank+rope] */
    float *out; /* [n][heads*v] */
    float *workspace;
} tarni_mla_scratch;

typedef struct tarni_ffn_scratch {
    float *gate, *up;   /* dense or shared expert [n][width] */
    float *scores;      /* router logits [n][E] */
    uint32_t *experts;  /* [n][top_k] */
    float *weights;     /* [n][top_k] */
    uint8_t *workspace; /* of the routed experts */
} tarni_ffn_scratch;

typedef struct tarni_activations {
    float *h; /* residual stream [n][d] */
    float *x; /* normed input of the current block [n][d] */
    tarni_kda_scratch kda;
    tarni_mla_scratch mla;
    tarni_ffn_scratch ffn;
    float *logits;        /* the host's: [n][TARNI_LOGIT_COLUMNS], else [n_logits_max][vocab] */
    void *packed[2];      /* workspaces of products side by side: of one x, and of a second */
    tarnk_seq *kept_seqs; /* the host's: [n], and */
    uint32_t *kept_rows;  /* [n]: a step's rows when only those are left whose logits are wanted */
} tarni_activations;

/* Places everything for n rows, n_logits of them wanted, at `base`, on a device of this class;
 * returns the bytes it takes. base NULL only counts. A size too large to count is beyond what can
 * be allocated. */
size_t tarni_activations_carve(tarni_activations *a, const tarni_device_class *class,
                               const tarni_spec *spec, uint32_t n, uint32_t n_logits, void *base);

#endif
