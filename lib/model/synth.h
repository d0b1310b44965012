/* synth.h - synthetic checkpoints: real shapes, names and dtypes, random weights.
 *
 * For measuring and testing; the text they give is noise, the arithmetic, memory and session state
 * are those of the real model. Every tensor is drawn from its own generator, keyed by (seed, tensor
 * name), so the same call writes the same bytes anywhere; tensors are streamed to disk one by one.
 */
#ifndef TARNI_SYNTH_H
#define TARNI_SYNTH_H

#include "weights.h"

/* "tiny", and "recall" with the shapes of the bundled model: for tests; "geo48": the 48B's session
 * to the byte with small experts, 2.9 GB; "moe1b": most bytes in experts, 1.5 GB; "48b": the real
 * shapes, 98 GB. NOT_FOUND lists them. */
tarn_status tarni_synth_preset(const char *name, tarni_spec *out, tarn_error *err);

typedef struct tarni_synth_options {
    uint64_t seed;
    bool dry_run; /* only counts */
    bool (*progress)(void *user, uint64_t done_bytes,
                     uint64_t all_bytes); /* may be NULL; false: CANCELLED */
    void *user;
    uint64_t shard_bytes; /* most tensor bytes in a file of several tensors; 0: 1 GiB */
} tarni_synth_options;

/* Writes config.json and model.safetensors, or shards with an index, into `dir`, made if
 * absent; EXISTS if it holds a config.json, model.safetensors or index already; NO_SPACE before the
 * first byte where the disk is too small. Files appear under their names only when complete,
 * config.json last; after an error those of this call are gone. */
tarn_status tarni_synth_write(const char *dir, const tarni_spec *spec,
                              const tarni_synth_options *options, const tarn_allocator *allocator,
                              uint64_t *n_parameters, uint64_t *n_bytes, tarn_error *err);

#endif
