/* store_data.h - what a session of the published 48B model keeps, with values like those a model
 * makes: noise and zeros compress differently. */
#ifndef TARN_BENCH_STORE_DATA_H
#define TARN_BENCH_STORE_DATA_H

#include <stddef.h>
#include <stdint.h>

#define HEADS       640 /* 20 layers of 32 */
#define DIM         128
#define HEAD_FLOATS (DIM * DIM)
#define STATE_BYTES ((size_t)HEADS * HEAD_FLOATS * sizeof(float))

#define LATENT_LAYERS 7
#define LATENT_RANK   512
#define LATENT_DIM    576
#define PAGE_TOKENS   64
#define PAGE_BYTES    ((size_t)LATENT_LAYERS * PAGE_TOKENS * LATENT_DIM * 2)

/* Runs the delta rule for a few hundred tokens from random keys, values and gates. */
void make_state(float *state);
/* Pages of bf16 latents, [layer][token][576]: normed, with gains and biased channels; the last 64
 * of a row, the shared key part, are not normed. */
void make_latents(uint16_t *pages, size_t n_pages);

#endif
