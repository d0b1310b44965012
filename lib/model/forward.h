/* forward.h - one step of the model over a ragged batch: the layer loop over the ops table.
 *
 * Owns the activations (workspace) for up to n_rows_max rows; nothing is allocated in a step. */
#ifndef TARNI_FORWARD_H
#define TARNI_FORWARD_H

#include "device.h"

typedef struct tarni_forward tarni_forward;

/* spec, layout and device, which has its weights, are borrowed and must outlive it. At most
 * n_logits_max rows of logits are asked for in a step, on a device that is not the host. NO_MEMORY.
 */
tarn_status tarni_forward_create(const tarni_spec *spec, const tarni_layout *layout,
                                 tarni_device *device, uint32_t n_rows_max, uint32_t n_logits_max,
                                 const tarn_allocator *allocator, tarni_forward **out,
                                 tarn_error *err);
void tarni_forward_free(tarni_forward *f);
/* Of its workspace, on devices of this class. */
size_t tarni_forward_bytes(const tarni_device_class *class, const tarni_spec *spec,
                           uint32_t n_rows_max, uint32_t n_logits_max);

/* Runs all layers; the state goes to each sequence's write slot, latents into its pages.
 * Returns 0, or the device's error number: then the write slots and the step's latent rows hold
 * nothing usable, read slots are untouched. A sequence whose logits come out non-finite is the
 * caller's to find. */
int tarni_forward_run(tarni_forward *f, const tarni_batch *batch);

#endif
