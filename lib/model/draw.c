/* draw.c - random weights that behave like a model's and equal themselves on every machine.
 *
 * Scales: a projection has standard deviation fan_in^-1/2, one that writes to the residual stream
 * 2 (2 layers)^-1/2 of that, the forget gate's second half of it, lm_head twice; norms are
 * 1 + 0.1 n, convolutions 0.5 n, the router's bias 0.02 n; the gates start as the published
 * initialisation, A in [1, 16] and dt log-uniform in [1e-3, 0.1]. Logits then have a standard
 * deviation of about 2 at any position.
 *
 * n is the sum of eight 16-bit uniforms, centred: near enough to a normal number (excess kurtosis
 * -0.15, cut at 4.9 deviations) and exact in integers, where Box-Muller would need log and cos,
 * which C libraries round differently. It takes two 64-bit draws a weight. For the few A_log and
 * dt_bias the logarithm and exponential are short series of our own, for the same reason; sqrt is
 * rounded correctly everywhere. */
#include "draw.h"

#include <math.h>
#include <sodium.h>
#include <string.h>

#define LN2 0.693147180559945309417

/* ---- xoshiro256++ ---------------------------------------------------------------------------- */

static uint64_t rotated(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

static inline uint64_t next(uint64_t s[4])
{
    uint64_t result = rotated(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotated(s[3], 45);
    return result;
}

/* Twice the centred sum of eight uniforms in 0..65535: even, within 524,280. */
static inline int32_t next_sum(uint64_t s[4])
{
    const uint64_t lanes = 0x0000FFFF0000FFFFu;
    uint64_t a = next(s), b = next(s);
    uint64_t two = (a & lanes) + (a >> 16 & lanes) + (b & lanes) + (b >> 16 & lanes);
    uint32_t sum = (uint32_t)two + (uint32_t)(two >> 32);
    return 2 * (int32_t)sum - 8 * 65535;
}

/* The standard deviation of next_sum. */
static double sum_deviation(void)
{
    return 2 * sqrt(8.0 * (65536.0 * 65536.0 - 1) / 12);
}

static double next_uniform(uint64_t s[4])
{
    return (double)(next(s) >> 11) * 0x1p-53;
}

/* ---- series ---------------------------------------------------------------------------------- */

/* log x for finite x > 0: x = 2^e m with m around 1, log m = 2 atanh((m - 1) / (m + 1)). */
static double log_series(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFu) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m /= 2;
        e++;
    }
    double t = (m - 1) / (m + 1), square = t * t, power = t, sum = 0;
    for (int k = 1; k <= 23; k += 2, power *= square)
        sum += power / k;
    return e * LN2 + 2 * sum;
}

/* exp x - 1 for |x| below 1. */
static double expm1_series(double x)
{
    double term = x, sum = 0;
    for (int k = 2; k <= 18; k++) {
        sum += term;
        term = term * x / k;
    }
    return sum;
}

/* exp x for |x| below 16. */
static double exp_series(double x)
{
    double y = 1 + expm1_series(x / 16);
    for (int i = 0; i < 4; i++)
        y *= y;
    return y;
}

static float next_a_log(uint64_t s[4])
{
    return (float)log_series(1 + 15 * next_uniform(s));
}

/* The inverse of softplus at dt: log(exp(dt) - 1). */
static float next_dt_bias(uint64_t s[4])
{
    double lowest = log_series(1e-3), span = log_series(100);
    double dt = exp_series(lowest + span * next_uniform(s));
    return (float)log_series(expm1_series(dt));
}

/* ---- one tensor ------------------------------------------------------------------------------ */

static double matrix_deviation(const tarni_spec *spec, const tarni_tensor *t)
{
    double gain = 1;
    if (t->to_residual)
        gain = 2 / sqrt(2.0 * spec->n_layers);
    else if (t->part == TARNI_PART_LM_HEAD)
        gain = 2;
    else if (t->part == TARNI_PART_KDA_F_B)
        gain = 0.5;
    return gain / sqrt((double)t->dims[1]);
}

static double deviation(const tarni_spec *spec, const tarni_tensor *t)
{
    switch (t->kind) {
    case TARNI_TENSOR_MATRIX:
        return matrix_deviation(spec, t);
    case TARNI_TENSOR_EMBED:
        return 1;
    case TARNI_TENSOR_NORM:
        return 0.1;
    case TARNI_TENSOR_CONV:
        return 0.5;
    case TARNI_TENSOR_ROUTER_BIAS:
        return 0.02;
    case TARNI_TENSOR_A_LOG:
    case TARNI_TENSOR_DT_BIAS:
        break;
    }
    return 0;
}

void tarni_draw_init(tarni_draw *draw, uint64_t seed, const tarni_spec *spec,
                     const tarni_tensor *tensor)
{
    uint8_t seed_bytes[8], key[32];
    crypto_generichash_state state;
    tarni_store_u64(seed_bytes, seed);
    crypto_generichash_init(&state, NULL, 0, sizeof key);
    crypto_generichash_update(&state, seed_bytes, sizeof seed_bytes);
    crypto_generichash_update(&state, (const uint8_t *)tensor->name, strlen(tensor->name));
    crypto_generichash_final(&state, key, sizeof key);
    for (int i = 0; i < 4; i++)
        draw->state[i] = tarni_load_u64(key + 8 * i);
    draw->kind = tensor->kind;
    draw->dtype = tensor->dtype;
    draw->scale = (float)(deviation(spec, tensor) / sum_deviation());
    draw->offset = tensor->kind == TARNI_TENSOR_NORM ? 1.0f : 0.0f;
}

void tarni_draw_likeness(const tarni_spec *spec, const tarni_tensor *tensor, float *scale,
                         float *offset)
{
    *scale = (float)deviation(spec, tensor);
    *offset = tensor->kind == TARNI_TENSOR_NORM ? 1.0f : 0.0f;
    if (tensor->kind == TARNI_TENSOR_A_LOG) { /* log of 1 to 16 */
        *scale = 0.6f;
        *offset = 2.0f;
    } else if (tensor->kind == TARNI_TENSOR_DT_BIAS) { /* nearly the log of 1e-3 to 0.1 */
        *scale = 1.33f;
        *offset = -4.6f;
    }
}

static float next_item(tarni_draw *draw)
{
    if (draw->kind == TARNI_TENSOR_A_LOG)
        return next_a_log(draw->state);
    if (draw->kind == TARNI_TENSOR_DT_BIAS)
        return next_dt_bias(draw->state);
    return (float)next_sum(draw->state) * draw->scale + draw->offset;
}

/* Round to nearest, ties to even; the draws are finite. */
static uint16_t bf16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

void tarni_draw_items(tarni_draw *draw, size_t n_items, uint8_t *out)
{
    tarni_draw d = *draw; /* in registers through the loop */
    for (size_t i = 0; i < n_items; i++) {
        float x = next_item(&d);
        uint32_t bits;
        if (d.dtype == TARNK_BF16) {
            tarni_store_u16(out + 2 * i, bf16_of(x));
        } else {
            memcpy(&bits, &x, sizeof bits);
            tarni_store_u32(out + 4 * i, bits);
        }
    }
    *draw = d;
}
