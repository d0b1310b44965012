/* model.h - an open checkpoint: config, tokenizer, chat format, weights, and its identity.
 *
 * The identity decides what a stored session may be resumed with. Its hard part is a fingerprint of
 * weights, config, tokenizer, state layout and stored dtypes; each has its own digest, so that a
 * refusal can name the part that differs. (The soft part, which rounding the device does, is the
 * ops table's `numerics` text and is kept with every node.) */
#ifndef TARNI_MODEL_H
#define TARNI_MODEL_H

#include "chat.h"
#include "layout.h"
#include "log.h"
#include "weights.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct tarni_model {
    tarn_allocator allocator;
    tarn_log log;
    char *dir;
    char *cache_dir; /* NULL: none */
    bool verify;     /* weights are summed afresh */
    bool is_shape;   /* no folder: `dir` names a preset */
    bool has_spec;   /* false: tokenizer only */
    tarni_spec spec;
    tarni_tokenizer *tokenizer; /* NULL if the folder has none */
    bool has_chat;
    tarni_chat chat;
    uint32_t stop_ids[TARNI_STOP_IDS_MAX];
    uint32_t n_stop_ids;
    pthread_mutex_t lock; /* of what follows: engines are opened by any thread */
    bool weights_open;
    tarni_weights weights; /* once they are open nothing of it changes */
    bool weights_summed;
    uint8_t weights_sum[32];
    atomic_uint n_engines; /* that are open */
} tarni_model;

/* cache_dir as in tarn_model_options. After an error *model holds nothing. */
tarn_status tarni_model_init(tarni_model *model, const char *dir, bool tokenizer_only, bool verify,
                             const char *cache_dir, const tarn_allocator *allocator,
                             const tarn_log *log, tarn_error *err);
/* A model without files: the shape of a preset, with random weights that a device makes. */
tarn_status tarni_model_init_shape(tarni_model *model, const char *preset,
                                   const tarn_allocator *allocator, const tarn_log *log,
                                   tarn_error *err);
void tarni_model_fini(tarni_model *model);

/* Maps the weights on first use. */
tarn_status tarni_model_need_weights(tarni_model *model, tarn_error *err);

bool tarni_model_is_stop(const tarni_model *model, uint32_t id);

#define TARNI_IDENTITY_BYTES 164

typedef struct tarni_identity {
    uint8_t fp[32];                       /* BLAKE2b-256 of the record below */
    uint8_t record[TARNI_IDENTITY_BYTES]; /* what a store keeps under fp */
} tarni_identity;

tarn_status tarni_model_identity(tarni_model *model, const tarni_layout *layout,
                                 tarni_identity *out, tarn_error *err);
/* MISMATCH naming the first part of a stored record that differs; FORMAT for a record that is none.
 * `what` names the session in the detail. */
tarn_status tarni_identity_explain(const tarni_identity *ours, const uint8_t *stored,
                                   size_t stored_bytes, const char *what, tarn_error *err);

#endif
