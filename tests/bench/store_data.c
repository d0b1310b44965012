#include "store_data.h"

#include <math.h>
#include <string.h>

#define TOKENS 256
#define RUN    32 /* heads; the others are these, scaled */
#define MODES  48 /* directions the tokens of a text share */

static uint64_t random_state = 1;

static float uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 40) * 0x1p-24f;
}

static float normal(void)
{
    return sqrtf(-2 * logf(uniform() + 1e-7f)) * cosf(6.2831853f * uniform());
}

/* S <- diag(a) S, then S <- S + b k (v - S^T k)^T, with unit keys and per-channel decay. */
static void run_head(float *s)
{
    float decay[DIM], k[DIM], v[DIM], seen[DIM];
    for (int i = 0; i < DIM; i++)
        decay[i] = 0.9f + 0.1f * uniform();
    for (int t = 0; t < TOKENS; t++) {
        float norm = 0, beta = uniform();
        for (int i = 0; i < DIM; i++) {
            float x = normal();
            k[i] = x / (1 + expf(-x));
            norm += k[i] * k[i];
            v[i] = normal();
            seen[i] = 0;
        }
        for (int i = 0; i < DIM; i++) {
            k[i] /= sqrtf(norm);
            for (int j = 0; j < DIM; j++) {
                s[i * DIM + j] *= decay[i];
                seen[j] += s[i * DIM + j] * k[i];
            }
        }
        for (int i = 0; i < DIM; i++)
            for (int j = 0; j < DIM; j++)
                s[i * DIM + j] += beta * k[i] * (v[j] - seen[j]);
    }
}

/* A few heads are run, the others are those at another scale: as good for a coder of exponents. */
void make_state(float *state)
{
    for (int h = 0; h < HEADS; h++) {
        float *s = state + (size_t)h * HEAD_FLOATS;
        if (h < RUN) {
            run_head(s);
            continue;
        }
        float scale = expf(0.3f * normal());
        for (int i = 0; i < HEAD_FLOATS; i++)
            s[i] = state[(size_t)(h % RUN) * HEAD_FLOATS + (size_t)i] * scale;
    }
}

/* ---- latents -------------------------------------------------------------------------------- */

static uint16_t to_bf16(float x)
{
    uint32_t v;
    memcpy(&v, &x, sizeof v);
    return (uint16_t)((v + 0x7FFF + (v >> 16 & 1)) >> 16);
}

/* A row is a mix of the layer's directions, normed to 1 and multiplied by the layer's gains. */
static void make_row(const float *directions, const float *gains, uint16_t *row)
{
    float x[LATENT_DIM] = {0}, sum = 0;
    for (int m = 0; m < MODES; m++) {
        float weight = normal();
        for (int i = 0; i < LATENT_DIM; i++)
            x[i] += weight * directions[m * LATENT_DIM + i];
    }
    for (int i = 0; i < LATENT_RANK; i++)
        sum += x[i] * x[i];
    float norm = 1 / sqrtf(sum / LATENT_RANK + 1e-5f);
    for (int i = 0; i < LATENT_DIM; i++)
        row[i] = to_bf16(i < LATENT_RANK ? x[i] * norm * gains[i] : x[i] * gains[i]);
}

void make_latents(uint16_t *pages, size_t n_pages)
{
    static float directions[MODES * LATENT_DIM], gains[LATENT_DIM];
    for (int layer = 0; layer < LATENT_LAYERS; layer++) {
        for (int i = 0; i < MODES * LATENT_DIM; i++)
            directions[i] = normal() + (i < LATENT_DIM ? 0.5f : 0);
        for (int i = 0; i < LATENT_DIM; i++)
            gains[i] = expf(0.4f * normal());
        for (size_t page = 0; page < n_pages; page++)
            for (int t = 0; t < PAGE_TOKENS; t++)
                make_row(directions, gains,
                         pages + page * PAGE_BYTES / 2 +
                             ((size_t)layer * PAGE_TOKENS + (size_t)t) * LATENT_DIM);
    }
}
