/* layout.h - where a session's numbers lie: in a state slot, in a latent page, on disk.
 *
 * Numerics. `f32`: activations, latents and convolution tails are fp32. `native`: the checkpoint's
 * dtype; with bf16 weights the operands of products, latents and tails are bf16. What is rounded
 * when it is stored is rounded at the same place when nothing is stored. The KDA state is fp32
 * always. */
#ifndef TARNI_LAYOUT_H
#define TARNI_LAYOUT_H

#include "spec.h"

typedef enum tarni_numerics { TARNI_NUMERICS_NATIVE = 0, TARNI_NUMERICS_F32 = 1 } tarni_numerics;

/* Slot: for each KDA layer in order its state [H][K][V] fp32, then for each its conv tails
 * [q, k, v][W-1 taps, oldest first][H*K]. Page: for each MLA layer in order [64][rank + rope].
 * All parts are 64-byte aligned. The same order, without the gaps, is the order on disk. */
typedef struct tarni_layout {
    tarnk_dtype conv_dtype, latent_dtype;
    bool round;              /* operands of products are rounded to bf16 */
    size_t state_bytes;      /* of one KDA layer */
    size_t conv_bytes;       /* of one KDA layer */
    size_t latent_row_bytes; /* of one token in one MLA layer */
    size_t slot_bytes;
    size_t page_bytes;
    uint32_t n_kda, n_mla;
    size_t state_stride, conv_begin,
        conv_stride;      /* KDA layer i: i * state_stride, conv_begin + i * conv_stride */
    size_t latent_stride; /* MLA layer i: i * latent_stride */
} tarni_layout;

void tarni_layout_init(const tarni_spec *spec, tarni_numerics numerics, tarni_layout *out);

#endif
