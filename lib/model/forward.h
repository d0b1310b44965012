/* forward.h - one step of the model over a ragged batch: the layer loop over the ops table.
 *
 * Owns the activations (workspace) for up to n_rows_max rows; nothing is allocated in a step. */
#ifndef TARNI_FORWARD_H
#define TARNI_FORWARD_H

#include "layout.h"
#include "weights.h"

typedef struct tarni_forward tarni_forward;

/* spec, weights, layout, ops and context are borrowed and must outlive it. */
tarn_status tarni_forward_create(const tarni_spec *spec, const tarni_weights *weights,
                                 const tarni_layout *layout, const tarnk_ops *ops,
                                 const tarnk_context *context, uint32_t n_rows_max,
                                 const tarn_allocator *allocator, tarni_forward **out,
                                 tarn_error *err);
void tarni_forward_free(tarni_forward *f);
size_t tarni_forward_bytes(const tarni_spec *spec, uint32_t n_rows_max); /* of its workspace */

typedef struct tarni_batch {
    const uint32_t *ids; /* [n_rows], each below vocab */
    uint32_t n_rows;     /* 1 to n_rows_max */
    const tarnk_seq *seqs;
    uint32_t n_seqs;
    const uint32_t *logit_rows; /* rows whose logits are wanted, ascending */
    float *const *logits;       /* [n_logit_rows] where each row's logits go, [vocab] fp32 */
    uint32_t n_logit_rows;
} tarni_batch;

/* Runs all layers; the state goes to each sequence's write slot, latents into its pages.
 * Returns 0, or the device's error number: then the write slots and the step's latent rows hold
 * nothing usable, read slots are untouched. A sequence whose logits come out non-finite is the
 * caller's to find. */
int tarni_forward_run(tarni_forward *f, const tarni_batch *batch);

#endif
