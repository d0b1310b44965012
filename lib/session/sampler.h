/* sampler.h - from logits to the next id.
 *
 * Order: logit bias, repetition penalty, temperature, top-k, top-p over what top-k left, min-p
 * against the best. Equal probabilities are ordered by lowest id. The random number of a position
 * is a function of (seed, position) alone, so nothing of it needs to be carried along. */
#ifndef TARNI_SAMPLER_H
#define TARNI_SAMPLER_H

#include "bytes.h"
#include "tarn.h"

/* Working memory for one vocabulary; nothing is allocated in a draw. */
typedef struct tarni_sampler {
    tarn_allocator allocator;
    uint32_t vocab;
    float *work;     /* [vocab] */
    uint32_t *order; /* [vocab] heap of candidate ids */
    uint64_t *seen;  /* [vocab bits] */
} tarni_sampler;

tarn_status tarni_sampler_init(tarni_sampler *s, uint32_t vocab, const tarn_allocator *allocator,
                               tarn_error *err);
void tarni_sampler_fini(tarni_sampler *s);

void tarni_sampling_defaults(tarn_sampling *out); /* greedy */
/* INVALID naming field and value. */
tarn_status tarni_sampling_check(const tarn_sampling *p, uint32_t vocab, tarn_error *err);
bool tarni_sampling_equal(const tarn_sampling *a, const tarn_sampling *b);

/* The id for the token at `position` (0-based: the number of tokens fed before it). `logits` is
 * [vocab], finite but for -INFINITY; `tokens` are the ids fed so far. */
uint32_t tarni_sampler_draw(tarni_sampler *s, const tarn_sampling *p, const float *logits,
                            const uint32_t *tokens, size_t n_tokens, uint64_t position);

/* In [0, 1): 53 bits of Philox-4x32-10 with key `seed` and counter `position`. */
double tarni_sampler_uniform(uint64_t seed, uint64_t position);

/* The record a node keeps. Reading checks it as if it came from a caller: FORMAT (a newer one),
 * CORRUPT. */
void tarni_sampling_put(const tarn_sampling *p, tarni_writer *w);
tarn_status tarni_sampling_get(const void *data, size_t n_bytes, uint32_t vocab, tarn_sampling *out,
                               tarn_error *err);

#endif
