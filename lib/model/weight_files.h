/* weight_files.h - what tarni_weights owns; between weights.c and digest.c. */
#ifndef TARNI_WEIGHT_FILES_H
#define TARNI_WEIGHT_FILES_H

#include "bytes.h"
#include "paths.h"
#include "safetensors.h"
#include "weights.h"

typedef struct tarni_weight_files {
    const tarn_allocator *allocator; /* borrowed */
    tarni_safetensors set;
    float *floats;         /* small vectors upcast, owned */
    tarnk_matrix *experts; /* w1, w3, w2 arrays of all layers, owned */
    tarni_shaped *shaped;  /* of every tensor, where there are no files; owned */
} tarni_weight_files;

#endif
