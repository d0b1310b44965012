/* draw.h - the random numbers of one tensor, in order, bit for bit the same everywhere. */
#ifndef TARNI_DRAW_H
#define TARNI_DRAW_H

#include "weights.h"

typedef struct tarni_draw {
    uint64_t state[4];
    tarni_tensor_kind kind;
    tarnk_dtype dtype;
    float scale, offset;
} tarni_draw;

/* Keyed by (seed, tensor name). The scale follows from the tensor's part and the model's depth. */
void tarni_draw_init(tarni_draw *draw, uint64_t seed, const tarni_spec *spec,
                     const tarni_tensor *tensor);
/* Deviation and mean of a tensor's numbers, for who draws them otherwise. Of the gates' few, what
 * is about right. */
void tarni_draw_likeness(const tarni_spec *spec, const tarni_tensor *tensor, float *scale,
                         float *offset);
/* The next n items in the tensor's dtype, little-endian: 2n or 4n bytes. */
void tarni_draw_items(tarni_draw *draw, size_t n_items, uint8_t *out);

#endif
