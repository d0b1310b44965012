/* shards.h - between safetensors.c (one file) and shards.c (a folder of them). */
#ifndef TARNI_SHARDS_H
#define TARNI_SHARDS_H

#include "safetensors.h"

/* Maps the file and appends its tensors, unsorted. Takes `path` over, also when it fails; what was
 * added before a failure stays in the set and goes with it. */
tarn_status tarni_safetensors_add(tarni_safetensors *set, char *path, tarn_error *err);

#endif
